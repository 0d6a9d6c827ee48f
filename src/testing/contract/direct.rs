//! Direct sends: leased by the call that adds them, if nothing is before them.

use super::StoreFactory;
use super::draft::origin;
use super::rig::{Rig, leased_ids, rig};
use crate::action::WireState;
use crate::decide::{DeadLane, Gate, GateKey, GateReason, Settlement};
use crate::store::{Amend, Appended, Direct};

async fn is_queued<F: StoreFactory>(rig: &Rig<'_, F>, direct: Direct) {
    rig.queue(rig.draft("a").direct(direct)).await;
}

/// The caller holds the lease: state, attempt, wire state and times are as after any lease.
pub async fn a_direct_send_in_an_empty_lane_is_leased(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("other lane")).await;
    for (lane, direct) in [("a", Direct::Alone), ("b", Direct::SideBySide)] {
        let record = rig.lease_direct(rig.draft(lane).direct(direct)).await;
        let (attempt, epoch) = (1, rig.opened.epoch);
        let in_flight = crate::action::State::InFlight { attempt, epoch };
        assert_eq!(record.state, in_flight);
        assert_eq!((record.wire, record.attempts), (WireState::MaybeSent, 1));
        assert_eq!(record.first_attempt, Some(rig.now));
        assert_eq!(record.last_attempt, Some(rig.now));
        assert_eq!(rig.record(record.id).await, record);
        assert_eq!(rig.lane(lane).await.in_flight, 1);
        rig.deliver(&record).await;
    }
    assert_eq!(rig.ledger().await.delivered, 2);
}

/// `No` is the worker's business, whatever the lane holds.
pub async fn an_append_that_is_not_direct_is_queued(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    is_queued(&rig, Direct::No).await;
}

/// One in flight: `Alone` waits, `SideBySide` runs.
pub async fn only_side_by_side_runs_beside_another(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let first = rig.lease_direct(rig.draft("a").direct(Direct::Alone)).await;
    let second = rig
        .lease_direct(rig.draft("a").direct(Direct::SideBySide))
        .await;
    assert_eq!(rig.lane("a").await.in_flight, 2);
    is_queued(&rig, Direct::Alone).await;
    assert_eq!(rig.lane("a").await.pending, 3);
    rig.deliver(&second).await;
    rig.deliver(&first).await;
    assert_eq!(rig.lane("a").await.in_flight, 0);
}

/// A direct send never overtakes what its lane already holds, due or not.
pub async fn a_direct_send_never_overtakes_a_queued_action(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a").due(rig.at(60_000))).await;
    is_queued(&rig, Direct::Alone).await;
    is_queued(&rig, Direct::SideBySide).await;
}

/// What its lane leased from the queue is held by the lane too: a direct send does not pass it on the wire.
pub async fn a_direct_send_never_overtakes_what_was_leased(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let leased = rig.lease_only().await;
    is_queued(&rig, Direct::SideBySide).await;
    rig.deliver(&leased).await;
}

/// In one batch too, the first of a lane is the only one that is alone.
pub async fn one_batch_leases_one_alone_of_a_lane(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let batch = [(); 3].map(|()| rig.draft("a").direct(Direct::Alone));
    let appended = rig.append_all(batch).await;
    assert!(matches!(
        appended.as_slice(),
        [
            Appended::Leased { .. },
            Appended::Queued { .. },
            Appended::Queued { .. }
        ]
    ));
}

/// A closed gate, of the origin or of the principal, holds direct sends as it holds queued ones.
pub async fn a_direct_send_waits_at_a_closed_gate(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    for key in [
        GateKey::Origin(origin("a")),
        GateKey::Principal(Some("p".into())),
    ] {
        let gate = Gate::new(key, GateReason::Unreachable, rig.at(1_000), rig.now);
        rig.set_gate(gate).await;
    }
    let draft = |lane: &str| rig.draft(lane).direct(Direct::SideBySide);
    rig.queue(draft("a")).await;
    rig.queue(draft("b").origin("b").principal("p")).await;
    rig.lease_direct(draft("c").origin("b")).await;
    rig.wait(1_001);
    rig.lease_direct(rig.draft("d").direct(Direct::Alone)).await;
}

/// The app said stop: a direct send waits too, until it is resumed, over a restart.
pub async fn a_direct_send_waits_while_the_vault_is_paused(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.done(Amend::Pause { paused: true }).await;
    is_queued(&rig, Direct::Alone).await;
    let rig = rig.restart().await;
    rig.queue(rig.draft("b").direct(Direct::SideBySide)).await;
    rig.done(Amend::Pause { paused: false }).await;
    rig.lease_direct(rig.draft("c").direct(Direct::Alone)).await;
}

/// A blocked lane waits for a person; a direct send must not slip past the dead letter.
pub async fn a_direct_send_waits_in_a_blocked_lane(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.dead_letter(rig.draft("a"), DeadLane::Block).await;
    is_queued(&rig, Direct::Alone).await;
    let rig = super::rig::rig(factory).await;
    rig.dead_letter(rig.draft("a"), DeadLane::Block).await;
    is_queued(&rig, Direct::SideBySide).await;
}

/// A dead letter that stepped aside is no longer in the lane.
pub async fn a_direct_send_passes_a_dead_letter_that_stepped_aside(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.dead_letter(rig.draft("a"), DeadLane::Skip).await;
    rig.lease_direct(rig.draft("a").direct(Direct::Alone)).await;
}

/// What came later waits behind a direct send that failed, and goes out after it.
pub async fn a_failed_direct_send_keeps_its_place(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let direct = rig.lease_direct(rig.draft("a").direct(Direct::Alone)).await;
    let later = rig.queue(rig.draft("a")).await;
    rig.leases_nothing().await;
    rig.retry(&direct, rig.at(1_000)).await;
    rig.leases_nothing().await;
    assert_eq!(rig.lane("a").await.head, Some(direct.id));
    rig.wait(1_000);
    let again = rig.lease_only().await;
    assert_eq!(again.id, direct.id);
    rig.deliver(&again).await;
    assert_eq!(rig.lease_only().await.id, later.id);
}

/// Three side by side fail in the wrong order: they go out again in the order in which they came, one at a time.
pub async fn failed_sends_side_by_side_return_to_their_order(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let mut sent = Vec::new();
    for _ in 0..3 {
        let draft = rig.draft("a").direct(Direct::SideBySide);
        sent.push(rig.lease_direct(draft).await);
    }
    let later = rig.queue(rig.draft("a")).await.id;
    rig.retry(&sent[2], rig.now).await;
    rig.leases_nothing().await;
    rig.retry(&sent[0], rig.now).await;
    rig.leases_nothing().await;
    rig.deliver(&sent[1]).await;
    for want in [sent[0].id, sent[2].id, later] {
        let leased = rig.lease(10).await;
        assert_eq!(leased_ids(&leased), [want]);
        rig.deliver(&leased[0].record).await;
    }
}

/// A refusal that went to the caller is counted and not kept; the lane goes on.
pub async fn a_returned_send_leaves_only_its_count(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let direct = rig.lease_direct(rig.draft("a").direct(Direct::Alone)).await;
    let later = rig.queue(rig.draft("a")).await;
    rig.settle(&direct, Settlement::Returned).await;
    assert!(rig.find(direct.id).await.is_none());
    assert!(rig.store.body(direct.id).await.expect("body").is_none());
    let totals = rig.totals().await;
    assert_eq!((totals.ledger.returned, totals.ledger.enqueued), (1, 2));
    assert_eq!((totals.counts.retained, totals.counts.pending), (0, 1));
    assert_eq!(rig.lease_only().await.id, later.id);
}
