//! Looking into the vault: why an action is still pending, and how the whole fares in numbers.

use std::fmt;

use super::{SyncVault, unknown};
use crate::action::{ActionId, Origin, PortalSign, Record, State};
use crate::clock::Timestamp;
use crate::decide::{Gate, GateKey, GateReason, HoldReason};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::parts::{ConnectivityMode, Draining, GateStats, Stats};
use crate::store::Find;

/// Why an action is still pending: the reason, who stands before it, and when it is looked at again. Its text says it in a
/// sentence.
///
/// Several may hold it at once: then it is the one that would be the last to go by itself.
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
    /// An action that it was queued [after](crate::RequestBuilder::after) is not delivered yet.
    WaitsFor {
        /// The first of them.
        parent: ActionId,
    },
    /// A dead letter blocks its lane.
    LaneBlocked {
        /// The dead letter.
        by: ActionId,
    },
    /// It waits after a failure of its own.
    Backoff {
        /// Attempts so far.
        attempts: u32,
        /// Until when.
        until: Timestamp,
        /// What went wrong last.
        error: Option<String>,
    },
    /// The app set its earliest time.
    NotBefore {
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
    /// A login page of the network stands before its origin.
    Portal {
        /// The origin.
        origin: Origin,
        /// What gave the page away, if it was this action that met it.
        sign: Option<PortalSign>,
        /// When is looked again.
        next: Timestamp,
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
    /// The vault drains on request only: see [`SyncVault::process_queue`].
    OnRequest,
    /// Nothing stands in its way but other work: it goes as soon as a slot is free.
    Ready,
}

impl WhyPending {
    /// When it is looked at again by itself; nothing when something else than time is waited for.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        match self {
            Self::NotBefore { at } => Some(*at),
            Self::Backoff { until, .. }
            | Self::OriginWaits { until, .. }
            | Self::OriginHeld { until, .. }
            | Self::PrincipalWaits { until } => Some(*until),
            Self::Portal { next, .. } => Some(*next),
            _ => None,
        }
    }
}

/// A sentence for a person, without its full stop.
impl fmt::Display for WhyPending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(state) => write!(f, "it is not pending: it is {}", state.name()),
            Self::InFlight { attempt } => write!(f, "attempt {attempt} is running"),
            Self::Behind { first } => write!(f, "action {first} of its lane goes first"),
            Self::WaitsFor { parent } => {
                write!(
                    f,
                    "action {parent}, which it was queued after, is not delivered yet"
                )
            }
            Self::LaneBlocked { by } => {
                write!(f, "dead letter {by} blocks its lane: requeue or discard it")
            }
            Self::Backoff {
                attempts, error, ..
            } => {
                let error = error.as_deref().unwrap_or("no reason is kept");
                write!(f, "it waits after attempt {attempts}: {error}")
            }
            Self::NotBefore { .. } => f.write_str("the app set a later time for it"),
            Self::OriginWaits { origin, reason, .. } => write!(f, "{origin} {reason}"),
            Self::OriginHeld { origin, .. } => {
                write!(
                    f,
                    "attempts to {origin} are held back, so as not to overrun it"
                )
            }
            Self::Portal { origin, sign, .. } => {
                write!(f, "a login page of the network stands before {origin}")?;
                match sign {
                    Some(sign) => write!(f, " ({sign})"),
                    None => Ok(()),
                }
            }
            Self::PrincipalNotActive => f.write_str("its principal is not the active one"),
            Self::PrincipalWaits { .. } => f.write_str("credentials of its principal were refused"),
            Self::Offline => f.write_str("the app set the vault offline"),
            Self::Paused => f.write_str("the app paused the vault"),
            Self::OnRequest => f.write_str("the vault drains on request only"),
            Self::Ready => f.write_str("it goes as soon as a slot is free"),
        }
    }
}

