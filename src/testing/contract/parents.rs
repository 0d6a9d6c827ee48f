//! Actions that wait for others: who may wait for whom, what the parent's end means for its children, and how they come back.

use super::StoreFactory;
use super::rig::{Rig, ids, leased_ids, rejected, rig, settle_of};
use crate::action::{ActionId, DeadReason, Record, State};
use crate::decide::{DeadLane, Settlement};
use crate::store::{
    Advanced, Amend, Amended, Appended, Direct, PARENTS_MAX, Restore, RestoreEnd, Restored, Unfit,
};

impl<F: StoreFactory> Rig<'_, F> {
    /// Steps without leases until no child is left to look at. What all of them told of.
    async fn tended(&self) -> Advanced {
        let mut all = Advanced::default();
        for _ in 0..1_000 {
            let step = self.advance(self.step()).await;
            all.buried.extend(step.buried);
            all.revived.extend(step.revived);
            if !step.is_unfinished {
                return all;
            }
        }
        panic!("looking at children comes to an end");
    }

    async fn child(&self, of: &Record, lane: &str) -> Record {
        self.queue(self.draft(lane).after(of.id)).await
    }

    async fn unfit(&self, draft: super::draft::Draft) -> (ActionId, Unfit) {
        let id = draft.id();
        let before = self.totals().await;
        let (parent, why) = match self.append(draft).await {
            Appended::Unfit { parent, why } => (parent, why),
            other => panic!("expected Unfit, got {other:?}"),
        };
        assert_eq!(self.find(id).await, None);
        assert_eq!(self.totals().await, before, "nothing was added");
        (parent, why)
    }
}

fn died_with(record: &Record) -> Option<ActionId> {
    match &record.state {
        State::Dead {
            reason: DeadReason::ParentDead { parent },
            ..
        } => Some(*parent),
        _ => None,
    }
}

/// In whatever lane. The step that settles the parent may lease the child.
pub async fn a_child_waits_for_its_parent(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let parent = rig.queue(rig.draft("a")).await;
    let child = rig.child(&parent, "b").await;
    assert_eq!(
        (&child.parents, &child.waits),
        (&vec![parent.id], &vec![parent.id])
    );
    let leased = rig.lease_only().await;
    assert_eq!(leased.id, parent.id);
    let rig = rig.crash().await;
    assert_eq!(rig.record(child.id).await, child);
    let leased = rig.lease_only().await;
    assert_eq!(leased.id, parent.id, "a restart frees no child");
    assert_eq!(rig.next_due().await, None, "time does not help a child");
    let mut step = rig.leasing(9);
    step.settle
        .push(settle_of(&leased, Settlement::Delivered { status: 201 }));
    let advanced = rig.advance(step).await;
    assert_eq!(leased_ids(&advanced.leased), [child.id]);
    let record = &advanced.leased[0].record;
    assert_eq!((&record.parents, record.waits.len()), (&vec![parent.id], 0));
}

/// A retry of the parent changes nothing for its children.
pub async fn a_child_waits_through_retries(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let parent = rig.queue(rig.draft("a")).await;
    let child = rig.child(&parent, "b").await;
    let leased = rig.lease_only().await;
    rig.retry(&leased, rig.now).await;
    let leased = rig.lease_only().await;
    assert_eq!(leased.id, parent.id);
    rig.deliver(&leased).await;
    assert_eq!(rig.lease_only().await.id, child.id);
}

