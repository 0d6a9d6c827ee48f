//! The rules for being a good citizen to a server, with their defaults and their off-switches.

use std::time::Duration;

use super::RateLimit;
use crate::error::{Error, Result};

/// The longest times that an app may set.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// How the vault treats an origin that is in trouble, or was. None of it holds a vault back whose origins are well, except a
/// rate limit. `None`, or a time of zero, switches a rule off.
///
/// ```
/// # use syncvault::decide::OriginPolicy;
/// let mut policy = OriginPolicy::default();
/// policy.circuit_breaker = Some(10);
/// policy.throttle = None;
/// assert!(policy.check().is_ok());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OriginPolicy {
    /// After so many failures in a row (5xx, timeouts, broken connections; of whatever actions) the circuit opens: the origin
    /// waits by [`origin_backoff`](crate::RetryPolicy::origin_backoff), then the head of one lane is the probe. What says that the
    /// origin as a whole is in trouble (429, 503, no connection) does not wait for that number. Default: 5.
    pub circuit_breaker: Option<u32>,
    /// After an outage attempts start one at a time, a twentieth of its length apart but at most this, then closer and side by
    /// side with every good answer. Full speed is back after three tenths of the outage, at most six times this. Default: 30 s.
    pub slow_start: Duration,
    /// How many retries more than first tries, in percent; ten, and one in a minute, are free. A retry over the budget waits.
    /// Default: 20.
    pub retry_budget: Option<u32>,
    /// Attempts are held back by chance when there were more than so many times what the server took, over about two
    /// minutes. The K of the Google SRE book. Default: 2.
    pub throttle: Option<u32>,
    /// After our own network came back, the first attempt comes within a twentieth of the time that it was away, and at most
    /// this; slow start then goes by that too. Default: 5 s.
    pub reconnect_spread: Duration,
    /// At most so many attempts in a time, also while all is well. Default: none.
    pub rate_limit: Option<RateLimit>,
}

impl Default for OriginPolicy {
    fn default() -> Self {
        Self {
            circuit_breaker: Some(5),
            slow_start: Duration::from_secs(30),
            retry_budget: Some(20),
            throttle: Some(2),
            reconnect_spread: Duration::from_secs(5),
            rate_limit: None,
        }
    }
}

impl OriginPolicy {
    /// Everything off: what holds attempts back is their own backoff and what the server asks for.
    #[must_use]
    pub const fn off() -> Self {
        Self {
            circuit_breaker: None,
            slow_start: Duration::ZERO,
            retry_budget: None,
            throttle: None,
            reconnect_spread: Duration::ZERO,
            rate_limit: None,
        }
    }

    /// The longest time for which these rules hold an origin back.
    #[must_use]
    pub fn hold_max(&self) -> Duration {
        let rate = self.rate_limit.map_or(Duration::ZERO, |limit| limit.per());
        let throttle = Duration::from_secs(60);
        (self.slow_start * 3).max(rate).max(throttle)
    }

    /// Checks that the rules make sense.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), naming the rule that does not.
    pub fn check(&self) -> Result<()> {
        let numbers = [
            ("circuit_breaker", self.circuit_breaker, 1, 10_000),
            ("retry_budget", self.retry_budget, 1, 1000),
            ("throttle", self.throttle, 1, 100),
        ];
        for (name, number, min, max) in numbers {
            if number.is_some_and(|number| !(min..=max).contains(&number)) {
                return Err(Error::invalid(format!(
                    "{name} must be from {min} to {max}, or off"
                )));
            }
        }
        for (name, time) in [
            ("slow_start", self.slow_start),
            ("reconnect_spread", self.reconnect_spread),
        ] {
            if time > HOUR {
                return Err(Error::invalid(format!("{name} ({time:?}) is over an hour")));
            }
        }
        match self.rate_limit.map(|limit| limit.check()) {
            Some(Err(error)) => Err(Error::invalid(format!("rate_limit: {error}"))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_off_are_usable() {
        OriginPolicy::default().check().expect("defaults");
        OriginPolicy::off().check().expect("off");
    }

    #[test]
    fn a_refusal_names_the_rule() {
        type Spoil = fn(&mut OriginPolicy);
        let broken: [(&str, Spoil); 6] = [
            ("circuit_breaker", |p| p.circuit_breaker = Some(0)),
            ("retry_budget", |p| p.retry_budget = Some(1001)),
            ("throttle", |p| p.throttle = Some(0)),
            ("slow_start", |p| p.slow_start = Duration::MAX),
            ("reconnect_spread", |p| p.reconnect_spread = Duration::MAX),
            ("rate_limit", |p| {
                p.rate_limit = Some(RateLimit::new(0, HOUR));
            }),
        ];
        for (name, spoil) in broken {
            let mut policy = OriginPolicy::default();
            spoil(&mut policy);
            let error = policy.check().expect_err(name);
            assert_eq!(error.kind(), crate::ErrorKind::Invalid);
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }
}
