//! Where a scenario takes place: a server, a clock, a disk, an app with its users; and the client, which is the vault or a
//! naive one. A scenario does not know which, and says what went wrong.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use syncvault::action::Origin;
use syncvault::clock::{Clock, Timestamp};
use syncvault::connectivity::{Connectivity, NetworkChange, NetworkChanges, ProbeFuture, Reach};
use syncvault::store::kv::KvStore;
use syncvault::testing::{FakeServer, Reply, Seen, TestClock};
use syncvault::{
    ActionId, Cancellation, ErrorKind, Paging, Replaced, SyncVault, SyncVaultBuilder, WhyPending,
    bearer,
};
use tokio::sync::Notify;

use super::disk::Disk;
use super::naive::{Habit, Naive};
use crate::dice::Dice;

pub(super) const BASE: &str = "http://api.example.com";
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);

/// How many seeds each scenario is run with.
pub(super) const SEEDS: Range<u64> = 0..20;

/// A request of the app. Its name is its path and its key.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    pub(super) name: String,
    pub(super) lane: Option<String>,
    pub(super) body: String,
    /// The body is this file.
    pub(super) file: Option<PathBuf>,
    /// The app puts its token on it, as it would on any request.
    pub(super) has_secret: bool,
}

impl Order {
    pub(super) fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            body: format!("the body of {name}"),
            name,
            ..Self::default()
        }
    }

    pub(super) fn lane(mut self, lane: impl Into<String>) -> Self {
        self.lane = Some(lane.into());
        self
    }

    pub(super) fn body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }
}

/// Who uses the app, which tokens are good, and what the system says of the network. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Town {
    state: Arc<Mutex<TownState>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct TownState {
    user: Option<String>,
    /// The number of the token that is good.
    token: u64,
    /// The numbers of those that users have.
    held: BTreeMap<String, u64>,
    /// How many times a new one was asked for.
    refreshes: u64,
    is_offline: bool,
}

impl Town {
    fn state(&self) -> MutexGuard<'_, TownState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The app's token for who uses it, as it has it.
    pub(super) fn token(&self) -> String {
        let user = self.state().user.clone();
        self.token_of(user.as_deref().unwrap_or("nobody"))
    }

    fn token_of(&self, user: &str) -> String {
        let held = self.state().held.get(user).copied().unwrap_or_default();
        format!("secret-of-{user}-{held}")
    }

    /// The token of an app that keeps it fresh by itself.
    pub(super) fn fresh_token(&self) -> String {
        let state = self.state();
        format!(
            "secret-of-{}-{}",
            state.user.as_deref().unwrap_or("nobody"),
            state.token
        )
    }

    fn refresh(&self, user: &str) {
        let mut state = self.state();
        let token = state.token;
        state.held.insert(user.to_owned(), token);
        state.refreshes += 1;
    }

    /// No token that anybody has is good any more.
    pub(super) fn expire_tokens(&self) {
        self.state().token += 1;
    }

    pub(super) fn refreshes(&self) -> u64 {
        self.state().refreshes
    }

    /// Is it one of whom, and good?
    pub(super) fn is_good(&self, seen: &Seen, user: &str) -> bool {
        let good = format!("Bearer secret-of-{user}-{}", self.state().token);
        let sent = seen.headers.get("authorization");
        sent.is_some_and(|sent| sent.as_bytes() == good.as_bytes())
    }

    pub(super) fn is_online(&self) -> bool {
        !self.state().is_offline
    }

    /// What the system says, rightly or not.
    pub(super) fn says_offline(&self, is_offline: bool) {
        self.state().is_offline = is_offline;
    }
}

/// What the system says is asked; a change is told.
impl Connectivity for Town {
    fn changes(&self) -> NetworkChanges {
        let town = self.clone();
        Box::pin(futures_util::stream::unfold(town, |town| async move {
            town.changed.notified().await;
            Some((NetworkChange::new(), town))
        }))
    }

    fn probe(&self, _origin: Origin) -> ProbeFuture<'_> {
        Box::pin(std::future::ready(match self.is_online() {
            true => Reach::Unproven,
            false => Reach::Unreachable,
        }))
    }
}

