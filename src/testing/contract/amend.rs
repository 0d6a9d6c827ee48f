//! What people and apps ask for: cancel, clear, pause, keep an answer, hasten.

use std::collections::HashSet;

use bytes::Bytes;

use super::StoreFactory;
use super::draft::origin;
use super::rig::{ids, retry_at, rig, settle_of};
use crate::action::{ActionId, State, WireState};
use crate::decide::{DeadLane, Gate, GateKey, GateReason, Settlement};
use crate::store::{Amend, Amended, Direct};

/// Taken back before it left, from the head or from the middle; the lane goes on without it.
pub async fn a_queued_action_can_be_cancelled(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue_many("a", 4).await;
    for number in [0, 2] {
        let Amended::Done(records) = rig.cancel(queued[number].id).await else {
            panic!("expected Done");
        };
        assert_eq!(ids(&records), [queued[number].id]);
        assert_eq!(records[0].state, State::Cancelled { at: rig.now });
        assert_eq!(records[0], rig.record(queued[number].id).await);
    }
    let totals = rig.totals().await;
    assert_eq!((totals.ledger.cancelled, totals.counts.pending), (2, 2));
    assert_eq!(rig.lane("a").await.head, Some(queued[1].id));
    for want in [queued[1].id, queued[3].id] {
        let leased = rig.lease_only().await;
        assert_eq!(leased.id, want);
        rig.deliver(&leased).await;
    }
}

/// In flight, maybe sent, delivered, dead, cancelled: too late, and nothing changes.
pub async fn a_cancel_that_comes_too_late_changes_nothing(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let refused = async |id: ActionId| {
        let before = (rig.record(id).await, rig.totals().await);
        let amended = rig.cancel(id).await;
        assert!(
            matches!(&amended, Amended::NotNow(record) if *record == before.0),
            "{amended:?}"
        );
        assert_eq!((rig.record(id).await, rig.totals().await), before);
    };
    let id = rig.queue(rig.draft("a")).await.id;
    let leased = rig.lease_only().await;
    refused(id).await;
    rig.retry(&leased, rig.now).await;
    assert_eq!(rig.record(id).await.wire, WireState::MaybeSent);
    refused(id).await;
    let leased = rig.lease_only().await;
    rig.die(&leased, DeadLane::Skip).await;
    refused(id).await;
    rig.requeue(id).await;
    let leased = rig.lease_only().await;
    rig.deliver(&leased).await;
    refused(id).await;
    let id = rig.queue(rig.draft("a")).await.id;
    rig.cancel(id).await;
    refused(id).await;
}

/// An attempt that never reached the wire leaves nothing at the server: it can still be taken back.
pub async fn an_action_that_never_left_can_be_cancelled_after_an_attempt(
    factory: &impl StoreFactory,
) {
    let rig = rig(factory).await;
    let id = rig.queue(rig.draft("a")).await.id;
    let leased = rig.lease_only().await;
    let mut settle = settle_of(&leased, retry_at(rig.at(1_000)));
    settle.wire = WireState::NeverSent;
    rig.settle_with(settle).await.expect("accepted");
    assert!(matches!(rig.cancel(id).await, Amended::Done(_)));
    rig.leases_nothing().await;
    assert_eq!(rig.next_due().await, None);
}

/// Everything queued, a bounded number per call, until nothing is left; what flies or is dead stays.
pub async fn clear_cancels_what_is_queued_in_bounded_calls(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let dead = rig.dead_letter(rig.draft("dead"), DeadLane::Skip).await;
    rig.queue(rig.draft("a")).await;
    let flying = rig.lease_only().await;
    let drafts = (0..12).map(|number| rig.draft(&format!("lane {}", number % 4)));
    rig.append_all(drafts).await;
    let mut cleared = HashSet::new();
    for want in [5, 5, 2, 0] {
        let (limit, now) = (5, rig.now);
        let records = rig.done(Amend::Clear { limit, now }).await;
        assert_eq!(records.len(), want);
        for record in records {
            assert_eq!(record.state, State::Cancelled { at: now });
            assert_eq!(rig.record(record.id).await, record);
            assert!(cleared.insert(record.id), "cleared twice");
        }
    }
    let totals = rig.totals().await;
    assert_eq!((totals.ledger.cancelled, totals.counts.pending), (12, 1));
    assert_eq!(rig.record(flying.id).await, flying);
    assert_eq!(rig.record(dead.id).await, dead);
    rig.deliver(&flying).await;
    rig.leases_nothing().await;
}

