//! The loop and only the loop: wait, settle and lease in one commit, publish, start what was leased.
//! It decides nothing (`decide` does) and sends nothing (`attempt` does).

mod ending;
mod filling;
mod origins;
mod pass;
mod probing;
mod starting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::AbortHandle;
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::action::{ActionId, Answer, Origin, Record, State};
use crate::attempt::{Finished, Report};
use crate::clock::Timestamp;
use crate::connectivity::NetworkChanges;
use crate::decide::{ClockWatch, Counted, Gate, GateKey, GateReason, Jump, Settlement};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::parts::{ConnectivityMode, Draining, Parts, metrics, sleep_until};
use crate::store::{Advance, Advanced, Amend, Fill, Lease, Settle, Urgency};

use ending::Stopping;
use pass::Passes;
pub use pass::{DrainReport, Stopped};
use probing::Probing;

/// What the handle asks of the worker.
#[derive(Debug)]
pub(crate) enum Control {
    /// Make a pass, or join the one that runs; answer when nothing more can be done now.
    Drain(oneshot::Sender<Result<DrainReport>>),
    /// The network may have changed.
    Hint,
    /// Answer when nothing is pending.
    Idle(oneshot::Sender<()>),
    /// Stop: wait for running attempts until the deadline, then cut them off.
    Shutdown {
        deadline: Duration,
        done: oneshot::Sender<Result<()>>,
    },
}

struct Running {
    origin: Origin,
    abort: AbortHandle,
    /// A direct send: it takes no slot of the queue, and no pass waits for it.
    is_direct: bool,
}

/// The receiving ends of a worker.
#[derive(Debug)]
pub(crate) struct Mail {
    pub(crate) control: mpsc::UnboundedReceiver<Control>,
    pub(crate) reports: mpsc::UnboundedReceiver<Report>,
    pub(crate) report_to: mpsc::UnboundedSender<Report>,
}

/// Without its worker a vault takes nothing more, and its streams end.
struct Lifeline(Arc<Parts>);

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.0.is_closing.store(true, Ordering::Release);
        self.0.hub.close();
    }
}

pub(crate) struct Worker {
    parts: Arc<Parts>,
    mail: Mail,
    /// Last words: also when the runtime goes, or this panics.
    _lifeline: Lifeline,
    changes: NetworkChanges,
    probing: Probing,
    running: BTreeMap<ActionId, Running>,
    finished: Vec<Finished>,
    gates: Vec<Gate>,
    /// What was filled in, for the next step.
    fills: Vec<Fill>,
    passes: Passes,
    idlers: Vec<oneshot::Sender<()>>,
    has_handles: bool,
    forced: Vec<Origin>,
    stopping: Option<Stopping>,
    is_hungry: bool,
    timer: Option<Timestamp>,
    failures: u32,
    started: Instant,
    clocks: ClockWatch,
}

impl Worker {
    pub(crate) fn new(parts: Arc<Parts>, mail: Mail) -> Self {
        // A stream that ends only has no more hints; it must not be asked again.
        let changes = parts
            .connectivity
            .changes()
            .chain(stream::pending())
            .boxed();
        let clocks = ClockWatch::new(parts.now(), Duration::ZERO);
        Self {
            _lifeline: Lifeline(parts.clone()),
            parts,
            mail,
            changes,
            probing: Probing::default(),
            running: BTreeMap::new(),
            finished: Vec::new(),
            gates: Vec::new(),
            fills: Vec::new(),
            passes: Passes::default(),
            idlers: Vec::new(),
            has_handles: true,
            forced: Vec::new(),
            stopping: None,
            is_hungry: true,
            timer: None,
            failures: 0,
            started: Instant::now(),
            clocks,
        }
    }

