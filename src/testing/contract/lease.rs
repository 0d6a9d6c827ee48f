//! Leasing: which actions, how many, in which order.

use std::collections::HashSet;

use super::StoreFactory;
use super::draft::origin;
use super::rig::{ids, leased_ids, retry_at, rig, settle_of};
use crate::action::{DeadReason, WireState};
use crate::decide::{DeadLane, Settlement};

/// One at a time, each after the one before is settled.
pub async fn a_lane_gives_its_actions_in_order(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue_many("a", 10).await;
    let mut seen = Vec::new();
    for _ in 0..10 {
        let record = rig.lease_only().await;
        rig.leases_nothing().await;
        seen.push(record.id);
        rig.deliver(&record).await;
    }
    assert_eq!(seen, ids(&queued));
    rig.leases_nothing().await;
}

/// Different lanes do not wait for each other.
pub async fn lanes_run_side_by_side(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let mut heads = HashSet::new();
    for lane in ["a", "b", "c", "d"] {
        heads.insert(rig.queue_many(lane, 3).await[0].id);
    }
    let leased = rig.lease(100).await;
    assert_eq!(
        leased_ids(&leased).into_iter().collect::<HashSet<_>>(),
        heads
    );
    assert_eq!(rig.totals().await.counts.in_flight, 4);
}

/// Never more than asked for; the rest comes with the next lease.
pub async fn slots_bound_a_lease(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    for lane in ["a", "b", "c", "d", "e"] {
        rig.queue(rig.draft(lane)).await;
    }
    assert_eq!(rig.lease(0).await.len(), 0);
    assert_eq!(rig.lease(2).await.len(), 2);
    assert_eq!(rig.lease(2).await.len(), 2);
    assert_eq!(rig.lease(2).await.len(), 1);
}

/// A tighter limit holds for its origin; other origins use the slots that are left.
pub async fn origin_slots_bound_one_origin(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    for (lane, to) in [("a", "x"), ("b", "x"), ("c", "x"), ("d", "y"), ("e", "y")] {
        rig.queue(rig.draft(lane).origin(to)).await;
    }
    let mut step = rig.leasing(10);
    let lease = step.lease.as_mut().expect("a lease");
    lease.origin_slots = vec![(origin("x"), 1), (origin("elsewhere"), 0)];
    let leased = rig.advance(step.clone()).await.leased;
    let to = |name| {
        leased
            .iter()
            .filter(|one| one.record.origin == origin(name))
            .count()
    };
    assert_eq!((to("x"), to("y")), (1, 2));
    let leased = rig.advance(step.clone()).await.leased;
    assert_eq!(leased.len(), 1, "one more of it with each lease");
    let lease = step.lease.as_mut().expect("a lease");
    lease.origin_slots = vec![(origin("x"), 0)];
    assert!(rig.advance(step).await.leased.is_empty());
}

/// Higher priority first, among lanes; within a lane the order stands.
pub async fn priority_chooses_among_lanes_and_never_within_one(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let low = rig.queue(rig.draft("low").priority(-5)).await;
    let first = rig.queue(rig.draft("mixed")).await;
    let urgent = rig.queue(rig.draft("mixed").priority(100)).await;
    let high = rig.queue(rig.draft("high").priority(5)).await;
    let mut order = Vec::new();
    for _ in 0..4 {
        let leased = rig.lease(1).await;
        order.extend(leased_ids(&leased));
        rig.deliver(&leased[0].record).await;
    }
    assert_eq!(order, [high.id, first.id, urgent.id, low.id]);
}

/// Among equals, what has been due for longest goes first.
pub async fn the_oldest_due_head_goes_first(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let mut want = Vec::new();
    for (lane, due) in [("a", 30), ("b", 10), ("c", 20)] {
        let record = rig.queue(rig.draft(lane).due(rig.at(due))).await;
        want.push((due, record.id));
    }
    want.sort_unstable();
    rig.wait(100);
    for (_, id) in want {
        assert_eq!(leased_ids(&rig.lease(1).await), [id]);
    }
}

/// A time that the app set is respected, and the lane waits behind it.
pub async fn an_action_is_not_leased_before_its_time(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let first = rig.queue(rig.draft("a").due(rig.at(1_000))).await;
    let second = rig.queue(rig.draft("a")).await;
    rig.leases_nothing().await;
    rig.wait(999);
    rig.leases_nothing().await;
    rig.wait(1);
    let leased = rig.lease_only().await;
    assert_eq!(leased.id, first.id);
    rig.deliver(&leased).await;
    assert_eq!(rig.lease_only().await.id, second.id);
}

/// A later action of a lane may be due in the future: it waits for that after it has become the head.
pub async fn the_next_head_waits_for_its_own_time(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let second = rig.queue(rig.draft("a").due(rig.at(1_000))).await;
    let leased = rig.lease_only().await;
    rig.deliver(&leased).await;
    rig.leases_nothing().await;
    rig.wait(1_000);
    assert_eq!(rig.lease_only().await.id, second.id);
}

/// From the lease on the record says that bytes may have left; the lease tells what was known before.
pub async fn a_leased_action_is_maybe_sent_on_disk(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let id = rig.queue(rig.draft("a")).await.id;
    let mut before = WireState::NeverSent;
    for wire in [
        WireState::NeverSent,
        WireState::Answered,
        WireState::MaybeSent,
    ] {
        let leased = rig.lease(1).await.pop().expect("one is ready");
        assert_eq!(leased.wire_before, before);
        assert_eq!(leased.record.wire, WireState::MaybeSent);
        assert_eq!(rig.record(id).await.wire, WireState::MaybeSent);
        let mut settle = settle_of(&leased.record, super::rig::retry_at(rig.now));
        settle.wire = wire;
        let record = rig.settle_with(settle).await.expect("accepted");
        assert_eq!(record.wire, wire);
        before = wire;
    }
}

