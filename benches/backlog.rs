//! What a million pending actions cost: to enqueue behind them, to count them, to open the vault, in memory, to
//! drain. A whole vault on the real disk.
//!
//! `cargo bench --bench backlog`, or `-- [<store>] [<count> [<directory>]]`, with the stores that are compiled in
//! (`sled`, `sqlite`, `fjall`, and each with `-sealed`). It takes some minutes.
#![expect(clippy::print_stdout, reason = "it prints a table")]

#[path = "backlog/child.rs"]
mod child;
#[path = "support/log.rs"]
mod log;
#[path = "backlog/memory.rs"]
mod memory;
#[path = "support/report.rs"]
mod report;
#[path = "support/server.rs"]
mod server;
#[path = "support/stores.rs"]
mod stores;
#[path = "support/work.rs"]
mod work;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use syncvault::SyncVault;
use tokio::runtime::Runtime;

use child::{Place, Reopened};
use log::{Log, frame};
use report::{Run, grouped, print_table, verdict};
use server::Server;
use work::{Noise, Outcome, scratch};

const COUNT: usize = 1_000_000;
const SAMPLE: usize = 2_000;
const WRITERS: usize = 256;
/// A slow machine fills less.
const FILL_MAX: Duration = Duration::from_secs(240);
const MIB: u64 = 1024 * 1024;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["serve", delay] => return server::serve(Duration::from_millis(delay.parse()?)),
        ["reopen", url, store, dir, drains] => {
            return child::run(url, (store, Path::new(dir)), drains == "drain");
        }
        _ => {}
    }
    if !args.contains(&"--bench") {
        println!("this measures; run it with `cargo bench --bench backlog`");
        return Ok(());
    }
    let args: Vec<&str> = args
        .into_iter()
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let (store, args) = match args.split_first() {
        Some((store, args)) if stores::names().iter().any(|name| name == store) => (*store, args),
        _ => (stores::DEFAULT, &args[..]),
    };
    let count = args.first().map_or(Ok(COUNT), |count| count.parse())?;
    let dir = scratch(args.get(1).map(Path::new))?;
    let place = (store, dir.path());
    let server = Server::start(Duration::ZERO)?;
    let mut table = Table::default();
    let runtime = work::runtime()?;
    fill(&runtime, &server.url, place, count, &mut table)?;
    drop(runtime);
    table.note("store", store);
    table.note(
        "on disk",
        format!("{} MiB", disk_bytes(&dir.path().join("vault"))? / MIB),
    );
    reopen(&server.url, place, &mut table)?;
    let heads = ["what", "measured", "wanted", "verdict"];
    print_table(&heads, &table.rows);
    Ok(())
}

#[derive(Debug, Default)]
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn note(&mut self, what: &str, measured: impl Into<String>) {
        self.row(what, measured.into(), "", "");
    }

    fn row(&mut self, what: &str, measured: String, wanted: &str, verdict: &str) {
        println!("{what}: {measured}");
        self.rows.push(
            [what, &*measured, wanted, verdict]
                .map(str::to_owned)
                .into(),
        );
    }
}

/// Everything that is measured in the process that fills the vault.
fn fill(
    runtime: &Runtime,
    url: &str,
    place: Place<'_>,
    count: usize,
    table: &mut Table,
) -> Outcome<()> {
    let noise = Arc::new(Noise::new());
    let mut log = Log::create(&place.1.join("log"))?;
    let vault = runtime.block_on(child::open(url, place))?;
    let (empty, bare_empty) = runtime.block_on(sample(&vault, &mut log, &noise))?;
    let rate = format!("{} ({}/s)", empty.latency(), grouped(empty.rate));
    table.note("enqueue, empty (p50 / p99)", rate);
    let start = Instant::now();
    let filled = runtime.block_on(fill_up(&vault, &noise, count - SAMPLE))?;
    let rate = filled as f64 / start.elapsed().as_secs_f64();
    let fill = format!("{}/s, {} s", grouped(rate), start.elapsed().as_secs());
    table.note(&format!("fill, {WRITERS} writers"), fill);
    let (full, bare_full) = runtime.block_on(sample(&vault, &mut log, &noise))?;
    let pending = grouped(runtime.block_on(vault.pending_count())? as f64);
    let word = match (
        full.p99 <= empty.p99 * 2,
        bare_full.p99 <= bare_empty.p99 * 2,
    ) {
        (true, _) => "met",
        (false, true) => "MISSED",
        (false, false) => "unclear: so did the bare log",
    };
    let wanted = format!("p99 <= {} us (2x empty)", empty.p99.as_micros() * 2);
    let what = format!("enqueue, {pending} pending (p50 / p99)");
    table.row(&what, full.latency(), &wanted, word);
    let bare = format!("{}; {}", bare_empty.latency(), bare_full.latency());
    table.note("bare log beside it: empty; full", bare);
    let count = runtime.block_on(count_time(&vault))?;
    let is_met = count < Duration::from_millis(1);
    table.row(
        "pending_count()",
        micros(count),
        "microseconds",
        verdict(is_met),
    );
    let status = status_time(&vault);
    let is_met = status < Duration::from_millis(1);
    table.row("status()", micros(status), "microseconds", verdict(is_met));
    if let Some(peak) = memory::peak() {
        table.note(
            "RSS peak of the process that filled it",
            format!("{} MiB", peak / MIB),
        );
    }
    let start = Instant::now();
    runtime.block_on(vault.shutdown(Duration::from_secs(10)))?;
    table.note("shutdown", format!("{} ms", start.elapsed().as_millis()));
    Ok(())
}

