//! Values of `Store::append`: an action on its way in, and what became of it.

use std::fmt;
use std::time::Duration;

use super::Retention;
use crate::action::{ActionId, Body, Record};
use crate::clock::Timestamp;

/// One action to add.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Append {
    /// The action, queued; the store gives `seq` and `revision`.
    pub record: Record,
    /// Its body.
    pub body: Body,
    /// May it be leased at once?
    pub direct: Direct,
    /// Whose place it takes.
    pub over: Over,
    /// What the queue may hold.
    pub limits: Limits,
    /// The [revision](super::KeptKeyring::revision) of the keyring that record and body are sealed under; nothing = in clear. A
    /// store that keeps another one, or one at all, refuses the whole batch.
    pub keyring: Option<u64>,
    /// How long the key of a delivered action is remembered. Keys of pending and dead actions are remembered as long as
    /// they are there, those of [merged](Record::is_merged) ones as those of delivered ones; those of cancelled, expired, otherwise
    /// superseded and returned ones are free at once.
    pub key_retention: Duration,
    /// Resources that it writes to: what is [cached](super::CacheTarget::resource) of them is stale from now on. Only when it is
    /// added.
    pub stale: Vec<String>,
    /// The vault's clock.
    pub now: Timestamp,
}

impl Append {
    /// An action to queue, with the default limits and retention.
    #[must_use]
    pub fn new(record: Record, body: impl Into<Body>, now: Timestamp) -> Self {
        let key_retention = Retention::default().age;
        let limits = Limits::default();
        Self {
            record,
            body: body.into(),
            direct: Direct::No,
            over: Over::Latest,
            limits,
            keyring: None,
            key_retention,
            stale: Vec::new(),
            now,
        }
    }
}

/// May an action be leased in the call that adds it?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Direct {
    /// No: it is queued. So is every action while the store is paused, before its due time, and past its expiry.
    No,
    /// Yes, if its lane holds nothing at all and its gates are open.
    Alone,
    /// Yes, if all that its lane holds are other direct sends in flight, and its gates are open.
    SideBySide,
}

/// Whose place an [`Append`] takes. Only a queued action of which no byte has left can be taken over.
///
/// Under a coalescing key waits the last action of the lane that has it, as long as it can be taken over. One that a later one
/// [passed](Record::is_passed) does not wait under it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Over {
    /// That of the action that waits under its coalescing key, if one does: that one is superseded, and this one goes to the end
    /// of the lane.
    #[default]
    Latest,
    /// Nobody's: what waits under its coalescing key is kept.
    Nothing,
    /// Nobody's, and nothing may wait under its coalescing key; else [`Appended::NotOver`].
    Vacant,
    /// That of this action of the same lane; else [`Appended::NotOver`].
    Exactly {
        /// Which.
        id: ActionId,
        /// As it was read; nothing = whatever was rewritten of it since.
        revision: Option<u64>,
        /// What becomes of the two.
        then: Then,
    },
}

/// What becomes of two actions, of which the newer takes the place of the older.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Then {
    /// The older one is superseded: it never happens, and its key is free.
    Supersede(LanePlace),
    /// The older one is superseded, and what it was to do is part of the newer one: its key stays known, as that of a delivered
    /// action does.
    Merge(LanePlace),
    /// Both are cancelled. The newer one is added, counted and cancelled in one; no limit refuses it.
    CancelBoth,
}

/// Where in its lane an action goes that takes the place of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LanePlace {
    /// To the place of the older one, if nothing stands behind that in the lane; else it does not take it over.
    #[default]
    OldIfLast,
    /// To the place of the older one: before what was queued since.
    Old,
    /// To the end of the lane: behind what was queued since.
    End,
}

/// What the queue may hold. Adding beyond it is refused; nothing is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Pending actions and dead letters together.
    pub actions_max: u64,
    /// Bytes of bodies and request heads, of pending actions and dead letters together.
    pub bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            actions_max: 1_000_000,
            bytes_max: 1024 * 1024 * 1024,
        }
    }
}

/// What became of one [`Append`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Appended {
    /// It is queued.
    Queued {
        /// The record as stored.
        record: Record,
        /// The action that it superseded by its coalescing key.
        superseded: Option<Record>,
    },
    /// It is in flight, and the caller holds the lease.
    Leased {
        /// The record as stored.
        record: Record,
        /// The action that it superseded by its coalescing key.
        superseded: Option<Record>,
    },
    /// It is cancelled, and so is the action that it took the place of: see [`Then::CancelBoth`].
    Cancelled {
        /// The record as stored.
        record: Record,
        /// The other one.
        waiting: Option<Record>,
    },
    /// It could not take the place that [`Append::over`] names. Nothing was added, and nothing changed.
    NotOver {
        /// The action in that place, as it is now.
        found: Option<Record>,
    },
    /// The key is known for the same request: this is the action that has it. Nothing was added.
    Known {
        /// That action.
        record: Record,
    },
    /// The key is known for another request. Nothing was added.
    Conflict {
        /// The action that has the key.
        id: ActionId,
    },
    /// A limit is reached. Nothing was added.
    Full {
        /// Which one, in words.
        limit: String,
    },
    /// It cannot wait for one of its parents. Nothing was added.
    Unfit {
        /// That parent.
        parent: ActionId,
        /// Why not.
        why: Unfit,
    },
}

/// How many [parents](Record::parents) an action may have. Every store takes that many.
pub const PARENTS_MAX: usize = 32;

/// Why nothing can be queued after an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unfit {
    /// There is no such action, or it is forgotten.
    Unknown,
    /// It is the action itself.
    Itself,
    /// It was cancelled, it expired, or another one took its place.
    Ended,
    /// It is another principal's.
    Foreign,
    /// It is delivered, and its answer, which is needed, is not kept.
    NoAnswer,
    /// There are more parents than one action can have.
    TooMany,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "it is not known: it was never queued here, or is forgotten",
            Self::Itself => "it is the action itself",
            Self::Ended => "it will never be delivered: it was cancelled, expired or superseded",
            Self::Foreign => "it belongs to another principal",
            Self::NoAnswer => "it is delivered, and its answer is not kept",
            Self::TooMany => "an action has at most 32 parents",
        })
    }
}
