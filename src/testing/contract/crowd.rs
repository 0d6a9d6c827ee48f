//! Many callers at once: nobody gets what another has, and the lanes keep their order.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::StoreFactory;
use super::draft::Draft;
use super::rig::{rig, settle_of};
use crate::action::{ActionId, Lane, Record};
use crate::clock::Timestamp;
use crate::decide::Settlement;
use crate::store::{Advance, Appended, Lease, Retention, Store};

const TASKS: usize = 16;
const EACH: usize = 15;
const LANES: usize = 5;

/// What everybody wrote down.
#[derive(Debug, Default)]
struct Log {
    appended: Mutex<Vec<Record>>,
    leased: Mutex<Vec<Record>>,
    delivered: AtomicUsize,
}

async fn append(store: Arc<dyn Store>, log: Arc<Log>, task: usize, now: Timestamp) {
    for number in 0..EACH {
        let lane = format!("lane {}", (task + number) % LANES);
        let batch = vec![Draft::new(&lane, now).into_append()];
        let appended = store.append(batch).await.expect("append");
        let Some(Appended::Queued { record, .. }) = appended.into_iter().next() else {
            panic!("expected Queued");
        };
        log.appended.lock().expect("no panic").push(record);
        tokio::task::yield_now().await;
    }
}

async fn work(store: Arc<dyn Store>, log: Arc<Log>, now: Timestamp) {
    let mut leased: Vec<Record> = Vec::new();
    for _ in 0..100_000 {
        let mut step = Advance::new(now, Retention::default());
        let delivered = Settlement::Delivered { status: 200 };
        let settles = leased
            .drain(..)
            .map(|record| settle_of(&record, delivered.clone()));
        step.settle = settles.collect();
        step.lease = Some(Lease {
            slots: 2,
            ..Lease::default()
        });
        let advanced = store.advance(step).await.expect("advance");
        let settled = advanced.settled.len();
        assert_eq!(advanced.settled.iter().flatten().count(), settled);
        leased.extend(advanced.leased.into_iter().map(|lease| lease.record));
        // Written down before the settle: what follows in a lane can only come after it.
        log.leased
            .lock()
            .expect("no panic")
            .extend(leased.iter().cloned());
        let delivered = log.delivered.fetch_add(settled, Ordering::SeqCst) + settled;
        if delivered == TASKS * EACH {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("something was never leased");
}

fn by_lane(records: &[Record]) -> HashMap<Lane, Vec<u64>> {
    let mut lanes: HashMap<Lane, Vec<u64>> = HashMap::new();
    for record in records {
        lanes
            .entry(record.lane.clone())
            .or_default()
            .push(record.seq);
    }
    lanes
}

/// Sixteen tasks append while four workers advance: each action is leased once, each lane in its order.
pub async fn a_crowd_neither_repeats_nor_reorders(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let log = Arc::new(Log::default());
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        tasks.push(tokio::spawn(append(
            Arc::clone(&rig.store),
            Arc::clone(&log),
            task,
            rig.now,
        )));
    }
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(tokio::spawn(work(
            Arc::clone(&rig.store),
            Arc::clone(&log),
            rig.now,
        )));
    }
    for task in tasks {
        task.await.expect("an appending task");
    }
    for worker in workers {
        worker.await.expect("a worker");
    }
    let leased = log.leased.lock().expect("no panic").clone();
    let ids: HashSet<ActionId> = leased.iter().map(|record| record.id).collect();
    assert_eq!((leased.len(), ids.len()), (TASKS * EACH, TASKS * EACH));
    for (lane, seqs) in by_lane(&leased) {
        assert!(seqs.is_sorted(), "{lane} went out of order: {seqs:?}");
    }
    let seqs = by_lane(&log.appended.lock().expect("no panic"));
    for (lane, seqs) in seqs {
        let places: HashSet<_> = seqs.iter().collect();
        assert_eq!(
            places.len(),
            seqs.len(),
            "a place of {lane} was given twice"
        );
    }
    let totals = rig.totals().await;
    assert_eq!(totals.ledger.delivered, (TASKS * EACH) as u64);
    assert_eq!(totals.counts.pending, 0);
}

/// Many tasks with the same key at once: one of them makes the action, all get the same one.
pub async fn a_crowd_with_one_key_makes_one_action(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        let store = Arc::clone(&rig.store);
        let draft = rig.draft("a").key("k").fingerprint("f");
        tasks.push(tokio::spawn(async move {
            let appended = store
                .append(vec![draft.into_append()])
                .await
                .expect("append");
            match appended.into_iter().next() {
                Some(Appended::Queued { record, .. }) => (record.id, 1),
                Some(Appended::Known { record }) => (record.id, 0),
                other => panic!("expected Queued or Known, got {other:?}"),
            }
        }));
    }
    let mut ids = HashSet::new();
    let mut made = 0;
    for task in tasks {
        let (id, new) = task.await.expect("a task");
        ids.insert(id);
        made += new;
    }
    assert_eq!((ids.len(), made), (1, 1));
    assert_eq!(rig.ledger().await.enqueued, 1);
}
