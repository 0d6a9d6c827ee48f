//! The parts of a running vault that everybody shares: the four seams, the options, the event hub,
//! and what is known about gates. No flow of its own.

mod batchers;
pub(crate) mod cached;
mod coalesce;
mod gates;
#[cfg(feature = "metrics")]
pub(crate) mod metrics;
#[cfg(not(feature = "metrics"))]
#[path = "parts/no_metrics.rs"]
pub(crate) mod metrics;
mod portal;
mod principals;
mod sleep;
mod stats;
mod url;
mod verify;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use http::HeaderName;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OwnedMutexGuard, watch};

use crate::action::{Action, Answer, DeadReason, Lane, Origin, Record, State};
use crate::clock::{Clock, Timestamp};
use crate::connectivity::Connectivity;
use crate::decide::{Classifier, Dice, Gate, GateKey, GateReason, KeyForm, RetryPolicy};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventHub, EventKind};
use crate::store::{Amend, Amended, Limits, OpenReport, Opened, Query, Retention, Store};
use crate::transport::{CredentialDesk, Transport};

pub(crate) use batchers::{Batched, Batchers};
pub(crate) use coalesce::{Base, CoalesceRule};
pub use coalesce::{Coalesced, Coalescing, Merge, WholeRequest};
pub(crate) use gates::GateBook;
pub(crate) use portal::{Guards, is_portal};
pub(crate) use principals::Principals;
pub(crate) use sleep::sleep_until;
pub(crate) use stats::Tallies;
pub use stats::{GateStats, OriginStats, Stats, VerdictCounts};
pub use verify::{IntoVerified, Unsure, Verified, VerifyError};
pub(crate) use verify::{ReadBody, VerifyHook};

/// A dead letter: an action that will not be tried again until somebody acts.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The action.
    pub action: Action,
    /// Why it died.
    pub reason: DeadReason,
    /// When it died.
    pub at: Timestamp,
    /// What is kept of the last answer, if there was one.
    pub answer: Option<Answer>,
}

/// Whether the vault believes that the network is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Connection {
    /// The base origin answers, or nothing is known against it.
    Online,
    /// The base origin could not be reached, or the app said so.
    Offline,
    /// A login page of the network stands before a server: somebody has to log in to the network.
    Portal,
}

/// What the app says about the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConnectivityMode {
    /// The vault finds out: results of requests, hints of the operating system, probes.
    #[default]
    Auto,
    /// Offline, whatever the network says: nothing is tried, except by `process_queue`.
    Offline,
    /// Online, whatever the hints say: an unreachable origin is retried by its backoff.
    Online,
}

/// When the queue is drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Draining {
    /// By itself, whenever something can go.
    #[default]
    Background,
    /// Only while a `process_queue` call runs.
    OnRequest,
}

pub(crate) type LetterCallback =
    Arc<dyn Fn(DeadLetter) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;
pub(crate) type LaneRule =
    Arc<dyn Fn(&crate::action::StoredRequest) -> Option<String> + Send + Sync>;

pub(crate) type TraceHook = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// Options that do not change while the vault lives.
pub(crate) struct Options {
    pub(crate) base: Url,
    pub(crate) base_origin: Origin,
    pub(crate) allowed_origins: Vec<Origin>,
    pub(crate) policy: RetryPolicy,
    pub(crate) limits: Limits,
    pub(crate) body_bytes_max: u64,
    pub(crate) file_bytes_max: u64,
    pub(crate) max_in_flight: usize,
    pub(crate) retention: Retention,
    pub(crate) key_header: HeaderName,
    pub(crate) key_form: KeyForm,
    /// How long servers remember keys; nothing = for ever.
    pub(crate) key_window: Option<Duration>,
    pub(crate) verify: Option<VerifyHook>,
    pub(crate) trace_context: Option<TraceHook>,
    pub(crate) draining: Draining,
    pub(crate) guards: Guards,
    /// Every request expects JSON, unless its `Accept` names HTML.
    pub(crate) expects_json: bool,
    /// Everything is sealed on disk: credentials may be stored.
    pub(crate) is_sealed: bool,
    pub(crate) classifier: Option<Arc<dyn Classifier>>,
    pub(crate) lane_by: Option<LaneRule>,
    pub(crate) coalesce_by: Option<CoalesceRule>,
    pub(crate) batchers: Batchers,
    pub(crate) on_dead_letter: Option<LetterCallback>,
    pub(crate) cache: cached::CacheSetting,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("base_origin", &self.base_origin)
            .field("policy", &self.policy)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Everything a running vault consists of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) connectivity: Arc<dyn Connectivity>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) desk: Option<CredentialDesk>,
    pub(crate) options: Options,
    pub(crate) hub: EventHub,
    pub(crate) cache: cached::CacheBook,
    pub(crate) mode: watch::Sender<ConnectivityMode>,
    pub(crate) connection: watch::Sender<Connection>,
    pub(crate) is_paused: AtomicBool,
    /// What opening the store was like.
    pub(crate) open_report: OnceLock<OpenReport>,
    pub(crate) is_closing: AtomicBool,
    /// The worker ended in order, and the store is closed.
    pub(crate) is_closed: AtomicBool,
    /// Held while a pause or a resume is written: the flag and the disk agree. Counts them.
    pausing: tokio::sync::Mutex<u64>,
    /// Somebody else changed what is stored.
    pub(crate) elsewhere: watch::Sender<()>,
    pub(crate) wake: Notify,
    pub(crate) tallies: Tallies,
    /// The timer that the worker sleeps on, in milliseconds; the end of time while it is awake, or has none.
    sleeps_until: AtomicU64,
    gates: Mutex<GateBook>,
    principals: Mutex<Principals>,
    dice: Mutex<Dice>,
    turns: Mutex<HashMap<Lane, Arc<tokio::sync::Mutex<()>>>>,
    /// Lanes of which a caller was told that its direct send is queued, and the store could not take that yet.
    told_early: Mutex<BTreeSet<Lane>>,
}

