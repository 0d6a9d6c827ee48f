//! Fail the Nth store call around a body from a file: the app tries again with the same key, and the file arrives once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use syncvault::connectivity::AlwaysReachable;
use syncvault::store::SledStore;
use syncvault::testing::{FakeServer, Fault, FaultyStore, Reply, Verb};
use syncvault::{ErrorKind, SyncVault};

use super::{close, files_in, noise, soon};

const BYTES: usize = 1024 * 1024 + 50_000;

/// What the fault hit, and what arrived.
async fn story(nth: u64, dir: &Path) -> Option<Verb> {
    let server = FakeServer::new();
    server.answers_next(Reply::status(500));
    let store = SledStore::open(dir.join("vault")).expect("open");
    let store = FaultyStore::new(Arc::new(store));
    let faults = store.faults();
    let vault = SyncVault::builder("http://fake.test")
        .store(store)
        .transport(server.transport())
        .connectivity(AlwaysReachable::new())
        .backoff(syncvault::Backoff::fixed(Duration::from_millis(2)))
        .build();
    let vault = vault.await.expect("vault");
    let film = dir.join("film");
    std::fs::write(&film, noise(BYTES)).expect("write");
    // The worker's first look at the store is behind it: the next call is the app's.
    soon(vault.wait_idle()).await.expect("idle");
    faults.fail_at(nth, Fault::Once(ErrorKind::Storage));
    soon(until_taken(&vault, &film)).await;
    std::fs::remove_file(&film).expect("remove");
    soon(vault.wait_idle()).await.expect("idle");
    let fired = faults.fired();
    faults.heal();
    let seen = server.attempts();
    assert!(
        seen.iter().all(|seen| seen.body == noise(BYTES)),
        "{fired:?}"
    );
    assert_eq!(server.effects().len(), 1, "{fired:?}");
    close(vault).await;
    // A store that never saw the append cannot have removed its file: the next open does.
    let swept = SyncVault::open("http://fake.test", dir.join("vault")).await;
    close(swept.expect("open")).await;
    assert_eq!(files_in(&dir.join("vault/bodies")).len(), 0, "{fired:?}");
    fired
}

async fn until_taken(vault: &SyncVault, film: &Path) {
    let request = || vault.post("/films").idempotency_key("film-1");
    while request().body_file(film).enqueue().await.is_err() {}
}

#[tokio::test]
async fn a_file_arrives_once_whichever_call_fails() {
    let mut hit = Vec::new();
    for nth in 1.. {
        let dir = tempfile::tempdir().expect("tempdir");
        match story(nth, dir.path()).await {
            Some(verb) => hit.push(verb),
            None => break,
        }
    }
    for verb in [Verb::Snapshot, Verb::Append, Verb::Advance, Verb::Chunks] {
        assert!(hit.contains(&verb), "no {verb:?} was hit: {hit:?}");
    }
}
