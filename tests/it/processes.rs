//! Several processes on one SQLite file. Each enqueues and sends in lanes of its own; one at a time drains, and is killed
//! with SIGKILL at a random moment, again and again, while the others go on. What a dead process had leased goes out all
//! the same, and in order. The child and the judge are those of the crash suite.

use std::path::Path;
use std::time::Duration;

use syncvault::connectivity::AlwaysReachable;
use syncvault::store::{Access, SqliteOptions, SqliteStore};
use syncvault::{Draining, End, SyncVault};

use crate::chaos_server::ChaosServer;
use crate::crash::child::{Drain, Job, Kind, Task};
use crate::crash::fork;
use crate::crash::history::{History, Witness};
use crate::crash::parent::Parent;
use crate::crash::{misbehave, number, report};
use crate::dice::Dice;

/// Children of one tribe, one after the other, each killed.
struct Tribe {
    name: &'static str,
    job: Job,
    dice: Dice,
    history: History,
}

impl Tribe {
    async fn live(mut self, kills: u32) -> Self {
        for cycle in 1..=kills {
            self.job.cycle = cycle;
            self.job.seed = self.dice.next();
            let mut parent = Parent::start(&self.job);
            parent.listen_until_open(&mut self.history).await;
            let delay = Duration::from_millis(20 + self.dice.below(300));
            parent.listen_for(delay, &mut self.history).await;
            parent.kill(&mut self.history).await;
        }
        self
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_on_one_file_relieve_each_other_and_lose_nothing() {
    relieve_each_other(false).await;
}

/// Each also gives the vault new keys all the time, and destroys the old ones.
#[cfg(feature = "encrypt")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_on_one_sealed_file_relieve_each_other_and_lose_nothing() {
    relieve_each_other(true).await;
}

async fn relieve_each_other(is_sealed: bool) {
    let kills = number("SYNCVAULT_CRASH_CYCLES").unwrap_or(60) / 3;
    let kills = u32::try_from(kills).expect("a count");
    let seed = number("SYNCVAULT_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    report(&format!(
        "processes: sealed {is_sealed}, seed {seed}, 3 x {kills} kills"
    ));
    let server = ChaosServer::start().await;
    server.keep_digests().script(misbehave(seed));
    let dir = tempfile::tempdir().expect("a directory");
    let job = |tribe: &str| Job {
        is_sealed,
        dir: dir.path().join("vault"),
        url: server.url(),
        cycle: 0,
        seed,
        task: Task::Work,
        draining: Drain::Always,
        bytes_max: 16 * 1024,
        store: Kind::Shared,
        tribe: tribe.to_owned(),
    };
    let tribe = |at, name| Tribe {
        name,
        job: job(name),
        dice: fork(seed, at),
        history: History::default(),
    };
    let (a, b, c) = tokio::join!(
        tribe(1, "a").live(kills),
        tribe(2, "b").live(kills),
        tribe(3, "c").live(kills)
    );
    let mut history = History::default();
    for tribe in [a, b, c] {
        report(&format!(
            "  {}: {} opens, {} tried, {} acknowledged",
            tribe.name,
            tribe.history.opens,
            tribe.history.tried.len(),
            tribe.history.acked.len()
        ));
        history.join(tribe.history);
    }
    let mut last = job("a");
    last.task = Task::Finish;
    let left = Parent::start(&last).listen_to_end(&mut history).await;
    let witness =
        Witness::of_processes(&server.received(), &server.effects(), &server.violations());
    let mut found = history.judge(&witness);
    if left.pending > 0 {
        found.push(format!("stuck: {left:?}"));
    }
    assert!(found.is_empty(), "seed {seed}: {found:#?}");
}

/// A vault of one process among several; here all are in one, and as strange to each other.
async fn member(url: &str, dir: &Path, draining: Draining) -> SyncVault {
    let mut options = SqliteOptions::default();
    options.access = Access::Shared;
    options.poll = Duration::from_millis(10);
    let built = SyncVault::builder(url)
        .store(SqliteStore::open_with(dir, options).expect("the store"))
        .connectivity(AlwaysReachable::new())
        .draining(draining)
        .build();
    built.await.expect("a vault")
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let soon = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let soon = tokio::time::timeout(Duration::from_secs(20), soon).await;
    assert!(soon.is_ok(), "{what}");
}

#[tokio::test]
async fn what_one_enqueues_another_sends_and_the_ticket_hears_of_its_end() {
    let (server, dir) = (ChaosServer::start().await, tempfile::tempdir());
    let dir = dir.expect("a directory");
    let app = member(&server.url(), dir.path(), Draining::OnRequest).await;
    let drainer = member(&server.url(), dir.path(), Draining::Background).await;
    let ticket = app.post("/1").enqueue().await.expect("queued");
    let end = ticket.wait().await.expect("its end");
    assert!(matches!(end, End::Delivered(_)), "{end:?}");
    app.wait_idle().await.expect("idle");
    assert_eq!(drainer.ledger().await.expect("ledger").delivered, 1);
}

#[tokio::test]
async fn a_pause_holds_for_every_process_and_any_may_end_it() {
    let (server, dir) = (ChaosServer::start().await, tempfile::tempdir());
    let dir = dir.expect("a directory");
    let one = member(&server.url(), dir.path(), Draining::Background).await;
    let other = member(&server.url(), dir.path(), Draining::Background).await;
    one.pause().await.expect("paused");
    eventually("the other is paused", || other.is_paused()).await;
    let ticket = one.post("/1").enqueue().await.expect("queued");
    other.resume().await.expect("resumed");
    eventually("the one goes on", || !one.is_paused()).await;
    ticket.wait().await.expect("delivered");
    assert_eq!(server.effects().len(), 1);
}
