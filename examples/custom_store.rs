//! A store of your own. The queue is written already, over any ordered key-value engine: you write the engine, three
//! verbs. This one appends each batch to a file as a line of JSON, syncs it, and keeps a map in memory.
//!
//! ```text
//! cargo run --example custom_store
//! ```
//!
//! At the end of this file it runs the contract suite, which every store of this crate runs too:
//! `cargo test --example custom_store --features test-util`.
//!
//! It is small, not good: the file never shrinks, its name is not synced, and everything is in memory. What is no
//! key-value engine, a database server for example, implements `syncvault::store::Store` itself, and runs the same suite.

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

mod support;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use syncvault::store::kv::{Batch, Engine, KvStore};
use syncvault::{Error, ErrorKind, SyncVault};

use support::{Result, Server, impatient};

#[derive(Debug)]
struct LogEngine {
    log: File,
    map: BTreeMap<Vec<u8>, Bytes>,
}

impl LogEngine {
    fn open(path: &Path) -> syncvault::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let log = options.open(path).map_err(failed)?;
        // One at a time: who comes second waits here until the first has let go.
        log.lock().map_err(failed)?;
        let mut engine = Self {
            log,
            map: BTreeMap::new(),
        };
        engine.replay().map_err(failed)?;
        Ok(engine)
    }

    /// Reads the batches. A torn one at the end was never acknowledged: it is cut off.
    fn replay(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.log.read_to_end(&mut bytes)?;
        let mut sound = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(batch) = line.strip_suffix(b"\n").and_then(read) else {
                break;
            };
            self.learn(batch);
            sound += line.len() as u64;
        }
        self.log.set_len(sound)?;
        self.log.seek(SeekFrom::Start(sound))?;
        self.log.sync_all()
    }

    fn learn(&mut self, batch: Batch) {
        for (key, value) in batch {
            match value {
                Some(value) => self.map.insert(key, value),
                None => self.map.remove(&key),
            };
        }
    }
}

impl Engine for LogEngine {
    /// The one promise: when it returns, the whole batch survives power loss; or nothing of it.
    fn apply(&mut self, batch: Batch) -> syncvault::Result<()> {
        let line = written(&batch).map_err(failed)?;
        self.log.write_all(&line).map_err(failed)?;
        self.log.sync_data().map_err(failed)?;
        self.learn(batch);
        Ok(())
    }

    fn get(&self, key: &[u8]) -> syncvault::Result<Option<Bytes>> {
        Ok(self.map.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], max: usize) -> syncvault::Result<Vec<(Bytes, Bytes)>> {
        let found = self.map.range(from.to_vec()..to.to_vec()).take(max);
        Ok(found
            .map(|(key, value)| (Bytes::copy_from_slice(key), value.clone()))
            .collect())
    }
}

/// Never `StorageFull`: that would promise that nothing of the batch is in the log.
fn failed(error: io::Error) -> Error {
    Error::new(ErrorKind::Storage, format!("the log failed: {error}")).with_source(error)
}

/// One line of JSON.
fn written(batch: &Batch) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&batch.iter().collect::<Vec<_>>())?;
    line.push(b'\n');
    Ok(line)
}

fn read(line: &[u8]) -> Option<Batch> {
    let entries: Vec<(Vec<u8>, Option<Bytes>)> = serde_json::from_slice(line).ok()?;
    Some(entries.into_iter().collect())
}

#[tokio::main]
async fn main() -> Result {
    let router = Router::new().route("/notes", post(async || StatusCode::CREATED));
    let mut server = Server::start(router).await?;
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("log");

    server.go_down().await?;
    let vault = open(&server, &log).await?;
    for number in 1..=3 {
        drop(
            vault
                .post("/notes")
                .body(format!("note {number}"))
                .send()
                .await?,
        );
    }
    vault.shutdown(Duration::from_secs(1)).await?;
    println!(
        "3 notes are in the log, {} bytes",
        std::fs::metadata(&log)?.len()
    );

    server.go_up().await?;
    let vault = open(&server, &log).await?;
    println!("opened again: {} notes wait", vault.ledger().await?.pending);
    vault.wait_idle().await?;
    let ledger = vault.ledger().await?;
    println!("delivered: {}", ledger.delivered);
    assert!(ledger.delivered == 3 && ledger.is_balanced());
    vault.shutdown(Duration::from_secs(1)).await?;
    server.go_down().await
}

async fn open(server: &Server, log: &Path) -> syncvault::Result<SyncVault> {
    let log = log.to_owned();
    // On a thread of its own: verbs that come together share one sync.
    let store = KvStore::threaded(move || LogEngine::open(&log))?;
    SyncVault::builder(server.url())
        .store(store)
        .retry_policy(impatient())
        .build()
        .await
}

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use syncvault::store::Store;
    use syncvault::testing::contract::StoreFactory;

    struct LogStores;

    impl StoreFactory for LogStores {
        type Place = tempfile::TempDir;

        fn place(&self) -> Self::Place {
            tempfile::tempdir().expect("a directory")
        }

        async fn open(&self, place: &Self::Place) -> syncvault::Result<Arc<dyn Store>> {
            let log = place.path().join("log");
            Ok(Arc::new(KvStore::threaded(move || LogEngine::open(&log))?))
        }
    }

    syncvault::store_contract!(LogStores);
}
