//! WHERE it rests: the `Store` trait and the values it takes and gives.
//! A verb has happened on disk, whole, when it returns; or not at all.

mod bodies;
mod dir;
pub mod kv;
mod memory;
#[cfg(feature = "sled")]
mod sled;

pub use memory::{MemoryEngine, MemoryStore};
#[cfg(feature = "sled")]
pub use sled::{SledOptions, SledStore};

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use crate::action::{ActionId, Body, Counts, Lane, Ledger, Origin, Record, State, WireState};
use crate::clock::Timestamp;
use crate::decide::{Gate, Settlement};
use crate::error::Result;

/// What a verb of a [`Store`] returns.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A queue-level store: where actions rest between the app and the server.
///
/// # The contract
///
/// 1. **Durable on return.** When a verb returns `Ok`, its whole effect survives kill -9 and power loss; when it
///    returns `Err`, it had no effect, or the store is poisoned and every later verb fails too.
/// 2. **Atomic.** All parts of one call become visible together: results, ledger, counts, gates, next due time.
/// 3. **The lane is what is leased.** In a lane, `seq` gives the order. A queued action is leased only when it is the
///    first of its lane, no other action of that lane is in flight, and nothing blocks the lane.
/// 4. **Fencing.** A lease is the pair (attempt, epoch) in the record. A settle with another pair changes nothing.
/// 5. **Kept, never scanned.** Counts and ledger cost the same at one and at a million actions.
/// 6. **Dropping a returned future** never leaves half an effect: all of it happens, or nothing.
///
/// `now` is always the vault's clock. A store that several machines share uses its own clock for lease deadlines.
/// The contract suite (`syncvault::testing::contract`, feature `test-util`) checks all of this.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Starts a new run: raises the epoch, takes back the leases of dead runs (their actions are queued again, with
    /// wire state [`MaybeSent`](WireState::MaybeSent) unless the server had answered), and tells what is there.
    /// An earlier run that is still alive is fenced off by this.
    fn open(&self, now: Timestamp) -> StoreFuture<'_, Opened>;

    /// Adds actions, in the order given. Each gets its own result; one that is refused does not stop the others.
    fn append(&self, batch: Vec<Append>) -> StoreFuture<'_, Vec<Appended>>;

    /// The worker's verb: settles attempts, sets gates, then leases what is ready, all in one commit.
    fn advance(&self, step: Advance) -> StoreFuture<'_, Advanced>;

    /// Changes that people and apps ask for.
    fn amend(&self, change: Amend) -> StoreFuture<'_, Amended>;

    /// One action, pending, dead or settled.
    fn get(&self, find: Find) -> StoreFuture<'_, Option<Record>>;

    /// The body of an action's request.
    fn body(&self, id: ActionId) -> StoreFuture<'_, Option<Body>>;

    /// What is kept of an action's last answer, as the vault encoded it.
    fn answer(&self, id: ActionId) -> StoreFuture<'_, Option<Bytes>>;

    /// A page of records.
    fn page(&self, query: Query) -> StoreFuture<'_, Page>;

    /// Counts and ledger, without a scan.
    fn totals(&self) -> StoreFuture<'_, Totals>;

    /// What is in one lane, without a scan.
    fn lane(&self, lane: Lane) -> StoreFuture<'_, LaneTotals>;

    /// Ends the run: everything is on disk and the directory is unlocked when it returns. Later verbs fail with
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed). Closing twice is fine.
    fn close(&self) -> StoreFuture<'_, ()>;
}

/// What [`Store::open`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The number of this run, higher than all before.
    pub epoch: u64,
    /// Counts and ledger.
    pub totals: Totals,
    /// True when the app paused the vault.
    pub is_paused: bool,
    /// Every gate that is kept.
    pub gates: Vec<Gate>,
    /// Actions whose attempt a crash cut off.
    pub reclaimed: Vec<ActionId>,
    /// False when the ledger that was found does not add up: something was lost without a name.
    pub is_balanced: bool,
}

impl Default for Opened {
    fn default() -> Self {
        Self {
            epoch: 0,
            totals: Totals::default(),
            is_paused: false,
            gates: Vec::new(),
            reclaimed: Vec::new(),
            is_balanced: true,
        }
    }
}

/// Counts and ledger, of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Grows with every commit of this run: of two, the one with the larger number is newer.
    pub commit: u64,
    /// What is there now.
    pub counts: Counts,
    /// Where everything went.
    pub ledger: Ledger,
}

/// What one lane holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneTotals {
    /// Queued or in flight.
    pub pending: u64,
    /// In flight, a part of `pending`.
    pub in_flight: u64,
    /// In flight since they were added, a part of `in_flight`: direct sends, which stand in nobody's way.
    pub direct: u64,
    /// The first unsettled action.
    pub head: Option<ActionId>,
    /// The dead letter that blocks the lane.
    pub blocked_by: Option<ActionId>,
}

