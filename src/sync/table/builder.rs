//! `SyncEngineBuilder`: options with safe defaults, their checks, and the orchestrator that syncs the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::clerk::{Clerk, Sweep};
use super::core::{Core, Desk, Tally};
use super::engine::{Shared, SyncEngine, features, forward};
use super::event::TableHub;
use super::guard::Guards;
use super::local::{LocalFuture, LocalStep, LocalStore, TableSpec};
use super::options::Table;
use super::remote::RemoteStore;
use crate::SyncVault;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::decide::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::parts::Connection;
use crate::sync::orchestrator::SyncOrchestrator;
use crate::sync::{Checkpoint, CheckpointFuture, CheckpointKey, CheckpointStore, FeatureKey};

/// How many events a slow reader may be behind.
const EVENTS_MAX: usize = 1024;
/// The least time between two syncs that the network starts.
const STEADY: Duration = Duration::from_secs(10);
/// How many hints may wait.
const HINTS_MAX: usize = 256;

/// What an engine is made of. [`SyncEngine::builder`] makes one.
#[must_use]
pub struct SyncEngineBuilder {
    local: Arc<dyn LocalStore>,
    remote: Arc<dyn RemoteStore>,
    vault: SyncVault,
    user: Option<String>,
    tables: Vec<Table>,
    payload_bytes_max: usize,
    owner_fields: Vec<String>,
    masked: Vec<String>,
    hints: Vec<HintStream>,
    syncing: Syncing,
}

type HintStream = std::pin::Pin<Box<dyn Stream<Item = FeatureKey> + Send>>;

/// How tables are synced.
#[derive(Clone, Debug)]
pub(super) struct Syncing {
    user: String,
    batch_size: usize,
    max_batch_size: usize,
    max_concurrent: usize,
    backoff: Backoff,
    max_retries: u32,
    min_interval: Duration,
    period: Option<Duration>,
    clock: Arc<dyn Clock>,
}

impl SyncEngineBuilder {
    pub(super) fn new(
        local: Arc<dyn LocalStore>,
        remote: Arc<dyn RemoteStore>,
        vault: SyncVault,
    ) -> Self {
        let (base, cap) = (Duration::from_millis(500), Duration::from_secs(60));
        Self {
            local,
            remote,
            vault,
            user: None,
            tables: Vec::new(),
            payload_bytes_max: 1024 * 1024,
            owner_fields: vec!["user_id".to_owned(), "owner_id".to_owned()],
            masked: Vec::new(),
            hints: Vec::new(),
            syncing: Syncing {
                user: String::new(),
                batch_size: 200,
                max_batch_size: 1000,
                max_concurrent: 2,
                backoff: Backoff::exponential(base, cap).equal_jitter(),
                max_retries: 5,
                min_interval: Duration::from_secs(5 * 60),
                period: None,
                clock: Arc::new(SystemClock),
            },
        }
    }

    /// Whose data it is: the principal of the vault, which becomes the active one, and the owner of rows. Must be given; an app without
    /// users gives any fixed name. For another user, log out and build another engine.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The tables. At least one.
    pub fn tables<T: Into<Table>>(mut self, tables: impl IntoIterator<Item = T>) -> Self {
        self.tables.extend(tables.into_iter().map(Into::into));
        self
    }

    /// How many bytes a row may have as JSON. Default: 1 MiB.
    pub fn max_payload_bytes(mut self, bytes: usize) -> Self {
        self.payload_bytes_max = bytes;
        self
    }

    /// The fields that name the owner of a row; the first that is there and not null counts. A row of somebody else is refused when
    /// it is written, and left out when it is pulled. Default: `user_id` and `owner_id`. None switches the check off.
    pub fn owner_fields<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Self {
        self.owner_fields = fields.into_iter().map(Into::into).collect();
        self
    }

    /// Fields whose values are hidden in events, at any depth. The data itself is never changed.
    pub fn mask<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Self {
        self.masked = fields.into_iter().map(Into::into).collect();
        self
    }

