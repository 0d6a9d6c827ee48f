//! The single retry rules of a builder, kept apart so that the order of calls does not matter.

use std::time::Duration;

use crate::decide::{Backoff, Counted, DeadLane, OriginPolicy, RateLimit, RetryPolicy};

/// Single rules for trying again, which go over the policy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    pub(super) max_retries: Option<u32>,
    pub(super) backoff: Option<Backoff>,
    pub(super) origin_backoff: Option<Backoff>,
    pub(super) retry_after_max: Option<Duration>,
    pub(super) unreachable: Option<Counted>,
    pub(super) dead_lane: Option<DeadLane>,
    pub(super) origin: Option<OriginPolicy>,
    pub(super) circuit_breaker: Option<Option<u32>>,
    pub(super) slow_start: Option<Duration>,
    pub(super) retry_budget: Option<Option<u32>>,
    pub(super) throttle: Option<Option<u32>>,
    pub(super) reconnect_spread: Option<Duration>,
    pub(super) rate_limit: Option<RateLimit>,
}

impl Rules {
    pub(super) fn over(self, mut policy: RetryPolicy) -> RetryPolicy {
        policy.max_retries = self.max_retries.unwrap_or(policy.max_retries);
        policy.backoff = self.backoff.unwrap_or(policy.backoff);
        policy.origin_backoff = self.origin_backoff.unwrap_or(policy.origin_backoff);
        policy.retry_after_max = self.retry_after_max.unwrap_or(policy.retry_after_max);
        policy.unreachable = self.unreachable.unwrap_or(policy.unreachable);
        policy.dead_lane = self.dead_lane.unwrap_or(policy.dead_lane);
        policy.origin = self.over_origin(policy.origin);
        policy
    }

    fn over_origin(self, policy: OriginPolicy) -> OriginPolicy {
        let mut policy = self.origin.unwrap_or(policy);
        policy.circuit_breaker = self.circuit_breaker.unwrap_or(policy.circuit_breaker);
        policy.slow_start = self.slow_start.unwrap_or(policy.slow_start);
        policy.retry_budget = self.retry_budget.unwrap_or(policy.retry_budget);
        policy.throttle = self.throttle.unwrap_or(policy.throttle);
        policy.reconnect_spread = self.reconnect_spread.unwrap_or(policy.reconnect_spread);
        policy.rate_limit = self.rate_limit.or(policy.rate_limit);
        policy
    }
}
