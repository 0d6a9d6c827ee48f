//! Dead letters: how they come to be, what their lane does, and their two ways out.

use bytes::Bytes;

use super::StoreFactory;
use super::rig::{bytes_of, ids, lane, rejected, rig, settle_of};
use crate::action::{ActionId, State};
use crate::decide::{DeadLane, Settlement};
use crate::store::{Amend, Amended, Part};

/// Reason, time, body and answer are kept, so that a person can judge it.
pub async fn a_dead_letter_keeps_everything(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a").body("precious")).await;
    let leased = rig.lease_only().await;
    let (reason, lane) = (rejected(), DeadLane::Skip);
    let mut settle = settle_of(&leased, Settlement::Dead { reason, lane });
    settle.status = Some(404);
    settle.error = Some("not found".into());
    settle.answer = Some(Bytes::from_static(b"no such thing"));
    let dead = rig.settle_with(settle).await.expect("accepted");
    let (reason, at) = (rejected(), rig.now);
    assert_eq!(dead.state, State::Dead { reason, at });
    assert_eq!(dead.last_status, Some(404));
    assert_eq!(dead.last_error.as_deref(), Some("not found"));
    let rig = rig.restart().await;
    assert_eq!(rig.record(dead.id).await, dead);
    let body = rig.store.body(dead.id).await.expect("body");
    assert_eq!(&bytes_of(&body.expect("a body"))[..], b"precious");
    let answer = rig.store.answer(dead.id).await.expect("answer");
    assert_eq!(answer.as_deref(), Some(&b"no such thing"[..]));
    let totals = rig.totals().await;
    assert_eq!((totals.ledger.dead, totals.counts.dead), (1, 1));
    assert_eq!((totals.ledger.pending, totals.counts.in_flight), (0, 0));
}

/// The dead letter steps aside; the same step may lease what comes after it.
pub async fn a_lane_goes_on_after_a_dead_letter(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue_many("a", 2).await;
    let leased = rig.lease_only().await;
    let (reason, lane) = (rejected(), DeadLane::Skip);
    let mut step = rig.leasing(1);
    step.settle
        .push(settle_of(&leased, Settlement::Dead { reason, lane }));
    let advanced = rig.advance(step).await;
    assert_eq!(advanced.leased[0].record.id, queued[1].id);
    let totals = rig.lane("a").await;
    assert_eq!((totals.pending, totals.in_flight), (1, 1));
    assert_eq!((totals.head, totals.blocked_by), (Some(queued[1].id), None));
    assert_eq!(rig.totals().await.counts.blocked_lanes, 0);
}

/// The lane waits behind the dead letter, over restarts; other lanes do not.
pub async fn a_lane_waits_behind_a_dead_letter_that_blocks_it(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let dead = rig.dead_letter(rig.draft("a"), DeadLane::Block).await;
    rig.queue_many("a", 2).await;
    let other = rig.queue(rig.draft("b")).await;
    assert_eq!(rig.lease_only().await.id, other.id);
    let rig = rig.restart().await;
    assert_eq!(rig.lane("a").await.blocked_by, Some(dead.id));
    assert_eq!(rig.lane("a").await.pending, 2);
    assert_eq!(rig.totals().await.counts.blocked_lanes, 1);
    let other = rig.lease_only().await;
    assert_eq!(other.lane, lane("b"));
}

/// One dead letter blocks, another of the same lane too (they were side by side): the lane waits for both.
pub async fn a_lane_waits_for_every_dead_letter_that_blocks_it(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let mut sent = Vec::new();
    for _ in 0..2 {
        let draft = rig.draft("a").direct(crate::store::Direct::SideBySide);
        sent.push(rig.lease_direct(draft).await);
    }
    let later = rig.queue(rig.draft("a")).await;
    for record in &sent {
        rig.die(record, DeadLane::Block).await;
    }
    assert_eq!(rig.totals().await.counts.blocked_lanes, 1);
    rig.done(Amend::Discard { id: sent[1].id }).await;
    assert_eq!(rig.lane("a").await.blocked_by, Some(sent[0].id));
    rig.leases_nothing().await;
    rig.done(Amend::Discard { id: sent[0].id }).await;
    assert_eq!(rig.lane("a").await.blocked_by, None);
    assert_eq!(rig.lease_only().await.id, later.id);
}

