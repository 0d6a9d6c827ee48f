//! What every store of checkpoints does, and that a checkpoint never runs ahead of its page.

use std::sync::{Arc, Mutex};

use syncvault::clock::Timestamp;
use syncvault::store::MemoryStore;
use syncvault::sync::{
    Checkpoint, CheckpointFuture, CheckpointKey, CheckpointStore, Cursor, FailureKind,
    MemoryCheckpoints, VaultCheckpoints,
};
use syncvault::{Error, ErrorKind, SyncVault};

use super::site::{Site, rows};

async fn keep_them_apart(store: &dyn CheckpointStore) {
    let names = [
        ("ann", "messages"),
        ("bob", "messages"),
        ("ann", "contacts"),
        ("ann/messages", ""),
        ("", "ann/messages"),
        ("a", "nn/messages"),
        ("'; DROP TABLE rows; --", "\0\u{1F600}"),
    ];
    let checkpoint = |n: u64, (user, feature): (&str, &str)| {
        let mut checkpoint = Checkpoint::start(CheckpointKey::new(user, feature));
        checkpoint.cursor = Some(Cursor::new(format!("{n}")));
        checkpoint.pages = n;
        checkpoint.initial_done = Some(Timestamp::from_millis(n));
        checkpoint
    };
    for (n, name) in (0..).zip(names) {
        let saved = checkpoint(n, name);
        assert_eq!(store.load(&saved.key).await.expect("load"), None);
        store.save(&checkpoint(99, name)).await.expect("save");
        store.save(&saved).await.expect("save again");
    }
    for (n, name) in (0..).zip(names) {
        let saved = checkpoint(n, name);
        assert_eq!(store.load(&saved.key).await.expect("load"), Some(saved));
    }
    let gone = CheckpointKey::new("ann", "messages");
    store.remove(&gone).await.expect("remove");
    store.remove(&gone).await.expect("remove again");
    assert_eq!(store.load(&gone).await.expect("load"), None);
    let other = CheckpointKey::new("bob", "messages");
    assert!(store.load(&other).await.expect("load").is_some());
}

async fn vault(store: MemoryStore) -> SyncVault {
    let builder = SyncVault::builder("http://127.0.0.1:9").store(store);
    builder.build().await.expect("a vault")
}

#[tokio::test]
async fn memory_keeps_checkpoints_apart() {
    keep_them_apart(&MemoryCheckpoints::new()).await;
}