    /// Syncs a table, after what it depends on, when the stream names it: a push notification, a message on a WebSocket.
    pub fn hints<K: Into<FeatureKey> + 'static>(
        mut self,
        hints: impl Stream<Item = K> + Send + 'static,
    ) -> Self {
        self.hints.push(Box::pin(hints.map(Into::into)));
        self
    }

    /// Syncs everything each period, a tenth more or less. Default: never.
    pub fn every(mut self, period: Duration) -> Self {
        self.syncing.period = Some(period);
        self
    }

    /// How many rows are asked for at once. Default: 200.
    pub fn batch_size(mut self, rows: usize) -> Self {
        self.syncing.batch_size = rows;
        self
    }

    /// How many rows a page may have; more is a failure. It bounds the memory. Default: 1000.
    pub fn max_batch_size(mut self, rows: usize) -> Self {
        self.syncing.max_batch_size = rows;
        self
    }

    /// How many tables are synced side by side. Default: 2.
    pub fn max_concurrent(mut self, tables: usize) -> Self {
        self.syncing.max_concurrent = tables;
        self
    }

    /// The wait before a step of a sync is tried again, and before a record is that meets conflicts again and again. Default:
    /// exponential from 500 ms to 60 s, with equal jitter.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.syncing.backoff = backoff;
        self
    }

    /// How often each step of a sync is tried again. Default: 5.
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.syncing.max_retries = retries;
        self
    }

    /// The clock by which changes are dated. Default: the system's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.syncing.clock = Arc::new(clock);
        self
    }

    /// Checks everything, opens the tables, and starts to look after what is unsynced. Nothing is pulled before a call or a trigger.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when an option makes no sense, [`ErrorKind::WrongState`] when the tables hold rows of another user,
    /// what [`LocalStore::open`] says, and outside a tokio runtime.
    pub async fn build(mut self) -> Result<SyncEngine> {
        Handle::try_current()
            .map_err(|e| Error::invalid("build it inside a tokio runtime").with_source(e))?;
        let Some(user) = self.user.take() else {
            let text = "whose data is it? say it with `user(..)`; an app without users gives any fixed name";
            return Err(Error::invalid(text));
        };
        let mut names = BTreeSet::new();
        for table in &self.tables {
            table.check()?;
            if !names.insert(&table.name) {
                return Err(Error::invalid(format!(
                    "the table {:?} is there twice",
                    table.name
                )));
            }
        }
        self.vault.principal(user.clone())?;
        self.syncing.user.clone_from(&user);
        let core = Arc::new(self.core(user));
        core.open_tables(&self.tables).await?;
        for table in std::mem::take(&mut self.tables) {
            core.insert_desk(table).await?;
        }
        core.take_back_held().await?;
        let (hints, _) = broadcast::channel(HINTS_MAX);
        let orchestrator = self.syncing.orchestrator(&core, &hints)?;
        let (is_repaired, repaired) = watch::channel(false);
        let clerk = Clerk {
            events: core.vault.events(),
            core: core.clone(),
            is_repaired,
            due: BTreeSet::new(),
            busy: BTreeSet::new(),
            // The repair after a crash.
            sweep: Sweep::Due,
        };
        let mut tasks = vec![
            tokio::spawn(clerk.run()),
            forward(core.clone(), &orchestrator),
        ];
        tasks.extend(
            self.hints
                .into_iter()
                .map(|stream| pass_on(stream, hints.clone())),
        );
        let shared = Shared {
            core,
            syncing: self.syncing,
            orchestrator: RwLock::new(orchestrator),
            changing: tokio::sync::Mutex::default(),
            repaired,
            tasks: Mutex::new(tasks),
            hints,
            home: OnceLock::new(),
        };
        Ok(SyncEngine {
            shared: Arc::new(shared),
        })
    }

    fn core(&self, user: String) -> Core {
        Core {
            vault: self.vault.clone(),
            local: self.local.clone(),
            remote: self.remote.clone(),
            guards: Guards {
                user,
                payload_bytes_max: self.payload_bytes_max,
                owner_fields: self.owner_fields.clone(),
                masked: self.masked.clone(),
            },
            hub: TableHub::new(self.syncing.clock.clone(), EVENTS_MAX),
            backoff: self.syncing.backoff,
            desks: RwLock::new(BTreeMap::new()),
            tally: Tally::default(),
            is_closed: AtomicBool::new(false),
            is_auth_told: AtomicBool::new(false),
            sweep: Notify::new(),
        }
    }
}

fn pass_on(mut hints: HintStream, to: broadcast::Sender<FeatureKey>) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(hint) = hints.next().await {
            // Nobody listens while the tables change: the sync that follows sees it.
            drop(to.send(hint));
        }
    })
}

