//! The end of an attempt, and who tells the worker of it: exactly once, also when the attempt is dropped or panics.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::action::{ActionId, DeadReason, Lane, Origin, Record, WireState};
use crate::decide::{Counted, DeadLane, Gate, Settlement};
use crate::store::Settle;

/// The end of one attempt, to be settled.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) settle: Settle,
    pub(crate) lane: Lane,
    pub(crate) gate: Option<Gate>,
    /// Resources that it wrote to: what is cached of them is stale.
    pub(crate) stale: Vec<String>,
    /// What to tell the caller of a direct send once it is settled.
    pub(crate) reply: Option<(oneshot::Sender<Reply>, Reply)>,
    /// The turn of a named lane, given back after the settle.
    pub(crate) turn: Option<OwnedMutexGuard<()>>,
    /// Dropped with the rest, after the settle: tells who waits to keep the streamed answer.
    pub(crate) settled: Option<oneshot::Sender<()>>,
}

impl Finished {
    /// Nobody waits for it.
    pub(super) fn of(settle: Settle, record: &Record) -> Self {
        Self {
            settle,
            lane: record.lane.clone(),
            gate: None,
            stale: Vec::new(),
            reply: None,
            turn: None,
            settled: None,
        }
    }

    /// Tells who waits, when there is nothing left to settle.
    pub(crate) fn tell(self) {
        if let Some((reply, told)) = self.reply {
            // The caller may have dropped its future.
            drop(reply.send(told));
        }
    }
}

/// What a direct send hears.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The server's answer, for the caller.
    Sent(reqwest::Response),
    /// The attempt is settled, and the action stays in the vault.
    Settled,
}

/// What attempts tell the worker.
#[derive(Debug)]
pub(crate) enum Report {
    /// A direct send runs.
    Started {
        id: ActionId,
        origin: Origin,
        abort: futures_util::future::AbortHandle,
    },
    /// An attempt ended.
    Finished(Box<Finished>),
    /// The attempt of a batch ended: every member, in their order.
    Batch(Vec<Finished>),
    /// A send that is not on disk learned something about an origin or a principal.
    Gate(Box<Gate>),
}

/// Reports the end of an attempt exactly once: also when the attempt is dropped or panics.
#[derive(Debug)]
pub(crate) struct Reporter {
    reports: UnboundedSender<Report>,
    pub(super) interrupted: Option<Finished>,
    /// What to settle instead when the attempt panicked: it must not be tried again at once, nor for ever.
    panicked: Settlement,
}

impl Reporter {
    /// For an attempt of `record`, which is in flight. Nothing when it is not.
    pub(crate) fn new(reports: UnboundedSender<Report>, record: &Record) -> Option<Self> {
        let due = record.last_attempt.unwrap_or(record.created);
        let retry = Settlement::Retry {
            due,
            counts: Counted::No,
            backoff_ms: record.backoff_ms,
        };
        let mut settle = Settle::of(record, retry, WireState::MaybeSent)?;
        settle.error = Some("the attempt was cut off".to_owned());
        Some(Self {
            reports,
            interrupted: Some(Finished::of(settle, record)),
            panicked: after_panic(record),
        })
    }

    /// Hands the lane's turn over, to be given back after the settle.
    pub(crate) fn hold(&mut self, turn: Option<OwnedMutexGuard<()>>) {
        if let Some(interrupted) = &mut self.interrupted {
            interrupted.turn = turn;
        }
    }

    pub(crate) fn finish(mut self, mut finished: Finished) {
        if let Some(interrupted) = self.interrupted.take() {
            finished.turn = interrupted.turn;
            finished.stale = interrupted.stale;
            self.send(finished);
        }
    }

    fn send(&self, finished: Finished) {
        // The worker is gone only when the vault is closed: the lease is then taken back at open.
        drop(self.reports.send(Report::Finished(Box::new(finished))));
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(mut interrupted) = self.interrupted.take() {
            if std::thread::panicking() {
                interrupted.settle.result = self.panicked.clone();
                interrupted.settle.error = Some("the attempt panicked".to_owned());
            }
            self.send(interrupted);
        }
    }
}

fn after_panic(record: &Record) -> Settlement {
    if record.attempts_counted.saturating_add(1) >= record.attempts_max {
        let detail = "its attempts panic".to_owned();
        let reason = DeadReason::Unsendable { detail };
        return Settlement::Dead {
            reason,
            lane: DeadLane::Skip,
        };
    }
    put_off(record, Counted::Yes)
}

/// Back to the queue after a trouble of this machine, for a time that grows.
pub(super) fn put_off(record: &Record, counts: Counted) -> Settlement {
    let pause = Duration::from_secs(1 << record.attempts.min(8));
    Settlement::Retry {
        due: record.last_attempt.unwrap_or(record.created).after(pause),
        counts,
        backoff_ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
    }
}
