//! The bare side of the store's measurements: the log by one writer and by many.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::log::{Log, frame};
use crate::report::Run;
use crate::shared_log::SharedLog;
use crate::work::{Failure, Noise, Outcome};

/// One writer, in its own thread: no hop to a committer.
pub(crate) fn appends(dir: &Path, noise: &Noise, count: usize) -> Outcome<Run> {
    let mut log = Log::create(dir)?;
    let start = Instant::now();
    let mut latencies = Vec::with_capacity(count);
    for number in 0..count {
        let before = Instant::now();
        log.write(&frame(1, number as u64, &noise.payload()))?;
        latencies.push(before.elapsed());
    }
    Ok(Run::of(start.elapsed(), latencies))
}

/// One worker: a durable append and a durable acknowledgement.
pub(crate) fn cycles(dir: &Path, noise: &Noise, count: usize) -> Outcome<Run> {
    let mut log = Log::create(dir)?;
    let start = Instant::now();
    let mut latencies = Vec::with_capacity(count);
    for number in 0..count {
        let before = Instant::now();
        log.write(&frame(1, number as u64, &noise.payload()))?;
        log.write(&frame(2, number as u64, &[]))?;
        latencies.push(before.elapsed());
    }
    Ok(Run::of(start.elapsed(), latencies))
}

/// Many writers, group commit.
pub(crate) fn shared_appends(
    dir: &Path,
    noise: &Noise,
    writers: usize,
    count: usize,
) -> Outcome<Run> {
    let log = SharedLog::create(dir)?;
    let start = Instant::now();
    let latencies = write_all(&log, noise, writers, count)?;
    Ok(Run::of(start.elapsed(), latencies))
}

/// Many writers, and workers that take and acknowledge, all in one group commit. The latencies are the workers'.
pub(crate) fn shared_cycles(
    dir: &Path,
    noise: &Noise,
    (writers, workers): (usize, usize),
    count: usize,
) -> Outcome<Run> {
    let log = Arc::new(SharedLog::create(dir)?);
    let taken = AtomicUsize::new(0);
    let work = || {
        let mut latencies = Vec::new();
        while taken.fetch_add(1, Ordering::Relaxed) < count {
            let number = log.take();
            let before = Instant::now();
            log.acknowledge(number);
            latencies.push(before.elapsed());
        }
        latencies
    };
    let start = Instant::now();
    let latencies = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        write_all(&log, noise, writers, count)?;
        let latencies: Result<Vec<_>, _> = workers.into_iter().map(|w| w.join()).collect();
        latencies.map_err(|_| Failure::from("a worker of the bare log panicked"))
    });
    Ok(Run::of(start.elapsed(), latencies?.concat()))
}

fn write_all(
    log: &SharedLog,
    noise: &Noise,
    writers: usize,
    count: usize,
) -> Outcome<Vec<Duration>> {
    let write = || {
        let mut latencies = Vec::new();
        for _ in 0..count / writers {
            let before = Instant::now();
            log.append(&noise.payload());
            latencies.push(before.elapsed());
        }
        latencies
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..writers).map(|_| scope.spawn(write)).collect();
        let latencies: Result<Vec<_>, _> = writers.into_iter().map(|w| w.join()).collect();
        latencies
            .map(|all| all.concat())
            .map_err(|_| Failure::from("a writer of the bare log panicked"))
    })
}