impl Syncing {
    /// A new orchestrator over the tables of now.
    pub(super) fn orchestrator(
        &self,
        core: &Arc<Core>,
        hints: &broadcast::Sender<FeatureKey>,
    ) -> Result<SyncOrchestrator> {
        let heard = stream::unfold(hints.subscribe(), |mut hints| async move {
            loop {
                match hints.recv().await {
                    Ok(hint) => return Some((hint, hints)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        let mut builder = SyncOrchestrator::builder()
            .user(self.user.clone())
            .checkpoints(LocalCheckpoints(core.clone()))
            .batch_size(self.batch_size)
            .max_batch_size(self.max_batch_size)
            .max_concurrent(self.max_concurrent)
            .backoff(self.backoff)
            .max_retries(self.max_retries)
            .min_interval(self.min_interval)
            .on_connectivity(steady(core.vault.watch_connection()))
            .hints(heard)
            .clock(SameClock(self.clock.clone()));
        if let Some(period) = self.period {
            builder = builder.every(period);
        }
        let features = features(core);
        features
            .into_iter()
            .fold(builder, |builder, feature| builder.feature(feature))
            .build()
    }
}

impl Core {
    /// Lets the store prepare, and checks whose rows are there.
    pub(super) async fn open_tables(&self, tables: &[Table]) -> Result<()> {
        for table in tables {
            table.check()?;
        }
        let specs: Vec<TableSpec> = tables
            .iter()
            .map(|table| TableSpec::new(&table.name))
            .collect();
        self.local.open(&specs).await?;
        for table in tables {
            let state = self.local.state(&table.name).await?;
            if state
                .user
                .as_ref()
                .is_some_and(|user| *user != self.guards.user)
            {
                let text = format!(
                    "the table {:?} holds rows of another user: log that one out first",
                    table.name
                );
                return Err(Error::new(ErrorKind::WrongState, text));
            }
        }
        Ok(())
    }

    pub(super) async fn insert_desk(&self, table: Table) -> Result<()> {
        let mut state = self.local.state(&table.name).await?;
        if state.user.is_none() {
            state.user = Some(self.guards.user.clone());
            let mut step = LocalStep::new();
            step.state = Some((table.name.clone(), state.clone()));
            self.local.commit(step).await?;
        }
        self.put_desk(Arc::new(Desk::new(table, state.generation)));
        Ok(())
    }

    pub(super) fn put_desk(&self, desk: Arc<Desk>) {
        let mut desks = self.desks.write().unwrap_or_else(PoisonError::into_inner);
        desks.insert(desk.table.name.clone(), desk);
    }

    pub(super) fn remove_desk(&self, table: &str) -> Option<Arc<Desk>> {
        self.desks
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(table)
    }
}

/// Without a flicker: a network that comes back again and again starts a sync each [`STEADY`], not each time.
fn steady(
    changes: impl Stream<Item = Connection> + Send + 'static,
) -> impl Stream<Item = Connection> + Send + 'static {
    let start = (Box::pin(changes), None::<Instant>);
    stream::unfold(start, |(mut changes, last_online)| async move {
        let now = changes.next().await?;
        if now == Connection::Offline {
            return Some((now, (changes, last_online)));
        }
        if let Some(last) = last_online {
            tokio::time::sleep_until(last + STEADY).await;
        }
        Some((now, (changes, Some(Instant::now()))))
    })
}

/// The engine's clock, for its orchestrators.
#[derive(Debug)]
struct SameClock(Arc<dyn Clock>);

impl Clock for SameClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
}

/// Checkpoints in the local store: saved in the commit of their page, or on their own.
#[derive(Debug)]
struct LocalCheckpoints(Arc<Core>);

impl CheckpointStore for LocalCheckpoints {
    fn load(&self, key: &CheckpointKey) -> CheckpointFuture<'_, Option<Checkpoint>> {
        let key = key.clone();
        Box::pin(async move { self.0.local.checkpoint(&key).await })
    }

    fn save(&self, checkpoint: &Checkpoint) -> CheckpointFuture<'_, ()> {
        let mut step = LocalStep::new();
        step.checkpoint = Some(checkpoint.clone());
        let saved: LocalFuture<'_, ()> = self.0.local.commit(step);
        saved
    }

    fn remove(&self, key: &CheckpointKey) -> CheckpointFuture<'_, ()> {
        let key = key.clone();
        Box::pin(async move { self.0.local.remove_checkpoint(&key).await })
    }
}

impl fmt::Debug for SyncEngineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncEngineBuilder")
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}
