//! `SyncVaultBuilder`: every option with its default and its check. A bad one is an error that names it.

mod batching;
#[cfg(feature = "cache")]
mod cache;
mod check;
mod citizen;
mod coalesce;
#[cfg(feature = "encrypt")]
mod encrypting;
mod files;
mod opening;
mod portal;
mod principals;
mod rules;
mod starting;
mod trace;
mod window;

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::action::{Origin, StoredRequest};
use crate::clock::{Clock, SystemClock};
use crate::connectivity::Connectivity;
use crate::decide::{Backoff, Classifier, Counted, DeadLane, KeyForm, RetryPolicy};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::parts::cached;
use crate::parts::{
    CoalesceRule, DeadLetter, Draining, GateBook, LaneRule, LetterCallback, Options, Seams,
    TraceHook, VerifyHook,
};
use crate::request::{check_url, word};
use crate::store::{Amend, Limits, Retention, Store};
use crate::transport::{
    CredentialDesk, CredentialRequest, IntoCredentials, ReqwestTransport, Timeouts, Transport,
};
use crate::vault::SyncVault;

use batching::Batching;
use check::{bad, is_loopback, key_header, option, parse_url, within};
use opening::{open, open_store};
use portal::{Portals, probing};
use rules::Rules;
use window::KEY_WINDOW;

/// How long a body may be, unless the app says otherwise.
const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Builds a [`SyncVault`]. Every option has a default that is safe.
///
/// ```
/// # async fn example() -> syncvault::Result<()> {
/// use std::time::Duration;
/// use syncvault::SyncVault;
///
/// let vault = SyncVault::builder("https://api.example.com/v1")
///     .storage_path("vault")
///     .max_retries(10)
///     .read_timeout(Duration::from_secs(60))
///     .pending_max(10_000)
///     .build()
///     .await?;
/// # Ok(()) }
/// ```
#[must_use = "a builder does nothing until `build()`"]
pub struct SyncVaultBuilder {
    base_url: String,
    storage_path: Option<PathBuf>,
    store: Option<Arc<dyn Store>>,
    client: Option<reqwest::Client>,
    transport: Option<Arc<dyn Transport>>,
    connectivity: Option<Arc<dyn Connectivity>>,
    clock: Arc<dyn Clock>,
    timeouts: Timeouts,
    policy: RetryPolicy,
    rules: Rules,
    limits: Limits,
    body_bytes_max: Option<u64>,
    file_bytes_max: Option<u64>,
    max_in_flight: usize,
    retention: Retention,
    key_header: String,
    key_form: KeyForm,
    event_buffer: usize,
    draining: Draining,
    allowed: Vec<String>,
    portals: Portals,
    key_window: Option<Duration>,
    verify: Option<VerifyHook>,
    trace_context: Option<TraceHook>,
    desk: Option<CredentialDesk>,
    classifier: Option<Arc<dyn Classifier>>,
    lane_by: Option<LaneRule>,
    coalesce_by: Option<CoalesceRule>,
    batching: Batching,
    on_dead_letter: Option<LetterCallback>,
    seed: Option<u64>,
    principal: Option<String>,
    is_everybody_sent: bool,
    seal: Option<opening::SealStore>,
    cache: cached::CacheSetting,
}

impl fmt::Debug for SyncVaultBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncVaultBuilder")
            .field("storage_path", &self.storage_path)
            .field("timeouts", &self.timeouts)
            .field("policy", &self.policy)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl SyncVault {
    /// A vault for the server at `base_url`, an `http` or `https` URL. Relative paths of requests join it.
    pub fn builder(base_url: impl Into<String>) -> SyncVaultBuilder {
        SyncVaultBuilder::new(base_url.into())
    }

    /// Opens the vault in the directory `path`, with the default store and default options.
    ///
    /// # Errors
    ///
    /// As [`SyncVaultBuilder::build`].
    pub async fn open(base_url: impl Into<String>, path: impl AsRef<Path>) -> Result<Self> {
        Self::builder(base_url).storage_path(path).build().await
    }
}

impl SyncVaultBuilder {
    fn new(base_url: String) -> Self {
        Self {
            base_url,
            storage_path: None,
            store: None,
            client: None,
            transport: None,
            connectivity: None,
            clock: Arc::new(SystemClock),
            timeouts: Timeouts::default(),
            policy: RetryPolicy::default(),
            rules: Rules::default(),
            limits: Limits::default(),
            body_bytes_max: None,
            file_bytes_max: None,
            max_in_flight: 16,
            retention: Retention::default(),
            key_header: "idempotency-key".to_owned(),
            key_form: KeyForm::default(),
            event_buffer: 1024,
            draining: Draining::default(),
            allowed: Vec::new(),
            portals: Portals::default(),
            key_window: Some(KEY_WINDOW),
            verify: None,
            trace_context: None,
            desk: None,
            classifier: None,
            lane_by: None,
            coalesce_by: None,
            batching: Batching::default(),
            on_dead_letter: None,
            seed: None,
            principal: None,
            is_everybody_sent: false,
            seal: None,
            cache: cached::CacheSetting::default(),
        }
    }

