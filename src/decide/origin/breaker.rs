//! The circuit breaker: after so many failures in a row, an origin is left alone for a while.
//! How long, and the one probe after it, are the gate's: open = closed gate, half-open = failures on an open gate.

use serde::{Deserialize, Serialize};

use super::Sign;

/// Failures in a row of an origin, whichever action met them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Breaker(u32);

/// What a breaker makes of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trip {
    /// The circuit opens: nothing passes for a while.
    Yes,
    /// It stays as it is.
    No,
}

impl Breaker {
    /// The breaker after an attempt, and whether it trips. Only an answer that shows the origin to be well sets it back, so the
    /// probe of a half-open circuit trips it again when it fails; with no `failures_max` it never trips.
    #[must_use]
    pub fn after(self, sign: Sign, failures_max: Option<u32>) -> (Self, Trip) {
        let row = match sign {
            Sign::Good => 0,
            Sign::Failing | Sign::Lost => self.0.saturating_add(1),
            Sign::Refused | Sign::Away | Sign::Nothing => self.0,
        };
        let is_failure = matches!(sign, Sign::Failing | Sign::Lost);
        let trip = match failures_max {
            Some(max) if is_failure && row >= max => Trip::Yes,
            _ => Trip::No,
        };
        (Self(row), trip)
    }
}

#[cfg(test)]
mod tests {
    use super::Sign::{Away, Failing, Good, Lost, Nothing, Refused};
    use super::*;

    fn trips(signs: &[Sign], max: Option<u32>) -> Vec<bool> {
        let mut breaker = Breaker::default();
        let step = |sign: &Sign| {
            let (next, trip) = breaker.after(*sign, max);
            breaker = next;
            trip == Trip::Yes
        };
        signs.iter().map(step).collect()
    }

    #[test]
    fn failures_in_a_row_trip_it_and_only_a_good_answer_sets_it_back() {
        let max = Some(3);
        assert_eq!(trips(&[Failing, Lost, Failing], max), [false, false, true]);
        assert_eq!(trips(&[Failing, Lost, Good, Failing], max), [false; 4]);
        let others = [Failing, Lost, Away, Refused, Nothing, Failing];
        assert_eq!(
            trips(&others, max),
            [false, false, false, false, false, true]
        );
    }

    #[test]
    fn a_failed_probe_trips_it_again() {
        assert_eq!(
            trips(&[Lost, Lost, Lost, Good, Lost], Some(2)),
            [false, true, true, false, false]
        );
    }

    #[test]
    fn it_can_be_off() {
        assert_eq!(trips(&[Lost; 100], None), [false; 100]);
    }
}