/// Pausing is remembered over restarts and crashes until the app resumes. The store only remembers it.
pub async fn a_pause_is_kept(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.done(Amend::Pause { paused: true }).await;
    let rig = rig.restart().await;
    assert!(rig.opened.is_paused);
    rig.done(Amend::Pause { paused: true }).await;
    let rig = rig.crash().await;
    assert!(rig.opened.is_paused);
    rig.done(Amend::Pause { paused: false }).await;
    let rig = rig.crash().await;
    assert!(!rig.opened.is_paused);
}

/// The body of an answer may arrive after the settle: it is kept with the action, and counted.
pub async fn an_answer_can_be_kept_later(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let id = rig.delivered(rig.draft("a")).await.id;
    for text in ["the answer", "the longer answer", ""] {
        let answer = Bytes::from(text);
        rig.done(Amend::KeepAnswer { id, answer }).await;
        let kept = rig.store.answer(id).await.expect("answer");
        assert_eq!(kept.unwrap_or_default(), text.as_bytes());
        assert_eq!(rig.record(id).await.answer_bytes, text.len() as u64);
        let counts = rig.totals().await.counts;
        assert_eq!(
            (counts.retained, counts.retained_bytes),
            (1, text.len() as u64)
        );
    }
    let answer = Bytes::from(vec![7; 70_000]);
    let change = Amend::KeepAnswer {
        id,
        answer: answer.clone(),
    };
    rig.done(change).await;
    let rig = rig.restart().await;
    let kept = rig.store.answer(id).await.expect("answer");
    assert_eq!(kept, Some(answer));
}

/// An answer belongs to a settled action.
pub async fn an_answer_is_not_kept_for_what_is_not_settled(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let answer = Bytes::from_static(b"of what?");
    let id = ActionId::new();
    let change = |id| Amend::KeepAnswer {
        id,
        answer: answer.clone(),
    };
    assert!(matches!(rig.amend(change(id)).await, Amended::Unknown));
    let id = rig.queue(rig.draft("a")).await.id;
    assert!(matches!(rig.amend(change(id)).await, Amended::NotNow(_)));
    rig.lease_only().await;
    assert!(matches!(rig.amend(change(id)).await, Amended::NotNow(_)));
    assert!(rig.store.answer(id).await.expect("answer").is_none());
    let direct = rig.lease_direct(rig.draft("b").direct(Direct::Alone)).await;
    rig.settle(&direct, Settlement::Returned).await;
    assert!(matches!(
        rig.amend(change(direct.id)).await,
        Amended::Unknown
    ));
}

/// The clock went back: a backoff that was set by the old clock is cut; a time that the app set stands.
pub async fn hasten_cuts_waits_that_the_app_did_not_set(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let tried = rig.queue(rig.draft("a")).await;
    let leased = rig.lease_only().await;
    rig.retry(&leased, rig.at(1_000_000)).await;
    let soon = rig.queue(rig.draft("b")).await;
    let leased = rig.lease_only().await;
    rig.retry(&leased, rig.at(10)).await;
    let untried = rig.queue(rig.draft("c").due(rig.at(2_000_000))).await;
    let until = rig.at(5_000);
    rig.amend(Amend::Hasten { until }).await;
    assert_eq!(rig.record(tried.id).await.due(), Some(until));
    assert_eq!(rig.record(soon.id).await.due(), Some(rig.at(10)));
    assert_eq!(rig.record(untried.id).await.due(), Some(rig.at(2_000_000)));
    assert_eq!(rig.next_due().await, Some(rig.at(10)));
    rig.wait(5_000);
    let mut leased = super::rig::leased_ids(&rig.lease(10).await);
    leased.sort_unstable();
    assert_eq!(leased, [tried.id, soon.id]);
}

/// No head waits longer, at a gate neither; the gate keeps its history.
pub async fn hasten_opens_gates_in_time(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let held = rig.queue(rig.draft("a")).await;
    let key = GateKey::Origin(origin("a"));
    let mut gate = Gate::new(key, GateReason::Unreachable, rig.at(1_000_000), rig.now);
    gate.failures = 7;
    rig.set_gate(gate).await;
    let until = rig.at(5_000);
    rig.amend(Amend::Hasten { until }).await;
    assert_eq!(rig.next_due().await, Some(until));
    rig.now = until;
    assert_eq!(rig.lease_only().await.id, held.id);
    let rig = rig.restart().await;
    assert_eq!(rig.opened.gates.len(), 1);
    assert_eq!(rig.opened.gates[0].failures, 7);
}
