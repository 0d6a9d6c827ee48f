//! What only SQLite has: a file that people read and others own, and several stores on one file, which stand for several
//! processes: locks and connections are as strange to each other as those of two processes are.

mod peers;
mod trouble;

use std::fs;
use std::path::Path;

use bytes::Bytes;
use rusqlite::Connection;

use super::connect::says;
use super::engine::SqliteEngine;
use super::peers::Locks;
use super::*;
use crate::action::{DeadReason, Origin, StoredRequest, WireState};
use crate::decide::{DeadLane, Settlement};
use crate::error::ErrorKind;
use crate::store::kv::{Batch, Engine, Peers};
use crate::store::{Direct, Find, Lease, Part, Retention, Settle};

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn action(lane: &str, body: Vec<u8>) -> Append {
    let url = "http://a.example/orders?n=1".parse().expect("a URL");
    let request = StoredRequest::new(http::Method::POST, url);
    let content = request.encode().expect("encoded").into();
    let lane = Lane::new(lane).expect("a lane");
    let origin = Origin::from_stored("http://a.example:80");
    let record = Record::new(ActionId::new(), lane, origin, content, at(1));
    Append::new(record, Bytes::from(body), at(1))
}

fn leasing(now: u64) -> Advance {
    let mut advance = Advance::new(at(now), Retention::default());
    advance.lease = Some(Lease {
        slots: 10,
        ..Lease::default()
    });
    advance
}

fn settling(record: &Record, result: Settlement) -> Advance {
    let mut advance = Advance::new(at(5), Retention::default());
    let settle = Settle::of(record, result, WireState::Answered);
    advance.settle.push(settle.expect("in flight"));
    advance
}

async fn put(store: &SqliteStore, append: Append) -> Record {
    match store.append(vec![append]).await.expect("append").pop() {
        Some(Appended::Queued { record, .. } | Appended::Leased { record, .. }) => record,
        other => panic!("{other:?}"),
    }
}

async fn opened(dir: &Path) -> SqliteStore {
    let store = SqliteStore::open(dir).expect("the store");
    store.open(at(1)).await.expect("open");
    store
}

/// The first column of each row.
fn ask(path: &Path, sql: &str) -> Vec<String> {
    let connection = Connection::open(path).expect("the database");
    let mut statement = connection.prepare(sql).expect("a statement");
    let rows = statement.query_map([], |row| row.get::<_, Option<String>>(0));
    let rows = rows.expect("rows").map(|row| row.expect("a row"));
    rows.map(Option::unwrap_or_default).collect()
}

/// One that is in flight, one queued, one delivered, one dead.
async fn four(store: &SqliteStore) -> [Record; 4] {
    let delivered = put(store, action("d", vec![1])).await;
    let leased = store.advance(leasing(2)).await.expect("lease").leased;
    let done = Settlement::Delivered { status: 201 };
    let settled = settling(&leased[0].record, done);
    store.advance(settled).await.expect("settle");
    let mut dead = action("x", vec![2]);
    dead.record.key = Some("the key".into());
    let dead = put(store, dead).await;
    let leased = store.advance(leasing(3)).await.expect("lease").leased;
    let reason = DeadReason::Rejected { status: 422 };
    let lane = DeadLane::Block;
    let settled = settling(&leased[0].record, Settlement::Dead { reason, lane });
    store.advance(settled).await.expect("settle");
    let in_flight = put(store, action("l", vec![3; 20_000])).await;
    store.advance(leasing(4)).await.expect("lease");
    let mut queued = action("l", vec![4]);
    // As an encrypted vault would.
    queued.record.content = Bytes::from_static(b"sealed");
    let queued = put(store, queued).await;
    [in_flight, queued, delivered, dead]
}

