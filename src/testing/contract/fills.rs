//! References to answers: a child that needs one is given out, comes back filled in, and stays as it is from then on.

use std::time::Duration;

use bytes::Bytes;

use super::StoreFactory;
use super::draft::origin;
use super::rig::{Rig, bytes_of, ids, leased_ids, rig, settle_of};
use crate::action::{ActionId, DeadReason, Record, State};
use crate::decide::{DeadLane, Settlement};
use crate::store::{Advance, Amended, Appended, Fill, Part, Settle, Unfit};

fn delivery(record: &Record, answer: &'static [u8]) -> Settle {
    let mut settle = settle_of(record, Settlement::Delivered { status: 201 });
    settle.answer = Some(Bytes::from_static(answer));
    settle
}

/// As a worker would fill it in.
fn filled(record: &Record) -> Fill {
    let mut fill = Fill::new(record.clone());
    fill.record.content = Bytes::from_static(b"{\"request\":\"with the id 7\"}");
    fill
}

impl<F: StoreFactory> Rig<'_, F> {
    fn filling(&self, fill: Fill) -> Advance {
        let mut step = self.leasing(9);
        step.fills.push(fill);
        step
    }

    /// A parent in flight, and a child that needs its answer.
    async fn in_need(&self) -> (Record, Record) {
        let parent = self.queue(self.draft("a")).await;
        let child = self.draft("b").after(parent.id).needs(parent.id);
        let child = self.queue(child).await;
        let leased = self.lease_only().await;
        assert_eq!(leased.id, parent.id);
        (leased, child)
    }

    /// The same, the parent delivered.
    async fn given_out(&self) -> (Record, Record) {
        let (parent, child) = self.in_need().await;
        let mut step = self.leasing(9);
        step.settle.push(delivery(&parent, b"{\"id\":7}"));
        let advanced = self.advance(step).await;
        assert_eq!(ids(&advanced.unfilled), [child.id]);
        assert_eq!(leased_ids(&advanced.leased), [], "it is not sent as it is");
        let [child] = &advanced.unfilled[..] else {
            panic!("one child is given out");
        };
        (parent, child.clone())
    }
}

/// Not before its parent is delivered, then with each step, over a crash, until it is filled in. Its parent's answer is there in
/// the same commit.
pub async fn a_freed_child_is_given_out_until_it_is_filled_in(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let (parent, child) = rig.given_out().await;
    let rig = rig.crash().await;
    let answer = rig.store.answer(parent.id).await.expect("answer");
    assert_eq!(answer.as_deref(), Some(&b"{\"id\":7}"[..]));
    let advanced = rig.advance(rig.leasing(9)).await;
    assert_eq!(advanced.unfilled, std::slice::from_ref(&child));
    assert_eq!(leased_ids(&advanced.leased), []);
    assert_eq!(rig.next_due().await, None);
    let advanced = rig.advance(rig.filling(filled(&child))).await;
    assert_eq!(ids(&advanced.unfilled), []);
    assert_eq!(leased_ids(&advanced.leased), [child.id]);
    let record = &advanced.leased[0].record;
    assert_eq!(record.content, filled(&child).record.content);
    assert!(record.needs.is_empty());
    assert_eq!(record.parents, [parent.id]);
}

/// Content, origin, body and weight are the new ones, also after a restart.
pub async fn what_was_filled_in_is_sent(factory: &impl StoreFactory) {
    for size in [40, 20_000] {
        let rig = rig(factory).await;
        let (_, child) = rig.given_out().await;
        let before = rig.totals().await.counts.bytes;
        let body = vec![b'x'; size];
        let mut fill = filled(&child);
        fill.body = Some(Bytes::from(body.clone()).into());
        fill.record.body_bytes = body.len() as u64;
        fill.record.origin = origin("elsewhere");
        let want = fill.record.weight();
        let mut step = rig.step();
        step.fills.push(fill.clone());
        rig.advance(step).await;
        let after = rig.totals().await.counts.bytes;
        assert_eq!(after, before - child.weight() + want);
        let rig = rig.crash().await;
        let leased = rig.lease(9).await;
        assert_eq!(leased_ids(&leased), [child.id]);
        let record = &leased[0].record;
        assert_eq!(record.content, fill.record.content);
        assert_eq!(record.origin, origin("elsewhere"));
        assert_eq!(record.body_bytes, body.len() as u64);
        assert_eq!(bytes_of(&leased[0].body), body);
        rig.deliver(record).await;
        assert_eq!(rig.totals().await.counts.bytes, 0);
    }
}

