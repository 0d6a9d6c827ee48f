//! Batches: which run is leased together, and that it stays together until its answer is known.

use super::StoreFactory;
use super::rig::{
    Rig, bytes_of, ids, lane, leased_ids, rejected, requests, retry_at, rig, settle_of,
};
use crate::action::{ActionId, Batch, Batching, Record, WireState};
use crate::decide::{BatchLimits, DeadLane, Settlement};
use crate::store::{Advance, Amended, Batches, Leased, Settle};

fn of(actions_max: usize) -> Batches {
    limited(BatchLimits::default().with_actions_max(actions_max))
}

fn limited(limits: BatchLimits) -> Batches {
    Batches::new(move |_| Some(limits))
}

fn batch_of(record: &Record) -> Batch {
    let batching = record.batch.expect("it tells of batches");
    *batching.batch().expect("it is a member of a batch")
}

/// The settle of a member that may have been sent: back to the queue, the batch stays.
fn kept(record: &Record, due: crate::clock::Timestamp) -> Settle {
    settle_of(record, retry_at(due))
}

impl<F: StoreFactory> Rig<'_, F> {
    fn leasing_batches(&self, slots: usize, batches: &Batches) -> Advance {
        let mut step = self.leasing(slots);
        let lease = step.lease.as_mut().expect("a lease");
        lease.batches = Some(batches.clone());
        step
    }

    async fn lease_batches(&self, batches: &Batches) -> Vec<Leased> {
        self.advance(self.leasing_batches(100, batches))
            .await
            .leased
    }

    /// The one request that can go.
    async fn lease_run(&self, batches: &Batches) -> Vec<Leased> {
        let leased = self.lease_batches(batches).await;
        assert_eq!(requests(&leased).len(), 1, "one request: {leased:?}");
        leased
    }

    async fn settle_all(&self, settles: impl IntoIterator<Item = Settle>) {
        let mut step = self.step();
        step.settle = settles.into_iter().collect();
        let settled = self.advance(step).await.settled;
        assert!(settled.iter().all(Option::is_some), "each lease is valid");
    }

    async fn deliver_all(&self, leased: &[Leased]) {
        let delivered = Settlement::Delivered { status: 200 };
        let settles = leased
            .iter()
            .map(|one| settle_of(&one.record, delivered.clone()));
        self.settle_all(settles).await;
    }

    async fn keep_all(&self, leased: &[Leased]) {
        let settles = leased.iter().map(|one| kept(&one.record, self.now));
        self.settle_all(settles).await;
    }

    /// Puts what is in flight back, and leases what must be the same batch.
    async fn lease_kept(&self, first: &[Leased], batches: &Batches) -> Vec<Leased> {
        let flying = self.flying(first).await;
        let settles = flying.iter().map(|record| kept(record, self.now));
        self.settle_all(settles).await;
        let again = self.lease_run(batches).await;
        same_batch(&again, first);
        again
    }

    async fn flying(&self, leased: &[Leased]) -> Vec<Record> {
        let mut flying = Vec::new();
        for one in leased {
            flying.push(self.record(one.record.id).await);
        }
        flying
    }
}

/// In order, each with its body and its own lease; each names the batch and its place in it, on disk too.
pub async fn a_run_is_leased_in_one_commit(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue_many("a", 5).await;
    let leased = rig.lease_run(&of(3)).await;
    assert_eq!(leased_ids(&leased), ids(&queued[..3]));
    let batch = Batch::new(queued[0].id, 1, 3);
    for (place, (one, queued)) in leased.iter().zip(&queued).enumerate() {
        assert_eq!(one.wire_before, WireState::NeverSent);
        assert_eq!(one.record.wire, WireState::MaybeSent);
        assert_eq!(bytes_of(&one.body), format!("body of {}", queued.id));
        let place = u32::try_from(place).expect("small");
        assert_eq!(batch_of(&one.record), batch.at(place));
        assert_eq!(rig.record(queued.id).await, one.record);
    }
    assert_eq!(rig.totals().await.counts.in_flight, 3);
    assert_eq!(rig.lane("a").await.in_flight, 3);
    assert!(rig.lease_batches(&of(3)).await.is_empty());
    rig.deliver_all(&leased).await;
    assert_eq!(leased_ids(&rig.lease_run(&of(3)).await), ids(&queued[3..]));
}

