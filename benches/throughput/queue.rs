//! The store beside the bare log: durable enqueues and full durable cycles, one by one and side by side.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use syncvault::action::{ActionId, Lane, Origin, Record, StoredRequest, WireState};
use syncvault::clock::{Clock, SystemClock};
use syncvault::decide::Settlement;
use syncvault::reqwest::{Method, Url};
use syncvault::store::{Advance, Append, Appended, Lease, Leased, Retention, Settle, Store};
use syncvault::{ConnectivityMode, SyncVault};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use crate::bare;
use crate::report::Run;
use crate::row::Row;
use crate::stores::{self, DEFAULT};
use crate::work::{Noise, Outcome, scratch};

const ROUNDS: usize = 9;
pub(crate) const ONE: usize = 1_000;
pub(crate) const WRITERS: usize = 64;
pub(crate) const WORKERS: usize = 8;
/// For many writers; a multiple of them.
pub(crate) const MANY: usize = 64 * 320;
/// Nothing listens there, and nothing is sent.
const NOWHERE: &str = "http://127.0.0.1:9";

/// The runs of one contender, one for each round.
pub(crate) type Runs = Vec<Run>;

/// Measures once, in a directory of its own.
pub(crate) type Contender<'a> = &'a dyn Fn(&Path) -> Outcome<Run>;

/// Runs every contender once in each round, each in a directory of its own, each round another one first.
pub(crate) fn interleave_all(contenders: &[Contender<'_>]) -> Outcome<Vec<Runs>> {
    let mut runs = vec![Runs::new(); contenders.len()];
    for round in 0..ROUNDS {
        for turn in 0..contenders.len() {
            let which = (round + turn) % contenders.len();
            let dir = scratch(None)?;
            runs[which].push(contenders[which](dir.path())?);
        }
    }
    Ok(runs)
}

fn interleave<const N: usize>(contenders: [Contender<'_>; N]) -> Outcome<[Runs; N]> {
    let runs = interleave_all(&contenders)?;
    runs.try_into()
        .map_err(|_| "a contender without its runs".into())
}

/// Durable enqueues.
pub(crate) fn enqueue(runtime: &Runtime) -> Outcome<Vec<Row>> {
    let noise = Arc::new(Noise::new());
    let mut rows = Vec::new();
    let [log, store, vault] = interleave([
        &|dir| bare::appends(dir, &noise, ONE),
        &|dir| runtime.block_on(store_appends((DEFAULT, dir), &noise, (1, Lanes::One), ONE)),
        &|dir| runtime.block_on(vault_enqueues(dir, &noise, 1, ONE)),
    ])?;
    rows.push(Row::rates(
        "enqueue, 1 writer, Store::append",
        &store,
        &log,
        0.35,
    ));
    rows.push(Row::rates(
        "enqueue, 1 writer, the vault",
        &vault,
        &log,
        0.35,
    ));
    let [log, store, vault] = interleave([
        &|dir| bare::shared_appends(dir, &noise, WRITERS, MANY),
        &|dir| {
            runtime.block_on(store_appends(
                (DEFAULT, dir),
                &noise,
                (WRITERS, Lanes::One),
                MANY,
            ))
        },
        &|dir| runtime.block_on(vault_enqueues(dir, &noise, WRITERS, MANY)),
    ])?;
    rows.push(Row::rates(
        "enqueue, 64 writers, Store::append",
        &store,
        &log,
        0.25,
    ));
    rows.push(Row::rates(
        "enqueue, 64 writers, the vault",
        &vault,
        &log,
        0.25,
    ));
    Ok(rows)
}

/// Full durable cycles: enqueue, lease, settle.
pub(crate) fn cycle(runtime: &Runtime) -> Outcome<Vec<Row>> {
    let noise = Arc::new(Noise::new());
    let mut rows = Vec::new();
    let [log, store] = interleave([&|dir| bare::cycles(dir, &noise, ONE), &|dir| {
        runtime.block_on(store_cycles((DEFAULT, dir), &noise, ONE))
    }])?;
    rows.push(Row::rates("cycle, 1 worker", &store, &log, 0.4));
    let [log, store] = interleave([
        &|dir| bare::shared_cycles(dir, &noise, (WRITERS, WORKERS), MANY),
        &|dir| runtime.block_on(shared_store_cycles((DEFAULT, dir), &noise, MANY)),
    ])?;
    rows.push(Row::rates(
        "cycle, 64 writers + 8 workers",
        &store,
        &log,
        0.2,
    ));
    Ok(rows)
}

/// In which lane a writer appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// All in the default lane, as in a vault that names none, and in a queue that has no lanes.
    One,
    /// Each in a lane of its own.
    Each,
}

/// A store by its name, and where it is made.
pub(crate) type Place<'a> = (&'a str, &'a Path);

async fn open((name, dir): Place<'_>) -> Outcome<Arc<dyn Store>> {
    let store = stores::make(name, &dir.join("vault"))?;
    store.open(SystemClock.now()).await?;
    Ok(store)
}

/// What the vault hands to its store for a small POST.
fn action(lane: &Lane, body: Bytes) -> Outcome<Append> {
    let now = SystemClock.now();
    let url = Url::parse(NOWHERE)?.join("orders")?;
    let origin = Origin::of(&url)?;
    let content = StoredRequest::new(Method::POST, url).encode()?.into();
    let mut record = Record::new(ActionId::new(), lane.clone(), origin, content, now);
    record.body_bytes = body.len() as u64;
    record.fingerprint = "0123456789abcdef0123456789abcdef".to_owned();
    Ok(Append::new(record, body, now))
}

/// Appends `count` actions, one by one, each durable before the next.
async fn append_each(
    store: Arc<dyn Store>,
    noise: Arc<Noise>,
    lane: Lane,
    (count, arrived): (usize, Arc<Notify>),
) -> Outcome<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        let before = Instant::now();
        let appended = store.append(vec![action(&lane, noise.payload())?]).await?;
        if !matches!(appended[..], [Appended::Queued { .. }]) {
            return Err(format!("not queued: {appended:?}").into());
        }
        latencies.push(before.elapsed());
        arrived.notify_one();
    }
    Ok(latencies)
}

