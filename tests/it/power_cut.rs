//! Power cuts, driven by `tests/power_cut/run`, which says what they are and what they need. Here: the server, the
//! children, and what is made of their words. The child and the judge are those of the crash suite.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::chaos_server::ChaosServer;
use crate::crash::child::{Drain, Job, Kind as StoreKind, Task};
use crate::crash::history::{History, Holdings, Line, Place, Witness};
use crate::crash::parent::Parent;
use crate::crash::report;
use crate::dice::Dice;

/// Bodies that have no file of their own, in bytes.
const SMALL: usize = 4 * 1024;

/// How long the next word of a child may take.
const ACK_MAX: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and a loop device: tests/power_cut/run"]
async fn what_is_acknowledged_survives_power_cuts() {
    // Whoever runs all ignored tests without the script has no file system to cut.
    let Some(rig) = Rig::from_environment() else {
        return;
    };
    let mut dice = Dice::new(rig.seed);
    let mut sums = Sums::default();
    report(&format!("seed {}, {} cuts", rig.seed, rig.cuts));
    report("cut  kind     acks  kept-B  pending  open-ms  lost");
    let mut cut = 0;
    while cut < rig.cuts {
        // One vault and one server for five cuts: the first on a fresh store, the others on what the cuts before left.
        let mut vault = Vault::new(&rig, cut / 5, &mut dice).await;
        for kind in vault.kinds() {
            if cut == rig.cuts {
                break;
            }
            cut += 1;
            vault.cut(cut, kind, &mut dice, &mut sums).await;
        }
        vault.finish(&mut sums).await;
    }
    report(&format!(
        "{} cuts, {} acknowledged, {} lost, {} recovered unacknowledged, {} other findings",
        rig.cuts,
        sums.acked,
        sums.lost,
        sums.recovered,
        sums.findings.len()
    ));
    assert!(
        sums.lost == 0 && sums.findings.is_empty(),
        "{:#?}",
        sums.findings
    );
}

/// What the script made.
struct Rig {
    script: PathBuf,
    device: PathBuf,
    mount: PathBuf,
    cuts: u32,
    seed: u64,
    store: StoreKind,
    is_sealed: bool,
}

#[derive(Default)]
struct Sums {
    acked: usize,
    lost: usize,
    recovered: usize,
    findings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Right after the creation of the store: the first acknowledgement is the last.
    Fresh,
    /// Only enqueued, so that the store fills.
    Fill,
    /// Enqueued, sent and settled at once.
    Drain,
}

impl Rig {
    fn from_environment() -> Option<Self> {
        let variable = |name: &str| std::env::var(format!("SYNCVAULT_POWER_CUT{name}")).ok();
        let store = variable("_STORE")?;
        let (store, is_sealed) = match store.strip_prefix("sealed-") {
            Some(store) => (store, true),
            None => (&*store, false),
        };
        Some(Self {
            script: variable("")?.into(),
            device: variable("_DEVICE")?.into(),
            mount: variable("_MOUNT")?.into(),
            cuts: variable("_COUNT")?.parse().expect("the number of cuts"),
            seed: variable("_SEED")?.parse().expect("the seed"),
            store: serde_json::from_value(store.into()).expect("a store"),
            is_sealed,
        })
    }

    async fn arm(&self) -> Cutter {
        let mut command = Command::new(&self.script);
        command.arg("--arm").arg(&self.mount).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut cutter = Cutter {
            child: command.spawn().expect("the script"),
        };
        cutter.hear("armed").await;
        cutter
    }

    async fn remount(&self) {
        let mut command = Command::new(&self.script);
        command.arg("--remount").arg(&self.device).arg(&self.mount);
        let status = command.status().await.expect("the script");
        assert!(status.success(), "the file system does not come back");
    }
}

/// Holds the file system, ready to cut.
struct Cutter {
    child: Child,
}

impl Cutter {
    async fn hear(&mut self, want: &str) {
        let out = self.child.stdout.as_mut().expect("a pipe");
        let mut line = String::new();
        let read = BufReader::new(out).read_line(&mut line).await;
        read.expect("a line of the script");
        assert_eq!(line.trim(), want);
    }

    async fn cut(mut self) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        input.write_all(b"now\n").await.expect("the script listens");
        self.hear("cut").await;
        self.child.wait().await.expect("its end");
    }
}

/// One vault on the file system, and all that was said about it.
struct Vault<'r> {
    rig: &'r Rig,
    server: ChaosServer,
    history: History,
    job: Job,
}

