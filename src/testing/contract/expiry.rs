//! Expiry: what is no longer wanted leaves the queue, with its name in the ledger.

use std::collections::HashSet;

use super::StoreFactory;
use super::draft::origin;
use super::rig::{ids, rig};
use crate::action::State;
use crate::decide::{DeadLane, Gate, GateKey, GateReason};

/// Past its time a head is not sent; the lane goes on in the same step.
pub async fn an_expired_head_is_not_leased(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let head = rig.queue(rig.draft("a").expires(rig.at(1_000))).await;
    let next = rig.queue(rig.draft("a")).await;
    rig.wait(1_001);
    let advanced = rig.advance(rig.leasing(10)).await;
    assert_eq!(ids(&advanced.expired), [head.id]);
    let at = rig.now;
    assert_eq!(advanced.expired[0].state, State::Expired { at });
    assert_eq!(rig.record(head.id).await, advanced.expired[0]);
    assert_eq!(advanced.leased[0].record.id, next.id);
    let totals = rig.totals().await;
    assert_eq!((totals.ledger.expired, totals.counts.pending), (1, 1));
    assert_eq!(totals.counts.bytes, next.weight());
}

/// Until its time it is sent as any other.
pub async fn an_action_is_sent_before_it_expires(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let record = rig.queue(rig.draft("a").expires(rig.at(1_000))).await;
    rig.wait(999);
    assert_eq!(rig.lease_only().await.id, record.id);
}

/// In the middle of a lane, behind one in flight, behind a gate, behind a dead letter: time is over everywhere.
pub async fn an_expired_action_need_not_be_the_head(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    rig.dead_letter(rig.draft("blocked"), DeadLane::Block).await;
    rig.queue(rig.draft("flying")).await;
    rig.lease_only().await;
    rig.queue(rig.draft("waiting").due(rig.at(90_000))).await;
    let key = GateKey::Origin(origin("x"));
    rig.set_gate(Gate::new(
        key,
        GateReason::Unreachable,
        rig.at(90_000),
        rig.now,
    ))
    .await;
    let mut want = HashSet::new();
    for lane in ["blocked", "flying", "waiting", "gated"] {
        let draft = rig.draft(lane).expires(rig.at(1_000));
        let draft = if lane == "gated" {
            draft.origin("x")
        } else {
            draft
        };
        want.insert(rig.queue(draft).await.id);
        rig.queue(rig.draft(lane).due(rig.at(90_000))).await;
    }
    assert_eq!(rig.next_due().await, Some(rig.at(1_000)));
    rig.wait(1_001);
    let advanced = rig.advance(rig.leasing(10)).await;
    assert_eq!(
        ids(&advanced.expired).into_iter().collect::<HashSet<_>>(),
        want
    );
    assert!(advanced.leased.is_empty());
    assert_eq!(rig.ledger().await.expired, 4);
    assert_eq!(rig.lane("blocked").await.pending, 1);
    assert_eq!(rig.lane("flying").await.pending, 2);
}

/// It expires once.
pub async fn an_action_expires_once(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let draft = rig.draft("a").due(rig.at(5_000)).expires(rig.at(1_000));
    let id = rig.queue(draft).await.id;
    rig.wait(1_001);
    let advanced = rig.advance(rig.leasing(10)).await;
    assert_eq!(ids(&advanced.expired), [id]);
    let advanced = rig.advance(rig.leasing(10)).await;
    assert!(advanced.expired.is_empty());
    let mut rig = rig.restart().await;
    rig.wait(10_000);
    let advanced = rig.advance(rig.leasing(10)).await;
    assert!(advanced.expired.is_empty() && advanced.leased.is_empty());
    assert_eq!(rig.record(id).await.state.name(), "expired");
    assert_eq!(rig.ledger().await.expired, 1);
}

/// An attempt that runs may end well after the time; only what returns to the queue expires.
pub async fn an_action_in_flight_does_not_expire(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    for lane in ["a", "b"] {
        rig.queue(rig.draft(lane).expires(rig.at(1_000))).await;
    }
    let leased = rig.lease(10).await;
    rig.wait(5_000);
    assert!(rig.advance(rig.leasing(10)).await.expired.is_empty());
    rig.deliver(&leased[0].record).await;
    rig.retry(&leased[1].record, rig.now).await;
    rig.leases_nothing().await;
    let state = rig.record(leased[1].record.id).await.state;
    assert_eq!(state.name(), "expired");
    let ledger = rig.ledger().await;
    assert_eq!((ledger.delivered, ledger.expired), (1, 1));
}

/// A whole lane runs out at once: everything that is over leaves, what is not stays in its order.
pub async fn a_lane_expires_in_part(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let drafts = (0..20u64).map(|number| {
        let draft = rig.draft("a").due(rig.at(50_000));
        if number % 2 == 0 {
            draft.expires(rig.at(1_000 + number))
        } else {
            draft
        }
    });
    rig.append_all(drafts).await;
    rig.wait(2_000);
    assert_eq!(rig.advance(rig.leasing(10)).await.expired.len(), 10);
    assert_eq!(rig.lane("a").await.pending, 10);
    rig.wait(48_000);
    let mut last = 0;
    for _ in 0..10 {
        let record = rig.lease_only().await;
        assert!(record.seq > last);
        last = record.seq;
        rig.deliver(&record).await;
    }
}
