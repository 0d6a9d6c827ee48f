//! Why an action is still pending, in words that an app can show.

use crate::action::{ActionId, Origin, State};
use crate::clock::Timestamp;
use crate::decide::{GateReason, HoldReason};
#[cfg(doc)]
use crate::vault::SyncVault;

/// Why an action is still pending.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhyPending {
    /// It is not: it has ended.
    Ended(State),
    /// Its attempt is running.
    InFlight {
        /// The number of the attempt.
        attempt: u32,
    },
    /// Another action of its lane goes first.
    Behind {
        /// The first of the lane.
        first: ActionId,
    },
    /// A dead letter blocks its lane.
    LaneBlocked {
        /// The dead letter.
        by: ActionId,
    },
    /// It waits for its time: a backoff, or its `not_before`.
    Due {
        /// The time.
        at: Timestamp,
    },
    /// Its origin waits.
    OriginWaits {
        /// The origin.
        origin: Origin,
        /// Why.
        reason: GateReason,
        /// Until when.
        until: Timestamp,
    },
    /// Its origin is up, but attempts are held back: slow start after an outage, throttling, or the rate limit.
    OriginHeld {
        /// The origin.
        origin: Origin,
        /// Why.
        by: HoldReason,
        /// Until when.
        until: Timestamp,
    },
    /// Another principal is the active one, or none is: see [`SyncVault::principal`].
    PrincipalNotActive,
    /// Its principal waits for credentials.
    PrincipalWaits {
        /// Until when.
        until: Timestamp,
    },
    /// The app set the vault offline.
    Offline,
    /// The app paused the vault.
    Paused,
    /// Nothing stands in its way but other work: it goes as soon as a slot is free.
    Ready,
}
