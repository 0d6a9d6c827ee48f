//! What becomes of the action, and what the wire remembers.

use super::*;

#[test]
fn a_delivery_settles_without_a_trace() {
    let plan = story().answered(204);
    let want = Plan {
        settlement: Settlement::Delivered { status: 204 },
        wire: WireState::Answered,
        origin: plan.origin.clone(),
        gate: None,
        status: Some(204),
        error: None,
    };
    assert_eq!(plan, want);
}

#[test]
fn a_refusal_is_a_dead_letter_and_the_lane_obeys_the_policy() {
    let mut story = story();
    story.policy.dead_lane = DeadLane::Block;
    let plan = story.answered(422);
    let want = Settlement::Dead {
        reason: DeadReason::Rejected { status: 422 },
        lane: DeadLane::Block,
    };
    assert_eq!(plan.settlement, want);
    assert_eq!((plan.wire, plan.status), (WireState::Answered, Some(422)));
    assert_eq!(plan.error.as_deref(), Some("status 422"));
}

#[test]
fn a_failure_of_its_own_waits_by_itself() {
    let plan = story().answered(500);
    assert_eq!(plan.settlement, retry(BASE, Counted::Yes));
    assert_eq!(plan.gate, None);
    assert_eq!(plan.wire, WireState::Answered);
}

#[test]
fn the_backoff_goes_by_the_attempts_that_counted_and_the_wait_before() {
    let mut story = story();
    story.policy.backoff = Backoff::exponential(BASE, CAP).equal_jitter();
    story.record.attempts = 50;
    for (counted, low, high) in [(0, 1, 2), (1, 2, 4), (2, 4, 8)] {
        story.record.attempts_counted = counted;
        let Settlement::Retry { backoff_ms, .. } = story.answered(500).settlement else {
            panic!("a retry")
        };
        assert!(
            (low * 1000..=high * 1000).contains(&backoff_ms),
            "{backoff_ms}"
        );
    }
    story.policy.backoff = Backoff::exponential(BASE, CAP).decorrelated();
    story.record.backoff_ms = 30_000;
    let waits = [(); 50].map(|()| match story.answered(500).settlement {
        Settlement::Retry { backoff_ms, .. } => backoff_ms,
        other => panic!("{other:?}"),
    });
    assert!(
        waits.iter().any(|wait| *wait > 6000),
        "three times the wait before: {waits:?}"
    );
}

#[test]
fn the_last_allowed_attempt_is_the_last() {
    let mut story = story();
    story.record.attempts_max = 3;
    story.record.attempts_counted = 1;
    assert_eq!(story.answered(500).settlement, retry(BASE, Counted::Yes));
    story.record.attempts_counted = 2;
    assert_eq!(story.answered(500).settlement, exhausted(3, Some(500)));
    assert_eq!(
        story.failed(FailureKind::Timeout).settlement,
        exhausted(3, None)
    );
    story.record.attempts_counted = u32::MAX;
    assert_eq!(
        story.answered(500).settlement,
        exhausted(u32::MAX, Some(500))
    );
}

#[test]
fn what_does_not_count_never_exhausts() {
    let mut story = story();
    story.record.attempts_counted = story.record.attempts_max;
    let kinds = [
        FailureKind::Dns,
        FailureKind::Local,
        FailureKind::Credentials,
    ];
    let plans = kinds.map(|kind| story.failed(kind));
    for plan in plans
        .into_iter()
        .chain([401, 429, 503, 511].map(|status| story.answered(status)))
    {
        assert!(
            matches!(
                plan.settlement,
                Settlement::Retry {
                    counts: Counted::No,
                    ..
                }
            ),
            "{plan:?}"
        );
    }
}

#[test]
fn a_retry_after_on_a_failure_of_its_own_is_kept() {
    let mut story = story();
    for _ in 0..200 {
        let Settlement::Retry {
            due, backoff_ms, ..
        } = story.told(500, 100).settlement
        else {
            panic!("a retry")
        };
        assert!((100_000..110_000).contains(&backoff_ms), "{backoff_ms}");
        assert_eq!(due, NOW.after(Duration::from_millis(backoff_ms)));
    }
    let Settlement::Retry { backoff_ms, .. } = story.told(500, 0).settlement else {
        panic!("a retry")
    };
    assert_eq!(backoff_ms, 2000, "the longer of both");
}

/// Symptom: ten requests side by side fail at once, and the origin's backoff jumps to its cap.

#[test]
fn a_gateway_counts_once_the_origin_is_well_otherwise() {
    let mut story = story();
    story.well = OriginWell::Yes;
    let plan = story.answered(502);
    assert_eq!(plan.settlement, retry(BASE, Counted::Yes));
    assert!(plan.gate.is_none(), "the trouble is the action's own");
    story.record.attempts_counted = story.record.attempts_max - 1;
    let plan = story.answered(502);
    assert_eq!(
        plan.settlement,
        exhausted(story.record.attempts_max, Some(502))
    );
    let plan = story.told(502, 9);
    assert_eq!(plan.settlement, retry(Duration::ZERO, Counted::No));
}

#[test]
fn an_outage_costs_no_attempt_unless_the_policy_says_so() {
    let mut story = story();
    let plan = story.failed(FailureKind::Dns);
    assert_eq!(plan.settlement, retry(Duration::ZERO, Counted::No));
    let gate = plan.gate.expect("closed");
    assert_eq!(
        (gate.reason, wait_of(&gate)),
        (GateReason::Unreachable, CAP)
    );
    story.policy.unreachable = Counted::Yes;
    assert_eq!(
        story.failed(FailureKind::Dns).settlement,
        retry(BASE, Counted::Yes)
    );
    story.record.attempts_counted = story.record.attempts_max - 1;
    assert_eq!(
        story.failed(FailureKind::Dns).settlement,
        exhausted(story.record.attempts_max, None)
    );
}

