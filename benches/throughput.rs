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
#[path = "throughput/row.rs"]
mod row;
#[path = "support/server.rs"]
mod server;
#[path = "throughput/shared_log.rs"]
mod shared_log;
#[path = "throughput/wire.rs"]
mod wire;
#[path = "support/work.rs"]
mod work;

use std::time::Duration;

use report::print_table;
use work::Outcome;

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
    let sections: Vec<&str> = args
        .into_iter()
        .filter(|arg| !arg.starts_with("--"))
        .collect();
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
    let heads = [
        "what",
        "ours (p50 / p99)",
        "bare (p50 / p99)",
        "ratio",
        "wanted",
        "verdict",
    ];
    print_table(
        &heads,
        &rows.into_iter().map(|row| row.cells).collect::<Vec<_>>(),
    );
    Ok(())
}
