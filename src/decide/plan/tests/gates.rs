//! When gates close, for how long, and what opens them.

use proptest::prelude::*;

use super::*;

#[test]
fn trouble_of_the_origin_closes_its_gate() {
    for (status, reason) in [
        (429, GateReason::RateLimited),
        (407, GateReason::Unavailable),
        (502, GateReason::Unavailable),
        (503, GateReason::Unavailable),
        (504, GateReason::Unavailable),
        (530, GateReason::Unavailable),
        (511, GateReason::Unreachable),
    ] {
        let mut story = story();
        let plan = story.answered(status);
        assert_eq!(
            plan.settlement,
            retry(Duration::ZERO, Counted::No),
            "{status}"
        );
        let gate = plan.gate.expect("closed");
        assert_eq!((&gate.key, gate.reason), (&story.origin_key(), reason));
        assert_eq!((wait_of(&gate), gate.failures, gate.changed), (CAP, 1, NOW));
        assert_eq!(gate.backoff_ms, 40_000);
    }
}

#[test]
fn a_gate_never_opens_before_the_time_it_was_told() {
    let mut story = story();
    let mut waits = Vec::new();
    for _ in 0..500 {
        let gate = story.told(429, 100).gate.expect("closed");
        assert!(gate.closed_until >= NOW.after(Duration::from_secs(100)));
        assert!(wait_of(&gate) < Duration::from_secs(110));
        waits.push(wait_of(&gate));
    }
    waits.sort();
    assert!(waits[499] - waits[0] > Duration::from_secs(8), "spread");
    let gate = story.told(429, 0).gate.expect("closed");
    assert_eq!(wait_of(&gate), CAP, "the longer of both");
    let gate = story.told(503, 1_000_000).gate.expect("closed");
    assert!(wait_of(&gate) >= Duration::from_secs(3600));
    assert!(wait_of(&gate) < Duration::from_secs(3630), "clamped");
}

#[test]
fn a_gate_closes_for_longer_each_time() {
    let mut story = story();
    story.policy.origin_backoff = Backoff::exponential(BASE, CAP).equal_jitter();
    for (failures, low, high) in [(0, 1, 2), (1, 2, 4), (2, 4, 8), (90, 20, 40)] {
        story.gate = Some(story.gate(GateReason::Unreachable, Duration::ZERO, failures));
        let gate = story.failed(FailureKind::Connect).gate.expect("closed");
        assert_eq!(gate.failures, failures + 1);
        let wait = wait_of(&gate);
        let range = Duration::from_secs(low)..=Duration::from_secs(high);
        assert!(range.contains(&wait), "{wait:?}");
        assert_eq!(gate.extra["of_tomorrow"], 42, "unknown fields stay");
    }
}

#[test]
fn a_closed_gate_is_closed_for_a_moment_at_least() {
    let mut story = story();
    story.policy.origin_backoff = Backoff::fixed(Duration::ZERO);
    let gate = story.failed(FailureKind::Dns).gate.expect("closed");
    assert!(gate.is_closed(NOW));
}

#[test]
fn attempts_that_were_under_way_together_fail_once() {
    let mut story = story();
    let closed = story.gate(GateReason::Unreachable, Duration::from_secs(5), 3);
    story.gate = Some(closed);
    let gate = story.failed(FailureKind::Connect).gate.expect("closed");
    assert_eq!((gate.failures, wait_of(&gate)), (3, CAP));
}

#[test]
fn refused_credentials_hold_the_principal_and_not_the_origin() {
    let mut story = story();
    for plan in [story.answered(401), story.failed(FailureKind::Credentials)] {
        assert_eq!(plan.settlement, retry(Duration::ZERO, Counted::No));
        let gate = plan.gate.expect("closed");
        assert_eq!(gate.key, story.principal_key());
        assert_eq!(gate.reason, GateReason::Unauthorized);
        assert_eq!((wait_of(&gate), gate.failures), (CAP, 1));
    }
    let mut held = story.gate(GateReason::Unauthorized, Duration::ZERO, 4);
    held.key = story.principal_key();
    story.principal_gate = Some(held);
    assert_eq!(story.answered(401).gate.expect("closed").failures, 5);
}

#[test]
fn a_good_answer_resets_the_gate() {
    for status in [200, 204, 302, 400, 404, 409, 423] {
        let mut story = story();
        story.gate = Some(story.gate(GateReason::Unreachable, Duration::from_secs(9), 3));
        let gate = story.answered(status).gate.expect("reset");
        assert_eq!((gate.failures, gate.closed_until), (0, NOW), "{status}");
        assert_eq!((gate.backoff_ms, gate.changed), (0, NOW));
        assert_eq!(gate.extra["of_tomorrow"], 42, "unknown fields stay");
    }
}

