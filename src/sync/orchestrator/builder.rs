//! `SyncOrchestratorBuilder`: options with safe defaults, and their checks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::conductor::{Conductor, State};
use super::event::Hub;
use super::feature::{
    BackgroundSync, Feature, InitialSync, Runner, background_runner, initial_runner,
};
use super::graph::{Graph, Node};
use super::handle::{Shared, SyncOrchestrator};
use super::report::Phase;
use super::run::Settings;
use super::status::first_board;
use super::trigger::Triggers;
use crate::clock::{Clock, SystemClock};
use crate::decide::Backoff;
use crate::error::{Error, Result};
use crate::parts::Connection;
use crate::sync::{CheckpointStore, FeatureKey};

/// How many events a slow reader may be behind.
const EVENTS_MAX: usize = 1024;

/// What an orchestrator is made of. [`SyncOrchestrator::builder`] makes one.
#[must_use]
pub struct SyncOrchestratorBuilder {
    user: Option<String>,
    checkpoints: Option<Arc<dyn CheckpointStore>>,
    nodes: Vec<Node>,
    runners: Vec<Runner>,
    batch_size: usize,
    max_batch_size: usize,
    max_concurrent: usize,
    backoff: Backoff,
    max_retries: u32,
    min_interval: Duration,
    period: Option<Duration>,
    triggers: Triggers,
    clock: Arc<dyn Clock>,
}

impl SyncOrchestratorBuilder {
    pub(super) fn new() -> Self {
        let (base, cap) = (Duration::from_millis(100), Duration::from_secs(30));
        Self {
            user: None,
            checkpoints: None,
            nodes: Vec::new(),
            runners: Vec::new(),
            batch_size: 50,
            max_batch_size: 500,
            max_concurrent: 2,
            backoff: Backoff::exponential(base, cap).equal_jitter(),
            max_retries: 3,
            min_interval: Duration::from_secs(5 * 60),
            period: None,
            triggers: Triggers::new(),
            clock: Arc::new(SystemClock),
        }
    }

    /// Whose data it is: users share no checkpoint. Must be given; an app without users gives any fixed name. For another user,
    /// build another orchestrator.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Who keeps the checkpoints. Must be given.
    pub fn checkpoints(mut self, checkpoints: impl CheckpointStore) -> Self {
        self.checkpoints = Some(Arc::new(checkpoints));
        self
    }

    /// A feature with an initial sync. One that also has a background sync is [added there](Self::background) too, under the
    /// same name: its background sync waits for its initial one.
    pub fn initial<H: InitialSync>(self, feature: Feature<H>) -> Self {
        let Feature {
            key,
            handler,
            priority,
            depends_on,
        } = feature;
        self.add(
            Phase::Initial,
            (key, priority, depends_on),
            initial_runner(handler),
        )
    }

    /// A feature with a background sync.
    pub fn background<H: BackgroundSync>(self, feature: Feature<H>) -> Self {
        let Feature {
            key,
            handler,
            priority,
            depends_on,
        } = feature;
        self.add(
            Phase::Background,
            (key, priority, depends_on),
            background_runner(handler),
        )
    }

    /// A feature whose handler does both.
    pub fn feature<H: InitialSync + BackgroundSync>(self, feature: Feature<H>) -> Self {
        let Feature {
            key,
            handler,
            priority,
            depends_on,
        } = feature;
        let handler = Arc::new(handler);
        let place = (key, priority, depends_on);
        self.add(
            Phase::Initial,
            place.clone(),
            initial_runner(handler.clone()),
        )
        .add(Phase::Background, place, background_runner(handler))
    }

    fn add(
        mut self,
        phase: Phase,
        (feature, priority, depends_on): (FeatureKey, i32, Vec<FeatureKey>),
        runner: Runner,
    ) -> Self {
        self.nodes.push(Node {
            phase,
            feature,
            priority,
            depends_on,
        });
        self.runners.push(runner);
        self
    }

    /// How many items handlers are asked for at once. Default: 50.
    pub fn batch_size(mut self, items: usize) -> Self {
        self.batch_size = items;
        self
    }

    /// How many items a handler may give at once; more is a failure. It bounds the memory. Default: 500.
    pub fn max_batch_size(mut self, items: usize) -> Self {
        self.max_batch_size = items;
        self
    }