/// The seams and values that [`Parts`] is made of.
#[derive(Debug)]
pub(crate) struct Seams {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) connectivity: Arc<dyn Connectivity>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) desk: Option<CredentialDesk>,
}

impl Parts {
    pub(crate) fn new(
        seams: Seams,
        options: Options,
        hub: EventHub,
        gates: GateBook,
        dice: Dice,
    ) -> Self {
        let base = [options.base_origin.clone()];
        let tallies = Tallies::new(base.into_iter().chain(options.allowed_origins.clone()));
        Self {
            tallies,
            store: seams.store,
            transport: seams.transport,
            connectivity: seams.connectivity,
            clock: seams.clock,
            desk: seams.desk,
            cache: cached::CacheBook::new(&options.cache),
            options,
            hub,
            mode: watch::Sender::new(ConnectivityMode::Auto),
            connection: watch::Sender::new(Connection::Online),
            is_paused: AtomicBool::new(false),
            open_report: OnceLock::new(),
            is_closing: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            pausing: tokio::sync::Mutex::default(),
            elsewhere: watch::Sender::new(()),
            wake: Notify::new(),
            sleeps_until: AtomicU64::new(u64::MAX),
            gates: Mutex::new(gates),
            principals: Mutex::default(),
            dice: Mutex::new(dice),
            turns: Mutex::default(),
            told_early: Mutex::default(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn gates(&self) -> MutexGuard<'_, GateBook> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn principals(&self) -> MutexGuard<'_, Principals> {
        self.principals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// May something be sent on behalf of `principal` now?
    pub(crate) fn is_active(&self, principal: Option<&str>) -> bool {
        self.principals().allows(principal)
    }

    /// Makes another principal the active one. Nothing of the one before starts any more when it returns.
    pub(crate) fn switch_principal(&self, principal: Option<String>) {
        self.principals().switch(principal);
        self.wake.notify_one();
    }

    pub(crate) fn dice(&self) -> MutexGuard<'_, Dice> {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the store told when it opened.
    pub(crate) fn note_opened(&self, opened: &Opened) {
        self.is_paused.store(opened.is_paused, Ordering::Release);
        self.open_report.get_or_init(|| opened.report.clone());
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Acquire)
    }

    /// How many pauses and resumes of this vault are done; nothing while one is being written.
    pub(crate) fn pauses(&self) -> Option<u64> {
        self.pausing.try_lock().ok().map(|count| *count)
    }

    /// What the store says of a pause, which another process may have written; unless this vault wrote one since
    /// `pauses`. True when that lets it go on.
    pub(crate) fn heed_pause(&self, is_paused: Option<bool>, pauses: Option<u64>) -> bool {
        let (Some(is_paused), Ok(count)) = (is_paused, self.pausing.try_lock()) else {
            return false;
        };
        let is_newest = pauses == Some(*count);
        let was_paused = is_newest && self.is_paused.swap(is_paused, Ordering::AcqRel);
        was_paused && !is_paused
    }

    /// # Errors
    ///
    /// [`ErrorKind::Closed`] once a shutdown has begun.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.is_closing.load(Ordering::Acquire) {
            Err(Error::closed())
        } else {
            Ok(())
        }
    }

    /// May a request to `origin` on behalf of `principal` be tried right now?
    pub(crate) fn may_try(&self, origin: &Origin, principal: Option<&str>) -> bool {
        let now = self.now();
        self.opens_at(origin, principal, now) == Some(now)
            && !self.awaits_probe(origin)
            && self.lets_pass(origin, now)
    }

    /// A login page was met: a probe must go first. When the app says that the network is there, time decides.
    pub(crate) fn awaits_probe(&self, origin: &Origin) -> bool {
        *self.mode.borrow() == ConnectivityMode::Auto
            && self.gates().portal_before(origin).is_some()
    }

    /// Does what is remembered of an origin let a direct send pass? One that is held back counts as refused.
    pub(crate) fn lets_pass(&self, origin: &Origin, now: Timestamp) -> bool {
        let mut gates = self.gates();
        if gates.is_probed(origin, now) {
            return false;
        }
        let Some(k) = self.options.policy.origin.throttle else {
            return true;
        };
        let state = gates.state(origin);
        let passes = state.throttle.lets_pass(k, &mut self.dice());
        if !passes {
            state.throttle = state.throttle.refused(now);
        }
        passes
    }

    /// A direct send starts. Returns the gate to keep, when its start holds the next one back.
    pub(crate) fn note_direct(&self, origin: &Origin) -> Option<Gate> {
        let (now, policy) = (self.now(), &self.options.policy.origin);
        let mut gates = self.gates();
        gates.note_probe(origin, now);
        let state = gates.state(origin);
        if !state.is_paced(policy) {
            return None;
        }
        state.started(now, policy, &mut self.dice());
        Some(gates.of(origin, now))
    }

    /// When the gates of a request are open, at `now` or later; nothing while the app holds everything back.
    fn opens_at(
        &self,
        origin: &Origin,
        principal: Option<&str>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let is_offline = *self.mode.borrow() == ConnectivityMode::Offline;
        if self.is_paused() || is_offline || !self.is_active(principal) {
            return None;
        }
        let gates = self.gates();
        let principal = GateKey::Principal(principal.map(str::to_owned));
        let closed = [gates.origin(origin), gates.get(&principal)];
        let opens = closed.into_iter().flatten().map(|gate| gate.closed_until);
        let held = gates.held(origin, now).map(|hold| hold.until);
        Some(opens.chain(held).fold(now, Timestamp::max))
    }

    /// Wakes the worker for an action that was just queued, unless it will look in time by itself.
    ///
    /// The worker counts as awake from before its look at the store until its next sleep: an action that it did not
    /// see is woken for.
    pub(crate) fn wake_for(&self, record: &Record) {
        let now = self.now();
        let is_awaited = match self.opens_at(&record.origin, record.principal.as_deref(), now) {
            Some(opens) => {
                opens > now && opens.as_millis() >= self.sleeps_until.load(Ordering::SeqCst)
            }
            None => true,
        };
        // Its parents may have ended already: only a step finds out.
        let is_child = !record.parents.is_empty();
        if !is_awaited || is_child || record.expires.is_some() || self.awaits_probe(&record.origin)
        {
            self.wake.notify_one();
        }
    }

    /// The worker sleeps until then; for ever when there is no time.
    pub(crate) fn sleeps_until(&self, timer: Option<Timestamp>) {
        let millis = timer.map_or(u64::MAX, Timestamp::as_millis);
        self.sleeps_until.store(millis, Ordering::SeqCst);
    }

    /// Recomputes whether the base origin is believed to be there, and tells who watches.
    pub(crate) fn refresh_connection(&self) {
        let is_behind_portal = self.gates().is_any_behind_portal();
        self.hub.set_portal(is_behind_portal);
        let belief = match *self.mode.borrow() {
            ConnectivityMode::Offline => Connection::Offline,
            ConnectivityMode::Online => Connection::Online,
            ConnectivityMode::Auto if is_behind_portal => Connection::Portal,
            ConnectivityMode::Auto => {
                let gates = self.gates();
                let gate = gates.origin(&self.options.base_origin);
                let is_away =
                    |gate: &Gate| gate.failures > 0 && gate.reason == GateReason::Unreachable;
                if gate.is_some_and(is_away) {
                    Connection::Offline
                } else {
                    Connection::Online
                }
            }
        };
        self.connection
            .send_if_modified(|current| std::mem::replace(current, belief) != belief);
    }

    /// Publishes the newest counts. A store that cannot tell them now changes nothing about what it took: the verb before
    /// is done, and its caller must hear so.
    pub(crate) async fn publish_totals(&self) {
        match self.store.totals().await {
            Ok(totals) => self.hub.set_totals(totals),
            Err(error) => {
                self.hub.counts_are_behind();
                tracing::warn!(%error, "the counts are not up to date");
            }
        }
    }

    /// Makes a change that the app asked for, and tells who must know. In a task of its own: a caller that drops its
    /// future must not leave the change made and nobody told.
    pub(crate) async fn amend(self: &Arc<Self>, change: Amend) -> Result<Amended> {
        let parts = self.clone();
        let task = tokio::spawn(async move { parts.amend_and_tell(change).await });
        task.await.unwrap_or_else(|_| Err(Error::closed()))
    }

    async fn amend_and_tell(&self, change: Amend) -> Result<Amended> {
        let now = self.now();
        let _coming = match &change {
            Amend::Requeue { id, .. } => Some(self.hub.coming(*id)),
            _ => None,
        };
        let pause = match &change {
            Amend::Pause { paused } => Some(*paused),
            _ => None,
        };
        let pausing = match pause {
            Some(_) => Some(self.pausing.lock().await),
            None => None,
        };
        let is_forgetting = matches!(change, Amend::Forget { .. });
        if let Amend::Reencrypt { .. } = change {
            return self.store.amend(change).await;
        }
        let amended = self.store.amend(change).await?;
        if let (Some(paused), Some(mut count)) = (pause, pausing) {
            self.is_paused.store(paused, Ordering::Release);
            *count += 1;
        }
        self.publish_totals().await;
        if let Amended::Done(records) | Amended::More(records) = &amended {
            for record in records {
                if is_forgetting {
                    self.publish_evicted(record, now);
                    continue;
                }
                let kind = match record.state {
                    State::Cancelled { .. } => EventKind::Cancelled,
                    State::Queued { .. } => EventKind::Queued,
                    _ => continue,
                };
                self.hub.publish(record, kind, now);
            }
            self.wake.notify_one();
        }
        Ok(amended)
    }

    /// `record` is as it was before it went.
    fn publish_evicted(&self, record: &Record, now: Timestamp) {
        if record.state.is_pending() {
            let mut last = record.clone();
            last.revision += 1;
            self.hub.publish(&last, EventKind::Evicted, now);
        }
    }

    /// Removes all that is kept of a principal, step by step. Returns how many pending actions and dead letters went.
    pub(crate) async fn forget(self: &Arc<Self>, principal: String) -> Result<u64> {
        self.cache.forget().await;
        let mut evicted = 0;
        loop {
            let change = Amend::Forget {
                principal: principal.clone(),
                limit: Query::LIMIT_MAX,
            };
            let (records, is_done) = match self.amend(change).await? {
                Amended::Done(records) => (records, true),
                Amended::More(records) => (records, false),
                _ => {
                    let text = "the store did not say that the principal is forgotten";
                    return Err(Error::new(ErrorKind::Storage, text));
                }
            };
            let is_open = |record: &&Record| record.state.is_pending() || record.state.is_dead();
            evicted += records.iter().filter(is_open).count() as u64;
            if is_done {
                let key = GateKey::Principal(Some(principal));
                self.gates().remove(&key);
                return Ok(evicted);
            }
        }
    }

    /// Takes the turn in a named lane: its direct sends go one at a time, in the order of the calls. The default lane has
    /// no turns.
    pub(crate) async fn turn(&self, lane: &Lane) -> Option<OwnedMutexGuard<()>> {
        if lane.is_default() {
            return None;
        }
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(lane.clone()).or_default().clone()
        };
        Some(turn.lock_owned().await)
    }

