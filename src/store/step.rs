//! Values of `Store::advance`: what a worker settles, leases and learns in one commit.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::{Batches, Totals};
use crate::action::{
    ActionId, Batch, Batching, Body, DeadReason, Origin, PortalSign, Record, State, WireState,
};
use crate::clock::Timestamp;
use crate::decide::{DeadLane, Gate, Settlement};

/// One step of a worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Advance {
    /// Results of attempts.
    pub settle: Vec<Settle>,
    /// Gates to set, by their key.
    pub gates: Vec<Gate>,
    /// What was filled in of the actions that the step before gave as [unfilled](Advanced::unfilled).
    pub fills: Vec<Fill>,
    /// What lanes do when one of their actions dies with its parent, or cannot be filled in.
    pub dead_lane: DeadLane,
    /// What to lease after that; nothing = lease nothing.
    pub lease: Option<Lease>,
    /// What to forget of settled actions.
    pub retention: Retention,
    /// Does anybody wait for it?
    pub urgency: Urgency,
    /// The [revision](super::KeptKeyring::revision) of the keyring that answers, words and gates are sealed under; nothing =
    /// nothing of it is sealed. A store that keeps another one refuses the step.
    pub keyring: Option<u64>,
    /// Resources that were written to: what is [cached](super::CacheTarget::resource) of them is stale from now on.
    pub stale: Vec<String>,
    /// The vault's clock.
    pub now: Timestamp,
}

/// How long a store may hold a step back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Urgency {
    /// Not at all.
    #[default]
    Now,
    /// Up to 2 ms, so that its commit is shared with what comes next. Nobody waits for it, and nothing is to be leased.
    Soon,
}

impl Advance {
    /// A step that does nothing yet.
    #[must_use]
    pub fn new(now: Timestamp, retention: Retention) -> Self {
        Self {
            settle: Vec::new(),
            gates: Vec::new(),
            fills: Vec::new(),
            dead_lane: DeadLane::Skip,
            lease: None,
            retention,
            urgency: Urgency::Now,
            keyring: None,
            stale: Vec::new(),
            now,
        }
    }
}

/// How much is kept of settled actions, oldest out first. Each `advance` removes a bounded number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// For how long.
    pub age: Duration,
    /// How many.
    pub count: u64,
    /// Bytes of their answers together.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(24 * 60 * 60),
            count: 100_000,
            bytes: 64 * 1024 * 1024,
        }
    }
}

/// What to lease.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Lease {
    /// At most so many actions; a batch counts as one.
    pub slots: usize,
    /// Tighter limits for some origins: at most so many more of each. A batch counts as one.
    pub origin_slots: Vec<(Origin, usize)>,
    /// Origins whose gate counts as open for this lease, whatever it says.
    pub forced: Vec<Origin>,
    /// Gates to set when something of their origin was leased by this, in the same commit: how starts are held apart.
    pub gates_after: Vec<Gate>,
    /// On whose behalf.
    pub whose: Whose,
    /// Where runs of actions are leased together; nothing = nowhere.
    pub batches: Option<Batches>,
}

/// On whose behalf actions are leased. Those of nobody in particular always are.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Whose {
    /// Everybody's.
    #[default]
    Everybody,
    /// This principal's; nothing = of no principal at all.
    Only(Option<String>),
}

impl Whose {
    /// True when actions of this principal may be leased.
    #[must_use]
    pub fn allows(&self, principal: Option<&str>) -> bool {
        match self {
            Self::Everybody => true,
            Self::Only(active) => principal.is_none() || principal == active.as_deref(),
        }
    }
}

/// Without the principal: names of users stay out of logs.
impl fmt::Debug for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Everybody => "Everybody",
            Self::Only(Some(_)) => "Only(..)",
            Self::Only(None) => "Only(None)",
        })
    }
}

