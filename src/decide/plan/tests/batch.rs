//! What becomes of the members of a batch.

use super::*;
use crate::action::{Batch, Batching};
use crate::decide::{
    BatchProblem, ItemVerdict, Left, Member, Share, share_items, share_singly, share_whole,
};

/// A batch of three at its attempt `attempt`, formed with its first.
fn members_at(attempt: u32, wire: WireState) -> Vec<(Record, WireState)> {
    let batch = Batch::new(ActionId::from_bytes([7; 16]), 1, 3);
    let member = |place: u32| {
        let mut record = story().record;
        record.attempts = attempt;
        record.batch = Some(Batching::Together(batch.at(place)));
        (record, wire)
    };
    (0..3).map(member).collect()
}

fn of(members: &[(Record, WireState)]) -> Vec<Member<'_>> {
    let all = members.iter();
    all.map(|(record, wire)| Member::new(record, *wire))
        .collect()
}

fn request(settlement: Settlement, wire: WireState) -> Plan {
    Plan {
        settlement,
        wire,
        gate: None,
        portal: None,
        origin: OriginState::default(),
        status: Some(500),
        error: Some("status 500".to_owned()),
    }
}

fn retry(counts: Counted) -> Settlement {
    Settlement::Retry {
        due: later(NOW, 5),
        counts,
        backoff_ms: 5,
    }
}

fn dead() -> Settlement {
    Settlement::Dead {
        reason: DeadReason::Rejected { status: 400 },
        lane: DeadLane::Block,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).expect("short")
}

fn dues(shares: &[Share]) -> Vec<(u64, Counted)> {
    let due = |share: &Share| match share.plan.settlement {
        Settlement::Retry { due, counts, .. } => (millis(due.since(NOW)), counts),
        ref other => panic!("not a retry: {other:?}"),
    };
    shares.iter().map(due).collect()
}

#[test]
fn a_retry_of_the_whole_keeps_the_batch_as_it_is() {
    for (attempt, before, left) in [
        (1, WireState::NeverSent, Left::Maybe),
        (2, WireState::MaybeSent, Left::Maybe),
        (2, WireState::MaybeSent, Left::Nothing),
        (2, WireState::Answered, Left::Nothing),
    ] {
        let kept = members_at(attempt, before);
        let request = request(retry(Counted::Yes), WireState::Answered);
        let shares = share_whole(&request, left, &of(&kept), NOW);
        assert_eq!(dues(&shares), [(5, Counted::Yes); 3]);
        for (share, (record, _)) in shares.iter().zip(&kept) {
            assert_eq!(share.batch, record.batch);
            let want = match (left, before) {
                (Left::Nothing, before) | (_, before @ WireState::MaybeSent) => before,
                _ => WireState::Answered,
            };
            assert_eq!(share.plan.wire, want);
        }
    }
}

#[test]
fn a_batch_that_never_left_is_free_again() {
    let mut members = members_at(1, WireState::NeverSent);
    members[1].1 = WireState::Answered;
    let request = request(retry(Counted::No), WireState::NeverSent);
    let shares = share_whole(&request, Left::Nothing, &of(&members), NOW);
    let batches: Vec<_> = shares.iter().map(|share| share.batch).collect();
    assert_eq!(batches, [None, Some(Batching::Again), None]);
    let wires: Vec<_> = shares.iter().map(|share| share.plan.wire).collect();
    assert_eq!(
        wires,
        [
            WireState::NeverSent,
            WireState::Answered,
            WireState::NeverSent
        ]
    );
}

