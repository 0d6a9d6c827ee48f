//! How fast the vault is, beside the bare thing in the same run: a preallocated log with `fdatasync` for the store,
//! bare reqwest for the wire. Whole systems, so no micro-benchmark harness.
//!
//! `cargo bench --bench throughput`, or `-- enqueue cycle drain direct` for single sections. With the name of a store
//! (`sled`, `sqlite-sealed`), or with `stores` for all that are compiled in, `enqueue` and `cycle` are about these, side by
//! side: `cargo bench --all-features --bench throughput -- enqueue cycle stores`. `lanes` is the section of enqueues with a
//! lane for each writer. Rounds are interleaved and ratios are
//! taken within a round, because the disk and the machine are never quite the same twice.
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
#[path = "throughput/side_by_side.rs"]
mod side_by_side;
#[path = "support/stores.rs"]
mod stores;
#[path = "throughput/wire.rs"]
mod wire;
#[path = "support/work.rs"]
mod work;

use std::time::Duration;

use report::print_table;
use row::Row;
use tokio::runtime::Runtime;
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
    let wanted = Wanted::of(args.into_iter().filter(|arg| !arg.starts_with("--")))?;
    let rows = measure(&work::runtime()?, &wanted)?;
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

/// The sections and the stores that are asked for.
struct Wanted {
    sections: Vec<&'static str>,
    stores: Vec<String>,
}

impl Wanted {
    fn of<'a>(args: impl Iterator<Item = &'a str>) -> Outcome<Self> {
        const SECTIONS: [&str; 5] = ["enqueue", "cycle", "drain", "direct", "lanes"];
        let (mut sections, mut stores) = (Vec::new(), Vec::new());
        let known = stores::names();
        for arg in args {
            match SECTIONS.into_iter().find(|section| *section == arg) {
                Some(section) => sections.push(section),
                None if arg == "stores" => stores.clone_from(&known),
                None if known.iter().any(|name| name == arg) => stores.push(arg.to_owned()),
                None => return Err(format!("neither a section nor a store: {arg}").into()),
            }
        }
        if sections.is_empty() {
            // The others know one store only.
            let count = if stores.is_empty() { 4 } else { 2 };
            sections.extend_from_slice(&SECTIONS[..count]);
        }
        Ok(Self { sections, stores })
    }
}

fn measure(runtime: &Runtime, wanted: &Wanted) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for section in &wanted.sections {
        rows.extend(match (*section, &*wanted.stores) {
            ("enqueue", []) => queue::enqueue(runtime)?,
            ("enqueue", stores) => side_by_side::enqueue(runtime, stores)?,
            ("cycle", []) => queue::cycle(runtime)?,
            ("cycle", stores) => side_by_side::cycle(runtime, stores)?,
            ("lanes", stores) => side_by_side::lanes(runtime, stores)?,
            ("drain", _) => wire::drain(runtime)?,
            _ => wire::direct(runtime)?,
        });
    }
    Ok(rows)
}
