//! Cached answers on a disk: what lies there in clear, what the doctor says of it, and what is left of it after `kill -9`.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use syncvault::bearer;
use syncvault::doctor::{Problem, examine};
use syncvault::rusqlite::Connection;
use syncvault::store::crypt::Key;
use syncvault::store::{FjallStore, SledStore, SqliteStore, Store};

use super::*;

type Open = fn(&Path) -> Arc<dyn Store>;

const ENGINES: [Open; 3] = [
    |dir| Arc::new(SledStore::open(dir).expect("sled")),
    |dir| Arc::new(SqliteStore::open(dir).expect("sqlite")),
    |dir| Arc::new(FjallStore::open(dir).expect("fjall")),
];

/// All bytes below, and all names.
fn bytes(dir: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).expect("list") {
        let path = entry.expect("entry").path();
        all.extend(path.display().to_string().into_bytes());
        match path.is_dir() {
            true => all.extend(bytes(&path)),
            false => all.extend(fs::read(&path).expect("read")),
        }
    }
    all
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("create");
    for entry in fs::read_dir(from).expect("list") {
        let path = entry.expect("entry").path();
        let to = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy(&path, &to),
            false => drop(fs::copy(&path, &to).expect("copy")),
        }
    }
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(to, mode).expect("mode");
    }
}

async fn open(rig: &Rig, store: Arc<dyn Store>, is_sealed: bool) -> SyncVault {
    let builder = rig.bare().shared_store(store).principal("ann-secret");
    let builder = builder.credentials(|_| async { bearer("canary-token") });
    let builder = builder.cache(CacheOptions::default());
    match is_sealed {
        true => builder.encryption(Key::new([7; 32])),
        false => builder,
    }
    .build()
    .await
    .expect("vault")
}

const PATHS: [&str; 3] = ["/menu-secret", "/menu-secret?day=2", "/orders"];

/// Answers with all that must not be kept, one of them in a file of its own.
async fn fill(rig: &Rig, vault: &SyncVault) {
    for (no, path) in PATHS.iter().enumerate() {
        let body = "body-secret ".repeat(1 + no * 10_000);
        let reply = reply(&[("cache-control", "max-age=3600")], &body)
            .header("set-cookie", "id=canary-cookie")
            .header("authentication-info", "canary-info")
            .header("connection", "x-hop")
            .header("x-hop", "canary-hop");
        rig.server.answers_next(reply);
        assert_eq!(get(vault, path).await, sent(&body));
    }
    let stats = vault.cache_stats().await.expect("stats");
    assert_eq!(stats.entries, PATHS.len() as u64);
}

/// Goal: no credential on the disk, and of a sealed vault nothing at all; a vault with cached answers is healthy; a copy of the
/// files of the running one, which is what `kill -9` leaves, has every answer.
#[tokio::test]
async fn what_lies_on_disk_is_whole_and_tells_no_secret() {
    for engine in ENGINES {
        for is_sealed in [false, true] {
            let temp = tempfile::tempdir().expect("tempdir");
            let [path, cut] = ["vault", "cut"].map(|name| temp.path().join(name));
            let rig = Rig::new();
            let vault = open(&rig, engine(&path), is_sealed).await;
            fill(&rig, &vault).await;
            assert!(
                rig.server.attempts()[0]
                    .headers
                    .contains_key("authorization")
            );
            copy(&path, &cut);
            vault.shutdown(SECOND).await.expect("shutdown");
            drop(vault);
            for dir in [&path, &cut] {
                let all = bytes(dir);
                assert!(!holds(&all, "canary"), "a credential is on the disk");
                assert_eq!(holds(&all, "-secret"), !is_sealed);
            }
            let seen = examine(&path, |_| {}).await.expect("examine");
            assert!(seen.is_healthy(), "{seen}");
            assert_eq!(seen.cached, PATHS.len() as u64);
            rig.goes_away();
            for dir in [&path, &cut] {
                let vault = open(&rig, engine(dir), is_sealed).await;
                for (no, path) in PATHS.iter().enumerate() {
                    let body = "body-secret ".repeat(1 + no * 10_000);
                    let old = vault.get(*path).max_stale(HOUR).lane(format!("{no}"));
                    let Got::Cached(got, _) = send(old).await else {
                        panic!("{path} is gone");
                    };
                    assert_eq!(got, body);
                }
                vault.shutdown(SECOND).await.expect("shutdown");
            }
        }
    }
}