/// The rule decides by the head; elsewhere, and without a rule, one goes at a time and is of no batch.
pub async fn a_run_is_leased_only_where_it_was_asked_for(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let together = rig.queue_many("together", 3).await;
    let alone = rig.queue_many("alone", 3).await;
    let batches = Batches::new(|head| {
        (head.lane.as_str() == "together").then(|| BatchLimits::default().with_actions_max(50))
    });
    let leased = rig.lease_batches(&batches).await;
    let mut got = leased_ids(&leased);
    got.sort_unstable();
    let mut want = ids(&together);
    want.push(alone[0].id);
    want.sort_unstable();
    assert_eq!(got, want);
    let single = leased.iter().find(|one| one.record.id == alone[0].id);
    assert_eq!(single.expect("leased").record.batch, None);
    rig.deliver_all(&leased).await;
    assert_eq!(rig.lease_only().await.id, alone[1].id);
}

/// By count, and by the bytes of the bodies; what is too long by itself goes alone.
pub async fn a_run_stays_within_its_limits(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let limits = BatchLimits::default().with_actions_max(200);
    let batches = limited(limits.with_bytes_max(100));
    let mut queued = Vec::new();
    for bytes in [40, 40, 20, 1, 101, 99, 1] {
        let draft = rig.draft("a").body(vec![7; bytes]);
        queued.push(rig.queue(draft).await.id);
    }
    for run in [0..3, 3..4, 4..5, 5..7] {
        let leased = rig.lease_run(&batches).await;
        assert_eq!(leased_ids(&leased), queued[run.clone()]);
        assert_eq!(leased[0].batch().is_some(), run.len() > 1);
        rig.deliver_all(&leased).await;
    }
    let many = rig.queue_many("b", 201).await;
    let leased = rig.lease_run(&limited(limits)).await;
    assert_eq!(leased_ids(&leased), ids(&many[..200]));
}

/// Not due, of another origin or principal: it is the head of the next run, and nothing behind it overtakes it.
pub async fn a_run_ends_at_what_may_not_go_with_its_head(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let due = rig.at(1_000);
    let drafts = [
        rig.draft("a"),
        rig.draft("a"),
        rig.draft("a").origin("elsewhere"),
        rig.draft("a").origin("elsewhere"),
        rig.draft("a").principal("ada"),
        rig.draft("a").due(due),
        rig.draft("a"),
    ];
    let queued: Vec<ActionId> = drafts.iter().map(super::draft::Draft::id).collect();
    rig.append_all(drafts).await;
    for run in [0..2, 2..4, 4..5] {
        let leased = rig.lease_run(&of(50)).await;
        assert_eq!(leased_ids(&leased), queued[run]);
        rig.deliver_all(&leased).await;
    }
    assert!(rig.lease_batches(&of(50)).await.is_empty());
    rig.wait(1_000);
    assert_eq!(leased_ids(&rig.lease_run(&of(50)).await), queued[5..]);
}

/// Its own key is known to the server: it goes on with that, and does not stop those behind it from going together.
pub async fn what_may_have_been_sent_alone_joins_no_batch(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let first = rig.queue(rig.draft("a")).await;
    let leased = rig.lease_run(&of(50)).await;
    assert_eq!(leased[0].record.batch, None, "alone it is no batch");
    rig.keep_all(&leased).await;
    let others = rig.queue_many("a", 3).await;
    for wire in [WireState::MaybeSent, WireState::Answered] {
        let leased = rig.lease_run(&of(50)).await;
        assert_eq!(leased_ids(&leased), [first.id]);
        let mut settle = kept(&leased[0].record, rig.now);
        settle.wire = wire;
        rig.settle_all([settle]).await;
    }
    let leased = rig.lease_run(&of(50)).await;
    rig.deliver_all(&leased).await;
    assert_eq!(leased_ids(&rig.lease_run(&of(50)).await), ids(&others));
}

/// Of the vault and of its origin.
pub async fn a_batch_takes_one_slot(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    for name in ["a", "b", "c", "d"] {
        rig.queue_many(name, 5).await;
    }
    let leased = rig.advance(rig.leasing_batches(2, &of(50))).await.leased;
    assert_eq!((leased.len(), requests(&leased).len()), (10, 2));
    let mut step = rig.leasing_batches(100, &of(50));
    let lease = step.lease.as_mut().expect("a lease");
    lease.origin_slots = vec![(super::draft::origin("a"), 1)];
    let leased = rig.advance(step).await.leased;
    assert_eq!((leased.len(), requests(&leased).len()), (5, 1));
}

