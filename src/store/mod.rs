//! WHERE it rests: the `Store` trait and the values it takes and gives.
//! A verb has happened on disk, whole, when it returns; or not at all.

mod appending;
#[cfg(any(feature = "sled", feature = "sqlite"))]
mod ballast;
mod batches;
#[cfg_attr(
    not(any(feature = "fjall", feature = "sled")),
    allow(dead_code, reason = "only stores on disk make such files")
)]
mod bodies;
mod caching;
#[cfg_attr(
    not(any(feature = "fjall", feature = "sled", feature = "sqlite")),
    allow(dead_code, reason = "only stores on disk can be damaged")
)]
mod carve;
mod change;
#[cfg(feature = "encrypt")]
pub mod crypt;
#[cfg_attr(
    not(all(feature = "fjall", feature = "sled", feature = "sqlite")),
    allow(dead_code, reason = "only stores on disk have a directory")
)]
mod dir;
#[cfg(test)]
mod disk_tests;
mod examination;
#[cfg(feature = "fjall")]
mod fjall;
#[cfg(feature = "sled")]
mod journal;
mod kept_keyring;
pub mod kv;
#[cfg_attr(
    not(any(feature = "fjall", feature = "sled", feature = "sqlite")),
    allow(dead_code, reason = "only stores on disk can lose what they held")
)]
mod mark;
mod memory;
mod reading;
mod report;
mod restoring;
#[cfg(feature = "sled")]
mod sled;
mod snapshot;
#[cfg(feature = "sqlite")]
mod sqlite;
mod step;

pub use appending::{Append, Appended, Direct, LanePlace, Limits, Over, PARENTS_MAX, Then, Unfit};
pub use batches::Batches;
pub use caching::{
    CacheChange, CacheEntry, CacheKey, CacheTarget, CacheTotals, Cached, CachedHead,
};
pub use change::{Amend, Amended};
pub(crate) use examination::Examiner;
pub use examination::{Examination, Finding, Problem, Progress, Severity};
#[cfg(feature = "fjall")]
pub(crate) use fjall::examine_fjall;
#[cfg(feature = "fjall")]
pub use fjall::{FjallOptions, FjallStore};
pub use kept_keyring::KeptKeyring;
pub use memory::{MemoryEngine, MemoryStore};
pub use reading::{Cursor, Find, Page, Part, Query};
pub use report::{OpenReport, StoreRegressed};
pub use restoring::{Restore, RestoreEnd, Restored};
#[cfg(feature = "sled")]
pub(crate) use sled::examine_sled;
#[cfg(feature = "sled")]
pub use sled::{SledOptions, SledStore};
pub(crate) use snapshot::blocking;
pub use snapshot::{Chunks, Snapshot, Source};
#[cfg(feature = "sqlite")]
pub(crate) use sqlite::examine_sqlite;
#[cfg(feature = "sqlite")]
pub use sqlite::{Access, SqliteOptions, SqliteStore};
pub use step::{Advance, Advanced, Fill, Lease, Leased, Retention, Settle, Urgency, Whose};

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::action::{ActionId, Body, BodyFile, Counts, Lane, Ledger, Record};
use crate::clock::Timestamp;
use crate::decide::Gate;
use crate::error::Result;

