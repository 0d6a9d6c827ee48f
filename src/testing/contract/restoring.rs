//! Actions put back as another store held them: whole, in their order, once, and only into an empty store.

use bytes::Bytes;

use super::StoreFactory;
use super::rig::{Rig, bytes_of, rig, settle_of};
use crate::action::{Record, State, WireState};
use crate::decide::{DeadLane, Gate, GateKey, GateReason, Settlement};
use crate::error::ErrorKind;
use crate::store::{Advance, Amend, Append, Part, Restore, RestoreEnd, Restored, Retention};

/// What a store holds, as it is put back elsewhere.
struct Held {
    actions: Vec<Restored>,
    end: RestoreEnd,
}

const PARTS: [Part; 3] = [Part::Pending, Part::Dead, Part::Settled];

/// An action in each state, with a body that is large and one that is empty, an answer, keys and a gate.
async fn fill<F: StoreFactory>(rig: &Rig<'_, F>) {
    rig.delivered(rig.draft("a").key("delivered")).await;
    let answered = rig.queue(rig.draft("a").principal("ann")).await;
    let leased = rig.lease_only().await;
    let mut settle = settle_of(&leased, Settlement::Delivered { status: 201 });
    settle.answer = Some(Bytes::from(vec![7; 10_000]));
    rig.settle_with(settle).await;
    assert_eq!(leased.id, answered.id);
    rig.dead_letter(rig.draft("b").key("dead"), DeadLane::Block)
        .await;
    rig.dead_letter(rig.draft("c").body(vec![1; 20_000]), DeadLane::Skip)
        .await;
    let gone = rig.queue(rig.draft("d").key("again")).await;
    rig.cancel(gone.id).await;
    let retried = rig.queue(rig.draft("e")).await;
    let leased = rig.lease_only().await;
    assert_eq!(leased.id, retried.id);
    rig.retry(&leased, rig.at(5_000)).await;
    rig.queue(rig.draft("d").key("again").body(Vec::new()))
        .await;
    rig.queue(rig.draft("d").body(vec![2; 30_000])).await;
    rig.queue(rig.draft("b").expires(rig.at(9_000))).await;
    rig.queue(rig.draft("e").coalesce("x").priority(3)).await;
    let key = GateKey::Principal(Some("ann".to_owned()));
    let gate = Gate::new(key, GateReason::Unauthorized, rig.at(1_000), rig.now);
    rig.set_gate(gate).await;
    rig.amend(Amend::Pause { paused: true }).await;
}

/// Restarts, and reads everything that there is.
async fn held<F: StoreFactory>(rig: Rig<'_, F>) -> (Rig<'_, F>, Held) {
    let rig = rig.restart().await;
    let mut actions = Vec::new();
    for part in PARTS {
        for record in rig.all(part, 3).await {
            let lane = rig.store.lane(record.lane.clone()).await.expect("lane");
            let mut one = Restored::new(record);
            let id = one.record.id;
            let body = rig.store.body(id).await.expect("body");
            one.body = body.map(|body| bytes_of(&body).into());
            one.answer = rig.store.answer(id).await.expect("answer");
            if lane.blocking.contains(&id) {
                one.dead_lane = DeadLane::Block;
            }
            actions.push(one);
        }
    }
    let mut end = RestoreEnd::new(rig.ledger().await);
    end.gates = rig.opened.gates.clone();
    end.is_paused = rig.opened.is_paused;
    (rig, Held { actions, end })
}

fn part<F: StoreFactory>(rig: &Rig<'_, F>, actions: &[Restored]) -> Restore {
    let mut restore = Restore::new("a", rig.now);
    restore.actions = actions.to_vec();
    restore
}

fn last<F: StoreFactory>(rig: &Rig<'_, F>, held: &Held) -> Restore {
    let mut restore = Restore::new("a", rig.now);
    restore.end = Some(held.end.clone());
    restore
}

async fn restored<'f, F: StoreFactory>(factory: &'f F, held: &Held) -> Rig<'f, F> {
    let rig = rig(factory).await;
    for actions in held.actions.chunks(3) {
        let part = part(&rig, actions);
        rig.store.restore(part).await.expect("restore");
        rig.totals().await;
    }
    let last = last(&rig, held);
    rig.store.restore(last).await.expect("the end");
    rig
}

/// Records, bodies, answers, order, counts, ledger, gates, the pause and what blocks a lane, also over a restart.
pub async fn everything_comes_back_as_it_was(factory: &impl StoreFactory) {
    let from = rig(factory).await;
    fill(&from).await;
    let (from, held_there) = held(from).await;
    let to = restored(factory, &held_there).await;
    assert_eq!(to.totals().await, from.totals().await);
    let (to, held_here) = held(to).await;
    assert_eq!(to.opened.gates, from.opened.gates);
    assert!(to.opened.is_paused && !to.opened.is_half_restored);
    assert_eq!(to.totals().await, from.totals().await);
    assert_eq!(held_here.actions.len(), held_there.actions.len());
    for (here, there) in held_here.actions.iter().zip(&held_there.actions) {
        assert_eq!(here.record, there.record);
        assert_eq!((&here.body, &here.answer), (&there.body, &there.answer));
        assert_eq!(here.dead_lane, there.dead_lane);
    }
    for key in ["delivered", "dead", "again"] {
        assert_eq!(to.find_key(key).await, from.find_key(key).await, "{key}");
    }
}

