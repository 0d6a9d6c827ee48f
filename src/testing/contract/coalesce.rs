//! Coalescing: a newer action takes the place of one that was never sent: of what waits under its coalescing key, or of the
//! one that it names.

use super::StoreFactory;
use super::rig::{bytes_of, ids, lane, retry_at, rig, settle_of};
use crate::action::{Record, State, WireState};
use crate::store::{Appended, Direct, Find, LanePlace, Over, Part, Then};

/// The old one keeps its record as superseded; the new one stands at the end of the lane with its own body.
pub async fn a_newer_action_supersedes_an_untried_one(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let old = rig.queue(rig.draft("a").coalesce("c").body("old")).await;
    let between = rig.queue(rig.draft("a")).await;
    let draft = rig.draft("a").coalesce("c").body("new");
    let weight = draft.weight() + between.weight();
    let Appended::Queued { record, superseded } = rig.append(draft).await else {
        panic!("expected Queued");
    };
    let superseded = superseded.expect("the old one is told");
    assert_eq!(superseded.id, old.id);
    assert_eq!(superseded.superseded_by, Some(record.id));
    assert_eq!(superseded.state, State::Superseded { at: rig.now });
    assert_eq!(rig.record(old.id).await, superseded);
    let pending = rig.all(Part::Lane(lane("a")), 10).await;
    assert_eq!(ids(&pending), [between.id, record.id]);
    let body = rig.store.body(record.id).await.expect("body");
    assert_eq!(&bytes_of(&body.expect("a body"))[..], b"new");
    let totals = rig.totals().await;
    assert_eq!((totals.ledger.superseded, totals.ledger.enqueued), (1, 3));
    assert_eq!((totals.counts.pending, totals.counts.bytes), (2, weight));
}

/// What was tried once may have reached the server: it is not replaced.
pub async fn a_tried_action_is_not_superseded(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a").coalesce("c")).await;
    let leased = rig.lease_only().await;
    let second = rig.append(rig.draft("a").coalesce("c")).await;
    assert!(matches!(
        second,
        Appended::Queued {
            superseded: None,
            ..
        }
    ));
    rig.retry(&leased, rig.now).await;
    // The second is untried, the first is not: only the second goes.
    let Appended::Queued { superseded, .. } = rig.append(rig.draft("a").coalesce("c")).await else {
        panic!("expected Queued");
    };
    let Appended::Queued { record: second, .. } = second else {
        panic!("expected Queued");
    };
    assert_eq!(superseded.map(|record| record.id), Some(second.id));
    assert_eq!(rig.record(leased.id).await.state.name(), "queued");
    assert_eq!(rig.lease_only().await.id, leased.id);
}

/// Another lane, another coalescing key, or none: nothing happens to the old one.
pub async fn only_the_same_key_in_the_same_lane_supersedes(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a").coalesce("c")).await;
    for draft in [
        rig.draft("b").coalesce("c"),
        rig.draft("a").coalesce("d"),
        rig.draft("a"),
    ] {
        assert!(matches!(
            rig.append(draft).await,
            Appended::Queued {
                superseded: None,
                ..
            }
        ));
    }
    assert_eq!(rig.ledger().await.superseded, 0);
}

/// A cancelled action is gone: there is nothing to supersede.
pub async fn what_left_the_queue_is_not_superseded(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let old = rig.queue(rig.draft("a").coalesce("c")).await;
    rig.cancel(old.id).await;
    let next = rig.append(rig.draft("a").coalesce("c")).await;
    assert!(matches!(
        next,
        Appended::Queued {
            superseded: None,
            ..
        }
    ));
    assert_eq!(rig.record(old.id).await.state.name(), "cancelled");
}

/// A burst, in one batch and over a restart: one is left, and every other has a name in the ledger.
pub async fn a_burst_coalesces_to_its_last(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.append_all((0..5).map(|_| rig.draft("a").coalesce("c")))
        .await;
    let rig = rig.restart().await;
    let last = rig.draft("a").coalesce("c");
    let id = last.id();
    rig.queue(last).await;
    assert_eq!(rig.ledger().await.superseded, 5);
    assert_eq!(rig.lease_only().await.id, id);
}

