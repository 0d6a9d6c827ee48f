//! Gates: what they hold, when they open, that they are kept.

use std::time::Duration;

use super::StoreFactory;
use super::draft::origin;
use super::rig::{Rig, leased_ids, rig};
use crate::clock::Timestamp;
use crate::decide::{Gate, GateKey, GateReason, Hold, HoldReason};

fn gate<F: StoreFactory>(rig: &Rig<'_, F>, key: GateKey, until: Timestamp) -> Gate {
    Gate::new(key, GateReason::Unavailable, until, rig.now)
}

fn of_origin(name: &str) -> GateKey {
    GateKey::Origin(origin(name))
}

fn of_principal(name: Option<&str>) -> GateKey {
    GateKey::Principal(name.map(Into::into))
}

/// Actions to other origins go on, also from the same call.
pub async fn a_closed_origin_holds_only_its_actions(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let held = rig.queue(rig.draft("a").origin("x")).await;
    let free = rig.queue(rig.draft("b").origin("y")).await;
    let mut step = rig.leasing(10);
    step.gates = vec![gate(&rig, of_origin("x"), rig.at(1_000))];
    let advanced = rig.advance(step).await;
    assert_eq!(leased_ids(&advanced.leased), [free.id]);
    assert_eq!(advanced.next_due, Some(rig.at(1_000)));
    rig.wait(999);
    rig.leases_nothing().await;
    rig.wait(1);
    assert_eq!(rig.lease_only().await.id, held.id);
}

/// An origin behind a closed gate holds its whole lane: order comes first.
pub async fn a_held_head_holds_its_lane(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.set_gate(gate(&rig, of_origin("x"), rig.at(1_000)))
        .await;
    let head = rig.queue(rig.draft("a").origin("x")).await;
    rig.queue(rig.draft("a").origin("y")).await;
    rig.leases_nothing().await;
    assert_eq!(rig.lane("a").await.head, Some(head.id));
}

/// A principal whose credentials fail waits; the others, and those without one, go on.
pub async fn a_closed_principal_holds_only_its_actions(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let held = rig.queue(rig.draft("a").principal("p")).await;
    let other = rig.queue(rig.draft("b").principal("q")).await;
    let nobody = rig.queue(rig.draft("c")).await;
    let until = rig.at(1_000);
    rig.set_gate(gate(&rig, of_principal(Some("p")), until))
        .await;
    let mut leased = leased_ids(&rig.lease(10).await);
    leased.sort_unstable();
    assert_eq!(leased, [other.id, nobody.id]);
    rig.wait(1_000);
    assert_eq!(rig.lease_only().await.id, held.id);
}

/// The gate of nobody is for actions without a principal.
pub async fn the_gate_of_nobody_holds_actions_without_a_principal(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let free = rig.queue(rig.draft("b").principal("p")).await;
    rig.set_gate(gate(&rig, of_principal(None), rig.at(1_000)))
        .await;
    assert_eq!(rig.lease_only().await.id, free.id);
}

/// Both must be open: the later of the two counts.
pub async fn an_action_waits_for_both_its_gates(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let held = rig.queue(rig.draft("a").origin("x").principal("p")).await;
    rig.set_gate(gate(&rig, of_origin("x"), rig.at(500))).await;
    let until = rig.at(1_000);
    rig.set_gate(gate(&rig, of_principal(Some("p")), until))
        .await;
    assert_eq!(rig.next_due().await, Some(until));
    rig.wait(501);
    rig.leases_nothing().await;
    assert_eq!(rig.next_due().await, Some(until));
    rig.wait(500);
    assert_eq!(rig.lease_only().await.id, held.id);
}

/// The newest gate of a key is the one that counts: it may open early or close for longer.
pub async fn a_gate_is_replaced_by_its_key(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let held = rig.queue(rig.draft("a").origin("x")).await;
    rig.set_gate(gate(&rig, of_origin("x"), rig.at(1_000)))
        .await;
    rig.set_gate(gate(&rig, of_origin("x"), rig.at(9_000)))
        .await;
    assert_eq!(rig.next_due().await, Some(rig.at(9_000)));
    rig.set_gate(gate(&rig, of_origin("x"), rig.ago(1))).await;
    assert_eq!(rig.lease_only().await.id, held.id);
    let rig = rig.restart().await;
    assert_eq!(rig.opened.gates.len(), 1);
}

/// A gate in the past is open.
pub async fn an_open_gate_lets_pass(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let free = rig.queue(rig.draft("a").origin("x").principal("p")).await;
    rig.set_gate(gate(&rig, of_origin("x"), rig.ago(1))).await;
    let past = gate(&rig, of_principal(Some("p")), rig.ago(1_000));
    rig.set_gate(past).await;
    assert_eq!(rig.lease_only().await.id, free.id);
}

