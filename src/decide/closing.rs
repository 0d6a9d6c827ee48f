//! How a gate closes, and how a good answer opens it again.

use std::time::Duration;

use super::{Dice, Gate, GateKey, GateReason, RetryPolicy, merge_gates};
use crate::clock::Timestamp;

/// A reason to close a gate.
#[derive(Clone, Debug)]
pub struct Closing {
    /// What is closed.
    pub key: GateKey,
    /// Why.
    pub reason: GateReason,
    /// How long the server asked to be left alone.
    pub after: Option<Duration>,
    /// Now.
    pub now: Timestamp,
}

impl Closing {
    /// The gate after it, beside the one that is there: closed by the backoff of origins, and no shorter than told. A gate that is
    /// still closed was closed while the attempt was under way: its failures do not rise again.
    #[must_use]
    pub fn gate(self, old: Option<&Gate>, policy: &RetryPolicy, dice: &mut Dice) -> Gate {
        let told = told_wait(self.after, dice);
        let failures = failures_after(old, self.now);
        let previous = Duration::from_millis(old.map_or(0, |gate| gate.backoff_ms));
        let wait = policy
            .origin_backoff
            .delay(failures, previous, dice)
            .max(told);
        let backoff_ms = whole_millis(wait).max(1);
        let until = later(self.now, backoff_ms);
        let mut gate = Gate::new(self.key, self.reason, until, self.now);
        gate.failures = failures;
        gate.backoff_ms = backoff_ms;
        beside(old, gate)
    }
}

/// A tenth more than told, at least within a second and at most within half a minute.
pub(super) fn told_wait(after: Option<Duration>, dice: &mut Dice) -> Duration {
    let Some(after) = after else {
        return Duration::ZERO;
    };
    let spread = (after / 10).clamp(Duration::from_secs(1), Duration::from_secs(30));
    after.saturating_add(dice.below(spread))
}

fn failures_after(old: Option<&Gate>, now: Timestamp) -> u32 {
    match old {
        None => 1,
        Some(gate) if gate.is_closed(now) => gate.failures.max(1),
        Some(gate) => gate.failures.saturating_add(1),
    }
}

/// The gate without its history; nothing when it has none, or when a good answer is no reason to open it.
#[must_use]
pub fn reset_gate(old: &Gate, now: Timestamp) -> Option<Gate> {
    if old.failures == 0 && !old.is_closed(now) {
        return None;
    }
    let mut gate = old.clone();
    gate.closed_until = now;
    gate.failures = 0;
    gate.backoff_ms = 0;
    gate.changed = now;
    let gate = merge_gates(old.clone(), gate);
    (gate != *old).then_some(gate)
}

/// The new gate beside the one that is there, with the fields that this version does not know.
fn beside(old: Option<&Gate>, mut gate: Gate) -> Gate {
    let Some(old) = old else { return gate };
    gate.extra = old.extra.clone();
    merge_gates(old.clone(), gate)
}

/// Rounded up: a wait never ends early.
pub(super) fn whole_millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

pub(super) fn later(now: Timestamp, millis: u64) -> Timestamp {
    Timestamp::from_millis(now.as_millis().saturating_add(millis))
}
