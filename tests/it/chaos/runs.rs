//! The runs: a vault lives several times on one store while the weather changes, then everything is healed and must
//! drain. What was told is held against what the server recorded.
//!
//! A seed fixes what is done, not how the threads take turns. A run that fails names its seed;
//! `SYNCVAULT_CHAOS_SEED=<seed>` makes every run of that test use it, `SYNCVAULT_CHAOS_RUNS=<n>` asks for more runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use syncvault::store::MemoryStore;
use syncvault::{ConnectivityMode, Event, SyncVault};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::history::History;
use super::lives::{self, CALLERS, Rest};
use super::weather::{Sky, Weather};
use crate::chaos_server::{Behaviour, ChaosServer};
use crate::dice::Dice;

/// How long a healed vault may take to drain.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// How many runs go side by side.
const SIDE_BY_SIDE: u64 = 4;

#[test]
fn chaos_on_a_store_in_memory_breaks_no_promise() {
    run_all(1000, 30, |_| Rest::Memory(MemoryStore::new()));
}

#[cfg(feature = "sled")]
#[test]
fn chaos_on_a_store_on_disk_breaks_no_promise() {
    let home = tempfile::tempdir().expect("a directory");
    run_all(2000, 10, |seed| {
        Rest::Directory(home.path().join(seed.to_string()))
    });
}

fn run_all(first: u64, runs: u64, rest: impl Fn(u64) -> Rest + Sync) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let runs = number("SYNCVAULT_CHAOS_RUNS").unwrap_or(runs);
    let seeds = match number("SYNCVAULT_CHAOS_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + runs,
    };
    let seeds = Mutex::new(seeds);
    let take = || seeds.lock().unwrap_or_else(PoisonError::into_inner).next();
    let broken = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(seed) = take() {
                    let found = run_one(seed, rest(seed));
                    let mut broken = broken.lock().unwrap_or_else(PoisonError::into_inner);
                    broken.extend(found.into_iter().map(|text| format!("seed {seed}: {text}")));
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    let text = broken.join("\n");
    assert!(
        broken.is_empty(),
        "{text}\nto see it again: SYNCVAULT_CHAOS_SEED=<seed>"
    );
}

fn run_one(seed: u64, rest: Rest) -> Vec<String> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut dice = Dice::new(seed);
        let server = ChaosServer::start().await;
        let has_auth = dice.percent(50);
        let weather = Weather::over(&server, has_auth, dice.split());
        let history = Arc::new(History::default());
        let mut run = Run {
            server,
            weather,
            history,
            rest: Arc::new(rest),
            dice,
            seed,
        };
        let lives = 2 + run.dice.place(2);
        for life in 0..lives {
            run.live(life).await;
        }
        run.heal().await
    })
}

struct Run {
    server: ChaosServer,
    weather: Weather,
    history: Arc<History>,
    rest: Arc<Rest>,
    dice: Dice,
    seed: u64,
}