/// One action to add.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Append {
    /// The action, queued; the store gives `seq` and `revision`.
    pub record: Record,
    /// Its body.
    pub body: Body,
    /// May it be leased at once?
    pub direct: Direct,
    /// What the queue may hold.
    pub limits: Limits,
    /// How long the key of a settled action is remembered.
    pub key_retention: Duration,
    /// The vault's clock.
    pub now: Timestamp,
}

impl Append {
    /// An action to queue, with the default limits and retention.
    #[must_use]
    pub fn new(record: Record, body: impl Into<Body>, now: Timestamp) -> Self {
        let key_retention = Retention::default().age;
        let limits = Limits::default();
        Self {
            record,
            body: body.into(),
            direct: Direct::No,
            limits,
            key_retention,
            now,
        }
    }
}

/// May an action be leased in the call that adds it?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Direct {
    /// No: it is queued.
    No,
    /// Yes, if its lane holds nothing at all and its gates are open.
    Alone,
    /// Yes, if all that its lane holds are other direct sends in flight, and its gates are open.
    SideBySide,
}

/// What the queue may hold. Adding beyond it is refused; nothing is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Pending actions and dead letters together.
    pub actions_max: u64,
    /// Bytes of bodies and request heads, of pending actions and dead letters together.
    pub bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            actions_max: 1_000_000,
            bytes_max: 1024 * 1024 * 1024,
        }
    }
}

/// What became of one [`Append`].
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "moved once, from the store to its caller"
)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "one or a few live at a time, and a record is what callers want"
)]
pub enum Appended {
    /// It is queued.
    Queued {
        /// The record as stored.
        record: Record,
        /// The action that it superseded by its coalescing key.
        superseded: Option<Record>,
    },
    /// It is in flight, and the caller holds the lease.
    Leased {
        /// The record as stored.
        record: Record,
    },
    /// The key is known for the same request: this is the action that has it. Nothing was added.
    Known {
        /// That action.
        record: Record,
    },
    /// The key is known for another request. Nothing was added.
    Conflict {
        /// The action that has the key.
        id: ActionId,
    },
    /// A limit is reached. Nothing was added.
    Full {
        /// Which one, in words.
        limit: String,
    },
}

/// One step of a worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Advance {
    /// Results of attempts.
    pub settle: Vec<Settle>,
    /// Gates to set, by their key.
    pub gates: Vec<Gate>,
    /// What to lease after that; nothing = lease nothing.
    pub lease: Option<Lease>,
    /// What to forget of settled actions.
    pub retention: Retention,
    /// The vault's clock.
    pub now: Timestamp,
}

impl Advance {
    /// A step that does nothing yet.
    #[must_use]
    pub fn new(now: Timestamp, retention: Retention) -> Self {
        Self {
            settle: Vec::new(),
            gates: Vec::new(),
            lease: None,
            retention,
            now,
        }
    }
}

/// How much is kept of settled actions, oldest out first. Each `advance` removes a bounded number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// For how long.
    pub age: Duration,
    /// How many.
    pub count: u64,
    /// Bytes of their answers together.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(24 * 60 * 60),
            count: 100_000,
            bytes: 64 * 1024 * 1024,
        }
    }
}

/// What to lease.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Lease {
    /// At most so many actions.
    pub slots: usize,
    /// Tighter limits for some origins: at most so many more of each.
    pub origin_slots: Vec<(Origin, usize)>,
    /// Origins whose gate counts as open for this lease, whatever it says.
    pub forced: Vec<Origin>,
}

/// The result of one attempt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settle {
    /// The action.
    pub id: ActionId,
    /// The attempt that this is the result of, as leased.
    pub attempt: u32,
    /// The run that leased it.
    pub epoch: u64,
    /// What came of it.
    pub result: Settlement,
    /// What the server may have seen now.
    pub wire: WireState,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// What went wrong, in words without any content of the request.
    pub error: Option<String>,
    /// What is kept of the answer, encoded by the vault.
    pub answer: Option<Bytes>,
}

impl Settle {
    /// The result of the attempt that `record` is in flight with; nothing when it is not in flight.
    #[must_use]
    pub fn of(record: &Record, result: Settlement, wire: WireState) -> Option<Self> {
        let State::InFlight { attempt, epoch } = record.state else {
            return None;
        };
        let id = record.id;
        Some(Self {
            id,
            attempt,
            epoch,
            result,
            wire,
            status: None,
            error: None,
            answer: None,
        })
    }
}

/// What [`Store::advance`] did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Advanced {
    /// One for each [`Settle`], in order: the record after it, or nothing when its lease was no longer valid.
    pub settled: Vec<Option<Record>>,
    /// The new leases: record (in flight) and body.
    pub leased: Vec<Leased>,
    /// Actions that expired on the way.
    pub expired: Vec<Record>,
    /// The earliest time at which something can be leased, gates included. Nothing when time alone cannot help.
    pub next_due: Option<Timestamp>,
    /// The earliest time at which a queued action expires.
    pub next_expiry: Option<Timestamp>,
    /// Counts and ledger after it.
    pub totals: Totals,
}