fn superseded(over: Appended) -> (Record, Record) {
    match over {
        Appended::Queued {
            record,
            superseded: Some(old),
        } => (record, old),
        other => panic!("expected one in the place of another, got {other:?}"),
    }
}

fn exactly(old: &Record, then: Then) -> Over {
    Over::Exactly {
        id: old.id,
        revision: Some(old.revision),
        then,
    }
}

/// What waits under a coalescing key is found: the one that was queued last with it.
pub async fn what_waits_under_a_coalescing_key_is_found(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let find = async |rig: &super::rig::Rig<'_, _>, name: &str, key: &str| {
        let (lane, key) = (lane(name), key.to_owned());
        let find = Find::Coalescing { lane, key };
        let found = rig.store.get(find).await.expect("get");
        found.map(|record| record.id)
    };
    assert_eq!(find(&rig, "a", "c").await, None);
    let first = rig.queue(rig.draft("a").coalesce("c")).await;
    rig.queue(rig.draft("a")).await;
    assert_eq!(find(&rig, "a", "c").await, Some(first.id));
    let second = rig.draft("a").coalesce("c").over(Over::Nothing);
    let second = rig.queue(second).await;
    let rig = rig.restart().await;
    assert_eq!(find(&rig, "a", "c").await, Some(second.id));
    for (name, key) in [("a", "d"), ("b", "c")] {
        assert_eq!(find(&rig, name, key).await, None);
    }
    rig.cancel(second.id).await;
    assert_eq!(find(&rig, "a", "c").await, None, "the first was passed");
}

/// A first attempt that found no network changes nothing: no byte of it has left.
pub async fn what_was_tried_and_never_left_is_superseded(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let old = rig.queue(rig.draft("a").coalesce("c")).await;
    let leased = rig.lease_only().await;
    let mut settle = settle_of(&leased, retry_at(rig.at(1_000)));
    settle.wire = WireState::NeverSent;
    rig.settle_with(settle).await.expect("accepted");
    let (new, told) = superseded(rig.append(rig.draft("a").coalesce("c")).await);
    assert_eq!((told.id, told.superseded_by), (old.id, Some(new.id)));
    assert_eq!(rig.lease_only().await.id, new.id);
}

/// One that comes back from an attempt of which nothing left does not wait in front of a later one.
pub async fn what_comes_back_is_passed_by_a_later_one(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let first = rig.queue(rig.draft("a").coalesce("c")).await;
    let leased = rig.lease_only().await;
    let second = rig.queue(rig.draft("a").coalesce("c")).await;
    let mut settle = settle_of(&leased, retry_at(rig.now));
    settle.wire = WireState::NeverSent;
    rig.settle_with(settle).await.expect("accepted");
    assert!(rig.record(first.id).await.is_passed);
    let (third, told) = superseded(rig.append(rig.draft("a").coalesce("c")).await);
    assert_eq!(told.id, second.id);
    for want in [first.id, third.id] {
        let leased = rig.lease_only().await;
        assert_eq!(leased.id, want);
        rig.deliver(&leased).await;
    }
}

/// Both stay, in their order, and the newer one is the one that waits.
pub async fn over_nothing_keeps_both(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let first = rig.queue(rig.draft("a").coalesce("c")).await;
    let second = rig.draft("a").coalesce("c").over(Over::Nothing);
    let second = rig.queue(second).await;
    let (third, told) = superseded(rig.append(rig.draft("a").coalesce("c")).await);
    assert_eq!(told.id, second.id);
    let first = rig.record(first.id).await;
    assert!(first.is_passed && first.due().is_some());
    let pending = rig.all(Part::Lane(lane("a")), 10).await;
    assert_eq!(ids(&pending), [first.id, third.id]);
}

/// Who saw nothing under the key does not take the place of what came meanwhile.
pub async fn over_vacant_is_refused_when_something_waits(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let vacant = || rig.draft("a").coalesce("c").over(Over::Vacant);
    let first = rig.queue(vacant()).await;
    let before = rig.totals().await;
    let refused = vacant();
    let id = refused.id();
    match rig.append(refused).await {
        Appended::NotOver { found } => assert_eq!(found, Some(first.clone())),
        other => panic!("expected NotOver, got {other:?}"),
    }
    assert_eq!(rig.totals().await, before);
    assert!(rig.find(id).await.is_none());
    rig.cancel(first.id).await;
    rig.queue(vacant()).await;
}

