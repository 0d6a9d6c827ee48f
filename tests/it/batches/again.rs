//! What may have been sent together goes together again: the same members, the same order, the same key.

use syncvault::testing::Reply;
use syncvault::{Unsure, Verified};

use super::*;

/// The batches that were sent are all the same one, up to the last `others`.
fn is_one_batch(batches: &[(String, Vec<String>)]) {
    assert!(batches.len() > 1, "{batches:?}");
    assert!(
        batches.iter().all(|batch| *batch == batches[0]),
        "{batches:?}"
    );
}

/// Goal: a lost answer does no work twice. Method: the shop does it all, the answer is lost, more is queued meanwhile.
#[tokio::test(start_paused = true)]
async fn after_a_lost_answer_the_same_batch_goes_again() {
    let shop = Shop::open();
    let vault = shop.vault().await;
    shop.next(Mood::Lose);
    shop.next(Mood::Lose);
    let mut events = vault.events();
    orders(&vault, "orders", &["a", "b", "c"]).await;
    failed(&mut events).await;
    order(&vault, "orders", "d").await;
    order(&vault, "orders", "e").await;
    drained(&vault).await;
    let batches = shop.batches();
    assert_eq!(batches.len(), 4);
    is_one_batch(&batches[..3]);
    assert_eq!(batches[0].1, ["a", "b", "c"]);
    assert_eq!(batches[3].1, ["d", "e"]);
    assert_eq!(shop.applied(), ["a", "b", "c", "d", "e"]);
    shop.is_in_order(&vault).await;
}

