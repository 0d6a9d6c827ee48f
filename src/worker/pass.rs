//! Passes over the queue: who waits for the end of one, and what it did meanwhile.

use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::event::EventKind;

/// What a pass over the queue did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Actions delivered.
    pub delivered: u64,
    /// Attempts that failed and are queued again.
    pub retried: u64,
    /// Actions that became dead letters.
    pub dead: u64,
    /// Actions still pending at the end.
    pub remaining: u64,
    /// Why it ended.
    pub stopped: Stopped,
}

/// Why a pass over the queue ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stopped {
    /// Nothing is pending.
    Drained,
    /// What is left waits until this time: a backoff, a `not_before`, or what the server asked for.
    Waiting {
        /// The earliest of these times.
        until: Timestamp,
    },
    /// The network is not there, or the server cannot be reached.
    Offline,
    /// The app paused the vault.
    Paused,
    /// What is left belongs to principals that are not active.
    NotActive,
    /// What is left waits behind dead letters that block their lanes.
    Blocked,
    /// The vault is shutting down.
    Closed,
}

/// Everybody who waits for the end of the pass that runs.
#[derive(Debug, Default)]
pub(super) struct Passes(Vec<Waiter>);

#[derive(Debug)]
struct Waiter {
    reply: oneshot::Sender<Result<DrainReport>>,
    delivered: u64,
    retried: u64,
    dead: u64,
}

impl Passes {
    pub(super) fn is_idle(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn join(&mut self, reply: oneshot::Sender<Result<DrainReport>>) {
        self.0.push(Waiter {
            reply,
            delivered: 0,
            retried: 0,
            dead: 0,
        });
    }

    pub(super) fn count(&mut self, kind: &EventKind) {
        for waiter in &mut self.0 {
            match kind {
                EventKind::Succeeded { .. } => waiter.delivered += 1,
                EventKind::Failed { .. } => waiter.retried += 1,
                EventKind::DeadLettered { .. } => waiter.dead += 1,
                _ => {}
            }
        }
    }

    pub(super) fn end(&mut self, remaining: u64, stopped: Stopped) {
        for Waiter {
            reply,
            delivered,
            retried,
            dead,
        } in self.0.drain(..)
        {
            let report = DrainReport {
                delivered,
                retried,
                dead,
                remaining,
                stopped,
            };
            // Whoever asked may have gone.
            drop(reply.send(Ok(report)));
        }
    }

    pub(super) fn fail(&mut self, error: &Error) {
        for waiter in self.0.drain(..) {
            // Whoever asked may have gone.
            drop(
                waiter
                    .reply
                    .send(Err(Error::new(error.kind(), error.to_string()))),
            );
        }
    }
}
