//! What a full disk costs: an append, or the group of commands that met it; never the store.

use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use super::*;
use crate::store::Direct;

/// An engine on a disk that is full at one apply, and for appends as long as it is told so. Clones share the disk.
#[derive(Clone, Debug)]
struct Disk {
    engine: MemoryEngine,
    applies: Arc<AtomicU32>,
    full_at: u32,
    is_tight: Arc<AtomicBool>,
    /// What the look for room says then.
    kind: ErrorKind,
    /// Holds an apply up, so that others wait for the next one together.
    held: Arc<Mutex<()>>,
}

impl Disk {
    fn full_at(full_at: u32) -> Self {
        Self {
            engine: MemoryEngine::default(),
            applies: Arc::default(),
            full_at,
            is_tight: Arc::default(),
            kind: ErrorKind::StorageFull,
            held: Arc::default(),
        }
    }

    fn store(&self) -> KvStore<Self> {
        let disk = self.clone();
        KvStore::threaded(move || Ok(disk)).expect("thread")
    }
}

impl Engine for Disk {
    fn check_room(&mut self) -> Result<()> {
        match self.is_tight.load(Ordering::SeqCst) {
            true => Err(Error::new(self.kind, "no room")),
            false => Ok(()),
        }
    }

    fn apply(&mut self, batch: Batch) -> Result<()> {
        drop(self.held.lock().expect("held"));
        let number = self.applies.fetch_add(1, Ordering::SeqCst);
        match number == self.full_at {
            true => Err(full()),
            false => self.engine.apply(batch),
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.engine.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        self.engine.scan(from, to, limit)
    }
}

fn full() -> Error {
    Error::new(ErrorKind::StorageFull, "the disk is full")
}

/// Calls again what met the full disk.
async fn patiently<T>(call: impl Fn() -> StoreFuture<'static, T>, met: &mut u32) -> T {
    loop {
        match call().await {
            Ok(done) => return done,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull);
                *met += 1;
            }
        }
    }
}

/// Open, append, and settle one after the other, each again when the disk was full.
async fn whole_life(store: &KvStore<Disk>) -> (Ledger, u32) {
    let mut met = 0;
    let opened = patiently(|| store.submit(|queue| queue.open(at(0))), &mut met).await;
    assert_eq!(opened.epoch, 1, "an open that came to nothing is none");
    for now in 1..4 {
        let batch = vec![action("a", now), action("b", now)];
        patiently(|| own(store.append(batch.clone())), &mut met).await;
    }
    let mut held: Vec<Record> = Vec::new();
    for now in 5..12 {
        let mut advance = lease(2, now);
        let delivered = Settlement::Delivered { status: 200 };
        let settles = held.drain(..).map(|r| settle(&r, delivered.clone()));
        advance.settle = settles.collect();
        let done = patiently(|| own(store.advance(advance.clone())), &mut met).await;
        held.extend(done.leased.into_iter().map(|leased| leased.record));
    }
    (store.totals().await.expect("totals").ledger, met)
}

fn own<T: Send + 'static>(call: StoreFuture<'_, T>) -> StoreFuture<'static, T> {
    let done = futures_util::FutureExt::now_or_never(call);
    Box::pin(std::future::ready(done.expect("inline engines never wait")))
}

/// Method: the disk is full at the nth apply, n = 0.. until there is none; each call is made again.
#[tokio::test]
async fn a_disk_that_is_full_once_costs_a_call_and_nothing_else() {
    for full_at in 0.. {
        let disk = Disk::full_at(full_at);
        let store = KvStore::inline(disk.clone());
        let (ledger, met) = whole_life(&store).await;
        assert_eq!(ledger.delivered, 6, "full at {full_at}");
        check(&Queue::load(disk.engine).expect("reload"));
        if met == 0 {
            assert!(full_at > 6, "it was hardly ever full");
            return;
        }
        assert_eq!(met, 1);
    }
}

#[tokio::test]
async fn a_refused_append_does_not_spoil_the_group() {
    let disk = Disk::full_at(u32::MAX);
    let store = disk.store();
    store.open(at(0)).await.expect("open");
    store.append(vec![action("a", 1)]).await.expect("append");
    let leased = store.advance(lease(1, 2)).await.expect("lease").leased;
    let held = disk.held.lock().expect("held");
    // The first one is held up, the others wait for the next commit together.
    let first = store.amend(Amend::Pause { paused: true });
    disk.is_tight.store(true, Ordering::SeqCst);
    let refused = store.append(vec![action("a", 3)]);
    let mut advance = Advance::new(at(4), Retention::default());
    let delivered = Settlement::Delivered { status: 200 };
    advance.settle = vec![settle(&leased[0].record, delivered)];
    let settled = store.advance(advance);
    drop(held);
    first.await.expect("pause");
    let refused = refused.await.expect_err("full");
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    assert!(settled.await.expect("settle").settled[0].is_some());
    disk.is_tight.store(false, Ordering::SeqCst);
    store
        .append(vec![action("a", 5)])
        .await
        .expect("room again");
    let ledger = store.totals().await.expect("totals").ledger;
    assert_eq!((ledger.enqueued, ledger.delivered), (2, 1));
}

/// Goal: a refusal goes to the caller of a direct send, also when the disk was full at its first settle.
#[tokio::test]
async fn a_direct_send_stays_one_when_its_settle_met_a_full_disk() {
    let disk = Disk::full_at(2);
    let store = disk.store();
    store.open(at(0)).await.expect("open");
    let mut direct = action("a", 1);
    direct.direct = Direct::Alone;
    let sent = store.append(vec![direct]).await.expect("append");
    let Appended::Leased { record, .. } = &sent[0] else {
        panic!("{sent:?}")
    };
    let mut advance = Advance::new(at(2), Retention::default());
    let mut refused = settle(record, Settlement::Returned);
    refused.status = Some(422);
    advance.settle = vec![refused];
    let met = store.advance(advance.clone()).await.expect_err("full");
    assert_eq!(met.kind(), ErrorKind::StorageFull);
    store.advance(advance).await.expect("room again");
    let ledger = store.totals().await.expect("totals").ledger;
    assert_eq!((ledger.returned, ledger.dead), (1, 0));
}

/// Symptom: actions that were acknowledged were gone after a turn-over had failed. Cause: an append met that failure in its
/// look for room, and took it for a refusal; the store went on without what had been turned over. Fix: only a full disk is
/// a refusal.
#[tokio::test]
async fn a_failure_found_by_the_look_for_room_poisons() {
    let mut disk = Disk::full_at(u32::MAX);
    disk.kind = ErrorKind::Storage;
    let store = disk.store();
    store.open(at(0)).await.expect("open");
    disk.is_tight.store(true, Ordering::SeqCst);
    let failed = store.append(vec![action("a", 1)]).await;
    assert_eq!(failed.expect_err("failed").kind(), ErrorKind::Storage);
    disk.is_tight.store(false, Ordering::SeqCst);
    let later = store.append(vec![action("a", 2)]).await;
    assert_eq!(later.expect_err("poisoned").kind(), ErrorKind::Poisoned);
}
