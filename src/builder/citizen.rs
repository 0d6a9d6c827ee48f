//! The options for being a good citizen to the server. Each can be switched off.

use std::time::Duration;

use super::SyncVaultBuilder;
use crate::decide::{OriginPolicy, RateLimit};

impl SyncVaultBuilder {
    /// How origins in trouble are spared, all at once; the single options below go over it. Default:
    /// [`OriginPolicy::default`]. None of it slows a vault whose servers are well.
    ///
    /// # A server of our own, on the same desk
    ///
    /// ```
    /// use syncvault::{SyncVault, decide::OriginPolicy};
    ///
    /// let builder = SyncVault::builder("http://192.168.1.20").origin_policy(OriginPolicy::off());
    /// ```
    pub fn origin_policy(mut self, policy: OriginPolicy) -> Self {
        self.rules.origin = Some(policy);
        self
    }

    /// After how many failures in a row the circuit of an origin opens; `None` = never. Default: 5. See
    /// [`OriginPolicy::circuit_breaker`].
    pub fn circuit_breaker(mut self, failures: Option<u32>) -> Self {
        self.rules.circuit_breaker = Some(failures);
        self
    }

    /// How far apart attempts may start after an outage; zero = no slow start. Default: 30 seconds, and never more than a twentieth
    /// of the outage. See [`OriginPolicy::slow_start`].
    pub fn slow_start(mut self, longest: Duration) -> Self {
        self.rules.slow_start = Some(longest);
        self
    }

    /// How many retries more than first tries an origin gets, in percent; `None` = as many as there are. Default: 20. See
    /// [`OriginPolicy::retry_budget`].
    pub fn retry_budget(mut self, percent: Option<u32>) -> Self {
        self.rules.retry_budget = Some(percent);
        self
    }

    /// Holds attempts back by chance when there were more than `k` times what the server took; `None` = never. Default: 2. See
    /// [`OriginPolicy::throttle`].
    pub fn throttle(mut self, k: Option<u32>) -> Self {
        self.rules.throttle = Some(k);
        self
    }

    /// Within what time the first attempt comes after our own network is back; zero = at once. Default: 5 seconds, and never more
    /// than a twentieth of the time that it was away. See [`OriginPolicy::reconnect_spread`].
    pub fn reconnect_spread(mut self, longest: Duration) -> Self {
        self.rules.reconnect_spread = Some(longest);
        self
    }

    /// At most `count` attempts in each `per`, for each origin: all at once, then one by one. Default: no limit.
    pub fn rate_limit(mut self, count: u32, per: Duration) -> Self {
        self.rules.rate_limit = Some(RateLimit::new(count, per));
        self
    }
}
