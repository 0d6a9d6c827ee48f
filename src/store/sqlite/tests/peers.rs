//! Two stores on one file: who may lease, who is alive, and what each sees of the other.

use std::io::Read;

use futures_util::TryStreamExt;

use super::*;
use crate::store::{Amended, Leased};

/// A place that any number of stores may open.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    async fn join(&self) -> (SqliteStore, Opened) {
        let options = SqliteOptions {
            access: Access::Shared,
            poll: Duration::from_millis(5),
            ..SqliteOptions::default()
        };
        let store = SqliteStore::open_with(self.0.path(), options).expect("the store");
        let opened = store.open(at(1)).await.expect("open");
        (store, opened)
    }
}

async fn lease(store: &SqliteStore, now: u64) -> Vec<Leased> {
    store.advance(leasing(now)).await.expect("lease").leased
}

async fn deliver(store: &SqliteStore, record: &Record) -> Option<Record> {
    let done = Settlement::Delivered { status: 200 };
    let advanced = store.advance(settling(record, done)).await;
    advanced.expect("settle").settled.remove(0)
}

/// As a process that is killed: its locks go, its runs were not closed.
async fn kill(store: SqliteStore, epoch: u64, place: &Place) {
    drop(store);
    let dir = VaultDir::open_shared(place.0.path()).expect("the directory");
    let locks = Locks::new(&dir).expect("the locks");
    while locks.is_live(epoch).expect("the lock") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn direct(lane: &str) -> Append {
    let mut append = action(lane, vec![1]);
    append.direct = Direct::SideBySide;
    append
}

#[tokio::test]
async fn an_open_leaves_the_leases_of_the_living_alone() {
    let place = Place::new();
    let (a, first) = place.join().await;
    put(&a, action("l", vec![1])).await;
    let mine = lease(&a, 2).await.remove(0).record;
    let sent = put(&a, direct("other")).await;
    assert!(sent.due().is_none(), "leased");
    let (b, second) = place.join().await;
    assert!(second.epoch > first.epoch);
    assert!(second.reclaimed.is_empty(), "{:?}", second.reclaimed);
    assert_eq!(second.totals.counts.in_flight, 2);
    assert!(lease(&b, 3).await.is_empty());
    assert!(deliver(&a, &mine).await.is_some());
    assert!(deliver(&a, &sent).await.is_some());
    assert_eq!(
        b.advance(leasing(6))
            .await
            .expect("look")
            .totals
            .counts
            .pending,
        0
    );
}

#[tokio::test]
async fn one_leases_at_a_time_and_the_next_takes_over_when_it_dies() {
    let place = Place::new();
    let ((a, first), (b, _)) = (place.join().await, place.join().await);
    let held = put(&a, action("l", vec![1])).await;
    put(&b, action("l", vec![2])).await;
    assert_eq!(lease(&a, 2).await[0].record.id, held.id);
    // Another lane is ready, and still it is not the turn of this one; time does not help.
    let free = put(&b, action("m", vec![3])).await;
    let looked = b.advance(leasing(3)).await.expect("look");
    assert!(looked.leased.is_empty());
    assert_eq!(looked.next_due, None);

    kill(a, first.epoch, &place).await;
    let mut leased = lease(&b, 4).await;
    leased.sort_by_key(|leased| leased.record.seq);
    let ids: Vec<ActionId> = leased.iter().map(|leased| leased.record.id).collect();
    assert_eq!(ids, [held.id, free.id]);
    assert_eq!(leased[0].wire_before, WireState::MaybeSent);
    assert_eq!(leased[0].record.attempts, 2);
    assert_eq!(leased[1].wire_before, WireState::NeverSent);
}

#[tokio::test]
async fn the_turn_is_given_back_when_nothing_is_in_flight() {
    let place = Place::new();
    let ((a, _), (b, _)) = (place.join().await, place.join().await);
    put(&a, action("l", vec![1])).await;
    let mine = lease(&a, 2).await.remove(0).record;
    put(&b, action("m", vec![1])).await;
    assert!(lease(&b, 3).await.is_empty());
    deliver(&a, &mine).await.expect("settled");
    let theirs = lease(&b, 4).await.remove(0).record;
    put(&a, action("n", vec![1])).await;
    assert!(lease(&a, 5).await.is_empty());
    deliver(&b, &theirs).await.expect("settled");
    assert_eq!(lease(&a, 6).await.len(), 1);
}

#[tokio::test]
async fn a_direct_send_of_a_dead_process_is_taken_back_while_others_live() {
    let place = Place::new();
    let ((a, first), (b, _)) = (place.join().await, place.join().await);
    let cut_off = put(&a, direct("l")).await;
    // No other direct send of its lane goes beside one that another process makes.
    let behind = put(&b, direct("l")).await;
    assert!(behind.due().is_some(), "queued");
    assert!(lease(&b, 2).await.is_empty());
    kill(a, first.epoch, &place).await;
    let mut leased = lease(&b, 3).await;
    while leased.is_empty() {
        b.changed().await;
        leased = lease(&b, 3).await;
    }
    let again = leased.remove(0);
    assert_eq!(
        (again.record.id, again.wire_before),
        (cut_off.id, WireState::MaybeSent)
    );
}

#[tokio::test]
async fn what_others_change_is_told() {
    let place = Place::new();
    let ((a, _), (b, _)) = (place.join().await, place.join().await);
    // What happened until now may be told once.
    while tokio::time::timeout(Duration::from_millis(100), a.changed())
        .await
        .is_ok()
    {}
    let queued = put(&b, action("l", vec![1])).await;
    a.changed().await;
    assert_eq!(a.totals().await.expect("totals").counts.pending, 1);
    assert_eq!(lease(&a, 2).await[0].record.id, queued.id);
    // Nor is what was met on the way to something else forgotten.
    put(&b, action("m", vec![1])).await;
    a.get(Find::Id(queued.id)).await.expect("read");
    a.changed().await;
}

#[tokio::test]
async fn a_refused_direct_send_that_another_process_told_of_stays_as_a_dead_letter() {
    let place = Place::new();
    let ((a, _), (b, _)) = (place.join().await, place.join().await);
    for is_told in [false, true] {
        let mut append = direct("l");
        append.record.key = Some(format!("key {is_told}"));
        let again = append.clone();
        let sent = put(&a, append).await;
        if is_told {
            let known = b.append(vec![again]).await.expect("append").remove(0);
            assert!(matches!(known, Appended::Known { .. }), "{known:?}");
        }
        let mut refused = settling(&sent, Settlement::Returned);
        refused.settle[0].status = Some(404);
        let settled = a.advance(refused).await.expect("settle").settled.remove(0);
        assert!(settled.is_some(), "its lease held");
        let left = b.get(Find::Id(sent.id)).await.expect("read");
        let is_kept = left.is_some_and(|record| record.state.is_dead());
        assert_eq!(is_kept, is_told);
    }
}

#[tokio::test]
async fn gates_and_cancels_of_one_hold_for_the_other() {
    use crate::decide::{Gate, GateKey, GateReason};
    let place = Place::new();
    let ((a, _), (b, _)) = (place.join().await, place.join().await);
    let queued = put(&a, action("l", vec![1])).await;
    let mut close = Advance::new(at(2), Retention::default());
    let key = GateKey::Origin(queued.origin.clone());
    close.gates = vec![Gate::new(key, GateReason::Unreachable, at(50), at(2))];
    a.advance(close).await.expect("close the gate");
    let looked = b.advance(leasing(3)).await.expect("look");
    assert!(looked.leased.is_empty());
    assert_eq!(looked.next_due, Some(at(50)));
    assert!(
        put(&b, direct("n")).await.due().is_some(),
        "the gate is closed"
    );
    let (id, now) = (queued.id, at(4));
    let cancelled = b.amend(Amend::Cancel { id, now }).await.expect("cancel");
    assert!(matches!(cancelled, Amended::Done(_)));
    let ids: Vec<ActionId> = lease(&a, 50).await.iter().map(|l| l.record.id).collect();
    assert!(!ids.contains(&id));
}

/// A run that starts anew in its process is dead in its old number.
#[tokio::test]
async fn a_new_run_of_a_process_gives_up_the_old_one() {
    let place = Place::new();
    let ((a, _), (b, _)) = (place.join().await, place.join().await);
    let sent = put(&a, direct("l")).await;
    let again = a.open(at(3)).await.expect("open again");
    assert_eq!(again.reclaimed, [sent.id]);
    assert!(deliver(&a, &sent).await.is_none(), "fenced off");
    assert_eq!(lease(&b, 4).await.len(), 1);
}

/// A body in a file, taken and not yet appended.
async fn taken(store: &SqliteStore) -> (Append, Snapshot) {
    let mut append = action("l", Vec::new());
    let source = Source::reader(std::io::repeat(5).take(50_000), u64::MAX);
    let snapshot = store.snapshot(append.record.id, source).await;
    let snapshot = snapshot.expect("a snapshot");
    append.body = snapshot.body().clone();
    (append, snapshot)
}

/// An open sweeps what dead runs left, and nothing that a live one is about to name.
#[tokio::test]
async fn a_sweep_leaves_the_files_of_the_living_alone() {
    let place = Place::new();
    let kept = || {
        fs::read_dir(place.0.path().join("bodies"))
            .expect("list")
            .count()
    };
    let (a, _) = place.join().await;
    let (b, second) = place.join().await;
    let (append, snapshot) = taken(&a).await;
    taken(&b).await.1.hand_over();
    let (c, _) = place.join().await;
    assert_eq!(kept(), 2, "both are alive");
    kill(b, second.epoch, &place).await;
    let (d, _) = place.join().await;
    d.close().await.expect("closed");
    assert_eq!(kept(), 1, "what nobody can name any more is gone");
    let id = append.record.id;
    snapshot.hand_over();
    put(&a, append).await;
    a.close().await.expect("closed");
    let (e, _) = place.join().await;
    let body = c.body(id).await.expect("body").expect("a body");
    let Some(file) = body.files().next().cloned() else {
        panic!("{body:?} has no file");
    };
    let chunks: Vec<Bytes> = e
        .chunks(file)
        .await
        .expect("there")
        .try_collect()
        .await
        .expect("read");
    assert_eq!(chunks.concat(), [5; 50_000]);
    deliver(&c, &lease(&c, 9).await[0].record).await;
    c.close().await.expect("closed");
    assert_eq!(kept(), 0);
}
