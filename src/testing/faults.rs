//! A store that fails when it is told to: the Nth call of a verb, before or after its effect, once or until it is
//! healed. It keeps the contract of [`Store`]: a verb that failed had no effect, or the store is poisoned.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::action::{ActionId, Body, BodyFile, Lane, Record};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{
    Advance, Advanced, Amend, Amended, Append, Appended, CacheChange, CacheKey, CacheTarget,
    CacheTotals, Cached, CachedHead, Changed, Chunks, Find, KeptKeyring, LaneTotals, Opened, Page,
    Query, Restore, Snapshot, Source, Store, StoreFuture, Totals,
};

/// A verb of a [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the verb of the same name")]
pub enum Verb {
    Open,
    Append,
    Advance,
    Amend,
    Restore,
    Get,
    Body,
    Answer,
    Page,
    Totals,
    Lane,
    Snapshot,
    Chunks,
    Keyring,
    SetKeyring,
    Note,
    SetNote,
    Cached,
    CachedBody,
    Cache,
    CacheTotals,
    Close,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// This one call fails, without effect.
    Once(ErrorKind),
    /// This call and all later ones fail, without effect, until [`Faults::heal`].
    Lasting(ErrorKind),
    /// The store is poisoned before the effect of this call: all calls fail until [`Faults::heal`].
    PoisonedBefore,
    /// The effect of this call happens, its answer is lost, and the store is poisoned.
    PoisonedAfter,
}

#[derive(Debug, Default)]
struct Plan {
    at: Option<(u64, Fault)>,
    calls: u64,
    fired: Option<Verb>,
    failing: Option<ErrorKind>,
    pace: Duration,
}

/// Says how a [`FaultyStore`] fails. Clones say it to the same store.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    plan: Arc<Mutex<Plan>>,
}

impl Faults {
    /// Lets the `nth` call from now on (from 1) fail.
    pub fn fail_at(&self, nth: u64, fault: Fault) {
        let mut plan = self.plan();
        plan.at = Some((plan.calls.saturating_add(nth), fault));
        plan.fired = None;
    }

    /// Ends every fault, the one that has not fired yet too.
    pub fn heal(&self) {
        let mut plan = self.plan();
        plan.at = None;
        plan.failing = None;
    }

    /// Lets each call take so long: half before its effect, half after. It makes more moments to be cut off in.
    pub fn slow_down(&self, pace: Duration) {
        self.plan().pace = pace;
    }

    /// The verb that the fault hit; nothing when it has not fired.
    #[must_use]
    pub fn fired(&self) -> Option<Verb> {
        self.plan().fired
    }

    /// How many calls there were.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.plan().calls
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call. `Err`: it fails without effect; `Ok(Some)`: its effect happens and its answer is lost.
    fn enter(&self, verb: Verb) -> Result<Option<ErrorKind>> {
        let mut plan = self.plan();
        plan.calls += 1;
        if let Some(kind) = plan.failing {
            return Err(injected(kind, verb));
        }
        let calls = plan.calls;
        let Some((_, fault)) = plan.at.filter(|(at, _)| *at == calls) else {
            return Ok(None);
        };
        plan.fired = Some(verb);
        let (kind, is_lasting) = match fault {
            Fault::Once(kind) => (kind, false),
            Fault::Lasting(kind) => (kind, true),
            Fault::PoisonedBefore | Fault::PoisonedAfter => (ErrorKind::Poisoned, true),
        };
        plan.failing = is_lasting.then_some(kind);
        match fault {
            Fault::PoisonedAfter => Ok(Some(kind)),
            _ => Err(injected(kind, verb)),
        }
    }

    fn pace(&self) -> Duration {
        self.plan().pace / 2
    }
}

fn injected(kind: ErrorKind, verb: Verb) -> Error {
    Error::new(kind, format!("a fault was injected into {verb:?}"))
}

/// A [`Store`] around another one that fails as its [`Faults`] say.
///
/// A store that is poisoned is not closed either: healing and opening it again is what a crash and a restart are.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::sync::Arc;
/// use syncvault::testing::{Fault, FaultyStore};
/// use syncvault::{ErrorKind, clock::Timestamp, store::Store};
/// # fn store() -> Arc<dyn Store> { Arc::new(syncvault::store::MemoryStore::new()) }
///
/// let store = FaultyStore::new(store());
/// store.faults().fail_at(1, Fault::Once(ErrorKind::StorageFull));
/// let error = store.open(Timestamp::EPOCH).await.expect_err("fails once");
/// assert_eq!(error.kind(), ErrorKind::StorageFull);
/// assert!(store.open(Timestamp::EPOCH).await.is_ok());
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    faults: Faults,
}