/// Closed until a time means: at that time it is open.
pub async fn a_gate_is_open_at_its_time(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let held = rig.queue(rig.draft("a").origin("x")).await;
    rig.set_gate(gate(&rig, of_origin("x"), rig.at(10))).await;
    let due = rig.next_due().await.expect("it opens by time alone");
    rig.now = due;
    assert_eq!(rig.lease_only().await.id, held.id);
}

/// Gates survive a restart and a crash as they were written, unknown fields too; a restart loop cannot open them.
pub async fn gates_come_back_at_open(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let mut first = gate(&rig, of_origin("x"), rig.at(60_000));
    (first.failures, first.backoff_ms) = (4, 8_000);
    first.extra.insert("of_tomorrow".into(), 42.into());
    let second = gate(&rig, of_principal(Some("p")), rig.at(50_000));
    let third = gate(&rig, of_principal(None), rig.at(40_000));
    for gate in [&first, &second, &third] {
        rig.set_gate(gate.clone()).await;
    }
    rig.queue(rig.draft("a").origin("x").principal("q")).await;
    let mut want = [first, second, third];
    want.sort_by(|a, b| a.key.cmp(&b.key));
    let rig = rig.restart().await;
    let mut gates = rig.opened.gates.clone();
    gates.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(gates, want);
    rig.leases_nothing().await;
    let mut rig = rig.crash().await;
    assert_eq!(rig.opened.gates.len(), 3);
    rig.leases_nothing().await;
    rig.wait(60_000);
    rig.lease_only().await;
}

/// A forced origin is tried once although its gate is closed (a probe); the gate stays as it is.
pub async fn a_forced_origin_passes_its_closed_gate(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let probe = rig.queue(rig.draft("a").origin("x")).await;
    rig.queue(rig.draft("b").origin("y")).await;
    for name in ["x", "y"] {
        rig.set_gate(gate(&rig, of_origin(name), rig.at(1_000)))
            .await;
    }
    let mut step = rig.leasing(10);
    step.lease.as_mut().expect("a lease").forced = vec![origin("x")];
    assert_eq!(leased_ids(&rig.advance(step).await.leased), [probe.id]);
    rig.queue(rig.draft("c").origin("x")).await;
    rig.leases_nothing().await;
}

/// Forcing an origin does not force the credentials of a principal, nor a time, nor the order of a lane.
pub async fn a_forced_origin_forces_nothing_else(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.set_gate(gate(&rig, of_origin("a"), rig.at(1_000)))
        .await;
    rig.set_gate(gate(&rig, of_principal(Some("p")), rig.at(1_000)))
        .await;
    rig.queue(rig.draft("a").principal("p")).await;
    rig.queue(rig.draft("b").due(rig.at(500))).await;
    rig.queue(rig.draft("b")).await;
    let mut step = rig.leasing(10);
    step.lease.as_mut().expect("a lease").forced = vec![origin("a")];
    assert!(rig.advance(step).await.leased.is_empty());
}

/// Many gates in one step, and the step's own leases already obey them.
pub async fn gates_of_a_step_hold_its_own_leases(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    for number in 0..5 {
        let name = format!("o{number}");
        rig.queue(rig.draft(&name).origin(&name)).await;
    }
    let until = rig.now.after(Duration::from_secs(5));
    let mut step = rig.leasing(10);
    step.gates = (0..4)
        .map(|number| gate(&rig, of_origin(&format!("o{number}")), until))
        .collect();
    let leased = rig.advance(step).await.leased;
    assert_eq!(leased.len(), 1);
    assert_eq!(leased[0].record.origin, origin("o4"));
}

/// What holds starts apart is in the commit of the start: a crash right after it does not let the next one go at once.
pub async fn a_lease_sets_the_gate_that_follows_it(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let first = rig.queue(rig.draft("a").origin("x")).await;
    let second = rig.queue(rig.draft("b").origin("x")).await;
    let mut held = Gate::open(of_origin("x"), rig.now);
    held.origin.hold = Some(Hold::new(rig.at(1_000), HoldReason::SlowStart));
    let other = gate(&rig, of_origin("y"), rig.at(9_000));
    let mut step = rig.leasing(1);
    let lease = step.lease.as_mut().expect("a lease");
    lease.gates_after = vec![held.clone(), other];
    let advanced = rig.advance(step).await;
    assert_eq!(leased_ids(&advanced.leased), [first.id]);
    assert_eq!(advanced.next_due, Some(rig.at(1_000)));
    let mut rig = rig.crash().await;
    assert_eq!(
        rig.opened.gates,
        [held],
        "nothing of the other origin was leased"
    );
    rig.leases_nothing().await;
    rig.wait(1_000);
    let leased = leased_ids(&rig.lease(2).await);
    assert!(leased.contains(&second.id));
}