/// The result of one attempt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settle {
    /// The action.
    pub id: ActionId,
    /// The attempt that this is the result of, as leased.
    pub attempt: u32,
    /// The run that leased it.
    pub epoch: u64,
    /// What came of it.
    pub result: Settlement,
    /// What the server may have seen now.
    pub wire: WireState,
    /// The sign of a login page, if that is what was met.
    pub portal: Option<PortalSign>,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// What went wrong, in words without any content of the request.
    pub error: Option<String>,
    /// What is kept of the answer, encoded by the vault.
    pub answer: Option<Bytes>,
    /// What batches may make of it, if it goes back to the queue.
    pub batch: Option<Batching>,
}

impl Settle {
    /// The result of the attempt that `record` is in flight with; nothing when it is not in flight.
    #[must_use]
    pub fn of(record: &Record, result: Settlement, wire: WireState) -> Option<Self> {
        let State::InFlight { attempt, epoch } = record.state else {
            return None;
        };
        let id = record.id;
        Some(Self {
            id,
            attempt,
            epoch,
            result,
            wire,
            portal: None,
            status: None,
            error: None,
            answer: None,
            batch: record.batch,
        })
    }
}

/// An action as it is to be sent: what it refers to is filled in. It is taken only when the action has not changed meanwhile; from
/// then on its request and its body stay as they are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Fill {
    /// The record, as it was given but for content, origin, length of the body and words about what is wrong.
    pub record: Record,
    /// The body, if it is another one now.
    pub body: Option<Body>,
    /// Why it cannot be filled in: then it is a dead letter with this reason.
    pub dead: Option<DeadReason>,
}

impl Fill {
    /// A record whose content is filled in.
    #[must_use]
    pub fn new(record: Record) -> Self {
        Self {
            record,
            body: None,
            dead: None,
        }
    }
}

/// What [`Store::advance`](super::Store::advance) did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Advanced {
    /// One for each [`Settle`], in order: the record after it, or nothing when its lease was no longer valid.
    pub settled: Vec<Option<Record>>,
    /// The new leases: record (in flight) and body. The members of a batch stand side by side, in their order.
    pub leased: Vec<Leased>,
    /// Actions that expired on the way.
    pub expired: Vec<Record>,
    /// Actions that became dead letters with their parents, or because they cannot be filled in.
    pub buried: Vec<Record>,
    /// Dead letters that are queued again, because their parents are.
    pub revived: Vec<Record>,
    /// Actions whose parents are all delivered, and whose references are to be [filled in](Fill): a bounded number. They come
    /// again until that is done.
    pub unfilled: Vec<Record>,
    /// More children are to be looked at than one step does: the next step may come at once.
    pub is_unfinished: bool,
    /// The earliest time at which something can be leased: gates, origin slots and `whose` count. Nothing when time cannot help.
    /// Not after now when the slots of the lease were the limit: the next settle helps then, not time.
    pub next_due: Option<Timestamp>,
    /// The earliest time at which a queued action expires.
    pub next_expiry: Option<Timestamp>,
    /// Counts and ledger after it.
    pub totals: Totals,
    /// Whether the store is paused, by whatever process; nothing = only the vault of this store can pause it.
    pub is_paused: Option<bool>,
}

impl Advanced {
    /// The earliest time at which there is something to do.
    #[must_use]
    pub fn next_wake(&self) -> Option<Timestamp> {
        [self.next_due, self.next_expiry]
            .into_iter()
            .flatten()
            .min()
    }
}

/// A leased action.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Leased {
    /// The record, in flight: attempt and epoch are in its state.
    pub record: Record,
    /// The wire state before this attempt: the record on disk already counts the attempt as possibly sent.
    pub wire_before: WireState,
    /// Its body.
    pub body: Body,
}

impl Leased {
    /// The batch that it is a member of, if it was leased with others.
    #[must_use]
    pub fn batch(&self) -> Option<&Batch> {
        self.record.batch.as_ref()?.batch()
    }

    /// Is it of the same batch as the one before it? Then both leave in one request.
    #[must_use]
    pub fn goes_with(&self, before: &Self) -> bool {
        match (self.batch(), before.batch()) {
            (Some(batch), Some(before)) => batch.is_same(before),
            _ => false,
        }
    }

    /// A lease of `record`, which is in flight.
    #[must_use]
    pub fn new(record: Record, wire_before: WireState, body: Body) -> Self {
        Self {
            record,
            wire_before,
            body,
        }
    }
}