#[test]
fn other_answers_tell_only_that_the_server_was_reached() {
    for status in [408, 425, 500, 599, UNKNOWN, 101] {
        let mut story = story();
        story.gate = Some(story.gate(GateReason::Unavailable, Duration::ZERO, 3));
        assert_eq!(story.answered(status).gate, None, "{status}");
        story.gate = Some(story.gate(GateReason::Unreachable, Duration::ZERO, 3));
        let gate = story.answered(status).gate.expect("reached");
        assert_eq!(gate.failures, 0, "{status}");
    }
    let mut story = story();
    story.gate = Some(story.gate(GateReason::Unreachable, Duration::ZERO, 0));
    assert_eq!(story.answered(200).gate, None, "nothing to reset");
    story.gate = Some(story.gate(GateReason::Unreachable, Duration::ZERO, 3));
    for kind in [
        FailureKind::Timeout,
        FailureKind::Invalid,
        FailureKind::Local,
    ] {
        assert_eq!(story.failed(kind).gate, None, "{kind}");
    }
}

#[test]
fn a_good_answer_does_not_open_what_the_server_asked_for() {
    for reason in [GateReason::RateLimited, GateReason::Unavailable] {
        let mut story = story();
        story.gate = Some(story.gate(reason, Duration::from_secs(9), 3));
        assert_eq!(story.answered(200).gate, None);
        story.gate = Some(story.gate(reason, Duration::ZERO, 3));
        assert_eq!(story.answered(200).gate.expect("reset").failures, 0);
    }
}

#[test]
fn a_good_answer_resets_the_principal_after_the_origin() {
    let mut story = story();
    let mut held = story.gate(GateReason::Unauthorized, Duration::ZERO, 4);
    held.key = story.principal_key();
    story.principal_gate = Some(held);
    story.gate = Some(story.gate(GateReason::Unreachable, Duration::ZERO, 3));
    assert_eq!(
        story.answered(200).gate.expect("reset").key,
        story.origin_key()
    );
    story.gate = None;
    let gate = story.answered(200).gate.expect("reset");
    assert_eq!((&gate.key, gate.failures), (&story.principal_key(), 0));
    story.stamp = Stamp::Refreshed;
    assert_eq!(story.answered(401).gate, None, "refused again");
}

proptest! {
    /// Goal: whatever happens, an action is settled one way, and nothing waits for less than it was told.
    #[test]
    fn no_plan_is_early(
        status in 100_u16..=999,
        seconds in proptest::option::of(0_u64..10_000),
        failures: u32,
        open_ms in 0_u64..100_000,
        counted: u32,
        seed: u64,
    ) {
        let mut story = story();
        story.policy = RetryPolicy::default();
        story.dice = Dice::seeded(seed);
        story.record.attempts_counted = counted;
        let open = Duration::from_millis(open_ms);
        story.gate = Some(story.gate(GateReason::RateLimited, open, failures));
        let plan = match seconds {
            Some(seconds) => story.told(status, seconds),
            None => story.answered(status),
        };
        let told = Duration::from_secs(seconds.unwrap_or(0)).min(story.policy.retry_after_max);
        let closed_until = NOW.after(open);
        if let Some(gate) = plan.gate.as_ref().filter(|gate| gate.key == story.origin_key()) {
            prop_assert!(gate.closed_until >= closed_until, "the server's word stays");
        }
        if let Settlement::Retry { due, .. } = plan.settlement && !matches!(status, 401 | 511) {
            let until = plan.gate.map_or(due, |gate| gate.closed_until.max(due));
            prop_assert!(until >= NOW.after(told));
        }
    }
}

#[test]
fn failures_in_a_row_open_the_circuit_of_the_whole_origin() {
    let mut story = story();
    story.policy.origin.circuit_breaker = Some(3);
    let gates = [500, 500, 500].map(|status| {
        let plan = story.answered(status);
        story.origin = plan.origin;
        plan.gate
    });
    let [None, None, Some(gate)] = gates else {
        panic!("the third closes it: {gates:?}");
    };
    assert_eq!((gate.reason, gate.failures), (GateReason::Failing, 1));
    assert_eq!(wait_of(&gate), CAP);
    story.gate = Some(Gate {
        closed_until: NOW,
        ..gate
    });
    let reset = story.answered(200).gate.expect("its probe went well");
    assert_eq!((reset.failures, wait_of(&reset)), (0, Duration::ZERO));
}

#[test]
fn a_retry_over_the_budget_waits_for_it() {
    let mut story = story();
    story.policy.origin.circuit_breaker = None;
    story.record.attempts = 2;
    let dues: Vec<_> = (0..11)
        .map(|_| {
            let plan = story.answered(500);
            story.origin = plan.origin;
            plan.settlement
        })
        .collect();
    assert_eq!(dues[9], retry(BASE, Counted::Yes));
    let Settlement::Retry { due, .. } = dues[10] else {
        panic!("it is retried: {:?}", dues[10]);
    };
    assert_eq!(due, NOW.after(Duration::from_secs(60)));
}
