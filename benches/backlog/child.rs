//! The fresh process that opens the vault, as it runs and as its parent sees it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use syncvault::{ConnectivityMode, Draining, Paging, SyncVault};

use crate::memory;
use crate::stores;
use crate::work::{self, Outcome};

const DRAIN_COUNT: u64 = 20_000;
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// A store by its name, and the directory that the vault's is in.
pub(crate) type Place<'a> = (&'a str, &'a Path);

/// What it found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reopened {
    pub(crate) open: Duration,
    pub(crate) rss_open: Option<u64>,
    pub(crate) peak_open: Option<u64>,
    pub(crate) count: Duration,
    pub(crate) page: Duration,
    pub(crate) drained: u64,
    pub(crate) drain: Duration,
    pub(crate) peak_drain: Option<u64>,
}

impl Reopened {
    /// Runs it, reads what it prints, and kills it -9: in the middle of its work, if it drains.
    pub(crate) fn of(url: &str, (store, dir): Place<'_>, what: &str) -> Outcome<Self> {
        let dir = dir
            .to_str()
            .ok_or("a directory with a name that is no text")?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["reopen", url, store, dir, what])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("a child without output")?;
        let mut found = Self::default();
        for line in BufReader::new(output).lines() {
            let line = line?;
            if line == "end" {
                break;
            }
            let (name, value) = line.split_once(' ').ok_or("a child that stammers")?;
            found.set(name, value.parse()?);
        }
        child.kill()?;
        child.wait()?;
        Ok(found)
    }

    fn set(&mut self, name: &str, value: u64) {
        match name {
            "open_us" => self.open = Duration::from_micros(value),
            "rss_open" => self.rss_open = Some(value),
            "peak_open" => self.peak_open = Some(value),
            "count_ns" => self.count = Duration::from_nanos(value),
            "page_us" => self.page = Duration::from_micros(value),
            "drained" => self.drained = value,
            "drain_us" => self.drain = Duration::from_micros(value),
            "peak_drain" => self.peak_drain = Some(value),
            _ => {}
        }
    }
}

/// The vault of all processes here: room for the backlog, and offline until it is told otherwise.
pub(crate) async fn open(url: &str, (store, dir): Place<'_>) -> Outcome<SyncVault> {
    let builder = SyncVault::builder(url)
        .shared_store(stores::make(store, &dir.join("vault"))?)
        .pending_max(u64::MAX)
        .bytes_max(u64::MAX)
        .draining(Draining::OnRequest);
    let vault = builder.build().await?;
    vault.set_connectivity(ConnectivityMode::Offline);
    Ok(vault)
}

/// Measures, prints, and waits to be killed.
pub(crate) fn run(url: &str, place: Place<'_>, drains: bool) -> Outcome<()> {
    let runtime = work::runtime()?;
    let start = Instant::now();
    let vault = runtime.block_on(open(url, place))?;
    println!("open_us {}", start.elapsed().as_micros());
    print_memory("rss_open", memory::resident());
    print_memory("peak_open", memory::peak());
    let start = Instant::now();
    let before = runtime.block_on(vault.pending_count())?;
    println!("count_ns {}", start.elapsed().as_nanos());
    let start = Instant::now();
    let page = runtime.block_on(vault.pending_actions(Paging::default()))?;
    if page.items.is_empty() {
        return Err("an empty page".into());
    }
    println!("page_us {}", start.elapsed().as_micros());
    if drains {
        runtime.block_on(drain(&vault, before))?;
    }
    println!("end");
    // The parent kills it, or is gone.
    drop(std::io::stdin().read(&mut [0]));
    Ok(())
}

async fn drain(vault: &SyncVault, before: u64) -> Outcome<()> {
    let start = Instant::now();
    let pass = tokio::spawn({
        let vault = vault.clone();
        async move { vault.process_queue().await }
    });
    let done = |left: u64| before.saturating_sub(left);
    while !pass.is_finished() && start.elapsed() < DRAIN_MAX {
        if done(vault.status().counts().pending) >= DRAIN_COUNT {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("drained {}", done(vault.status().counts().pending));
    println!("drain_us {}", start.elapsed().as_micros());
    print_memory("peak_drain", memory::peak());
    Ok(())
}

fn print_memory(name: &str, bytes: Option<u64>) {
    if let Some(bytes) = bytes {
        println!("{name} {bytes}");
    }
}
