//! What the doctor costs on a vault of a million pending actions of 1 KiB: time and memory to examine it, to export it, and
//! to carry it to another store and back. Each step runs in a fresh process, whose peak of memory is told.
//!
//! `cargo bench --all-features --bench doctor`, or `-- <count> [<directory>]`. It takes some minutes and 6 GiB of disk.
#![expect(clippy::print_stdout, reason = "it prints a table")]

#[path = "backlog/memory.rs"]
#[expect(dead_code, reason = "only the peak is asked for here")]
mod memory;
#[path = "support/report.rs"]
#[expect(dead_code, reason = "the table only")]
mod report;
#[path = "support/stores.rs"]
#[expect(dead_code, reason = "stores by their names only")]
mod stores;
#[path = "support/work.rs"]
mod work;

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use syncvault::action::{ActionId, Lane, Origin, Record, StoredRequest};
use syncvault::clock::{Clock, SystemClock};
use syncvault::doctor;
use syncvault::reqwest::{Method, Url};
use syncvault::store::Append;

use report::print_table;
use work::{Noise, Outcome, scratch};

const COUNT: usize = 1_000_000;
/// How many actions share a commit of the fill.
const STEP: usize = 1_000;
const LANES: usize = 64;

/// What is done, in which store's vault, with which file of lines.
const STEPS: [[&str; 3]; 8] = [
    ["fill", "sled", ""],
    ["examine", "sled", ""],
    ["export", "sled", "first"],
    ["import", "sqlite", "first"],
    ["examine", "sqlite", ""],
    ["export", "sqlite", "second"],
    ["import", "sled-again", "second"],
    ["examine", "sled-again", ""],
];

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["step", what, vault, lines, dir, count] = args[..] {
        return step(what, vault, lines, (Path::new(dir), count.parse()?));
    }
    if !args.contains(&"--bench") {
        println!("this measures; run it with `cargo bench --bench doctor`");
        return Ok(());
    }
    let mut args = args.into_iter().filter(|arg| !arg.starts_with("--"));
    let count = args.next().map_or(Ok(COUNT), str::parse)?;
    let dir = scratch(args.next().map(Path::new))?;
    let mut rows = Vec::new();
    for [what, vault, lines] in STEPS {
        let child = Command::new(std::env::current_exe()?)
            .args(["step", what, vault, lines])
            .arg(dir.path())
            .arg(count.to_string())
            .output()?;
        let said = String::from_utf8_lossy(&child.stdout).trim().to_owned();
        if !child.status.success() {
            let error = String::from_utf8_lossy(&child.stderr);
            return Err(format!("{what} {vault}: {said} {error}").into());
        }
        println!("{what} {vault}: {said}");
        let mut row = vec![format!("{what} {vault}")];
        row.extend(said.split('|').map(|cell| cell.trim().to_owned()));
        rows.push(row);
    }
    print_table(&["step", "time", "peak RSS", "actions"], &rows);
    Ok(())
}

/// One step, in a process of its own. Prints time, memory and count.
fn step(what: &str, vault: &str, lines: &str, (dir, count): (&Path, usize)) -> Outcome<()> {
    let name = vault.trim_end_matches("-again");
    let (path, lines) = (dir.join(vault), dir.join(lines));
    let runtime = work::runtime()?;
    let start = Instant::now();
    let actions = runtime.block_on(async {
        if what == "examine" {
            let seen = doctor::examine(&path, |_| {}).await?;
            return match seen.is_healthy() {
                true => Ok(seen.records),
                false => Err(format!("not healthy: {seen}").into()),
            };
        }
        let store = stores::make(name, &path)?;
        let actions = match what {
            "fill" => fill(&*store, count).await?,
            "export" => {
                let out = File::create(lines)?;
                doctor::export(&*store, out, |_| {}).await?.actions()
            }
            _ => {
                let source = File::open(lines)?;
                doctor::import(&*store, source, |_| {}).await?.actions()
            }
        };
        store.close().await?;
        Outcome::Ok(actions)
    })?;
    let peak = memory::peak().map_or("n/a".to_owned(), |bytes| {
        format!("{} MiB", bytes / 1024 / 1024)
    });
    println!(
        "{:.1} s | {peak} | {actions}",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

async fn fill(store: &dyn syncvault::store::Store, count: usize) -> Outcome<u64> {
    store.open(SystemClock.now()).await?;
    let noise = Noise::new();
    let url = Url::parse("http://127.0.0.1:9/orders")?;
    let origin = Origin::of(&url)?;
    let content = bytes::Bytes::from(StoredRequest::new(Method::POST, url).encode()?);
    let mut made = 0;
    while made < count {
        let mut batch = Vec::new();
        for n in made..count.min(made + STEP) {
            let lane = Lane::new(format!("lane-{}", n % LANES))?;
            let (body, now) = (noise.payload(), SystemClock.now());
            let mut record =
                Record::new(ActionId::new(), lane, origin.clone(), content.clone(), now);
            record.body_bytes = body.len() as u64;
            record.fingerprint = "0123456789abcdef0123456789abcdef".to_owned();
            batch.push(Append::new(record, body, now));
        }
        made += batch.len();
        store.append(batch).await?;
    }
    Ok(made as u64)
}