impl<'r> Vault<'r> {
    async fn new(rig: &'r Rig, number: u32, dice: &mut Dice) -> Self {
        let server = ChaosServer::start().await;
        server.keep_digests();
        // Without big bodies too: the syncs of their files would cover for one that is missing elsewhere.
        let bytes_max = match number % 2 {
            0 => 1024 * 1024,
            _ => SMALL,
        };
        let job = Job {
            dir: rig.mount.join(format!("vault-{number}")),
            url: server.url(),
            cycle: 0,
            seed: dice.next(),
            task: Task::Work,
            draining: Drain::Always,
            bytes_max,
            store: rig.store,
            tribe: String::new(),
            is_sealed: rig.is_sealed,
        };
        Self {
            rig,
            server,
            history: History::default(),
            job,
        }
    }

    /// A long drain leaves as much behind as a child keeps waiting: filling comes before it.
    fn kinds(&self) -> [Kind; 5] {
        use Kind::{Drain, Fill, Fresh};
        match self.job.bytes_max {
            SMALL => [Fresh, Fill, Drain, Drain, Drain],
            _ => [Fresh, Drain, Fill, Drain, Fill],
        }
    }

    fn job(&self, task: Task) -> Job {
        let mut job = self.job.clone();
        job.task = task;
        job
    }

    async fn cut(&mut self, number: u32, kind: Kind, dice: &mut Dice, sums: &mut Sums) {
        self.job.cycle = number;
        self.job.seed = dice.next();
        self.job.draining = match kind {
            Kind::Drain => Drain::Always,
            Kind::Fresh | Kind::Fill => Drain::Never,
        };
        let acks_wanted = match kind {
            Kind::Fresh => 1,
            // Enough for a journal to be brought into its engine, several times.
            Kind::Drain if self.job.bytes_max == SMALL => 300 + dice.place(300),
            Kind::Fill | Kind::Drain => 1 + dice.place(60),
        };
        let before = self.history.acked.clone();
        let cutter = self.rig.arm().await;
        let mut parent = Parent::start(&self.job);
        parent.listen_until_open(&mut self.history).await;
        while self.history.acked.len() < before.len() + acks_wanted {
            let line = tokio::time::timeout(ACK_MAX, parent.hear(&mut self.history)).await;
            let line = line.expect("an acknowledgement in time");
            assert!(line.is_some(), "the child ended by itself");
        }
        // A call that is in the kernel while the file system goes may say that it synced: no machine does that.
        parent.freeze().await;
        cutter.cut().await;
        parent.kill_dead_or_alive(&mut self.history).await;
        self.server.down().await;
        self.rig.remount().await;
        let (found, pending, open) = self.audit().await;
        let lost = self.lost(&pending);
        let fresh = self.history.acked.difference(&before);
        report(&format!(
            "{number:>3}  {:<7} {:>5} {:>7} {:>8} {:>8} {:>5}",
            format!("{kind:?}").to_lowercase(),
            self.history.acked.len() - before.len(),
            fresh.map(|place| place.bytes).sum::<usize>(),
            found.pending,
            open.as_millis(),
            lost.len()
        ));
        sums.lost += lost.len();
        sums.acked += lost.len();
        // What is lost is counted once, and not owed any more.
        self.history.forget(&lost);
        self.server.up().await;
    }

    /// Opens the vault, sends nothing, and lists what is there.
    async fn audit(&mut self) -> (Holdings, BTreeSet<Place>, Duration) {
        let started = Instant::now();
        let mut parent = Parent::start(&self.job(Task::Audit));
        parent.listen_until_open(&mut self.history).await;
        let open = started.elapsed();
        let mut pending = BTreeSet::new();
        loop {
            match parent.hear(&mut self.history).await {
                Some(Line::Pending(place)) => drop(pending.insert(place.parse().expect("a place"))),
                Some(Line::Done(found)) => {
                    parent.wait_for_end().await;
                    return (found, pending, open);
                }
                Some(_) => {}
                None => panic!("the audit ended early"),
            }
        }
    }

    /// Acknowledged, and neither done at the server nor pending.
    fn lost(&self, pending: &BTreeSet<Place>) -> BTreeSet<Place> {
        let effects = self.server.effects();
        let done = effects
            .iter()
            .map(|effect| effect.path.parse().expect("a place"));
        let done: BTreeSet<Place> = done.collect();
        let acked = self.history.acked.iter();
        acked
            .filter(|place| !done.contains(place) && !pending.contains(place))
            .cloned()
            .collect()
    }

    async fn finish(mut self, sums: &mut Sums) {
        self.job.draining = Drain::Always;
        let parent = Parent::start(&self.job(Task::Finish));
        let left = parent.listen_to_end(&mut self.history).await;
        let witness = Witness::new(
            &self.server.received(),
            &self.server.effects(),
            &self.server.violations(),
        );
        sums.acked += self.history.acked.len();
        sums.recovered += witness.done.difference(&self.history.acked).count();
        sums.findings.extend(self.history.judge(&witness));
        if left.pending > 0 {
            sums.findings.push(format!("stuck: {left:?}"));
        }
        std::fs::remove_dir_all(&self.job.dir).expect("the vault's directory goes");
    }
}
