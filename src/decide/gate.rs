//! Gates: what must be open for an action to leave. One per origin, one per principal. Kept on disk,
//! so that a restart loop cannot hammer a server.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::OriginState;
use crate::action::Origin;
use crate::clock::Timestamp;

/// What a gate is for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GateKey {
    /// Everything that goes to an origin.
    Origin(Origin),
    /// Everything that is sent on behalf of a principal; nothing = the vault without principals.
    Principal(Option<String>),
}

/// Without the principal: names of users stay out of logs.
impl fmt::Debug for GateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Origin(origin) => f.debug_tuple("Origin").field(origin).finish(),
            Self::Principal(Some(_)) => f.write_str("Principal(..)"),
            Self::Principal(None) => f.write_str("Principal(None)"),
        }
    }
}

/// Why a gate is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GateReason {
    /// The server could not be reached.
    Unreachable,
    /// The server said: too many requests (429).
    RateLimited,
    /// The server, or what stands before it, said: not now (502, 503, 504, 520-530).
    Unavailable,
    /// Credentials were refused and could not be refreshed.
    Unauthorized,
    /// Too many attempts in a row failed (5xx, timeouts): the circuit is open.
    Failing,
}

impl GateReason {
    /// True when the server, or what stands before it, asked for the wait, or failed again and again: only time opens such
    /// a gate.
    #[must_use]
    pub fn is_word_of_server(self) -> bool {
        matches!(self, Self::RateLimited | Self::Unavailable | Self::Failing)
    }
}

/// A gate, closed until a time. No gate stands for an open one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Gate {
    /// What it is for.
    pub key: GateKey,
    /// Closed until then; in the past = open, with its history.
    pub closed_until: Timestamp,
    /// Why it closed last.
    pub reason: GateReason,
    /// How many times in a row it closed: the backoff of the next closing. Zero after a good answer.
    pub failures: u32,
    /// The wait of the newest closing, in milliseconds.
    #[serde(default)]
    pub backoff_ms: u64,
    /// When it last changed.
    pub changed: Timestamp,
    /// What else is remembered of an origin.
    #[serde(default, skip_serializing_if = "OriginState::is_default")]
    pub origin: OriginState,
    /// Fields this version does not know, kept as they are.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Gate {
    /// A gate that closes now for the first time.
    #[must_use]
    pub fn new(
        key: GateKey,
        reason: GateReason,
        closed_until: Timestamp,
        changed: Timestamp,
    ) -> Self {
        Self {
            key,
            closed_until,
            reason,
            failures: 1,
            backoff_ms: 0,
            changed,
            origin: OriginState::default(),
            extra: Map::new(),
        }
    }

    /// One that is open, and never was closed.
    #[must_use]
    pub fn open(key: GateKey, now: Timestamp) -> Self {
        let mut gate = Self::new(key, GateReason::Unavailable, now, now);
        gate.failures = 0;
        gate
    }

    /// The earliest time at which something may pass: when it is open, and nothing else holds its origin back.
    #[must_use]
    pub fn opens_at(&self) -> Timestamp {
        let hold = self.origin.hold.map(|hold| hold.until);
        self.closed_until.max(hold.unwrap_or_default())
    }

    /// Lets it stay closed until `until` at most.
    pub fn hasten(&mut self, until: Timestamp) {
        self.closed_until = self.closed_until.min(until);
        self.origin.hasten(until);
    }

    /// True when nothing may pass at `now`.
    #[must_use]
    pub fn is_closed(&self, now: Timestamp) -> bool {
        self.closed_until > now
    }
}

/// The gate after somebody found that what it waits for is there: a connectivity probe that reached the origin, an app
/// that brought new credentials. Its history stays, so that a flapping network does not start small each time.
///
/// What the server itself asked for ([`GateReason::RateLimited`], [`GateReason::Unavailable`]) stays closed: a network
/// that is back says nothing about that. To spread the rush after an outage, pass a time a little later than now; the
/// gate never closes for longer by it.
#[must_use]
pub fn open_gate(mut gate: Gate, now: Timestamp) -> Gate {
    if !gate.reason.is_word_of_server() && gate.closed_until > now {
        gate.closed_until = now;
        gate.changed = now;
    }
    gate
}

/// One gate from two results of one step, or from a gate and a result of an attempt that was under way when it closed.
///
/// - What the server asked for stays: neither a good answer nor an unreachable server makes that wait shorter.
/// - Any answer ends an older "unreachable".
/// - Of two closings for the same kind of reason: the newer reason, the longer wait.
#[must_use]
pub fn merge_gates(older: Gate, newer: Gate) -> Gate {
    let at = newer.changed;
    match (older.is_closed(at), newer.is_closed(at)) {
        (false, _) => newer,
        (true, false) if older.reason == GateReason::Unreachable => newer,
        (true, false) => older,
        (true, true) => longer(older, newer),
    }
}