#[tokio::test]
async fn the_vaults_store_keeps_checkpoints_apart() {
    let vault = vault(MemoryStore::new()).await;
    keep_them_apart(&VaultCheckpoints::new(&vault)).await;
    vault
        .shutdown(std::time::Duration::ZERO)
        .await
        .expect("shutdown");
    let key = CheckpointKey::new("bob", "messages");
    let error = VaultCheckpoints::new(&vault)
        .load(&key)
        .await
        .expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_cursor_too_long_for_the_vaults_store_is_refused_with_its_words() {
    let vault = vault(MemoryStore::new()).await;
    let store = VaultCheckpoints::new(&vault);
    let mut checkpoint = Checkpoint::start(CheckpointKey::new("ann", "messages"));
    checkpoint.cursor = Some(Cursor::new("c".repeat(3 * 1024)));
    store.save(&checkpoint).await.expect("as long as promised");
    checkpoint.cursor = Some(Cursor::new("c".repeat(9 * 1024)));
    let error = store.save(&checkpoint).await.expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[cfg(feature = "sled")]
#[tokio::test]
async fn the_vaults_checkpoints_are_there_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = CheckpointKey::new("ann", "messages");
    let mut checkpoint = Checkpoint::start(key.clone());
    for page in 0..3 {
        let vault = SyncVault::open("http://127.0.0.1:9", dir.path())
            .await
            .expect("a vault");
        let store = VaultCheckpoints::new(&vault);
        let kept = store.load(&key).await.expect("load");
        assert_eq!(kept, (page > 0).then(|| checkpoint.clone()));
        checkpoint.pages = page;
        store.save(&checkpoint).await.expect("save");
        vault
            .shutdown(std::time::Duration::ZERO)
            .await
            .expect("shutdown");
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn sqlite_keeps_checkpoints_apart_and_over_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("app.db");
    let open = || syncvault::sync::SqliteCheckpoints::open(&path).expect("a store");
    keep_them_apart(&open()).await;
    let kept = open().load(&CheckpointKey::new("ann", "contacts")).await;
    assert_eq!(kept.expect("load").map(|c| c.pages), Some(2));
}

/// Fails at the calls that the test names, and writes down what was saved.
#[derive(Debug, Default)]
struct Brittle {
    kept: MemoryCheckpoints,
    calls: u32,
    fails_at: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
struct BrittleCheckpoints(Arc<Mutex<Brittle>>);

impl BrittleCheckpoints {
    fn call(&self) -> Result<MemoryCheckpoints, Error> {
        let mut brittle = self.0.lock().expect("whole");
        brittle.calls += 1;
        match brittle.fails_at.contains(&brittle.calls) {
            true => Err(Error::new(ErrorKind::Storage, "as the test says")),
            false => Ok(brittle.kept.clone()),
        }
    }
}

impl CheckpointStore for BrittleCheckpoints {
    fn load(&self, key: &CheckpointKey) -> CheckpointFuture<'_, Option<Checkpoint>> {
        let key = key.clone();
        Box::pin(async move { self.call()?.load(&key).await })
    }

    fn save(&self, checkpoint: &Checkpoint) -> CheckpointFuture<'_, ()> {
        let checkpoint = checkpoint.clone();
        Box::pin(async move { self.call()?.save(&checkpoint).await })
    }

    fn remove(&self, key: &CheckpointKey) -> CheckpointFuture<'_, ()> {
        let key = key.clone();
        Box::pin(async move { self.call()?.remove(&key).await })
    }
}

/// Goal: a store of checkpoints that fails at any call costs a page at most, and the failure is told. Method: let the first,
/// second, .. call fail, without retries, and run again.
#[tokio::test(start_paused = true)]
async fn a_failing_store_of_checkpoints_loses_no_page() {
    for nth in 1..=12 {
        let site = Site::with_rows(23);
        let checkpoints = BrittleCheckpoints::default();
        checkpoints.0.lock().expect("whole").fails_at = vec![nth];
        let sync = rows(&site)
            .checkpoints(checkpoints)
            .max_retries(0)
            .build()
            .expect("built");
        let report = sync.run().await.expect("run");
        let failure = report.failure().expect("a failure");
        assert_eq!(failure.kind, FailureKind::Checkpoint, "{nth}");
        assert!(sync.run().await.expect("run").is_success(), "{nth}");
        site.assert_in_step();
        assert!((23..=28).contains(&site.applied().len()), "{nth}");
    }
}

/// Looks at each save.
#[derive(Clone)]
struct Watched {
    kept: MemoryCheckpoints,
    site: Site,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watched")
    }
}

impl CheckpointStore for Watched {
    fn load(&self, key: &CheckpointKey) -> CheckpointFuture<'_, Option<Checkpoint>> {
        self.kept.load(key)
    }

    fn save(&self, checkpoint: &Checkpoint) -> CheckpointFuture<'_, ()> {
        let cursor = checkpoint
            .cursor
            .as_ref()
            .expect("every page says where it ends");
        let upto: usize = cursor.as_str().parse().expect("a number");
        assert_eq!(self.site.applied().len(), upto, "{checkpoint:?}");
        self.kept.save(checkpoint)
    }

    fn remove(&self, key: &CheckpointKey) -> CheckpointFuture<'_, ()> {
        self.kept.remove(key)
    }
}

/// Goal: the checkpoint is saved after its page was applied, never before. Method: at each save, what it claims must be here.
#[tokio::test(start_paused = true)]
async fn no_checkpoint_runs_ahead_of_its_page() {
    let site = Site::with_rows(23);
    let kept = MemoryCheckpoints::new();
    let checkpoints = Watched {
        kept,
        site: site.clone(),
    };
    let sync = rows(&site).checkpoints(checkpoints).build().expect("built");
    let report = sync.run().await.expect("run");
    assert!(report.is_success(), "{report:?}");
}
