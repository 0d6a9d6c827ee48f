//! Settling: what each result leaves behind, and who may settle.

use bytes::Bytes;

use super::StoreFactory;
use super::rig::{Rig, ids, lane, rejected, retry_at, rig, settle_of};
use crate::action::{ActionId, Record, State, WireState};
use crate::decide::{Counted, DeadLane, Settlement};
use crate::store::{LaneTotals, Part, Totals};

/// Record and answer stay, the action is no longer pending.
pub async fn a_delivered_action_is_kept_with_its_answer(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let leased = rig.lease_only().await;
    let mut settle = settle_of(&leased, Settlement::Delivered { status: 201 });
    settle.status = Some(201);
    settle.answer = Some(Bytes::from_static(b"the answer"));
    let record = rig.settle_with(settle).await.expect("accepted");
    let (status, at) = (201, rig.now);
    assert_eq!(record.state, State::Delivered { status, at });
    assert_eq!(record.last_status, Some(201));
    assert_eq!(
        (record.wire, record.answer_bytes),
        (WireState::Answered, 10)
    );
    let rig = rig.restart().await;
    assert_eq!(rig.record(record.id).await, record);
    let answer = rig.store.answer(record.id).await.expect("answer");
    assert_eq!(answer.as_deref(), Some(&b"the answer"[..]));
    let Totals { counts, ledger, .. } = rig.totals().await;
    assert_eq!((ledger.delivered, ledger.pending), (1, 0));
    assert_eq!((counts.retained, counts.retained_bytes), (1, 10));
    assert_eq!((counts.in_flight, counts.bytes), (0, 0));
}

/// No answer was given, so there is none.
pub async fn a_delivered_action_without_an_answer_has_none(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let record = rig.delivered(rig.draft("a")).await;
    assert_eq!(record.answer_bytes, 0);
    assert!(rig.store.answer(record.id).await.expect("answer").is_none());
}

/// Back in the queue: due, backoff, status and error are kept, and the place in the lane.
pub async fn a_retry_returns_to_its_place(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let queued = rig.queue_many("a", 3).await;
    let leased = rig.lease_only().await;
    let due = rig.at(700);
    let result = Settlement::Retry {
        due,
        counts: Counted::Yes,
        backoff_ms: 650,
    };
    let mut settle = settle_of(&leased, result);
    settle.status = Some(500);
    settle.error = Some("internal server error".into());
    let record = rig.settle_with(settle).await.expect("accepted");
    assert_eq!(record.state, State::Queued { due });
    assert_eq!((record.seq, record.backoff_ms), (queued[0].seq, 650));
    assert_eq!(record.last_status, Some(500));
    assert_eq!(record.last_error.as_deref(), Some("internal server error"));
    assert_eq!(ids(&rig.all(Part::Lane(lane("a")), 10).await), ids(&queued));
    rig.leases_nothing().await;
    rig.wait(700);
    assert_eq!(rig.lease_only().await.id, record.id);
}

/// Only attempts that count use up the retries; the attempt number grows either way.
pub async fn a_retry_counts_only_when_told(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let mut counted = 0;
    for (number, counts) in (1..).zip([Counted::Yes, Counted::No, Counted::No, Counted::Yes]) {
        let leased = rig.lease_only().await;
        let result = Settlement::Retry {
            due: rig.now,
            counts,
            backoff_ms: 0,
        };
        let record = rig.settle(&leased, result).await;
        counted += u32::from(counts == Counted::Yes);
        assert_eq!(
            (record.attempts, record.attempts_counted),
            (number, counted)
        );
    }
}

/// A retry that is due at once may be leased by the same step.
pub async fn a_retry_that_is_due_is_leased_again(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let leased = rig.lease_only().await;
    let mut step = rig.leasing(1);
    step.settle.push(settle_of(&leased, retry_at(rig.now)));
    let advanced = rig.advance(step).await;
    let again = &advanced.leased.first().expect("leased again").record;
    assert_eq!((again.id, again.attempts), (leased.id, 2));
}

/// Everything that a settle could have changed.
async fn photo<F: StoreFactory>(
    rig: &Rig<'_, F>,
    id: ActionId,
) -> (Option<Record>, Totals, LaneTotals) {
    (rig.find(id).await, rig.totals().await, rig.lane("a").await)
}