/// What a verb of a [`Store`] returns.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// What [`Store::changed`] returns.
pub type Changed<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A queue-level store: where actions rest between the app and the server.
///
/// # The contract
///
/// 1. **Durable on return.** When a verb returns `Ok`, its whole effect survives kill -9 and power loss; when it
///    returns `Err`, it had no effect, or the store is poisoned and every later verb fails too.
/// 2. **Atomic.** All parts of one call become visible together: results, ledger, counts, gates, next due time.
/// 3. **The lane is what is leased.** In a lane, `seq` gives the order. A queued action is leased only when it is the
///    first of its lane, or of the run at its head where a [batch](Lease::batches) was asked for, no other action of that
///    lane is in flight, and nothing blocks the lane.
/// 4. **Fencing.** A lease is the pair (attempt, epoch) in the record. A settle with another pair changes nothing.
/// 5. **Kept, never scanned.** Counts and ledger cost the same at one and at a million actions.
/// 6. **Dropping a returned future** never leaves half an effect: all of it happens, or nothing. A caller that drops an
///    `advance` or a direct append may leave a lease that nobody settles; the next `open` takes it back. So the vault
///    never drops them.
/// 7. **Fair.** Among ready lanes of one priority, the one that waits longest goes first; a lane that was served waits
///    its turn. Up to a millisecond, the order among lanes is the store's own.
/// 8. **Sealed under the keyring that is kept.** Values that were sealed under another revision of it are refused with
///    [`ErrorKind::WrongKey`](crate::ErrorKind::WrongKey), in the same commit that would have taken them; nothing has
///    changed then, and snapshots stay. So no key goes while somebody still seals with it.
///
/// 9. **Children wait for their parents.** An action with [`parents`](Record::parents) is leased only when all of them are delivered
///    and what it [`needs`](Record::needs) of their answers is filled in; until then its lane waits at its place. The end of a parent, its
///    answer and the word that its children are to be looked at are one commit. When a parent comes to any other end, its children become
///    dead letters ([`ParentDead`](crate::DeadReason::ParentDead)); when it is requeued, they are too. A child stands behind its parents in the
///    order of the queue. An answer that a child needs is kept as long as it does. Each step looks at a bounded number of children.
///
/// The order of calls is: `open`, then the other verbs, then `close`. A second `open` on a live store starts a new run.
///
/// `now` is always the vault's clock. A store that several machines share uses its own clock for lease deadlines.
/// The contract suite (`syncvault::testing::contract`, feature `test-util`) checks all of this.
pub trait Store: Any + fmt::Debug + Send + Sync {
    /// Starts a new run: raises the epoch, takes back the leases of dead runs (their actions are queued again, with
    /// wire state [`MaybeSent`](crate::WireState::MaybeSent) unless the server had answered), and tells what is there.
    /// An earlier run that is still alive is fenced off by this, unless processes share the store: then runs of other
    /// processes go on.
    fn open(&self, now: Timestamp) -> StoreFuture<'_, Opened>;

    /// Adds actions, in the order given. Each gets its own result; one that is refused does not stop the others.
    /// A known key is told before a full queue.
    fn append(&self, batch: Vec<Append>) -> StoreFuture<'_, Vec<Appended>>;

    /// The worker's verb: settles attempts, sets gates, lets expire what is past its time (a bounded number), then
    /// leases what is ready, all in one commit. A pause does not stop it: the caller asks for no lease while paused.
    fn advance(&self, step: Advance) -> StoreFuture<'_, Advanced>;

    /// Changes that people and apps ask for.
    fn amend(&self, change: Amend) -> StoreFuture<'_, Amended>;

