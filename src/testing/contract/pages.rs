//! Reading in pages: every part whole, in its order, each record once, also while the store changes.

use std::collections::HashMap;

use super::StoreFactory;
use super::rig::{Rig, ids, lane, rig};
use crate::action::{ActionId, Record};
use crate::decide::DeadLane;
use crate::store::{Part, Query};

/// Pages of any size, put together, are the same list.
async fn every_page_size<F: StoreFactory>(rig: &Rig<'_, F>, part: Part) -> Vec<Record> {
    let whole = rig.all(part.clone(), Query::LIMIT_MAX).await;
    for limit in [1, 2, 3, whole.len().max(1), whole.len() + 1] {
        assert_eq!(rig.all(part.clone(), limit).await, whole, "limit {limit}");
    }
    whole
}

/// Lane by lane, each in its order, in flight ones too.
pub async fn pending_actions_are_paged_lane_by_lane(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let names = ["a", "b", "ab", "a b", "\u{e9}"];
    let drafts = (0..25).map(|number| rig.draft(names[number % 5]));
    rig.append_all(drafts).await;
    rig.lease(2).await;
    let all = every_page_size(&rig, Part::Pending).await;
    assert_eq!(all.len(), 25);
    let changes = all.windows(2).filter(|pair| pair[0].lane != pair[1].lane);
    assert_eq!(changes.count(), 4, "each lane stands together");
    let in_lane = |pair: &[Record]| pair[0].lane != pair[1].lane || pair[0].seq < pair[1].seq;
    assert!(all.windows(2).all(in_lane), "each lane is in its order");
    assert_eq!(
        all.iter()
            .filter(|one| one.state.name() == "in_flight")
            .count(),
        2
    );
    for name in names {
        let part = Part::Lane(lane(name));
        let lane_records = every_page_size(&rig, part).await;
        let want: Vec<_> = all
            .iter()
            .filter(|one| one.lane == lane(name))
            .cloned()
            .collect();
        assert_eq!(lane_records, want, "lane {name}");
    }
}

/// Names that are the start of other names, or that sort strangely, do not mix.
pub async fn a_lane_shows_no_other_lanes_actions(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let long = "a".repeat(crate::action::Lane::BYTES_MAX);
    let names = ["a", "aa", "a/a", "a:1", "A", "\u{10ffff}", long.as_str()];
    let mut want = HashMap::new();
    for name in names {
        want.insert(name, ids(&rig.queue_many(name, 2).await));
    }
    for name in names {
        assert_eq!(ids(&rig.all(Part::Lane(lane(name)), 1).await), want[name]);
        assert_eq!(rig.lane(name).await.pending, 2);
    }
    assert!(
        rig.all(Part::Lane(lane("nothing here")), 1)
            .await
            .is_empty()
    );
}

/// Oldest first; only dead letters.
pub async fn dead_letters_are_paged_oldest_first(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let mut want = Vec::new();
    for number in 0..7 {
        let draft = rig.draft(["a", "b"][number % 2]);
        want.push(rig.dead_letter(draft, DeadLane::Skip).await.id);
        rig.wait(10);
    }
    rig.queue(rig.draft("a")).await;
    assert_eq!(ids(&every_page_size(&rig, Part::Dead).await), want);
    rig.requeue(want.remove(3)).await;
    assert_eq!(ids(&every_page_size(&rig, Part::Dead).await), want);
}

/// Oldest first by the time of their end; whatever ended them.
pub async fn settled_actions_are_paged_oldest_first(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let mut want = Vec::new();
    let slow = rig.queue(rig.draft("slow")).await;
    let slow = (slow.id, rig.lease_only().await);
    for number in 0..6 {
        if number % 2 == 0 {
            want.push(rig.delivered(rig.draft("a")).await.id);
        } else {
            let record = rig.queue(rig.draft("a")).await;
            rig.cancel(record.id).await;
            want.push(record.id);
        }
        rig.wait(10);
    }
    rig.deliver(&slow.1).await;
    want.push(slow.0);
    rig.dead_letter(rig.draft("a"), DeadLane::Skip).await;
    assert_eq!(ids(&every_page_size(&rig, Part::Settled).await), want);
    assert_eq!(rig.totals().await.counts.retained, 7);
}

