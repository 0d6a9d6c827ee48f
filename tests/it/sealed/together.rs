//! Several processes on one sealed file; here all are in one, and as strange to each other. Each has a keyring in memory, and the
//! others change it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use syncvault::store::crypt::{Key, KeyProvider, Keys, Sealed};
use syncvault::store::{
    Access, Amend, Amended, Find, Part, Query, SqliteOptions, SqliteStore, Store,
};
use syncvault::{ActionId, ErrorKind};

use super::{NOW, add, append, lease};

async fn member(dir: &Path, keys: impl KeyProvider) -> Sealed {
    let mut options = SqliteOptions::default();
    options.access = Access::Shared;
    let store = SqliteStore::open_with(dir.join("vault"), options).expect("the store");
    let sealed = Sealed::new(Arc::new(store), keys);
    sealed.open(NOW).await.expect("open");
    sealed
}

async fn step(store: &Sealed) -> bool {
    let change = Amend::Reencrypt { limit: 3 };
    match store.amend(change).await.expect("a step") {
        Amended::More(_) => false,
        Amended::Done(_) => true,
        other => panic!("{other:?}"),
    }
}

async fn reencrypt(store: &Sealed) {
    for _ in 0..1_000 {
        if step(store).await {
            return;
        }
    }
    panic!("it never ends");
}

async fn forget(store: &Sealed, principal: &str) {
    let principal = principal.to_owned();
    let limit = 2;
    loop {
        let principal = principal.clone();
        let change = Amend::Forget { principal, limit };
        if matches!(store.amend(change).await.expect("a step"), Amended::Done(_)) {
            return;
        }
    }
}

/// Whole, to whoever asks.
async fn has(store: &Sealed, id: ActionId) -> bool {
    let Some(record) = store.get(Find::Id(id)).await.expect("get") else {
        return false;
    };
    assert_eq!(record.content, Bytes::from(format!("content of {id}")));
    assert!(store.body(id).await.expect("body").is_some());
    true
}

async fn all(store: &Sealed) -> Vec<ActionId> {
    let page = store.page(Query::first(Part::Pending, 1_000)).await;
    let records = page.expect("a page").records.into_iter();
    records.map(|record| record.id).collect()
}

async fn evicted(store: &Sealed) -> u64 {
    store.totals().await.expect("totals").ledger.evicted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_reads_what_another_sealed_with_a_key_that_it_did_not_know() {
    let (dir, key) = (tempfile::tempdir().expect("a directory"), Key::generate());
    let one = member(dir.path(), key.clone()).await;
    let other = member(dir.path(), key).await;
    let ann = add(&one, "ann", "a").await;
    let ben = add(&other, "ben", "b").await;
    for (store, name) in [(&one, "one"), (&other, "other")] {
        assert!(has(store, ann).await && has(store, ben).await, "{name}");
        assert_eq!(all(store).await.len(), 2, "{name}");
    }
    let cid = add(&one, "cid", "c").await;
    assert_eq!(lease(&other).await.leased.len(), 3);
    assert!(has(&other, cid).await);
    assert_eq!(evicted(&one).await, 0);
}

/// Goal: nothing is sealed with a key that was destroyed meanwhile. Method: after each step of one process, the other one, whose
/// keyring is of before, adds, requeues, answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_keys_reach_a_process_that_is_in_the_middle_of_its_work() {
    let (dir, key) = (tempfile::tempdir().expect("a directory"), Key::generate());
    let one = member(dir.path(), key.clone()).await;
    let other = member(dir.path(), key.clone()).await;
    let mut ids = Vec::new();
    for lane in 0..20 {
        ids.push(add(&one, "ann", &format!("l{lane}")).await);
    }
    for round in 0..3 {
        let mut is_done = false;
        while !is_done {
            is_done = step(&one).await;
            ids.push(add(&other, "ann", &format!("m{}", ids.len())).await);
        }
        reencrypt(&one).await;
        reencrypt(&other).await;
        for id in &ids {
            assert!(has(&one, *id).await && has(&other, *id).await, "{round}");
        }
    }
    let leased = lease(&other).await.leased;
    assert_eq!(leased.len(), ids.len().min(100));
    assert_eq!(evicted(&one).await, 0);
}