    /// Puts actions back as another store held them, in parts, with ids, places, states, attempts, bodies and answers; what
    /// was in flight is queued, with wire state [`MaybeSent`](crate::WireState::MaybeSent). Only a store that never held an
    /// action takes them. An action that is there already is left alone: after a crash, all parts come again. From the first
    /// part to the [end](Restore::end), `append` and `advance` fail with
    /// [`ErrorKind::WrongState`](crate::ErrorKind::WrongState).
    ///
    /// As provided, it fails with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    fn restore(&self, _restore: Restore) -> StoreFuture<'_, ()> {
        let text = "this store cannot put actions back";
        let error = crate::Error::new(crate::ErrorKind::Unsupported, text);
        Box::pin(std::future::ready(Err(error)))
    }

    /// One action, pending, dead or settled.
    fn get(&self, find: Find) -> StoreFuture<'_, Option<Record>>;

    /// The body of an action's request, as long as the action is pending or dead.
    fn body(&self, id: ActionId) -> StoreFuture<'_, Option<Body>>;

    /// What is kept of an action's last answer, as the vault encoded it.
    fn answer(&self, id: ActionId) -> StoreFuture<'_, Option<Bytes>>;

    /// A page of records. A limit outside 1 to [`Query::LIMIT_MAX`] is taken as the nearest one inside.
    fn page(&self, query: Query) -> StoreFuture<'_, Page>;

    /// Takes a body that is not in memory, for an action with this id that is appended later. The source is copied, so
    /// that nothing that happens to it later matters; a file is durable when this returns, its name when the append
    /// does. What is small comes back as bytes.
    ///
    /// As provided, it reads all into memory and refuses more than 16 MiB: for stores that keep no files.
    fn snapshot(&self, _id: ActionId, source: Source) -> StoreFuture<'_, Snapshot> {
        Box::pin(snapshot::blocking(move || snapshot::in_memory(source)))
    }

    /// Reads a file of a body that this store gave, from its start. Fails with
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) when it is gone or has another length; the reader checks the
    /// checksum.
    ///
    /// As provided, it reads the file at its path.
    fn chunks(&self, file: BodyFile) -> StoreFuture<'_, Chunks> {
        Box::pin(snapshot::file_chunks(file))
    }

    /// Counts and ledger, without a scan.
    fn totals(&self) -> StoreFuture<'_, Totals>;

    /// What is in one lane, without a scan.
    fn lane(&self, lane: Lane) -> StoreFuture<'_, LaneTotals>;

    /// The keyring of a sealed vault, as it was given; nothing for a plain one. Works before `open` too.
    fn keyring(&self) -> StoreFuture<'_, Option<KeptKeyring>>;

    /// Keeps a keyring in place of the one with the revision `before`, nothing = in place of none. Its revision; nothing when
    /// another one is there, set by another process say: then nothing has changed. What was before is overwritten as far as
    /// the medium lets us: that is how keys are destroyed. Works before `open` too.
    ///
    /// From then on, what was sealed under another revision is refused: see [`Append::keyring`].
    fn set_keyring(&self, before: Option<u64>, keyring: Bytes) -> StoreFuture<'_, Option<u64>>;

    /// A note that was kept under this name; nothing when there is none. Notes are small values of what is built on the
    /// vault: how far a sync is, say. They are no actions: neither counted nor in the ledger.
    ///
    /// As provided, it fails with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    fn note(&self, _name: &str) -> StoreFuture<'_, Option<Bytes>> {
        Box::pin(std::future::ready(Err(no_notes())))
    }

    /// Keeps a note in place of the one before of that name, or removes it. One longer than [`NOTE_BYTES_MAX`] is refused
    /// with [`ErrorKind::Invalid`](crate::ErrorKind::Invalid).
    ///
    /// As provided, it fails with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    fn set_note(&self, _name: &str, _note: Option<Bytes>) -> StoreFuture<'_, ()> {
        Box::pin(std::future::ready(Err(no_notes())))
    }

    /// The cached answers to a target. Cached answers are no actions: neither counted nor in the ledger, and one that cannot be
    /// read is dropped. [Forgetting](Amend::Forget) a principal removes its own.
    ///
    /// As provided, this and the other three verbs of the cache fail with
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    fn cached(&self, _target: CacheTarget) -> StoreFuture<'_, Vec<CachedHead>> {
        Box::pin(std::future::ready(Err(no_cache())))
    }

    /// The body of a cached answer; nothing when it is gone.
    fn cached_body(&self, _key: CacheKey) -> StoreFuture<'_, Option<Bytes>> {
        Box::pin(std::future::ready(Err(no_cache())))
    }

    /// Changes what is cached. A head over [`CacheEntry::HEAD_BYTES_MAX`] is refused with
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid).
    fn cache(&self, _change: CacheChange) -> StoreFuture<'_, Cached> {
        Box::pin(std::future::ready(Err(no_cache())))
    }

    /// How much is cached. Kept, not scanned.
    fn cache_totals(&self) -> StoreFuture<'_, CacheTotals> {
        Box::pin(std::future::ready(Err(no_cache())))
    }

    /// Ends the run: everything is on disk and the directory is unlocked when it returns. Later verbs fail with
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed). Closing twice is fine.
    fn close(&self) -> StoreFuture<'_, ()>;

    /// Ends when somebody else may have changed what is stored, another process say: an `advance` is then worth its while.
    /// Dropping it changes nothing. As provided it never ends: nobody else writes to the store.
    fn changed(&self) -> Changed<'_> {
        Box::pin(std::future::pending())
    }
}