/// A fill that comes late, or again, changes nothing: what may have been sent stays what it is.
pub async fn an_action_is_filled_in_once(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let (_, child) = rig.given_out().await;
    let mut step = rig.step();
    step.fills.push(filled(&child));
    rig.advance(step).await;
    let kept = rig.record(child.id).await;
    for mut late in [filled(&child), filled(&kept)] {
        late.record.content = Bytes::from_static(b"{\"request\":\"another\"}");
        late.body = Some(Bytes::from(vec![9; 10_000]).into());
        let mut step = rig.step();
        step.fills.push(late);
        rig.advance(step).await;
        assert_eq!(rig.record(child.id).await, kept);
    }
    let mut unknown = filled(&kept);
    unknown.record.id = ActionId::new();
    let leased = rig.advance(rig.filling(unknown)).await.leased;
    assert_eq!(leased[0].record.content, kept.content);
}

/// Before its parent is delivered there is nothing to fill in with.
pub async fn a_child_that_waits_is_not_filled_in(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let (_, child) = rig.in_need().await;
    let advanced = rig.advance(rig.filling(filled(&child))).await;
    assert_eq!((advanced.leased.len(), advanced.unfilled.len()), (0, 0));
    assert_eq!(rig.record(child.id).await, child);
}

/// It says why, was never sent, and is given out again when it is sent back.
pub async fn what_cannot_be_filled_in_is_a_dead_letter(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let (parent, child) = rig.given_out().await;
    let after = rig.child_of(child.id).await;
    let reason = DeadReason::Unresolved {
        parent: parent.id,
        detail: "its answer has no such value".into(),
    };
    let mut fill = Fill::new(child.clone());
    fill.record.last_error = Some("the path needs the value at /id".into());
    fill.dead = Some(reason.clone());
    let advanced = rig.advance(rig.filling(fill)).await;
    assert_eq!(ids(&advanced.buried), [child.id, after]);
    assert_eq!((advanced.leased.len(), advanced.unfilled.len()), (0, 0));
    let rig = rig.restart().await;
    let dead = rig.record(child.id).await;
    let at = rig.ago(1);
    assert_eq!(dead.state, State::Dead { reason, at });
    let words = "the path needs the value at /id";
    assert_eq!(dead.last_error.as_deref(), Some(words));
    assert_eq!(dead.attempts, 0);
    rig.requeue(child.id).await;
    let advanced = rig.advance(rig.leasing(9)).await;
    assert_eq!(ids(&advanced.unfilled), [child.id]);
    let advanced = rig
        .advance(rig.filling(filled(&advanced.unfilled[0])))
        .await;
    assert_eq!(leased_ids(&advanced.leased), [child.id]);
}

impl<F: StoreFactory> Rig<'_, F> {
    async fn child_of(&self, id: ActionId) -> ActionId {
        self.queue(self.draft("z").after(id)).await.id
    }
}

