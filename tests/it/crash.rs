//! The crash suite: a child makes and drains actions, each acknowledgement goes over a pipe to this process, which
//! kills the child with SIGKILL at a random moment, again and again on the same vault. Here, and so out of the reach of
//! the kill, lives the server too. At the end all is drained and judged: see [`history`].
//!
//! `SYNCVAULT_CRASH_CYCLES` sets the number of kills (200), `SYNCVAULT_CRASH_SEED` repeats the dice of a run.

pub(crate) mod child;
pub(crate) mod history;
pub(crate) mod parent;

use std::collections::HashMap;
use std::io::Write as _;
use std::time::Duration;

use crate::chaos_server::{Behaviour, Break, ChaosServer, Received};
use crate::dice::Dice;

use child::{Drain, Job, Kind, Task};
use history::{History, Witness};
use parent::Parent;

#[cfg(feature = "sled")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_doubled_or_reordered_by_kill_9() {
    run(Kind::Sled).await;
}

#[cfg(feature = "fjall")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_doubled_or_reordered_by_kill_9_on_fjall() {
    run(Kind::Fjall).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_doubled_or_reordered_by_kill_9_on_sqlite() {
    run(Kind::Sqlite).await;
}

#[cfg(all(feature = "encrypt", feature = "sled"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_vault_loses_nothing_by_kill_9_either() {
    run_sealed(Kind::Sled).await;
}

#[cfg(all(feature = "encrypt", feature = "fjall"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_vault_loses_nothing_by_kill_9_on_fjall_either() {
    run_sealed(Kind::Fjall).await;
}

#[cfg(all(feature = "encrypt", feature = "sqlite"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_vault_loses_nothing_by_kill_9_on_sqlite_either() {
    run_sealed(Kind::Sqlite).await;
}

async fn run(store: Kind) {
    judge(
        store,
        false,
        number("SYNCVAULT_CRASH_CYCLES").unwrap_or(200),
    )
    .await;
}

/// An eighth of the kills, unless the number is set: what sealing adds is the keyring, and that is written once.
#[cfg(feature = "encrypt")]
async fn run_sealed(store: Kind) {
    judge(store, true, number("SYNCVAULT_CRASH_CYCLES").unwrap_or(25)).await;
}

async fn judge(store: Kind, is_sealed: bool, cycles: u64) {
    let seed = number("SYNCVAULT_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let sealed = if is_sealed { "sealed " } else { "" };
    report(&format!(
        "crash suite on {sealed}{store:?}: seed {seed}, {cycles} kills"
    ));
    let mut suite = Suite::new(seed, store).await;
    suite.is_sealed = is_sealed;
    for cycle in 1..=u32::try_from(cycles).expect("a count") {
        suite.kill_once(cycle).await;
    }
    let found = suite.finish().await;
    assert!(found.is_empty(), "seed {seed}: {found:#?}");
}

struct Suite {
    dir: tempfile::TempDir,
    server: ChaosServer,
    dice: Dice,
    history: History,
    kills_in_recovery: u32,
    seed: u64,
    store: Kind,
    is_sealed: bool,
}

impl Suite {
    async fn new(seed: u64, store: Kind) -> Self {
        let server = ChaosServer::start().await;
        server.keep_digests().script(misbehave(seed));
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            server,
            dice: Dice::new(seed),
            history: History::default(),
            kills_in_recovery: 0,
            seed,
            store,
            is_sealed: false,
        }
    }

    fn job(&mut self, cycle: u32, task: Task) -> Job {
        Job {
            dir: self.dir.path().join("vault"),
            url: self.server.url(),
            cycle,
            seed: self.dice.next(),
            task,
            draining: Drain::Always,
            bytes_max: 48 * 1024,
            store: self.store,
            tribe: String::new(),
            is_sealed: self.is_sealed,
        }
    }

    /// One child from its birth to its end. A quarter of them dies while it opens the vault that the one before it left.
    async fn kill_once(&mut self, cycle: u32) {
        let is_server_up = self.dice.below(8) != 0;
        if is_server_up {
            self.server.up().await;
        }
        let job = self.job(cycle, Task::Work);
        let mut parent = Parent::start(&job);
        if self.dice.below(4) == 0 {
            let delay = Duration::from_micros(self.dice.below(120_000));
            parent.listen_for(delay, &mut self.history).await;
            self.kills_in_recovery += 1;
        } else {
            parent.listen_until_open(&mut self.history).await;
            let (one, other) = (self.dice.below(296), self.dice.below(296));
            let delay = Duration::from_millis(5 + one.min(other));
            parent.listen_for(delay, &mut self.history).await;
        }
        parent.kill(&mut self.history).await;
        // What the dead child still had on the wire must not arrive after the first words of the next one.
        self.server.down().await;
        if cycle.is_multiple_of(20) {
            let job = self.job(cycle, Task::Audit);
            Parent::start(&job).listen_to_end(&mut self.history).await;
        }
    }

    /// Heals all, drains, and judges.
    async fn finish(mut self) -> Vec<String> {
        self.server.up().await;
        let job = self.job(0, Task::Finish);
        let left = Parent::start(&job).listen_to_end(&mut self.history).await;
        let witness = Witness::new(
            &self.server.received(),
            &self.server.effects(),
            &self.server.violations(),
        );
        let mut found = self.history.judge(&witness);
        if left.pending > 0 {
            found.push(format!("stuck: {left:?}"));
        }
        let History {
            tried,
            acked,
            opens,
            ..
        } = &self.history;
        let recovered = witness.done.difference(acked).count();
        report(&format!(
            "crash suite on {:?}: seed {}: {opens} opens, {} kills in recovery, {} tried, {} acknowledged, {} attempts, \
             {} effects, {recovered} recovered unacknowledged, {} findings",
            self.store,
            self.seed,
            self.kills_in_recovery,
            tried.len(),
            acked.len(),
            witness.attempts,
            witness.done.len(),
            found.len()
        ));
        found
    }
}

/// Other dice, the same for the same seed and number.
pub(crate) fn fork(seed: u64, number: u64) -> Dice {
    Dice::new(seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93)).split()
}

/// A server on a middling day: some answers are late, refused or lost, and each request succeeds in the end.
pub(crate) fn misbehave(seed: u64) -> impl FnMut(&Received, usize) -> Option<Behaviour> {
    let mut dice = fork(seed, 7);
    let mut attempts = HashMap::<String, u32>::new();
    move |received, _| {
        let attempt = attempts.entry(received.path.clone()).or_default();
        *attempt += 1;
        let late = Duration::from_millis(dice.below(8));
        Some(match dice.below(100) {
            _ if *attempt > 3 => Behaviour::status(200),
            0..4 => Behaviour::status(500),
            4..6 => Behaviour::status(503),
            6..9 => Behaviour::drop_answer(),
            9..11 => Behaviour::cut_response(20, Break::Reset),
            11..13 => Behaviour::cut_request(usize::MAX),
            13..40 => Behaviour::status(200).after(late),
            _ => Behaviour::status(200),
        })
    }
}

pub(crate) fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number")),
    )
}

/// A line for whoever reads the output of the run; the harness does not swallow it.
pub(crate) fn report(text: &str) {
    writeln!(std::io::stdout().lock(), "{text}").expect("standard output");
}
