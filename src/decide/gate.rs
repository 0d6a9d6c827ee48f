//! Gates: what must be open for an action to leave. One per origin, one per principal. Kept on disk,
//! so that a restart loop cannot hammer a server.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::action::Origin;
use crate::clock::Timestamp;

/// What a gate is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GateKey {
    /// Everything that goes to an origin.
    Origin(Origin),
    /// Everything that is sent on behalf of a principal; nothing = the vault without principals.
    Principal(Option<String>),
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
}

impl GateReason {
    /// True when the server, or what stands before it, asked for the wait: only time opens such a gate.
    fn is_word_of_server(self) -> bool {
        matches!(self, Self::RateLimited | Self::Unavailable)
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
            extra: Map::new(),
        }
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
/// What the server itself asked for ([`RateLimited`](GateReason::RateLimited), [`Unavailable`](GateReason::Unavailable))
/// stays closed: a network that is back says nothing about that. To spread the rush after an outage, pass a time a
/// little later than now; the gate never closes for longer by it.
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
