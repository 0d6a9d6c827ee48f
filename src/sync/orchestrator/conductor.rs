//! The loop: starts what may start, hears what ended, obeys calls and triggers. It alone decides what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};

use super::event::{Hub, SyncEventKind};
use super::failure::{Failure, FailureKind};
use super::feature::Runner;
use super::graph::Graph;
use super::pass::{Passes, Wants};
use super::report::{End, Phase, SyncReport, Tally};
use super::run::{Need, Run, Settings};
use super::status::InitialState;
use super::trigger::{Trigger, Triggers};
use crate::parts::Connection;
use crate::sync::{CheckpointKey, FeatureKey};

/// What a handle asks for.
#[derive(Debug)]
pub(super) enum Command {
    Run {
        wants: Wants,
        reply: oneshot::Sender<SyncReport>,
    },
    /// Answered when everything that ran has stopped.
    Cancel(oneshot::Sender<()>),
    Shutdown(oneshot::Sender<()>),
}

/// A sync that runs.
#[derive(Debug)]
struct Running {
    need: Need,
    cancel: watch::Sender<bool>,
    is_cancelled: bool,
}

type Ended = (usize, Result<Option<Tally>, Failure>);

/// Who waits until these have stopped.
#[derive(Debug)]
struct Waiter {
    for_nodes: BTreeSet<usize>,
    done: oneshot::Sender<()>,
}

/// Everything that the loop owns.
pub(super) struct Conductor {
    pub(super) graph: Arc<Graph>,
    pub(super) runners: Vec<Runner>,
    pub(super) settings: Arc<Settings>,
    pub(super) hub: Arc<Hub>,
    pub(super) max_concurrent: usize,
    pub(super) paused: watch::Receiver<bool>,
    pub(super) triggers: Triggers,
    pub(super) state: State,
}

/// What changes.
pub(super) struct State {
    connection: watch::Sender<Connection>,
    passes: Passes,
    running: BTreeMap<usize, Running>,
    tasks: JoinSet<Ended>,
    waiters: Vec<Waiter>,
    /// Features that a hint named while they ran: once more when they have ended.
    hinted: BTreeSet<usize>,
    /// A trigger wants all features once more.
    is_pass_due: bool,
    is_closing: bool,
    has_told_initial: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            connection: watch::Sender::new(Connection::Online),
            passes: Passes::default(),
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            waiters: Vec::new(),
            hinted: BTreeSet::new(),
            is_pass_due: false,
            is_closing: false,
            has_told_initial: false,
        }
    }
}