/// Also when all but one are.
pub async fn nothing_starts_before_the_whole_batch_is_settled(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue_many("a", 5).await;
    let leased = rig.lease_run(&of(4)).await;
    rig.deliver_all(&leased[1..]).await;
    assert!(rig.lease_batches(&of(4)).await.is_empty());
    rig.deliver_all(&leased[..1]).await;
    assert_eq!(leased_ids(&rig.lease_run(&of(4)).await), [queued[4].id]);
}

/// Twice settled, or by the lease of another run, changes nothing; the others are not touched by that.
pub async fn each_member_of_a_batch_is_settled_by_its_own_lease(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue_many("a", 3).await;
    let leased = rig.lease_run(&of(3)).await;
    let delivered = Settlement::Delivered { status: 200 };
    let mut settles: Vec<_> = leased
        .iter()
        .map(|one| settle_of(&one.record, delivered.clone()))
        .collect();
    settles[1].epoch += 1;
    settles.push(settles[0].clone());
    let mut step = rig.step();
    step.settle = settles;
    let settled = rig.advance(step).await.settled;
    let is_taken: Vec<_> = settled.iter().map(Option::is_some).collect();
    assert_eq!(is_taken, [true, false, true, false]);
    assert_eq!(rig.totals().await.counts.in_flight, 1);
    rig.deliver_all(&leased[1..2]).await;
    assert_eq!(rig.totals().await.ledger.delivered, 3);
}

/// No commit stands between two batches of a lane.
pub async fn one_advance_settles_a_batch_and_leases_the_next(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue_many("a", 6).await;
    let first = rig.lease_run(&of(3)).await;
    let mut step = rig.leasing_batches(1, &of(3));
    let delivered = Settlement::Delivered { status: 204 };
    step.settle = first
        .iter()
        .map(|one| settle_of(&one.record, delivered.clone()))
        .collect();
    let advanced = rig.advance(step).await;
    assert_eq!(advanced.settled.iter().flatten().count(), 3);
    assert_eq!(leased_ids(&advanced.leased), ids(&queued[3..]));
}

/// The same order, places and name; whatever the limits are now, and whatever waits behind it.
pub async fn a_batch_is_leased_with_the_same_members_again(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue_many("a", 4).await;
    let first = rig.lease_run(&of(4)).await;
    let behind = rig.queue_many("a", 3).await;
    for (attempt, limits) in [(2, 2), (3, 50)] {
        let again = rig.lease_kept(&first, &of(limits)).await;
        assert!(again.iter().all(|one| one.record.attempts == attempt));
    }
    let last = rig.lease_kept(&first, &of(4)).await;
    rig.deliver_all(&last).await;
    assert_eq!(leased_ids(&rig.lease_run(&of(4)).await), ids(&behind));
}

fn same_batch(again: &[Leased], first: &[Leased]) {
    let batches = |leased: &[Leased]| -> Vec<(ActionId, Batch)> {
        leased
            .iter()
            .map(|one| (one.record.id, batch_of(&one.record)))
            .collect()
    };
    assert_eq!(batches(again), batches(first));
    for one in again {
        assert_eq!(one.wire_before, WireState::MaybeSent);
    }
}

/// Its members wait for their head only: they go together or not at all.
pub async fn a_batch_is_due_when_its_head_is(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    rig.queue_many("a", 3).await;
    let first = rig.lease_run(&of(3)).await;
    let dues = [100, 900, 5_000];
    let settles = first
        .iter()
        .zip(dues)
        .map(|(one, due)| kept(&one.record, rig.at(due)));
    rig.settle_all(settles).await;
    rig.wait(99);
    assert!(rig.lease_batches(&of(3)).await.is_empty());
    rig.wait(1);
    same_batch(&rig.lease_run(&of(3)).await, &first);
}

/// Nobody knows what the server saw of it.
pub async fn a_crash_keeps_a_batch_together(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue_many("a", 3).await;
    let first = rig.lease_run(&of(3)).await;
    let rig = rig.crash().await;
    let mut reclaimed = rig.opened.reclaimed.clone();
    reclaimed.sort_unstable();
    let mut want = leased_ids(&first);
    want.sort_unstable();
    assert_eq!(reclaimed, want);
    rig.queue_many("a", 3).await;
    let again = rig.lease_run(&of(50)).await;
    same_batch(&again, &first);
    let rig = rig.crash().await;
    same_batch(&rig.lease_run(&of(2)).await, &first);
}