    /// The loop. Ends after a shutdown, or when every handle of the vault is gone.
    pub(crate) async fn run(mut self) {
        loop {
            match self.step().await {
                Ok(()) => self.answer_idlers(),
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
        self.parts.sleeps_until(self.timer);
        // What is rare goes first, so that what is frequent cannot starve it. Reports are taken in any case, after this.
        tokio::select! {
            biased;
            () = until(stop_at) => self.abort_running(),
            control = self.mail.control.recv(), if self.has_handles => self.on_control(control),
            Some(probed) = self.probing.next() => self.on_probed(probed),
            Some(_) = self.changes.next() => self.probe(),
            () = sleep_until(&*clock, self.timer) => self.is_hungry = true,
            () = self.parts.wake.notified() => self.is_hungry = true,
            () = self.parts.store.changed() => self.on_change(),
            Some(report) = self.mail.reports.recv() => self.on_report(report),
        }
        self.parts.sleeps_until(None);
    }

    /// Settles what finished and leases what may go, in one commit; then publishes and starts.
    async fn step(&mut self) -> Result<()> {
        self.notice_clock_jump().await?;
        self.heed_portals();
        let lease = self.lease_request();
        let has_news =
            !self.finished.is_empty() || !self.gates.is_empty() || !self.fills.is_empty();
        if !has_news && !self.is_hungry {
            self.end_pass(None);
            return Ok(());
        }
        let mut step = Advance::new(self.parts.now(), self.parts.options.retention);
        step.settle = self.finished.iter().map(|f| f.settle.clone()).collect();
        let stale = self.finished.iter().flat_map(|f| &f.stale);
        step.stale = stale.cloned().collect();
        step.urgency = self.urgency();
        step.gates = self.latest_gates();
        step.fills = std::mem::take(&mut self.fills);
        step.dead_lane = self.parts.options.policy.dead_lane;
        step.lease = lease;
        let (may_lease, looked) = (step.lease.is_some(), step.now);
        let gates_after = step.lease.as_ref().map(|lease| lease.gates_after.clone());
        let pauses = self.parts.pauses();
        let done = self.parts.store.advance(step).await?;
        if self.parts.heed_pause(done.is_paused, pauses) {
            self.parts.wake.notify_one();
        }
        self.failures = 0;
        self.parts.release_lanes();
        self.gates.clear();
        if may_lease {
            self.forced.clear();
        }
        self.is_hungry = !done.expired.is_empty() || done.is_unfinished;
        if done.is_unfinished {
            self.parts.wake.notify_one();
        }
        self.set_timer(&done, may_lease.then_some(looked));
        if may_lease && done.totals.counts.pending > 0 {
            self.look_at_portals();
        }
        self.publish(&done);
        self.note_starts(&done.leased, gates_after.unwrap_or_default());
        let leased_any = !done.leased.is_empty();
        self.start(done.leased);
        self.fill(done.unfilled).await?;
        if !leased_any && !self.is_hungry {
            self.end_pass(done.next_due);
        }
        Ok(())
    }

    /// Nobody waits for the settle of a direct send that was answered well, when there is nothing to lease.
    fn urgency(&self) -> Urgency {
        let counts = *self.parts.hub.status().counts();
        let is_awaited = |f: &Finished| f.reply.is_some() || f.turn.is_some();
        let is_idle = counts.pending == counts.in_flight
            && self.passes.is_idle()
            && self.idlers.is_empty()
            && self.stopping.is_none();
        match is_idle && !self.finished.iter().any(is_awaited) {
            true => Urgency::Soon,
            false => Urgency::Now,
        }
    }

    /// The gates that changed since the last step, each once and as it is now.
    fn latest_gates(&self) -> Vec<Gate> {
        let book = self.parts.gates();
        let changed = self
            .finished
            .iter()
            .filter_map(|f| f.gate.as_ref())
            .chain(&self.gates);
        let keys: BTreeSet<&GateKey> = changed.map(|gate| &gate.key).collect();
        let now = self.parts.now();
        let kept = |key: &GateKey| match key {
            GateKey::Origin(origin) => Some(book.of(origin, now)),
            GateKey::Principal(_) => book.get(key).cloned(),
        };
        let gates = keys.into_iter().filter_map(kept);
        gates.inspect(|gate| metrics::gated(gate, now)).collect()
    }

    fn lease_request(&self) -> Option<Lease> {
        let offline = *self.parts.mode.borrow() == ConnectivityMode::Offline;
        let on_request = self.parts.options.draining == Draining::OnRequest;
        let slots = self
            .parts
            .options
            .max_in_flight
            .saturating_sub(self.queued_running());
        let is_asked = !self.passes.is_idle();
        let may = !self.parts.is_paused()
            && self.stopping.is_none()
            && slots > 0
            && (is_asked || !(offline || on_request));
        may.then(|| Lease {
            slots,
            origin_slots: self.origin_slots(),
            gates_after: self.gates_after(),
            forced: self.forced.clone(),
            whose: self.parts.principals().whose(),
            batches: self.parts.options.batchers.rule(),
        })
    }

    /// How many attempts of the queue run.
    fn queued_running(&self) -> usize {
        self.running.values().filter(|r| !r.is_direct).count()
    }

    /// `leased_at` is the time by which what was due was leased; nothing when nothing might be.
    fn set_timer(&mut self, done: &Advanced, leased_at: Option<Timestamp>) {
        // What was due then and was not leased waits for a running attempt to end, not for time. What became due
        // while the store was at work is not among that.
        let is_met_by_time = |due: &Timestamp| {
            leased_at.is_some_and(|looked| *due > looked || self.running.is_empty())
        };
        let due = done.next_due.filter(is_met_by_time);
        let now = self.parts.now();
        let floor = now.after(Duration::from_millis(1));
        let due = due.map(|due| due.max(floor));
        self.timer = [due, done.next_expiry].into_iter().flatten().min();
    }

    fn publish(&mut self, done: &Advanced) {
        let now = self.parts.now();
        // Counts first: who hears of an event may ask for them.
        self.parts.hub.set_totals(done.totals);
        metrics::counted(&done.totals.counts, now);
        self.parts.refresh_connection();
        let finished = std::mem::take(&mut self.finished);
        // A server that told how long to wait is not asked before.
        let own_wait_max = self.parts.options.policy.origin_backoff.cap();
        for (finished, record) in finished.into_iter().zip(&done.settled) {
            // A poison request makes a gateway answer 502 for ever. Only another answer of the origin tells
            // that from an outage, and behind this action there may be none: ask.
            if let Some(gate) = &finished.gate
                && let GateKey::Origin(origin) = &gate.key
                && (gate.reason, gate.failures > 0) == (GateReason::Unavailable, true)
                && gate.closed_until.since(gate.changed) <= own_wait_max
            {
                self.probing.start(&self.parts, origin.clone());
            }
            match record {
                Some(record) => self.publish_settled(finished, record, now),
                None => finished.tell(),
            }
        }
        for record in &done.expired {
            self.parts.hub.publish(record, EventKind::Expired, now);
        }
        for record in &done.buried {
            self.publish_buried(record, now);
        }
        for record in &done.revived {
            self.parts.hub.publish(record, EventKind::Queued, now);
        }
    }

    /// A dead letter that was never sent: its parent is dead, or has not what it needs.
    fn publish_buried(&mut self, record: &Record, now: Timestamp) {
        let State::Dead { reason, .. } = &record.state else {
            return;
        };
        self.parts.announce_dead(record, reason, None);
        let kind = EventKind::DeadLettered {
            reason: reason.clone(),
        };
        self.passes.count(&kind);
        self.parts.hub.publish(record, kind, now);
    }

    fn publish_settled(&mut self, finished: Finished, record: &Record, now: Timestamp) {
        let Settle {
            result,
            status,
            error,
            answer,
            ..
        } = finished.settle;
        let is_counted = matches!(
            result,
            Settlement::Retry {
                counts: Counted::Yes,
                ..
            }
        );
        let kind = match (&record.state, result) {
            (State::Delivered { status, .. }, _) => EventKind::Succeeded { status: *status },
            (State::Dead { reason, .. }, _) => {
                let answer = answer.and_then(|bytes| Answer::decode(bytes).ok());
                self.parts.announce_dead(record, reason, answer);
                EventKind::DeadLettered {
                    reason: reason.clone(),
                }
            }
            (_, Settlement::Returned) => EventKind::Returned { status },
            (State::Queued { due }, _) => {
                let error = error.unwrap_or_default();
                EventKind::Failed {
                    error,
                    status,
                    next: *due,
                    is_counted,
                }
            }
            _ => return,
        };
        self.passes.count(&kind);
        self.parts.hub.publish(record, kind, now);
        if let Some((reply, told)) = finished.reply {
            // The caller may have dropped its future: the action is on disk all the same.
            drop(reply.send(told));
        }
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::Started { id, origin, abort } => {
                let is_direct = true;
                self.running.insert(
                    id,
                    Running {
                        origin,
                        abort,
                        is_direct,
                    },
                );
            }
            Report::Gate(gate) => {
                self.gates.push(*gate);
                self.is_hungry = true;
            }
            Report::Finished(finished) => {
                // Its slot is free at once: what it frees is leased in the commit that settles it.
                self.running.remove(&finished.settle.id);
                self.finished.push(*finished);
                self.is_hungry = true;
            }
            Report::Batch(batch) => {
                if let Some(first) = batch.first() {
                    self.running.remove(&first.settle.id);
                }
                self.finished.extend(batch);
                self.is_hungry = true;
            }
        }
    }

    /// Another process was at work: there may be something to lease, and what somebody waits for may have ended.
    fn on_change(&mut self) {
        self.is_hungry = true;
        self.parts.elsewhere.send_replace(());
    }

    fn take_reports(&mut self) {
        while let Ok(report) = self.mail.reports.try_recv() {
            self.on_report(report);
        }
    }

    fn on_control(&mut self, control: Option<Control>) {
        match control {
            Some(Control::Drain(reply)) => {
                self.passes.join(reply);
                // Called by hand: the caller may know better than our belief.
                self.forced = self.origins_away();
                self.is_hungry = true;
            }
            Some(Control::Hint) => {
                self.probe();
                self.is_hungry = true;
            }
            Some(Control::Idle(idler)) => {
                // The counts that were told may be behind those of the store: only a step brings them for certain.
                self.idlers.push(idler);
                self.is_hungry = true;
            }
            Some(Control::Shutdown { deadline, done }) => self.stop(deadline, Some(done)),
            None => {
                self.has_handles = false;
                self.stop(Duration::ZERO, None);
            }
        }
    }

    /// Ends the pass for who waits for it, when nothing runs and nothing more can go now.
    fn end_pass(&mut self, next_due: Option<Timestamp>) {
        if self.passes.is_idle() || self.queued_running() > 0 {
            return;
        }
        let counts = *self.parts.hub.status().counts();
        let is_offline = *self.parts.mode.borrow() == ConnectivityMode::Offline;
        let is_away = !self.origins_away().is_empty();
        let stopped = match next_due {
            _ if self.stopping.is_some() => Stopped::Closed,
            _ if self.parts.is_paused() => Stopped::Paused,
            _ if counts.pending == 0 => Stopped::Drained,
            _ if is_away => Stopped::Offline,
            Some(until) => Stopped::Waiting { until },
            None if counts.blocked_lanes > 0 => Stopped::Blocked,
            // Time cannot help, and nothing stands in the way that will go by itself.
            None if self.running.is_empty() && !is_offline => Stopped::NotActive,
            None => Stopped::Offline,
        };
        self.passes.end(counts.pending, stopped);
    }

    /// A wall clock that was set back makes due times lie far ahead: they are pulled in. One that jumped ahead
    /// mostly means that the machine slept: the network is looked at.
    async fn notice_clock_jump(&mut self) -> Result<()> {
        let jump = self.clocks.look(self.parts.now(), self.started.elapsed());
        match jump {
            None => return Ok(()),
            Some(Jump::Back(by)) => {
                tracing::warn!(back_ms = by.as_millis(), "the clock was set back");
                let until = self.parts.now().after(self.parts.options.policy.wait_max());
                self.parts.store.amend(Amend::Hasten { until }).await?;
                self.parts.gates().hasten(until);
            }
            Some(_) => self.probe(),
        }
        self.is_hungry = true;
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
            let (reply, turn) = (finished.reply.take(), finished.turn.take());
            if reply.is_some() || turn.is_some() {
                self.parts.hold_lane(finished.lane.clone());
            }
            // Its action is on disk: whoever waits for the settle need not wait for the disk.
            if let Some((reply, told)) = reply {
                drop(reply.send(told));
            }
            // Nor need the next of its lane: it is queued behind this one, or told that it may not pass.
            drop(turn);
        }
        self.passes.fail(error);
        self.failures = self.failures.saturating_add(1);
        let pause = Duration::from_secs(1 << self.failures.min(5));
        tracing::error!(%error, pause_s = pause.as_secs(), "the store failed, will try again");
        self.parts.hub.store_failed();
        self.is_hungry = false;
        self.timer = Some(self.parts.now().after(pause));
        true
    }

    fn answer_idlers(&mut self) {
        if self.parts.hub.status().counts().pending == 0 {
            for idler in self.idlers.drain(..) {
                // Whoever asked may have gone.
                idler.send(()).ok();
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