/// A leased action.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Leased {
    /// The record, in flight: attempt and epoch are in its state.
    pub record: Record,
    /// The wire state before this attempt: the record on disk already counts the attempt as possibly sent.
    pub wire_before: WireState,
    /// Its body.
    pub body: Body,
}

impl Leased {
    /// A lease of `record`, which is in flight.
    #[must_use]
    pub fn new(record: Record, wire_before: WireState, body: Body) -> Self {
        Self {
            record,
            wire_before,
            body,
        }
    }
}

/// A change that a person or an app asks for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Amend {
    /// Take a queued action back.
    Cancel {
        /// Which.
        id: ActionId,
        /// The vault's clock.
        now: Timestamp,
    },
    /// Send a dead letter back: to the end of its lane, with the same key and body, counted attempts at zero.
    Requeue {
        /// Which.
        id: ActionId,
        /// The vault's clock.
        now: Timestamp,
    },
    /// Forget a dead letter.
    Discard {
        /// Which.
        id: ActionId,
    },
    /// Cancel everything that is queued, at most `limit` actions in this call.
    Clear {
        /// At most so many.
        limit: usize,
        /// The vault's clock.
        now: Timestamp,
    },
    /// Remember that the app paused or resumed the vault.
    Pause {
        /// Paused or not.
        paused: bool,
    },
    /// Keep this answer with a settled action.
    KeepAnswer {
        /// Which.
        id: ActionId,
        /// The answer, encoded by the vault.
        answer: Bytes,
    },
    /// Let no queued head wait longer than `until`, unless the app itself set its time: the clock went back.
    Hasten {
        /// The latest due time.
        until: Timestamp,
    },
}

/// What became of an [`Amend`].
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "moved once, from the store to its caller"
)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "one or a few live at a time, and a record is what callers want"
)]
pub enum Amended {
    /// It was done; these records are after the change (none for pause and the like).
    Done(Vec<Record>),
    /// There is no such action.
    Unknown,
    /// The action's state does not allow it; this is the record as it is.
    NotNow(Record),
}

/// How to find one action.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Find {
    /// By its id.
    Id(ActionId),
    /// By the caller's idempotency key.
    Key(String),
}

/// Which records a page holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Query {
    /// Which part of the store.
    pub part: Part,
    /// After this cursor; nothing = from the start.
    pub after: Option<Cursor>,
    /// At most so many records, 1 to [`Query::LIMIT_MAX`].
    pub limit: usize,
}

impl Query {
    /// The largest page.
    pub const LIMIT_MAX: usize = 1000;

    /// The first page of a part.
    #[must_use]
    pub fn first(part: Part, limit: usize) -> Self {
        Self {
            part,
            after: None,
            limit,
        }
    }
}

/// A part of the store that can be paged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// Queued and in flight: lane by lane, each in its order.
    Pending,
    /// Queued and in flight of one lane, in order.
    Lane(Lane),
    /// Dead letters, oldest first.
    Dead,
    /// Settled and kept, oldest first.
    Settled,
}

/// Where a page ended. Opaque; good for the store that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub Bytes);

/// A page of records.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Page {
    /// The records.
    pub records: Vec<Record>,
    /// Where to go on; nothing = this was the last page.
    pub next: Option<Cursor>,
}

/// Implements [`Store`] for a struct by its field `store`.
macro_rules! delegate_store {
    ($name:ty) => {
        impl Store for $name {
            fn open(&self, now: Timestamp) -> StoreFuture<'_, Opened> {
                self.store.open(now)
            }

            fn append(&self, batch: Vec<Append>) -> StoreFuture<'_, Vec<Appended>> {
                self.store.append(batch)
            }

            fn advance(&self, step: Advance) -> StoreFuture<'_, Advanced> {
                self.store.advance(step)
            }

            fn amend(&self, change: Amend) -> StoreFuture<'_, Amended> {
                self.store.amend(change)
            }

            fn get(&self, find: Find) -> StoreFuture<'_, Option<Record>> {
                self.store.get(find)
            }

            fn body(&self, id: ActionId) -> StoreFuture<'_, Option<Body>> {
                self.store.body(id)
            }

            fn answer(&self, id: ActionId) -> StoreFuture<'_, Option<Bytes>> {
                self.store.answer(id)
            }

            fn page(&self, query: Query) -> StoreFuture<'_, Page> {
                self.store.page(query)
            }

            fn totals(&self) -> StoreFuture<'_, Totals> {
                self.store.totals()
            }

            fn lane(&self, lane: Lane) -> StoreFuture<'_, LaneTotals> {
                self.store.lane(lane)
            }

            fn close(&self) -> StoreFuture<'_, ()> {
                self.store.close()
            }
        }
    };
}
use delegate_store;