/// To the very place, to the end of the lane, or only where nothing stands behind.
pub async fn a_successor_goes_where_it_was_told_to(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let old = rig.queue_many("a", 3).await;
    let over = |old: &Record, place| exactly(old, Then::Supersede(place));
    let draft = rig.draft("a").over(over(&old[0], LanePlace::Old));
    let (first, told) = superseded(rig.append(draft).await);
    assert_eq!((told.id, told.superseded_by), (old[0].id, Some(first.id)));
    assert!(!told.is_merged);
    let draft = rig.draft("a").over(over(&old[1], LanePlace::End));
    let (last, _) = superseded(rig.append(draft).await);
    let pending = async || ids(&rig.all(Part::Lane(lane("a")), 10).await);
    assert_eq!(pending().await, [first.id, old[2].id, last.id]);
    let draft = rig.draft("a").over(over(&old[2], LanePlace::OldIfLast));
    match rig.append(draft).await {
        Appended::NotOver { found } => assert_eq!(found.map(|found| found.id), Some(old[2].id)),
        other => panic!("expected NotOver, got {other:?}"),
    }
    let draft = rig.draft("a").over(over(&last, LanePlace::OldIfLast));
    let (newest, _) = superseded(rig.append(draft).await);
    assert_eq!(pending().await, [first.id, old[2].id, newest.id]);
    assert_eq!(rig.lane("a").await.head, Some(first.id));
    let rig = rig.crash().await;
    for want in [first.id, old[2].id, newest.id] {
        let leased = rig.lease_only().await;
        assert_eq!(leased.id, want);
        rig.deliver(&leased).await;
    }
}

/// Leased, cancelled, rewritten since, of another lane, unknown: nothing changes, and what is there is told.
pub async fn only_what_was_seen_is_taken_over(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let thens = [
        Then::Supersede(LanePlace::Old),
        Then::Merge(LanePlace::End),
        Then::CancelBoth,
    ];
    let refused = async |over: Over, now: Option<Record>| {
        let before = rig.totals().await;
        let draft = rig.draft("a").key("k").body(vec![7; 20_000]).over(over);
        let id = draft.id();
        match rig.append(draft).await {
            Appended::NotOver { found } => assert_eq!(found, now),
            other => panic!("expected NotOver, got {other:?}"),
        }
        assert_eq!(rig.totals().await, before);
        assert!(rig.find(id).await.is_none() && rig.find_key("k").await.is_none());
    };
    let flying = rig.queue(rig.draft("a")).await;
    let leased = rig.lease_only().await;
    let cancelled = rig.queue(rig.draft("a")).await;
    rig.cancel(cancelled.id).await;
    let other = rig.queue(rig.draft("b")).await;
    let waiting = rig.queue(rig.draft("a")).await;
    for then in thens {
        refused(exactly(&flying, then), Some(leased.clone())).await;
        let now = rig.record(cancelled.id).await;
        refused(exactly(&cancelled, then), Some(now)).await;
        refused(exactly(&other, then), Some(other.clone())).await;
        let mut stale = waiting.clone();
        stale.revision += 1;
        refused(exactly(&stale, then), Some(waiting.clone())).await;
        let unknown = rig.draft("a");
        refused(exactly(unknown.as_record(), then), None).await;
    }
    rig.retry(&leased, rig.now).await;
    let now = rig.record(flying.id).await;
    assert_eq!(now.wire, WireState::MaybeSent);
    for then in thens {
        let (id, revision) = (flying.id, None);
        let over = Over::Exactly { id, revision, then };
        refused(over, Some(now.clone())).await;
    }
}

