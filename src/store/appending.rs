//! Values of `Store::append`: an action on its way in, and what became of it.

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
    /// What the queue may hold.
    pub limits: Limits,
    /// The [revision](super::KeptKeyring::revision) of the keyring that record and body are sealed under; nothing = in clear. A
    /// store that keeps another one, or one at all, refuses the whole batch.
    pub keyring: Option<u64>,
    /// How long the key of a delivered action is remembered. Keys of pending and dead actions are remembered as long as
    /// they are there; those of cancelled, expired, superseded and returned ones are free at once.
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
}
