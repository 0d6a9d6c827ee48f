//! The dialect of a server: how a change becomes a request, what its answer means, and how changes are fetched.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::change::{Change, PushRequest, Pushed};
use super::record::{RecordKey, Row};
use super::version::Version;
use crate::action::Answer;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::sync::{Cursor, ItemId};

/// How long a pull waits for an origin that the vault spares.
const SPARED: Duration = Duration::from_secs(10);

/// What a verb of a [`RemoteStore`] returns.
pub type RemoteFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, RemoteError>> + Send + 'a>>;

/// The dialect of a server.
///
/// # The contract
///
/// 1. **[`request`](Self::request) and [`read_push`](Self::read_push) are pure**: the same change gives the same bytes, also after
///    a restart, and no answer is asked for anything. The vault sends what `request` gave, in the lane of its record, at least
///    once, with the change's idempotency key, until the server answers.
/// 2. **A change is conditional.** A server that has versions must be told the one that the change was made on
///    ([`Change::base_version`], [`Change::is_new`]) and refuse the change when it has another one. Where it has none, what is
///    pushed last wins there, and conflicts are found by pulls only.
/// 3. **A patch sends its fields, and only those.** A deletion of what is not there is [`Accepted`](Pushed::Accepted).
/// 4. **[`pull`](Self::pull) misses nothing.** Every change that was committed at the server, before or after the pull began, is in
///    this listing or in one that goes on at its [`resume`](RemotePage::resume). A cursor by `(updated_at, id)` must overlap:
///    rows with the same time, and transactions that began earlier and were committed later, come with the next page or again. A
///    row that comes twice changes nothing. Deletions come as tombstones.
/// 5. **The end is explicit**: `next` is nothing. A page that leads back to its own cursor is an error for the engine.
/// 6. **A row that cannot be read goes into [`RemotePage::damaged`]**, and the rest of the page is given all the same.
/// 7. Requests of `pull` and `fetch` go through the vault's own transport and credentials, best as
///    `vault.get(..).lane(..).delivery(Delivery::Never)` with a lane of their own for each table, and with `Cache-Control: no-store`:
///    an answer from a cache is older than what came before the call.
pub trait RemoteStore: Send + Sync + 'static {
    /// The request that carries a change. Called within a write of the app, so it waits for nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a change that the server cannot take: the write is refused.
    fn request(&self, change: &Change) -> Result<PushRequest>;

    /// What the answer to the request of `change` means. Its status is a 2xx or one of [`PushRequest::answers`]. Of a long answer
    /// only the start is kept, and [`is_truncated`](Answer::is_truncated) says so: tell what is certain by status and headers, and
    /// leave out the row.
    fn read_push(&self, change: &Change, answer: &Answer) -> Pushed;

    /// A page of a table's rows.
    fn pull<'a>(&'a self, request: PullRequest<'a>) -> RemoteFuture<'a, RemotePage>;

    /// One record as the server has it now: its row, or a tombstone; nothing = the server knows of none, which counts as deleted.
    /// It must be no older than any answer that came before the call.
    fn fetch<'a>(&'a self, key: &'a RecordKey) -> RemoteFuture<'a, Option<RemoteRow>>;
}

/// Which page is wanted.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PullRequest<'a> {
    /// Of which table.
    pub table: &'a str,
    /// Where it starts: [`next`](RemotePage::next) of the page before, or [`resume`](RemotePage::resume) of an earlier listing.
    /// Nothing = at the beginning.
    pub cursor: Option<&'a Cursor>,
    /// How many rows are wanted; more than the engine's `max_batch_size` is a failure.
    pub limit: usize,
    /// True for a full listing, which needs no tombstones; false for the changes since the cursor.
    pub is_full: bool,
}

impl<'a> PullRequest<'a> {
    /// The first page of a full listing.
    #[must_use]
    pub fn new(table: &'a str, limit: usize) -> Self {
        Self {
            table,
            cursor: None,
            limit,
            is_full: true,
        }
    }

