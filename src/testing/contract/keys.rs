//! Idempotency keys: who has a key, for how long, and what a second append with it gets.

use std::time::Duration;

use super::StoreFactory;
use super::draft::Draft;
use super::rig::{Rig, rig};
use crate::action::{ActionId, State};
use crate::decide::{DeadLane, Settlement};
use crate::store::{Amend, Appended, Retention};

/// The same key must find `id` again in this state, and adds nothing.
async fn key_is_taken<F: StoreFactory>(rig: &Rig<'_, F>, id: ActionId, state: &str) {
    let before = rig.totals().await;
    let again = rig.draft("a").key("k").fingerprint("f");
    match rig.append(again).await {
        Appended::Known { record } => assert_eq!((record.id, record.state.name()), (id, state)),
        other => panic!("expected Known while {state}, got {other:?}"),
    }
    let different = rig.draft("b").key("k").fingerprint("other");
    match rig.append(different).await {
        Appended::Conflict { id: holder } => assert_eq!(holder, id),
        other => panic!("expected Conflict while {state}, got {other:?}"),
    }
    assert_eq!(rig.totals().await, before, "nothing was added");
}

/// The same key must be free: it gives a new action, which the key then finds.
async fn key_is_free<F: StoreFactory>(rig: &Rig<'_, F>, draft: Draft) {
    let record = rig.queue(draft.key("k").fingerprint("other")).await;
    assert_eq!(rig.find_key("k").await.expect("the new one").id, record.id);
}

/// The key of an action is taken while it is queued, in flight, dead or freshly delivered.
pub async fn a_key_is_taken_through_the_life_of_its_action(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let id = rig.queue(rig.draft("a").key("k").fingerprint("f")).await.id;
    key_is_taken(&rig, id, "queued").await;
    let leased = rig.lease_only().await;
    key_is_taken(&rig, id, "in_flight").await;
    rig.die(&leased, DeadLane::Skip).await;
    key_is_taken(&rig, id, "dead").await;
    rig.requeue(id).await;
    key_is_taken(&rig, id, "queued").await;
    let leased = rig.lease_only().await;
    rig.deliver(&leased).await;
    key_is_taken(&rig, id, "delivered").await;
    let rig = rig.restart().await;
    key_is_taken(&rig, id, "delivered").await;
}

/// Without a key the id is the key: the same action appended again is the same ticket.
pub async fn an_id_is_the_key_of_an_action_without_one(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let first = rig.draft("a").fingerprint("f");
    let id = first.id();
    rig.queue(first).await;
    let again = rig.draft("a").with_id(id).fingerprint("f");
    assert!(matches!(
        rig.append(again).await,
        Appended::Known { record } if record.id == id
    ));
    let different = rig.draft("a").with_id(id).fingerprint("other");
    assert!(matches!(
        rig.append(different).await,
        Appended::Conflict { id: holder } if holder == id
    ));
    assert_eq!(rig.ledger().await.enqueued, 1);
}

/// A batch is taken in its order, so its second append already sees the first.
pub async fn a_key_twice_in_one_batch_is_added_once(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let draft = |fingerprint: &str| rig.draft("a").key("k").fingerprint(fingerprint);
    let appended = rig
        .append_all([draft("f"), draft("f"), draft("other")])
        .await;
    let [
        Appended::Queued { record, .. },
        Appended::Known { record: known },
        Appended::Conflict { id },
    ] = appended.as_slice()
    else {
        panic!("expected Queued, Known, Conflict, got {appended:?}");
    };
    assert_eq!((known.id, *id), (record.id, record.id));
    assert_eq!(rig.ledger().await.enqueued, 1);
}

/// Retention may keep the record longer than the key: `key_retention` alone says how long the key is taken.
pub async fn a_delivered_key_is_free_after_its_retention(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let old = rig
        .delivered(rig.draft("a").key("k").fingerprint("f"))
        .await;
    let within = |rig: &Rig<'_, _>| {
        let draft = rig.draft("a").key("k").fingerprint("f");
        draft.key_retention(Duration::from_secs(10))
    };
    rig.wait(9_000);
    let known = rig.append(within(&rig)).await;
    assert!(matches!(known, Appended::Known { record } if record.id == old.id));
    rig.wait(2_000);
    let draft = rig.draft("a").key_retention(Duration::from_secs(10));
    key_is_free(&rig, draft).await;
}