fn longer(older: Gate, newer: Gate) -> Gate {
    let reason = match (older.reason, newer.reason) {
        (GateReason::Unreachable, reason) if reason != GateReason::Unreachable => return newer,
        (reason, GateReason::Unreachable) => reason,
        (_, newest) => newest,
    };
    let failures = older.failures.max(newer.failures);
    let changed = newer.changed;
    let longest = if older.closed_until > newer.closed_until {
        older
    } else {
        newer
    };
    Gate {
        reason,
        failures,
        changed,
        ..longest
    }
}

#[cfg(test)]
mod tests {
    use super::GateReason::{RateLimited, Unauthorized, Unavailable, Unreachable};
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    /// A gate that closed at `NOW` for `wait_ms`; for zero, one that a good answer opened.
    fn gate(reason: GateReason, wait_ms: u64, failures: u32) -> Gate {
        let key = GateKey::Origin(Origin::from_stored("https://a.example:443"));
        let until = Timestamp::from_millis(NOW.as_millis() + wait_ms);
        let mut gate = Gate::new(key, reason, until, NOW);
        gate.failures = failures;
        gate.backoff_ms = wait_ms;
        gate
    }

    fn merged(
        older: (GateReason, u64, u32),
        newer: (GateReason, u64, u32),
    ) -> (GateReason, u64, u32, u64) {
        let gate = merge_gates(
            gate(older.0, older.1, older.2),
            gate(newer.0, newer.1, newer.2),
        );
        let wait = gate.closed_until.as_millis() - NOW.as_millis();
        (gate.reason, wait, gate.failures, gate.backoff_ms)
    }

    #[test]
    fn the_longest_wait_of_the_newest_reason_stays() {
        let table = [
            (
                (Unreachable, 10, 3),
                (Unreachable, 20, 3),
                (Unreachable, 20, 3, 20),
            ),
            (
                (Unreachable, 20, 3),
                (Unreachable, 10, 3),
                (Unreachable, 20, 3, 20),
            ),
            (
                (Unavailable, 90, 1),
                (RateLimited, 10, 2),
                (RateLimited, 90, 2, 90),
            ),
            (
                (RateLimited, 10, 2),
                (Unavailable, 90, 1),
                (Unavailable, 90, 2, 90),
            ),
            (
                (Unauthorized, 10, 1),
                (Unauthorized, 90, 1),
                (Unauthorized, 90, 1, 90),
            ),
        ];
        for (older, newer, want) in table {
            assert_eq!(merged(older, newer), want, "{older:?} then {newer:?}");
        }
    }

    #[test]
    fn an_unreachable_server_does_not_end_what_it_asked_for() {
        assert_eq!(
            merged((RateLimited, 90, 1), (Unreachable, 10, 1)),
            (RateLimited, 90, 1, 90)
        );
        assert_eq!(
            merged((RateLimited, 10, 1), (Unreachable, 90, 1)),
            (RateLimited, 90, 1, 90)
        );
    }

    #[test]
    fn any_answer_ends_an_older_unreachable() {
        assert_eq!(
            merged((Unreachable, 90, 7), (RateLimited, 10, 8)),
            (RateLimited, 10, 8, 10)
        );
        assert_eq!(
            merged((Unreachable, 90, 7), (Unreachable, 0, 0)),
            (Unreachable, 0, 0, 0)
        );
    }

    #[test]
    fn a_good_answer_does_not_open_what_the_server_asked_for() {
        for reason in [RateLimited, Unavailable, Unauthorized] {
            assert_eq!(merged((reason, 90, 1), (reason, 0, 0)), (reason, 90, 1, 90));
        }
    }

    #[test]
    fn after_a_good_answer_a_closing_closes() {
        assert_eq!(
            merged((RateLimited, 0, 0), (Unavailable, 10, 1)),
            (Unavailable, 10, 1, 10)
        );
    }

    #[test]
    fn a_probe_opens_only_what_waits_for_it() {
        for (reason, opens) in [
            (Unreachable, true),
            (Unauthorized, true),
            (RateLimited, false),
            (Unavailable, false),
        ] {
            let closed = gate(reason, 90, 4);
            let later = Timestamp::from_millis(NOW.as_millis() + 1);
            let got = open_gate(closed.clone(), later);
            assert_eq!(got.is_closed(later), !opens, "{reason:?}");
            assert_eq!(got.failures, 4, "the history stays");
            assert_eq!(got == closed, !opens);
        }
    }

    #[test]
    fn opening_later_never_closes_for_longer() {
        let closed = gate(Unreachable, 90, 1);
        let end = closed.closed_until;
        assert_eq!(
            open_gate(closed.clone(), end.after(std::time::Duration::from_secs(9))),
            closed
        );
    }
}