    /// How many features run side by side. Default: 2.
    pub fn max_concurrent(mut self, features: usize) -> Self {
        self.max_concurrent = features;
        self
    }

    /// The wait before a step is tried again. Default: exponential from 100 ms to 30 s, with equal jitter.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How often each step is tried again. Default: 3.
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = retries;
        self
    }

    /// How old a sync must be before [`run_if_needed`](SyncOrchestrator::run_if_needed) makes another. Default: 5 minutes.
    pub fn min_interval(mut self, interval: Duration) -> Self {
        self.min_interval = interval;
        self
    }

    /// Syncs everything each period, a tenth more or less, the first time after one period. None is made while the
    /// [network](Self::on_connectivity) is known to be away. Default: never.
    pub fn every(mut self, period: Duration) -> Self {
        self.period = Some(period);
        self
    }

    /// Syncs everything when the network comes back. While it is away, a request that fails is not tried again: the run fails, and
    /// the next one comes with the network. [`SyncVault::watch_connection`](crate::SyncVault::watch_connection) is such a stream.
    pub fn on_connectivity(
        mut self,
        changes: impl Stream<Item = Connection> + Send + 'static,
    ) -> Self {
        self.triggers.connection(changes);
        self
    }

    /// Syncs a feature, after what it depends on, when the stream names it: a push notification, a message on a WebSocket, a
    /// server-sent event. A hint that comes while the feature runs lets it run once more.
    pub fn hints<K: Into<FeatureKey>>(
        mut self,
        hints: impl Stream<Item = K> + Send + 'static,
    ) -> Self {
        self.triggers.hints(hints);
        self
    }

    /// The clock that tells how old a sync is. Default: the system's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Checks everything and starts to listen to triggers. Nothing is synced before a call or a trigger.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when an option makes no sense, when a feature depends on one that there
    /// is not, when features wait for each other in a cycle (the message names it), and outside a tokio runtime.
    pub fn build(self) -> Result<SyncOrchestrator> {
        self.check()?;
        let runtime = Handle::try_current()
            .map_err(|e| Error::invalid("build it inside a tokio runtime").with_source(e))?;
        let Some(user) = self.user else {
            let text = "whose data is it? say it with `user(..)`; an app without users gives any fixed name";
            return Err(Error::invalid(text));
        };
        let Some(checkpoints) = self.checkpoints else {
            let text = "say with `checkpoints(..)` who keeps how far a sync is";
            return Err(Error::invalid(text));
        };
        let graph = Arc::new(Graph::new(self.nodes)?);
        let hub = Arc::new(Hub::new(self.clock, EVENTS_MAX, first_board(&graph)));
        let (commands, receiver) = mpsc::unbounded_channel();
        let paused = watch::Sender::new(false);
        let mut triggers = self.triggers;
        if let Some(period) = self.period {
            triggers.every(period);
        }
        let settings = Settings {
            user,
            checkpoints,
            batch_size: self.batch_size,
            max_batch_size: self.max_batch_size,
            backoff: self.backoff,
            max_retries: self.max_retries,
            min_interval: self.min_interval,
        };
        let conductor = Conductor {
            graph: graph.clone(),
            runners: self.runners,
            settings: Arc::new(settings),
            hub: hub.clone(),
            max_concurrent: self.max_concurrent,
            paused: paused.subscribe(),
            triggers,
            state: State::default(),
        };
        runtime.spawn(conductor.conduct(receiver));
        let shared = Arc::new(Shared {
            graph,
            hub,
            commands,
            paused,
        });
        Ok(SyncOrchestrator { shared })
    }

    fn check(&self) -> Result<()> {
        self.backoff.check()?;
        let rules = [
            (!self.nodes.is_empty(), "an orchestrator needs a feature"),
            (self.batch_size > 0, "`batch_size` must be at least 1"),
            (
                self.batch_size <= self.max_batch_size,
                "`batch_size` is over `max_batch_size`",
            ),
            (
                self.max_concurrent > 0,
                "`max_concurrent` must be at least 1",
            ),
            (
                self.period.is_none_or(|p| p >= Duration::from_secs(1)),
                "`every` must be at least a second",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, broken)) => Err(Error::invalid(*broken)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for SyncOrchestratorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncOrchestratorBuilder")
            .field("features", &self.nodes)
            .finish_non_exhaustive()
    }
}
