//! An examination: a whole vault is healthy and stays as it is, byte for byte; whatever is taken out or changed is found.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use syncvault::ErrorKind;
use syncvault::doctor::{Examination, Problem, examine, examine_store};
use syncvault::rusqlite::Connection;
use syncvault::store::crypt::{Key, Sealed};
use syncvault::store::{MemoryStore, Store};

use super::{Kind, filled};
use crate::filled::{NOW, fill, id};

const ON_DISK: [Kind; 3] = [Kind::Sled, Kind::Sqlite, Kind::Fjall];

async fn look(path: &Path) -> Examination {
    examine(path, |_| {}).await.expect("examine")
}

/// Every file below, with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("list") {
        let path = entry.expect("entry").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).expect("read"))),
        }
    }
    found
}

/// What a power cut would leave: a copy of the files of an open vault.
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
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(to, mode).expect("mode");
}

fn assert_seen(seen: &Examination) {
    assert!(seen.is_healthy(), "{seen}");
    assert_eq!(seen.records, 16);
    assert_eq!((seen.bodies, seen.answers), (11, 5));
    assert_eq!((seen.counts.pending, seen.counts.dead), (8, 3));
    assert_eq!((seen.counts.in_flight, seen.counts.retained), (1, 5));
    assert!(seen.ledger.is_balanced());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_vault_is_healthy_and_stays_as_it_is() {
    for kind in ON_DISK {
        for is_sealed in [false, true] {
            let temp = tempfile::tempdir().expect("tempdir");
            let path = temp.path().join("vault");
            let store = kind.open(&path);
            let store: Arc<dyn Store> = match is_sealed {
                true => Arc::new(Sealed::new(store, Key::new([3; 32]))),
                false => store,
            };
            store.open(NOW).await.expect("open");
            fill(&*store).await;
            let cut = temp.path().join("cut");
            copy(&path, &cut);
            store.close().await.expect("close");
            for path in [&path, &cut] {
                let before = files(temp.path());
                assert_seen(&look(path).await);
                assert!(before == files(temp.path()), "{kind:?}: something changed");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_told_to_its_end() {
    let temp = tempfile::tempdir().expect("tempdir");
    let path = temp.path().join("vault");
    filled(Kind::Sled, &path)
        .await
        .close()
        .await
        .expect("close");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = heard.clone();
    let tell = move |at| told.lock().expect("no panic").push(at);
    examine(&path, tell).await.expect("examine");
    let heard = heard.lock().expect("no panic");
    assert_eq!((heard[0].done, heard[0].total), (0, 16));
    let last = heard.last().expect("told");
    assert_eq!((last.done, last.total), (16, 16));
}

#[tokio::test]
async fn a_vault_that_is_open_and_a_directory_that_is_none_are_refused() {
    let temp = tempfile::tempdir().expect("tempdir");
    let error = examine(temp.path(), |_| {}).await.expect_err("no vault");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(files(temp.path()).is_empty(), "nothing was made");
    let path = temp.path().join("vault");
    let store = filled(Kind::Sled, &path).await;
    let error = examine(&path, |_| {}).await.expect_err("open");
    assert_eq!(error.kind(), ErrorKind::Locked);
    store.close().await.expect("close");
}

/// Goal: nothing that is missing goes unseen. Method: each row is taken out in turn, and put back.
#[tokio::test]
async fn every_entry_that_is_taken_out_is_found() {
    let temp = tempfile::tempdir().expect("tempdir");
    let path = temp.path().join("vault");
    filled(Kind::Sqlite, &path)
        .await
        .close()
        .await
        .expect("close");
    let database = path.join("vault.db");
    let connection = Connection::open(&database).expect("open");
    let mut keys: Vec<Vec<u8>> = Vec::new();
    {
        let mut statement = connection
            .prepare("SELECT key FROM syncvault_kv")
            .expect("prepare");
        let mut rows = statement.query([]).expect("query");
        while let Some(row) = rows.next().expect("row") {
            keys.push(row.get(0).expect("key"));
        }
    }
    drop(connection);
    assert!(keys.len() > 40, "{}", keys.len());
    let whole = fs::read(&database).expect("read");
    for key in keys {
        // What is not there is no gate, and a key that may be used again need not be known.
        if key[0] == b'g' {
            continue;
        }
        let connection = Connection::open(&database).expect("open");
        let removed = connection.execute("DELETE FROM syncvault_kv WHERE key = ?1", [&key]);
        assert_eq!(removed.expect("delete"), 1);
        connection.close().expect("close");
        let seen = look(&path).await;
        let is_free = key.starts_with(b"k") && seen.damage == 0;
        let text = String::from_utf8_lossy(&key).into_owned();
        assert!(!seen.is_healthy() || is_free, "{text:?}: {seen}");
        fs::write(&database, &whole).expect("write");
    }
    assert!(look(&path).await.is_healthy());
}

#[tokio::test]
async fn a_changed_frame_is_found_and_named() {
    let temp = tempfile::tempdir().expect("tempdir");
    let path = temp.path().join("vault");
    filled(Kind::Sqlite, &path)
        .await
        .close()
        .await
        .expect("close");
    let database = path.join("vault.db");
    let whole = fs::read(&database).expect("read");
    for (table, column, problem) in [
        ("syncvault_actions", "record", Problem::Record),
        ("syncvault_bodies", "frame", Problem::Body),
        ("syncvault_answers", "frame", Problem::Answer),
    ] {
        let connection = Connection::open(&database).expect("open");
        let sql = format!(
            "UPDATE {table} SET {column} = CAST(substr({column}, 1, 60) || X'07' || substr({column}, 62) AS BLOB) \
             WHERE rowid = (SELECT max(rowid) FROM {table})"
        );
        assert_eq!(connection.execute(&sql, []).expect("update"), 1);
        connection.close().expect("close");
        let seen = look(&path).await;
        let found = seen.findings.iter().find(|found| found.what == problem);
        let found = found.unwrap_or_else(|| panic!("{table}: {seen}"));
        assert!(found.place.starts_with("action "), "{found}");
        fs::write(&database, &whole).expect("write");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_an_orphan_and_a_stranger_are_found() {
    let temp = tempfile::tempdir().expect("tempdir");
    let path = temp.path().join("vault");
    filled(Kind::Sled, &path)
        .await
        .close()
        .await
        .expect("close");
    let bodies = path.join("bodies");
    let name = format!("{}.", id(22));
    let entries = fs::read_dir(&bodies).expect("list");
    let mut paths = entries.map(|entry| entry.expect("entry").path());
    let body = paths.find(|path| path.display().to_string().contains(&name));
    let body = body.expect("the file of 22");
    let mut bytes = fs::read(&body).expect("read");
    bytes[5_000] ^= 1;
    fs::write(&body, bytes).expect("write");
    let orphan = format!("{}.0000000000000000.body", id(99));
    fs::write(bodies.join(&orphan), "left over").expect("write");
    fs::write(path.join("notes.txt"), "mine").expect("write");
    let seen = look(&path).await;
    let has = |what: Problem, place: &str| {
        let mut findings = seen.findings.iter();
        assert!(
            findings.any(|found| found.what == what && found.place.contains(place)),
            "{what:?} {place}: {seen}"
        );
    };
    has(Problem::Body, &id(22).to_string());
    has(Problem::Orphan, &orphan);
    has(Problem::UnknownFile, "notes.txt");
    has(Problem::Access, &orphan);
    assert_eq!(seen.damage, 1, "{seen}");
    assert!(path.join("notes.txt").exists() && bodies.join(orphan).exists());
    let json = serde_json::to_string(&seen).expect("json");
    assert_eq!(
        serde_json::from_str::<Examination>(&json).expect("json"),
        seen
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_cannot_be_opened_is_a_finding() {
    let temp = tempfile::tempdir().expect("tempdir");
    for kind in ON_DISK {
        let path = temp.path().join(format!("{kind:?}"));
        filled(kind, &path).await.close().await.expect("close");
        match kind {
            Kind::Sled => fs::write(path.join("journal/a"), "cut").expect("write"),
            Kind::Fjall => fs::remove_file(path.join("fjall/version")).expect("removed"),
            _ => fs::write(path.join("vault.db"), vec![7; 50_000]).expect("write"),
        }
        let before = files(temp.path());
        let seen = look(&path).await;
        assert!(seen.damage > 0, "{kind:?}: {seen}");
        assert_eq!(seen.findings[0].what, Problem::Engine);
        assert!(before == files(temp.path()), "{kind:?}: something changed");
    }
}

#[tokio::test]
async fn any_store_is_examined_through_its_face() {
    let below = Arc::new(MemoryStore::new());
    let store = Sealed::new(below, Key::new([3; 32]));
    store.open(NOW).await.expect("open");
    fill(&store).await;
    let seen = examine_store(&store, |_| {}).await.expect("examine");
    assert!(seen.is_healthy(), "{seen}");
    assert_eq!((seen.records, seen.bodies, seen.answers), (16, 11, 5));
    assert!(seen.to_string().contains("the vault is healthy"));
}

/// A record that only a newer version reads: refused and kept, named by the examination, never left out of an export.
#[tokio::test]
async fn a_record_of_a_newer_version_is_noted_and_kept() {
    let temp = tempfile::tempdir().expect("tempdir");
    let path = temp.path().join("vault");
    filled(Kind::Sqlite, &path)
        .await
        .close()
        .await
        .expect("close");
    let connection = Connection::open(path.join("vault.db")).expect("open");
    let key = id(20).as_bytes().to_vec();
    let sql = "SELECT record FROM syncvault_actions WHERE id = ?1";
    let read = |connection: &Connection| -> Vec<u8> {
        let record = connection.query_row(sql, [&key], |row| row.get(0));
        record.expect("a record")
    };
    let mut newer = read(&connection);
    newer[4] = 99;
    let end = newer.len() - 4;
    let crc = crc32c::crc32c(&newer[..end]).to_le_bytes();
    newer[end..].copy_from_slice(&crc);
    let put = "UPDATE syncvault_actions SET record = ?1 WHERE id = ?2";
    connection.execute(put, (&newer, &key)).expect("update");
    connection.close().expect("close");
    let seen = look(&path).await;
    let mut notes = seen.findings.iter();
    assert!(
        notes
            .any(|found| found.what == Problem::Newer && found.place.contains(&id(20).to_string()))
    );

    let store = Kind::Sqlite.open(&path);
    store.open(NOW).await.expect("open");
    let find = syncvault::store::Find::Id(id(20));
    let error = store.get(find).await.expect_err("newer");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let out = tempfile::tempfile().expect("a file");
    let error = syncvault::doctor::export(&*store, out, |_| {}).await;
    assert_eq!(error.expect_err("newer").kind(), ErrorKind::Corrupt);
    store.close().await.expect("close");
    let connection = Connection::open(path.join("vault.db")).expect("open");
    assert_eq!(read(&connection), newer);
}
