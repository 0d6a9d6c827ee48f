//! The pace: how far apart attempts start after an outage. One at a time is not slow enough for a large fleet: a client that sends
//! one after the other still sends many in a second. It goes by the length of the outage, so that nobody who was away for
//! a moment waits, and a good answer quickens it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::Dice;

/// An outage is this many times longer than the first distance after it.
const PARTS_OF_OUTAGE: u32 = 20;

/// Attempts closer than this are not held apart.
const SHORTEST_MS: u64 = 10;

/// The mean distance between two starts, in milliseconds; zero = none. The greater is the slower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pace(u64);

impl Pace {
    /// The pace after an outage of this length: a twentieth of it, at most `max`.
    #[must_use]
    pub fn after_outage(length: Duration, max: Duration) -> Self {
        Self(millis((length / PARTS_OF_OUTAGE).min(max))).or_none()
    }

    /// After a good answer: a sixth less distance, a fifth more attempts. All of these together, from the first one on, are six
    /// first distances: the pace is gone after three tenths of the outage's time.
    #[must_use]
    pub fn faster(self) -> Self {
        Self(self.0 - self.0.div_ceil(6)).or_none()
    }

    /// After a refusal: half the attempts, and no less than one in one and a half times the longest first distance. One refusal
    /// takes back what four good answers gave; so a fleet settles with few refusals, and nobody is left behind.
    #[must_use]
    pub fn slower(self, max: Duration) -> Self {
        let slowest = millis(max + max / 2);
        Self(self.0.saturating_mul(2).min(slowest).max(self.0))
    }

    /// True while attempts are held apart.
    #[must_use]
    pub fn is_on(self) -> bool {
        self.0 > 0
    }

    /// The distance to the next start: evenly between half and one and a half of it.
    #[must_use]
    pub fn distance(self, dice: &mut Dice) -> Duration {
        let mean = Duration::from_millis(self.0);
        mean / 2 + dice.below(mean)
    }

    fn or_none(self) -> Self {
        match self.0 < SHORTEST_MS {
            true => Self::default(),
            false => self,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(30);

    #[test]
    fn the_first_distance_goes_by_the_outage() {
        let table = [
            (Duration::ZERO, 0),
            (Duration::from_millis(199), 0),
            (SECOND, 50),
            (60 * SECOND, 3_000),
            (600 * SECOND, 30_000),
            (86_400 * SECOND, 30_000),
            (Duration::MAX, 30_000),
        ];
        for (length, want) in table {
            assert_eq!(Pace::after_outage(length, MAX), Pace(want), "{length:?}");
        }
        assert!(!Pace::after_outage(Duration::MAX, Duration::ZERO).is_on());
    }

    #[test]
    fn good_answers_end_it_within_three_tenths_of_the_outage() {
        let mut pace = Pace::after_outage(600 * SECOND, MAX);
        let mut waited = 0;
        while pace.is_on() {
            waited += pace.0;
            pace = pace.faster();
        }
        assert!((150_000..=180_000).contains(&waited), "{waited} ms");
    }

    #[test]
    fn a_refusal_takes_back_four_good_answers() {
        let start = Pace(1000);
        let mut pace = start.slower(MAX);
        for _ in 0..4 {
            pace = pace.faster();
        }
        assert!(pace < start && pace.slower(MAX) > start, "{pace:?}");
        assert_eq!(Pace(29_000).slower(MAX), Pace(45_000));
        assert_eq!(Pace(60_000).slower(MAX), Pace(60_000), "never faster");
    }

    proptest! {
        #[test]
        fn a_distance_is_around_its_mean(ms in 10_u64..1_000_000, seed: u64) {
            let distance = millis(Pace(ms).distance(&mut Dice::seeded(seed)));
            prop_assert!((ms / 2..=ms + ms / 2).contains(&distance));
        }
    }
}
