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
