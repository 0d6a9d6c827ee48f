//! The rules for retrying that an app can set, with their defaults.

use std::time::Duration;

use super::{Backoff, Counted, DeadLane, OriginPolicy};
use crate::error::{Error, Result};

/// The longest `retry_after_max`: seven days.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How failed attempts are retried.
///
/// ```
/// # use syncvault::decide::{Backoff, RetryPolicy};
/// # use std::time::Duration;
/// let mut policy = RetryPolicy::default();
/// policy.max_retries = 10;
/// policy.backoff = Backoff::exponential(Duration::from_secs(2), Duration::from_secs(600)).equal_jitter();
/// assert!(policy.check().is_ok());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The wait of an action after a failure of its own. Default: 2 s doubling to 10 minutes, full jitter.
    pub backoff: Backoff,
    /// How many counted attempts an action gets after its first. Default: 10, which with the default backoff
    /// spans about a quarter of an hour: a deploy that answers 500 meanwhile costs nobody's work.
    pub max_retries: u32,
    /// The wait of an origin that is not there or not well, and of a principal whose credentials were refused.
    /// Default: 1 s doubling to 60 s, full jitter.
    pub origin_backoff: Backoff,
    /// A `Retry-After` is honoured up to this. Default: 1 hour.
    pub retry_after_max: Duration,
    /// What a lane does when its head becomes a dead letter. Default: it goes on.
    pub dead_lane: DeadLane,
    /// Whether an attempt that did not reach the server counts. Default: no. With yes, an outage that is longer than
    /// the retries makes dead letters.
    pub unreachable: Counted,
    /// How an origin in trouble is spared. Default: see [`OriginPolicy`].
    pub origin: OriginPolicy,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Self {
            backoff: Backoff::exponential(2 * second, Duration::from_secs(10 * 60)),
            max_retries: 10,
            origin_backoff: Backoff::exponential(second, Duration::from_secs(60)),
            retry_after_max: Duration::from_secs(60 * 60),
            dead_lane: DeadLane::Skip,
            unreachable: Counted::No,
            origin: OriginPolicy::default(),
        }
    }
}

impl RetryPolicy {
    /// How many counted attempts an action gets: one more than its retries.
    #[must_use]
    pub fn attempts_max(&self) -> u32 {
        self.max_retries.saturating_add(1)
    }

    /// The longest wait that these rules can ask for.
    #[must_use]
    pub fn wait_max(&self) -> Duration {
        self.backoff
            .cap()
            .max(self.origin_backoff.cap())
            .max(self.retry_after_max)
            .max(self.origin.hold_max())
    }

    /// Checks that the rules make sense.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), naming the rule that does not.
    pub fn check(&self) -> Result<()> {
        self.backoff.check().map_err(|e| within("backoff", &e))?;
        self.origin_backoff
            .check()
            .map_err(|e| within("origin_backoff", &e))?;
        if self.retry_after_max > RETRY_AFTER_LIMIT {
            return Err(Error::invalid(format!(
                "retry_after_max ({:?}) is over 7 days",
                self.retry_after_max
            )));
        }
        self.origin.check()
    }
}

fn within(rule: &str, error: &Error) -> Error {
    Error::invalid(format!("{rule}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_usable() {
        RetryPolicy::default().check().expect("defaults");
        assert_eq!(RetryPolicy::default().attempts_max(), 11);
    }

    #[test]
    fn endless_retries_do_not_overflow() {
        let policy = RetryPolicy {
            max_retries: u32::MAX,
            ..RetryPolicy::default()
        };
        assert_eq!(policy.attempts_max(), u32::MAX);
    }

    #[test]
    fn a_refusal_names_the_rule() {
        let none = Backoff::fixed(Duration::ZERO);
        let broken = [
            (
                "backoff: ",
                RetryPolicy {
                    backoff: none,
                    ..RetryPolicy::default()
                },
            ),
            (
                "origin_backoff: ",
                RetryPolicy {
                    origin_backoff: none,
                    ..RetryPolicy::default()
                },
            ),
            (
                "retry_after_max ",
                RetryPolicy {
                    retry_after_max: Duration::MAX,
                    ..RetryPolicy::default()
                },
            ),
        ];
        for (start, policy) in broken {
            let error = policy.check().expect_err(start);
            assert_eq!(error.kind(), crate::ErrorKind::Invalid);
            assert!(error.to_string().starts_with(start), "{error}");
        }
    }
}
