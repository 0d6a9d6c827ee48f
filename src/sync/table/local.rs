//! Where records rest on the device: the trait, and the values it takes and gives.

#[cfg(feature = "sqlite")]
mod outbox;

#[cfg(feature = "sqlite")]
pub use outbox::QueuedInTransaction;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use super::record::{LocalRecord, RecordKey};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::request::RequestBuilder;
use crate::sync::{Checkpoint, CheckpointKey, ItemId};

/// What a verb of a [`LocalStore`] returns.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Where records rest on the device.
///
/// For each record a store keeps the row, if there is one, and the [`RecordMeta`](super::RecordMeta). It gives back what was
/// committed, and decides nothing. The contract suite (`syncvault::testing::local_contract`, feature `test-util`) checks all of
/// this.
///
/// # The contract
///
/// 1. **A commit is whole.** When [`commit`](Self::commit) returns `Ok`, everything in its step is there, and as durable as the
///    store is; when it returns `Err`, nothing of it is. A future that is dropped is one or the other.
/// 2. **Rows come back as they were written**: every JSON value, any text as an id (quotes, NUL, any script), numbers up to the
///    limits of 64 bits, 100 levels of nesting. A store over plain tables may drop fields for which there is no column, if it says
///    so at [`open`](Self::open).
/// 3. **[`Touched`] bounds a write.** A store with columns changes those that are named and no others.
/// 4. **Pages go by id**, compared byte by byte: behind `after`, at most `limit`. What is committed
///    between two pages may be in the later ones or not.
/// 5. **What is damaged does not stop the rest**: a record that cannot be read is named in [`RecordPage::damaged`].
/// 6. The engine writes one record at a time, and never while it reads it for a change: a store needs no locks of its own beyond
///    those for its connection. The app may read its rows at any time, and writes them through the engine.
pub trait LocalStore: Send + Sync + 'static {
    /// Prepares for tables: makes what is missing of the store's own, and checks what is the app's (the columns of its tables,
    /// say). Called once when the engine is built, and for each table that is added later.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a table that cannot hold what it should.
    fn open<'a>(&'a self, tables: &'a [TableSpec]) -> LocalFuture<'a, ()>;

    /// The records with these ids, tombstones among them. One that is not known is left out.
    fn read<'a>(&'a self, table: &'a str, ids: &'a [ItemId]) -> LocalFuture<'a, RecordPage>;

    /// Records whose row is there: what the app lists.
    fn list<'a>(
        &'a self,
        table: &'a str,
        after: Option<&'a ItemId>,
        limit: usize,
    ) -> LocalFuture<'a, RecordPage>;

    /// Records that are [unsynced](super::RecordMeta::is_unsynced).
    fn unsynced<'a>(
        &'a self,
        table: &'a str,
        after: Option<&'a ItemId>,
        limit: usize,
    ) -> LocalFuture<'a, RecordPage>;

    /// How many are.
    fn unsynced_count<'a>(&'a self, table: &'a str) -> LocalFuture<'a, u64>;

    /// Records whose [`seen`](super::RecordMeta::seen) is less than `generation`: after a full pull, the server has them no more.
    fn unseen<'a>(
        &'a self,
        table: &'a str,
        generation: u64,
        after: Option<&'a ItemId>,
        limit: usize,
    ) -> LocalFuture<'a, RecordPage>;

    /// Tombstones in step, [deleted](super::RecordMeta::deleted_at) before this time, at most `limit`: their retention is over.
    fn tombstones<'a>(
        &'a self,
        table: &'a str,
        before: Timestamp,
        limit: usize,
    ) -> LocalFuture<'a, RecordPage>;

    /// Commits a step.
    fn commit(&self, step: LocalStep) -> LocalFuture<'_, ()>;

    /// Commits a step and queues the request that goes with it.
    ///
    /// A store that shares its database with the vault ([`SqliteStore`](crate::store::SqliteStore)) does both in one transaction,
    /// with [`QueueRequest::enqueue_in`](QueueRequest), and after an `Err` neither is there.
    ///
    /// As provided, it commits first and queues then. The record says by then that it is unsynced, and under which key: after a
    /// crash between the two, the repair at open queues it. When queueing fails, the engine takes the step back.
    fn write<'a>(&'a self, step: LocalStep, request: QueueRequest) -> LocalFuture<'a, ()> {
        Box::pin(async move {
            self.commit(step).await?;
            request.enqueue().await
        })
    }

    /// What is known of a table; the default when nothing is.
    fn state<'a>(&'a self, table: &'a str) -> LocalFuture<'a, TableState>;

    /// The tables that it holds anything of, whether they were opened or not.
    fn tables(&self) -> LocalFuture<'_, Vec<String>>;

    /// A checkpoint that a step saved.
    fn checkpoint<'a>(&'a self, key: &'a CheckpointKey) -> LocalFuture<'a, Option<Checkpoint>>;

    /// Removes a checkpoint. One that is not there is fine.
    fn remove_checkpoint<'a>(&'a self, key: &'a CheckpointKey) -> LocalFuture<'a, ()>;

    /// Records that a step [holds](LocalStep::hold) for a user, of all tables, in any order, at most `limit`; their row is nothing.
    fn held<'a>(&'a self, user: &'a str, limit: usize) -> LocalFuture<'a, Vec<LocalRecord>>;

    /// Removes everything of a table, in one commit: rows, what is known of them, its state, its quarantine, and the checkpoints of
    /// the feature of that name, whosever they are. What is held for users stays.
    fn clear<'a>(&'a self, table: &'a str) -> LocalFuture<'a, ()>;

    /// What was set aside of a table, newest first, at most `limit`.
    fn quarantine<'a>(&'a self, table: &'a str, limit: usize) -> LocalFuture<'a, Vec<Quarantined>>;
}

