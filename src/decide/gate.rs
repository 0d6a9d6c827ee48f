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
