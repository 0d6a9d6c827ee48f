//! The loop and only the loop: wait, settle and lease in one commit, publish, start what was leased.
//! It decides nothing (`decide` does) and sends nothing (`attempt` does).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::action::{ActionId, Answer, Origin, Record, State};
use crate::attempt::{self, Finished, Reply, Report, Reporter};
use crate::clock::Timestamp;
use crate::connectivity::{NetworkChanges, Reach};
use crate::decide::{GateKey, GateReason, Settlement, open_gate};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::parts::{ConnectivityMode, Draining, Parts, sleep_until};
use crate::store::{Advance, Advanced, Amend, Lease, Leased, Settle};

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
    /// What is left waits behind dead letters that block their lanes.
    Blocked,
    /// The vault is shutting down.
    Closed,
}

/// What the handle asks of the worker.
#[derive(Debug)]
pub(crate) enum Control {
    /// Make a pass, or join the one that runs; answer when nothing more can be done now.
    Drain(oneshot::Sender<Result<DrainReport>>),
    /// The network may have changed.
    Hint,
    /// Stop: wait for running attempts until the deadline, then cut them off.
    Shutdown {
        deadline: Duration,
        done: oneshot::Sender<Result<()>>,
    },
}

struct Running {
    origin: Origin,
    abort: AbortHandle,
}

struct Waiter {
    reply: oneshot::Sender<Result<DrainReport>>,
    delivered: u64,
    retried: u64,
    dead: u64,
}

struct Stopping {
    until: Instant,
    done: Vec<oneshot::Sender<Result<()>>>,
}

/// The receiving ends of a worker.
#[derive(Debug)]
pub(crate) struct Mail {
    pub(crate) control: mpsc::UnboundedReceiver<Control>,
    pub(crate) reports: mpsc::UnboundedReceiver<Report>,
    pub(crate) report_to: mpsc::UnboundedSender<Report>,
}

pub(crate) struct Worker {
    parts: Arc<Parts>,
    mail: Mail,
    changes: NetworkChanges,
    probes: JoinSet<(Origin, Reach)>,
    probing: HashSet<Origin>,
    running: HashMap<ActionId, Running>,
    finished: Vec<Finished>,
    gates: Vec<crate::decide::Gate>,
    waiters: Vec<Waiter>,
    forced: Vec<Origin>,
    stopping: Option<Stopping>,
    is_hungry: bool,
    timer: Option<Timestamp>,
    failures: u32,
    seen: (Timestamp, Instant),
}

impl Worker {
    pub(crate) fn new(parts: Arc<Parts>, mail: Mail) -> Self {
        let changes = parts.connectivity.changes();
        let seen = (parts.now(), Instant::now());
        Self {
            parts,
            mail,
            changes,
            probes: JoinSet::new(),
            probing: HashSet::new(),
            running: HashMap::new(),
            finished: Vec::new(),
            gates: Vec::new(),
            waiters: Vec::new(),
            forced: Vec::new(),
            stopping: None,
            is_hungry: true,
            timer: None,
            failures: 0,
            seen,
        }
    }

    /// The loop. Ends after a shutdown, or when every handle of the vault is gone.
    pub(crate) async fn run(mut self) {
        loop {
            match self.step().await {
                Ok(()) => {}
                Err(error) if self.survives(&error) => {}
                Err(error) => return self.give_up(error).await,
            }
            if self.is_done() {
                return self.close().await;
            }
            self.wait().await;
            self.take_reports();
        }
    }

    /// Waits for the first thing that calls for a step. Idle or offline, that is one timer, or nothing at all.
    async fn wait(&mut self) {
        let clock = self.parts.clock.clone();
        let stop_at = self.stopping.as_ref().map(|s| s.until);
        tokio::select! {
            Some(report) = self.mail.reports.recv() => self.on_report(report),
            control = self.mail.control.recv() => self.on_control(control),
            () = self.parts.wake.notified() => self.is_hungry = true,
            Some(_) = self.changes.next() => self.probe(),
            Some(probed) = self.probes.join_next() => self.on_probed(probed.ok()),
            () = sleep_until(&*clock, self.timer) => self.is_hungry = true,
            () = until(stop_at) => self.abort_running(),
        }
    }

