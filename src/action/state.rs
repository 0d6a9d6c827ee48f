//! The life of an action: one `State`, one `WireState`, one pure `transition`.
//! Nothing else in the crate changes a state.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::id::ActionId;
use crate::clock::Timestamp;

/// Where an action is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// Waits for its turn, not before `due`.
    Queued {
        /// The earliest time of the next attempt.
        due: Timestamp,
    },
    /// Leased: attempt number `attempt` runs in the process run `epoch`.
    InFlight {
        /// The number of this attempt, from 1; the fencing token of its lease.
        attempt: u32,
        /// The run of the store that gave the lease.
        epoch: u64,
    },
    /// The server answered 2xx.
    Delivered {
        /// The status of the answer.
        status: u16,
        /// When it was settled.
        at: Timestamp,
    },
    /// Will not be tried again until a person or a rule acts.
    Dead {
        /// Why.
        reason: DeadReason,
        /// When it was settled.
        at: Timestamp,
    },
    /// Cancelled by the app.
    Cancelled {
        /// When.
        at: Timestamp,
    },
    /// Its `expires_in` passed before it could be delivered.
    Expired {
        /// When.
        at: Timestamp,
    },
    /// Another action took its place, before any byte of it was sent.
    Superseded {
        /// When.
        at: Timestamp,
    },
}

impl State {
    /// True when no attempt will follow unless somebody acts: everything but queued and in flight.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        !self.is_pending()
    }

    /// True for queued and in flight.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(self, Self::Queued { .. } | Self::InFlight { .. })
    }

    /// True for dead letters.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        matches!(self, Self::Dead { .. })
    }

    /// One lower-case word, stable, for logs and tables.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::InFlight { .. } => "in_flight",
            Self::Delivered { .. } => "delivered",
            Self::Dead { .. } => "dead",
            Self::Cancelled { .. } => "cancelled",
            Self::Expired { .. } => "expired",
            Self::Superseded { .. } => "superseded",
        }
    }
}

/// What the server may have seen of an action. Kept on disk, so that a crash does not make it forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WireState {
    /// No byte of it ever reached the server: none left, or only a login page took them (status 511).
    #[default]
    NeverSent,
    /// Bytes may have left and no answer came: the effect may or may not have happened.
    MaybeSent,
    /// The server answered the last attempt.
    Answered,
}

/// Why an action became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "because", rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeadReason {
    /// The server refused it with a status that another try will not change.
    Rejected {
        /// The status of the refusal.
        status: u16,
    },
    /// The server refused the credentials, also after a refresh, or there is no provider to refresh them.
    Unauthorized {
        /// The status of the refusal.
        status: u16,
    },
    /// The answer was a redirect that may not be followed.
    Redirected {
        /// The status of the redirect.
        status: u16,
    },
    /// Every allowed attempt was used.
    RetriesExhausted {
        /// The attempts that counted.
        attempts: u32,
        /// The status of the last answer, if there was one.
        status: Option<u16>,
    },
    /// It may have happened, its server may have forgotten its key by now, and nobody could say whether it happened. Sending it
    /// again could do the work twice.
    Uncertain {
        /// When the key's [window](crate::SyncVaultBuilder::idempotency_window) was over.
        since: Timestamp,
    },
    /// The request cannot be sent as it is: its record, its body or its URL is unusable.
    Unsendable {
        /// What is wrong, without any content of the request.
        detail: String,
    },
    /// Found in a damaged store, and nothing proves that it was not settled: it is not sent again by itself. Requeue it
    /// when it may be sent twice, or once more.
    Salvaged,
    /// An action that it was queued [after](crate::RequestBuilder::after) came to another end than delivered: it was never sent. It
    /// goes back to the queue when that one does.
    ParentDead {
        /// That action.
        parent: ActionId,
    },
    /// What was to be [filled in](crate::SyncVault::response_of) from the answer to another action cannot be: it was never sent.
    Unresolved {
        /// That action.
        parent: ActionId,
        /// Why, without any content of request or answer.
        detail: String,
    },
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected { status } => write!(f, "rejected with status {status}"),
            Self::Unauthorized { status } => write!(f, "credentials refused with status {status}"),
            Self::Redirected { status } => write!(
                f,
                "redirected with status {status}, which may not be followed"
            ),
            Self::RetriesExhausted {
                attempts,
                status: Some(status),
            } => {
                write!(
                    f,
                    "gave up after {attempts} attempts, the last answer had status {status}"
                )
            }
            Self::RetriesExhausted {
                attempts,
                status: None,
            } => {
                write!(
                    f,
                    "gave up after {attempts} attempts, the last one without an answer"
                )
            }
            Self::Uncertain { .. } => f.write_str(
                "it may have happened, and its server may have forgotten its key: ask the server",
            ),
            Self::Unsendable { detail } => write!(f, "cannot be sent: {detail}"),
            Self::Salvaged => write!(
                f,
                "found in a damaged store, and it may have been settled before"
            ),
            Self::ParentDead { parent } => {
                write!(f, "action {parent}, which it waited for, was not delivered")
            }
            Self::Unresolved { parent, detail } => {
                write!(
                    f,
                    "the answer to action {parent} cannot be filled in: {detail}"
                )
            }
        }
    }
}

