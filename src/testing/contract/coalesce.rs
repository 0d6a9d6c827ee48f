//! Coalescing: a newer action takes the place of an untried one with the same coalescing key.

use super::StoreFactory;
use super::rig::{bytes_of, ids, lane, rig};
use crate::action::State;
use crate::store::{Appended, Part};

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
