//! What opening a store was like: what was damaged, what was found again, what is missing.

use std::path::PathBuf;

use serde::{Serialize, Serializer};

/// What [`Store::open`](super::Store::open) had to do. All empty when the store was whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OpenReport {
    /// What was wrong, in words.
    pub damage: Option<String>,
    /// Where the damaged database is now. Nothing of it was deleted.
    #[serde(serialize_with = "as_text")]
    pub quarantined: Option<PathBuf>,
    /// Actions that were found in it, settled ones too.
    pub recovered: u64,
    /// Those of them that are dead letters now, with the reason [`Salvaged`](crate::DeadReason::Salvaged): nothing proves
    /// that they were not settled.
    pub salvaged: u64,
    /// Those of them whose body was not found.
    pub without_body: u64,
    /// Pending actions and dead letters that the store is known to have held and that were not found. They are in the ledger
    /// as `evicted`.
    pub missing: u64,
    /// The store ended before what it had acknowledged.
    pub regressed: Option<StoreRegressed>,
}

impl OpenReport {
    /// True when the store was whole, and nothing had to be done.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// Also a path that is not UTF-8 can be told of.
fn as_text<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    let text = path.as_ref().map(|path| path.to_string_lossy());
    text.serialize(to)
}

/// A store that is older than what it acknowledged: versions of its counts, which grow with every change of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoreRegressed {
    /// The version that the mark beside the store tells of.
    pub expected: u64,
    /// The version that the store has.
    pub found: u64,
}