#[tokio::test]
async fn the_views_answer_while_the_vault_is_open() {
    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join(FILE);
    let store = opened(temp.path()).await;
    let [in_flight, queued, delivered, dead] = four(&store).await;
    let ids = |records: &[&Record]| -> Vec<String> {
        records.iter().map(|record| record.id.to_string()).collect()
    };
    let pending = ask(&path, "SELECT id FROM pending");
    assert_eq!(pending, ids(&[&in_flight, &queued]));
    assert_eq!(ask(&path, "SELECT id FROM dead_letters"), ids(&[&dead]));
    assert_eq!(ask(&path, "SELECT id FROM delivered"), ids(&[&delivered]));
    let columns = "SELECT state || ' ' || method || ' ' || url || ' ' || body_bytes || ' ' || created_at || ' ' || wire \
                   FROM pending WHERE seq = 2";
    assert_eq!(
        ask(&path, columns),
        ["in_flight POST http://a.example/orders?n=1 20000 1970-01-01T00:00:00.001Z maybe_sent"]
    );
    let sealed = "SELECT coalesce(method, 'sealed') FROM pending WHERE state = 'queued'";
    assert_eq!(ask(&path, sealed), ["sealed"]);
    let letter = "SELECT reason || ', ' || key || ', ' || lane FROM dead_letters";
    assert_eq!(ask(&path, letter), ["rejected with status 422, the key, x"]);
    let lanes = "SELECT name || ' ' || pending || ' ' || in_flight || ' ' || coalesce(first, blocked_by) FROM lanes";
    assert_eq!(
        ask(&path, lanes),
        [
            format!("l 2 1 {}", in_flight.id),
            format!("x 0 0 {}", dead.id)
        ]
    );
    let ledger = "SELECT enqueued || ' ' || delivered || ' ' || dead || ' ' || pending FROM ledger";
    assert_eq!(ask(&path, ledger), ["4 1 1 2"]);
    store.close().await.expect("close");
}

#[tokio::test]
async fn an_app_has_the_views_under_names_of_ours() {
    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join("app.db");
    let app = Connection::open(&path).expect("a database");
    app.execute_batch("CREATE TABLE pending (mine TEXT)")
        .expect("a table of the app");
    SqliteStore::attach(&app).expect("attached");
    SqliteStore::attach(&app).expect("twice is fine");
    let store = SqliteStore::outbox(&path).expect("the store");
    store.open(at(1)).await.expect("open");
    four(&store).await;
    let counts = [
        "SELECT count(*) || '' FROM syncvault_all",
        "SELECT count(*) || '' FROM syncvault_pending",
        "SELECT count(*) || '' FROM syncvault_dead_letters",
        "SELECT count(*) || '' FROM syncvault_delivered",
        "SELECT count(*) || '' FROM syncvault_lanes",
        "SELECT pending || '' FROM syncvault_ledger",
    ];
    let counts = counts.map(|sql| ask(&path, sql).remove(0));
    assert_eq!(counts, ["4", "2", "1", "1", "2", "2"]);
    let strange = "SELECT name FROM sqlite_schema WHERE tbl_name NOT LIKE 'syncvault%' AND name NOT LIKE 'sqlite%'";
    assert_eq!(ask(&path, strange), ["pending"]);
    store.close().await.expect("close");
}

/// Counts come off one row, however many actions there are: nothing is left to count when the tables are gone.
#[tokio::test]
async fn counts_are_kept_and_not_scanned() {
    let temp = tempfile::tempdir().expect("a directory");
    let store = opened(temp.path()).await;
    for _ in 0..3 {
        put(&store, action("l", vec![1])).await;
    }
    store.close().await.expect("close");
    let connection = Connection::open(temp.path().join(FILE)).expect("the database");
    connection
        .execute_batch("DELETE FROM syncvault_actions WHERE seq > 0; DELETE FROM syncvault_kv WHERE key >= x'6c' AND key < x'6d'")
        .expect("deleted");
    drop(connection);
    let store = SqliteStore::open(temp.path()).expect("the store");
    assert_eq!(
        store.open(at(2)).await.expect("open").totals.counts.pending,
        3
    );
    store.close().await.expect("close");
}

#[tokio::test]
async fn a_database_of_something_else_is_refused_and_not_touched() {
    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join(FILE);
    let theirs = Connection::open(&path).expect("a database");
    theirs
        .execute_batch("CREATE TABLE theirs (x)")
        .expect("a table");
    drop(theirs);
    refused_and_untouched(temp.path(), ErrorKind::Invalid).await;
}

#[tokio::test]
async fn a_newer_database_is_refused_and_not_touched() {
    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join(FILE);
    let store = opened(temp.path()).await;
    put(&store, action("l", vec![1])).await;
    store.close().await.expect("close");
    let newer = Connection::open(&path).expect("the database");
    newer
        .execute_batch("PRAGMA user_version = 2; UPDATE syncvault_schema SET version = 2")
        .expect("newer");
    newer.close().expect("closed");
    refused_and_untouched(temp.path(), ErrorKind::Unsupported).await;
}

async fn refused_and_untouched(dir: &Path, kind: ErrorKind) {
    let before = fs::read(dir.join(FILE)).expect("read");
    let store = SqliteStore::open(dir).expect("the directory is ours");
    for _ in 0..2 {
        let refused = store.open(at(1)).await.expect_err("refused");
        assert_eq!(refused.kind(), kind, "{refused:?}");
    }
    store.close().await.expect("close");
    assert_eq!(fs::read(dir.join(FILE)).expect("read"), before);
}