impl Conductor {
    /// Ends with a shutdown, or when the last handle is gone: what runs is then cut off.
    pub(super) async fn conduct(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        while !(self.state.is_closing && self.state.running.is_empty()) {
            tokio::select! {
                command = commands.recv(), if !self.state.is_closing => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(ended) = self.state.tasks.join_next() => self.hear(ended),
                Some(trigger) = self.triggers.next() => self.note(trigger),
            }
            self.begin();
        }
        commands.close();
        self.hub.close();
        self.stop_waiting();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Run { wants, reply } => {
                self.state.has_told_initial &= !wants.values().any(|n| *n == Need::FromTheStart);
                self.state.passes.add(wants, Some(reply));
            }
            Command::Cancel(done) => self.cancel(done),
            Command::Shutdown(done) => {
                self.state.is_closing = true;
                self.cancel(done);
            }
        }
    }

    fn note(&mut self, trigger: Trigger) {
        match trigger {
            Trigger::Hint(feature) => match self.newest_sync_of(&feature) {
                Some(at) => drop(self.state.hinted.insert(at)),
                None => tracing::warn!(%feature, "a hint names a feature that there is not"),
            },
            Trigger::Connection(now) => {
                let before = self.state.connection.send_replace(now);
                self.state.is_pass_due |=
                    (before, now) == (Connection::Offline, Connection::Online);
            }
            Trigger::Tick => {
                let is_online = *self.state.connection.borrow() == Connection::Online;
                self.state.is_pass_due |= is_online;
            }
        }
    }

    fn newest_sync_of(&self, feature: &FeatureKey) -> Option<usize> {
        let background = self.graph.find(Phase::Background, feature);
        background.or_else(|| self.graph.find(Phase::Initial, feature))
    }

    /// Starts what may start, until nothing more may.
    fn begin(&mut self) {
        for (at, end) in self.state.passes.block(&self.graph) {
            if !self.state.running.contains_key(&at) {
                self.tell_end(at, &end);
            }
        }
        // Before triggers are looked at: one that waits for the end of a pass finds it.
        self.state.passes.answer(&self.graph);
        if !self.state.is_closing {
            self.add_triggered();
        }
        while self.state.running.len() < self.max_concurrent {
            let is_busy = |at: usize| self.is_busy(at);
            let Some((at, need)) = self.state.passes.next(&self.graph, is_busy) else {
                break;
            };
            self.start(at, need);
        }
    }

    fn add_triggered(&mut self) {
        let hinted = std::mem::take(&mut self.state.hinted);
        for at in hinted {
            if self.is_busy(at) {
                self.state.hinted.insert(at);
            } else if !self.state.passes.is_wanted(at) {
                let wants = self.graph.with_dependencies([at]);
                let wants = wants.into_iter().map(|at| (at, Need::Now)).collect();
                self.state.passes.add(wants, None);
            }
        }
        if self.state.is_pass_due && !self.state.passes.is_triggered() {
            self.state.is_pass_due = false;
            let all = (0..self.graph.nodes.len()).map(|at| (at, Need::Now));
            self.state.passes.add(all.collect(), None);
        }
    }

    /// It runs, or the other sync of the same feature does: one at a time.
    fn is_busy(&self, at: usize) -> bool {
        let feature = &self.graph.nodes[at].feature;
        let mut running = self.state.running.keys();
        running.any(|other| self.graph.nodes[*other].feature == *feature)
    }

    fn start(&mut self, at: usize, need: Need) {
        let node = &self.graph.nodes[at];
        let (cancel, cancelled) = watch::channel(false);
        let run = Run {
            key: CheckpointKey::new(self.settings.user.clone(), node.feature.clone()),
            phase: node.phase,
            need,
            settings: self.settings.clone(),
            hub: self.hub.clone(),
            cancelled,
            paused: self.paused.clone(),
            connection: self.state.connection.subscribe(),
        };
        let (feature, phase) = (node.feature.clone(), node.phase);
        let work = AssertUnwindSafe((self.runners[at])(run)).catch_unwind();
        self.state.tasks.spawn(async move {
            let panicked = |_| {
                let text = "the handler panicked";
                Err(Failure::new((&feature, phase), FailureKind::Panicked, text))
            };
            (at, work.await.unwrap_or_else(panicked))
        });
        let running = Running {
            need,
            cancel,
            is_cancelled: false,
        };
        self.state.running.insert(at, running);
    }

    fn hear(&mut self, ended: Result<Ended, JoinError>) {
        let (at, result) = match ended {
            Ok(ended) => ended,
            // Panics are caught inside, and nothing aborts a task but the end of the runtime.
            Err(error) => return tracing::error!(%error, "a sync was cut off"),
        };
        let end = match (result, self.graph.nodes[at].phase) {
            (Ok(Some(tally)), _) => End::Completed(tally),
            (Ok(None), Phase::Initial) => End::AlreadyCompleted,
            (Ok(None), Phase::Background) => End::NotDue,
            (Err(failure), _) if failure.kind == FailureKind::Cancelled => End::Cancelled,
            (Err(failure), _) => End::Failed(failure),
        };
        self.tell_end(at, &end);
        if let Some(running) = self.state.running.remove(&at)
            && !running.is_cancelled
        {
            self.state.passes.ended(at, running.need, &end);
        }
        self.tell_initial(&end);
        for waiter in &mut self.state.waiters {
            waiter.for_nodes.remove(&at);
        }
        self.stop_waiting();
    }

    fn tell_end(&self, at: usize, end: &End) {
        let node = &self.graph.nodes[at];
        self.hub.ended(&node.feature, node.phase, end);
    }

    /// Tells once when the last initial sync is done.
    fn tell_initial(&mut self, newest: &End) {
        if self.state.has_told_initial || !newest.is_success() {
            return;
        }
        let board = self.hub.board.borrow();
        let states: Vec<_> = board.values().filter_map(|f| f.initial.as_ref()).collect();
        let is_old = |state: &&InitialState| **state == InitialState::AlreadyCompleted;
        let is_done = |state: &&InitialState| is_old(state) || **state == InitialState::Completed;
        if states.is_empty() || !states.iter().all(is_done) {
            return;
        }
        let kind = match states.iter().all(is_old) {
            true => SyncEventKind::AllInitialAlreadyCompleted,
            false => SyncEventKind::AllInitialCompleted {
                features: states.len(),
            },
        };
        drop(board);
        self.state.has_told_initial = true;
        self.hub.publish(None, kind);
    }

    /// Stops what runs, and forgets what was to run.
    fn cancel(&mut self, done: oneshot::Sender<()>) {
        for running in self.state.running.values_mut() {
            running.is_cancelled = true;
            running.cancel.send_replace(true);
        }
        self.state.hinted.clear();
        self.state.is_pass_due = false;
        let cancelled: BTreeSet<usize> = self.state.passes.cancel().into_iter().collect();
        for at in cancelled {
            if !self.state.running.contains_key(&at) {
                self.tell_end(at, &End::Cancelled);
            }
        }
        let for_nodes = self.state.running.keys().copied().collect();
        self.state.waiters.push(Waiter { for_nodes, done });
        if !self.state.is_closing {
            self.stop_waiting();
        }
    }

    fn stop_waiting(&mut self) {
        let is_over = |waiter: &mut Waiter| waiter.for_nodes.is_empty();
        for waiter in self.state.waiters.extract_if(.., is_over) {
            // The caller may be gone.
            waiter.done.send(()).ok();
        }
    }
}
