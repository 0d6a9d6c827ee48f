//! Principals: held when they are not active, apart in lanes, and forgotten whole, in steps that survive a crash.

use bytes::Bytes;

use super::StoreFactory;
use super::draft::Draft;
use super::rig::{Rig, lane, leased_ids, rig, settle_of};
use crate::action::{ActionId, Record};
use crate::decide::{DeadLane, Gate, GateKey, GateReason, Settlement};
use crate::store::{Advance, Amend, Amended, Direct, Part, Whose};

fn of(principal: &str) -> Option<String> {
    Some(principal.to_owned())
}

fn leasing<F: StoreFactory>(rig: &Rig<'_, F>, active: Option<&str>) -> Advance {
    let mut step = rig.leasing(100);
    if let Some(lease) = &mut step.lease {
        lease.whose = Whose::Only(active.map(str::to_owned));
    }
    step
}

/// One call. The records that went, and whether it was the last.
async fn step<F: StoreFactory>(rig: &Rig<'_, F>, limit: usize) -> (Vec<Record>, bool) {
    let principal = "ann".to_owned();
    match rig.amend(Amend::Forget { principal, limit }).await {
        Amended::Done(records) => (records, true),
        Amended::More(records) => (records, false),
        other => panic!("expected Done or More, got {other:?}"),
    }
}

/// All calls. The ids of what went.
async fn forget<F: StoreFactory>(rig: &Rig<'_, F>, limit: usize) -> Vec<ActionId> {
    let mut gone = Vec::new();
    for _ in 0..1_000 {
        let (records, is_last) = step(rig, limit).await;
        gone.extend(records.iter().map(|record| record.id));
        if is_last {
            gone.sort_unstable();
            return gone;
        }
    }
    panic!("forgetting never ends");
}

/// One action of the principal in each state: queued, in flight, direct, dead, blocking, delivered.
async fn in_each_state<F: StoreFactory>(rig: &Rig<'_, F>) -> Vec<ActionId> {
    let draft = |lane: &str| rig.draft(lane).principal("ann").body(vec![7; 10_000]);
    let mut ids = vec![
        rig.delivered(draft("a").key("1")).await.id,
        rig.dead_letter(draft("a").key("2"), DeadLane::Skip)
            .await
            .id,
        rig.dead_letter(draft("b"), DeadLane::Block).await.id,
        rig.lease_direct(draft("c").direct(Direct::Alone)).await.id,
        rig.queue(draft("d")).await.id,
    ];
    rig.lease_only().await;
    ids.push(rig.queue(draft("d").key("3").coalesce("x")).await.id);
    ids.push(rig.queue(draft("b").expires(rig.at(1_000))).await.id);
    ids.sort_unstable();
    ids
}

/// Nothing is leased of a principal that is not active; what belongs to nobody always is.
pub async fn only_the_active_principals_actions_are_leased(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let ann = rig.queue(rig.draft("a").principal("ann")).await;
    let ben = rig.queue(rig.draft("b").principal("ben")).await;
    let nobody = rig.queue(rig.draft("c")).await;
    let advanced = rig.advance(leasing(&rig, None)).await;
    assert_eq!(leased_ids(&advanced.leased), [nobody.id]);
    assert_eq!(advanced.next_due, None, "time cannot help");
    let advanced = rig.advance(leasing(&rig, Some("ben"))).await;
    assert_eq!(leased_ids(&advanced.leased), [ben.id]);
    assert_eq!(rig.lease_only().await.id, ann.id, "of everybody");
}

/// The same name for two principals makes two lanes: neither waits for the other, also after a restart.
pub async fn lanes_of_principals_are_apart(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let draft = |principal: &str| -> Draft {
        let own = lane("a").of_principal(Some(principal));
        let draft = rig.draft("a").principal(principal);
        draft.record(|record| record.lane = own)
    };
    let ann = rig.queue(draft("ann")).await;
    let ben = rig.queue(draft("ben")).await;
    let rig = rig.restart().await;
    let advanced = rig.advance(leasing(&rig, Some("ben"))).await;
    assert_eq!(leased_ids(&advanced.leased), [ben.id]);
    assert_eq!(advanced.leased[0].record.lane.bare(), lane("a"));
    let page = rig.all(Part::Lane(ann.lane.clone()), 10).await;
    assert_eq!(page, [ann]);
}