/// So does a store that was closed in mid attempt.
pub async fn a_close_keeps_a_batch_together(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue_many("a", 2).await;
    let first = rig.lease_run(&of(50)).await;
    let rig = rig.restart().await;
    same_batch(&rig.lease_run(&of(50)).await, &first);
}

/// With other members its key would stand for another request.
pub async fn a_batch_that_lost_a_member_goes_one_by_one(factory: &impl StoreFactory) {
    for lost in 0..3 {
        let mut rig = rig(factory).await;
        let expires = rig.at(1_000);
        let mut queued = Vec::new();
        for place in 0..3 {
            let draft = rig.draft("a");
            let draft = match place == lost {
                true => draft.expires(expires),
                false => draft,
            };
            queued.push(rig.queue(draft).await.id);
        }
        let first = rig.lease_run(&of(50)).await;
        assert_eq!(leased_ids(&first), queued);
        rig.keep_all(&first).await;
        rig.wait(2_000);
        queued.remove(lost);
        queued.push(rig.queue(rig.draft("a")).await.id);
        for id in &queued[..2] {
            let leased = rig.lease_run(&of(50)).await;
            assert_eq!(leased_ids(&leased), [*id]);
            assert_eq!(leased[0].record.batch, Some(Batching::Singly));
            assert_eq!(leased[0].wire_before, WireState::MaybeSent);
            rig.deliver_all(&leased).await;
        }
        assert_eq!(leased_ids(&rig.lease_run(&of(50)).await), [queued[2]]);
        assert_eq!(rig.totals().await.ledger.expired, 1);
    }
}

/// By a worker without a rule, or where the rule says so now.
pub async fn a_batch_that_nobody_asks_for_goes_one_by_one(factory: &impl StoreFactory) {
    let nowhere = Batches::new(|_| None);
    for batches in [None, Some(nowhere)] {
        let rig = rig(factory).await;
        let queued = rig.queue_many("a", 3).await;
        let first = rig.lease_run(&of(50)).await;
        rig.keep_all(&first).await;
        for want in &queued {
            let mut step = rig.leasing(100);
            let lease = step.lease.as_mut().expect("a lease");
            lease.batches.clone_from(&batches);
            let leased = rig.advance(step).await.leased;
            assert_eq!(leased_ids(&leased), [want.id]);
            assert_eq!(leased[0].record.batch, Some(Batching::Singly));
            rig.deliver_all(&leased).await;
        }
    }
}

/// Through its retries and a crash, and it lets nobody join it.
pub async fn what_goes_alone_stays_alone(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue_many("a", 4).await;
    let first = rig.lease_run(&of(2)).await;
    let settles = first.iter().map(|one| {
        let mut settle = kept(&one.record, rig.now);
        (settle.wire, settle.batch) = (WireState::Answered, Some(Batching::Singly));
        settle
    });
    rig.settle_all(settles).await;
    let alone = rig.lease_run(&of(50)).await;
    assert_eq!(leased_ids(&alone), [queued[0].id]);
    rig.keep_all(&alone).await;
    let rig = rig.crash().await;
    for want in &queued[..2] {
        let alone = rig.lease_run(&of(50)).await;
        assert_eq!(leased_ids(&alone), [want.id]);
        rig.deliver_all(&alone).await;
    }
    assert_eq!(leased_ids(&rig.lease_run(&of(50)).await), ids(&queued[2..]));
}

/// A server said so of each: the next batch is another one, with a name of its own.
pub async fn what_is_told_to_go_again_may_join_another_batch(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue_many("a", 3).await;
    let first = rig.lease_run(&of(50)).await;
    let mut settles: Vec<_> = first.iter().map(|one| kept(&one.record, rig.now)).collect();
    settles[1].result = Settlement::Delivered { status: 200 };
    for settle in &mut settles {
        (settle.wire, settle.batch) = (WireState::Answered, Some(Batching::Again));
    }
    rig.settle_all(settles).await;
    let more = rig.queue(rig.draft("a")).await;
    let next = rig.lease_run(&of(50)).await;
    assert_eq!(leased_ids(&next), [queued[0].id, queued[2].id, more.id]);
    let batch = batch_of(&next[0].record);
    assert_eq!(batch, Batch::new(queued[0].id, 2, 3));
    assert!(!batch.is_same(&batch_of(&first[0].record)));
}

