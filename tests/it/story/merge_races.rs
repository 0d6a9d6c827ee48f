//! Merges that race: with each other, with the worker, with other vaults on the same file, with keys that change.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};
use syncvault::SyncVault;

#[cfg(feature = "sqlite")]
use super::bare_builder;
#[cfg(feature = "sqlite")]
use super::coalescing::shared;
use super::coalescing::{kept, patch, rule};
use super::{assert_balanced, builder, soon};
use crate::chaos_server::{Behaviour, ChaosServer};

/// Many tasks merge into what waits, while the worker sends: each field reaches the server once, in whatever request.
/// Method: seeded pauses, so that merges meet merges, leases and empty queues.
async fn nothing_is_lost(vaults: &[SyncVault], server: &ChaosServer, seed: u64) {
    const TASKS: u64 = 8;
    const EACH: u64 = 12;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let vault = vaults[usize::try_from(task).expect("small") % vaults.len()].clone();
        tasks.spawn(async move {
            let mut dice = seed.wrapping_mul(31).wrapping_add(task);
            for number in 0..EACH {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                for _ in 0..(dice >> 60) {
                    tokio::task::yield_now().await;
                }
                let field = format!("{task}-{number}");
                let fields = Value::Object(Map::from_iter([(field, Value::from(1))]));
                let request = patch(&vault, &fields);
                match dice >> 58 & 1 {
                    0 => drop(kept(request).await),
                    _ => drop(request.send().await.expect("send")),
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no task panics");
    }
    for vault in vaults {
        soon(vault.wait_idle()).await.expect("idle");
    }
    let mut times = BTreeMap::new();
    for effect in server.effects() {
        let fields: Map<String, Value> = serde_json::from_slice(&effect.body).expect("JSON");
        for (field, _) in fields {
            *times.entry(field).or_insert(0) += 1;
        }
    }
    assert_eq!(times.len() as u64, TASKS * EACH, "seed {seed}: lost");
    assert!(
        times.values().all(|times| *times == 1),
        "seed {seed}: {times:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn merges_that_race_with_each_other_and_with_the_worker_lose_nothing() {
    for seed in 0..12 {
        let server = ChaosServer::start().await;
        server.always(Behaviour::status(200).after(Duration::from_millis(seed % 3)));
        let vault = builder(&server)
            .coalesce_by(rule)
            .build()
            .await
            .expect("vault");
        nothing_is_lost(std::slice::from_ref(&vault), &server, seed).await;
        let ledger = vault.ledger().await.expect("ledger");
        assert_eq!(
            ledger.enqueued,
            ledger.delivered + ledger.superseded + ledger.returned
        );
        assert_balanced(&vault).await;
    }
}

/// The same with two vaults on one file: each merges into what the other queued, and one of them sends it.
#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn merges_of_several_vaults_on_one_file_lose_nothing() {
    use syncvault::store::SqliteStore;

    for seed in 0..3 {
        let (server, dir) = (ChaosServer::start().await, tempfile::tempdir());
        let dir = dir.expect("dir");
        let mut vaults = Vec::new();
        for _ in 0..2 {
            let store = SqliteStore::open_with(dir.path(), shared()).expect("store");
            let vault = bare_builder(&server).store(store).coalesce_by(rule);
            vaults.push(vault.build().await.expect("vault"));
        }
        nothing_is_lost(&vaults, &server, seed).await;
        assert_balanced(&vaults[0]).await;
    }
}

/// The same in a sealed vault, which seals itself anew meanwhile.
#[cfg(feature = "encrypt")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn merges_in_a_sealed_vault_lose_nothing() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use syncvault::store::crypt::{Key, Keys};

    for seed in 0..4 {
        let server = ChaosServer::start().await;
        let key = || async { std::io::Result::Ok(Keys::new(Key::new([7; 32]))) };
        let vault = builder(&server).coalesce_by(rule).encryption(key);
        let vault = vault.build().await.expect("vault");
        let (anew, stop) = (vault.clone(), Arc::new(AtomicU32::new(0)));
        let is_over = stop.clone();
        let sealing = tokio::spawn(async move {
            while is_over.load(Ordering::Relaxed) == 0 {
                anew.reencrypt().await.expect("reencrypt");
                tokio::task::yield_now().await;
            }
        });
        nothing_is_lost(std::slice::from_ref(&vault), &server, seed).await;
        stop.store(1, Ordering::Relaxed);
        soon(sealing).await.expect("sealing");
        assert_balanced(&vault).await;
    }
}