/// Pending, dead and settled go, with bodies, answers and keys; others stay, and the ledger names what became of it.
pub async fn a_forgotten_principal_leaves_nothing(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let ids = in_each_state(&rig).await;
    let other = rig.queue(rig.draft("d").principal("ben").key("4")).await;
    let nobody = rig.queue(rig.draft("b")).await;
    let before = rig.ledger().await;
    assert_eq!(forget(&rig, 100).await, ids);
    let rig = rig.restart().await;
    for id in ids {
        assert!(rig.find(id).await.is_none());
        assert!(rig.store.body(id).await.expect("body").is_none());
        assert!(rig.store.answer(id).await.expect("answer").is_none());
    }
    for key in ["1", "2", "3"] {
        assert!(rig.find_key(key).await.is_none(), "{key}");
    }
    assert!(rig.all(Part::Dead, 10).await.is_empty());
    assert!(rig.all(Part::Settled, 10).await.is_empty());
    let totals = rig.totals().await;
    assert_eq!(totals.ledger.evicted, before.evicted + 6);
    assert_eq!(totals.ledger.delivered, 1, "what was delivered stays so");
    assert_eq!((totals.counts.pending, totals.counts.dead), (2, 0));
    assert_eq!(
        (totals.counts.in_flight, totals.counts.blocked_lanes),
        (0, 0)
    );
    assert_eq!(totals.counts.bytes, other.weight() + nobody.weight());
    assert_eq!(
        (totals.counts.retained, totals.counts.retained_bytes),
        (0, 0)
    );
    let leased = rig.lease(10).await;
    assert_eq!(leased.len(), 2, "the lanes it was in go on: {leased:?}");
}

/// A call looks at a bounded number of actions, and the calls come to an end.
pub async fn forgetting_goes_in_bounded_steps(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let ids = in_each_state(&rig).await;
    rig.queue(rig.draft("z").principal("ben")).await;
    let (first, is_last) = step(&rig, 2).await;
    assert!(first.len() <= 2 && !is_last, "{first:?}");
    let mut gone: Vec<_> = first.iter().map(|record| record.id).collect();
    gone.extend(forget(&rig, 2).await);
    gone.sort_unstable();
    assert_eq!(gone, ids);
}

/// From the first call on nothing of it is leased, also after a crash; open ends it, or tells that there is a rest.
pub async fn what_is_being_forgotten_is_not_leased(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let mut ids = Vec::new();
    for lane in ["a", "b", "c", "d"] {
        ids.push(rig.queue(rig.draft(lane).principal("ann")).await.id);
    }
    assert!(!step(&rig, 1).await.1);
    rig.leases_nothing().await;
    assert_eq!(rig.next_due().await, None);
    let direct = rig.draft("e").principal("ann").direct(Direct::Alone);
    let later = rig.queue(direct).await;
    let rig = rig.crash().await;
    if !rig.opened.forgetting.is_empty() {
        assert_eq!(rig.opened.forgetting, ["ann"]);
        rig.leases_nothing().await;
        assert_eq!(forget(&rig, 1).await.len(), 3);
    }
    for id in ids {
        assert!(rig.find(id).await.is_none());
    }
    assert_eq!(rig.lease_only().await.id, later.id, "what came later stays");
    let rig = rig.restart().await;
    assert!(rig.opened.forgetting.is_empty());
}

/// A dead letter that is about to be forgotten cannot be sent back out of the way.
pub async fn a_dead_letter_being_forgotten_is_not_requeued(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let dead = rig
        .dead_letter(rig.draft("a").principal("ann"), DeadLane::Skip)
        .await;
    rig.queue(rig.draft("a").principal("ann")).await;
    rig.queue(rig.draft("b").principal("ann")).await;
    assert!(!step(&rig, 1).await.1);
    assert!(matches!(rig.requeue(dead.id).await, Amended::Unknown));
    forget(&rig, 1).await;
    assert!(rig.find(dead.id).await.is_none());
}

/// The attempt that ran meanwhile settles nothing, keeps nothing, and its lane goes on.
pub async fn a_late_settle_of_a_forgotten_action_changes_nothing(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a").principal("ann")).await;
    let leased = rig.lease_only().await;
    forget(&rig, 100).await;
    let before = rig.totals().await;
    let mut settle = settle_of(&leased, Settlement::Delivered { status: 200 });
    settle.answer = Some(Bytes::from(vec![1; 10_000]));
    assert!(rig.settle_with(settle).await.is_none());
    assert_eq!(rig.totals().await, before);
    let (id, answer) = (leased.id, Bytes::from_static(b"late"));
    let amended = rig.amend(Amend::KeepAnswer { id, answer }).await;
    assert!(matches!(amended, Amended::Unknown), "{amended:?}");
    assert!(rig.store.answer(id).await.expect("answer").is_none());
    let next = rig.queue(rig.draft("a")).await;
    assert_eq!(rig.lease_only().await.id, next.id);
}

/// Its gate goes too; those of others stay.
pub async fn the_gate_of_a_forgotten_principal_is_gone(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let keys = [GateKey::Principal(of("ann")), GateKey::Principal(of("ben"))];
    for key in keys.clone() {
        let until = rig.at(1_000);
        let gate = Gate::new(key, GateReason::Unauthorized, until, rig.now);
        rig.set_gate(gate).await;
    }
    rig.queue(rig.draft("a").principal("ann")).await;
    forget(&rig, 100).await;
    let rig = rig.restart().await;
    let gates: Vec<_> = rig.opened.gates.iter().map(|gate| &gate.key).collect();
    assert_eq!(gates, [&keys[1]]);
}

/// Who left nothing is forgotten at once.
pub async fn an_unknown_principal_is_forgotten_at_once(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let before = rig.totals().await;
    assert!(forget(&rig, 100).await.is_empty());
    assert_eq!(rig.totals().await, before);
}
