//! Why nothing more goes to an origin now, and until when.

use super::{Gate, GateReason, HoldReason, OriginPolicy, OriginState};
use crate::clock::Timestamp;

/// What holds attempts to an origin back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Holding {
    /// Its gate is closed: the circuit is open.
    Closed {
        /// Why.
        reason: GateReason,
        /// Until when.
        until: Timestamp,
    },
    /// The circuit is half-open, and its probe runs: one attempt at a time.
    Probing,
    /// The next start comes later.
    Held {
        /// Why.
        by: HoldReason,
        /// When.
        until: Timestamp,
    },
    /// As many run as may after an outage.
    Window,
}

/// What holds the next attempt to an origin back when `running` run; nothing = it may go.
#[must_use]
pub fn why(
    gate: Option<&Gate>,
    state: &OriginState,
    running: usize,
    policy: &OriginPolicy,
    now: Timestamp,
) -> Option<Holding> {
    if let Some(gate) = gate.filter(|gate| gate.is_closed(now)) {
        return Some(Holding::Closed {
            reason: gate.reason,
            until: gate.closed_until,
        });
    }
    if running > 0 && gate.is_some_and(|gate| gate.failures > 0) {
        return Some(Holding::Probing);
    }
    if let Some(hold) = state.held(now) {
        return Some(Holding::Held {
            by: hold.by,
            until: hold.until,
        });
    }
    (state.room(running, policy) == Some(0)).then_some(Holding::Window)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::action::Origin;
    use crate::decide::{GateKey, Hold, Window};

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    #[test]
    fn the_gate_comes_first_then_the_hold_then_the_window() {
        let (policy, until) = (OriginPolicy::default(), NOW.after(Duration::from_secs(5)));
        let key = GateKey::Origin(Origin::from_stored("https://a.example:443"));
        let mut gate = Gate::new(key, GateReason::Failing, until, NOW);
        let by = HoldReason::SlowStart;
        let mut state = OriginState {
            window: Window::after_outage(),
            hold: Some(Hold { until, by }),
            ..OriginState::default()
        };
        let reason = GateReason::Failing;
        let told = |gate: &Gate, state: &OriginState, running| {
            why(Some(gate), state, running, &policy, NOW)
        };
        let closed = Holding::Closed { reason, until };
        assert_eq!(told(&gate, &state, 1), Some(closed));
        gate.closed_until = NOW;
        assert_eq!(told(&gate, &state, 1), Some(Holding::Probing));
        gate.failures = 0;
        assert_eq!(told(&gate, &state, 1), Some(Holding::Held { by, until }));
        state.hold = None;
        assert_eq!(told(&gate, &state, 1), Some(Holding::Window));
        assert_eq!(told(&gate, &state, 0), None);
        assert_eq!(why(None, &OriginState::default(), 99, &policy, NOW), None);
    }
}
