//! What can go wrong in a run, by name; and how often it did.

use std::collections::BTreeMap;
use std::fmt;

/// A kind of trouble that a run injects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Trouble {
    /// The process ends at a store step that then never happened.
    CrashBefore,
    /// The process ends at a store step that happened, and nobody was told.
    CrashAfter,
    /// The process ends somewhere.
    Crash,
    /// The disk is full for one step.
    DiskFull,
    /// A store step fails without effect.
    DiskError,
    /// Store steps take time.
    SlowDisk,
    /// An origin cannot be reached: refused, no name, or nothing comes back.
    Partition,
    /// The connection breaks while the request is on its way.
    RequestCut,
    /// The server acts, and its answer is lost.
    AnswerLost,
    /// The body of an answer breaks off.
    AnswerCut,
    /// The server gets a request twice.
    Duplicate,
    /// A request or an answer takes longer than the client waits.
    Slow,
    /// The machine is short of something.
    Shortage,
    /// A login page, a redirect or a 511 stands in the place of the server.
    Portal,
    /// An origin answers 429, 500, 502, 503 or 504 for a while, with or without `Retry-After`.
    Storm,
    /// The server fails once, or says that it is still at work.
    Hiccup,
    /// The server refuses a request for good.
    Poison,
    /// Tokens are not valid any more.
    TokenExpired,
    /// The wall clock is set forward.
    ClockForward,
    /// The wall clock is set back.
    ClockBack,
    /// The app drops a future in the middle.
    DroppedFuture,
    /// The vault is shut down, with little time.
    Shutdown,
    /// The last handle of the vault is dropped.
    HandleDropped,
}

impl Trouble {
    /// Every kind.
    pub const ALL: [Self; 23] = [
        Self::CrashBefore,
        Self::CrashAfter,
        Self::Crash,
        Self::DiskFull,
        Self::DiskError,
        Self::SlowDisk,
        Self::Partition,
        Self::RequestCut,
        Self::AnswerLost,
        Self::AnswerCut,
        Self::Duplicate,
        Self::Slow,
        Self::Shortage,
        Self::Portal,
        Self::Storm,
        Self::Hiccup,
        Self::Poison,
        Self::TokenExpired,
        Self::ClockForward,
        Self::ClockBack,
        Self::DroppedFuture,
        Self::Shutdown,
        Self::HandleDropped,
    ];
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::CrashBefore => "crash before a store step",
            Self::CrashAfter => "crash after a store step",
            Self::Crash => "crash somewhere",
            Self::DiskFull => "disk full",
            Self::DiskError => "store step failed",
            Self::SlowDisk => "slow disk",
            Self::Partition => "partition",
            Self::RequestCut => "request cut",
            Self::AnswerLost => "answer lost",
            Self::AnswerCut => "answer cut",
            Self::Duplicate => "request doubled",
            Self::Slow => "request or answer slow",
            Self::Shortage => "local shortage",
            Self::Portal => "portal",
            Self::Storm => "storm of 429 or 5xx",
            Self::Hiccup => "one bad answer",
            Self::Poison => "refused for good",
            Self::TokenExpired => "tokens expired",
            Self::ClockForward => "clock set forward",
            Self::ClockBack => "clock set back",
            Self::DroppedFuture => "future dropped",
            Self::Shutdown => "shutdown",
            Self::HandleDropped => "last handle dropped",
        })
    }
}

/// How often each kind of trouble was injected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Injected(BTreeMap<Trouble, u64>);

impl Injected {
    pub(super) fn count(&mut self, trouble: Trouble) {
        *self.0.entry(trouble).or_default() += 1;
    }

    /// How often it was this one.
    #[must_use]
    pub fn of(&self, trouble: Trouble) -> u64 {
        self.0.get(&trouble).copied().unwrap_or_default()
    }

    /// How often it was any.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (trouble, count) in &other.0 {
            *self.0.entry(*trouble).or_default() += count;
        }
    }
}