/// An attempt, as it came in.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) at: Timestamp,
    pub(super) name: String,
}

type Tune = fn(SyncVaultBuilder) -> SyncVaultBuilder;

/// A run of a scenario.
pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) server: FakeServer,
    pub(super) clock: TestClock,
    pub(super) disk: Disk,
    pub(super) town: Town,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    habits: Option<&'static [Habit]>,
    tune: Tune,
    /// Where the vault lies, when it does not lie on the disk of this run.
    place: Option<PathBuf>,
    opened: u64,
    seed: u64,
}

/// What went wrong.
#[derive(Debug, Default)]
pub(super) struct Wrongs(Vec<String>);

impl Wrongs {
    /// Says what is wrong, unless it is right.
    pub(super) fn unless(&mut self, is_right: bool, what: impl Into<String>) {
        if !is_right {
            self.0.push(what.into());
        }
    }

    /// Two things that must be the same.
    pub(super) fn same<T: PartialEq + Debug>(&mut self, found: T, wanted: T, what: &str) {
        let is_right = found == wanted;
        self.unless(
            is_right,
            format!("{what}: {found:?}, and should be {wanted:?}"),
        );
    }
}

/// Runs a scenario with each seed: the vault has nothing wrong, and each naive client has something wrong each time.
pub(super) fn pain(
    seeds: Range<u64>,
    naive: &[&'static [Habit]],
    scenario: impl AsyncFn(&mut World) -> Wrongs,
) {
    for seed in seeds {
        let wrongs = run(seed, None, &scenario).0;
        assert!(wrongs.is_empty(), "seed {seed}, the vault: {wrongs:#?}");
        for habits in naive {
            let wrongs = run(seed, Some(habits), &scenario).0;
            assert!(
                !wrongs.is_empty(),
                "seed {seed}: a naive client with {habits:?} has nothing wrong, so this shows nothing"
            );
        }
    }
}

fn run(
    seed: u64,
    habits: Option<&'static [Habit]>,
    scenario: &impl AsyncFn(&mut World) -> Wrongs,
) -> Wrongs {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    runtime
        .expect("a runtime")
        .block_on(async { scenario(&mut World::new(seed, habits)).await })
}

impl World {
    fn new(seed: u64, habits: Option<&'static [Habit]>) -> Self {
        let world = Self {
            dice: Dice::new(seed),
            server: FakeServer::new(),
            clock: TestClock::new(),
            disk: Disk::default(),
            town: Town::default(),
            arrivals: Arc::default(),
            habits,
            tune: |builder| builder,
            place: None,
            opened: 0,
            seed,
        };
        world.serve(|_, _| Reply::default());
        world
    }

    /// Options of the vault that the scenario is about; a naive client has none.
    pub(super) fn tune(&mut self, tune: Tune) {
        self.tune = tune;
    }

    /// Puts the vault into a directory, with the locks that go with it. A naive client has none.
    #[cfg(feature = "sled")]
    pub(super) fn lies_in(&mut self, place: &std::path::Path) {
        self.place = Some(place.join("vault"));
    }

    /// What the server does from now on. Each attempt is noted.
    pub(super) fn serve(&self, mut act: impl FnMut(&Seen, Timestamp) -> Reply + Send + 'static) {
        let (clock, arrivals) = (self.clock.clone(), self.arrivals.clone());
        self.server.script(move |seen| {
            let at = clock.now();
            let name = seen.path().trim_start_matches('/').to_owned();
            let arrival = Arrival { at, name };
            let mut noted = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            noted.push(arrival);
            act(seen, at)
        });
    }

    /// Every attempt so far.
    pub(super) fn arrivals(&self) -> Vec<Arrival> {
        let noted = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        noted.clone()
    }

    /// The client, on what is on the disk.
    pub(super) async fn open(&mut self) -> Result<Client, String> {
        self.open_on(self.disk.clone()).await
    }

    /// Another client, on a disk of its own.
    pub(super) async fn open_on(&mut self, disk: Disk) -> Result<Client, String> {
        self.opened += 1;
        if let Some(habits) = self.habits {
            let naive = Naive::open(self, &disk, habits)?;
            return Ok(Client::new(Kind::Naive(naive), &self.town));
        }
        let town = self.town.clone();
        let builder = match &self.place {
            Some(place) => SyncVault::builder(BASE).storage_path(place),
            None => SyncVault::builder(BASE).store(KvStore::inline(disk.plug())),
        };
        let builder = builder
            .transport(self.server.transport())
            .connectivity(self.town.clone())
            .clock(self.clock.clone())
            .credentials(move |request| {
                let user = request.principal.unwrap_or_else(|| "nobody".to_owned());
                if request.refresh == syncvault::Refresh::Yes {
                    town.refresh(&user);
                }
                std::future::ready(bearer(town.token_of(&user)))
            })
            .seed(self.seed * 1000 + self.opened);
        let user = self.town.state().user.clone();
        let builder = match user {
            Some(user) => builder.principal(user),
            None => builder,
        };
        let vault = (self.tune)(builder).build().await;
        let vault = vault.map_err(|error| error.to_string())?;
        Ok(Client::new(Kind::Vault(vault), &self.town))
    }

    /// The client, when it must open.
    pub(super) async fn opened(&mut self) -> Client {
        self.open().await.expect("an undamaged disk opens")
    }

    /// The process dies, and its client is started again.
    pub(super) async fn crash(&mut self, client: Client) -> Client {
        self.disk.cut();
        client.die().await;
        self.opened().await
    }

    /// How many times a request had its effect.
    pub(super) fn effects(&self, name: &str) -> usize {
        let path = format!("/{name}");
        let effects = self.server.effects();
        effects.iter().filter(|seen| seen.path() == path).count()
    }
}

pub(super) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// The client of a run.
pub(super) struct Client {
    kind: Kind,
    town: Town,
    /// What the app remembers of what it asked for.
    ids: Mutex<Vec<(String, Option<ActionId>)>>,
}

enum Kind {
    Vault(SyncVault),
    Naive(Naive),
}

/// What a client says about a request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Why {
    pub(super) reason: String,
    /// When something is done about it, if time does it.
    pub(super) next: Option<Timestamp>,
    /// Which request goes first.
    pub(super) behind: Option<String>,
}

