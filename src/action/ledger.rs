//! The ledger: every action that was ever enqueued has a name for where it went. Kept with the data.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Where every action went, since the vault was created.
///
/// `enqueued = delivered + returned + dead + cancelled + expired + superseded + evicted + pending`,
/// and [`is_balanced`](Ledger::is_balanced) checks it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Ledger {
    /// Written to the store.
    pub enqueued: u64,
    /// Answered 2xx.
    pub delivered: u64,
    /// Direct sends whose refusal (a 404, say) went straight to the caller.
    pub returned: u64,
    /// Became dead letters and were not requeued; discarded ones stay counted here.
    pub dead: u64,
    /// Cancelled or cleared by the app.
    pub cancelled: u64,
    /// Past their `expires_in`.
    pub expired: u64,
    /// Another action took its place.
    pub superseded: u64,
    /// Removed by a rule that the app set, by name.
    pub evicted: u64,
    /// Queued or in flight now.
    pub pending: u64,
}

impl Ledger {
    /// True when nothing is lost without a name.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        let ended = [
            self.delivered,
            self.returned,
            self.dead,
            self.cancelled,
            self.expired,
            self.superseded,
            self.evicted,
            self.pending,
        ];
        ended.iter().try_fold(0u64, |sum, n| sum.checked_add(*n)) == Some(self.enqueued)
    }
}

/// What is in the vault now. Kept, never scanned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Counts {
    /// Queued or in flight.
    pub pending: u64,
    /// In flight, a part of `pending`.
    pub in_flight: u64,
    /// Dead letters on disk.
    pub dead: u64,
    /// Bytes of the pending actions and dead letters: bodies and request heads.
    pub bytes: u64,
    /// Lanes that a dead letter blocks.
    pub blocked_lanes: u64,
    /// Settled actions that are kept for their key and answer.
    pub retained: u64,
    /// Bytes of their answers.
    pub retained_bytes: u64,
    /// When the oldest of the actions that are first in their lanes was made.
    pub oldest: Option<Timestamp>,
}