/// It goes once nobody needs it any more; what is around it goes in time.
pub async fn an_answer_that_is_needed_outlives_retention(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let (parent, child) = rig.given_out().await;
    for _ in 0..100 {
        rig.delivered(rig.draft("c")).await;
    }
    rig.wait(60_000);
    let mut step = rig.step();
    step.retention.age = Duration::from_secs(1);
    for _ in 0..10 {
        rig.advance(step.clone()).await;
    }
    assert_eq!(ids(&rig.all(Part::Settled, 9).await), [parent.id]);
    let answer = rig.store.answer(parent.id).await.expect("answer");
    assert_eq!(answer.as_deref(), Some(&b"{\"id\":7}"[..]));
    step.fills.push(filled(&child));
    rig.advance(step.clone()).await;
    step.fills.clear();
    rig.advance(step).await;
    assert_eq!(rig.find(parent.id).await, None);
    assert_eq!(rig.lease_only().await.id, child.id);
}

/// Filled in at once from the kept answer; refused when there is none.
pub async fn a_late_child_needs_an_answer_that_is_kept(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let leased = rig.lease_only().await;
    let parent = rig
        .settle_with(delivery(&leased, b"7"))
        .await
        .expect("accepted");
    let child = rig.draft("b").after(parent.id).needs(parent.id);
    let child = rig.queue(child).await;
    let advanced = rig.advance(rig.leasing(9)).await;
    assert_eq!(
        (ids(&advanced.unfilled), advanced.leased.len()),
        (vec![child.id], 0)
    );
    let bare = rig.delivered(rig.draft("c")).await;
    let draft = rig.draft("b").after(bare.id).needs(bare.id);
    match rig.append(draft).await {
        Appended::Unfit { parent, why } => assert_eq!((parent, why), (bare.id, Unfit::NoAnswer)),
        other => panic!("expected Unfit, got {other:?}"),
    }
    assert!(matches!(
        rig.append(rig.draft("d").after(bare.id)).await,
        Appended::Queued { .. }
    ));
}

/// A child that is taken back before it is filled in leaves nothing behind.
pub async fn a_child_in_need_can_be_cancelled(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let (_, child) = rig.given_out().await;
    assert!(matches!(rig.cancel(child.id).await, Amended::Done(_)));
    let advanced = rig.advance(rig.filling(filled(&child))).await;
    assert_eq!((advanced.unfilled.len(), advanced.leased.len()), (0, 0));
    let mut step = rig.step();
    step.retention.count = 0;
    rig.advance(step.clone()).await;
    assert_eq!(rig.advance(step).await.totals.counts.retained, 0);
}

/// The answer of a dead parent is no answer: the child waits for its next life.
pub async fn a_child_in_need_comes_back_with_its_parent(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let (parent, child) = rig.in_need().await;
    let dead = rig.die(&parent, DeadLane::Skip).await;
    assert!(rig.record(child.id).await.state.is_dead());
    rig.requeue(dead.id).await;
    let leased = rig.lease_only().await;
    assert_eq!(leased.id, parent.id);
    let mut step = rig.step();
    step.settle.push(delivery(&leased, b"{\"id\":8}"));
    assert_eq!(ids(&rig.advance(step).await.unfilled), [child.id]);
}

/// A bounded number in each step, all of them in the end.
pub async fn a_crowd_is_filled_in_page_by_page(factory: &impl StoreFactory) {
    const COUNT: usize = 300;
    let rig = rig(factory).await;
    let parent = rig.queue(rig.draft("a")).await;
    let child = |n| {
        let draft = rig.draft(&format!("c{n}"));
        draft.after(parent.id).needs(parent.id)
    };
    rig.append_all((0..COUNT).map(child).collect::<Vec<_>>())
        .await;
    let leased = rig.lease_only().await;
    let mut step = rig.leasing(1_000);
    step.settle.push(delivery(&leased, b"7"));
    let mut sent = 0;
    for _ in 0..COUNT {
        let advanced = rig.advance(step).await;
        assert!(advanced.unfilled.len() < COUNT / 2, "a page at a time");
        sent += advanced.leased.len();
        step = rig.leasing(1_000);
        step.fills = advanced.unfilled.iter().map(filled).collect();
    }
    assert_eq!(sent, COUNT);
}
