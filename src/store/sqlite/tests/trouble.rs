//! Full disks, databases that were half made, salvages that were cut off.

use super::*;

/// The database does not become longer than that: to SQLite, a full disk.
fn limit(engine: &SqliteEngine, pages: u32) -> Result<()> {
    let sql = format!("PRAGMA max_page_count = {pages}");
    engine.connection.execute_batch(&sql).map_err(says("limit"))
}

fn over(open: impl FnOnce() -> Result<SqliteEngine> + Send + 'static, dir: &Path) -> SqliteStore {
    SqliteStore {
        store: KvStore::threaded(open).expect("the store"),
        path: dir.join(FILE),
        access: Access::Alone,
    }
}

/// Symptom: on a full disk a lease found no page, and nothing was delivered any more. Cause: the room of the ballast went to
/// others, and settled records are longer than queued ones. Fix: a reserve inside the database; when that is used up, what
/// was settled long ago makes room.
#[tokio::test]
async fn what_is_queued_drains_when_the_database_cannot_grow() {
    const COUNT: usize = 1500;
    let temp = tempfile::tempdir().expect("a directory");
    let options = SqliteOptions {
        ballast_bytes: 128 * 1024,
        ..SqliteOptions::default()
    };
    let store = SqliteStore::open_with(temp.path(), options.clone()).expect("the store");
    store.open(at(1)).await.expect("open");
    for lane in 0..3 {
        let one = |_| action(&format!("l{lane}"), vec![1; 40]);
        let batch = (0..COUNT / 3).map(one).collect();
        store.append(batch).await.expect("append");
    }
    store.close().await.expect("close");
    let dir = VaultDir::open(temp.path()).expect("a directory");
    let open = move || {
        let engine = SqliteEngine::open_own(Arc::new(dir), &options)?;
        let count = "PRAGMA page_count";
        let pages = engine.connection.query_row(count, [], |row| row.get(0));
        limit(&engine, pages.map_err(says("count"))?)?;
        Ok(engine)
    };
    let store = over(open, temp.path());
    store.open(at(2)).await.expect("open");
    let mut leased = store.advance(leasing(3)).await.expect("lease").leased;
    while let Some(next) = leased.pop() {
        let mut advance = settling(&next.record, Settlement::Delivered { status: 200 });
        advance.lease = leasing(5).lease;
        advance.settle[0].answer = Some(vec![3; 300].into());
        let done = store.advance(advance).await.expect("there is room");
        leased.extend(done.leased);
    }
    let counts = store.totals().await.expect("totals").counts;
    assert_eq!(counts.pending, 0);
    assert!(
        counts.retained > 0 && counts.retained < COUNT as u64,
        "{counts:?}"
    );
    store.close().await.expect("close");
    let store = opened(temp.path()).await;
    assert!(store.open(at(9)).await.expect("open").is_balanced);
}

#[tokio::test]
async fn a_full_disk_costs_the_group_and_not_the_store() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = VaultDir::open(temp.path()).expect("a directory");
    let open = move || {
        let engine = SqliteEngine::open_own(Arc::new(dir), &SqliteOptions::default())?;
        limit(&engine, 40)?;
        Ok(engine)
    };
    let store = over(open, temp.path());
    store.open(at(1)).await.expect("open");
    let kept = put(&store, action("l", vec![1; 1000])).await;
    let full = store.append(vec![action("l", vec![2; 1_000_000])]).await;
    assert_eq!(full.expect_err("full").kind(), ErrorKind::StorageFull);
    let found = store.get(Find::Id(kept.id)).await.expect("not poisoned");
    assert_eq!(found.as_ref(), Some(&kept));
    store
        .amend(Amend::Pause { paused: true })
        .await
        .expect("what is small fits");
    store.close().await.expect("close");

    let store = opened(temp.path()).await;
    let page = store.page(Query::first(Part::Pending, 10)).await;
    assert_eq!(page.expect("a page").records, [kept]);
}

/// Symptom: a vault did not open any more when a crash, or a sync that failed, broke off its making. Cause: the look that
/// writes nothing cannot take back what was half done. Fix: it lets SQLite do that. Method: the files of a database in the
/// middle of its first transaction, before it has a write-ahead log.
#[tokio::test]
async fn a_making_that_was_broken_off_is_made_again() {
    let temp = tempfile::tempdir().expect("a directory");
    let half = Connection::open(temp.path().join("half.db")).expect("a database");
    let sql = "PRAGMA cache_size = 1; CREATE TABLE t (x); BEGIN IMMEDIATE; INSERT INTO t VALUES (zeroblob(200000))";
    half.execute_batch(sql).expect("half done");
    let vault = temp.path().join("vault");
    let dir = VaultDir::open(&vault).expect("a directory");
    for end in ["", "-journal"] {
        let from = temp.path().join(format!("half.db{end}"));
        fs::copy(from, vault.join(format!("{FILE}{end}"))).expect("copy");
    }
    drop(dir);
    let error = SqliteStore::open(&vault)
        .expect("the store")
        .open(at(1))
        .await;
    assert_eq!(error.expect_err("not a vault's").kind(), ErrorKind::Invalid);

    // The same, of a database that has nothing in it yet.
    fs::remove_file(vault.join(FILE)).expect("remove");
    let half = Connection::open(temp.path().join("new.db")).expect("a database");
    let sql = "PRAGMA cache_size = 1; BEGIN IMMEDIATE; CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(200000))";
    half.execute_batch(sql).expect("half done");
    for end in ["", "-journal"] {
        let from = temp.path().join(format!("new.db{end}"));
        fs::copy(from, vault.join(format!("{FILE}{end}"))).expect("copy");
    }
    let store = opened(&vault).await;
    put(&store, action("l", vec![1])).await;
    store.close().await.expect("close");
}

/// What it would add to a new database would go aside when the salvage is taken up.
#[tokio::test]
async fn a_shared_vault_waits_for_a_salvage_that_was_cut_off() {
    let temp = tempfile::tempdir().expect("a directory");
    let store = opened(temp.path()).await;
    put(&store, action("l", vec![1])).await;
    store.close().await.expect("close");
    fs::write(temp.path().join("salvage"), "20261128T104500Z").expect("write");
    let shared = || {
        let access = Access::Shared;
        let options = SqliteOptions {
            access,
            ..SqliteOptions::default()
        };
        SqliteStore::open_with(temp.path(), options).expect("the store")
    };
    let store = shared();
    let error = store.open(at(2)).await.expect_err("unfinished");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("open it alone"), "{error}");
    store.close().await.expect("close");
    let store = opened(temp.path()).await;
    let counts = store.totals().await.expect("totals").counts;
    assert_eq!(counts.pending + counts.dead, 1);
    store.close().await.expect("close");
    let store = shared();
    store.open(at(3)).await.expect("open");
    store.close().await.expect("close");
}