    /// The directory of the vault, made if it is not there. One process at a time. Needs the feature `sled`.
    pub fn storage_path(mut self, path: impl AsRef<Path>) -> Self {
        self.storage_path = Some(path.as_ref().to_owned());
        self
    }

    /// A store of your own, instead of [`storage_path`](Self::storage_path).
    pub fn store(mut self, store: impl Store) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// A store that is shared already, instead of [`storage_path`](Self::storage_path).
    pub fn shared_store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// A reqwest client of your own. It must not retry, follow redirects or keep cookies: see
    /// [`ReqwestTransport::from_builder`], which takes care of that.
    pub fn client(mut self, client: reqwest::Client) -> Self {
        self.client = Some(client);
        self
    }

    /// Another way to the wire, instead of reqwest.
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// Another source of what is known about the network. Default: changes that the operating system reports (feature
    /// `net-watch`) and probes of the origin itself.
    pub fn connectivity(mut self, connectivity: impl Connectivity) -> Self {
        self.connectivity = Some(Arc::new(connectivity));
        self
    }

    /// Another clock, for tests.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// How long connecting may take: name, TCP and TLS together. Default: 10 seconds. Not used with a client of your own.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.connect = timeout;
        self
    }

    /// How long the server may be silent. Default: 30 seconds.
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.read = timeout;
        self
    }

    /// How long one attempt may take in all, for requests that set no timeout of their own. Default: no limit.
    pub fn total_timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.total = Some(timeout);
        self
    }

    /// The rules for trying again, all at once. The single options below go over it, in whatever order they are called.
    pub fn retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// How many counted retries an action gets. Default: 10. Being offline, 429 and 503 do not count.
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.rules.max_retries = Some(retries);
        self
    }

    /// The wait of an action between its attempts. Default: 2 seconds doubling to 10 minutes, full jitter.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.rules.backoff = Some(backoff);
        self
    }

    /// How long an origin waits that is not there or not well, and how often it is looked for again. Default: 1 second
    /// doubling to 60 seconds, full jitter.
    ///
    /// # A server that is known to come back soon
    ///
    /// ```
    /// use std::time::Duration;
    /// use syncvault::{Backoff, SyncVault};
    ///
    /// let often = Backoff::exponential(Duration::from_millis(100), Duration::from_secs(2));
    /// let builder = SyncVault::builder("http://192.168.1.20").origin_backoff(often);
    /// ```
    pub fn origin_backoff(mut self, backoff: Backoff) -> Self {
        self.rules.origin_backoff = Some(backoff);
        self
    }

    /// The longest `Retry-After` that is honoured. Default: 1 hour.
    pub fn retry_after_max(mut self, max: Duration) -> Self {
        self.rules.retry_after_max = Some(max);
        self
    }

    /// With `true`, attempts that did not reach the server count too: an outage longer than the retries then makes dead
    /// letters. Default: `false`.
    pub fn count_unreachable(mut self, count: bool) -> Self {
        self.rules.unreachable = Some(if count { Counted::Yes } else { Counted::No });
        self
    }

    /// What a lane does when its first action becomes a dead letter. Default: the lane goes on.
    ///
    /// Let it wait when later actions make no sense without earlier ones:
    ///
    /// ```
    /// use syncvault::{DeadLane, SyncVault};
    /// let builder = SyncVault::builder("https://api.example.com").dead_lane(DeadLane::Block);
    /// ```
    pub fn dead_lane(mut self, lane: DeadLane) -> Self {
        self.rules.dead_lane = Some(lane);
        self
    }

    /// How many queued actions are on the wire at once, 1 to 1024. Default: 16. One per lane at most.
    pub fn max_in_flight(mut self, max: usize) -> Self {
        self.max_in_flight = max;
        self
    }

    /// How many actions the vault holds, pending and dead together. Default: 1,000,000. Beyond it, requests are refused
    /// with [`ErrorKind::Full`]; nothing is dropped.
    pub fn pending_max(mut self, max: u64) -> Self {
        self.limits.actions_max = max;
        self
    }

    /// How many bytes of requests the vault holds, pending and dead together. Default: 1 GiB.
    pub fn bytes_max(mut self, max: u64) -> Self {
        self.limits.bytes_max = max;
        self
    }

    /// How long a body in memory may be. Default: 16 MiB, or `bytes_max` if that is less.
    pub fn body_bytes_max(mut self, max: u64) -> Self {
        self.body_bytes_max = Some(max);
        self
    }

    /// How long keys and answers of settled actions are remembered, unless the disk is full. Default: 24 hours.
    pub fn key_retention(mut self, age: Duration) -> Self {
        self.retention.age = age;
        self
    }

    /// How many settled actions are remembered, and how many bytes of their answers, oldest out first. Default: 100,000
    /// and 64 MiB.
    pub fn retention_limits(mut self, count: u64, bytes: u64) -> Self {
        self.retention.count = count;
        self.retention.bytes = bytes;
        self
    }

    /// The header that carries the idempotency key, and its form. Default: `Idempotency-Key`, bare.
    pub fn idempotency_header(mut self, name: impl Into<String>, form: KeyForm) -> Self {
        self.key_header = name.into();
        self.key_form = form;
        self
    }

    /// How many events a slow reader may be behind before it loses some, 1 to 1,048,576. Default: 1024.
    pub fn event_buffer(mut self, events: usize) -> Self {
        self.event_buffer = events;
        self
    }

    /// When the queue is drained. Default: in the background.
    pub fn draining(mut self, draining: Draining) -> Self {
        self.draining = draining;
        self
    }

    /// Allows requests to another origin, given as a URL.
    pub fn allow_origin(mut self, url: impl Into<String>) -> Self {
        self.allowed.push(url.into());
        self
    }

    /// Puts credentials on each attempt; they are never stored. The closure is asked for every attempt, and once with
    /// `refresh` when the server answered 401.
    ///
    /// # A token
    ///
    /// ```
    /// # async fn token() -> String { String::new() }
    /// use syncvault::{SyncVault, bearer};
    /// let builder = SyncVault::builder("https://api.example.com")
    ///     .credentials(|_request| async { bearer(token().await) });
    /// ```
    ///
    /// # A token that is kept in memory, and renewed when the server refuses it
    ///
    /// ```
    /// # async fn kept() -> Option<String> { None }
    /// # async fn renew() -> std::io::Result<String> { Ok(String::new()) }
    /// use syncvault::{SyncVault, bearer, transport::Refresh};
    ///
    /// let builder = SyncVault::builder("https://api.example.com").credentials(|request| async move {
    ///     match (request.refresh, kept().await) {
    ///         (Refresh::No, Some(token)) => Ok(bearer(token)),
    ///         _ => renew().await.map(bearer),
    ///     }
    /// });
    /// ```
    pub fn credentials<F, Fut, C>(mut self, provider: F) -> Self
    where
        F: Fn(CredentialRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = C> + Send + 'static,
        C: IntoCredentials,
    {
        self.desk = Some(CredentialDesk::new(provider));
        self
    }

    /// Your own reading of what came back, asked before the verdict table.
    pub fn classifier(mut self, classifier: impl Classifier) -> Self {
        self.classifier = Some(Arc::new(classifier));
        self
    }

    /// Derives the lane of requests that name none, by resource, say. Nothing = the default lane.
    ///
    /// ```
    /// use syncvault::SyncVault;
    ///
    /// // `/jobs/7/photos` and `/jobs/7/done` keep their order; `/jobs/8/done` does not wait for them.
    /// let builder = SyncVault::builder("https://api.example.com")
    ///     .lane_by(|request| request.url.path().split('/').nth(2).map(str::to_owned));
    /// ```
    pub fn lane_by<F>(mut self, rule: F) -> Self
    where
        F: Fn(&StoredRequest) -> Option<String> + Send + Sync + 'static,
    {
        self.lane_by = Some(Arc::new(rule));
        self
    }

    /// Called for each dead letter, after it is on disk. A panic in it is caught.
    ///
    /// ```
    /// # async fn alert(text: String) {}
    /// use syncvault::SyncVault;
    ///
    /// let builder = SyncVault::builder("https://api.example.com")
    ///     .on_dead_letter(|letter| async move { alert(format!("{}: {}", letter.action.key, letter.reason)).await });
    /// ```
    pub fn on_dead_letter<F, Fut>(mut self, callback: F) -> Self
    where
        F: Fn(DeadLetter) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.on_dead_letter = Some(Arc::new(move |letter| Box::pin(callback(letter))));
        self
    }

    /// Makes the jitter repeatable, for tests.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Checks the options, opens the store and starts the vault. Needs a tokio runtime with time and I/O.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a bad option, which it names; [`ErrorKind::Locked`] when another process has the vault;
    /// [`ErrorKind::Corrupt`] and storage errors when the store cannot be opened.
    pub async fn build(mut self) -> Result<SyncVault> {
        let options = self.check()?;
        let seams = self.seams(&options).await?;
        let now = seams.clock.now();
        let opened = open(&*seams.store, now).await?;
        options.cache.check_store(&*seams.store).await?;
        let until = now.after(options.policy.wait_max());
        seams.store.amend(Amend::Hasten { until }).await?;
        let mut gates = GateBook::new(opened.gates.clone());
        gates.hasten(until);
        Ok(self.start(seams, options, &opened, gates))
    }

    fn check(&mut self) -> Result<Options> {
        let base = option("base_url", parse_url(&self.base_url))?;
        option("base_url", check_url(&base))?;
        let principal = self.principal.take();
        let principal = principal.map(|name| word("principal", name)).transpose();
        self.principal = option("principal", principal)?;
        if base.query().is_some() || base.fragment().is_some() {
            return Err(bad("base_url", "must have no query string and no fragment"));
        }
        let allowed = self.allowed.iter().map(|url| Origin::of(&parse_url(url)?));
        let allowed_origins = option("allow_origin", allowed.collect::<Result<Vec<_>>>())?;
        let policy = self.rules.over(self.policy);
        option("retry_policy", policy.check())?;
        let timeouts = [
            ("connect_timeout", self.timeouts.connect),
            ("read_timeout", self.timeouts.read),
            (
                "total_timeout",
                self.timeouts.total.unwrap_or(Duration::MAX),
            ),
            ("key_retention", self.retention.age),
        ];
        if let Some((name, _)) = timeouts.iter().find(|(_, time)| time.is_zero()) {
            return Err(bad(name, "must be longer than zero"));
        }
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        if let Some((name, _)) = timeouts[..2].iter().find(|(_, time)| *time > DAY) {
            return Err(bad(name, "must be at most a day"));
        }
        within("max_in_flight", self.max_in_flight as u64, 1, 1024)?;
        within("event_buffer", self.event_buffer as u64, 1, 1024 * 1024)?;
        within("pending_max", self.limits.actions_max, 1, u64::MAX)?;
        within("bytes_max", self.limits.bytes_max, 1, u64::MAX)?;
        let body_bytes_max = self
            .body_bytes_max
            .unwrap_or(BODY_BYTES_MAX.min(self.limits.bytes_max));
        within("body_bytes_max", body_bytes_max, 1, self.limits.bytes_max)?;
        let key_header = key_header(&self.key_header)?;
        option("cache", self.cache.check())?;
        Ok(Options {
            guards: self.guards(&base)?,
            expects_json: self.portals.expects_json,
            base_origin: Origin::of(&base)?,
            base,
            allowed_origins,
            policy,
            limits: self.limits,
            body_bytes_max,
            file_bytes_max: self.checked_file_bytes_max()?,
            max_in_flight: self.max_in_flight,
            retention: self.retention,
            key_header,
            key_form: self.key_form,
            key_window: self.key_window,
            verify: self.verify.take(),
            trace_context: self.trace_context.take(),
            draining: self.draining,
            classifier: self.classifier.take(),
            is_sealed: self.seal.is_some(),
            lane_by: self.lane_by.take(),
            coalesce_by: self.coalesce_by.take(),
            batchers: self.batchers()?,
            on_dead_letter: self.on_dead_letter.take(),
            cache: self.cache.clone(),
        })
    }

    async fn seams(&mut self, options: &Options) -> Result<Seams> {
        let store = match (self.store.take(), self.storage_path.take()) {
            (Some(_), Some(_)) => {
                return Err(bad(
                    "store",
                    "and `storage_path` exclude each other: give one",
                ));
            }
            (Some(store), None) => store,
            (None, Some(path)) => open_store(path).await?,
            (None, None) => {
                return Err(bad(
                    "storage_path",
                    "is missing: say where to keep requests",
                ));
            }
        };
        let store = opening::sealed_or_plain(store, self.seal.take()).await?;
        let transport: Arc<dyn Transport> = match (self.transport.take(), self.client.take()) {
            (Some(_), Some(_)) => {
                return Err(bad(
                    "transport",
                    "and `client` exclude each other: give one",
                ));
            }
            (Some(transport), None) => transport,
            (None, Some(client)) => Arc::new(ReqwestTransport::from_client(client, self.timeouts)),
            (None, None) if is_loopback(&options.base) => {
                // A proxy of the environment cannot reach this machine's own servers.
                let client = reqwest::Client::builder().no_proxy();
                Arc::new(ReqwestTransport::from_builder(client, self.timeouts)?)
            }
            (None, None) => Arc::new(ReqwestTransport::new(self.timeouts)?),
        };
        let connectivity = match self.connectivity.take() {
            Some(connectivity) => connectivity,
            None => Arc::new(probing(options)?),
        };
        Ok(Seams {
            store,
            transport,
            connectivity,
            clock: self.clock.clone(),
            desk: self.desk.take(),
        })
    }
}