/// How long a [note](Store::set_note) may be. Every store takes that much.
pub const NOTE_BYTES_MAX: usize = 4096;

fn no_notes() -> crate::Error {
    let text = "this store keeps no notes; use one of the crate's stores, or keep them elsewhere";
    crate::Error::new(crate::ErrorKind::Unsupported, text)
}

fn no_cache() -> crate::Error {
    let text = "this store keeps no cached answers; use one of the crate's stores";
    crate::Error::new(crate::ErrorKind::Unsupported, text)
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
    /// Principals whose [forgetting](Amend::Forget) was begun and not ended, by a run before or by this `open`.
    pub forgetting: Vec<String>,
    /// What was damaged, and what became of it. Told once: by the first `open`.
    pub report: OpenReport,
    /// False when the ledger that was found does not add up: something was lost without a name.
    pub is_balanced: bool,
    /// True when actions are being [put back](Store::restore) and the end is missing: an import was cut off.
    pub is_half_restored: bool,
}

impl Default for Opened {
    fn default() -> Self {
        Self {
            epoch: 0,
            totals: Totals::default(),
            is_paused: false,
            gates: Vec::new(),
            reclaimed: Vec::new(),
            forgetting: Vec::new(),
            report: OpenReport::default(),
            is_balanced: true,
            is_half_restored: false,
        }
    }
}

/// Counts and ledger, of one moment. Two are equal when counts and ledger are.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Totals {
    /// Grows with every change of this run, also among those that share a commit: of two, the one with the larger number
    /// is newer.
    pub commit: u64,
    /// What is there now.
    pub counts: Counts,
    /// Where everything went.
    pub ledger: Ledger,
}

impl PartialEq for Totals {
    fn eq(&self, other: &Self) -> bool {
        (self.counts, self.ledger) == (other.counts, other.ledger)
    }
}

impl Eq for Totals {}

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
    /// The dead letter that blocks the lane; the first of them.
    pub blocked_by: Option<ActionId>,
    /// Every dead letter that blocks the lane, in its order.
    pub blocking: Vec<ActionId>,
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

            fn restore(&self, restore: crate::store::Restore) -> StoreFuture<'_, ()> {
                self.store.restore(restore)
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

            fn snapshot(&self, id: ActionId, source: Source) -> StoreFuture<'_, Snapshot> {
                self.store.snapshot(id, source)
            }

            fn chunks(&self, file: BodyFile) -> StoreFuture<'_, Chunks> {
                self.store.chunks(file)
            }

            fn totals(&self) -> StoreFuture<'_, Totals> {
                self.store.totals()
            }

            fn lane(&self, lane: Lane) -> StoreFuture<'_, LaneTotals> {
                self.store.lane(lane)
            }

            fn keyring(&self) -> StoreFuture<'_, Option<crate::store::KeptKeyring>> {
                self.store.keyring()
            }

            fn set_keyring(
                &self,
                before: Option<u64>,
                keyring: Bytes,
            ) -> StoreFuture<'_, Option<u64>> {
                self.store.set_keyring(before, keyring)
            }

            fn note(&self, name: &str) -> StoreFuture<'_, Option<Bytes>> {
                self.store.note(name)
            }

            fn set_note(&self, name: &str, note: Option<Bytes>) -> StoreFuture<'_, ()> {
                self.store.set_note(name, note)
            }

            fn cached(
                &self,
                target: crate::store::CacheTarget,
            ) -> StoreFuture<'_, Vec<crate::store::CachedHead>> {
                self.store.cached(target)
            }

            fn cached_body(&self, key: crate::store::CacheKey) -> StoreFuture<'_, Option<Bytes>> {
                self.store.cached_body(key)
            }

            fn cache(
                &self,
                change: crate::store::CacheChange,
            ) -> StoreFuture<'_, crate::store::Cached> {
                self.store.cache(change)
            }

            fn cache_totals(&self) -> StoreFuture<'_, crate::store::CacheTotals> {
                self.store.cache_totals()
            }

            fn close(&self) -> StoreFuture<'_, ()> {
                self.store.close()
            }

            fn changed(&self) -> crate::store::Changed<'_> {
                self.store.changed()
            }
        }
    };
}
use delegate_store;