/// Of what never left nobody knows.
pub async fn a_freed_batch_makes_room_for_a_longer_one(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let mut queued = ids(&rig.queue_many("a", 2).await);
    let first = rig.lease_run(&of(50)).await;
    let settles = first.iter().map(|one| {
        let mut settle = kept(&one.record, rig.now);
        (settle.wire, settle.batch) = (WireState::NeverSent, None);
        settle
    });
    rig.settle_all(settles).await;
    queued.extend(ids(&rig.queue_many("a", 2).await));
    assert_eq!(leased_ids(&rig.lease_run(&of(50)).await), queued);
}

/// Delivered or dead, and also when it is sent back: alone, at the end of its lane.
pub async fn what_ended_is_of_no_batch(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue_many("a", 2).await;
    let first = rig.lease_run(&of(50)).await;
    let (reason, lane) = (rejected(), DeadLane::Skip);
    let settles = [
        settle_of(&first[0].record, Settlement::Delivered { status: 200 }),
        settle_of(&first[1].record, Settlement::Dead { reason, lane }),
    ];
    rig.settle_all(settles).await;
    for one in &queued {
        assert_eq!(rig.record(one.id).await.batch, None);
    }
    rig.requeue(queued[1].id).await;
    rig.queue_many("a", 2).await;
    let leased = rig.lease_run(&of(50)).await;
    assert_eq!(leased_ids(&leased), [queued[1].id]);
}

/// Those behind it in the batch were taken by the server; those behind the batch wait.
pub async fn a_rejected_member_blocks_its_lane_behind_the_batch(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue_many("a", 4).await;
    let first = rig.lease_run(&of(3)).await;
    let delivered = Settlement::Delivered { status: 200 };
    let (reason, policy) = (rejected(), DeadLane::Block);
    let dead = Settlement::Dead {
        reason,
        lane: policy,
    };
    let results = [delivered.clone(), dead, delivered];
    let settles = first
        .iter()
        .zip(results)
        .map(|(one, result)| settle_of(&one.record, result));
    rig.settle_all(settles).await;
    assert!(rig.lease_batches(&of(50)).await.is_empty());
    assert_eq!(rig.lane("a").await.blocked_by, Some(queued[1].id));
    let ledger = rig.totals().await.ledger;
    assert_eq!((ledger.delivered, ledger.dead, ledger.pending), (2, 1, 1));
    rig.requeue(queued[1].id).await;
    assert_eq!(leased_ids(&rig.lease_run(&of(50)).await), [queued[1].id]);
}

/// Neither in flight nor when it may have been sent.
pub async fn a_member_of_a_batch_cannot_be_cancelled(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue_many("a", 3).await;
    let first = rig.lease_run(&of(2)).await;
    assert!(matches!(rig.cancel(queued[1].id).await, Amended::NotNow(_)));
    rig.keep_all(&first).await;
    assert!(matches!(rig.cancel(queued[1].id).await, Amended::NotNow(_)));
    assert!(matches!(rig.cancel(queued[2].id).await, Amended::Done(_)));
    same_batch(&rig.lease_run(&of(50)).await, &first);
}

/// Wherever a body lies, it comes with its lease.
pub async fn a_body_in_a_file_joins_a_batch(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let bodies: Vec<Vec<u8>> = [10, 30_000, 20].map(|bytes| vec![5; bytes]).into();
    for body in &bodies {
        rig.queue(rig.draft("a").body(body.clone())).await;
    }
    let leased = rig.lease_run(&of(50)).await;
    let got: Vec<_> = leased.iter().map(|one| bytes_of(&one.body)).collect();
    assert_eq!(got, bodies);
    rig.deliver_all(&leased).await;
    assert_eq!(rig.totals().await.counts.pending, 0);
}

/// The rule sees the names as the vault gave them, also where a store keeps them sealed.
pub async fn a_batch_of_a_sealed_lane_is_told_by_its_head(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let drafts = (0..3).map(|_| rig.draft("of ada").principal("ada"));
    rig.append_all(drafts).await;
    let want = lane("of ada");
    let batches = Batches::new(move |head| {
        let is_named = head.lane == want && head.principal.as_deref() == Some("ada");
        is_named.then(BatchLimits::default)
    });
    assert_eq!(rig.lease_run(&batches).await.len(), 3);
}