impl FaultyStore {
    /// A store around `inner` that has no faults yet.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            faults: Faults::default(),
        }
    }

    /// As [`new`](Self::new), with faults that another store has too: one disk under a vault that is opened again.
    #[must_use]
    pub fn with_faults(inner: Arc<dyn Store>, faults: &Faults) -> Self {
        let faults = faults.clone();
        Self { inner, faults }
    }

    /// What says how it fails.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    fn call<'a, T: Send + 'a>(
        &'a self,
        verb: Verb,
        inner: impl FnOnce(&'a dyn Store) -> StoreFuture<'a, T> + Send + 'a,
    ) -> StoreFuture<'a, T> {
        Box::pin(async move {
            let pace = self.faults.pace();
            pause(pace).await;
            let lost = self.faults.enter(verb)?;
            let done = inner(&*self.inner).await;
            pause(pace).await;
            match lost {
                Some(kind) => Err(injected(kind, verb)),
                None => done,
            }
        })
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

impl Store for FaultyStore {
    fn open(&self, now: Timestamp) -> StoreFuture<'_, Opened> {
        self.call(Verb::Open, move |store| store.open(now))
    }

    fn append(&self, batch: Vec<Append>) -> StoreFuture<'_, Vec<Appended>> {
        self.call(Verb::Append, move |store| store.append(batch))
    }

    fn advance(&self, step: Advance) -> StoreFuture<'_, Advanced> {
        self.call(Verb::Advance, move |store| store.advance(step))
    }

    fn amend(&self, change: Amend) -> StoreFuture<'_, Amended> {
        self.call(Verb::Amend, move |store| store.amend(change))
    }

    fn restore(&self, restore: Restore) -> StoreFuture<'_, ()> {
        self.call(Verb::Restore, move |store| store.restore(restore))
    }

    fn get(&self, find: Find) -> StoreFuture<'_, Option<Record>> {
        self.call(Verb::Get, move |store| store.get(find))
    }

    fn body(&self, id: ActionId) -> StoreFuture<'_, Option<Body>> {
        self.call(Verb::Body, move |store| store.body(id))
    }

    fn answer(&self, id: ActionId) -> StoreFuture<'_, Option<Bytes>> {
        self.call(Verb::Answer, move |store| store.answer(id))
    }

    fn page(&self, query: Query) -> StoreFuture<'_, Page> {
        self.call(Verb::Page, move |store| store.page(query))
    }

    fn totals(&self) -> StoreFuture<'_, Totals> {
        self.call(Verb::Totals, |store| store.totals())
    }

    fn lane(&self, lane: Lane) -> StoreFuture<'_, LaneTotals> {
        self.call(Verb::Lane, move |store| store.lane(lane))
    }

    fn snapshot(&self, id: ActionId, source: Source) -> StoreFuture<'_, Snapshot> {
        self.call(Verb::Snapshot, move |store| store.snapshot(id, source))
    }

    fn chunks(&self, file: BodyFile) -> StoreFuture<'_, Chunks> {
        self.call(Verb::Chunks, move |store| store.chunks(file))
    }

    fn keyring(&self) -> StoreFuture<'_, Option<KeptKeyring>> {
        self.call(Verb::Keyring, |store| store.keyring())
    }

    fn set_keyring(&self, before: Option<u64>, keyring: Bytes) -> StoreFuture<'_, Option<u64>> {
        self.call(Verb::SetKeyring, move |store| {
            store.set_keyring(before, keyring)
        })
    }

    fn note(&self, name: &str) -> StoreFuture<'_, Option<Bytes>> {
        let name = name.to_owned();
        self.call(Verb::Note, move |store| store.note(&name))
    }

    fn set_note(&self, name: &str, note: Option<Bytes>) -> StoreFuture<'_, ()> {
        let name = name.to_owned();
        self.call(Verb::SetNote, move |store| store.set_note(&name, note))
    }

    fn cached(&self, target: CacheTarget) -> StoreFuture<'_, Vec<CachedHead>> {
        self.call(Verb::Cached, move |store| store.cached(target))
    }

    fn cached_body(&self, key: CacheKey) -> StoreFuture<'_, Option<Bytes>> {
        self.call(Verb::CachedBody, move |store| store.cached_body(key))
    }

    fn cache(&self, change: CacheChange) -> StoreFuture<'_, Cached> {
        self.call(Verb::Cache, move |store| store.cache(change))
    }

    fn cache_totals(&self) -> StoreFuture<'_, CacheTotals> {
        self.call(Verb::CacheTotals, |store| store.cache_totals())
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.call(Verb::Close, |store| store.close())
    }

    fn changed(&self) -> Changed<'_> {
        self.inner.changed()
    }
}
