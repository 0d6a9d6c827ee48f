//! How fast the vault is, beside the bare thing in the same run: a preallocated log with `fdatasync` for the store,
//! bare reqwest for the wire. Whole systems, so no micro-benchmark harness.
//!
//! `cargo bench --bench throughput`, or `-- enqueue cycle drain direct` for single sections. Rounds are interleaved
//! and ratios are taken within a round, because the disk and the machine are never quite the same twice.
#![expect(clippy::print_stdout, reason = "it prints a table")]

#[path = "throughput/bare.rs"]
mod bare;
#[path = "support/log.rs"]
mod log;
#[path = "throughput/queue.rs"]
mod queue;
#[path = "support/report.rs"]
mod report;
#[path = "support/server.rs"]
mod server;
#[path = "throughput/wire.rs"]
mod wire;
#[path = "support/work.rs"]
mod work;

use std::time::Duration;

use report::{Run, grouped, median, median_run, print_table, verdict};
use work::Outcome;

/// One row of the table: ours beside bare, and what is wanted.
#[derive(Debug)]
pub(crate) struct Row {
    cells: Vec<String>,
}

impl Row {
    /// Rates: the more the better. One run of each for every round.
    pub(crate) fn rates(what: &str, ours: &[Run], bare: &[Run], wanted: f64) -> Self {
        let ratios = ours.iter().zip(bare).map(|(ours, bare)| ours.rate / bare.rate);
        let ratio = median(ratios.collect());
        let show = |runs: &[Run]| {
            let run = median_run(runs, |run| run.rate);
            format!("{}/s ({})", grouped(run.rate), run.latency())
        };
        let cells = [
            what.to_owned(),
            show(ours),
            show(bare),
            format!("{ratio:.2}"),
            format!("{wanted:.2}"),
            verdict(ratio >= wanted).to_owned(),
        ];
        Self { cells: cells.into() }
    }

    /// Median latencies: the less the better. `extra` may come on top of `wanted` times the bare one.
    pub(crate) fn latency(what: &str, ours: &[Run], bare: &[Run], extra: Duration) -> Self {
        const WANTED: f64 = 1.15;
        let p50 = |run: &Run| run.p50.as_secs_f64();
        let ratio = |extra: f64| {
            let limits = bare.iter().map(|bare| WANTED * p50(bare) + extra);
            median(ours.iter().zip(limits).map(|(ours, limit)| p50(ours) / limit).collect())
        };
        let (extra_us, share) = (extra.as_micros(), ratio(extra.as_secs_f64()));
        let wanted = match extra_us {
            0 => format!("{WANTED}"),
            us => format!("{WANTED} + {us} us"),
        };
        let cells = [
            what.to_owned(),
            median_run(ours, p50).latency(),
            median_run(bare, p50).latency(),
            format!("{:.2}", ratio(0.0) * WANTED),
            wanted,
            format!("{} ({share:.2} of it)", verdict(share <= 1.0)),
        ];
        Self { cells: cells.into() }
    }
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["serve", delay] = args[..] {
        return server::serve(Duration::from_millis(delay.parse()?));
    }
    if !args.contains(&"--bench") {
        println!("this measures; run it with `cargo bench --bench throughput`");
        return Ok(());
    }
    let sections: Vec<&str> = args.into_iter().filter(|arg| !arg.starts_with("--")).collect();
    let is_wanted = |section: &str| sections.is_empty() || sections.contains(&section);
    let runtime = work::runtime()?;
    let mut rows = Vec::new();
    if is_wanted("enqueue") {
        rows.extend(queue::enqueue(&runtime)?);
    }
    if is_wanted("cycle") {
        rows.extend(queue::cycle(&runtime)?);
    }
    if is_wanted("drain") {
        rows.extend(wire::drain(&runtime)?);
    }
    if is_wanted("direct") {
        rows.extend(wire::direct(&runtime)?);
    }
    let heads = ["what", "ours (p50 / p99)", "bare (p50 / p99)", "ratio", "wanted", "verdict"];
    print_table(&heads, &rows.into_iter().map(|row| row.cells).collect::<Vec<_>>());
    Ok(())
}