    fn told_early(&self) -> MutexGuard<'_, BTreeSet<Lane>> {
        self.told_early
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the next settle, nothing passes what this lane holds, whatever the store says.
    pub(crate) fn hold_lane(&self, lane: Lane) {
        self.told_early().insert(lane);
    }

    /// Everything that finished is settled: the store knows again what lanes hold.
    pub(crate) fn release_lanes(&self) {
        self.told_early().clear();
    }

    pub(crate) fn is_lane_held(&self, lane: &Lane) -> bool {
        self.told_early().contains(lane)
    }

    /// Tells the app about a dead letter that is on disk. A panic in its callback is caught and logged.
    pub(crate) fn announce_dead(
        &self,
        record: &Record,
        reason: &DeadReason,
        answer: Option<Answer>,
    ) {
        let Some(callback) = self.options.on_dead_letter.clone() else {
            return;
        };
        let action = match Action::of(record) {
            Ok(action) => action,
            Err(error) => {
                tracing::error!(action = %record.id, %error, "a dead letter cannot be shown");
                return;
            }
        };
        let letter = DeadLetter {
            action,
            reason: reason.clone(),
            at: self.now(),
            answer,
        };
        let id = record.id;
        tokio::spawn(async move {
            let call = AssertUnwindSafe(async move { callback(letter).await });
            if call.catch_unwind().await.is_err() {
                tracing::error!(action = %id, "the dead-letter callback panicked");
            }
        });
    }
}