/// What is behind a child waits with it; a direct send does not pass it.
pub async fn a_child_holds_its_lane_at_its_place(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let parent = rig.queue(rig.draft("a")).await;
    let before = rig.queue(rig.draft("b")).await;
    let child = rig.child(&parent, "b").await;
    let behind = rig.queue(rig.draft("b")).await;
    let direct = rig.append(rig.draft("b").direct(Direct::SideBySide)).await;
    assert!(matches!(direct, Appended::Queued { .. }), "{direct:?}");
    let leased = rig.lease(9).await;
    assert_eq!(leased_ids(&leased), [parent.id, before.id]);
    rig.deliver(&leased[1].record).await;
    rig.leases_nothing().await;
    assert_eq!(rig.lane("b").await.head, Some(child.id));
    rig.deliver(&leased[0].record).await;
    let leased = rig.lease_only().await;
    assert_eq!(leased.id, child.id);
    rig.deliver(&leased).await;
    assert_eq!(rig.lease_only().await.id, behind.id);
}

/// One that waits is not sent at once, though its lane is free.
pub async fn a_child_is_not_sent_at_once(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let parent = rig.queue(rig.draft("a")).await;
    let draft = rig.draft("b").after(parent.id).direct(Direct::Alone);
    rig.queue(draft).await;
    let leased = rig.lease_only().await;
    rig.deliver(&leased).await;
    let free = rig.draft("c").after(parent.id).direct(Direct::Alone);
    rig.lease_direct(free).await;
}

/// Unknown, later in the batch, itself, ended otherwise than delivered, another principal's, too many.
pub async fn a_parent_that_cannot_be_waited_for_is_refused(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let unknown = ActionId::new();
    let refused = rig.unfit(rig.draft("a").after(unknown)).await;
    assert_eq!(refused, (unknown, Unfit::Unknown));
    let own = rig.draft("a");
    let id = own.id();
    assert_eq!(rig.unfit(own.after(id)).await, (id, Unfit::Itself));
    let first = rig.draft("a");
    let second = rig.draft("a").after(first.id());
    let appended = rig.append_all([second, first]).await;
    assert!(
        matches!(
            appended[0],
            Appended::Unfit {
                why: Unfit::Unknown,
                ..
            }
        ),
        "no circle: {appended:?}"
    );
    let Appended::Queued { record: gone, .. } = &appended[1] else {
        panic!("the other one is added: {appended:?}");
    };
    rig.cancel(gone.id).await;
    let refused = rig.unfit(rig.draft("a").after(gone.id)).await;
    assert_eq!(refused, (gone.id, Unfit::Ended));
    let foreign = rig.queue(rig.draft("a").principal("anna")).await;
    let refused = rig.unfit(rig.draft("a").after(foreign.id)).await;
    assert_eq!(refused, (foreign.id, Unfit::Foreign));
    let many = rig.queue_many("b", PARENTS_MAX + 1).await;
    let draft = many
        .iter()
        .fold(rig.draft("a"), |draft, parent| draft.after(parent.id));
    assert_eq!(rig.unfit(draft).await.1, Unfit::TooMany);
}

/// In the order of the batch.
pub async fn a_parent_may_come_in_the_same_batch(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let parent = rig.draft("a");
    let child = rig.draft("b").after(parent.id());
    let want = parent.id();
    let appended = rig.append_all([parent, child]).await;
    assert!(
        matches!(appended[1], Appended::Queued { .. }),
        "{appended:?}"
    );
    assert_eq!(rig.lease_only().await.id, want);
}

/// Whoever comes after the end finds nothing to wait for.
pub async fn a_child_of_a_delivered_parent_waits_for_nothing(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let parent = rig.delivered(rig.draft("a")).await;
    let child = rig.child(&parent, "b").await;
    assert_eq!((child.parents, child.waits.len()), (vec![parent.id], 0));
    assert_eq!(rig.lease_only().await.id, child.id);
}

/// Both must be delivered.
pub async fn a_child_waits_for_all_its_parents(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let one = rig.queue(rig.draft("a")).await;
    let other = rig.queue(rig.draft("b")).await;
    let child = rig
        .queue(rig.draft("c").after(one.id).after(other.id))
        .await;
    let leased = rig.lease(9).await;
    assert_eq!(leased_ids(&leased), [one.id, other.id]);
    rig.deliver(&leased[1].record).await;
    rig.leases_nothing().await;
    assert_eq!(rig.record(child.id).await.waits, [one.id]);
    rig.deliver(&leased[0].record).await;
    assert_eq!(rig.lease_only().await.id, child.id);
}

