//! The parts of an origin's state together.

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn end(state: &mut OriginState, sign: Sign, is_closed: bool, now: Timestamp) {
    let ended = Ended {
        sign,
        is_closed,
        slots: 16,
        now,
    };
    state.ended(&ended, &OriginPolicy::default(), &mut Dice::seeded(1));
}

/// A state after an outage of `length`, at its end.
fn after_outage(length: Duration) -> (OriginState, Timestamp) {
    let mut state = OriginState::default();
    end(&mut state, Sign::Away, true, NOW);
    let now = NOW.after(length);
    end(&mut state, Sign::Good, false, now);
    (state, now)
}

#[test]
fn an_origin_that_is_well_is_never_held() {
    let mut state = OriginState::default();
    let (policy, mut dice) = (OriginPolicy::default(), Dice::seeded(1));
    for second in 0..500 {
        let now = NOW.after(SECOND * second);
        state.started(now, &policy, &mut dice);
        let (trip, wait) = state.judge(Sign::Good, true, now, &policy);
        end(&mut state, Sign::Good, false, now);
        assert_eq!((trip, wait), (Trip::No, Duration::ZERO));
        assert_eq!((state.room(999, &policy), state.held(now)), (None, None));
        assert!(!state.is_worth_keeping(now));
    }
}

#[test]
fn after_an_outage_attempts_start_one_by_one_and_then_faster() {
    let (mut state, mut now) = after_outage(600 * SECOND);
    let policy = OriginPolicy::default();
    assert_eq!(
        (state.room(0, &policy), state.room(1, &policy)),
        (Some(1), Some(0))
    );
    let first = state.held(now).expect("held");
    assert_eq!(first.by, HoldReason::SlowStart);
    assert!((15..=45).contains(&first.until.since(now).as_secs()));
    let began = now;
    let mut starts = 0;
    while state.is_ramping() {
        now = state
            .held(now)
            .map_or(now, |hold| hold.until)
            .after(Duration::from_millis(50));
        state.started(now, &policy, &mut Dice::seeded(starts));
        end(&mut state, Sign::Good, false, now);
        starts += 1;
    }
    let took = now.since(began);
    assert!(took < 240 * SECOND, "{took:?}");
    assert!((30..200).contains(&starts), "{starts}");
    assert!(!state.is_worth_keeping(now.after(60 * SECOND)));
}

#[test]
fn a_hiccup_slows_nobody_for_long() {
    let (state, now) = after_outage(2 * SECOND);
    let hold = state.held(now).expect("held");
    assert!(hold.until.since(now) <= Duration::from_millis(150));
}

#[test]
fn a_refusal_on_the_way_up_slows_down() {
    let (mut state, now) = after_outage(100 * SECOND);
    let before = state.pace;
    end(&mut state, Sign::Refused, true, now);
    assert!(state.pace > before);
    let later = now.after(SECOND);
    end(&mut state, Sign::Good, false, later);
    assert_eq!(
        state.pace,
        before.slower(30 * SECOND),
        "the outage was short, the pace stays slow"
    );
}

#[test]
fn a_good_answer_behind_a_closed_gate_ends_no_outage() {
    let mut state = OriginState::default();
    end(&mut state, Sign::Refused, true, NOW);
    end(&mut state, Sign::Good, true, NOW.after(SECOND));
    assert_eq!(state.troubled_since, Some(NOW));
}

#[test]
fn an_outage_of_our_own_network_counts_as_a_short_one() {
    let mut state = OriginState::default();
    end(&mut state, Sign::Away, true, NOW);
    let now = NOW.after(8 * 3600 * SECOND);
    let wait = state.reconnected(now, &OriginPolicy::default(), &mut Dice::seeded(1));
    assert!(wait <= 5 * SECOND, "{wait:?}");
    end(&mut state, Sign::Good, false, now);
    assert_eq!(state.pace, Pace::after_outage(100 * SECOND, 30 * SECOND));
}

#[test]
fn a_rate_limit_holds_after_its_burst() {
    let policy = OriginPolicy {
        rate_limit: Some(RateLimit::new(2, SECOND)),
        ..OriginPolicy::default()
    };
    let (mut state, mut dice) = (OriginState::default(), Dice::seeded(1));
    state.started(NOW, &policy, &mut dice);
    assert_eq!(state.held(NOW), None);
    state.started(NOW, &policy, &mut dice);
    let hold = state.held(NOW).expect("held");
    assert_eq!(
        (hold.by, hold.until),
        (HoldReason::RateLimit, NOW.after(SECOND / 2))
    );
    assert!(state.is_worth_keeping(NOW));
}

#[test]
fn a_policy_that_is_off_holds_nothing_back() {
    let (policy, mut dice) = (OriginPolicy::off(), Dice::seeded(1));
    let mut state = OriginState::default();
    for (second, sign) in [
        Sign::Lost,
        Sign::Refused,
        Sign::Away,
        Sign::Failing,
        Sign::Good,
    ]
    .into_iter()
    .cycle()
    .take(500)
    .enumerate()
    {
        let now = NOW.after(SECOND * u32::try_from(second).expect("small"));
        let (trip, wait) = state.judge(sign, false, now, &policy);
        assert_eq!((trip, wait), (Trip::No, Duration::ZERO));
        let ended = Ended {
            sign,
            is_closed: sign != Sign::Good,
            slots: 16,
            now,
        };
        state.ended(&ended, &policy, &mut dice);
        assert_eq!((state.room(999, &policy), state.held(now)), (None, None));
    }
}

#[test]
fn what_is_kept_reads_back_and_keeps_what_it_does_not_know() {
    let (mut state, _) = after_outage(600 * SECOND);
    state.budget = state.budget.retry(NOW).0;
    state.extra.insert("newer".to_owned(), 7.into());
    let text = serde_json::to_string(&state).expect("json");
    assert_eq!(
        serde_json::from_str::<OriginState>(&text).expect("back"),
        state
    );
    let newer = r#"{"hold":{"until":5,"by":"moon_phase"}}"#;
    let read: OriginState = serde_json::from_str(newer).expect("read");
    assert_eq!(read.hold.map(|hold| hold.by), Some(HoldReason::Other));
    assert!(
        serde_json::from_str::<OriginState>("{}")
            .expect("empty")
            .is_default()
    );
}

proptest! {
    /// Whatever happens, nothing holds an origin for longer than its slowest pace allows.
    #[test]
    fn no_hold_is_endless(steps: Vec<(u8, bool, u32)>, seed: u64) {
        let (policy, mut dice) = (OriginPolicy::default(), Dice::seeded(seed));
        let (mut state, mut now) = (OriginState::default(), NOW);
        let signs = [Sign::Good, Sign::Refused, Sign::Failing, Sign::Lost, Sign::Away, Sign::Nothing];
        for (sign, is_closed, ms) in steps {
            now = now.after(Duration::from_millis(ms.into()));
            let sign = signs[usize::from(sign) % signs.len()];
            state.started(now, &policy, &mut dice);
            let (_, wait) = state.judge(sign, is_closed, now, &policy);
            prop_assert!(wait <= 60 * SECOND);
            let ended = Ended { sign, is_closed, slots: 16, now };
            state.ended(&ended, &policy, &mut dice);
            let longest = policy.hold_max();
            prop_assert!(state.held(now).is_none_or(|hold| hold.until.since(now) <= longest));
        }
    }
}