/// A vault with a runtime of its own, so that it can be cut off at any point.
struct Life {
    runtime: Runtime,
    vault: SyncVault,
    callers: JoinSet<()>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Run {
    async fn begin(&mut self, life: usize) -> Life {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let (rest, weather, url) = (self.rest.clone(), self.weather.clone(), self.server.url());
        let (history, mut dice) = (self.history.clone(), self.dice.split());
        let seed = self.seed;
        let events = Arc::new(Mutex::new(Vec::new()));
        let into = events.clone();
        let begun = runtime.spawn(async move {
            let vault = lives::open(&rest, &url, &weather, seed).await;
            lives::collect(&vault, into).await;
            let callers = lives::call_all(&vault, &history, life, &mut dice);
            (vault, callers)
        });
        let (vault, callers) = begun.await.expect("the vault opens");
        Life {
            runtime,
            vault,
            callers,
            events,
        }
    }

    /// A life with bad weather and a random end.
    async fn live(&mut self, nth: usize) {
        let mut life = self.begin(nth).await;
        for _ in 0..8 + self.dice.below(8) {
            self.trouble(&life.vault).await;
            let pause = Duration::from_millis(self.dice.below(8));
            tokio::time::sleep(pause).await;
        }
        match self.dice.below(3) {
            0 => {
                let deadline = Duration::from_millis(self.dice.below(60));
                life.vault.shutdown(deadline).await.expect("shutdown");
            }
            1 => {
                life.callers.shutdown().await;
                let mut events = life.vault.events();
                drop(life.vault);
                while events.next().await.is_some() {}
            }
            // Cut off in the middle of whatever runs.
            _ => drop(life.vault),
        }
        let end = move || life.runtime.shutdown_timeout(DRAIN_MAX);
        tokio::task::spawn_blocking(end)
            .await
            .expect("the runtime ends");
        self.history.saw(std::mem::take(
            &mut *life.events.lock().unwrap_or_else(PoisonError::into_inner),
        ));
    }

    /// Something happens.
    async fn trouble(&mut self, vault: &SyncVault) {
        let dice = &mut self.dice;
        match dice.below(12) {
            0..4 => self.weather.change(dice),
            4 => {
                self.server.down().await;
                let away = Duration::from_millis(dice.below(12));
                tokio::time::sleep(away).await;
                self.server.up().await;
            }
            5 => {
                let after = dice.pick(&[0, 1, 20, 100, 300, 4_000, 60_000]);
                self.server.next(Behaviour::cut_request(after));
            }
            6 => match vault.is_paused() {
                true => vault.resume().await.expect("resume"),
                false => vault.pause().await.expect("pause"),
            },
            7 => {
                use ConnectivityMode::{Auto, Offline, Online};
                vault.set_connectivity(dice.pick(&[Auto, Offline, Online]));
            }
            8 => vault.notify_network_changed(),
            9 => {
                let patience = Duration::from_millis(dice.below(30));
                let passes = async { tokio::join!(vault.process_queue(), vault.process_queue()) };
                // Whether it ended or was dropped makes no difference.
                drop(tokio::time::timeout(patience, passes).await);
            }
            10 => self.cancel(vault).await,
            _ => self.weather.expire_tokens(),
        }
    }

    async fn cancel(&mut self, vault: &SyncVault) {
        let calls = self.history.calls();
        let newest = calls.iter().rev().find(|call| call.id().is_some());
        if let Some((call, id)) = newest.and_then(|call| Some((call, call.id()?)))
            && let Ok(syncvault::Cancellation::Cancelled) = vault.cancel(id).await
        {
            self.history.cancelled(&call.path);
        }
    }

    /// The last life: the weather clears in the middle of it, and nothing but time may be needed then.
    async fn heal(mut self) -> Vec<String> {
        let mut life = self.begin(99).await;
        for _ in 0..6 {
            self.trouble(&life.vault).await;
        }
        self.weather.set(Sky::Clear);
        if life.vault.is_paused() {
            life.vault.resume().await.expect("resume");
        }
        life.vault.set_connectivity(ConnectivityMode::Auto);
        let callers = async { while life.callers.join_next().await.is_some() {} };
        let mut broken = Vec::new();
        if tokio::time::timeout(DRAIN_MAX, callers).await.is_err() {
            broken.push("stuck: a call does not return".to_owned());
        }
        let idle = tokio::time::timeout(DRAIN_MAX, life.vault.wait_idle()).await;
        if idle.is_err() {
            let status = life.vault.status();
            broken.push(format!("stuck: not drained, {status:?}"));
        }
        self.note_ends(&life.vault, &mut broken).await;
        broken.extend(leftovers(&life.vault).await);
        life.vault
            .shutdown(Duration::from_secs(5))
            .await
            .expect("shutdown");
        let end = move || life.runtime.shutdown_timeout(DRAIN_MAX);
        tokio::task::spawn_blocking(end)
            .await
            .expect("the runtime ends");
        let events = life.events.lock().unwrap_or_else(PoisonError::into_inner);
        self.history.saw(events.clone());
        broken.extend(self.history.broken_promises(&self.server));
        broken
    }

    async fn note_ends(&self, vault: &SyncVault, broken: &mut Vec<String>) {
        for call in self.history.calls() {
            let Some(id) = call.id() else { continue };
            match vault.ticket(id).await.expect("ticket") {
                None => broken.push(format!("forgotten: {call:?}")),
                Some(ticket) => match ticket.end().await.expect("end") {
                    Some(end) => self.history.ended(&call.path, end),
                    None => {
                        let why = vault.why_pending(id).await;
                        broken.push(format!("stuck: {why:?} {}", call.path));
                    }
                },
            }
        }
    }
}

/// What a drained vault must not hold any more.
async fn leftovers(vault: &SyncVault) -> Vec<String> {
    let mut found = Vec::new();
    let ledger = vault.ledger().await.expect("ledger");
    let counts = *vault.status().counts();
    let dead = vault.dead_letters().count().await.expect("count");
    let is_clean = ledger.is_balanced()
        && (ledger.pending, ledger.evicted) == (0, 0)
        && (counts.pending, counts.in_flight, counts.dead) == (0, 0, dead)
        && vault.pending_count().await.expect("count") == 0;
    if !is_clean {
        found.push(format!("leftovers: {ledger:?} {counts:?}"));
    }
    for lane in CALLERS {
        let lane = vault.lane(lane).await.expect("lane");
        if lane != syncvault::store::LaneTotals::default() {
            found.push(format!("leftovers: {lane:?}"));
        }
    }
    found
}
