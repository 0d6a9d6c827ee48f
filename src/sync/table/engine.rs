//! `SyncEngine`, the handle: records in and out, syncs, watching and control.

use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use super::builder::{SyncEngineBuilder, Syncing};
use super::change::Operation;
use super::collection::Collection;
use super::core::Core;
use super::event::{TableEventKind, TableEvents};
use super::handler::TableHandler;
use super::local::{LocalStore, Quarantined, RecordPage};
use super::options::Table;
use super::record::{LocalRecord, RecordKey, Row};
use super::remote::RemoteStore;
use super::thread::Home;
use super::write::{Wanted, Writer};
use crate::SyncVault;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::orchestrator::{Failure, FailureKind, Feature, SyncOrchestrator, SyncReport};
use crate::sync::{FeatureKey, ItemId};

/// Keeps tables on the device and at the server in step. Cheap to clone; every clone is the same engine.
///
/// A write is on the device when it returns, offline or not, and goes out through the vault's queue by itself. A pull brings what
/// others changed. When the last handle is gone, what runs is cut off, and nothing is lost by that: the next engine over the same
/// stores goes on there.
#[derive(Clone, Debug)]
pub struct SyncEngine {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) core: Arc<Core>,
    pub(super) syncing: Syncing,
    /// It is built anew when tables come and go.
    pub(super) orchestrator: RwLock<SyncOrchestrator>,
    /// One change of tables at a time.
    pub(super) changing: tokio::sync::Mutex<()>,
    pub(super) repaired: watch::Receiver<bool>,
    pub(super) tasks: Mutex<Vec<JoinHandle<()>>>,
    pub(super) hints: broadcast::Sender<FeatureKey>,
    /// The thread that it lives on, if it has one of its own.
    pub(super) home: OnceLock<Home>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        for task in self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

/// What a drain did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Changes that the server took.
    pub delivered: u64,
    /// Records that are still unsynced: on their way, or refused.
    pub remaining: u64,
}

impl SyncEngine {
    /// Options first, then [`build`](SyncEngineBuilder::build).
    pub fn builder(
        local: impl LocalStore,
        remote: impl RemoteStore,
        vault: &SyncVault,
    ) -> SyncEngineBuilder {
        SyncEngineBuilder::new(Arc::new(local), Arc::new(remote), vault.clone())
    }

    fn core(&self) -> &Arc<Core> {
        &self.shared.core
    }

    /// Writes a whole record, in place of what is there or as a new one. It is on the device when this returns, and queued; nothing
    /// waits for the network.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotOwner`] and [`ErrorKind::TooLarge`] by the guards, [`ErrorKind::NotFound`] for an unknown table,
    /// [`ErrorKind::Invalid`] for an id that cannot be, [`ErrorKind::Full`], [`ErrorKind::Closed`], storage errors. In each case
    /// nothing was written.
    pub async fn write(&self, table: &str, id: impl Into<ItemId>, row: Row) -> Result<()> {
        let key = RecordKey::new(table, id);
        let (core, key) = (self.core().clone(), key);
        self.at_home(async move { core.write(key, Wanted::Upsert(row), Writer::Engine).await })
            .await
    }

    /// Writes some fields of a record that is there, and touches no others, here and at the server.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), and [`ErrorKind::NotFound`] when there is no such record.
    pub async fn patch(&self, table: &str, id: impl Into<ItemId>, fields: Row) -> Result<()> {
        let key = RecordKey::new(table, id);
        let (core, key) = (self.core().clone(), key);
        self.at_home(async move { core.write(key, Wanted::Patch(fields), Writer::Engine).await })
            .await
    }

    /// Deletes a record, here and at the server.
    ///
    /// # Errors
    ///
    /// As [`patch`](Self::patch).
    pub async fn remove(&self, table: &str, id: impl Into<ItemId>) -> Result<()> {
        let key = RecordKey::new(table, id);
        let (core, key) = (self.core().clone(), key);
        self.at_home(async move { core.write(key, Wanted::Delete, Writer::Engine).await })
            .await
    }