/// They are never sent, and say why; so do their own children. The lanes go on.
pub async fn a_dead_parent_takes_its_children_along(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let parent = rig.queue(rig.draft("a")).await;
    let child = rig.child(&parent, "b").await;
    let grandchild = rig.child(&child, "c").await;
    let behind = rig.queue(rig.draft("b")).await;
    let leased = rig.lease_only().await;
    let mut step = rig.step();
    let (reason, lane) = (rejected(), DeadLane::Skip);
    step.settle
        .push(settle_of(&leased, Settlement::Dead { reason, lane }));
    let mut told = rig.advance(step).await.buried;
    told.extend(rig.tended().await.buried);
    assert_eq!(ids(&told), [child.id, grandchild.id]);
    let rig = rig.restart().await;
    let (child, grandchild) = (rig.record(child.id).await, rig.record(grandchild.id).await);
    assert_eq!(told, [child.clone(), grandchild.clone()]);
    assert_eq!(died_with(&child), Some(parent.id));
    assert_eq!(died_with(&grandchild), Some(child.id));
    assert_eq!((child.attempts, grandchild.attempts), (0, 0));
    let totals = rig.totals().await;
    assert_eq!((totals.counts.dead, totals.ledger.dead), (3, 3));
    assert_eq!(rig.lease_only().await.id, behind.id);
}

/// It is kept, and comes back with its parent.
pub async fn a_child_of_a_dead_parent_is_dead(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let parent = rig.dead_letter(rig.draft("a"), DeadLane::Skip).await;
    let child = rig.child(&parent, "b").await;
    rig.leases_nothing().await;
    assert_eq!(died_with(&rig.record(child.id).await), Some(parent.id));
    rig.requeue(parent.id).await;
    assert_eq!(ids(&rig.tended().await.revived), [child.id]);
}

/// The app's order: the lane waits for a child that died with its parent, as for any dead letter.
pub async fn a_lane_may_wait_for_a_child_that_died(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let parent = rig.dead_letter(rig.draft("a"), DeadLane::Block).await;
    let child = rig.child(&parent, "b").await;
    let behind = rig.queue(rig.draft("b")).await;
    let mut step = rig.leasing(9);
    step.dead_lane = DeadLane::Block;
    let advanced = rig.advance(step).await;
    assert_eq!(
        (ids(&advanced.buried), advanced.leased.len()),
        (vec![child.id], 0)
    );
    assert_eq!(rig.lane("b").await.blocked_by, Some(child.id));
    rig.requeue(parent.id).await;
    rig.tended().await;
    assert_eq!(rig.lane("b").await.blocked_by, None);
    for want in [parent.id, child.id, behind.id] {
        let leased = rig.lease_only().await;
        assert_eq!(leased.id, want);
        rig.deliver(&leased).await;
    }
}

/// Children and their children come back, behind it; what died for another reason stays.
pub async fn requeueing_a_parent_revives_its_children(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let parent = rig.queue(rig.draft("a")).await;
    let child = rig.child(&parent, "a").await;
    let grandchild = rig.child(&child, "b").await;
    let leased = rig.lease_only().await;
    rig.die(&leased, DeadLane::Skip).await;
    rig.tended().await;
    let other = rig.dead_letter(rig.draft("c"), DeadLane::Skip).await;
    let rig = rig.restart().await;
    rig.requeue(parent.id).await;
    let rig = rig.crash().await;
    let told = rig.tended().await.revived;
    assert_eq!(ids(&told), [child.id, grandchild.id]);
    assert_eq!(told[0], rig.record(child.id).await);
    for want in [parent.id, child.id, grandchild.id] {
        let leased = rig.lease_only().await;
        assert_eq!(leased.id, want);
        rig.deliver(&leased).await;
    }
    assert!(rig.record(other.id).await.state.is_dead());
    let ledger = rig.ledger().await;
    assert_eq!((ledger.enqueued, ledger.delivered, ledger.dead), (4, 3, 1));
}

