//! The process that is killed: opens a vault, enqueues in several lanes, sends directly, drains all the while, and
//! writes one line per fact to its standard output, after the fact, with one write.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use syncvault::connectivity::AlwaysReachable;
#[cfg(feature = "fjall")]
use syncvault::store::FjallStore;
use syncvault::store::Store;
#[cfg(feature = "sqlite")]
use syncvault::store::{Access, SqliteOptions, SqliteStore};
#[cfg(feature = "sled")]
use syncvault::store::{SledOptions, SledStore};
use syncvault::{
    Backoff, Delivery, Draining, Outcome, Paging, RetryPolicy, SyncVault, SyncVaultBuilder,
};
use tokio::process::Command;

use super::fork;
use super::history::{Holdings, Line, Place};
use crate::dice::Dice;

/// Where a child finds its job.
const JOB: &str = "SYNCVAULT_TEST_CHILD";

/// What a child does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) dir: PathBuf,
    pub(crate) url: String,
    pub(crate) cycle: u32,
    pub(crate) seed: u64,
    pub(crate) task: Task,
    pub(crate) draining: Drain,
    /// The longest body.
    pub(crate) bytes_max: usize,
    pub(crate) store: Kind,
    /// Whose lanes it fills: processes side by side have lanes of their own.
    pub(crate) tribe: String,
    pub(crate) is_sealed: bool,
}

/// The store under the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    #[cfg(feature = "fjall")]
    Fjall,
    #[cfg(feature = "sled")]
    Sled,
    #[cfg(feature = "sqlite")]
    Sqlite,
    /// SQLite that other processes may have open too.
    #[cfg(feature = "sqlite")]
    Shared,
}