/// Settles with every result there is, as if by `record`, and expects that nothing comes of it.
async fn is_refused<F: StoreFactory>(rig: &Rig<'_, F>, lease: &Record) {
    let before = photo(rig, lease.id).await;
    let reason = rejected();
    let results = [
        Settlement::Delivered { status: 200 },
        Settlement::Returned,
        retry_at(rig.at(5)),
        Settlement::Dead {
            reason,
            lane: DeadLane::Block,
        },
    ];
    for result in results {
        let mut settle = settle_of(lease, result);
        settle.answer = Some(Bytes::from_static(b"late"));
        let settled = rig.settle_with(settle).await;
        assert!(
            settled.is_none(),
            "a stale settle was accepted: {settled:?}"
        );
        assert_eq!(photo(rig, lease.id).await, before);
    }
}

/// The lease of an earlier attempt is over, whatever the action does now.
pub async fn a_stale_settle_changes_nothing(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let first = rig.lease_only().await;
    rig.retry(&first, rig.now).await;
    is_refused(&rig, &first).await;
    let second = rig.lease_only().await;
    is_refused(&rig, &first).await;
    rig.die(&second, DeadLane::Skip).await;
    is_refused(&rig, &second).await;
    rig.requeue(first.id).await;
    is_refused(&rig, &second).await;
    let third = rig.lease_only().await;
    is_refused(&rig, &second).await;
    rig.deliver(&third).await;
    is_refused(&rig, &third).await;
}

/// The same attempt number in an earlier run is another lease.
pub async fn a_settle_of_an_earlier_run_changes_nothing(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let leased = rig.lease_only().await;
    let rig = rig.restart().await;
    is_refused(&rig, &leased).await;
    let again = rig.lease_only().await;
    is_refused(&rig, &leased).await;
    let mut forged = again.clone();
    let (attempt, epoch) = (again.attempts, leased_epoch(&leased));
    forged.state = State::InFlight { attempt, epoch };
    is_refused(&rig, &forged).await;
    rig.deliver(&again).await;
}

fn leased_epoch(record: &Record) -> u64 {
    let State::InFlight { epoch, .. } = record.state else {
        panic!("{record:?} is not in flight");
    };
    epoch
}

/// The second of two settles of one attempt comes too late, also in one call.
pub async fn an_attempt_is_settled_once(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue_many("a", 2).await;
    let leased = rig.lease_only().await;
    let mut step = rig.step();
    let delivered = settle_of(&leased, Settlement::Delivered { status: 200 });
    step.settle = vec![delivered, settle_of(&leased, retry_at(rig.now))];
    let settled = rig.advance(step).await.settled;
    assert!(settled[0].is_some() && settled[1].is_none(), "{settled:?}");
    is_refused(&rig, &leased).await;
    assert_eq!(rig.ledger().await.delivered, 1);
}

/// Nobody knows it: nothing, and the other settles of the call are done.
pub async fn an_unknown_settle_is_nothing(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let leased = rig.lease_only().await;
    let mut unknown = settle_of(&leased, Settlement::Delivered { status: 200 });
    unknown.id = ActionId::new();
    let mut step = rig.step();
    let known = settle_of(&leased, Settlement::Delivered { status: 200 });
    step.settle = vec![unknown, known];
    let settled = rig.advance(step).await.settled;
    assert!(settled[0].is_none() && settled[1].is_some(), "{settled:?}");
}

/// The results stand in the order of the settles, over any mix of lanes.
pub async fn settles_answer_in_their_order(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    for lane in ["a", "b", "c", "d"] {
        rig.queue(rig.draft(lane)).await;
    }
    let mut leased = rig.lease(10).await;
    leased.reverse();
    let want: Vec<_> = leased.iter().map(|lease| Some(lease.record.id)).collect();
    let mut step = rig.step();
    let settles = leased
        .iter()
        .map(|lease| settle_of(&lease.record, retry_at(rig.now)));
    step.settle = settles.collect();
    let settled = rig.advance(step).await.settled;
    let got: Vec<_> = settled
        .iter()
        .map(|one| one.as_ref().map(|record| record.id))
        .collect();
    assert_eq!(got, want);
}
