//! `SyncOrchestrator`, the handle: runs, watching and control. No flow of its own.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::builder::SyncOrchestratorBuilder;
use super::conductor::Command;
use super::event::{Hub, SyncEventKind, SyncEvents};
use super::failure::{Failure, FailureKind};
use super::graph::Graph;
use super::pass::Wants;
use super::report::{Phase, SyncReport};
use super::run::Need;
use super::status::{FeatureStatus, FeatureStatuses, InitialState};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::FeatureKey;

/// Runs the features of one user. Cheap to clone; every clone is the same orchestrator.
///
/// Runs go on when the call that started them is dropped; [`cancel`](Self::cancel) stops them. When the last handle is gone,
/// what runs is cut off, and nothing is lost by that: the next run goes on there.
///
/// # One user, two features
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::{Arc, Mutex};
/// use syncvault::sync::{
///     Applied, Checkpoint, Cursor, Feature, InitialSync, MemoryCheckpoints, Page, ServerItem, StepError, SyncOrchestrator,
/// };
///
/// /// Two pages, from nowhere, into a map.
/// struct Contacts(Arc<Mutex<BTreeMap<String, String>>>);
///
/// impl InitialSync for Contacts {
///     type Item = String;
///
///     async fn fetch_page(&self, cursor: Option<&Cursor>, _batch_size: usize) -> Result<Page<String>, StepError> {
///         Ok(match cursor {
///             None => Page::more(vec![ServerItem::new("1", "Ann".to_owned())], "page 2"),
///             Some(_) => Page::last(vec![ServerItem::new("2", "Bob".to_owned())]),
///         })
///     }
///
///     async fn save(&self, page: &Page<String>, _checkpoint: &Checkpoint) -> Result<Applied, StepError> {
///         let mut names = self.0.lock().expect("nobody panicked");
///         for item in &page.items {
///             names.insert(item.id.to_string(), item.content.clone().unwrap_or_default());
///         }
///         Ok(Applied::cleanly())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> syncvault::Result<()> {
/// let names = Arc::new(Mutex::new(BTreeMap::new()));
/// let sync = SyncOrchestrator::builder()
///     .user("ann")
///     .checkpoints(MemoryCheckpoints::new())
///     .initial(Feature::new("contacts", Contacts(names.clone())).priority(10))
///     .build()?;
/// let report = sync.run().await?;
/// assert!(report.is_success());
/// assert_eq!(names.lock().expect("nobody panicked").len(), 2);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct SyncOrchestrator {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) graph: Arc<Graph>,
    pub(super) hub: Arc<Hub>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) paused: watch::Sender<bool>,
}

impl SyncOrchestrator {
    /// Options first, then [`build`](SyncOrchestratorBuilder::build).
    pub fn builder() -> SyncOrchestratorBuilder {
        SyncOrchestratorBuilder::new()
    }

    /// Syncs everything now: initial syncs that are not done, and each feature's changes when its own initial sync is done.
    ///
    /// A feature that runs already is not started twice: this call joins it. What the app changed since that run pushed goes
    /// with the next one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`] after a shutdown. What fails in a feature is in the report.
    pub async fn run(&self) -> Result<SyncReport> {
        self.start(self.all(Need::Now)).await
    }

