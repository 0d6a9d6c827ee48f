//! A store and a transport that count their calls, and that can hold an answer back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use syncvault::action::{ActionId, Body, Lane, Record};
use syncvault::clock::Timestamp;
use syncvault::store::{
    Advance, Advanced, Amend, Amended, Append, Appended, Find, KeptKeyring, LaneTotals,
    MemoryStore, Opened, Page, Query, Store, StoreFuture, Totals,
};
use syncvault::transport::{ReqwestTransport, Transport, TransportFuture};
use tokio::sync::{Semaphore, watch};

/// A store that is watched. Clones are the same store.
#[derive(Clone, Debug)]
pub(super) struct WatchedStore {
    store: Arc<dyn Store>,
    advances: Arc<watch::Sender<u64>>,
    others: Arc<AtomicU64>,
    appended: Arc<watch::Sender<u64>>,
    answers: Arc<Semaphore>,
    lingers: Duration,
}

impl WatchedStore {
    pub(super) fn new() -> Self {
        Self::over(Arc::new(MemoryStore::new()))
    }

    pub(super) fn over(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            advances: Arc::default(),
            others: Arc::default(),
            appended: Arc::default(),
            answers: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            lingers: Duration::ZERO,
        }
    }

    /// Every step of the worker, and every look at the counts, takes so long after it is done, as on a slow disk.
    pub(super) fn with_slow_answers(mut self, takes: Duration) -> Self {
        self.lingers = takes;
        self
    }

    /// How many steps of the worker there were.
    pub(super) fn advances(&self) -> u64 {
        *self.advances.borrow()
    }

    /// How many calls of every other verb there were.
    pub(super) fn others(&self) -> u64 {
        self.others.load(Ordering::SeqCst)
    }

    /// From now on, what is added is on disk but its answer does not come back until [`release`](Self::release).
    pub(super) fn hold_answers(&self) {
        self.answers.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(super) fn release(&self) {
        self.answers.add_permits(Semaphore::MAX_PERMITS);
    }

    /// Waits until so many appends are on disk.
    pub(super) async fn wait_appended(&self, count: u64) {
        let mut appended = self.appended.subscribe();
        let enough = appended.wait_for(|n| *n >= count);
        crate::story::soon(enough).await.expect("a store");
    }

    async fn linger(&self) {
        if !self.lingers.is_zero() {
            tokio::time::sleep(self.lingers).await;
        }
    }

    fn other(&self) {
        self.others.fetch_add(1, Ordering::SeqCst);
    }
}

impl Store for WatchedStore {
    fn open(&self, now: Timestamp) -> StoreFuture<'_, Opened> {
        self.other();
        self.store.open(now)
    }

    fn append(&self, batch: Vec<Append>) -> StoreFuture<'_, Vec<Appended>> {
        self.other();
        Box::pin(async move {
            let appended = self.store.append(batch).await?;
            self.appended.send_modify(|n| *n += 1);
            let permit = self.answers.acquire().await.expect("never closed");
            drop(permit);
            Ok(appended)
        })
    }

    fn advance(&self, step: Advance) -> StoreFuture<'_, Advanced> {
        self.advances.send_modify(|n| *n += 1);
        Box::pin(async move {
            let advanced = self.store.advance(step).await;
            self.linger().await;
            advanced
        })
    }

    fn amend(&self, change: Amend) -> StoreFuture<'_, Amended> {
        self.other();
        self.store.amend(change)
    }

    fn get(&self, find: Find) -> StoreFuture<'_, Option<Record>> {
        self.other();
        self.store.get(find)
    }

    fn body(&self, id: ActionId) -> StoreFuture<'_, Option<Body>> {
        self.other();
        self.store.body(id)
    }

    fn answer(&self, id: ActionId) -> StoreFuture<'_, Option<Bytes>> {
        self.other();
        self.store.answer(id)
    }

    fn page(&self, query: Query) -> StoreFuture<'_, Page> {
        self.other();
        self.store.page(query)
    }

    fn totals(&self) -> StoreFuture<'_, Totals> {
        self.other();
        Box::pin(async move {
            let totals = self.store.totals().await;
            self.linger().await;
            totals
        })
    }

    fn lane(&self, lane: Lane) -> StoreFuture<'_, LaneTotals> {
        self.other();
        self.store.lane(lane)
    }

    fn keyring(&self) -> StoreFuture<'_, Option<KeptKeyring>> {
        self.other();
        self.store.keyring()
    }

    fn set_keyring(&self, before: Option<u64>, keyring: Bytes) -> StoreFuture<'_, Option<u64>> {
        self.other();
        self.store.set_keyring(before, keyring)
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.other();
        self.store.close()
    }
}

/// The real transport, with a counter. Clones count together.
#[derive(Clone, Debug)]
pub(super) struct CountedTransport {
    transport: Arc<ReqwestTransport>,
    sends: Arc<watch::Sender<u64>>,
}

impl CountedTransport {
    pub(super) fn new() -> Self {
        let transport = ReqwestTransport::new(syncvault::transport::Timeouts::default());
        Self {
            transport: Arc::new(transport.expect("a client")),
            sends: Arc::default(),
        }
    }

    /// How many attempts there were.
    pub(super) fn sends(&self) -> u64 {
        *self.sends.borrow()
    }

    /// Waits until there were so many.
    pub(super) async fn wait_sends(&self, count: u64) {
        let mut sends = self.sends.subscribe();
        let enough = sends.wait_for(|n| *n >= count);
        crate::story::soon(enough).await.expect("a transport");
    }
}

impl Transport for CountedTransport {
    fn send(&self, request: syncvault::reqwest::Request) -> TransportFuture<'_> {
        self.sends.send_modify(|n| *n += 1);
        self.transport.send(request)
    }
}
