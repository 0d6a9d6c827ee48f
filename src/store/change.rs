//! Values of `Store::amend`: what people and apps ask for.

use bytes::Bytes;

use crate::action::{ActionId, Body, Record};
use crate::clock::Timestamp;

/// A change that a person or an app asks for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Amend {
    /// Take a queued action back, if no byte of it can have left; else [`Amended::NotNow`].
    Cancel {
        /// Which.
        id: ActionId,
        /// The vault's clock.
        now: Timestamp,
    },
    /// Send a dead letter back: to the end of its lane, or to its old place when it blocks its lane; with the same id,
    /// key and body, counted attempts at zero. One that died as [`Uncertain`](crate::DeadReason::Uncertain) has no first attempt
    /// after it: whoever sends it back answers for that.
    Requeue {
        /// Which.
        id: ActionId,
        /// The vault's clock.
        now: Timestamp,
    },
    /// Forget a dead letter.
    Discard {
        /// Which.
        id: ActionId,
    },
    /// Cancel everything that is queued, whatever its wire state, at most `limit` actions in this call.
    Clear {
        /// At most so many.
        limit: usize,
        /// The vault's clock.
        now: Timestamp,
    },
    /// Remember that the app paused or resumed the vault.
    Pause {
        /// Paused or not.
        paused: bool,
    },
    /// Keep this answer with a delivered or dead action, in place of an earlier one.
    KeepAnswer {
        /// Which.
        id: ActionId,
        /// The answer, encoded by the vault.
        answer: Bytes,
    },
    /// Remove all that is kept of a principal's actions which were added before the first of these calls: pending ones and
    /// dead letters count as evicted, settled ones keep their count. [`Amended::More`] asks for the next call. From the first
    /// call to the last, also over restarts, nothing of that principal is leased; an attempt that runs settles nothing.
    Forget {
        /// Whose.
        principal: String,
        /// At most so many actions are looked at in this call.
        limit: usize,
    },
    /// What is kept of an action is not what was stored: take it out of its lane, or of the dead letters, move its bytes
    /// aside and count it as evicted (a settled one keeps its count).
    Quarantine {
        /// Which.
        id: ActionId,
    },
    /// Put the same values, sealed anew, in the place of the old ones. [`Amended::NotNow`] when the action is in flight, or
    /// its revision is another by now.
    Reseal {
        /// Which.
        id: ActionId,
        /// The revision that was read.
        revision: u64,
        /// The encoded request.
        content: Bytes,
        /// What went wrong last.
        last_error: Option<String>,
        /// The body, if there is one. Its files are among those that it has.
        body: Option<Body>,
        /// The answer, if there is one.
        answer: Option<Bytes>,
    },
    /// Seal everything anew with new keys, and let the old ones go. [`Amended::More`] asks for the next call; what is in
    /// flight is waited for. A store that seals nothing is done at once.
    Reencrypt {
        /// At most so many actions are looked at in this call.
        limit: usize,
    },
    /// A change by somebody who knows the keyring of this revision: values in it are sealed under it. Refused when another one
    /// is kept.
    Under {
        /// The [revision](super::KeptKeyring::revision) of the keyring.
        keyring: u64,
        /// The change.
        change: Box<Amend>,
    },
    /// Let nothing wait longer than `until`, unless the app itself set its time: the clock went back. Pulls in the due
    /// times of tried heads, of untried ones made "in the future", and the gates.
    Hasten {
        /// The latest due time.
        until: Timestamp,
    },
}

/// What became of an [`Amend`].
#[derive(Clone, Debug)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "one or a few live at a time, and a record is what callers want"
)]
pub enum Amended {
    /// It was done; these records are after the change (none for pause and the like), or as they were before they went.
    Done(Vec<Record>),
    /// A part of it was done, with these records: call again for the rest.
    More(Vec<Record>),
    /// There is no such action.
    Unknown,
    /// The action's state does not allow it; this is the record as it is.
    NotNow(Record),
}