/// The attempt number grows with every lease; the times of the first and of the newest attempt are kept.
pub async fn a_lease_counts_its_attempt_and_keeps_its_times(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    rig.wait(10);
    let first = rig.now;
    let mut previous = None;
    for attempt in 1..=3 {
        let record = rig.lease_only().await;
        assert_eq!(record.attempts, attempt);
        assert_eq!(record.first_attempt, Some(first));
        assert_eq!(record.last_attempt, Some(rig.now));
        assert_eq!(record.previous_attempt, previous);
        previous = record.last_attempt;
        rig.retry(&record, rig.at(5)).await;
        rig.wait(10);
    }
}

/// From the first attempt that may have left on, the server knows the key. That time is on disk before the first byte leaves.
pub async fn the_first_attempt_that_may_have_left_survives_a_crash(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let unreached = rig.lease_only().await;
    let mut settle = settle_of(&unreached, retry_at(rig.at(5)));
    settle.wire = WireState::NeverSent;
    rig.settle_with(settle).await.expect("accepted");
    rig.wait(10);
    let first = rig.now;
    assert_eq!(rig.lease_only().await.first_attempt, Some(first));
    let mut rig = rig.crash().await;
    rig.wait(10);
    let again = rig.lease_only().await;
    assert_eq!(again.first_attempt, Some(first));
    let sent = rig.die(&again, DeadLane::Skip).await;
    rig.requeue(sent.id).await;
    assert_eq!(
        rig.lease_only().await.first_attempt,
        Some(first),
        "a person sends it back"
    );
}

/// Whoever sends an uncertain one back answers for it: its first attempt is the next one.
pub async fn an_uncertain_letter_that_is_sent_back_starts_anew(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let leased = rig.lease_only().await;
    let reason = DeadReason::Uncertain { since: rig.now };
    let lane = DeadLane::Skip;
    rig.settle(&leased, Settlement::Dead { reason, lane }).await;
    rig.requeue(leased.id).await;
    rig.wait(10);
    let again = rig.lease_only().await;
    assert_eq!(again.first_attempt, Some(rig.now));
}

/// Settling n and leasing n+1 is one commit.
pub async fn one_advance_settles_and_leases_the_next(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue_many("a", 4).await;
    let mut record = rig.lease_only().await;
    for want in &queued[1..] {
        let mut step = rig.leasing(1);
        let delivered = Settlement::Delivered { status: 204 };
        step.settle.push(settle_of(&record, delivered));
        let mut advanced = rig.advance(step).await;
        let settled = advanced.settled.pop().flatten().expect("accepted");
        assert_eq!(settled.state.name(), "delivered");
        record = advanced.leased.pop().expect("the next").record;
        assert_eq!(record.id, want.id);
    }
}

/// A full lane of a hundred and ten small ones, one slot: within one round each of the small ones had its turn.
pub async fn a_hot_lane_does_not_starve_others(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    rig.queue_many("hot", 100).await;
    let mut waiting = HashSet::new();
    for number in 0..10 {
        let record = rig.queue(rig.draft(&format!("small {number}"))).await;
        waiting.insert(record.id);
    }
    let mut last = None;
    let mut turns = 0;
    while !waiting.is_empty() {
        let mut step = rig.leasing(1);
        step.settle.extend(last.take());
        let leased = rig.advance(step).await.leased;
        let record = &leased.first().expect("something is ready").record;
        waiting.remove(&record.id);
        last = Some(settle_of(record, Settlement::Delivered { status: 200 }));
        turns += 1;
        assert!(
            turns <= 12,
            "still waiting after {turns} turns: {waiting:?}"
        );
        rig.wait(1);
    }
}

/// More lanes than slots, all refilled: nobody is served twice before everybody was served once.
pub async fn lanes_take_turns(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    for number in 0..6 {
        rig.queue_many(&format!("lane {number}"), 3).await;
    }
    for round in 0..3 {
        let mut served = HashSet::new();
        for _ in 0..3 {
            let leased = rig.lease(2).await;
            // Sending takes time: who comes back to the queue comes after those who waited.
            rig.wait(1);
            for lease in leased {
                served.insert(lease.record.lane.clone());
                rig.deliver(&lease.record).await;
            }
        }
        assert_eq!(
            served.len(),
            6,
            "in round {round} only {served:?} were served"
        );
    }
}

/// A hundred lanes at once: no lane twice, none forgotten.
pub async fn many_lanes_are_leased_at_once(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let drafts = (0..300).map(|number| rig.draft(&format!("lane {}", number % 100)));
    rig.append_all(drafts).await;
    let mut total = 0;
    for _ in 0..3 {
        let leased = rig.lease(1_000).await;
        let lanes: HashSet<_> = leased.iter().map(|lease| &lease.record.lane).collect();
        assert_eq!((leased.len(), lanes.len()), (100, 100));
        let mut step = rig.step();
        let delivered = Settlement::Delivered { status: 200 };
        let settles = leased
            .iter()
            .map(|lease| settle_of(&lease.record, delivered.clone()));
        step.settle = settles.collect();
        total += rig.advance(step).await.settled.iter().flatten().count();
    }
    assert_eq!(total, 300);
    assert_eq!(rig.totals().await.counts.pending, 0);
}