/// It would be sent without what it waits for.
pub async fn a_child_is_not_requeued_before_its_parent(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let parent = rig.dead_letter(rig.draft("a"), DeadLane::Skip).await;
    let child = rig.child(&parent, "b").await;
    rig.tended().await;
    let dead = rig.record(child.id).await;
    match rig.requeue(child.id).await {
        Amended::NotNow(record) => assert_eq!(record, dead),
        other => panic!("expected NotNow, got {other:?}"),
    }
    assert_eq!(rig.record(child.id).await, dead);
    rig.done(Amend::Discard { id: parent.id }).await;
    assert!(matches!(rig.requeue(child.id).await, Amended::NotNow(_)));
    rig.tended().await;
    assert_eq!(rig.record(child.id).await, dead, "it stays, with its name");
    rig.done(Amend::Discard { id: child.id }).await;
    assert_eq!(rig.totals().await.counts.dead, 0);
}

/// One parent back is not enough.
pub async fn a_child_of_two_dead_parents_comes_back_with_the_last(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let one = rig.dead_letter(rig.draft("a"), DeadLane::Skip).await;
    let other = rig.dead_letter(rig.draft("b"), DeadLane::Skip).await;
    let child = rig
        .queue(rig.draft("c").after(one.id).after(other.id))
        .await;
    rig.tended().await;
    let named = died_with(&rig.record(child.id).await).expect("dead");
    let last = if named == one.id { other.id } else { one.id };
    rig.requeue(named).await;
    assert_eq!(ids(&rig.tended().await.revived), []);
    assert_eq!(died_with(&rig.record(child.id).await), Some(last));
    let leased = rig.lease_only().await;
    rig.deliver(&leased).await;
    rig.requeue(last).await;
    assert_eq!(ids(&rig.tended().await.revived), [child.id]);
    let leased = rig.lease_only().await;
    assert_eq!(leased.id, last);
    rig.deliver(&leased).await;
    assert_eq!(rig.lease_only().await.id, child.id);
}

/// Cancelled, cleared or expired: nothing will come of it.
pub async fn a_parent_that_ends_otherwise_takes_its_children_along(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let cancelled = rig.queue(rig.draft("a")).await;
    let expires = rig.at(100);
    let expired = rig.queue(rig.draft("b").expires(expires)).await;
    let evicted = rig.queue(rig.draft("c")).await;
    let mut children = Vec::new();
    for (parent, name) in [(&cancelled, "x"), (&expired, "y"), (&evicted, "z")] {
        children.push(rig.child(parent, name).await.id);
    }
    rig.cancel(cancelled.id).await;
    rig.done(Amend::Quarantine { id: evicted.id }).await;
    rig.wait(101);
    rig.tended().await;
    for (child, parent) in children.iter().zip([&cancelled, &expired, &evicted]) {
        assert_eq!(died_with(&rig.record(*child).await), Some(parent.id));
    }
    let ledger = rig.ledger().await;
    assert_eq!(
        (ledger.cancelled, ledger.expired, ledger.evicted),
        (1, 1, 1)
    );
    assert_eq!((ledger.dead, ledger.pending), (3, 0));
}

