//! A store that somebody else writes to as well: another process, or the app's own transaction.

use std::sync::Arc;

use bytes::Bytes;
use syncvault::action::{ActionId, Body, Lane, Record};
use syncvault::clock::Timestamp;
use syncvault::store::{
    Advance, Advanced, Amend, Amended, Append, Appended, Changed, Find, KeptKeyring, LaneTotals,
    MemoryStore, Opened, Page, Query, Store, StoreFuture, Totals,
};
use tokio::sync::Notify;

/// Clones are the same store.
#[derive(Clone, Debug)]
pub(super) struct OutsideStore {
    store: Arc<MemoryStore>,
    news: Arc<Notify>,
}

impl OutsideStore {
    pub(super) fn new(store: MemoryStore) -> Self {
        Self {
            store: Arc::new(store),
            news: Arc::default(),
        }
    }

    /// Adds something that the vault knows nothing of until it is told.
    pub(super) async fn add(&self, record: Record, now: Timestamp) {
        let append = Append::new(record, Bytes::from_static(b"from outside"), now);
        let added = self.store.append(vec![append]).await.expect("added");
        assert!(matches!(added[..], [Appended::Queued { .. }]), "{added:?}");
        self.news.notify_one();
    }
}

impl Store for OutsideStore {
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

    fn keyring(&self) -> StoreFuture<'_, Option<KeptKeyring>> {
        self.store.keyring()
    }

    fn set_keyring(&self, before: Option<u64>, keyring: Bytes) -> StoreFuture<'_, Option<u64>> {
        self.store.set_keyring(before, keyring)
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.store.close()
    }

    fn changed(&self) -> Changed<'_> {
        Box::pin(self.news.notified())
    }
}
