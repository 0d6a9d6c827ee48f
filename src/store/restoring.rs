//! Values of `Store::restore`: actions that are put back as they were.

use bytes::Bytes;

use crate::action::{Body, Ledger, Record};
use crate::clock::Timestamp;
use crate::decide::{DeadLane, Gate};

/// A part of what another store held.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Restore {
    /// The name of the whole: until it has ended, only parts of the same one are taken.
    pub of: String,
    /// Actions, in any order.
    pub actions: Vec<Restored>,
    /// What belongs to all of them; with this the whole has ended.
    pub end: Option<RestoreEnd>,
    /// The vault's clock.
    pub now: Timestamp,
}

impl Restore {
    /// A part with nothing in it yet.
    #[must_use]
    pub fn new(of: impl Into<String>, now: Timestamp) -> Self {
        Self {
            of: of.into(),
            actions: Vec::new(),
            end: None,
            now,
        }
    }
}

/// An action to put back.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Restored {
    /// The record, with its `seq` and `revision`.
    pub record: Record,
    /// Its body, while it is pending or dead.
    pub body: Option<Body>,
    /// What is kept of its last answer.
    pub answer: Option<Bytes>,
    /// Whether its lane waits for it, when it is dead.
    pub dead_lane: DeadLane,
}

impl Restored {
    /// An action without body and answer, that nothing waits for.
    #[must_use]
    pub fn new(record: Record) -> Self {
        Self {
            record,
            body: None,
            answer: None,
            dead_lane: DeadLane::Skip,
        }
    }
}

/// What a store holds beside its actions.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RestoreEnd {
    /// Where everything went.
    pub ledger: Ledger,
    /// Every gate.
    pub gates: Vec<Gate>,
    /// Whether the app paused the vault.
    pub is_paused: bool,
}

impl RestoreEnd {
    /// No gate, not paused.
    #[must_use]
    pub fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            gates: Vec::new(),
            is_paused: false,
        }
    }
}