#[test]
fn the_wire_remembers_what_went_unanswered() {
    use WireState::{Answered, MaybeSent, NeverSent};
    let statuses: [(u16, [WireState; 3]); 13] = [
        // After an attempt that was: never sent, maybe sent, answered.
        (200, [Answered, Answered, Answered]),
        (302, [Answered, Answered, Answered]),
        (400, [Answered, Answered, Answered]),
        (401, [Answered, MaybeSent, Answered]),
        (407, [MaybeSent, MaybeSent, MaybeSent]),
        (409, [Answered, MaybeSent, Answered]),
        (429, [Answered, MaybeSent, Answered]),
        (500, [Answered, MaybeSent, Answered]),
        (502, [MaybeSent, MaybeSent, MaybeSent]),
        (503, [Answered, MaybeSent, Answered]),
        (504, [MaybeSent, MaybeSent, MaybeSent]),
        (511, [MaybeSent, MaybeSent, MaybeSent]),
        (522, [MaybeSent, MaybeSent, MaybeSent]),
    ];
    let mut story = story();
    for (status, wants) in statuses {
        for (before, want) in [NeverSent, MaybeSent, Answered].into_iter().zip(wants) {
            story.wire_before = before;
            assert_eq!(
                story.answered(status).wire,
                want,
                "{status} after {before:?}"
            );
        }
    }
    for kind in FailureKind::ALL {
        for before in [NeverSent, MaybeSent, Answered] {
            story.wire_before = before;
            let want = if kind.never_left() { before } else { MaybeSent };
            assert_eq!(story.failed(kind).wire, want, "{kind} after {before:?}");
        }
    }
}

/// Symptom: timeout, then "still processing" twice; the second 409 made a dead letter of work in progress.

#[test]
fn still_processing_stays_still_processing() {
    let mut story = story();
    story.wire_before = story.failed(FailureKind::Timeout).wire;
    for status in [429, 409, 409, 503, 409] {
        let plan = story.answered(status);
        assert!(
            matches!(plan.settlement, Settlement::Retry { .. }),
            "{plan:?}"
        );
        story.wire_before = plan.wire;
    }
}

#[test]
fn a_shortage_of_this_machine_waits_a_moment() {
    let mut story = story();
    story.policy.backoff = Backoff::fixed(Duration::from_secs(3600));
    let plan = story.failed(FailureKind::Local);
    let Settlement::Retry {
        counts: Counted::No,
        backoff_ms,
        ..
    } = plan.settlement
    else {
        panic!("{plan:?}")
    };
    assert!((500..=1000).contains(&backoff_ms), "{backoff_ms}");
    assert_eq!(plan.gate, None);
}

#[test]
fn what_a_classifier_says_is_done_as_said() {
    let mut story = story();
    story.verdict = Some(Verdict::Unreachable);
    let plan = story.answered(200);
    assert_eq!(plan.wire, WireState::MaybeSent);
    assert_eq!(
        plan.error.as_deref(),
        Some("status 200, not from the server")
    );
    assert_eq!(plan.gate.expect("closed").reason, GateReason::Unreachable);

    story.verdict = Some(Verdict::Delivered);
    assert_eq!(
        story.answered(409).settlement,
        Settlement::Delivered { status: 409 }
    );
    let plan = story.failed(FailureKind::Interrupted);
    assert_eq!(
        plan.settlement,
        retry(BASE, Counted::Yes),
        "nothing is delivered unanswered"
    );
    assert!(plan.error.is_some());

    story.verdict = Some(Verdict::Retry {
        scope: RetryScope::Action,
        counts: Counted::No,
        after: Some(Duration::MAX),
    });
    let plan = story.answered(404);
    let end = Timestamp::from_millis(u64::MAX);
    assert!(
        matches!(plan.settlement, Settlement::Retry { due, .. } if due == end),
        "{plan:?}"
    );
}

#[test]
fn an_uncounted_retry_of_its_own_waits_longer_each_time() {
    let mut story = story();
    story.policy.backoff = Backoff::exponential(BASE, CAP).equal_jitter();
    story.verdict = Some(Verdict::Retry {
        scope: RetryScope::Action,
        counts: Counted::No,
        after: None,
    });
    story.record.attempts = 9;
    let Settlement::Retry { backoff_ms, .. } = story.answered(404).settlement else {
        panic!("a retry")
    };
    assert!(backoff_ms >= 20_000, "{backoff_ms}");
}

#[test]
fn errors_are_words_without_content() {
    let mut story = story();
    let texts = FailureKind::ALL.map(|kind| story.failed(kind).error.expect("an error"));
    for text in texts {
        assert!(
            text.chars()
                .all(|c| c.is_ascii_lowercase() || " ,".contains(c)),
            "{text}"
        );
    }
    assert_eq!(story.answered(UNKNOWN).error.as_deref(), Some("status 999"));
}

#[test]
fn waits_are_rounded_up() {
    assert_eq!(whole_millis(Duration::ZERO), 0);
    assert_eq!(whole_millis(Duration::from_nanos(1)), 1);
    assert_eq!(whole_millis(Duration::from_millis(5)), 5);
    assert_eq!(whole_millis(Duration::MAX), u64::MAX);
}