/// The caller saw the refusal: a second try with the same key is a new action.
pub async fn a_returned_action_frees_its_key(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let draft = rig.draft("a").key("k").fingerprint("f");
    let direct = rig
        .lease_direct(draft.direct(crate::store::Direct::Alone))
        .await;
    rig.settle(&direct, Settlement::Returned).await;
    assert!(rig.find(direct.id).await.is_none());
    assert!(rig.find_key("k").await.is_none());
    key_is_free(&rig, rig.draft("a")).await;
}

/// Cancelled: the app took it back, so it may ask again.
pub async fn a_cancelled_action_frees_its_key(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let id = rig.queue(rig.draft("a").key("k")).await.id;
    rig.cancel(id).await;
    key_is_free(&rig, rig.draft("a")).await;
}

/// Expired: it was never delivered, so the same key may be tried again.
pub async fn an_expired_action_frees_its_key(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let draft = rig.draft("a").key("k").due(rig.at(100)).expires(rig.at(10));
    rig.queue(draft).await;
    rig.wait(11);
    rig.leases_nothing().await;
    key_is_free(&rig, rig.draft("a")).await;
}

/// Superseded: another action took its place.
pub async fn a_superseded_action_frees_its_key(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a").key("k").coalesce("c")).await;
    rig.queue(rig.draft("a").coalesce("c")).await;
    key_is_free(&rig, rig.draft("a")).await;
}

/// A discarded dead letter is forgotten, and its key with it.
pub async fn a_discarded_dead_letter_frees_its_key(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let dead = rig
        .dead_letter(rig.draft("a").key("k"), DeadLane::Skip)
        .await;
    rig.done(Amend::Discard { id: dead.id }).await;
    assert!(rig.find_key("k").await.is_none());
    key_is_free(&rig, rig.draft("a")).await;
}

/// A dead letter keeps its key for as long as it lies there: it may still be requeued.
pub async fn a_dead_letter_keeps_its_key_for_ever(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let draft = rig.draft("a").key("k").fingerprint("f");
    let dead = rig.dead_letter(draft, DeadLane::Skip).await;
    rig.wait(400 * 24 * 60 * 60 * 1000);
    rig.leases_nothing().await;
    key_is_taken(&rig, dead.id, "dead").await;
}

/// Two actions had the key, one after the other: forgetting the old one must not take the key from the new one.
pub async fn forgetting_an_old_action_leaves_the_key_with_its_successor(
    factory: &impl StoreFactory,
) {
    let mut rig = rig(factory).await;
    let old = rig
        .delivered(rig.draft("a").key("k").fingerprint("f"))
        .await;
    rig.wait(2_000);
    let again = rig.draft("a").key("k").fingerprint("f").due(rig.at(90_000));
    let new = rig.queue(again.key_retention(Duration::from_secs(1))).await;
    let mut step = rig.step();
    step.retention = Retention {
        age: Duration::from_secs(1),
        ..Retention::default()
    };
    rig.advance(step).await;
    assert!(rig.find(old.id).await.is_none(), "the old one is forgotten");
    assert_eq!(rig.find_key("k").await.expect("the new one").id, new.id);
    key_is_taken(&rig, new.id, "queued").await;
    assert!(matches!(
        rig.record(new.id).await.state,
        State::Queued { .. }
    ));
}

/// What retention took away is forgotten with its key.
pub async fn a_forgotten_action_frees_its_key(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let old = rig.delivered(rig.draft("a").key("k")).await;
    rig.wait(1);
    let mut step = rig.step();
    step.retention.count = 0;
    rig.advance(step).await;
    assert!(rig.find(old.id).await.is_none());
    assert!(rig.find_key("k").await.is_none());
    key_is_free(&rig, rig.draft("a")).await;
}
