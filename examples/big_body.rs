//! A body that is larger than memory: a file of 2 GiB goes into the vault and out to a server, and the process stays small.
//!
//! ```text
//! cargo run --release --example big_body [MEBIBYTES]
//! cargo run --release --features encrypt --example big_body -- sealed [MEBIBYTES]
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

mod support;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use axum::routing::put;
use futures_util::StreamExt;
use syncvault::{ConnectivityMode, SyncVault, SyncVaultBuilder};

use support::{Result, Server, impatient};

const MIB: u64 = 1024 * 1024;

#[tokio::main]
async fn main() -> Result {
    let (is_sealed, mebibytes) = asked(std::env::args().skip(1))?;
    let dir = tempfile::tempdir()?;
    let film = dir.path().join("film");
    println!("{mebibytes} MiB, peak memory so far {}", peak_memory());
    let digest = make_file(&film, mebibytes)?;

    let router = Router::new().route("/films/{id}", put(digest_of));
    let mut server = Server::start(router).await?;
    let mut builder = SyncVault::builder(server.url())
        .storage_path(dir.path().join("vault"))
        .retry_policy(impatient())
        .bytes_max(mebibytes * MIB + MIB);
    if is_sealed {
        builder = sealed(builder)?;
    }
    let vault = builder.build().await?;
    vault.set_connectivity(ConnectivityMode::Offline);

    let start = Instant::now();
    let ticket = vault.put("/films/7").body_file(&film).enqueue().await?;
    println!(
        "queued in {:.1?}, peak memory {}",
        start.elapsed(),
        peak_memory()
    );
    // It is the vault's now.
    std::fs::remove_file(&film)?;

    let start = Instant::now();
    vault.set_connectivity(ConnectivityMode::Auto);
    let end = ticket.wait().await?;
    println!(
        "delivered in {:.1?}, peak memory {}",
        start.elapsed(),
        peak_memory()
    );
    let answer = match end {
        syncvault::End::Delivered(answer) => answer,
        other => return Err(format!("not delivered: {other:?}").into()),
    };
    let want = format!("{} bytes, {digest}", mebibytes * MIB);
    assert_eq!(answer.body, want.as_bytes(), "the same bytes arrived");
    println!("the server got {want}");
    vault.shutdown(Duration::from_secs(5)).await?;
    server.go_down().await
}

/// Whether the vault is a sealed one, and how large the file is.
fn asked(args: impl Iterator<Item = String>) -> Result<(bool, u64)> {
    let mut args = args.peekable();
    let is_sealed = args.next_if(|word| word == "sealed").is_some();
    let mebibytes = args.next().map_or(Ok(2048), |text| text.parse())?;
    Ok((is_sealed, mebibytes))
}

#[cfg(feature = "encrypt")]
fn sealed(builder: SyncVaultBuilder) -> Result<SyncVaultBuilder> {
    let key = syncvault::store::crypt::Key::generate();
    Ok(builder.encryption(key))
}

#[cfg(not(feature = "encrypt"))]
fn sealed(_: SyncVaultBuilder) -> Result<SyncVaultBuilder> {
    Err("switch the feature `encrypt` on".into())
}

/// Bytes that do not repeat, so that no file system can leave them out.
fn make_file(path: &Path, mebibytes: u64) -> Result<String> {
    let (mut file, mut hash) = (File::create(path)?, blake3::Hasher::new());
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut chunk = vec![0; 1024 * 1024];
    for _ in 0..mebibytes {
        noise.fill(&mut chunk);
        hash.update(&chunk);
        file.write_all(&chunk)?;
    }
    Ok(hash.finalize().to_hex().to_string())
}

/// Counts and hashes what comes, and keeps none of it.
async fn digest_of(headers: HeaderMap, body: Body) -> String {
    let told = headers.get(CONTENT_LENGTH).cloned();
    let (mut bytes, mut hash) = (0, blake3::Hasher::new());
    let mut chunks = body.into_data_stream();
    while let Some(Ok(chunk)) = chunks.next().await {
        bytes += chunk.len() as u64;
        hash.update(&chunk);
    }
    let told = told.and_then(|told| told.to_str().ok()?.parse::<u64>().ok());
    assert_eq!(told, Some(bytes), "its length was known beforehand");
    format!("{bytes} bytes, {}", hash.finalize().to_hex())
}

/// The most memory that this process, server included, ever had.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.map_or_else(|| "unknown here".to_owned(), |peak| peak.trim().to_owned())
}