/// What it was to do is part of another one: its key is known, as a delivered one's is, for as long.
pub async fn a_merged_action_keeps_its_key(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let keyed = || rig.draft("a").key("old").fingerprint("f");
    let old = rig.queue(keyed()).await;
    let then = Then::Merge(LanePlace::OldIfLast);
    let draft = rig.draft("a").key("new").over(exactly(&old, then));
    let (new, told) = superseded(rig.append(draft).await);
    assert!(told.is_merged);
    assert_eq!(rig.record(old.id).await, told);
    let again = keyed();
    match rig.append(again.clone()).await {
        Appended::Known { record } => assert_eq!(record, told),
        other => panic!("expected Known, got {other:?}"),
    }
    let conflict = rig.append(again.fingerprint("g")).await;
    assert!(matches!(conflict, Appended::Conflict { id } if id == old.id));
    let retention = std::time::Duration::from_millis(10);
    rig.wait(10);
    let draft = rig.draft("a").key("old").key_retention(retention);
    assert_ne!(rig.queue(draft).await.id, new.id);
}

/// Two that cancel out: both are counted in and out, their keys are free, nothing is left to send.
pub async fn two_that_cancel_out_leave_only_their_counts(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let old = rig.draft("a").key("1").coalesce("c").body(vec![7; 20_000]);
    let old = rig.queue(old).await;
    let between = rig.queue(rig.draft("a")).await;
    let draft = rig.draft("a").key("2").coalesce("c").actions_max(1);
    let draft = draft.body(vec![8; 20_000]);
    let over = exactly(&old, Then::CancelBoth);
    let Appended::Cancelled { record, waiting } = rig.append(draft.over(over)).await else {
        panic!("expected Cancelled");
    };
    for cancelled in [&record, waiting.as_ref().expect("the other one")] {
        assert_eq!(cancelled.state, State::Cancelled { at: rig.now });
        assert_eq!(rig.record(cancelled.id).await, *cancelled);
    }
    let totals = rig.totals().await;
    assert_eq!((totals.ledger.enqueued, totals.ledger.cancelled), (3, 2));
    assert_eq!((totals.counts.pending, totals.counts.retained), (1, 2));
    assert_eq!(totals.counts.bytes, between.weight());
    let rig = rig.restart().await;
    for key in ["1", "2"] {
        rig.queue(rig.draft("b").key(key).coalesce("c")).await;
    }
    let leased = rig.lease(10).await;
    assert_eq!(leased.len(), 2, "what stood between, and a new one");
}

/// A direct send in the place of the only one of its lane may go at once; behind another it may not.
pub async fn a_successor_may_be_sent_at_once(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let old = rig.queue(rig.draft("a")).await;
    let over = exactly(&old, Then::Supersede(LanePlace::OldIfLast));
    let direct = |over| rig.draft("a").direct(Direct::Alone).over(over);
    let Appended::Leased { record, superseded } = rig.append(direct(over)).await else {
        panic!("expected Leased");
    };
    assert_eq!(
        superseded.map(|old| old.superseded_by),
        Some(Some(record.id))
    );
    rig.deliver(&record).await;
    let two = rig.queue_many("a", 2).await;
    let over = exactly(&two[0], Then::Supersede(LanePlace::Old));
    let queued = rig.append(direct(over)).await;
    assert!(matches!(queued, Appended::Queued { .. }), "{queued:?}");
}

/// Many look at the same one and want its place, all at once: each that got it got it from the one before, and none is lost.
pub async fn of_many_that_want_one_place_each_gets_it_once(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let first = rig.queue(rig.draft("a").coalesce("c")).await;
    let mut wanted = first.clone();
    for _ in 0..10 {
        let then = Then::Merge(LanePlace::OldIfLast);
        let drafts = (0..8).map(|_| rig.draft("a").coalesce("c").over(exactly(&wanted, then)));
        let calls = drafts.map(|draft| rig.store.append(vec![draft.into_append()]));
        let mut taken = Vec::new();
        for appended in futures_util::future::join_all(calls).await {
            match appended.expect("append").pop().expect("one result") {
                Appended::Queued { record, superseded } => {
                    let old = superseded.expect("it took a place");
                    assert_eq!((old.id, old.superseded_by), (wanted.id, Some(record.id)));
                    taken.push(record);
                }
                Appended::NotOver { found } => assert!(found.is_some()),
                other => panic!("expected Queued or NotOver, got {other:?}"),
            }
        }
        assert_eq!(taken.len(), 1, "one gets it");
        wanted = taken.remove(0);
    }
    assert_eq!(rig.ledger().await.superseded, 10);
    assert_eq!(rig.lease_only().await.id, wanted.id);
}