pub(crate) async fn store_appends(
    place: Place<'_>,
    noise: &Arc<Noise>,
    (writers, lanes): (usize, Lanes),
    count: usize,
) -> Outcome<Run> {
    let store = open(place).await?;
    let start = Instant::now();
    let arrived = Arc::new(Notify::new());
    let latencies = append_all(&store, noise, (writers, lanes, count), &arrived).await?;
    let run = Run::of(start.elapsed(), latencies);
    store.close().await?;
    Ok(run)
}

/// Each writer in a task of its own; a single one in this.
async fn append_all(
    store: &Arc<dyn Store>,
    noise: &Arc<Noise>,
    (writers, lanes, count): (usize, Lanes, usize),
    arrived: &Arc<Notify>,
) -> Outcome<Vec<Duration>> {
    if writers == 1 {
        let each = (count, arrived.clone());
        return append_each(store.clone(), noise.clone(), Lane::default_lane(), each).await;
    }
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let lane = match lanes {
            Lanes::One => Lane::default_lane(),
            Lanes::Each => Lane::new(format!("writer-{writer}"))?,
        };
        let each = (count / writers, arrived.clone());
        tasks.push(tokio::spawn(append_each(
            store.clone(),
            noise.clone(),
            lane,
            each,
        )));
    }
    let mut latencies = Vec::with_capacity(count);
    for task in tasks {
        latencies.extend(task.await??);
    }
    Ok(latencies)
}