/// Goal: so it is after a crash, also with other limits. Method: the vault goes while the batch is under way; another one
/// opens what it left.
#[tokio::test(start_paused = true)]
async fn a_crash_with_a_batch_in_flight_sends_the_same_batch_again() {
    let shop = Shop::open();
    let vault = shop.vault().await;
    shop.next(Mood::Answer(Reply::hangs()));
    orders(&vault, "orders", &["a", "b", "c"]).await;
    order(&vault, "orders", "d").await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(shop.batches().len(), 1);
    for limit in [2, 50] {
        // Its process is gone; the store holds what was on disk then.
        shop.next(Mood::Answer(Reply::hangs()));
        let builder = shop.builder().batcher("orders", Orders::at_most(limit));
        let crashed = builder.build().await.expect("vault");
        tokio::time::sleep(SECOND).await;
        drop(crashed);
    }
    let vault = shop.vault().await;
    drained(&vault).await;
    let batches = shop.batches();
    is_one_batch(&batches);
    assert_eq!(batches[0].1, ["a", "b", "c"]);
    assert_eq!(shop.singles(), ["d"]);
    assert_eq!(shop.applied(), ["a", "b", "c", "d"]);
    shop.is_in_order(&vault).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_in_mid_batch_sends_the_same_batch_again() {
    let shop = Shop::open();
    let vault = shop.vault().await;
    shop.next(Mood::Answer(Reply::hangs()));
    orders(&vault, "orders", &["a", "b"]).await;
    tokio::time::sleep(SECOND).await;
    vault.shutdown(SECOND).await.expect("shutdown");
    let vault = shop.vault().await;
    drained(&vault).await;
    is_one_batch(&shop.batches());
    assert_eq!(shop.batches().len(), 2);
    shop.is_in_order(&vault).await;
}

/// A 503 that was answered says nothing of the members: the key stays theirs.
#[tokio::test(start_paused = true)]
async fn a_batch_that_was_put_off_keeps_its_key() {
    for status in [503, 500, 409] {
        let shop = Shop::open();
        let vault = shop.vault().await;
        shop.next(Mood::Lose);
        shop.next(Mood::Answer(Reply::status(status)));
        orders(&vault, "orders", &["a", "b"]).await;
        drained(&vault).await;
        let batches = shop.batches();
        assert_eq!(batches.len(), 3, "after a {status}");
        is_one_batch(&batches);
        assert_eq!(shop.applied(), ["a", "b"]);
        shop.is_in_order(&vault).await;
    }
}

/// Nothing left: the next try may take along what came meanwhile.
#[tokio::test(start_paused = true)]
async fn a_batch_that_never_left_may_grow() {
    let shop = Shop::open();
    let vault = shop.vault().await;
    shop.next(Mood::Answer(Reply::unreachable()));
    let mut events = vault.events();
    orders(&vault, "orders", &["a", "b"]).await;
    failed(&mut events).await;
    order(&vault, "orders", "c").await;
    drained(&vault).await;
    let batches = shop.batches();
    assert_eq!(batches.len(), 2);
    assert_eq!(batches[1].1, ["a", "b", "c"]);
    assert_ne!(batches[0].0, batches[1].0);
    shop.is_in_order(&vault).await;
}

/// The app's next version folds that lane no more: each goes alone, under the key that the batch carried in its body.
#[tokio::test(start_paused = true)]
async fn without_a_batcher_each_goes_alone() {
    let shop = Shop::open();
    let vault = shop.vault().await;
    shop.next(Mood::Lose);
    let mut events = vault.events();
    orders(&vault, "orders", &["a", "b"]).await;
    failed(&mut events).await;
    vault.shutdown(SECOND).await.expect("shutdown");
    let vault = shop.builder().build().await.expect("vault");
    drained(&vault).await;
    assert_eq!(shop.singles(), ["a", "b"]);
    assert_eq!(shop.applied(), ["a", "b"], "each once");
    shop.is_in_order(&vault).await;
}

/// An item that is no longer wanted is not sent again, not even in its batch.
#[tokio::test(start_paused = true)]
async fn an_expired_item_leaves_its_batch() {
    let shop = Shop::open();
    let vault = shop.vault().await;
    shop.next(Mood::Answer(Reply::fails(FailureKind::Timeout)));
    vault.pause().await.expect("pause");
    order(&vault, "orders", "a").await;
    let request = vault.post("/orders").body("b").idempotency_key("b");
    let request = request.lane("orders").expires_in(SECOND / 2);
    let short = request.enqueue().await.expect("enqueue");
    order(&vault, "orders", "c").await;
    vault.resume().await.expect("resume");
    assert!(matches!(end(&short).await, End::Expired));
    drained(&vault).await;
    assert_eq!(shop.batches().len(), 1);
    assert_eq!(shop.singles(), ["a", "c"]);
    assert_eq!(shop.applied(), ["a", "c"]);
    shop.is_in_order(&vault).await;
}

/// Past the window of its keys a batch is not sent again blindly: each is asked about.
#[tokio::test(start_paused = true)]
async fn a_batch_whose_key_may_be_forgotten_is_asked_about() {
    let shop = Shop::open();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let told = asked.clone();
    let hook = move |unsure: Unsure| {
        let mut told = told.lock().expect("told");
        told.push(unsure.action.key.clone());
        std::future::ready(match &*unsure.action.key {
            "b" => Verified::DidNot,
            _ => Verified::Happened,
        })
    };
    let builder = shop.builder().batcher("orders", Orders::default());
    let builder = builder.idempotency_window(60 * SECOND).verify(hook);
    let vault = builder.build().await.expect("vault");
    shop.next(Mood::Answer(Reply::fails(FailureKind::Timeout)));
    for _ in 0..100 {
        shop.next(Mood::Answer(Reply::unreachable()));
    }
    orders(&vault, "orders", &["a", "b", "c"]).await;
    drained(&vault).await;
    assert_eq!(*asked.lock().expect("asked"), ["a", "b", "c"]);
    assert_eq!(shop.singles(), ["b"]);
    assert_eq!(vault.ledger().await.expect("ledger").delivered, 3);
    shop.is_in_order(&vault).await;
}
