//! What an attempt ends in, as values: what `decide` concludes and a store writes.

use crate::action::DeadReason;
use crate::clock::Timestamp;

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settlement {
    /// The server took it. Kept for the retention time.
    Delivered {
        /// The status of the answer.
        status: u16,
    },
    /// A direct send's refusal goes to the caller. Nothing of it is kept; the ledger counts it. When another caller was
    /// told of the action meanwhile, by its key, it becomes a dead letter instead.
    Returned,
    /// Back to the queue, in its old place.
    Retry {
        /// The earliest time of the next attempt.
        due: Timestamp,
        /// Whether the attempt counts against `attempts_max`.
        counts: Counted,
        /// The wait that was chosen, in milliseconds.
        backoff_ms: u64,
    },
    /// A dead letter.
    Dead {
        /// Why.
        reason: DeadReason,
        /// What its lane does.
        lane: DeadLane,
    },
}

/// Does an attempt count against the retries of its action?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Counted {
    /// It counts.
    Yes,
    /// It does not: the trouble was not the action's.
    No,
}

/// What a lane does when its head becomes a dead letter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeadLane {
    /// The dead letter steps aside, the lane goes on.
    #[default]
    Skip,
    /// The lane waits until the dead letter is requeued or discarded.
    Block,
}
