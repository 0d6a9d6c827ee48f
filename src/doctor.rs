//! HOW it fares: what is wrong with a vault, and what it holds as lines of JSON, out of one store and into another.
//!
//! - [`examine()`] looks at a vault's directory and changes nothing; [`examine_store`] at a store of any kind.
//! - [`salvage()`] builds a damaged vault anew from what is intact in it, as opening it does.
//! - [`export()`] and [`import()`] carry everything from store to store: from sled to SQLite, to another machine, into a
//!   sealed vault.
//!
//! What an opening does with a damaged vault is the store's: see [`OpenReport`].

mod directory;
mod examine;
mod export;
mod import;
mod lines;
mod reader;
mod salvage;

pub use crate::store::{Examination, Finding, OpenReport, Problem, Progress, Severity};
pub use examine::{examine, examine_store};
pub use export::export;
pub use import::import;
pub use lines::EXPORT_FORMAT;
pub use salvage::salvage;

use serde::{Deserialize, Serialize};

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