impl Kind {
    fn is_shared(self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Shared => true,
            _ => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Makes actions until it is killed.
    Work,
    /// Lists what is pending.
    Audit,
    /// Waits until nothing is pending.
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Drain {
    Always,
    Never,
}

/// No more is made while so many wait: the suite shall not grow with its length.
const PENDING_MAX: u64 = 250;

/// A child of this test binary for a job; its lines come on its standard output.
pub(crate) fn command(job: &Job) -> Command {
    let program = std::env::current_exe().expect("the path of this binary");
    let mut command = Command::new(program);
    command
        .args(["--exact", "crash::child::runs_when_told_to", "--nocapture"])
        .env(JOB, serde_json::to_string(job).expect("a job as JSON"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Not a test: what [`command`] starts. Without a job it does nothing.
#[test]
fn runs_when_told_to() {
    let Ok(job) = std::env::var(JOB) else { return };
    let job: Job = serde_json::from_str(&job).expect("a job");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(run(job));
}

async fn run(job: Job) {
    let vault = open(&job).await;
    say(&Line::Open(holdings(&vault, None).await));
    let listed = match job.task {
        Task::Work => return work(&vault, &job).await,
        Task::Audit => audit(&vault).await,
        Task::Finish => {
            vault.wait_idle().await.expect("idle");
            audit(&vault).await
        }
    };
    say(&Line::Done(holdings(&vault, Some(listed)).await));
    vault
        .shutdown(Duration::from_secs(5))
        .await
        .expect("closed");
}

async fn open(job: &Job) -> SyncVault {
    let mut policy = RetryPolicy::default();
    policy.origin = crate::story::short_origin();
    policy.backoff = Backoff::fixed(Duration::from_millis(3));
    policy.origin_backoff = Backoff::fixed(Duration::from_millis(10));
    policy.max_retries = 10_000;
    let is_draining = job.draining == Drain::Always && job.task != Task::Audit;
    let draining = match is_draining {
        true => Draining::Background,
        false => Draining::OnRequest,
    };
    let built = builder(job)
        .shared_store(store(job))
        .retry_policy(policy)
        .draining(draining)
        .retention_limits(300, 1024 * 1024)
        .connectivity(AlwaysReachable::new())
        .build();
    built.await.expect("the vault opens")
}

fn store(job: &Job) -> Arc<dyn Store> {
    match job.store {
        #[cfg(feature = "fjall")]
        Kind::Fjall => Arc::new(FjallStore::open(&job.dir).expect("the store opens")),
        #[cfg(feature = "sled")]
        Kind::Sled => sled(job),
        #[cfg(feature = "sqlite")]
        Kind::Sqlite => sqlite(job, Access::Alone),
        #[cfg(feature = "sqlite")]
        Kind::Shared => sqlite(job, Access::Shared),
    }
}

/// With the shortest journal, so that it is brought into sled all the time.
#[cfg(feature = "sled")]
fn sled(job: &Job) -> Arc<dyn Store> {
    let mut options = SledOptions::default();
    options.journal_bytes = 256 * 1024;
    Arc::new(SledStore::open_with(&job.dir, options).expect("the store opens"))
}

#[cfg(feature = "sqlite")]
fn sqlite(job: &Job, access: Access) -> Arc<dyn Store> {
    let mut options = SqliteOptions::default();
    options.access = access;
    options.poll = Duration::from_millis(20);
    Arc::new(SqliteStore::open_with(&job.dir, options).expect("the store opens"))
}

#[cfg(feature = "encrypt")]
fn builder(job: &Job) -> SyncVaultBuilder {
    let builder = SyncVault::builder(&job.url).all_principals();
    match job.is_sealed {
        true => builder.encryption(syncvault::store::crypt::Key::new([7; 32])),
        false => builder,
    }
}

#[cfg(not(feature = "encrypt"))]
fn builder(job: &Job) -> SyncVaultBuilder {
    assert!(!job.is_sealed, "this build cannot seal");
    SyncVault::builder(&job.url)
}

async fn holdings(vault: &SyncVault, pending_listed: Option<u64>) -> Holdings {
    let ledger = vault.ledger().await.expect("ledger");
    Holdings {
        is_balanced: ledger.is_balanced(),
        enqueued: ledger.enqueued,
        delivered: ledger.delivered,
        dead: ledger.dead,
        pending: ledger.pending,
        pending_listed,
    }
}

/// Lists what is pending, and counts it.
async fn audit(vault: &SyncVault) -> u64 {
    let mut count = 0;
    let mut page = Some(Paging::first(500));
    while let Some(paging) = page {
        let listing = vault.pending_actions(paging).await.expect("a page");
        for action in &listing.items {
            say(&Line::Pending(action.url.path().to_owned()));
            count += 1;
        }
        page = listing.next;
    }
    count
}

async fn work(vault: &SyncVault, job: &Job) {
    let lanes = [
        ("q0", Way::Enqueue),
        ("q1", Way::Enqueue),
        ("q2", Way::Enqueue),
        ("ahead0", Way::WriteAhead),
        ("ahead1", Way::WriteAhead),
        ("onfail", Way::OnFailure),
        ("side0", Way::WriteAhead),
        ("side1", Way::WriteAhead),
    ];
    let mut producers = tokio::task::JoinSet::new();
    if job.is_sealed && job.store.is_shared() {
        producers.spawn(keep_sealing_anew(vault.clone()));
    }
    for (at, (lane, way)) in (0..).zip(lanes) {
        let producer = Producer {
            has_principals: job.is_sealed,
            vault: vault.clone(),
            lane: format!("{lane}{}", job.tribe),
            way,
            cycle: job.cycle,
            bytes_max: job.bytes_max,
            files: job.dir.with_extension("files"),
            dice: fork(job.seed, at),
        };
        producers.spawn(producer.run());
    }
    producers.join_all().await;
}

/// New keys, again and again, while others seal and open too.
async fn keep_sealing_anew(vault: SyncVault) {
    loop {
        vault.reencrypt().await.expect("sealed anew");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Enqueue,
    WriteAhead,
    OnFailure,
}

/// Makes the actions of one lane, one after the other.
struct Producer {
    vault: SyncVault,
    /// On behalf of somebody of its own for each lane: the lanes of a sealed vault have different keys then.
    has_principals: bool,
    lane: String,
    way: Way,
    cycle: u32,
    bytes_max: usize,
    /// Where the app keeps its own files.
    files: PathBuf,
    dice: Dice,
}

impl Producer {
    async fn run(mut self) {
        for n in 1.. {
            while self.vault.status().counts().pending >= PENDING_MAX {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let place = Place {
                lane: self.lane.clone(),
                cycle: self.cycle,
                n,
                bytes: self.size(),
            };
            let name = place.to_string();
            say(&Line::Try(name.clone()));
            let line = match self.make(&place).await {
                Outcome::Sent(_) if self.way == Way::OnFailure => Line::Answered(name),
                Outcome::Sent(_) | Outcome::Queued(_) => Line::Kept(name),
            };
            say(&line);
        }
    }

    /// Mostly small, also nothing at all; one of five is up to `bytes_max`, past what a store keeps beside its records.
    fn size(&mut self) -> usize {
        let (low, high) = match self.dice.below(5) {
            0 => (12, u64::from(self.bytes_max.ilog2()) + 1),
            _ => (0, 8),
        };
        let bits = low + self.dice.below(high - low + 1);
        self.dice.place((1 << bits) + 1).min(self.bytes_max)
    }

    async fn make(&mut self, place: &Place) -> Outcome {
        let mut request = self.vault.post(place.to_string());
        let file = self.file_of(place);
        request = match &file {
            Some(path) => request.body_file(path),
            None => request.body(place.body()),
        };
        if !place.lane.starts_with(Place::SIDE) {
            request = request.lane(&place.lane);
            if self.has_principals {
                request = request.principal(&place.lane);
            }
        }
        if self.dice.below(2) == 0 {
            request = request.idempotency_key(place.to_string());
        }
        let made = match self.way {
            Way::Enqueue => request.enqueue().await.map(Outcome::Queued),
            Way::WriteAhead => request.delivery(Delivery::WriteAhead).send().await,
            Way::OnFailure => request.delivery(Delivery::OnFailure).send().await,
        };
        if let Some(path) = file {
            std::fs::remove_file(path).expect("the file of the app is its own");
        }
        made.expect("an action is taken")
    }

    /// One of three bodies comes from a file, which the app removes once the action is taken.
    fn file_of(&mut self, place: &Place) -> Option<PathBuf> {
        if self.dice.below(3) != 0 {
            return None;
        }
        std::fs::create_dir_all(&self.files).expect("a directory of the app");
        let path = self.files.join(place.to_string().replace('/', "-"));
        std::fs::write(&path, place.body()).expect("a file of the app");
        Some(path)
    }
}

/// One line, in one write: a killed process leaves whole lines.
pub(crate) fn say(line: &Line) {
    let mut text = serde_json::to_string(line).expect("a line as JSON");
    text.push('\n');
    let mut out = std::io::stdout().lock();
    let said = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    said.expect("the parent listens");
}