/// A child that ended is waited for by nobody, and revived by nobody.
pub async fn a_child_that_ended_is_left_alone(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let parent = rig.queue(rig.draft("a")).await;
    let cancelled = rig.child(&parent, "b").await;
    let expires = rig.at(100);
    let expired = rig
        .queue(rig.draft("c").after(parent.id).expires(expires))
        .await;
    let grandchild = rig.child(&cancelled, "d").await;
    assert!(matches!(rig.cancel(cancelled.id).await, Amended::Done(_)));
    rig.wait(101);
    rig.tended().await;
    assert_eq!(
        died_with(&rig.record(grandchild.id).await),
        Some(cancelled.id)
    );
    let leased = rig.lease_only().await;
    rig.die(&leased, DeadLane::Skip).await;
    rig.requeue(parent.id).await;
    assert_eq!(ids(&rig.tended().await.revived), []);
    assert!(matches!(
        rig.record(cancelled.id).await.state,
        State::Cancelled { .. }
    ));
    assert!(matches!(
        rig.record(expired.id).await.state,
        State::Expired { .. }
    ));
}

/// Somebody may need what comes of it. Both go out, in order.
pub async fn a_parent_is_not_superseded(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let parent = rig.queue(rig.draft("a").coalesce("k")).await;
    let child = rig
        .queue(rig.draft("a").coalesce("k").after(parent.id))
        .await;
    rig.child(&child, "b").await;
    let newer = rig.queue(rig.draft("a").coalesce("k")).await;
    let newest = match rig.append(rig.draft("a").coalesce("k")).await {
        Appended::Queued { record, superseded } => {
            assert_eq!(
                superseded.map(|old| old.id),
                Some(newer.id),
                "nobody waits for it"
            );
            record
        }
        other => panic!("expected Queued, got {other:?}"),
    };
    for want in [parent.id, child.id] {
        let leased = rig.lease_only().await;
        assert_eq!(leased.id, want);
        rig.deliver(&leased).await;
    }
    let leased = rig.lease(9).await;
    assert_eq!(leased_ids(&leased)[0], newest.id);
    assert_eq!(rig.ledger().await.superseded, 1);
}

/// Its caller hears of the refusal, and the child's caller must too: it stays as a dead letter.
pub async fn a_direct_send_that_is_waited_for_is_not_returned(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let parent = rig.lease_direct(rig.draft("a").direct(Direct::Alone)).await;
    let child = rig.child(&parent, "b").await;
    let mut settle = settle_of(&parent, Settlement::Returned);
    settle.status = Some(404);
    rig.settle_with(settle).await.expect("accepted");
    rig.tended().await;
    assert!(rig.record(parent.id).await.state.is_dead());
    assert_eq!(died_with(&rig.record(child.id).await), Some(parent.id));
}

/// Nothing waits for itself, however parents and children were moved.
pub async fn a_parent_goes_before_children_that_were_not_looked_at(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let parent = rig.queue(rig.draft("a")).await;
    let drafts = (0..400).map(|_| rig.draft("a").after(parent.id));
    let children = rig.append_all(drafts.collect::<Vec<_>>()).await;
    let Some(Appended::Queued { record: last, .. }) = children.last() else {
        panic!("all are added");
    };
    let tail = rig.child(last, "a").await;
    let leased = rig.lease_only().await;
    let dead = rig.die(&leased, DeadLane::Skip).await;
    // Not all children were looked at by now.
    rig.requeue(dead.id).await;
    rig.tended().await;
    let mut order = Vec::new();
    while let Some(leased) = rig.lease(9).await.pop() {
        order.push(leased.record.id);
        rig.deliver(&leased.record).await;
    }
    assert_eq!((order.len(), order[0]), (402, parent.id));
    let place = |id| order.iter().position(|one| *one == id);
    assert!(place(tail.id) > place(last.id));
    assert_eq!(rig.totals().await.counts.pending, 0);
}

