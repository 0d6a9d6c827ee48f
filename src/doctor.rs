//! HOW it fares: what a vault holds as lines of JSON, out of one store and into another.

mod export;
mod import;
mod lines;
mod reader;

pub use export::export;
pub use import::import;
pub use lines::EXPORT_FORMAT;

use serde::{Deserialize, Serialize};

/// How far a run of the doctor is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// Actions that are done.
    pub done: u64,
    /// Actions that there are, as counted by the vault.
    pub total: u64,
}

/// What went out, or came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Contents {
    /// Actions that wait for their delivery.
    pub pending: u64,
    /// Dead letters.
    pub dead: u64,
    /// Settled actions that were still kept.
    pub settled: u64,
    /// Gates.
    pub gates: u64,
}

impl Contents {
    /// All actions.
    #[must_use]
    pub fn actions(&self) -> u64 {
        self.pending + self.dead + self.settled
    }
}