#[tokio::test]
async fn newer_tables_in_an_apps_database_are_refused() {
    let temp = tempfile::tempdir().expect("a directory");
    let app = Connection::open(temp.path().join("app.db")).expect("a database");
    SqliteStore::attach(&app).expect("attached");
    app.execute_batch("UPDATE syncvault_schema SET version = 2")
        .expect("newer");
    let refused = SqliteStore::attach(&app).expect_err("newer");
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    let store = SqliteStore::outbox(temp.path().join("app.db")).expect("the directory");
    let refused = store.open(at(1)).await.expect_err("newer");
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
}

/// Goal: damaged pages are told as damage, and never read as something else; the vault goes on. Method: overwrite every
/// page but the first.
#[tokio::test]
async fn a_damaged_file_is_moved_aside_and_told() {
    let temp = tempfile::tempdir().expect("a directory");
    let store = opened(temp.path()).await;
    for _ in 0..50 {
        put(&store, action("l", vec![1; 3000])).await;
    }
    store.close().await.expect("close");
    let path = temp.path().join(FILE);
    let mut bytes = fs::read(&path).expect("read");
    bytes[4096..].fill(0xa5);
    fs::write(&path, bytes).expect("write");
    let store = SqliteStore::open(temp.path()).expect("the directory");
    let opened = store.open(at(2)).await.expect("built anew");
    let report = opened.report;
    assert_eq!((report.recovered, report.missing), (0, 50), "{report:?}");
    let quarantined = report.quarantined.expect("moved aside");
    assert!(quarantined.join(FILE).is_file());
    assert_eq!(opened.totals.ledger.evicted, 50);
    assert!(opened.is_balanced);
}

#[tokio::test]
async fn a_row_that_was_changed_by_hand_goes_to_quarantine() {
    let temp = tempfile::tempdir().expect("a directory");
    let store = opened(temp.path()).await;
    put(&store, action("l", vec![1])).await;
    let second = put(&store, action("l", vec![2])).await;
    let hand = Connection::open(temp.path().join(FILE)).expect("the database");
    hand.execute_batch("UPDATE syncvault_actions SET record = 'mine' WHERE seq = 0")
        .expect("changed");
    drop(hand);
    store.close().await.expect("close");
    let store = opened(temp.path()).await;
    let leased = store.advance(leasing(2)).await.expect("lease");
    assert_eq!(leased.leased[0].record.id, second.id);
    assert_eq!(leased.totals.ledger.evicted, 1);
}

#[tokio::test]
async fn a_second_vault_on_it_is_refused() {
    let temp = tempfile::tempdir().expect("a directory");
    let store = opened(temp.path()).await;
    let shared = SqliteOptions {
        access: Access::Shared,
        ..SqliteOptions::default()
    };
    for options in [SqliteOptions::default(), shared.clone()] {
        let error = SqliteStore::open_with(temp.path(), options).expect_err("locked");
        assert_eq!(error.kind(), ErrorKind::Locked);
    }
    store.close().await.expect("close");
    let first = SqliteStore::open_with(temp.path(), shared.clone()).expect("shared");
    let second = SqliteStore::open_with(temp.path(), shared).expect("shared");
    let error = SqliteStore::open(temp.path()).expect_err("locked");
    assert_eq!(error.kind(), ErrorKind::Locked);
    first.close().await.expect("close");
    second.close().await.expect("close");
    opened(temp.path()).await.close().await.expect("close");
}

