//! Runs: what a restart, a crash and a second opener find, and who may still write.

use super::StoreFactory;
use super::rig::{ids, lane, leased_ids, rig, settle_of};
use crate::action::WireState;
use crate::decide::{DeadLane, Settlement};
use crate::store::{Direct, Part};

/// Everything comes back as it was.
pub async fn a_restart_loses_nothing(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.delivered(rig.draft("a").key("delivered")).await;
    rig.dead_letter(rig.draft("b").key("dead"), DeadLane::Block)
        .await;
    rig.queue_many("a", 3).await;
    rig.queue_many("b", 2).await;
    let totals = rig.totals().await;
    let mut parts = Vec::new();
    for part in [Part::Pending, Part::Dead, Part::Settled] {
        parts.push((part.clone(), rig.all(part, 100).await));
    }
    let rig = rig.restart().await;
    assert!(rig.opened.reclaimed.is_empty());
    let rig = rig.crash().await;
    assert_eq!(rig.opened.totals, totals);
    for (part, records) in parts {
        assert_eq!(rig.all(part, 100).await, records);
    }
}

/// A crash in the middle of attempts: they are queued again in their old places, and maybe sent.
pub async fn a_crash_takes_leases_back(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue_many("a", 2).await;
    let direct = rig.lease_direct(rig.draft("b").direct(Direct::Alone)).await;
    let leased = rig.lease_only().await;
    let rig = rig.crash().await;
    let mut reclaimed = rig.opened.reclaimed.clone();
    reclaimed.sort_unstable();
    let mut want = vec![direct.id, leased.id];
    want.sort_unstable();
    assert_eq!(reclaimed, want);
    for id in want {
        let record = rig.record(id).await;
        assert_eq!(
            (record.state.name(), record.wire),
            ("queued", WireState::MaybeSent)
        );
        assert_eq!(record.attempts, 1, "the attempt number is never used again");
        assert!(record.due().expect("queued") <= rig.now, "ready at once");
    }
    assert_eq!(rig.totals().await.counts.in_flight, 0);
    assert_eq!(rig.lane("a").await.in_flight, 0);
    assert_eq!(ids(&rig.all(Part::Lane(lane("a")), 10).await), ids(&queued));
    let again = rig.lease(10).await;
    assert_eq!(again.len(), 2);
    for lease in again {
        assert_eq!(lease.wire_before, WireState::MaybeSent);
        assert_eq!(lease.record.attempts, 2);
        assert_ne!(lease.record.id, queued[1].id);
    }
}

/// A close with attempts still running is no better than a crash for them.
pub async fn a_close_in_mid_attempt_takes_leases_back_too(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let leased = rig.lease_only().await;
    let rig = rig.restart().await;
    assert_eq!(rig.opened.reclaimed, [leased.id]);
    assert_eq!(rig.lease_only().await.wire, WireState::MaybeSent);
    let rig = rig.restart().await;
    assert_eq!(rig.opened.reclaimed, [leased.id]);
    let again = rig.lease_only().await;
    assert_eq!(again.attempts, 3);
    rig.deliver(&again).await;
    let rig = rig.restart().await;
    assert!(rig.opened.reclaimed.is_empty());
}

/// Three side by side, cut off by a crash: one at a time again, in the order in which they came.
pub async fn reclaimed_actions_keep_the_order_of_their_lane(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let mut want = Vec::new();
    for _ in 0..3 {
        let draft = rig.draft("a").direct(Direct::SideBySide);
        want.push(rig.lease_direct(draft).await.id);
    }
    let rig = rig.crash().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let leased = rig.lease(10).await;
        seen.extend(leased_ids(&leased));
        rig.deliver(&leased[0].record).await;
    }
    assert_eq!(seen, want);
}

/// A new run on the same store fences the old one off: its settles come too late.
pub async fn a_new_run_fences_the_old_one(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let old = rig.lease_only().await;
    let before = rig.opened.epoch;
    rig.wait(1);
    rig.opened = rig.store.open(rig.now).await.expect("open again");
    assert!(rig.opened.epoch > before);
    assert_eq!(rig.opened.reclaimed, [old.id]);
    let late = settle_of(&old, Settlement::Delivered { status: 200 });
    assert!(rig.settle_with(late).await.is_none());
    assert_eq!(rig.ledger().await.delivered, 0);
    let new = rig.lease_only().await;
    rig.deliver(&new).await;
    assert_eq!(rig.ledger().await.delivered, 1);
}

/// What was taken in after a crash stands behind what was there.
pub async fn places_go_on_after_a_restart(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let mut want = Vec::new();
    for _ in 0..4 {
        want.extend(ids(&rig.queue_many("a", 2).await));
        rig = rig.crash().await;
    }
    let records = rig.all(Part::Lane(lane("a")), 100).await;
    assert_eq!(ids(&records), want);
    assert!(records.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    // Also when the lane was emptied in between: a place is never given twice.
    for record in records {
        rig.cancel(record.id).await;
    }
    let last = rig.all(Part::Settled, 100).await;
    let highest = last.iter().map(|record| record.seq).max().expect("some");
    let rig = rig.restart().await;
    assert!(rig.queue(rig.draft("a")).await.seq > highest);
}

/// The epoch never repeats, whatever the run did.
pub async fn each_run_has_a_higher_epoch(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let mut last = rig.opened.epoch;
    for number in 0..6 {
        rig = if number % 2 == 0 {
            rig.restart().await
        } else {
            rig.crash().await
        };
        assert!(rig.opened.epoch > last);
        last = rig.opened.epoch;
    }
}
