//! `next_due`: the one timer of the vault. Too early costs a spin, too late a delivery.

use super::StoreFactory;
use super::draft::origin;
use super::rig::{rig, settle_of};
use crate::decide::{DeadLane, Gate, GateKey, GateReason, Settlement};
use crate::store::Amend;

/// An empty store waits for an event.
pub async fn nothing_is_due_in_an_empty_store(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    assert_eq!(rig.next_due().await, None);
    rig.delivered(rig.draft("a")).await;
    rig.dead_letter(rig.draft("a"), DeadLane::Skip).await;
    assert_eq!(rig.next_due().await, None);
}

/// Something is ready and was not leased: due at once.
pub async fn what_is_ready_is_due_now(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    rig.queue(rig.draft("b")).await;
    assert!(rig.next_due().await.expect("ready") <= rig.now);
    let advanced = rig.advance(rig.leasing(1)).await;
    assert!(advanced.next_due.expect("one is left") <= rig.now);
}

/// The earliest head counts; what stands behind a head does not.
pub async fn the_earliest_head_is_due(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a").due(rig.at(3_000))).await;
    assert_eq!(rig.next_due().await, Some(rig.at(3_000)));
    rig.queue(rig.draft("b").due(rig.at(2_000))).await;
    assert_eq!(rig.next_due().await, Some(rig.at(2_000)));
    rig.queue(rig.draft("b").due(rig.at(1_000))).await;
    assert_eq!(rig.next_due().await, Some(rig.at(2_000)));
    let rig = rig.restart().await;
    let due = rig.ago(1).as_millis() + 2_000;
    assert_eq!(rig.next_due().await.map(|due| due.as_millis()), Some(due));
}

/// A retry is due when its backoff is over.
pub async fn a_retry_is_due_after_its_backoff(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue_many("a", 2).await;
    let leased = rig.lease_only().await;
    let mut step = rig.leasing(10);
    step.settle
        .push(settle_of(&leased, super::rig::retry_at(rig.at(800))));
    assert_eq!(rig.advance(step).await.next_due, Some(rig.at(800)));
}

/// Behind a closed gate, the time of its opening counts, or the action's own if that is later.
pub async fn what_waits_at_a_gate_is_due_when_it_opens(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let close = |until| {
        let key = GateKey::Origin(origin("a"));
        rig.set_gate(Gate::new(key, GateReason::RateLimited, until, rig.now))
    };
    close(rig.at(5_000)).await;
    assert_eq!(rig.next_due().await, None, "nothing waits at the gate");
    rig.queue(rig.draft("later").due(rig.at(7_000))).await;
    assert_eq!(rig.next_due().await, Some(rig.at(7_000)));
    rig.queue(rig.draft("now")).await;
    assert_eq!(rig.next_due().await, Some(rig.at(5_000)));
    rig.queue(rig.draft("elsewhere").origin("b").due(rig.at(6_000)))
        .await;
    close(rig.at(20_000)).await;
    assert_eq!(rig.next_due().await, Some(rig.at(6_000)));
}

/// An expiry is an event of time too, wherever in its lane the action stands.
pub async fn an_expiry_is_due(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a").due(rig.at(9_000)).expires(rig.at(8_000)))
        .await;
    assert_eq!(rig.next_due().await, Some(rig.at(8_000)));
    rig.queue(rig.draft("b").due(rig.at(9_000))).await;
    rig.queue(rig.draft("b").expires(rig.at(4_000))).await;
    assert_eq!(rig.next_due().await, Some(rig.at(4_000)));
}

/// Nothing but an answer helps: no timer. An attempt that runs is not cut off by its action's expiry.
pub async fn what_is_in_flight_is_not_due(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a").expires(rig.at(1_000))).await;
    rig.queue(rig.draft("a")).await;
    let advanced = rig.advance(rig.leasing(1)).await;
    assert_eq!((advanced.leased.len(), advanced.next_due), (1, None));
}

/// A blocked lane waits for a person, not for time.
pub async fn a_blocked_lane_is_not_due(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let dead = rig.dead_letter(rig.draft("a"), DeadLane::Block).await;
    rig.queue(rig.draft("a").due(rig.at(500))).await;
    assert_eq!(rig.next_due().await, None);
    rig.done(Amend::Discard { id: dead.id }).await;
    assert_eq!(rig.next_due().await, Some(rig.at(500)));
}

/// At `next_due` there is something to do, and after doing it the timer has moved on: no spin.
pub async fn the_timer_always_moves_on(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    for number in 1..=5 {
        let draft = rig.draft(&format!("lane {number}"));
        rig.queue(draft.due(rig.at(number * 1_000))).await;
        let draft = rig.draft(&format!("lane {number}"));
        rig.queue(draft.expires(rig.at(number * 1_300 + 7))).await;
    }
    let key = GateKey::Origin(origin("a"));
    let gate = Gate::new(key, GateReason::Unreachable, rig.at(2_500), rig.now);
    rig.set_gate(gate).await;
    let mut wakes = 0;
    let mut next = rig.next_due().await;
    while let Some(due) = next {
        assert!(due > rig.now, "due {due:?} is not after {:?}", rig.now);
        rig.now = due;
        let advanced = rig.advance(rig.leasing(100)).await;
        assert!(!advanced.leased.is_empty() || !advanced.expired.is_empty());
        next = advanced.next_wake();
        for lease in advanced.leased {
            let mut step = rig.leasing(100);
            step.settle.push(settle_of(
                &lease.record,
                Settlement::Delivered { status: 200 },
            ));
            for lease in rig.advance(step).await.leased {
                rig.deliver(&lease.record).await;
            }
            next = rig.next_due().await;
        }
        wakes += 1;
        assert!(wakes <= 20, "the timer spins");
    }
    assert_eq!(rig.totals().await.counts.pending, 0);
}