/// Of the whole, or of one of them only.
#[test]
fn nobody_dies_of_what_was_said_of_the_whole() {
    let mut members = members_at(4, WireState::MaybeSent);
    members[0].0.backoff_ms = 30;
    let refused = request(dead(), WireState::Answered);
    let shares = share_whole(&refused, Left::Maybe, &of(&members), NOW);
    assert_eq!(
        dues(&shares),
        [(30, Counted::No); 3],
        "the wait before, once more"
    );
    members[2].0.attempts_counted = members[2].0.attempts_max - 1;
    let failed = request(retry(Counted::Yes), WireState::Answered);
    let last = share_whole(&failed, Left::Maybe, &of(&members), NOW);
    assert_eq!(dues(&last), [(5, Counted::No); 3]);
    for share in shares.iter().chain(&last) {
        assert_eq!(share.batch, Some(Batching::Singly));
        let wire = share.plan.wire;
        assert_eq!(
            wire,
            WireState::MaybeSent,
            "an attempt before went unanswered"
        );
    }
    let uncounted = request(retry(Counted::No), WireState::Answered);
    let shares = share_whole(&uncounted, Left::Maybe, &of(&members), NOW);
    assert!(
        shares
            .iter()
            .all(|share| share.batch != Some(Batching::Singly))
    );
}

#[test]
fn a_problem_costs_no_try() {
    let members = members_at(1, WireState::NeverSent);
    let problem = BatchProblem::WrongCount {
        items: 3,
        verdicts: 2,
    };
    for (told, want) in [
        (None, WireState::NeverSent),
        (Some(WireState::MaybeSent), WireState::MaybeSent),
    ] {
        let shares = share_singly(&problem, told, &of(&members), NOW);
        assert_eq!(dues(&shares), [(0, Counted::No); 3]);
        for share in shares {
            assert_eq!(share.batch, Some(Batching::Singly));
            assert_eq!(share.plan.wire, want);
            assert_eq!(share.plan.error, Some(problem.to_string()));
        }
    }
}

#[test]
fn each_item_fares_by_its_own_verdict() {
    let mut members = members_at(1, WireState::NeverSent);
    members[2].0.attempts_counted = members[2].0.attempts_max - 1;
    let mut story = story();
    story.policy.dead_lane = DeadLane::Block;
    let verdicts = [
        ItemVerdict::of_status(201),
        ItemVerdict::of_status(404),
        ItemVerdict::of_status(503),
    ];
    let shares = share_items(
        &verdicts,
        &of(&members),
        NOW,
        &story.policy,
        &mut story.dice,
    );
    let settlements: Vec<_> = shares.iter().map(|share| &share.plan.settlement).collect();
    assert_eq!(*settlements[0], Settlement::Delivered { status: 201 });
    let (lane, attempts) = (DeadLane::Block, 11);
    let rejected = DeadReason::Rejected { status: 404 };
    assert_eq!(
        *settlements[1],
        Settlement::Dead {
            reason: rejected,
            lane
        }
    );
    let exhausted = DeadReason::RetriesExhausted {
        attempts,
        status: None,
    };
    assert_eq!(
        *settlements[2],
        Settlement::Dead {
            reason: exhausted,
            lane
        }
    );
    let answered = |share: &Share| share.plan.wire == WireState::Answered;
    assert!(shares.iter().all(answered));
}

/// With jitter, each would have a time of its own, and the next run would end at the first that is not due.
#[test]
fn items_that_go_again_wait_for_the_same_time() {
    let members = members_at(1, WireState::NeverSent);
    for after in [None, Some(Duration::from_secs(100))] {
        let mut story = story();
        story.policy.backoff = Backoff::exponential(BASE, CAP);
        let verdicts = vec![ItemVerdict::Retry { after }; 3];
        let (policy, dice) = (&story.policy, &mut story.dice);
        let shares = share_items(&verdicts, &of(&members), NOW, policy, dice);
        let dues = dues(&shares);
        assert!(dues.iter().all(|due| *due == dues[0]), "{dues:?}");
        let told = after.map_or(0, millis);
        assert!(dues[0].0 >= told);
        assert!(
            shares
                .iter()
                .all(|share| share.batch == Some(Batching::Again))
        );
    }
    let mut story = story();
    let told = |seconds| ItemVerdict::Retry {
        after: Some(Duration::from_secs(seconds)),
    };
    let verdicts = [told(10), told(1_000_000), told(10)];
    let (policy, dice) = (&story.policy, &mut story.dice);
    let shares = share_items(&verdicts, &of(&members), NOW, policy, dice);
    let due = dues(&shares)[1].0;
    let most = millis(policy.retry_after_max);
    assert!(
        (most..most + 60_000).contains(&due),
        "at most as long as any wait"
    );
}