    /// The page at a cursor.
    #[must_use]
    pub fn at(mut self, cursor: &'a Cursor) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// Of the changes since the cursor, tombstones among them.
    #[must_use]
    pub fn changes(mut self) -> Self {
        self.is_full = false;
        self
    }
}

/// A page of rows.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RemotePage {
    /// The rows, in the server's order.
    pub rows: Vec<RemoteRow>,
    /// Rows that could not be read.
    pub damaged: Vec<DamagedRow>,
    /// Where the next page starts; nothing = this is the last one.
    pub next: Option<Cursor>,
    /// Of the last page: where the next pull starts, by the word of the server. Nothing = there are no changes to ask for: the
    /// next pull lists everything again.
    pub resume: Option<Cursor>,
}

/// One record as the server has it.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct RemoteRow {
    /// Its id.
    pub id: ItemId,
    /// Its version; nothing when the server has none.
    pub version: Option<Version>,
    /// When it changed, by the server's clock; nothing when it does not tell.
    pub updated_at: Option<Timestamp>,
    /// The row; nothing = it was deleted.
    pub row: Option<Row>,
}

impl RemoteRow {
    /// A row that is there.
    pub fn new(id: impl Into<ItemId>, row: Row) -> Self {
        Self {
            row: Some(row),
            ..Self::deleted(id)
        }
    }

    /// A tombstone.
    pub fn deleted(id: impl Into<ItemId>) -> Self {
        Self {
            id: id.into(),
            version: None,
            updated_at: None,
            row: None,
        }
    }

    /// With its version.
    #[must_use]
    pub fn version(mut self, version: impl Into<Version>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// With the time of its change.
    #[must_use]
    pub fn updated_at(mut self, at: Timestamp) -> Self {
        self.updated_at = Some(at);
        self
    }
}

/// Without the row.
impl fmt::Debug for RemoteRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteRow")
            .field("id", &self.id)
            .field("version", &self.version)
            .field("is_deleted", &self.row.is_none())
            .finish_non_exhaustive()
    }
}

/// A row of the server that could not be read. It is set aside and told, and the rest goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedRow {
    /// Its id, if that could be read.
    pub id: Option<ItemId>,
    /// What is wrong with it, without its content.
    pub reason: String,
    /// It, as far as it can be shown: kept in the quarantine of the local store, never in an event.
    pub text: String,
}

impl DamagedRow {
    /// A row that could not be read.
    pub fn new(id: Option<ItemId>, reason: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            id,
            reason: reason.into(),
            text: text.into(),
        }
    }
}

/// Why a server could not be asked.
pub struct RemoteError {
    /// What helps.
    pub kind: RemoteErrorKind,
    text: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What helps against a [`RemoteError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoteErrorKind {
    /// Try again: not reached, overloaded, 5xx. With the wait that the server asked for, if it did.
    Retry {
        /// `Retry-After`.
        after: Option<Duration>,
    },
    /// Log in (401): the engine tells `AuthRequired` once, and the sync fails.
    AuthRequired,
    /// This user may not read it (403), or the server will not have the question. Trying again does not help.
    Refused,
    /// The server does not know the cursor any more (410): everything is listed anew.
    CursorGone,
    /// An answer that says 200 and is none: an error inside, an empty body where a page is due.
    Rejected,
}

impl RemoteError {
    /// An error. The text is shown to people and logged: no header values, no rows.
    pub fn new(kind: RemoteErrorKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            source: None,
        }
    }

    /// With its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteError")
            .field("kind", &self.kind)
            .field("text", &self.text)
            .finish_non_exhaustive()
    }
}

impl StdError for RemoteError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// What the vault could not send is tried again.
impl From<crate::Error> for RemoteError {
    fn from(error: crate::Error) -> Self {
        let kind = match error.kind() {
            crate::ErrorKind::Invalid
            | crate::ErrorKind::Closed
            | crate::ErrorKind::Unsupported => RemoteErrorKind::Refused,
            // The origin is spared: it is just coming back, say.
            crate::ErrorKind::OriginWaits => RemoteErrorKind::Retry {
                after: Some(SPARED),
            },
            _ => RemoteErrorKind::Retry { after: None },
        };
        Self::new(kind, error.to_string()).with_source(error)
    }
}
