//! How long to wait after a failure: exponential with jitter, or fixed.
//! Stateless: the attempt number and the last wait are in the record, so a restart does not start small again.

use std::time::Duration;

use super::Dice;
use crate::error::{Error, Result};

/// The longest cap: seven days.
const CAP_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The shortest base. Due times are kept in milliseconds; less would be no wait at all.
const BASE_MIN: Duration = Duration::from_millis(1);

/// The wait between two attempts.
///
/// The formulas are those of "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015). Jitter keeps clients that
/// failed together from coming back together; an exponential backoff has full jitter unless told otherwise.
///
/// ```
/// # use syncvault::decide::{Backoff, Dice};
/// # use std::time::Duration;
/// let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60));
/// let wait = backoff.delay(3, Duration::ZERO, &mut Dice::seeded(1));
/// assert!(wait < Duration::from_secs(4));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    jitter: Jitter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Jitter {
    None,
    Full,
    Equal,
    Decorrelated,
}

impl Backoff {
    /// Doubles from `base` up to `cap`, with full jitter.
    #[must_use]
    pub const fn exponential(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            jitter: Jitter::Full,
        }
    }

    /// The same wait after every failure, without jitter.
    #[must_use]
    pub const fn fixed(delay: Duration) -> Self {
        Self {
            base: delay,
            cap: delay,
            jitter: Jitter::None,
        }
    }

    /// Evenly between zero and the exponential wait. Spreads best, with the least load on the server.
    #[must_use]
    pub const fn full_jitter(mut self) -> Self {
        self.jitter = Jitter::Full;
        self
    }

    /// Evenly between half of the exponential wait and all of it: never a very short one.
    #[must_use]
    pub const fn equal_jitter(mut self) -> Self {
        self.jitter = Jitter::Equal;
        self
    }

    /// Evenly between the base and three times the wait before it. Goes by that wait, not by the attempt number.
    #[must_use]
    pub const fn decorrelated(mut self) -> Self {
        self.jitter = Jitter::Decorrelated;
        self
    }

    /// The wait after attempt number `attempt` (from 1) failed; `previous` is the wait before that attempt, zero if
    /// there was none. Never above the cap.
    #[must_use]
    pub fn delay(&self, attempt: u32, previous: Duration, dice: &mut Dice) -> Duration {
        let full = self.exponential_wait(attempt);
        let wait = match self.jitter {
            Jitter::None => full,
            Jitter::Full => dice.below(full),
            Jitter::Equal => full / 2 + dice.below(full - full / 2),
            Jitter::Decorrelated => {
                let span = previous.max(self.base).saturating_mul(3).min(self.cap);
                self.base + dice.below(span.saturating_sub(self.base))
            }
        };
        wait.min(self.cap)
    }

    fn exponential_wait(&self, attempt: u32) -> Duration {
        let factor = 1_u32
            .checked_shl(attempt.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// The longest wait.
    #[must_use]
    pub const fn cap(&self) -> Duration {
        self.cap
    }

    /// Checks that the waits make sense.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the base is under a millisecond, the cap is under the
    /// base, or the cap is over seven days.
    pub fn check(&self) -> Result<()> {
        if self.base < BASE_MIN {
            return Err(Error::invalid(
                "a backoff needs a base of at least 1 ms; without a wait, a failing server is hammered",
            ));
        }
        if self.cap < self.base {
            return Err(Error::invalid(format!(
                "the cap of a backoff ({:?}) is under its base ({:?})",
                self.cap, self.base
            )));
        }
        if self.cap > CAP_MAX {
            return Err(Error::invalid(format!(
                "the cap of a backoff ({:?}) is over 7 days",
                self.cap
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE: Duration = Duration::from_secs(2);
    const CAP: Duration = Duration::from_secs(60);
    const THROWS: u32 = 20_000;

    fn exponential() -> Backoff {
        Backoff::exponential(BASE, CAP)
    }

    /// Smallest, mean and largest of many waits, in seconds.
    fn spread(backoff: Backoff, attempt: u32, previous: Duration) -> (f64, f64, f64) {
        let mut dice = Dice::seeded(42);
        let mut waits = Vec::new();
        for _ in 0..THROWS {
            waits.push(backoff.delay(attempt, previous, &mut dice).as_secs_f64());
        }
        waits.sort_by(f64::total_cmp);
        let mean = waits.iter().sum::<f64>() / f64::from(THROWS);
        (waits[0], mean, waits[waits.len() - 1])
    }

    /// An even distribution from `low` to `high`: ends nearly reached, never passed, mean in the middle.
    fn assert_even((min, mean, max): (f64, f64, f64), low: f64, high: f64) {
        let slack = (high - low) / 100.0;
        assert!(low <= min && min <= low + slack, "min {min}, want {low}");
        assert!(high - slack <= max && max <= high, "max {max}, want {high}");
        assert!(
            (mean - low.midpoint(high)).abs() <= slack,
            "mean {mean}, want {low}..{high}"
        );
    }

    #[test]
    fn full_jitter_spreads_from_zero_to_the_doubled_wait() {
        for (attempt, high) in [
            (1, 2.0),
            (2, 4.0),
            (3, 8.0),
            (5, 32.0),
            (6, 60.0),
            (99, 60.0),
        ] {
            assert_even(spread(exponential(), attempt, Duration::ZERO), 0.0, high);
            assert_even(spread(exponential().full_jitter(), attempt, CAP), 0.0, high);
        }
    }

    #[test]
    fn equal_jitter_keeps_half_of_the_wait() {
        for (attempt, high) in [(1, 2.0), (2, 4.0), (5, 32.0), (6, 60.0), (99, 60.0)] {
            let backoff = exponential().equal_jitter();
            assert_even(spread(backoff, attempt, Duration::ZERO), high / 2.0, high);
        }
    }

    #[test]
    fn decorrelated_jitter_goes_by_the_wait_before() {
        let backoff = exponential().decorrelated();
        for (previous, high) in [
            (0, 6.0),
            (1, 6.0),
            (2, 6.0),
            (5, 15.0),
            (20, 60.0),
            (9999, 60.0),
        ] {
            for attempt in [1, 7] {
                assert_even(
                    spread(backoff, attempt, Duration::from_secs(previous)),
                    2.0,
                    high,
                );
            }
        }
    }

    #[test]
    fn a_fixed_wait_is_always_the_same() {
        let mut dice = Dice::seeded(1);
        for attempt in [0, 1, 2, 33, u32::MAX] {
            assert_eq!(Backoff::fixed(BASE).delay(attempt, CAP, &mut dice), BASE);
        }
        assert_even(spread(Backoff::fixed(BASE).full_jitter(), 9, CAP), 0.0, 2.0);
    }

    #[test]
    fn attempt_zero_is_read_as_the_first() {
        assert_even(spread(exponential(), 0, Duration::ZERO), 0.0, 2.0);
    }

    #[test]
    fn the_same_dice_give_the_same_waits() {
        let waits = |seed| {
            let mut dice = Dice::seeded(seed);
            [1, 2, 3, 4].map(|attempt| exponential().delay(attempt, BASE, &mut dice))
        };
        assert_eq!(waits(3), waits(3));
        assert_ne!(waits(3), waits(4));
    }

    #[test]
    fn waits_that_make_no_sense_are_refused() {
        let week = Duration::from_secs(7 * 24 * 3600);
        let tick = Duration::from_nanos(1);
        for usable in [
            exponential(),
            Backoff::fixed(week),
            Backoff::exponential(BASE, BASE),
            Backoff::fixed(BASE_MIN),
        ] {
            usable.check().expect("usable");
        }
        let refused = [
            (Backoff::exponential(Duration::ZERO, CAP), "at least 1 ms"),
            (Backoff::fixed(Duration::ZERO), "at least 1 ms"),
            (Backoff::fixed(BASE_MIN - tick), "at least 1 ms"),
            (
                Backoff::exponential(BASE, BASE - tick),
                "(1.999999999s) is under its base (2s)",
            ),
            (Backoff::exponential(BASE, week + tick), "over 7 days"),
        ];
        for (backoff, text) in refused {
            let error = backoff.check().expect_err(text);
            assert_eq!(error.kind(), crate::ErrorKind::Invalid);
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_wait_passes_the_cap(
            base: Duration, cap: Duration, attempt: u32, previous: Duration, seed: u64,
        ) {
            let plain = Backoff::exponential(base, cap);
            let all = [plain, plain.equal_jitter(), plain.decorrelated(), Backoff { jitter: Jitter::None, ..plain }];
            for backoff in all {
                let wait = backoff.delay(attempt, previous, &mut Dice::seeded(seed));
                prop_assert!(wait <= cap);
            }
        }
    }
}