async fn vault_enqueues(
    dir: &Path,
    noise: &Arc<Noise>,
    writers: usize,
    count: usize,
) -> Outcome<Run> {
    let vault = SyncVault::open(NOWHERE, dir.join("vault")).await?;
    vault.set_connectivity(ConnectivityMode::Offline);
    let start = Instant::now();
    let latencies = if writers == 1 {
        enqueue_each(vault.clone(), noise.clone(), count).await?
    } else {
        let each = |_| enqueue_each(vault.clone(), noise.clone(), count / writers);
        let tasks: Vec<_> = (0..writers).map(each).map(tokio::spawn).collect();
        let mut latencies = Vec::with_capacity(count);
        for task in tasks {
            latencies.extend(task.await??);
        }
        latencies
    };
    let run = Run::of(start.elapsed(), latencies);
    vault.shutdown(Duration::ZERO).await?;
    Ok(run)
}

async fn enqueue_each(vault: SyncVault, noise: Arc<Noise>, count: usize) -> Outcome<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        let before = Instant::now();
        drop(vault.post("orders").body(noise.payload()).enqueue().await?);
        latencies.push(before.elapsed());
    }
    Ok(latencies)
}

/// Settles what was leased before, if anything, and leases one.
async fn advance(store: &dyn Store, before: Option<Leased>) -> Outcome<Option<Leased>> {
    let mut step = Advance::new(SystemClock.now(), Retention::default());
    if let Some(leased) = before {
        let result = Settlement::Delivered { status: 200 };
        let settle = Settle::of(&leased.record, result, WireState::Answered);
        step.settle.push(settle.ok_or("a lease that is none")?);
    }
    let mut lease = Lease::default();
    lease.slots = 1;
    step.lease = Some(lease);
    let mut done = store.advance(step).await?;
    if done.settled.iter().any(Option::is_none) {
        return Err("a lease was lost".into());
    }
    Ok(done.leased.pop())
}

/// One worker: it appends the next, then settles the last and leases the next in one step.
pub(crate) async fn store_cycles(place: Place<'_>, noise: &Noise, count: usize) -> Outcome<Run> {
    let store = open(place).await?;
    let lane = Lane::default_lane();
    let mut leased = None;
    let start = Instant::now();
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        let before = Instant::now();
        store.append(vec![action(&lane, noise.payload())?]).await?;
        leased = advance(&*store, leased).await?;
        if leased.is_none() {
            return Err("nothing to lease".into());
        }
        latencies.push(before.elapsed());
    }
    let run = Run::of(start.elapsed(), latencies);
    store.close().await?;
    Ok(run)
}

/// Many writers, each with a lane, and workers that lease and settle.
pub(crate) async fn shared_store_cycles(
    place: Place<'_>,
    noise: &Arc<Noise>,
    count: usize,
) -> Outcome<Run> {
    let store = open(place).await?;
    let (arrived, left) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(count)));
    let start = Instant::now();
    let work = |_| tokio::spawn(work(store.clone(), arrived.clone(), left.clone()));
    let workers: Vec<_> = (0..WORKERS).map(work).collect();
    append_all(&store, noise, (WRITERS, Lanes::Each, count), &arrived).await?;
    let mut latencies = Vec::with_capacity(count);
    for worker in workers {
        latencies.extend(worker.await??);
    }
    let run = Run::of(start.elapsed(), latencies);
    store.close().await?;
    Ok(run)
}

/// Leases and settles until nothing is left.
async fn work(
    store: Arc<dyn Store>,
    arrived: Arc<Notify>,
    left: Arc<AtomicUsize>,
) -> Outcome<Vec<Duration>> {
    let mut latencies = Vec::new();
    let mut leased: Option<Leased> = None;
    while left.load(Ordering::Acquire) > 0 {
        let had = leased.is_some();
        let before = Instant::now();
        leased = advance(&*store, leased.take()).await?;
        if had {
            latencies.push(before.elapsed());
            if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                arrived.notify_waiters();
            }
        }
        match leased {
            // Another one may find something too.
            Some(_) => arrived.notify_one(),
            None if left.load(Ordering::Acquire) > 0 => {
                let patience = Duration::from_millis(1);
                // Whoever waits in vain looks again.
                drop(tokio::time::timeout(patience, arrived.notified()).await);
            }
            None => {}
        }
    }
    Ok(latencies)
}