impl SyncVault {
    /// Why an action is still pending: the reason, who stands before it, and until when.
    ///
    /// ```
    /// # async fn example(vault: &syncvault::SyncVault, id: syncvault::ActionId) -> syncvault::Result<()> {
    /// let why = vault.why_pending(id).await?;
    /// println!("{why}; next look: {:?}", why.next());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for an unknown id; storage errors.
    pub async fn why_pending(&self, id: ActionId) -> Result<WhyPending> {
        let parts = self.parts();
        let Some(record) = parts.store.get(Find::Id(id)).await? else {
            return Err(unknown(id));
        };
        match record.state {
            State::Queued { .. } => {}
            State::InFlight { attempt, .. } => return Ok(WhyPending::InFlight { attempt }),
            ended => return Ok(WhyPending::Ended(ended)),
        }
        if !parts.is_active(record.principal.as_deref()) {
            return Ok(WhyPending::PrincipalNotActive);
        }
        if let Some(parent) = record.waits.first() {
            return Ok(WhyPending::WaitsFor { parent: *parent });
        }
        let lane = parts.store.lane(record.lane.clone()).await?;
        if let Some(by) = lane.blocked_by {
            return Ok(WhyPending::LaneBlocked { by });
        }
        if let Some(first) = lane.head.filter(|head| *head != id) {
            return Ok(WhyPending::Behind { first });
        }
        if parts.is_paused() {
            return Ok(WhyPending::Paused);
        }
        if *parts.mode.borrow() == ConnectivityMode::Offline {
            return Ok(WhyPending::Offline);
        }
        Ok(self.why_waiting(record))
    }

    /// What holds the head of an open lane.
    fn why_waiting(&self, record: Record) -> WhyPending {
        let parts = self.parts();
        let now = parts.now();
        let due = record.due().unwrap_or(now);
        let gates = parts.gates();
        let is_closed = |gate: &&Gate| gate.is_closed(now);
        let principal = GateKey::Principal(record.principal);
        let portal = gates.portal_before(&record.origin);
        let origin_gate = gates.origin(&record.origin).filter(is_closed);
        let principal_gate = gates.get(&principal).filter(is_closed);
        let held = gates.held(&record.origin, now);
        let held = held.filter(|hold| hold.until >= due);
        let held_until = held.map_or(due, |hold| hold.until);
        let look = match *parts.mode.borrow() {
            // A probe goes whatever holds attempts back.
            ConnectivityMode::Auto => now,
            _ => held_until.max(now),
        };
        match (portal, origin_gate, held, principal_gate) {
            (Some(gate), ..) => WhyPending::Portal {
                origin: record.origin,
                sign: record.portal,
                next: gate.closed_until.max(look),
            },
            (_, Some(gate), ..) if gate.closed_until >= due => WhyPending::OriginWaits {
                origin: record.origin,
                reason: gate.reason,
                until: gate.closed_until,
            },
            (_, None, Some(hold), _) => WhyPending::OriginHeld {
                origin: record.origin,
                by: hold.by,
                until: hold.until,
            },
            (.., Some(gate)) if gate.closed_until >= due => WhyPending::PrincipalWaits {
                until: gate.closed_until,
            },
            _ if due > now && record.attempts > 0 => WhyPending::Backoff {
                attempts: record.attempts,
                until: due,
                error: record.last_error,
            },
            _ if due > now => WhyPending::NotBefore { at: due },
            _ if parts.options.draining == Draining::OnRequest => WhyPending::OnRequest,
            _ => WhyPending::Ready,
        }
    }

    /// How the vault fares, in numbers: what is in it, where everything went, and for each origin what attempts came to and
    /// whether it waits. Kept, never scanned.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn stats(&self) -> Result<Stats> {
        let parts = self.parts();
        let totals = parts.store.totals().await?;
        let gates = parts.gates();
        let origins = parts.tallies.read(|origin| {
            let gate = gates.origin(origin).filter(|gate| gate.failures > 0)?;
            Some(GateStats {
                reason: gate.reason,
                closed_until: gate.closed_until,
                failures: gate.failures,
            })
        });
        Ok(Stats::new(
            totals.counts,
            totals.ledger,
            origins,
            parts.now(),
        ))
    }
}