/// Each row of the cache that is gone is found; a file too. The vault opens all the same, and its queue is whole.
#[tokio::test]
async fn the_doctor_finds_what_is_wrong_in_the_cache() {
    let temp = tempfile::tempdir().expect("tempdir");
    let path = temp.path().join("vault");
    let rig = Rig::new();
    let vault = open(&rig, ENGINES[1](&path), false).await;
    fill(&rig, &vault).await;
    vault.pause().await.expect("pause");
    let queued = vault.post("/orders").body("x").enqueue().await;
    let id = queued.expect("queued").id();
    vault.shutdown(SECOND).await.expect("shutdown");
    drop(vault);
    let sql = "SELECT key FROM syncvault_kv WHERE substr(key, 1, 1) IN (X'72', X'79', X'77') OR key = CAST('mcache' AS BLOB)";
    let keys: Vec<Vec<u8>> = {
        let connection = Connection::open(path.join("vault.db")).expect("open");
        let mut statement = connection.prepare(sql).expect("prepare");
        let rows = statement.query_map([], |row| row.get(0)).expect("query");
        rows.map(|key| key.expect("key")).collect()
    };
    assert_eq!(keys.len(), 3 * PATHS.len() + 1);
    for key in keys {
        let damaged = tempfile::tempdir().expect("tempdir");
        let damaged = damaged.path().join("vault");
        copy(&path, &damaged);
        let connection = Connection::open(damaged.join("vault.db")).expect("open");
        let removed = connection.execute("DELETE FROM syncvault_kv WHERE key = ?1", [&key]);
        assert_eq!(removed.expect("delete"), 1);
        connection.close().expect("close");
        let seen = examine(&damaged, |_| {}).await.expect("examine");
        assert!(!seen.is_healthy(), "{key:?}");
        assert_eq!(seen.damage, 0, "a cache is not missed: {seen}");
        let mut found = seen.findings.iter();
        assert!(found.any(|found| found.what == Problem::Cache), "{seen}");
        let vault = open(&rig, ENGINES[1](&damaged), false).await;
        let action = vault.action(id).await.expect("read");
        assert!(action.is_some(), "the queue is whole");
        assert_eq!(vault.pending_count().await.expect("count"), 1);
        vault.shutdown(SECOND).await.expect("shutdown");
    }
}

/// A file that is damaged or gone takes its answer along, and no other.
#[tokio::test]
async fn a_damaged_file_is_no_answer() {
    for is_gone in [false, true] {
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("vault");
        let rig = Rig::new();
        let vault = open(&rig, ENGINES[0](&path), false).await;
        fill(&rig, &vault).await;
        vault.shutdown(SECOND).await.expect("shutdown");
        drop(vault);
        let file = files(&path).into_iter().find(|file| {
            let name = file.extension();
            name.is_some_and(|name| name == "cached")
        });
        let file = file.expect("a file");
        match is_gone {
            true => fs::remove_file(&file).expect("remove"),
            false => {
                let mut bytes = fs::read(&file).expect("read");
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
                fs::write(&file, bytes).expect("write");
            }
        }
        let vault = open(&rig, ENGINES[0](&path), false).await;
        rig.goes_away();
        let mut given = 0;
        for (no, path) in PATHS.iter().enumerate() {
            let old = vault.get(*path).max_stale(HOUR).lane(format!("{no}"));
            if let Got::Cached(got, _) = send(old).await {
                assert_eq!(got, "body-secret ".repeat(1 + no * 10_000));
                given += 1;
            }
        }
        assert_eq!(given, PATHS.len() - 1);
        vault.shutdown(SECOND).await.expect("shutdown");
    }
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("list") {
        let path = entry.expect("entry").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}