fn micros(time: Duration) -> String {
    format!("{:.1} us", time.as_secs_f64() * 1e6)
}

/// Durable enqueues by one writer, in blocks beside the bare log, so that both see the same disk.
async fn sample(vault: &SyncVault, log: &mut Log, noise: &Noise) -> Outcome<(Run, Run)> {
    const BLOCK: usize = 100;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    while ours.len() < SAMPLE {
        for _ in 0..BLOCK {
            let before = Instant::now();
            drop(vault.post("orders").body(noise.payload()).enqueue().await?);
            ours.push(before.elapsed());
        }
        for number in 0..BLOCK as u64 {
            let before = Instant::now();
            log.write(&frame(1, number, &noise.payload()))?;
            bare.push(before.elapsed());
        }
    }
    let whole = |latencies: &Vec<Duration>| latencies.iter().sum();
    Ok((
        Run::of(whole(&ours), ours.clone()),
        Run::of(whole(&bare), bare.clone()),
    ))
}

async fn fill_up(vault: &SyncVault, noise: &Arc<Noise>, count: usize) -> Outcome<usize> {
    let (taken, filled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let start = Instant::now();
    let write = |_| {
        let (vault, noise, taken, filled) =
            (vault.clone(), noise.clone(), taken.clone(), filled.clone());
        tokio::spawn(async move {
            while taken.fetch_add(1, Ordering::Relaxed) < count && start.elapsed() < FILL_MAX {
                drop(vault.post("orders").body(noise.payload()).enqueue().await?);
                filled.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Ok(())
        })
    };
    let writers: Vec<_> = (0..WRITERS).map(write).collect();
    for writer in writers {
        writer.await??;
    }
    Ok(filled.load(Ordering::Relaxed))
}

/// The median of many.
async fn count_time(vault: &SyncVault) -> Outcome<Duration> {
    let mut latencies = Vec::new();
    for _ in 0..1000 {
        let before = Instant::now();
        vault.pending_count().await?;
        latencies.push(before.elapsed());
    }
    Ok(Run::of(Duration::ZERO, latencies).p50)
}

/// The mean of many: one takes less than the clock can tell.
fn status_time(vault: &SyncVault) -> Duration {
    const TIMES: u32 = 1000;
    let before = Instant::now();
    for _ in 0..TIMES {
        std::hint::black_box(vault.status());
    }
    before.elapsed() / TIMES
}

fn disk_bytes(dir: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let file = entry.metadata()?;
        bytes += if file.is_dir() {
            disk_bytes(&entry.path())?
        } else {
            file.len()
        };
    }
    Ok(bytes)
}

/// What a fresh process meets: after a clean end, and after kill -9 in the middle of a drain.
fn reopen(url: &str, place: Place<'_>, table: &mut Table) -> Outcome<()> {
    const SECOND: Duration = Duration::from_secs(1);
    let clean = Reopened::of(url, place, "drain")?;
    let killed = Reopened::of(url, place, "look")?;
    for (when, reopened) in [("", &clean), (" after kill -9", &killed)] {
        let what = format!("open, fresh process{when}");
        let took = format!("{} ms", reopened.open.as_millis());
        table.row(&what, took, "< 1 s", verdict(reopened.open < SECOND));
        let memory = |bytes: Option<u64>| {
            let text = bytes.map_or("n/a".to_owned(), |bytes| format!("{} MiB", bytes / MIB));
            (text, bytes.is_none_or(|bytes| bytes < 128 * MIB))
        };
        let (text, is_met) = memory(reopened.rss_open);
        table.row(
            &format!("RSS after open{when}"),
            text,
            "< 128 MiB",
            verdict(is_met),
        );
        let (text, _) = memory(reopened.peak_open);
        table.note(&format!("RSS peak while opening{when}"), text);
    }
    table.note("first page of 100", micros(clean.page));
    let count = clean.count;
    let is_met = count < Duration::from_millis(1);
    table.row(
        "pending_count() after open",
        micros(count),
        "microseconds",
        verdict(is_met),
    );
    let rate = clean.drained as f64 / clean.drain.as_secs_f64().max(f64::MIN_POSITIVE);
    let drain = format!("{}/s ({} actions)", grouped(rate), clean.drained);
    table.note("drain, one lane, answered at once", drain);
    let peak = clean
        .peak_drain
        .map_or("n/a".to_owned(), |bytes| format!("{} MiB", bytes / MIB));
    let is_met = clean.peak_drain.is_none_or(|bytes| bytes < 128 * MIB);
    table.row(
        "RSS peak, open and drain",
        peak,
        "< 128 MiB",
        verdict(is_met),
    );
    Ok(())
}
