//! The retry budget of an origin: a bucket of tokens. A first try puts a share of a token in, a retry takes a whole one out, as in
//! Finagle and reqwest. A retry that finds none waits: it is never given up.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// A token, in the thousandths that are kept.
const TOKEN: u64 = 1000;

/// How many retries a full bucket allows at once.
const FULL: u64 = 10 * TOKEN;

/// Without first tries a token comes back in this time: a queue of retries only must go on.
const REFILL_MS: u64 = 60_000;

/// What was taken out of a full bucket and did not come back yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    #[serde(default)]
    taken: u64,
    #[serde(default)]
    at: Timestamp,
}

impl Budget {
    /// After a first try: `percent` of a token more.
    #[must_use]
    pub fn first_try(mut self, percent: u32) -> Self {
        self.taken = self.taken.saturating_sub(u64::from(percent) * TOKEN / 100);
        self
    }

    /// After a retry was asked for: how long it must wait until its token is there.
    #[must_use]
    pub fn retry(self, now: Timestamp) -> (Self, Duration) {
        let back = now.as_millis().saturating_sub(self.at.as_millis()) * TOKEN / REFILL_MS;
        // Never more than one token short: no wait is longer than that of one token.
        let taken = (self.taken.saturating_sub(back) + TOKEN).min(FULL + TOKEN);
        let short = taken.saturating_sub(FULL);
        let wait = Duration::from_millis(short * REFILL_MS / TOKEN);
        (Self { taken, at: now }, wait)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn retries(mut budget: Budget, count: usize, at: Timestamp) -> (Budget, Vec<u64>) {
        let retry = |_| {
            let (next, wait) = budget.retry(at);
            budget = next;
            wait.as_secs()
        };
        let waits = (0..count).map(retry).collect();
        (budget, waits)
    }

    #[test]
    fn a_full_bucket_gives_ten_and_then_one_in_a_minute() {
        let (budget, waits) = retries(Budget::default(), 12, NOW);
        assert_eq!(waits, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 60, 60]);
        let later = NOW.after(Duration::from_secs(120));
        assert_eq!(retries(budget, 2, later).1, [0, 60]);
    }

    #[test]
    fn five_first_tries_pay_for_a_retry() {
        let (mut budget, _) = retries(Budget::default(), 10, NOW);
        for _ in 0..5 {
            budget = budget.first_try(20);
        }
        assert_eq!(retries(budget, 2, NOW).1, [0, 60]);
    }

    #[test]
    fn a_clock_that_was_set_back_holds_nobody_for_long() {
        let (budget, _) = retries(Budget::default(), 10, NOW);
        assert_eq!(retries(budget, 1, Timestamp::EPOCH).1, [60]);
    }

    proptest! {
        #[test]
        fn no_wait_passes_that_of_one_token(steps: Vec<(bool, u32)>) {
            let (mut budget, mut now) = (Budget::default(), NOW);
            for (is_first, ms) in steps {
                now = now.after(Duration::from_millis(ms.into()));
                if is_first {
                    budget = budget.first_try(20);
                } else {
                    let (next, wait) = budget.retry(now);
                    budget = next;
                    prop_assert!(wait <= Duration::from_millis(REFILL_MS));
                }
            }
        }

        /// Whoever waits as told sends a fifth more than its first tries, the first ten and one in a minute beside that.
        #[test]
        fn retries_stay_within_the_budget(firsts in 0_u64..200, seconds in 0_u64..3600) {
            let mut budget = Budget::default();
            let (mut at_once, mut now) = (0, NOW);
            for _ in 0..firsts {
                now = now.after(Duration::from_secs(seconds / firsts.max(1)));
                budget = budget.first_try(20);
                let (next, wait) = budget.retry(now);
                budget = next;
                at_once += u64::from(wait.is_zero());
            }
            prop_assert!(at_once <= 11 + firsts / 5 + seconds / 60);
        }
    }
}
