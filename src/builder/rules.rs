//! The single retry rules of a builder, kept apart so that the order of calls does not matter.

use std::time::Duration;

use crate::decide::{Backoff, Counted, DeadLane, RetryPolicy};

/// Single rules for trying again, which go over the policy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    pub(super) max_retries: Option<u32>,
    pub(super) backoff: Option<Backoff>,
    pub(super) origin_backoff: Option<Backoff>,
    pub(super) retry_after_max: Option<Duration>,
    pub(super) unreachable: Option<Counted>,
    pub(super) dead_lane: Option<DeadLane>,
}

impl Rules {
    pub(super) fn over(self, mut policy: RetryPolicy) -> RetryPolicy {
        policy.max_retries = self.max_retries.unwrap_or(policy.max_retries);
        policy.backoff = self.backoff.unwrap_or(policy.backoff);
        policy.origin_backoff = self.origin_backoff.unwrap_or(policy.origin_backoff);
        policy.retry_after_max = self.retry_after_max.unwrap_or(policy.retry_after_max);
        policy.unreachable = self.unreachable.unwrap_or(policy.unreachable);
        policy.dead_lane = self.dead_lane.unwrap_or(policy.dead_lane);
        policy
    }
}