    /// Queues a change of a row that the app writes itself, in a way of its own. The row of the local store is left alone.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub async fn push(
        &self,
        table: &str,
        id: impl Into<ItemId>,
        operation: Operation,
        row: Row,
    ) -> Result<()> {
        let wanted = match operation {
            Operation::Upsert => Wanted::Upsert(row),
            Operation::Patch => Wanted::Patch(row),
            Operation::Delete => Wanted::Delete,
        };
        let (core, key) = (self.core().clone(), RecordKey::new(table, id));
        self.at_home(async move { core.write(key, wanted, Writer::App).await })
            .await
    }

    /// A row as the device has it; nothing when there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for an unknown table, storage errors.
    pub async fn get(&self, table: &str, id: impl Into<ItemId>) -> Result<Option<Row>> {
        self.record(table, id)
            .await
            .map(|record| record.and_then(|record| record.row))
    }

    /// A record with what is known of it: whether it is in step, what is on its way, why it was refused. Deleted ones too.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn record(&self, table: &str, id: impl Into<ItemId>) -> Result<Option<LocalRecord>> {
        self.core().desk(table)?;
        let (core, key) = (self.core().clone(), RecordKey::new(table, id));
        self.at_home(async move {
            let page = core
                .local
                .read(&key.table, std::slice::from_ref(&key.id))
                .await?;
            Ok(page.records.into_iter().next())
        })
        .await
    }

    /// Rows as the device has them, by id, behind `after`, at most `limit`.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn list(
        &self,
        table: &str,
        after: Option<&ItemId>,
        limit: usize,
    ) -> Result<RecordPage> {
        self.core().desk(table)?;
        let (core, table, after) = (self.core().clone(), table.to_owned(), after.cloned());
        self.at_home(async move { core.local.list(&table, after.as_ref(), limit).await })
            .await
    }

    /// Records that the server is not known to have, by id, behind `after`, at most `limit`: on their way, or refused.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn unsynced(
        &self,
        table: &str,
        after: Option<&ItemId>,
        limit: usize,
    ) -> Result<RecordPage> {
        self.core().desk(table)?;
        let (core, table, after) = (self.core().clone(), table.to_owned(), after.cloned());
        self.at_home(async move { core.local.unsynced(&table, after.as_ref(), limit).await })
            .await
    }

    /// What was set aside of a table, newest first.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn quarantine(&self, table: &str, limit: usize) -> Result<Vec<Quarantined>> {
        self.core().desk(table)?;
        let (core, table) = (self.core().clone(), table.to_owned());
        self.at_home(async move { core.local.quarantine(&table, limit).await })
            .await
    }

    /// How many records the server is not known to have.
    ///
    /// # Errors
    ///
    /// Storage errors.
    pub async fn pending(&self) -> Result<u64> {
        let core = self.core().clone();
        self.at_home(async move { core.unsynced_count().await })
            .await
    }

    /// The records of a table as values of a type.
    pub fn collection<T: Serialize + DeserializeOwned>(
        &self,
        table: impl Into<String>,
    ) -> Collection<T> {
        Collection::new(self.clone(), table.into())
    }

    /// Gives up what the app changed of a record and the server does not have: it is as the server had it. A change that is on the
    /// wire may still arrive, and comes back with the next pull then.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn revert(&self, table: &str, id: impl Into<ItemId>) -> Result<()> {
        self.core().check_open()?;
        let desk = self.core().desk(table)?;
        let (core, key) = (self.core().clone(), RecordKey::new(table, id));
        self.at_home(async move { core.revert(&desk, &key).await })
            .await
    }

    /// Sends a change once more that the server refused, as it is, on the version that is known by now. Nothing happens to one that
    /// was not refused.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), and [`ErrorKind::Full`].
    pub async fn resend(&self, table: &str, id: impl Into<ItemId>) -> Result<()> {
        self.core().check_open()?;
        let desk = self.core().desk(table)?;
        let (core, key) = (self.core().clone(), RecordKey::new(table, id));
        self.at_home(async move { core.resend(&desk, &key).await })
            .await
    }

    /// Sends what can be sent now, and returns when its answers are dealt with. Being offline loses nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`] after a logout; storage errors.
    pub async fn drain(&self) -> Result<Drained> {
        self.core().check_open()?;
        self.wait_repaired().await?;
        let core = self.core().clone();
        let drained = self.at_home(async move { core.drain().await }).await?;
        let Drained {
            delivered,
            remaining,
        } = drained;
        self.core().hub.publish(
            None,
            TableEventKind::Drained {
                delivered,
                remaining,
            },
        );
        Ok(drained)
    }

    async fn wait_repaired(&self) -> Result<()> {
        let mut repaired = self.shared.repaired.clone();
        let over = repaired.wait_for(|is_repaired| *is_repaired).await;
        over.map(drop).map_err(|_| closed())
    }

    /// Pushes a table and pulls it, after the ones that it depends on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for an unknown table, [`ErrorKind::Closed`] after a logout. What fails in a sync is in the report.
    pub async fn pull(&self, table: &str) -> Result<SyncReport> {
        self.core().desk(table)?;
        let table = FeatureKey::new(table);
        self.run(|orchestrator| {
            let table = table.clone();
            async move { orchestrator.sync_feature(table).await }
        })
        .await
    }

    /// Pulls all tables, and pushes first: what is pushed needs no merge.
    ///
    /// # Errors
    ///
    /// As [`pull`](Self::pull).
    pub async fn pull_all(&self) -> Result<SyncReport> {
        self.run(|orchestrator| async move { orchestrator.run().await })
            .await
    }

    /// Drains the queue and pulls all tables.
    ///
    /// # Errors
    ///
    /// As [`pull`](Self::pull).
    pub async fn sync_all(&self) -> Result<SyncReport> {
        self.drain().await?;
        self.pull_all().await
    }

    /// Lists a table anew, from the start. What the app changed stays.
    ///
    /// # Errors
    ///
    /// As [`pull`](Self::pull).
    pub async fn resync(&self, table: &str) -> Result<SyncReport> {
        self.core().desk(table)?;
        let table = FeatureKey::new(table);
        self.run(|orchestrator| {
            let table = table.clone();
            async move { orchestrator.resync(table).await }
        })
        .await
    }

    /// Runs, and once more when a server forgot its cursor, or when the tables changed meanwhile.
    async fn run<F>(&self, start: impl Fn(SyncOrchestrator) -> F) -> Result<SyncReport>
    where
        F: Future<Output = Result<SyncReport>>,
    {
        self.core().check_open()?;
        self.wait_repaired().await?;
        let mut is_first = true;
        loop {
            let orchestrator = self.orchestrator();
            let report = start(orchestrator.clone()).await;
            let is_replaced = !self.orchestrator().is_same(&orchestrator);
            if is_replaced {
                self.core().check_open()?;
                continue;
            }
            let report = report?;
            let is_gone = report
                .failure()
                .is_some_and(|failure| failure.kind == FailureKind::StartOver);
            if !(is_gone && is_first) {
                return Ok(report);
            }
            is_first = false;
        }
    }

    fn orchestrator(&self) -> SyncOrchestrator {
        self.shared
            .orchestrator
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until every table was listed once. It starts nothing.
    ///
    /// # Errors
    ///
    /// The failure of the first table whose initial sync failed or was cancelled.
    pub async fn wait_initial(&self) -> Result<(), Failure> {
        loop {
            let orchestrator = self.orchestrator();
            let waited = orchestrator.wait_initial().await;
            let is_replaced = !self.orchestrator().is_same(&orchestrator);
            if !is_replaced || self.core().check_open().is_err() {
                return waited;
            }
        }
    }

    /// The orchestrator that syncs the tables now, for its states, its pause and its cancel. It is another one after a change of
    /// tables.
    #[must_use]
    pub fn syncs(&self) -> SyncOrchestrator {
        self.orchestrator()
    }

    /// The tables, by name.
    #[must_use]
    pub fn tables(&self) -> Vec<String> {
        let desks = self.core().all_desks();
        desks.iter().map(|desk| desk.table.name.clone()).collect()
    }

    /// Adds a table; false when it is there already. Nothing of it is synced yet: [`pull`](Self::pull) it. Syncs that run go on where
    /// they were.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a name that cannot be, or an unknown dependency; what [`LocalStore::open`] says.
    pub async fn add_table(&self, table: impl Into<Table>) -> Result<bool> {
        let (engine, table) = (self.clone(), table.into());
        self.at_home(async move { engine.add(table).await }).await
    }

    async fn add(&self, table: Table) -> Result<bool> {
        self.core().check_open()?;
        let _one = self.shared.changing.lock().await;
        if self.core().desk(&table.name).is_ok() {
            return Ok(false);
        }
        self.core()
            .open_tables(std::slice::from_ref(&table))
            .await?;
        let name = table.name.clone();
        self.core().insert_desk(table).await?;
        if let Err(error) = self.rebuild().await {
            self.core().remove_desk(&name);
            return Err(error);
        }
        self.core().sweep.notify_one();
        Ok(true)
    }

    /// Syncs a table no more; false when it was not there. What the device has of it stays, and what is queued goes out; a
    /// [`logout`](Self::logout) clears it too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when another table depends on it.
    pub async fn remove_table(&self, table: &str) -> Result<bool> {
        let (engine, table) = (self.clone(), table.to_owned());
        self.at_home(async move { engine.take_out(&table).await })
            .await
    }

    async fn take_out(&self, table: &str) -> Result<bool> {
        self.core().check_open()?;
        let _one = self.shared.changing.lock().await;
        let Some(desk) = self.core().remove_desk(table) else {
            return Ok(false);
        };
        if let Err(error) = self.rebuild().await {
            self.core().put_desk(desk);
            return Err(error);
        }
        Ok(true)
    }

    async fn rebuild(&self) -> Result<()> {
        let new = self
            .shared
            .syncing
            .orchestrator(&self.shared.core, &self.shared.hints)?;
        let forward = forward(self.core().clone(), &new);
        self.replace(new, forward).shutdown().await
    }

    /// Puts another orchestrator in the place of the one that is there, which it gives back.
    fn replace(&self, new: SyncOrchestrator, forward: JoinHandle<()>) -> SyncOrchestrator {
        let shared = &self.shared;
        let mut tasks = shared.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(forward);
        let mut orchestrator = shared
            .orchestrator
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *orchestrator, new)
    }

    /// All events from now on. Rows in them are masked.
    #[must_use]
    pub fn events(&self) -> TableEvents {
        self.core().hub.subscribe()
    }

    /// The vault that carries the changes.
    #[must_use]
    pub fn vault(&self) -> &SyncVault {
        &self.core().vault
    }
}

