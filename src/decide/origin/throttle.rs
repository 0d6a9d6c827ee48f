//! Client-side throttling, after "Handling Overload" in Google's SRE book: a client whose attempts are mostly refused holds some back by
//! itself. It refuses with the chance `(requests - K * accepts) / (requests + 1)`, over about two minutes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::decide::Dice;

/// One attempt, in the thousandths that are kept.
const ONE: u64 = 1000;

/// What was seen loses half of its weight in this time: its mean age is that of a window of two minutes.
const HALF_LIFE: Duration = Duration::from_secs(42);

/// What is held back is held for this long, and then tried for again.
const HOLD: Duration = Duration::from_secs(1);

/// The chance is thrown for at most so often at once.
const THROWS_MAX: u32 = 30;

/// What the server made of the last two minutes, older ones with less weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    #[serde(default)]
    requests: u64,
    #[serde(default)]
    accepts: u64,
    #[serde(default)]
    at: Timestamp,
}

impl Throttle {
    /// After an attempt that the server took, whatever it made of it.
    #[must_use]
    pub fn accepted(self, now: Timestamp) -> Self {
        let mut faded = self.faded(now);
        faded.requests += ONE;
        faded.accepts += ONE;
        faded
    }

    /// After an attempt that the server refused, left without an answer, or never got because it was held back here.
    #[must_use]
    pub fn refused(self, now: Timestamp) -> Self {
        let mut faded = self.faded(now);
        faded.requests += ONE;
        faded
    }

    /// True when the next attempt may go.
    pub fn lets_pass(&self, k: u32, dice: &mut Dice) -> bool {
        let surplus = self
            .requests
            .saturating_sub(self.accepts.saturating_mul(k.into()));
        surplus == 0 || !dice.hits(surplus, self.requests + ONE)
    }

    /// How long the next attempt is held back: the throws of the coming seconds, thrown now, so that nobody wakes up to throw.
    pub fn hold(&mut self, now: Timestamp, k: u32, dice: &mut Dice) -> Duration {
        let mut held = Duration::ZERO;
        for _ in 0..THROWS_MAX {
            if self.lets_pass(k, dice) {
                break;
            }
            *self = self.refused(now);
            held += HOLD / 2 + dice.below(HOLD);
        }
        held
    }

    /// Weights are halved in whole steps of a half-life's sixteenth: an attempt in a busy vault costs an addition.
    fn faded(self, now: Timestamp) -> Self {
        if self.requests == 0 || now < self.at {
            return Self { at: now, ..self };
        }
        let steps = now.since(self.at).as_millis() * 16 / HALF_LIFE.as_millis();
        if steps == 0 {
            return self;
        }
        let mut faded = Self { at: now, ..self };
        for _ in 0..steps.min(512) {
            faded.requests -= faded.requests.div_ceil(24);
            faded.accepts -= faded.accepts.div_ceil(24);
        }
        faded
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn seen(accepted: u64, refused: u64) -> Throttle {
        Throttle {
            requests: (accepted + refused) * ONE,
            accepts: accepted * ONE,
            at: NOW,
        }
    }

    fn refused_of_10_000(throttle: Throttle) -> u32 {
        let mut dice = Dice::seeded(7);
        (0..10_000)
            .map(|_| u32::from(!throttle.lets_pass(2, &mut dice)))
            .sum()
    }

    #[test]
    fn the_chance_is_that_of_the_book() {
        let table = [
            (seen(0, 0), 0),
            (seen(100, 0), 0),
            (seen(50, 50), 0),
            (seen(0, 1), 5_000),
            (seen(0, 99), 9_900),
            (seen(20, 60), 4_938),
        ];
        for (throttle, want) in table {
            let got = refused_of_10_000(throttle);
            // Three sigma of the binomial are at most 150.
            assert!(got.abs_diff(want) < 150, "{throttle:?}: {got}, not {want}");
        }
    }

    #[test]
    fn it_forgets_in_minutes() {
        let worst = seen(0, 100);
        let half = worst.refused(NOW.after(HALF_LIFE)).requests / ONE;
        assert!((49..54).contains(&half), "{half}");
        let later = worst.accepted(NOW.after(Duration::from_secs(600)));
        assert_eq!(refused_of_10_000(later.accepted(later.at)), 0);
    }

    #[test]
    fn a_clock_that_was_set_back_harms_nothing() {
        let back = seen(5, 5).accepted(Timestamp::EPOCH);
        assert_eq!((back.requests, back.at), (11 * ONE, Timestamp::EPOCH));
    }

    #[test]
    fn a_server_that_takes_all_is_never_held_from() {
        let mut throttle = Throttle::default();
        let mut dice = Dice::seeded(1);
        for second in 0..1000 {
            throttle = throttle.accepted(NOW.after(Duration::from_secs(second)));
            assert!(throttle.hold(NOW, 2, &mut dice).is_zero());
        }
    }

    proptest! {
        #[test]
        fn accepts_never_pass_requests(steps: Vec<(bool, u32)>, seed: u64) {
            let (mut throttle, mut now) = (Throttle::default(), NOW);
            let mut dice = Dice::seeded(seed);
            for (is_taken, ms) in steps {
                now = now.after(Duration::from_millis(ms.into()));
                throttle = if is_taken { throttle.accepted(now) } else { throttle.refused(now) };
                prop_assert!(throttle.accepts <= throttle.requests);
                prop_assert!(throttle.hold(now, 2, &mut dice) <= HOLD * 45);
            }
        }
    }
}