    /// Settles what finished and leases what may go, in one commit; then publishes and starts.
    async fn step(&mut self) -> Result<()> {
        self.notice_clock_jump().await?;
        let lease = self.lease_request();
        let has_work = !self.finished.is_empty() || !self.gates.is_empty();
        if !has_work && !(self.is_hungry && lease.is_some()) {
            self.is_hungry = false;
            self.end_pass(None);
            return Ok(());
        }
        let mut step = Advance::new(self.parts.now(), self.parts.options.retention);
        step.settle = self.finished.iter().map(|f| f.settle.clone()).collect();
        step.gates = self
            .finished
            .iter()
            .filter_map(|f| f.gate.clone())
            .collect();
        step.gates.append(&mut self.gates.clone());
        step.lease = lease;
        let may_lease = step.lease.is_some();
        let done = self.parts.store.advance(step).await?;
        self.failures = 0;
        self.gates.clear();
        if may_lease {
            self.forced.clear();
        }
        self.is_hungry = !done.expired.is_empty();
        self.set_timer(&done, may_lease);
        self.publish(&done);
        let leased_any = !done.leased.is_empty();
        self.start(done.leased);
        if !leased_any && !self.is_hungry {
            self.end_pass(done.next_due);
        }
        Ok(())
    }

    fn lease_request(&self) -> Option<Lease> {
        let offline = *self.parts.mode.borrow() == ConnectivityMode::Offline;
        let on_request = self.parts.options.draining == Draining::OnRequest;
        let slots = self
            .parts
            .options
            .max_in_flight
            .saturating_sub(self.running.len());
        let is_asked = !self.waiters.is_empty();
        let may = !self.parts.is_paused()
            && self.stopping.is_none()
            && slots > 0
            && (is_asked || !(offline || on_request));
        may.then(|| {
            let mut lease = Lease::default();
            lease.slots = slots;
            lease.origin_slots = self.origin_slots();
            lease.forced = self.forced.clone();
            lease
        })
    }

    /// An origin in trouble gets one attempt at a time, until it answers well.
    fn origin_slots(&self) -> Vec<(Origin, usize)> {
        let gates = self.parts.gates();
        let slots = gates.troubled().filter_map(|gate| match &gate.key {
            GateKey::Origin(origin) => {
                let is_tried = self.running.values().any(|r| r.origin == *origin);
                Some((origin.clone(), usize::from(!is_tried)))
            }
            _ => None,
        });
        slots.collect()
    }

    fn set_timer(&mut self, done: &Advanced, may_lease: bool) {
        // What is due now and was not leased waits for a running attempt to end, not for time.
        let now = self.parts.now();
        let due = done
            .next_due
            .filter(|due| may_lease && (*due > now || self.running.is_empty()));
        let floor = now.after(Duration::from_millis(1));
        let due = due.map(|due| due.max(floor));
        self.timer = [due, done.next_expiry].into_iter().flatten().min();
    }

    fn publish(&mut self, done: &Advanced) {
        let now = self.parts.now();
        let finished = std::mem::take(&mut self.finished);
        for (finished, record) in finished.into_iter().zip(&done.settled) {
            self.running.remove(&finished.settle.id);
            if let Some(record) = record {
                self.publish_settled(finished, record, now);
            }
        }
        for record in &done.expired {
            self.parts.hub.publish(record, EventKind::Expired, now);
        }
        self.parts.hub.set_totals(done.totals);
        self.parts.refresh_connection();
    }

    fn publish_settled(&mut self, finished: Finished, record: &Record, now: Timestamp) {
        let Settle {
            result,
            status,
            error,
            answer,
            ..
        } = finished.settle;
        let kind = match (&record.state, result) {
            (_, Settlement::Returned) => EventKind::Returned { status },
            (State::Delivered { status, .. }, _) => EventKind::Succeeded { status: *status },
            (State::Dead { reason, .. }, _) => {
                let answer = answer.and_then(|bytes| Answer::decode(bytes).ok());
                self.parts.announce_dead(record, reason, answer);
                EventKind::DeadLettered {
                    reason: reason.clone(),
                }
            }
            (State::Queued { due }, _) => {
                let error = error.unwrap_or_default();
                EventKind::Failed {
                    error,
                    status,
                    next: *due,
                }
            }
            _ => return,
        };
        for waiter in &mut self.waiters {
            match kind {
                EventKind::Succeeded { .. } => waiter.delivered += 1,
                EventKind::Failed { .. } => waiter.retried += 1,
                EventKind::DeadLettered { .. } => waiter.dead += 1,
                _ => {}
            }
        }
        self.parts.hub.publish(record, kind, now);
        if let Some(reply) = finished.reply {
            // The caller may have dropped its future: the action is on disk all the same.
            drop(reply.send(Reply::Settled));
        }
    }