    /// As [`run`](Self::run), but leaves alone what was synced within the minimum interval, also before a restart.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub async fn run_if_needed(&self) -> Result<SyncReport> {
        self.start(self.all(Need::IfDue)).await
    }

    /// Makes the initial syncs that are not done, and nothing else.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub async fn run_initial(&self) -> Result<SyncReport> {
        let mut wants = self.all(Need::Now);
        wants.retain(|at, _| self.shared.graph.nodes[*at].phase == Phase::Initial);
        self.start(wants).await
    }

    /// Syncs one feature now, after everything it depends on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for an unknown feature; otherwise as [`run`](Self::run).
    pub async fn sync_feature(&self, feature: impl Into<FeatureKey>) -> Result<SyncReport> {
        let wants = self.one(&feature.into())?;
        self.start(wants).await
    }

    /// Forgets how far a feature is, and syncs it from the start. Local changes stay: it is for the handler not to overwrite
    /// them.
    ///
    /// # Errors
    ///
    /// As [`sync_feature`](Self::sync_feature).
    pub async fn resync(&self, feature: impl Into<FeatureKey>) -> Result<SyncReport> {
        let feature = feature.into();
        let mut wants = self.one(&feature)?;
        let graph = &self.shared.graph;
        let initial = graph.find(Phase::Initial, &feature);
        let first = initial.or_else(|| graph.find(Phase::Background, &feature));
        wants.extend(first.map(|at| (at, Need::FromTheStart)));
        self.start(wants).await
    }

    /// True for two handles of one orchestrator.
    pub(in crate::sync) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    fn all(&self, need: Need) -> Wants {
        let all = 0..self.shared.graph.nodes.len();
        all.map(|at| (at, need)).collect()
    }

    fn one(&self, feature: &FeatureKey) -> Result<Wants> {
        let graph = &self.shared.graph;
        let both = [Phase::Initial, Phase::Background].map(|phase| graph.find(phase, feature));
        let own: Vec<usize> = both.into_iter().flatten().collect();
        if own.is_empty() {
            return Err(unknown(feature));
        }
        let wants = graph.with_dependencies(own);
        Ok(wants.into_iter().map(|at| (at, Need::Now)).collect())
    }

    async fn start(&self, wants: Wants) -> Result<SyncReport> {
        let (reply, report) = oneshot::channel();
        self.tell(Command::Run { wants, reply })?;
        report.await.map_err(|_| closed())
    }

    fn tell(&self, command: Command) -> Result<()> {
        self.shared.commands.send(command).map_err(|_| closed())
    }

    /// Waits until every initial sync is done. It starts none.
    ///
    /// # Errors
    ///
    /// The failure of the first one that failed or was cancelled in its newest run.
    pub async fn wait_initial(&self) -> Result<(), Failure> {
        let mut board = self.shared.hub.board.subscribe();
        loop {
            let is_done = {
                let board = board.borrow_and_update();
                let mut initial = board.iter();
                initial.try_fold(true, |is_done, (feature, status)| {
                    let is_this = status
                        .initial
                        .as_ref()
                        .map_or(Ok(true), |s| is_done_or_failed(feature, s));
                    is_this.map(|is_this| is_done && is_this)
                })?
            };
            if is_done {
                return Ok(());
            }
            tokio::select! {
                changed = board.changed() => if changed.is_err() { return Err(self.gone()) },
                () = self.shared.commands.closed() => return Err(self.gone()),
            }
        }
    }

    fn gone(&self) -> Failure {
        let board = self.shared.hub.board.borrow();
        let is_open = |status: &FeatureStatus| status.initial.is_some();
        let open = board.iter().find(|(_, status)| is_open(status));
        let feature = open.map_or_else(|| FeatureKey::from(""), |(key, _)| key.clone());
        let text = "the orchestrator was shut down";
        Failure::new((&feature, Phase::Initial), FailureKind::Cancelled, text)
    }

    /// Stops what runs: waits and requests at once, a page that is being applied with its end and its checkpoint. Returns when
    /// everything has stopped. The next run goes on there; triggers stay.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`] after a shutdown.
    pub async fn cancel(&self) -> Result<()> {
        let (done, stopped) = oneshot::channel();
        self.tell(Command::Cancel(done))?;
        stopped.await.map_err(|_| closed())
    }

    /// Holds every run before its next step, until [`resume`](Self::resume). Steps that run end. Not kept over a restart.
    pub fn pause(&self) {
        if !self.shared.paused.send_replace(true) {
            self.shared.hub.publish(None, SyncEventKind::Paused);
        }
    }

    /// Ends a pause.
    pub fn resume(&self) {
        if self.shared.paused.send_replace(false) {
            self.shared.hub.publish(None, SyncEventKind::Resumed);
        }
    }

    /// True between [`pause`](Self::pause) and [`resume`](Self::resume).
    #[must_use]
    pub fn is_paused(&self) -> bool {
        *self.shared.paused.borrow()
    }

    /// The features, by name.
    #[must_use]
    pub fn features(&self) -> Vec<FeatureKey> {
        self.shared.hub.board.borrow().keys().cloned().collect()
    }

    /// The state of a feature now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for an unknown feature.
    pub fn status(&self, feature: impl Into<FeatureKey>) -> Result<FeatureStatus> {
        let feature = feature.into();
        let board = self.shared.hub.board.borrow();
        board
            .get(&feature)
            .cloned()
            .ok_or_else(|| unknown(&feature))
    }

    /// The state of a feature, now and whenever it changes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for an unknown feature.
    pub fn watch_status(&self, feature: impl Into<FeatureKey>) -> Result<FeatureStatuses> {
        let feature = feature.into();
        self.status(&feature)?;
        Ok(FeatureStatuses::new(
            self.shared.hub.board.subscribe(),
            feature,
        ))
    }

    /// All events from now on. [`SyncEvents::of`] keeps those of one feature.
    #[must_use]
    pub fn events(&self) -> SyncEvents {
        self.shared.hub.subscribe()
    }

    /// Ends it: as [`cancel`](Self::cancel), and no trigger and no call starts anything more. Streams of events end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`] when it was shut down before.
    pub async fn shutdown(&self) -> Result<()> {
        let (done, stopped) = oneshot::channel();
        self.tell(Command::Shutdown(done))?;
        stopped.await.map_err(|_| closed())
    }
}

fn is_done_or_failed(feature: &FeatureKey, state: &InitialState) -> Result<bool, Failure> {
    match state {
        InitialState::Completed | InitialState::AlreadyCompleted => Ok(true),
        InitialState::NotStarted | InitialState::Running { .. } | InitialState::Blocked { .. } => {
            Ok(false)
        }
        InitialState::Failed(failure) => Err(failure.clone()),
        InitialState::Cancelled => {
            let place = (feature, Phase::Initial);
            let text = "the app cancelled it";
            Err(Failure::new(place, FailureKind::Cancelled, text))
        }
    }
}

fn unknown(feature: &FeatureKey) -> Error {
    let text =
        format!("there is no feature {feature}: add it with `initial(..)` or `background(..)`");
    Error::new(ErrorKind::NotFound, text)
}

fn closed() -> Error {
    let text = "the orchestrator is shut down, or its runtime is gone; build it again";
    Error::new(ErrorKind::Closed, text)
}
