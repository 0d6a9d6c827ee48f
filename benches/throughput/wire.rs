//! The vault beside bare reqwest, against a local server: draining a backlog, and direct sends.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use syncvault::reqwest::Client;
use syncvault::{ConnectivityMode, Delivery, Outcome as Sending, SyncVault};
use tokio::runtime::Runtime;

use crate::bare;
use crate::report::Run;
use crate::row::Row;
use crate::server::Server;
use crate::work::{Noise, Outcome, scratch};

const LANES: usize = 64;
const ROUNDS: usize = 5;

/// A backlog in 64 lanes, drained through the whole vault, beside as many loops of bare reqwest.
pub(crate) fn drain(runtime: &Runtime) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for (delay_ms, count, wanted) in [(0, 320, 0.15), (5, 160, 0.9)] {
        let server = Server::start(Duration::from_millis(delay_ms))?;
        let noise = Arc::new(Noise::new());
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bare.push(runtime.block_on(bare_loops(&server.url, &noise, count))?);
            let dir = scratch(None)?;
            ours.push(runtime.block_on(drained(&server.url, dir.path(), &noise, count))?);
        }
        let what = match delay_ms {
            0 => "drain, 64 lanes, answered at once".to_owned(),
            ms => format!("drain, 64 lanes, answered after {ms} ms"),
        };
        rows.push(Row::rates(&what, &ours, &bare, wanted));
    }
    Ok(rows)
}

async fn bare_loops(url: &str, noise: &Arc<Noise>, count: usize) -> Outcome<Run> {
    let client = Client::new();
    let start = Instant::now();
    let lane = |_| {
        let (client, noise, url) = (client.clone(), noise.clone(), format!("{url}/orders"));
        tokio::spawn(async move {
            let mut latencies = Vec::with_capacity(count);
            for _ in 0..count {
                let before = Instant::now();
                let answer = client.post(&url).body(noise.payload()).send().await?;
                answer.bytes().await?;
                latencies.push(before.elapsed());
            }
            Outcome::Ok(latencies)
        })
    };
    let lanes: Vec<_> = (0..LANES).map(lane).collect();
    let mut latencies = Vec::new();
    for lane in lanes {
        latencies.extend(lane.await??);
    }
    Ok(Run::of(start.elapsed(), latencies))
}

/// Fills the lanes offline, then measures from going online to the last settle. The latency is the mean time that
/// a lane takes for one action.
async fn drained(url: &str, dir: &Path, noise: &Arc<Noise>, count: usize) -> Outcome<Run> {
    let builder = SyncVault::builder(url).storage_path(dir.join("vault"));
    let vault = builder.max_in_flight(LANES).build().await?;
    vault.set_connectivity(ConnectivityMode::Offline);
    let fill = |lane| {
        let (vault, noise) = (vault.clone(), noise.clone());
        tokio::spawn(async move {
            for _ in 0..count {
                let post = vault.post("orders").body(noise.payload());
                drop(post.lane(format!("lane-{lane}")).enqueue().await?);
            }
            Outcome::Ok(())
        })
    };
    let lanes: Vec<_> = (0..LANES).map(fill).collect();
    for lane in lanes {
        lane.await??;
    }
    let start = Instant::now();
    vault.set_connectivity(ConnectivityMode::Auto);
    vault.wait_idle().await?;
    let took = start.elapsed();
    let total = LANES * count;
    let delivered = vault.ledger().await?.delivered;
    if delivered != total as u64 {
        return Err(format!("{delivered} of {total} delivered").into());
    }
    vault.shutdown(Duration::ZERO).await?;
    let each = took * u32::try_from(LANES)? / u32::try_from(total)?;
    Ok(Run::of(took, vec![each; total]))
}

/// Which request a direct send makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Get,
    Post,
    WriteAhead,
}

/// Direct sends, one at a time. Kinds take turns of a few sends: on which cores client and server stand changes from one
/// moment to the next, and with it everything takes half as long or twice.
pub(crate) fn direct(runtime: &Runtime) -> Outcome<Vec<Row>> {
    const BLOCKS: usize = 10;
    const TURNS: usize = 12;
    const EACH: usize = 25;
    let (server, noise, dir) = (Server::start(Duration::ZERO)?, Noise::new(), scratch(None)?);
    let (mut fsync, mut bare, mut ours) = (
        Vec::new(),
        [const { Vec::new() }; 2],
        [const { Vec::new() }; 3],
    );
    let client = Client::new();
    let vault = runtime.block_on(SyncVault::open(&*server.url, dir.path().join("vault")))?;
    for block in 0..=BLOCKS {
        let scratch = scratch(None)?;
        let synced = bare::appends(scratch.path(), &noise, TURNS * EACH)?;
        let (mut plain, mut through) = ([const { Vec::new() }; 2], [const { Vec::new() }; 3]);
        for _ in 0..TURNS {
            for (kind, took) in [Kind::Get, Kind::Post].into_iter().zip(&mut plain) {
                let sends = bare_sends(&client, &server.url, &noise, (kind, EACH));
                took.extend(runtime.block_on(sends)?);
            }
            for (kind, took) in [Kind::Get, Kind::Post, Kind::WriteAhead]
                .into_iter()
                .zip(&mut through)
            {
                took.extend(runtime.block_on(sends(&vault, &noise, kind, EACH))?);
            }
        }
        // The first block warms up.
        if block > 0 {
            fsync.push(synced);
            keep(&mut bare, plain);
            keep(&mut ours, through);
        }
    }
    runtime.block_on(vault.shutdown(Duration::ZERO))?;
    let ([get, post], [our_get, our_post, ahead]) = (bare, ours);
    Ok(vec![
        Row::latency("direct GET, OnFailure", &our_get, &get, None),
        Row::latency("direct POST, OnFailure", &our_post, &post, None),
        Row::latency("direct POST, WriteAhead", &ahead, &post, Some(&fsync)),
    ])
}

/// A run of each kind, from its latencies.
fn keep<const N: usize>(runs: &mut [Vec<Run>; N], latencies: [Vec<Duration>; N]) {
    for (runs, latencies) in runs.iter_mut().zip(latencies) {
        runs.push(Run::of(latencies.iter().sum(), latencies));
    }
}

async fn bare_sends(
    client: &Client,
    url: &str,
    noise: &Noise,
    (kind, count): (Kind, usize),
) -> Outcome<Vec<Duration>> {
    let url = format!("{url}/orders");
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        let before = Instant::now();
        let request = match kind {
            Kind::Get => client.get(&url),
            _ => client.post(&url).body(noise.payload()),
        };
        request.send().await?.bytes().await?;
        latencies.push(before.elapsed());
    }
    Ok(latencies)
}

async fn sends(
    vault: &SyncVault,
    noise: &Noise,
    kind: Kind,
    count: usize,
) -> Outcome<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        let before = Instant::now();
        let request = match kind {
            Kind::Get => vault.get("orders"),
            Kind::Post => vault
                .post("orders")
                .body(noise.payload())
                .delivery(Delivery::OnFailure),
            Kind::WriteAhead => vault.post("orders").body(noise.payload()),
        };
        let Sending::Sent(answer) = request.send().await? else {
            return Err("a direct send was queued".into());
        };
        answer.bytes().await?;
        latencies.push(before.elapsed());
    }
    vault.wait_idle().await?;
    Ok(latencies)
}
