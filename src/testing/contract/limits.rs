//! What the queue may hold: by count and by bytes. A full queue refuses, it never drops.

use super::StoreFactory;
use super::rig::rig;
use crate::decide::{DeadLane, Settlement};
use crate::store::{Amend, Appended};

/// Pending actions and dead letters count together, delivered ones do not.
pub async fn a_full_count_refuses_and_changes_nothing(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.delivered(rig.draft("a")).await;
    let dead = rig.dead_letter(rig.draft("a"), DeadLane::Skip).await;
    rig.queue(rig.draft("a")).await;
    let leased = rig.lease_only().await;
    rig.queue(rig.draft("b").actions_max(3)).await;
    let before = rig.totals().await;
    let refused = rig.draft("c").actions_max(3);
    let id = refused.id();
    let Appended::Full { limit } = rig.append(refused).await else {
        panic!("expected Full");
    };
    assert!(!limit.is_empty(), "the limit is named");
    assert_eq!(rig.totals().await, before);
    assert!(rig.find(id).await.is_none());
    rig.deliver(&leased).await;
    rig.queue(rig.draft("c").actions_max(3)).await;
    rig.done(Amend::Discard { id: dead.id }).await;
    rig.queue(rig.draft("c").actions_max(3)).await;
}

/// Bodies and request heads weigh; a smaller action may still fit.
pub async fn full_bytes_refuse_and_change_nothing(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let first = rig.draft("a").body(vec![1; 20_000]);
    let bytes_max = first.weight() + 1_000;
    rig.queue(first.bytes_max(bytes_max)).await;
    let before = rig.totals().await;
    let large = rig.draft("b").body(vec![2; 1_000]).bytes_max(bytes_max);
    assert!(matches!(rig.append(large).await, Appended::Full { .. }));
    assert_eq!(rig.totals().await, before);
    rig.queue(rig.draft("b").body(vec![3; 10]).bytes_max(bytes_max))
        .await;
    let leased = rig.lease(2).await;
    for lease in leased {
        rig.deliver(&lease.record).await;
    }
    let large = rig.draft("b").body(vec![2; 1_000]);
    rig.queue(large.bytes_max(bytes_max)).await;
}

/// The limits hold inside one batch too.
pub async fn a_batch_fills_the_queue_only_to_its_limit(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let batch = (0..5).map(|_| rig.draft("a").actions_max(3));
    let appended = rig.append_all(batch).await;
    let full = appended
        .iter()
        .filter(|one| matches!(one, Appended::Full { .. }));
    assert_eq!(full.count(), 2);
    assert_eq!(rig.ledger().await.enqueued, 3);
}

/// Known adds nothing, so it needs no room: a repeated send in a full queue gets its ticket.
pub async fn a_known_key_is_known_in_a_full_queue(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a").key("k").fingerprint("f")).await;
    let again = rig.draft("a").key("k").fingerprint("f").actions_max(1);
    assert!(matches!(rig.append(again).await, Appended::Known { .. }));
    let other = rig.draft("a").key("k").fingerprint("other").actions_max(1);
    assert!(matches!(rig.append(other).await, Appended::Conflict { .. }));
}

/// Bytes are those of pending actions and dead letters; every way out gives them back.
pub async fn counted_bytes_follow_every_way_out(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let bytes = async || rig.totals().await.counts.bytes;
    let draft = rig.draft("a").body(vec![0; 9_000]);
    let weight = draft.weight();
    let id = rig.queue(draft.clone()).await.id;
    assert_eq!(bytes().await, weight);
    let leased = rig.lease_only().await;
    assert_eq!(bytes().await, weight, "in flight");
    rig.die(&leased, DeadLane::Skip).await;
    assert_eq!(bytes().await, weight, "dead");
    rig.requeue(id).await;
    assert_eq!(bytes().await, weight, "requeued");
    let leased = rig.lease_only().await;
    rig.deliver(&leased).await;
    assert_eq!(bytes().await, 0, "delivered");

    let copy = || draft.clone().with_id(crate::action::ActionId::new());
    let id = rig.queue(copy()).await.id;
    rig.cancel(id).await;
    assert_eq!(bytes().await, 0, "cancelled");
    let direct = copy().direct(crate::store::Direct::Alone);
    let direct = rig.lease_direct(direct).await;
    assert_eq!(bytes().await, weight, "direct");
    rig.settle(&direct, Settlement::Returned).await;
    assert_eq!(bytes().await, 0, "returned");
    let dead = rig.dead_letter(copy(), DeadLane::Skip).await;
    rig.done(Amend::Discard { id: dead.id }).await;
    assert_eq!(bytes().await, 0, "discarded");
}
