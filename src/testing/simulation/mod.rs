//! A whole vault in a simulated world: its real builder, worker and rules, on a clock, a network, servers and a disk
//! that are made up, in one thread, from a seed. No time passes and nothing is touched outside the process.
//!
//! A run lives through several lives of a vault. An app of several callers sends in every way there is; the network
//! breaks, servers have bad hours, the disk crashes the process at any step, clocks jump, users switch. In the end
//! everything is healed, and the vault must drain. Then what the app was told is held against what the server saw:
//! each [`Promise`] that was broken is a [`Breach`]. The same seed gives the same run, to the last step.
//!
//! # A test of an app's own options
//!
//! ```
//! use syncvault::testing::simulation::Simulation;
//!
//! for seed in 0..20 {
//!     let report = Simulation::new(seed).tune(|builder| builder.max_in_flight(3)).run();
//!     assert!(report.is_clean(), "{report}");
//! }
//! ```
//!
//! # What it is not
//!
//! Nothing of sled, SQLite or fjall is simulated: beside the queue there is an engine in memory that keeps what was
//! committed. That an engine keeps its word is tested by cutting the power. Threads do not race here either.

mod app;
mod checker;
mod dice;
mod disk;
mod history;
mod life;
mod network;
mod plan;
mod report;
mod server;
mod trouble;
mod troubles;
mod world;

use std::fmt;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

use self::dice::Dice;
use self::disk::WorldEngine;
use self::life::Life;
use self::world::World;
use crate::builder::SyncVaultBuilder;
use crate::store::kv::KvStore;
use crate::store::{MemoryEngine, Store};

pub use report::{Breach, Promise, Report};
pub use trouble::{Injected, Trouble};

/// Gives the store again, as after a restart.
type Disk = Box<dyn Fn(&Arc<World>) -> Arc<dyn Store> + Send>;
type Tune = Box<dyn Fn(SyncVaultBuilder) -> SyncVaultBuilder + Send>;

/// How many lives a run may have. A disk that crashes at every step is healed before.
const LIVES_MAX: u64 = 50;

/// One run. See the [module](self).
#[must_use = "a simulation does nothing until `run()`"]
pub struct Simulation {
    seed: u64,
    requests: u64,
    is_traced: bool,
    disk: Option<Disk>,
    tune: Option<Tune>,
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("seed", &self.seed)
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

impl Simulation {
    /// How many requests the app makes unless told otherwise.
    pub const REQUESTS: u64 = 30;

    /// The run of a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            requests: Self::REQUESTS,
            is_traced: false,
            disk: None,
            tune: None,
        }
    }

    /// How many requests the app makes, about. Default: [`REQUESTS`](Self::REQUESTS).
    pub fn requests(mut self, requests: u64) -> Self {
        self.requests = requests;
        self
    }

    /// Keeps everything that happens for [`Report::trace`].
    pub fn traced(mut self) -> Self {
        self.is_traced = true;
        self
    }

    /// Sets options of the vault. Rules for retrying, the store, the seams and principals are set already: leave them.
    pub fn tune(
        mut self,
        tune: impl Fn(SyncVaultBuilder) -> SyncVaultBuilder + Send + 'static,
    ) -> Self {
        self.tune = Some(Box::new(tune));
        self
    }

    /// A store of your own. `reopen` gives it as after a restart: on what is durable, with nothing of what was in memory.
    /// With a store that has threads, a seed does not repeat to the last step.
    pub fn store(mut self, reopen: impl Fn() -> Arc<dyn Store> + Send + 'static) -> Self {
        self.disk = Some(Box::new(move |_| reopen()));
        self
    }

    /// Runs it. Must not be called inside an async runtime: it makes its own, one for each life of the vault.
    ///
    /// # Panics
    ///
    /// When the system gives no runtime.
    #[must_use]
    pub fn run(self) -> Report {
        let world = Arc::new(World::new(self.seed, self.requests, self.is_traced));
        let disk = self.disk.unwrap_or_else(|| {
            let kept = MemoryEngine::default();
            Box::new(move |world| {
                let engine = WorldEngine::new(kept.clone(), world.clone());
                Arc::new(KvStore::inline(engine))
            })
        });
        let mut dice = Dice::new(!self.seed);
        let lives = world.state().plan.lives;
        for nth in 0.. {
            if nth == LIVES_MAX {
                world.breach(Promise::Stuck, "the vault does not come up".to_owned());
                break;
            }
            let life = Life {
                world: world.clone(),
                dice: dice.split(),
                is_last: nth >= lives,
            };
            let runtime = paused_runtime();
            let is_over = runtime.block_on(async {
                world.begin_life();
                tokio::select! {
                    biased;
                    () = world.wait_crashed() => false,
                    is_over = life.live(&disk, self.tune.as_ref()) => is_over,
                }
            });
            runtime.block_on(async { world.end_life(dice.millis(0, 300_000)) });
            drop(runtime);
            if is_over {
                break;
            }
        }
        world.report(self.seed)
    }
}

/// A runtime whose time jumps to the next timer when nothing else is to be done.
fn paused_runtime() -> Runtime {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime in this thread needs no resource of the system but memory")
}