/// Lanes are leased in their order, a blocked one waits, expiry and coalescing work, and a new action comes last.
pub async fn what_was_put_back_goes_its_way(factory: &impl StoreFactory) {
    let from = rig(factory).await;
    fill(&from).await;
    let (_, held) = held(from).await;
    let mut to = restored(factory, &held).await;
    to.amend(Amend::Pause { paused: false }).await;
    let places = |records: &[Record]| records.iter().map(|one| one.seq).max();
    let before = places(&to.all(Part::Pending, 10).await);
    let new = to.queue(to.draft("d")).await;
    assert!(Some(new.seq) > before, "its place is behind all others");
    to.wait(9_000);
    let step = to.leasing(10);
    let advanced = to.advance(step).await;
    assert_eq!(advanced.expired.len(), 1, "in the blocked lane");
    let lanes: Vec<_> = advanced
        .leased
        .iter()
        .map(|one| one.record.lane.as_str())
        .collect();
    assert_eq!(lanes.len(), 2, "the heads of d and e: {lanes:?}");
    let head = advanced
        .leased
        .iter()
        .find(|one| one.record.lane.as_str() == "d");
    let head = head.expect("the head of d").record.clone();
    to.deliver(&head).await;
    let second = to.lease_only().await;
    assert_eq!(to.find_key("again").await.expect("by its key").id, head.id);
    assert!(second.seq > head.seq && second.id != new.id);
    let dead = to.all(Part::Dead, 10).await;
    for letter in dead {
        to.requeue(letter.id).await;
    }
}

/// What has ever held an action keeps what it has.
pub async fn only_an_empty_store_takes_actions_back(factory: &impl StoreFactory) {
    let from = rig(factory).await;
    from.queue(from.draft("a")).await;
    let (from, held) = held(from).await;
    let before = from.totals().await;
    let part = part(&from, &held.actions);
    let error = from.store.restore(part).await.expect_err("not empty");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    assert_eq!(from.totals().await, before);
}

/// A crash in the middle: the same parts come again, and each action is there once.
pub async fn a_part_that_comes_again_changes_nothing(factory: &impl StoreFactory) {
    let from = rig(factory).await;
    fill(&from).await;
    let (from, held) = held(from).await;
    let to = rig(factory).await;
    let half = part(&to, &held.actions[..6]);
    to.store.restore(half).await.expect("restore");
    let to = to.crash().await;
    assert!(to.opened.is_half_restored);
    for actions in held.actions.chunks(4) {
        let part = part(&to, actions);
        to.store.restore(part).await.expect("restore");
    }
    let last = last(&to, &held);
    to.store.restore(last).await.expect("the end");
    assert_eq!(to.totals().await, from.totals().await);
    let to = to.restart().await;
    assert!(!to.opened.is_half_restored);
    assert_eq!(to.totals().await, from.totals().await);
}

/// Half of an import is nothing to work with: no append, no step, no part of something else, also after a restart.
pub async fn nothing_else_is_taken_before_the_end(factory: &impl StoreFactory) {
    let from = rig(factory).await;
    from.queue(from.draft("a")).await;
    let (_, held) = held(from).await;
    let to = rig(factory).await;
    let part = part(&to, &held.actions);
    to.store.restore(part.clone()).await.expect("restore");
    let to = to.restart().await;
    let append: Append = to.draft("b").into_append();
    let error = to.store.append(vec![append]).await.expect_err("not yet");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    let step = Advance::new(to.now, Retention::default());
    let error = to.store.advance(step).await.expect_err("not yet");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    let other = Restore {
        of: "another".to_owned(),
        ..part
    };
    let error = to.store.restore(other).await.expect_err("another one");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    let last = last(&to, &held);
    to.store.restore(last).await.expect("the end");
    assert_eq!(to.lease(10).await.len(), 1);
}

/// As after a crash: nobody knows whether the attempt left.
pub async fn what_was_in_flight_is_queued_as_maybe_sent(factory: &impl StoreFactory) {
    let from = rig(factory).await;
    from.queue(from.draft("a")).await;
    let (from, mut held) = held(from).await;
    held.actions[0].record = from.lease_only().await;
    let to = restored(factory, &held).await;
    let record = to.record(held.actions[0].record.id).await;
    assert_eq!(record.state, State::Queued { due: to.now });
    assert_eq!(record.wire, WireState::MaybeSent);
    assert_eq!(record.attempts, 1);
    assert_eq!(to.lease_only().await.id, record.id);
}

/// A pending action without its body, or with another one, is refused with its whole part.
pub async fn what_is_not_whole_is_not_put_back(factory: &impl StoreFactory) {
    let from = rig(factory).await;
    from.queue_many("a", 2).await;
    let (_, held) = held(from).await;
    let to = rig(factory).await;
    for body in [None, Some(Bytes::from_static(b"short").into())] {
        let mut part = part(&to, &held.actions);
        part.actions[1].body = body;
        let error = to.store.restore(part).await.expect_err("not whole");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(to.totals().await.counts.pending, 0);
    }
}