/// Passes the orchestrator's events on. Conflicts are told by the engine, with both sides.
pub(super) fn forward(core: Arc<Core>, orchestrator: &SyncOrchestrator) -> JoinHandle<()> {
    use crate::sync::SyncEventKind;
    let mut events = orchestrator.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if !matches!(event.kind, SyncEventKind::Conflict(_)) {
                core.hub.forward(event);
            }
        }
    })
}

pub(super) fn features(core: &Arc<Core>) -> Vec<Feature<TableHandler>> {
    let desks = core.all_desks();
    let features = desks.into_iter().map(|desk| {
        let (key, priority, depends_on) = (
            desk.table.name.clone(),
            desk.table.priority,
            desk.table.depends_on.clone(),
        );
        let core = core.clone();
        Feature::new(key, TableHandler { core, desk })
            .priority(priority)
            .depends_on(depends_on)
    });
    features.collect()
}

impl Core {
    pub(super) async fn drain_vault(&self) -> Result<()> {
        self.vault.process_queue().await.map(drop)
    }

    /// Until nothing more moves.
    async fn drain(&self) -> Result<Drained> {
        let before = self.tally.accepted();
        loop {
            let queued = self.tally.queued();
            self.drain_vault().await?;
            self.sweep_all().await?;
            if self.tally.queued() == queued {
                break;
            }
        }
        let remaining = self.unsynced_count().await?;
        let delivered = self.tally.accepted() - before;
        Ok(Drained {
            delivered,
            remaining,
        })
    }
}

fn closed() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the engine is closed, or its runtime is gone; build it again",
    )
}