#[cfg(unix)]
#[tokio::test]
async fn everything_in_the_directory_is_ours_alone() {
    use std::os::unix::fs::PermissionsExt;
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("vault");
    let options = SqliteOptions {
        access: Access::Shared,
        ..SqliteOptions::default()
    };
    let store = SqliteStore::open_with(&dir, options).expect("the store");
    store.open(at(1)).await.expect("open");
    put(&store, action("l", vec![1; 20_000])).await;
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).expect("list") {
        let path = entry.expect("an entry").path();
        let found = fs::metadata(&path).expect("metadata");
        let mode = found.permissions().mode() & 0o777;
        assert_eq!(mode, if found.is_dir() { 0o700 } else { 0o600 }, "{path:?}");
        names.push(
            path.file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort();
    assert_eq!(
        names,
        [
            "LOCK",
            "ballast",
            "bodies",
            "drain.lock",
            "open.lock",
            "runs",
            "vault.db",
            "vault.db-shm",
            "vault.db-wal"
        ]
    );
    store.close().await.expect("close");
    assert_eq!(fs::read_dir(dir.join("runs")).expect("list").count(), 0);
}

#[cfg(unix)]
#[tokio::test]
async fn a_directory_that_was_replaced_acknowledges_nothing() {
    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join("vault");
    let store = opened(&path).await;
    put(&store, action("l", vec![1])).await;
    fs::rename(&path, temp.path().join("moved")).expect("rename");
    let error = store.append(vec![action("l", vec![2])]).await;
    assert_eq!(error.expect_err("gone").kind(), ErrorKind::Storage);
    let error = store.append(vec![action("l", vec![3])]).await;
    assert_eq!(error.expect_err("poisoned").kind(), ErrorKind::Poisoned);
}

#[tokio::test]
async fn a_busy_database_costs_a_call_and_not_the_store() {
    let temp = tempfile::tempdir().expect("a directory");
    let options = SqliteOptions {
        busy_timeout: Duration::from_millis(5),
        ..SqliteOptions::default()
    };
    let store = SqliteStore::open_with(temp.path(), options).expect("the store");
    store.open(at(1)).await.expect("open");
    let other = Connection::open(temp.path().join(FILE)).expect("the database");
    other.execute_batch("BEGIN IMMEDIATE").expect("begun");
    let error = store.append(vec![action("l", vec![1])]).await;
    let error = error.expect_err("busy");
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.to_string().contains("busy"), "{error}");
    other.execute_batch("ROLLBACK").expect("ended");
    put(&store, action("l", vec![1])).await;
    let totals = store.totals().await.expect("totals");
    assert_eq!(totals.counts.pending, 1);
}

#[tokio::test]
async fn the_file_shrinks_when_the_vault_closes() {
    let temp = tempfile::tempdir().expect("a directory");
    let store = opened(temp.path()).await;
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(put(&store, action("l", vec![1; 100_000])).await.id);
    }
    store.close().await.expect("close");
    let size = || {
        fs::metadata(temp.path().join(FILE))
            .expect("metadata")
            .len()
    };
    let full = size();
    let store = opened(temp.path()).await;
    for id in ids {
        let now = at(2);
        store
            .amend(Amend::Cancel { id, now })
            .await
            .expect("cancel");
    }
    store.close().await.expect("close");
    assert!(size() < full / 4, "{} of {full}", size());
}

/// Keys of records, bodies and answers are in other tables than the rest, and yet in one order.
#[test]
fn a_scan_over_everything_is_in_the_order_of_the_keys() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = VaultDir::open(temp.path()).expect("a directory");
    let mut engine =
        SqliteEngine::open_own(Arc::new(dir), &SqliteOptions::default()).expect("an engine");
    let mut batch = Batch::new();
    let mut keys = Vec::new();
    for number in 0..3 {
        let mut record = action("l", Vec::new()).record;
        record.revision = number;
        let frame: Bytes = record.encode().expect("encoded").into();
        let key = |prefix: u8| [&[prefix], &record.id.as_bytes()[..]].concat();
        // A rewritten record wins over the one as appended.
        batch.insert(key(b'a'), Some(frame.clone()));
        batch.insert(key(b'b'), Some([&frame[..], b"body"].concat().into()));
        batch.insert(key(b'p'), Some(Bytes::from_static(b"answer")));
        keys.extend([key(b'a'), key(b'b'), key(b'p')]);
    }
    for key in [&b"Z"[..], b"c", b"l", b"o\xff\xff", b"q", b"q\xff", b"z"] {
        batch.insert(key.to_vec(), Some(Bytes::from_static(b"value")));
        keys.push(key.to_vec());
    }
    keys.sort();
    engine.begin().expect("begin");
    engine.apply(batch).expect("apply");
    let all = engine.scan(b"", b"\xff", usize::MAX).expect("scan");
    let found: Vec<&[u8]> = all.iter().map(|(key, _)| &key[..]).collect();
    assert_eq!(found, keys);
    for (key, value) in &all {
        assert_eq!(engine.get(key).expect("get").as_ref(), Some(value));
    }
    // Every stretch, and every limit.
    for from in 0..keys.len() {
        for to in from..keys.len() {
            for limit in [1, 2, 5, 100] {
                let found = engine.scan(&keys[from], &keys[to], limit).expect("scan");
                assert_eq!(found, all[from..to.min(from + limit)]);
            }
        }
    }
}
