//! The rate limit: the generic cell rate algorithm (GCRA) over one number, the time at which the next attempt is due if
//! all came evenly.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::{Error, Result};

/// At most so many attempts in a time. All of them may go at once; then they come back one by one.
///
/// ```
/// # use syncvault::decide::RateLimit;
/// # use std::time::Duration;
/// let limit = RateLimit::new(10, Duration::from_secs(1));
/// assert!(limit.check().is_ok());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimit {
    count: u32,
    per: Duration,
}

/// How far an origin is ahead of its rate: in microseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate(u64);

impl RateLimit {
    /// `count` attempts in each `per`.
    #[must_use]
    pub const fn new(count: u32, per: Duration) -> Self {
        Self { count, per }
    }

    /// The time.
    #[must_use]
    pub const fn per(&self) -> Duration {
        self.per
    }

    /// Checks that attempts can pass.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for no attempts, no time, more than a day, or more than 1000 attempts in
    /// a millisecond.
    pub fn check(&self) -> Result<()> {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        if self.count == 0 || self.per.is_zero() || self.per > DAY || self.between() == 0 {
            return Err(Error::invalid(format!(
                "{} attempts in {:?}: needs at least one attempt, and a time from 1 us for each up to a day for all",
                self.count, self.per
            )));
        }
        Ok(())
    }

    /// After an attempt started at `now`.
    #[must_use]
    pub fn take(&self, rate: Rate, now: Timestamp) -> Rate {
        Rate(self.known(rate, now).max(micros(now)) + self.between())
    }

    /// The earliest time of the next attempt.
    #[must_use]
    pub fn opens_at(&self, rate: Rate, now: Timestamp) -> Timestamp {
        let burst = self.between() * u64::from(self.count.saturating_sub(1));
        let opens = self.known(rate, now).saturating_sub(burst);
        Timestamp::from_millis(opens.div_ceil(1000))
    }

    /// After a clock was set back, or the limit was made wider, no more than a full burst is owed.
    fn known(&self, rate: Rate, now: Timestamp) -> u64 {
        let most = micros(now) + self.between() * u64::from(self.count);
        rate.0.min(most)
    }

    fn between(&self) -> u64 {
        let per = u64::try_from(self.per.as_micros()).unwrap_or(u64::MAX);
        per / u64::from(self.count.max(1))
    }
}

fn micros(time: Timestamp) -> u64 {
    // Leaves room for a day, or for as many years.
    time.as_millis().saturating_mul(1000).min(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn starts(limit: RateLimit, count: usize) -> Vec<u64> {
        let (mut rate, mut now) = (Rate::default(), NOW);
        let start = |_| {
            now = now.max(limit.opens_at(rate, now));
            rate = limit.take(rate, now);
            now.since(NOW).as_millis().try_into().expect("small")
        };
        (0..count).map(start).collect()
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_evenly() {
        assert_eq!(
            starts(RateLimit::new(3, SECOND), 6),
            [0, 0, 0, 334, 667, 1000]
        );
        assert_eq!(starts(RateLimit::new(1, SECOND), 3), [0, 1000, 2000]);
    }

    #[test]
    fn a_clock_that_was_set_back_owes_at_most_a_burst() {
        let limit = RateLimit::new(2, SECOND);
        let ahead = limit.take(Rate::default(), NOW.after(3600 * SECOND));
        assert_eq!(limit.opens_at(ahead, NOW), NOW.after(SECOND / 2));
    }

    #[test]
    fn limits_that_let_nothing_pass_are_refused() {
        for (count, per) in [
            (0, SECOND),
            (1, Duration::ZERO),
            (1, 86_401 * SECOND),
            (2_000_000, SECOND),
        ] {
            let error = RateLimit::new(count, per).check().expect_err("refused");
            assert_eq!(error.kind(), crate::ErrorKind::Invalid);
        }
        RateLimit::new(1_000_000, SECOND).check().expect("fine");
    }

    proptest! {
        #[test]
        fn no_time_holds_more_than_twice_the_count(count in 1_u32..50, ms in 50_u64..100_000) {
            let limit = RateLimit::new(count, Duration::from_millis(ms));
            let times = starts(limit, 200);
            for (at, time) in times.iter().enumerate() {
                let within = times[at..].iter().take_while(|t| **t < time + ms).count();
                prop_assert!(within <= 2 * usize::try_from(count).expect("small"));
            }
            // After the burst, exactly the rate.
            let rest = u64::from(200_u32.saturating_sub(count));
            prop_assert!(times[199] >= rest * ms / u64::from(count) - 200);
        }
    }
}