/// What a store is told of a table when it opens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableSpec {
    /// The name.
    pub name: String,
}

impl TableSpec {
    /// A table.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

/// What is committed together.
#[derive(Clone, Debug, Default)]
#[must_use]
#[non_exhaustive]
pub struct LocalStep {
    /// Records to write, each at most once.
    pub writes: Vec<RecordWrite>,
    /// Records to forget, with all that is known of them.
    pub removes: Vec<RecordKey>,
    /// What is known of a table from now on.
    pub state: Option<(String, TableState)>,
    /// How far a sync is.
    pub checkpoint: Option<Checkpoint>,
    /// What is set aside.
    pub quarantine: Vec<Quarantined>,
    /// Unsynced records to keep for a user who logs out, apart from the tables: nobody sees them there. Only their
    /// [`RecordMeta`](super::RecordMeta) counts, which holds the row too.
    pub hold: Vec<(String, LocalRecord)>,
    /// Records that are no longer kept so.
    pub release: Vec<(String, RecordKey)>,
}

impl LocalStep {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a record.
    pub fn write(mut self, record: LocalRecord, touched: Touched) -> Self {
        self.writes.push(RecordWrite { record, touched });
        self
    }

    /// True when there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.removes.is_empty()
            && self.state.is_none()
            && self.checkpoint.is_none()
            && self.quarantine.is_empty()
            && self.hold.is_empty()
            && self.release.is_empty()
    }
}

/// One record to write.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RecordWrite {
    /// The record as it is from now on.
    pub record: LocalRecord,
    /// What of it is other than before.
    pub touched: Touched,
}

/// What a write changes of a record. [`RecordMeta`](super::RecordMeta) is written in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Touched {
    /// The whole row, or its absence: fields that it does not hold go.
    Row,
    /// These fields of a row that is there; one that the row does not hold goes.
    Fields(Vec<String>),
    /// Nothing of the row.
    Nothing,
}

/// What is known of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TableState {
    /// Whose rows these are; nothing before the first write or pull.
    #[serde(default)]
    pub user: Option<String>,
    /// The number of the newest full pull. Each record remembers the newest one that brought it.
    #[serde(default)]
    pub generation: u64,
    /// A full pull is under way: what it does not bring by its end, the server does not have.
    #[serde(default)]
    pub is_listing: bool,
}

/// A page of records.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecordPage {
    /// The records, by id.
    pub records: Vec<LocalRecord>,
    /// Ids of records in the range of this page that cannot be read. The engine sets them aside, and the next pull brings them
    /// again.
    pub damaged: Vec<ItemId>,
}

impl RecordPage {
    /// A page of these.
    #[must_use]
    pub fn new(records: Vec<LocalRecord>) -> Self {
        Self {
            records,
            damaged: Vec::new(),
        }
    }

    /// Where the next page starts.
    #[must_use]
    pub fn last(&self) -> Option<&ItemId> {
        let newest = self.records.last().map(|record| &record.key.id);
        newest.max(self.damaged.last())
    }
}

/// What was set aside.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantined {
    /// Of which table.
    pub table: String,
    /// The id, if it could be read.
    pub id: Option<ItemId>,
    /// What is wrong.
    pub reason: String,
    /// It, as far as it can be shown.
    pub text: String,
    /// When.
    pub at: Timestamp,
}

impl Quarantined {
    /// Something to set aside.
    pub fn new(table: impl Into<String>, id: Option<ItemId>, at: Timestamp) -> Self {
        Self {
            table: table.into(),
            id,
            reason: String::new(),
            text: String::new(),
            at,
        }
    }
}

/// Without its text.
impl fmt::Debug for Quarantined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quarantined")
            .field("table", &self.table)
            .field("id", &self.id)
            .field("reason", &self.reason)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// The request of a change, ready for the vault's queue: lane, key, tag and principal are set.
#[derive(Debug)]
#[must_use]
pub struct QueueRequest {
    request: RequestBuilder,
    #[cfg_attr(
        not(feature = "sqlite"),
        expect(dead_code, reason = "only a transaction tells the vault afterwards")
    )]
    vault: crate::SyncVault,
}

impl QueueRequest {
    pub(super) fn new(vault: crate::SyncVault, request: RequestBuilder) -> Self {
        Self { request, vault }
    }

    /// Queues it: it is on disk when this returns.
    ///
    /// # Errors
    ///
    /// As [`RequestBuilder::enqueue`].
    pub async fn enqueue(self) -> Result<()> {
        self.request.enqueue().await.map(drop)
    }
}