/// The walk goes on over changes: what stays is seen exactly once, what is gone at most once.
pub async fn a_cursor_survives_changes_behind_and_before_it(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let drafts = (0..40).map(|number| {
        let draft = rig.draft(&format!("lane {}", number % 4));
        draft.due(rig.at(60_000))
    });
    rig.append_all(drafts).await;
    let all = ids(&rig.all(Part::Pending, 100).await);
    let mut seen: HashMap<ActionId, u32> = HashMap::new();
    let mut after = None;
    let mut gone = Vec::new();
    for round in 0.. {
        let page = rig.page(Part::Pending, after, 3).await;
        for record in &page.records {
            *seen.entry(record.id).or_default() += 1;
        }
        // The newest one seen, where the cursor stands, goes; and so does one not seen yet.
        let unseen = all
            .iter()
            .rev()
            .find(|id| !seen.contains_key(id) && !gone.contains(*id));
        let ahead = unseen.copied().filter(|_| round % 2 == 0);
        for id in page
            .records
            .last()
            .map(|record| record.id)
            .into_iter()
            .chain(ahead)
        {
            rig.cancel(id).await;
            gone.push(id);
        }
        rig.queue(rig.draft("lane 0").due(rig.at(60_000))).await;
        after = page.next;
        if after.is_none() {
            break;
        }
        assert!(round < 200, "the walk does not end");
    }
    assert!(seen.values().all(|times| *times == 1), "seen twice");
    let missed = all
        .iter()
        .filter(|id| !seen.contains_key(id) && !gone.contains(*id));
    assert_eq!(missed.count(), 0, "what stayed was missed");
}

/// A cursor of a restart ago still stands where it stood.
pub async fn a_cursor_survives_a_restart(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue_many("a", 6).await;
    let page = rig.page(Part::Pending, None, 2).await;
    assert_eq!(ids(&page.records), ids(&queued[..2]));
    let rig = rig.restart().await;
    let page = rig.page(Part::Pending, page.next, 10).await;
    assert_eq!(ids(&page.records), ids(&queued[2..]));
}

/// What a lane holds: pending, in flight, head.
pub async fn a_lane_tells_what_it_holds(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let queued = rig.queue_many("a", 3).await;
    rig.queue_many("b", 1).await;
    let want = |head: usize, pending, in_flight| crate::store::LaneTotals {
        pending,
        in_flight,
        direct: 0,
        head: queued.get(head).map(|record| record.id),
        blocked_by: None,
        blocking: Vec::new(),
    };
    assert_eq!(rig.lane("a").await, want(0, 3, 0));
    let leased = rig.lease(10).await;
    let leased = leased.into_iter().find(|one| one.record.lane == lane("a"));
    let leased = leased.expect("the head of a").record;
    assert_eq!(rig.lane("a").await, want(0, 3, 1));
    rig.retry(&leased, rig.at(10)).await;
    assert_eq!(rig.lane("a").await, want(0, 3, 0));
    rig.cancel(queued[1].id).await;
    rig.wait(10);
    let leased = rig.lease_only().await;
    rig.deliver(&leased).await;
    assert_eq!(rig.lane("a").await, want(2, 1, 0));
    rig = rig.restart().await;
    assert_eq!(rig.lane("a").await, want(2, 1, 0));
    rig.cancel(queued[2].id).await;
    assert_eq!(rig.lane("a").await, want(3, 0, 0));
    assert_eq!(
        rig.lane("b").await.in_flight,
        0,
        "its lease was of the earlier run"
    );
}

/// `oldest` is when the oldest of the pending actions was made, and moves on with it.
pub async fn the_oldest_pending_action_is_told(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let mut made = Vec::new();
    for lane in ["a", "a", "b"] {
        made.push(rig.queue(rig.draft(lane)).await);
        rig.wait(1_000);
    }
    let rig = rig.restart().await;
    let oldest = async || rig.totals().await.counts.oldest;
    assert_eq!(oldest().await, Some(made[0].created));
    let leased = rig.lease(1).await.pop().expect("the first").record;
    assert_eq!(
        (leased.id, oldest().await),
        (made[0].id, Some(made[0].created))
    );
    rig.deliver(&leased).await;
    assert_eq!(oldest().await, Some(made[1].created));
    rig.cancel(made[1].id).await;
    assert_eq!(oldest().await, Some(made[2].created));
    let leased = rig.lease_only().await;
    rig.die(&leased, DeadLane::Skip).await;
    assert_eq!(oldest().await, None);
}

/// An old action that is sent back is pending again; once it is first in its lane, it is as old as it is.
pub async fn a_requeued_dead_letter_is_as_old_as_it_was(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let dead = rig.dead_letter(rig.draft("a"), DeadLane::Skip).await;
    rig.wait(1_000);
    let young = rig.queue(rig.draft("a")).await;
    assert_eq!(rig.totals().await.counts.oldest, Some(young.created));
    rig.requeue(dead.id).await;
    assert_eq!(rig.totals().await.counts.oldest, Some(young.created));
    let leased = rig.lease_only().await;
    assert_eq!(leased.id, young.id);
    rig.deliver(&leased).await;
    assert_eq!(rig.totals().await.counts.oldest, Some(dead.created));
}