impl Client {
    fn new(kind: Kind, town: &Town) -> Self {
        Self {
            kind,
            town: town.clone(),
            ids: Mutex::default(),
        }
    }

    fn ids(&self) -> MutexGuard<'_, Vec<(String, Option<ActionId>)>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self, name: &str) -> Option<ActionId> {
        let ids = self.ids();
        ids.iter().find(|(known, _)| known == name)?.1
    }

    fn name(&self, id: ActionId) -> Option<String> {
        let ids = self.ids();
        let known = ids.iter().find(|(_, known)| *known == Some(id))?;
        Some(known.0.clone())
    }

    /// The vault itself, for what only one of the two has.
    pub(super) fn vault(&self) -> Option<&SyncVault> {
        match &self.kind {
            Kind::Vault(vault) => Some(vault),
            Kind::Naive(_) => None,
        }
    }

    /// Queues a request. What is refused was not taken.
    pub(super) async fn post(&self, order: &Order) -> Result<(), ErrorKind> {
        let vault = match &self.kind {
            Kind::Vault(vault) => vault,
            Kind::Naive(naive) => {
                naive.post(order).map_err(|_| ErrorKind::Storage)?;
                self.ids().push((order.name.clone(), None));
                return Ok(());
            }
        };
        let mut request = vault
            .post(&order.name)
            .idempotency_key(&order.name)
            .header("accept", "application/json");
        request = match &order.file {
            Some(path) => request.body_file(path),
            None => request.body(order.body.clone()),
        };
        if let Some(lane) = &order.lane {
            request = request.lane(lane);
        }
        if order.has_secret {
            request = request.header("authorization", format!("Bearer {}", self.town.token()));
        }
        let ticket = request.enqueue().await.map_err(|error| error.kind())?;
        self.ids().push((order.name.clone(), Some(ticket.id())));
        Ok(())
    }

    /// Queues requests that must be taken.
    pub(super) async fn post_all(&self, orders: &[Order]) {
        for order in orders {
            self.post(order).await.expect("taken");
        }
    }

    /// The system tells that the network changed.
    pub(super) fn network_changed(&self) {
        match &self.kind {
            Kind::Vault(_) => self.town.changed.notify_one(),
            Kind::Naive(naive) => naive.wake(),
        }
    }

    /// Somebody logs in, with a token of its own.
    pub(super) fn login(&self, user: &str) {
        if let Kind::Vault(vault) = &self.kind {
            vault.principal(user).expect("a name");
        }
        self.town.state().user = Some(user.to_owned());
        if let Kind::Naive(naive) = &self.kind {
            naive.switched();
        }
    }

    /// Takes a request back. True when the client says that it did, and that the server never saw it.
    pub(super) async fn cancel(&self, name: &str) -> bool {
        match &self.kind {
            Kind::Naive(naive) => naive.cancel(name),
            Kind::Vault(vault) => {
                let id = self.id(name).expect("a request that was taken");
                vault.cancel(id).await.expect("cancel") == Cancellation::Cancelled
            }
        }
    }

    /// Queues a change of what another request creates: its path has the id that is in the answer to that one.
    pub(super) async fn post_change(&self, of: &str, name: &str) {
        let vault = match &self.kind {
            Kind::Vault(vault) => vault,
            // It has only its own name for it.
            Kind::Naive(naive) => {
                let order = Order::new(format!("{of}/{name}"));
                return naive.post(&order).expect("taken");
            }
        };
        let created = vault.response_of(self.id(of).expect("a request that was taken"));
        let change = vault
            .post(format!("/{{id}}/{name}"))
            .path_ref("id", created.json("/id"))
            .idempotency_key(name)
            .lane(of);
        change.enqueue().await.expect("taken");
    }

    /// Puts another body in the place of a request that waits. True when the client says that it did.
    pub(super) async fn edit(&self, name: &str, body: &str) -> bool {
        let vault = match &self.kind {
            Kind::Vault(vault) => vault,
            Kind::Naive(naive) => {
                let place = self.ids().iter().position(|(known, _)| known == name);
                return naive.edit(place.expect("a request that was taken"), body);
            }
        };
        let id = self.id(name).expect("a request that was taken");
        let request = vault.post(name).body(body.to_owned());
        let replaced = vault.replace(id, request).await.expect("replace");
        matches!(replaced, Replaced::Replaced(_))
    }

    /// Says why a request waits.
    pub(super) async fn why(&self, name: &str) -> Option<Why> {
        let vault = self.vault()?;
        let why = vault.why_pending(self.id(name)?).await.ok()?;
        let behind = match &why {
            WhyPending::Behind { first: id } | WhyPending::LaneBlocked { by: id } => self.name(*id),
            _ => None,
        };
        Some(Why {
            reason: why.to_string(),
            next: why.next(),
            behind,
        })
    }

    /// What waits, by name.
    pub(super) async fn pending(&self) -> Vec<String> {
        let vault = match &self.kind {
            Kind::Naive(naive) => return naive.pending(),
            Kind::Vault(vault) => vault,
        };
        let page = vault.pending_actions(Paging::first(1000)).await;
        let items = page.expect("a page").items;
        items.into_iter().map(|action| action.key).collect()
    }

    /// What was given up and is still there, by name.
    pub(super) async fn dead(&self) -> Vec<String> {
        let vault = match &self.kind {
            Kind::Naive(naive) => return naive.dead(),
            Kind::Vault(vault) => vault,
        };
        let page = vault.dead_letters().list(Paging::first(1000)).await;
        let items = page.expect("a page").items;
        items.into_iter().map(|letter| letter.action.key).collect()
    }

    /// Ends in order.
    pub(super) async fn shutdown(self, patience: Duration) {
        match self.kind {
            Kind::Naive(naive) => naive.shutdown(),
            Kind::Vault(vault) => vault.shutdown(patience).await.expect("shut down"),
        }
    }

    /// The process is gone: its disk is cut off.
    pub(super) async fn die(self) {
        match self.kind {
            Kind::Naive(naive) => naive.stop(),
            // With no disk it cannot end well; it must end.
            Kind::Vault(vault) => drop(vault.shutdown(Duration::ZERO).await),
        }
    }
}
