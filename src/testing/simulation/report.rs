//! What a run comes to: the promises that were broken, and what it took.

use std::fmt;

use super::trouble::Injected;

/// A promise of the vault, as the checker counts breaches of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Promise {
    /// What was acknowledged, told or given up is on disk, or had its effect, or has a good reason.
    Lost,
    /// Nothing leaves that was refused, cancelled, replaced, or belongs to somebody who is not active.
    Unexpected,
    /// What is delivered is not sent again.
    Duplicated,
    /// A lane keeps its order, and goes one at a time.
    Reordered,
    /// One request has one effect, with one key and the same bytes at each attempt.
    DoubleEffect,
    /// Whatever can go goes in time, and a healed vault drains.
    Stuck,
    /// The ledger balances, and agrees with what was seen.
    LedgerOff,
    /// Nobody is asked before the time that it told.
    Early,
    /// One refresh for all who need it.
    Stampede,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lost => "lost",
            Self::Unexpected => "unexpected",
            Self::Duplicated => "duplicated",
            Self::Reordered => "reordered",
            Self::DoubleEffect => "double_effect",
            Self::Stuck => "stuck",
            Self::LedgerOff => "ledger_off",
            Self::Early => "early",
            Self::Stampede => "stampede",
        })
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Breach {
    /// Which.
    pub promise: Promise,
    /// By what, in words.
    pub text: String,
}

impl Breach {
    pub(super) fn new(promise: Promise, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { promise, text }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.text)
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The seed: with the same options it gives the same run.
    pub seed: u64,
    /// The promises that were broken; none, when all is well.
    pub breaches: Vec<Breach>,
    /// What was injected.
    pub injected: Injected,
    /// How many requests the app made.
    pub requests: u64,
    /// How many attempts the server saw, or would have seen.
    pub attempts: u64,
    /// How often the vault was opened.
    pub lives: u64,
    /// How many calls of the store there were.
    pub store_steps: u64,
    /// A hash of everything that happened, in its order.
    pub trace_hash: u64,
    /// Everything that happened, when that was [asked for](super::Simulation::traced).
    pub trace: Vec<String>,
}

impl Report {
    /// True when no promise was broken.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.breaches.is_empty()
    }
}

/// The seed and each breach, a line each.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {} broken", self.seed, self.breaches.len())?;
        self.breaches
            .iter()
            .try_for_each(|breach| write!(f, "\n  {breach}"))
    }
}