/// Back to the end of its lane: same key, same body, all its retries again, ready at once.
pub async fn a_requeued_dead_letter_goes_to_the_end_of_its_lane(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let draft = rig.draft("a").key("k").body("precious");
    rig.queue(draft).await;
    let leased = rig.lease_only().await;
    rig.retry(&leased, rig.now).await;
    let leased = rig.lease_only().await;
    let dead = rig.die(&leased, DeadLane::Skip).await;
    let later = rig.queue_many("a", 2).await;
    let records = match rig.requeue(dead.id).await {
        Amended::Done(records) => records,
        other => panic!("expected Done, got {other:?}"),
    };
    assert_eq!(ids(&records), [dead.id]);
    let record = &records[0];
    assert_eq!(*record, rig.record(dead.id).await);
    assert_eq!(
        (record.state.name(), record.attempts_counted),
        ("queued", 0)
    );
    assert_eq!(record.key.as_deref(), Some("k"));
    assert!(record.seq > later[1].seq);
    let pending = rig.all(Part::Lane(lane("a")), 10).await;
    assert_eq!(ids(&pending), [later[0].id, later[1].id, dead.id]);
    let totals = rig.totals().await;
    assert_eq!((totals.ledger.dead, totals.counts.dead), (0, 0));
    assert_eq!((totals.ledger.pending, totals.ledger.enqueued), (3, 3));
    for want in ids(&pending) {
        let leased = rig.lease_only().await;
        assert_eq!(leased.id, want);
        rig.deliver(&leased).await;
    }
    assert!(rig.record(dead.id).await.attempts > dead.attempts);
}

/// The lane was waiting for it: it is free, and the requeued one is at its old place, the first.
pub async fn requeueing_the_dead_letter_frees_its_lane(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let dead = rig.dead_letter(rig.draft("a"), DeadLane::Block).await;
    let later = rig.queue(rig.draft("a")).await;
    rig.requeue(dead.id).await;
    assert_eq!(rig.lane("a").await.blocked_by, None);
    assert_eq!(rig.lane("a").await.head, Some(dead.id));
    assert_eq!(rig.totals().await.counts.blocked_lanes, 0);
    for want in [dead.id, later.id] {
        let leased = rig.lease_only().await;
        assert_eq!(leased.id, want);
        rig.deliver(&leased).await;
    }
}

/// In an empty lane the end is the head.
pub async fn a_requeued_dead_letter_alone_in_its_lane_is_ready(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    for lane in [DeadLane::Skip, DeadLane::Block] {
        let dead = rig.dead_letter(rig.draft("a"), lane).await;
        rig.requeue(dead.id).await;
        assert_eq!(rig.lane("a").await.head, Some(dead.id));
        let leased = rig.lease_only().await;
        assert_eq!(leased.id, dead.id);
        rig.deliver(&leased).await;
    }
}

/// Forgotten, but not by the ledger; a lane that waited for it goes on.
pub async fn a_discarded_dead_letter_is_gone_but_counted(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let dead = rig.dead_letter(rig.draft("a"), DeadLane::Block).await;
    let later = rig.queue(rig.draft("a")).await;
    rig.done(Amend::Discard { id: dead.id }).await;
    assert!(rig.find(dead.id).await.is_none());
    assert!(rig.store.body(dead.id).await.expect("body").is_none());
    assert!(rig.all(Part::Dead, 10).await.is_empty());
    let totals = rig.totals().await;
    assert_eq!((totals.ledger.dead, totals.counts.dead), (1, 0));
    assert_eq!(
        (totals.counts.blocked_lanes, totals.counts.bytes),
        (0, later.weight())
    );
    assert_eq!(rig.lease_only().await.id, later.id);
}

/// Requeue and discard are for dead letters alone.
pub async fn only_dead_letters_are_requeued_or_discarded(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let refused = async |id: ActionId| {
        let before = (rig.record(id).await, rig.totals().await);
        for change in [Amend::Requeue { id, now: rig.now }, Amend::Discard { id }] {
            let amended = rig.amend(change).await;
            assert!(
                matches!(&amended, Amended::NotNow(record) if *record == before.0),
                "{amended:?}"
            );
            assert_eq!((rig.record(id).await, rig.totals().await), before);
        }
    };
    let id = rig.queue(rig.draft("a")).await.id;
    refused(id).await;
    let leased = rig.lease_only().await;
    refused(id).await;
    rig.deliver(&leased).await;
    refused(id).await;
    let id = ActionId::new();
    let now = rig.now;
    assert!(matches!(rig.requeue(id).await, Amended::Unknown));
    assert!(matches!(
        rig.amend(Amend::Discard { id }).await,
        Amended::Unknown
    ));
    assert!(matches!(
        rig.amend(Amend::Cancel { id, now }).await,
        Amended::Unknown
    ));
}

/// Time does not touch dead letters: not their expiry, not the retention of settled actions.
pub async fn a_dead_letter_stays_until_somebody_acts(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let draft = rig.draft("a").expires(rig.at(1_000));
    let dead = rig.dead_letter(draft, DeadLane::Skip).await;
    rig.wait(1_000_000_000);
    let mut step = rig.leasing(10);
    step.retention = crate::store::Retention {
        age: std::time::Duration::ZERO,
        count: 0,
        bytes: 0,
    };
    let advanced = rig.advance(step).await;
    assert!(advanced.expired.is_empty() && advanced.next_due.is_none());
    assert_eq!(rig.record(dead.id).await, dead);
}