/// What happens to an action.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A worker takes it: attempt number `attempt`, in run `epoch`.
    Lease {
        /// The number of the attempt.
        attempt: u32,
        /// The run that takes it.
        epoch: u64,
    },
    /// The attempt failed, or could not start: back to the queue until `due`.
    Return {
        /// The earliest time of the next attempt.
        due: Timestamp,
    },
    /// The server took it.
    Deliver {
        /// The status of the answer.
        status: u16,
        /// When.
        at: Timestamp,
    },
    /// No further attempt.
    Die {
        /// Why.
        reason: DeadReason,
        /// When.
        at: Timestamp,
    },
    /// A person sends a dead letter back.
    Requeue {
        /// The earliest time of the next attempt.
        due: Timestamp,
    },
    /// The app takes it back.
    Cancel {
        /// When.
        at: Timestamp,
    },
    /// Its time is over.
    Expire {
        /// When.
        at: Timestamp,
    },
    /// A newer action takes its place.
    Supersede {
        /// When.
        at: Timestamp,
    },
}

/// A change that the state does not allow. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IllegalChange {
    /// The state's name.
    pub from: &'static str,
    /// The change that was asked for.
    pub change: Change,
}

impl fmt::Display for IllegalChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an action that is {} cannot take the change {:?}",
            self.from, self.change
        )
    }
}

impl std::error::Error for IllegalChange {}

/// The one function that changes a state.
///
/// # Errors
///
/// [`IllegalChange`] when the state does not allow the change.
pub fn transition(state: &State, change: Change) -> Result<State, IllegalChange> {
    use State::{Dead, InFlight, Queued};
    Ok(match (state, change) {
        (Queued { .. }, Change::Lease { attempt, epoch }) => InFlight { attempt, epoch },
        (InFlight { .. }, Change::Return { due }) | (Dead { .. }, Change::Requeue { due }) => {
            Queued { due }
        }
        (InFlight { .. }, Change::Deliver { status, at }) => State::Delivered { status, at },
        (InFlight { .. } | Queued { .. }, Change::Die { reason, at }) => Dead { reason, at },
        (Queued { .. }, Change::Cancel { at }) => State::Cancelled { at },
        (Queued { .. }, Change::Expire { at }) => State::Expired { at },
        (Queued { .. }, Change::Supersede { at }) => State::Superseded { at },
        (state, change) => {
            return Err(IllegalChange {
                from: state.name(),
                change,
            });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> Vec<State> {
        let at = Timestamp::from_millis(1);
        let reason = DeadReason::Rejected { status: 400 };
        vec![
            State::Queued { due: at },
            State::InFlight {
                attempt: 1,
                epoch: 1,
            },
            State::Delivered { status: 200, at },
            State::Dead { reason, at },
            State::Cancelled { at },
            State::Expired { at },
            State::Superseded { at },
        ]
    }

    fn changes() -> Vec<Change> {
        let at = Timestamp::from_millis(2);
        let reason = DeadReason::Rejected { status: 400 };
        vec![
            Change::Lease {
                attempt: 2,
                epoch: 1,
            },
            Change::Return { due: at },
            Change::Deliver { status: 204, at },
            Change::Die { reason, at },
            Change::Requeue { due: at },
            Change::Cancel { at },
            Change::Expire { at },
            Change::Supersede { at },
        ]
    }

    /// Every pair of state and change, against the table in the design: what is not in it is refused.
    #[test]
    fn only_the_drawn_arrows_exist() {
        let allowed = [
            ("queued", 0, "in_flight"),
            ("queued", 3, "dead"),
            ("queued", 5, "cancelled"),
            ("queued", 6, "expired"),
            ("queued", 7, "superseded"),
            ("in_flight", 1, "queued"),
            ("in_flight", 2, "delivered"),
            ("in_flight", 3, "dead"),
            ("dead", 4, "queued"),
        ];
        for state in states() {
            for (number, change) in changes().into_iter().enumerate() {
                let want = allowed
                    .iter()
                    .find(|(from, n, _)| *from == state.name() && *n == number);
                let got = transition(&state, change.clone());
                match want {
                    Some((_, _, to)) => assert_eq!(got.expect("allowed").name(), *to),
                    None => assert_eq!(
                        got,
                        Err(IllegalChange {
                            from: state.name(),
                            change
                        })
                    ),
                }
            }
        }
    }

    #[test]
    fn a_state_reads_back_as_written() {
        for state in states() {
            let text = serde_json::to_string(&state).expect("serialize");
            assert_eq!(serde_json::from_str::<State>(&text).expect("parse"), state);
        }
    }
}