/// A step looks at a bounded number, a crash in between loses none.
pub async fn a_crowd_of_children_is_freed_in_bounded_steps(factory: &impl StoreFactory) {
    const COUNT: usize = 600;
    let rig = rig(factory).await;
    let parent = rig.queue(rig.draft("a")).await;
    let drafts = (0..COUNT).map(|n| rig.draft(&format!("c{n}")).after(parent.id));
    rig.append_all(drafts.collect::<Vec<_>>()).await;
    let leased = rig.lease_only().await;
    let mut step = rig.leasing(1_000);
    step.settle
        .push(settle_of(&leased, Settlement::Delivered { status: 200 }));
    let advanced = rig.advance(step).await;
    assert!(advanced.is_unfinished);
    let first = advanced.leased.len();
    assert!(first > 0 && first < COUNT, "{first} were freed at once");
    let rig = rig.crash().await;
    rig.tended().await;
    assert_eq!(rig.lease(1_000).await.len(), COUNT);
}

/// Link by link, each in the step of the one before.
pub async fn a_chain_dies_and_comes_back_in_bounded_steps(factory: &impl StoreFactory) {
    const COUNT: usize = 600;
    let rig = rig(factory).await;
    let mut drafts = vec![rig.draft("a")];
    for n in 1..COUNT {
        let before = drafts[n - 1].id();
        drafts.push(rig.draft(["a", "b"][n % 2]).after(before));
    }
    let chain: Vec<_> = drafts.iter().map(super::draft::Draft::id).collect();
    rig.append_all(drafts).await;
    let leased = rig.lease_only().await;
    rig.die(&leased, DeadLane::Skip).await;
    rig.tended().await;
    assert_eq!(rig.totals().await.counts.dead, COUNT as u64);
    rig.requeue(chain[0]).await;
    rig.tended().await;
    assert_eq!(rig.totals().await.counts.pending, COUNT as u64);
    let mut step = rig.leasing(9);
    for want in chain {
        let leased = rig.advance(step).await.leased;
        assert_eq!(leased_ids(&leased), [want]);
        step = rig.leasing(9);
        let delivered = Settlement::Delivered { status: 200 };
        step.settle.push(settle_of(&leased[0].record, delivered));
    }
}

/// Of one principal, both go; a child that came too late for that dies.
pub async fn forgetting_a_parent_takes_its_children_along(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let parent = rig.queue(rig.draft("a").principal("anna")).await;
    let child = rig.draft("b").principal("anna").after(parent.id);
    let child = rig.queue(child).await;
    let principal = "anna".to_owned();
    while let Amended::More(_) = {
        let principal = principal.clone();
        rig.amend(Amend::Forget {
            principal,
            limit: 1,
        })
        .await
    } {
        rig.tended().await;
    }
    rig.tended().await;
    assert_eq!(
        (rig.find(parent.id).await, rig.find(child.id).await),
        (None, None)
    );
    let totals = rig.totals().await;
    assert_eq!((totals.counts.pending, totals.counts.dead), (0, 0));
}

/// Parents, children and what they wait for, in whatever order they come.
pub async fn children_are_put_back_with_their_parents(factory: &impl StoreFactory) {
    let source = rig(factory).await;
    let dead = source.dead_letter(source.draft("c"), DeadLane::Skip).await;
    let parent = source.queue(source.draft("a")).await;
    let child = source.child(&parent, "b").await;
    let lost = source.child(&dead, "d").await;
    source.tended().await;
    let mut restore = Restore::new("copy", source.now);
    for id in [lost.id, child.id, dead.id, parent.id] {
        let mut restored = Restored::new(source.record(id).await);
        restored.body = source.store.body(id).await.expect("body");
        restore.actions.push(restored);
    }
    restore.end = Some(RestoreEnd::new(source.ledger().await));
    let rig = rig(factory).await;
    rig.store.restore(restore).await.expect("restore");
    assert_eq!(rig.record(child.id).await.waits, [parent.id]);
    let leased = rig.lease_only().await;
    assert_eq!(leased.id, parent.id);
    rig.deliver(&leased).await;
    assert_eq!(rig.lease_only().await.id, child.id);
    rig.requeue(dead.id).await;
    assert_eq!(ids(&rig.tended().await.revived), [lost.id]);
    let rig = rig.restart().await;
    assert_eq!(rig.lane("d").await.head, Some(lost.id));
}
