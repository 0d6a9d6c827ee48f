//! Calls of the system that fail: the Nth of each thread, once or from then on, N = 1.. until none is left.

use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::*;
use crate::chaos_server::ChaosServer;
use crate::crash::child::{Drain, Job, Task, say};
use crate::crash::history::{History, Line, Witness};
use crate::crash::parent::Parent;
use crate::crash::report;

const JOB: &str = "SYNCVAULT_DISK_TROUBLE_CHILD";

/// How many actions a child makes: enough to turn the journal over.
const ACTIONS: u32 = 75;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Trouble {
    dir: PathBuf,
    url: String,
    store: Kind,
    is_sealed: bool,
}

/// Not a test: what runs under strace. Without a job it does nothing.
#[test]
fn makes_actions_when_told_to() {
    let Ok(job) = std::env::var(JOB) else { return };
    let job: Trouble = serde_json::from_str(&job).expect("a job");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(make_actions(job));
}

/// Says what was acknowledged, and goes on after an error: what comes after a failure must not be acknowledged falsely.
async fn make_actions(job: Trouble) {
    let opened = match job.is_sealed {
        true => sealed(job.store, &job.dir, &job.url, Draining::Background).await,
        false => vault(job.store, &job.dir, &job.url, Draining::Background).await,
    };
    let Ok(vault) = opened else { return };
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..3 {
        let vault = vault.clone();
        lanes.spawn(async move {
            for n in 0..ACTIONS / 3 {
                let bytes = [40, 3000, 7000, 7500, 12_000][n as usize % 5];
                let place = place(lane, 1, n, bytes);
                say(&Line::Try(place.to_string()));
                if enqueue(&vault, &place).await.is_ok() {
                    say(&Line::Kept(place.to_string()));
                }
            }
        });
    }
    lanes.join_all().await;
    let idle = tokio::time::timeout(Duration::from_millis(300), vault.wait_idle()).await;
    drop((idle, vault.shutdown(Duration::from_secs(1)).await));
}

/// What fails: which calls, with what, on which files (all of them where none is named).
struct Fault {
    calls: &'static str,
    error: &'static str,
    on: &'static [&'static str],
}

impl Fault {
    /// The keyring is only there when the vault is sealed.
    fn is_sealed(&self) -> bool {
        self.on == KEYRING
    }
}

const JOURNAL: &[&str] = &["journal/a", "journal/b", "journal/a.new", "journal/b.new"];
const MARKS: &[&str] = &["format.new", "ballast.new", "LOCK", "mark"];
const KEYRING: &[&str] = &["keyring.new", "keyring"];

const FAULTS: [Fault; 11] = [
    fault("fdatasync,fsync", "EIO", &[]),
    fault("fdatasync,fsync", "ENOSPC", &[]),
    fault("pwrite64", "ENOSPC", &[]),
    fault("pwrite64", "EIO", &[]),
    fault("write", "ENOSPC", JOURNAL),
    fault("write", "EIO", JOURNAL),
    fault("write", "ENOSPC", MARKS),
    fault("write", "EIO", MARKS),
    fault("fdatasync,fsync", "EIO", MARKS),
    fault("write", "EIO", KEYRING),
    fault("fdatasync,fsync", "EIO", KEYRING),
];

const fn fault(calls: &'static str, error: &'static str, on: &'static [&'static str]) -> Fault {
    Fault { calls, error, on }
}

#[derive(Default)]
struct Sums {
    runs: u32,
    fired: u32,
    acked: usize,
    lost: usize,
    findings: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs strace: tests/disk_trouble/run"]
async fn no_failing_call_makes_a_false_acknowledgement() {
    let Some(dir) = from_script("DIR") else {
        return;
    };
    let limit: u32 = std::env::var("SYNCVAULT_DISK_TROUBLE_LIMIT")
        .map_or(40, |limit| limit.parse().expect("a number"));
    report("store   calls            error   how         N  fired  acked  lost  findings");
    let mut all = Vec::new();
    for kind in KINDS {
        for fault in &FAULTS {
            for how in ["", "+"] {
                let sums = sweep(kind, fault, how, (&dir, limit)).await;
                all.extend(sums.findings);
            }
        }
    }
    assert!(all.is_empty(), "{all:#?}");
}

/// N = 1.. until it no longer fires, or the limit.
async fn sweep(kind: Kind, fault: &Fault, how: &str, (dir, limit): (&Path, u32)) -> Sums {
    let mut sums = Sums::default();
    for number in 1..=limit {
        let dir = dir.join("case");
        let has_fired = run(kind, fault, &format!("{number}{how}"), &dir, &mut sums).await;
        std::fs::remove_dir_all(&dir).expect("the case goes");
        sums.runs = number;
        if !has_fired {
            break;
        }
        sums.fired += 1;
    }
    let how = if how.is_empty() { "once" } else { "persistent" };
    let name = format!("{kind:?}").to_lowercase();
    let is_file = if fault.on.is_empty() { "" } else { "*" };
    report(&format!(
        "{name:<7} {:<16} {:<7} {how:<10} {:>2} {:>6} {:>6} {:>5} {:>9}",
        format!("{}{is_file}", fault.calls),
        fault.error,
        sums.runs,
        sums.fired,
        sums.acked,
        sums.lost,
        sums.findings.len()
    ));
    sums
}

async fn run(kind: Kind, fault: &Fault, when: &str, dir: &Path, sums: &mut Sums) -> bool {
    std::fs::create_dir_all(dir).expect("a directory");
    let server = ChaosServer::start().await;
    server.keep_digests();
    let mut history = History::default();
    let job = Trouble {
        dir: dir.join("vault"),
        url: server.url(),
        store: kind,
        is_sealed: fault.is_sealed(),
    };
    let log = dir.join("log");
    let mut child = Parent::of(traced(&job, fault, when, &log));
    while child.hear(&mut history).await.is_some() {}
    child.wait_dead_or_alive().await;
    let log = std::fs::read_to_string(&log).unwrap_or_default();

    let finish = Job {
        dir: job.dir,
        url: job.url,
        cycle: 0,
        seed: 0,
        task: Task::Finish,
        draining: Drain::Always,
        bytes_max: 0,
        store: kind,
        tribe: String::new(),
        is_sealed: fault.is_sealed(),
    };
    let left = Parent::start(&finish).listen_to_end(&mut history).await;
    let witness =
        Witness::of_processes(&server.received(), &server.effects(), &server.violations());
    let case = format!("{kind:?} {} {} when={when}", fault.calls, fault.error);
    let found = history.judge(&witness).into_iter();
    sums.findings
        .extend(found.map(|what| format!("{case}: {what}")));
    if left.pending > 0 {
        sums.findings.push(format!("{case}: stuck {left:?}"));
    }
    sums.acked += history.acked.len();
    sums.lost += history.acked.difference(&witness.done).count();
    log.contains("INJECTED")
}

fn traced(job: &Trouble, fault: &Fault, when: &str, log: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(log);
    command.arg("-e").arg(format!("trace={}", fault.calls));
    let (calls, error) = (fault.calls, fault.error);
    command
        .arg("-e")
        .arg(format!("inject={calls}:error={error}:when={when}"));
    for path in fault.on {
        command.arg("-P").arg(job.dir.join(path));
    }
    let program = std::env::current_exe().expect("the path of this binary");
    command
        .arg(program)
        .args(["--exact", "disk_trouble::calls::makes_actions_when_told_to"])
        .arg("--nocapture")
        .env(JOB, serde_json::to_string(job).expect("a job as JSON"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}