/// A pass goes over what is pending and then over what is dead: who sends a dead letter back must not carry it behind the pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_that_comes_back_is_not_left_with_an_old_key() {
    use syncvault::action::DeadReason;
    use syncvault::decide::{DeadLane, Settlement};
    use syncvault::store::{Advance, Retention, Settle};

    let (dir, key) = (tempfile::tempdir().expect("a directory"), Key::generate());
    let one = member(dir.path(), key.clone()).await;
    let other = member(dir.path(), key.clone()).await;
    let id = add(&other, "ann", "a").await;
    let leased = lease(&other).await.leased.remove(0).record;
    let dead = Settlement::Dead {
        reason: DeadReason::Rejected { status: 400 },
        lane: DeadLane::Skip,
    };
    let wire = syncvault::WireState::Answered;
    let mut settle = Settle::of(&leased, dead, wire).expect("a lease");
    settle.error = Some("no".to_owned());
    let mut step_ = Advance::new(NOW, Retention::default());
    step_.settle.push(settle);
    other.advance(step_).await.expect("advance");
    // The first step looks at what is pending.
    assert!(!step(&one).await);
    let back = Amend::Requeue { id, now: NOW };
    assert!(matches!(
        other.amend(back).await.expect("requeue"),
        Amended::Done(_)
    ));
    reencrypt(&one).await;
    drop((one, other));
    let late = member(dir.path(), key).await;
    assert!(has(&late, id).await);
    assert_eq!(evicted(&late).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_forgotten_elsewhere_may_come_back_here() {
    let (dir, key) = (tempfile::tempdir().expect("a directory"), Key::generate());
    let one = member(dir.path(), key.clone()).await;
    let other = member(dir.path(), key.clone()).await;
    let mut gone = Vec::new();
    for lane in ["a", "b", "c"] {
        gone.push(add(&other, "ann", lane).await);
        gone.push(add(&one, "ann", lane).await);
    }
    let ben = add(&one, "ben", "a").await;
    assert!(all(&other).await.len() == 7);
    forget(&one, "ann").await;
    let back = add(&other, "ann", "a").await;
    let again = append("ann", "a", "again");
    let again_id = again.record.id;
    one.append(vec![again]).await.expect("append");
    for store in [&one, &other] {
        for id in &gone {
            assert!(!has(store, *id).await);
        }
        for id in [ben, back, again_id] {
            assert!(has(store, id).await);
        }
    }
    assert_eq!(evicted(&other).await, gone.len() as u64);
    // And the other way round: nobody forgets more than was asked for.
    forget(&other, "ann").await;
    forget(&one, "ann").await;
    assert!(has(&one, ben).await && has(&other, ben).await);
    assert_eq!(evicted(&one).await, gone.len() as u64 + 2);
}

/// Who has only the old key of the app cannot go on, and loses nothing; once its provider knows the new one it goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_with_the_old_key_of_the_app_waits_for_the_new_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let (old, new) = (Key::generate(), Key::generate());
    let known = Arc::new(std::sync::Mutex::new(Keys::new(old.clone())));
    let provider = {
        let known = known.clone();
        move || {
            let keys = known.lock().expect("the keys").clone();
            async move { Ok::<_, std::io::Error>(keys) }
        }
    };
    let one = member(dir.path(), provider).await;
    let first = add(&one, "ann", "a").await;
    let both = Keys::new(new.clone()).with_old(old.clone());
    let other = member(dir.path(), both.clone()).await;
    let late = append("ann", "a", "late");
    let error = one
        .append(vec![late.clone()])
        .await
        .expect_err("another key");
    assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
    assert_eq!(all(&other).await, [first]);
    *known.lock().expect("the keys") = both;
    one.append(vec![late]).await.expect("append");
    assert_eq!(all(&one).await.len(), 2);
    assert_eq!(all(&other).await.len(), 2);
    assert_eq!(evicted(&one).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_make_the_first_keyring_both_use_one() {
    for _ in 0..10 {
        let (dir, key) = (tempfile::tempdir().expect("a directory"), Key::generate());
        let (one, other) = tokio::join!(
            member(dir.path(), key.clone()),
            member(dir.path(), key.clone())
        );
        let ids = [add(&one, "ann", "a").await, add(&other, "ann", "b").await];
        for id in ids {
            assert!(has(&one, id).await && has(&other, id).await);
        }
    }
}