    fn start(&mut self, leased: Vec<Leased>) {
        for leased in leased {
            let record = &leased.record;
            let report_to = self.mail.report_to.clone();
            let Some(reporter) = Reporter::new(report_to, record) else {
                continue;
            };
            let kind = EventKind::Started {
                attempt: record.attempts,
            };
            self.parts.hub.publish(record, kind, self.parts.now());
            let (abort, registration) = AbortHandle::new_pair();
            let running = Running {
                origin: record.origin.clone(),
                abort,
            };
            self.running.insert(record.id, running);
            let attempt = attempt::run(self.parts.clone(), leased, reporter);
            tokio::spawn(Abortable::new(attempt, registration).map(drop));
        }
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::Started { id, origin, abort } => {
                self.running.insert(id, Running { origin, abort });
            }
            Report::Finished(finished) => {
                self.finished.push(*finished);
                self.is_hungry = true;
            }
        }
    }

    fn take_reports(&mut self) {
        while let Ok(report) = self.mail.reports.try_recv() {
            self.on_report(report);
        }
    }

    fn on_control(&mut self, control: Option<Control>) {
        match control {
            Some(Control::Drain(reply)) => {
                let waiter = Waiter {
                    reply,
                    delivered: 0,
                    retried: 0,
                    dead: 0,
                };
                self.waiters.push(waiter);
                self.force_unreachable();
                self.is_hungry = true;
            }
            Some(Control::Hint) => {
                self.probe();
                self.is_hungry = true;
            }
            Some(Control::Shutdown { deadline, done }) => self.stop(deadline, Some(done)),
            None => self.stop(Duration::ZERO, None),
        }
    }

    /// Called by hand, the caller may know better than our belief that an origin is not there.
    fn force_unreachable(&mut self) {
        let gates = self.parts.gates();
        self.forced = gates
            .troubled()
            .filter(|gate| gate.reason == GateReason::Unreachable)
            .filter_map(|gate| match &gate.key {
                GateKey::Origin(origin) => Some(origin.clone()),
                _ => None,
            })
            .collect();
    }

    /// Asks each unreachable origin whether it is back. Only when something hinted at it.
    fn probe(&mut self) {
        if *self.parts.mode.borrow() != ConnectivityMode::Auto {
            return;
        }
        self.force_unreachable();
        for origin in std::mem::take(&mut self.forced) {
            if self.probing.insert(origin.clone()) {
                let parts = self.parts.clone();
                self.probes.spawn(async move {
                    let reach = parts.connectivity.probe(origin.clone()).await;
                    (origin, reach)
                });
            }
        }
    }

    fn on_probed(&mut self, probed: Option<(Origin, Reach)>) {
        let Some((origin, reach)) = probed else {
            self.probing.clear();
            return;
        };
        self.probing.remove(&origin);
        tracing::debug!(%origin, ?reach, "probed");
        if reach != Reach::Reachable {
            return;
        }
        let now = self.parts.now();
        let mut gates = self.parts.gates();
        gates.answered_well(&origin, now);
        if let Some(gate) = gates.origin(&origin) {
            let gate = open_gate(gate.clone(), now);
            gates.set(gate.clone());
            self.gates.push(gate);
        }
        self.is_hungry = true;
    }

    /// Ends the pass for who waits for it, when nothing runs and nothing more can go now.
    fn end_pass(&mut self, next_due: Option<Timestamp>) {
        if self.waiters.is_empty() || !self.running.is_empty() {
            return;
        }
        let counts = *self.parts.hub.status().counts();
        let stopped = self.why_stopped(counts.pending, counts.blocked_lanes, next_due);
        for waiter in self.waiters.drain(..) {
            let Waiter {
                reply,
                delivered,
                retried,
                dead,
            } = waiter;
            let remaining = counts.pending;
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

    fn why_stopped(&self, pending: u64, blocked: u64, next: Option<Timestamp>) -> Stopped {
        let is_away = {
            let gates = self.parts.gates();
            gates
                .troubled()
                .any(|gate| gate.reason == GateReason::Unreachable)
        };
        match next {
            _ if self.stopping.is_some() => Stopped::Closed,
            _ if self.parts.is_paused() => Stopped::Paused,
            _ if pending == 0 => Stopped::Drained,
            _ if is_away => Stopped::Offline,
            Some(until) => Stopped::Waiting { until },
            None if blocked > 0 => Stopped::Blocked,
            None => Stopped::Offline,
        }
    }

    /// A wall clock that was set back would make due times lie far ahead: pull them in.
    async fn notice_clock_jump(&mut self) -> Result<()> {
        const TOLERANCE: Duration = Duration::from_secs(5);
        let (wall, mono) = (self.parts.now(), Instant::now());
        let (wall_before, mono_before) = std::mem::replace(&mut self.seen, (wall, mono));
        let expected = wall_before.after(mono.duration_since(mono_before));
        if expected.since(wall) > TOLERANCE {
            tracing::warn!(
                back_ms = expected.since(wall).as_millis(),
                "the clock was set back"
            );
            let until = wall.after(self.parts.options.policy.wait_max());
            self.parts.store.amend(Amend::Hasten { until }).await?;
            self.is_hungry = true;
        }
        Ok(())
    }

    /// A full disk passes, a poisoned store does not. What finished is kept and settled later.
    fn survives(&mut self, error: &Error) -> bool {
        if matches!(error.kind(), ErrorKind::Poisoned | ErrorKind::Closed)
            || self.stopping.is_some()
        {
            return false;
        }
        for finished in &mut self.finished {
            // Its action is on disk: whoever waits for the settle need not wait for the disk.
            drop(finished.reply.take());
        }
        self.failures = self.failures.saturating_add(1);
        let pause = Duration::from_secs(1 << self.failures.min(5));
        tracing::error!(%error, pause_s = pause.as_secs(), "the store failed, will try again");
        self.parts.hub.store_failed();
        self.is_hungry = false;
        self.timer = Some(self.parts.now().after(pause));
        true
    }

    fn stop(&mut self, deadline: Duration, done: Option<oneshot::Sender<Result<()>>>) {
        let until = Instant::now() + deadline;
        match &mut self.stopping {
            Some(stopping) => {
                stopping.until = stopping.until.min(until);
                stopping.done.extend(done);
            }
            None => {
                self.stopping = Some(Stopping {
                    until,
                    done: done.into_iter().collect(),
                })
            }
        }
        self.parts.is_closing.store(true, Ordering::Release);
    }

    /// Cuts off what still runs: each attempt reports itself as interrupted.
    fn abort_running(&mut self) {
        for running in self.running.values() {
            running.abort.abort();
        }
        if let Some(stopping) = &mut self.stopping {
            stopping.until = Instant::now() + Duration::from_secs(60 * 60);
        }
    }

    fn is_done(&self) -> bool {
        self.stopping.is_some() && self.running.is_empty() && self.finished.is_empty()
    }

    async fn close(mut self) {
        self.end_pass(None);
        let closed = self.parts.store.close().await;
        if let Err(error) = &closed {
            tracing::error!(%error, "the store did not close well");
        }
        let failed = closed.err().map(|e| (e.kind(), e.to_string()));
        for done in self.stopping.into_iter().flat_map(|s| s.done) {
            let result = failed
                .clone()
                .map_or(Ok(()), |(kind, text)| Err(Error::new(kind, text)));
            // Whoever asked may have gone.
            drop(done.send(result));
        }
    }

    async fn give_up(mut self, error: Error) {
        tracing::error!(%error, "the store takes nothing more, delivery stops; reopen the vault");
        self.parts.hub.store_failed();
        self.abort_running();
        let text = error.to_string();
        for waiter in self.waiters.drain(..) {
            drop(
                waiter
                    .reply
                    .send(Err(Error::new(error.kind(), text.clone()))),
            );
        }
        self.close().await;
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
