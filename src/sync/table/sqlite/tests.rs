//! What SQL adds to the contract of a `LocalStore`: columns of the app, its constraints, its transactions.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::store::SqliteStore;
use crate::sync::{LocalRecord, RecordKey, Row, Touched};
use crate::{ConnectivityMode, SyncVault};

/// An app with a database and the tables in `sql`, and the store over it.
struct App {
    path: PathBuf,
    sql: Connection,
    local: SqliteLocal,
    _dir: TempDir,
}

impl App {
    async fn new(sql: &str, tables: &[&str]) -> Self {
        let app = Self::unopened(sql);
        app.open(tables).await.expect("open");
        app
    }

    fn unopened(sql: &str) -> Self {
        let dir = TempDir::new().expect("directory");
        let path = dir.path().join("app.db");
        let connection = Connection::open(&path).expect("database");
        connection.execute_batch(sql).expect("tables");
        let local = SqliteLocal::with_outbox(&path).expect("store");
        Self {
            path,
            sql: connection,
            local,
            _dir: dir,
        }
    }

    async fn open(&self, tables: &[&str]) -> Result<()> {
        let specs: Vec<TableSpec> = tables.iter().map(|name| TableSpec::new(*name)).collect();
        self.local.open(&specs).await
    }

    async fn write(&self, table: &str, id: &str, row: Value) -> Result<()> {
        let step = LocalStep::new().write(record(table, id, row), Touched::Row);
        self.local.commit(step).await
    }

    /// How many requests wait in the same database.
    fn requests(&self) -> u64 {
        let sql = "SELECT pending FROM syncvault_ledger";
        self.sql
            .query_row(sql, [], |row| row.get(0))
            .expect("ledger")
    }

    async fn row(&self, table: &str, id: &str) -> Option<Value> {
        let page = self.local.read(table, &[id.into()]).await.expect("read");
        assert!(page.damaged.is_empty(), "{:?}", page.damaged);
        let record = page.records.into_iter().next()?;
        record.row.map(Value::Object)
    }
}

fn record(table: &str, id: &str, row: Value) -> LocalRecord {
    let mut record = LocalRecord::unknown(RecordKey::new(table, id));
    let Value::Object(row) = row else {
        panic!("no object: {row}");
    };
    record.row = Some(row);
    record
}

const TODOS: &str = "CREATE TABLE todos (id TEXT PRIMARY KEY, title TEXT NOT NULL DEFAULT 'none', \
                     done BOOLEAN, more JSON, note TEXT)";

#[tokio::test]
async fn every_value_comes_back_from_every_column_as_it_was_written() {
    let columns = [
        "TEXT", "INTEGER", "REAL", "BOOLEAN", "JSON", "BLOB", "NUMERIC", "",
    ];
    let declared: Vec<String> = (0..columns.len())
        .map(|at| format!(", c{at} {}", columns[at]))
        .collect();
    let sql = format!("CREATE TABLE t (id TEXT PRIMARY KEY{})", declared.concat());
    let app = App::new(&sql, &["t"]).await;
    let deep = (0..100).fold(json!("end"), |inner, _| json!([inner]));
    let values = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(0.1),
        json!(1.0),
        json!(-2.5e300),
        json!(1e15),
        json!(""),
        json!("12"),
        json!("1.0"),
        json!("true"),
        json!("null"),
        json!("{\"a\":1}"),
        json!("a\0b"),
        json!("'; DROP TABLE t; --"),
        json!("\u{1F600} \u{202E} \u{FFFF}"),
        json!({"a": [1, {"b": null}]}),
        json!([]),
        deep,
    ];
    for (number, value) in values.iter().enumerate() {
        let mut row = Row::new();
        for at in 0..columns.len() {
            row.insert(format!("c{at}"), value.clone());
        }
        row.insert("elsewhere".to_owned(), value.clone());
        let id = number.to_string();
        let row = Value::Object(row);
        app.write("t", &id, row.clone()).await.expect("write");
        assert_eq!(app.row("t", &id).await, Some(row), "{value}");
    }
}

#[tokio::test]
async fn a_missing_field_a_null_and_the_id_in_the_row_are_told_apart() {
    let app = App::new(TODOS, &["todos"]).await;
    let rows = [
        json!({}),
        json!({"note": null}),
        json!({"id": "x", "title": "t"}),
        json!({"id": "another", "done": true}),
        json!({"id": 7}),
    ];
    for row in rows {
        app.write("todos", "x", row.clone()).await.expect("write");
        assert_eq!(app.row("todos", "x").await, Some(row));
    }
}

#[tokio::test]
async fn the_apps_own_sql_sees_plain_values() {
    let app = App::new(TODOS, &["todos"]).await;
    let row = json!({"title": "milk", "done": true, "more": {"shop": "corner"}});
    app.write("todos", "7", row).await.expect("write");
    let sql = "SELECT title, done, json_extract(more, '$.shop'), note FROM todos WHERE id = '7'";
    let found: (String, i64, String, Option<String>) = app
        .sql
        .query_row(sql, [], |row| row.try_into())
        .expect("row");
    assert_eq!(found, ("milk".into(), 1, "corner".into(), None));
}

#[tokio::test]
async fn a_partial_write_touches_its_columns_and_no_others() {
    let app = App::new(TODOS, &["todos"]).await;
    let row = json!({"title": "milk", "done": false, "note": null, "extra": 1});
    app.write("todos", "7", row).await.expect("write");
    // Only to see what a partial write does: the app writes through the engine.
    app.sql
        .execute("UPDATE todos SET note = 'of the app'", [])
        .expect("update");
    let patched = json!({"title": "milk", "done": true, "note": null, "extra": 2, "new": [1]});
    let fields = ["done", "new"].map(str::to_owned).to_vec();
    let step = LocalStep::new().write(record("todos", "7", patched), Touched::Fields(fields));
    app.local.commit(step).await.expect("patch");
    let want = json!({"title": "milk", "done": true, "note": "of the app", "extra": 1, "new": [1]});
    assert_eq!(app.row("todos", "7").await, Some(want));
}

#[tokio::test]
async fn what_the_app_put_into_a_column_counts_more_than_what_was_written_before() {
    let app = App::new("CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER)", &["t"]).await;
    app.write("t", "7", json!({"n": "12"}))
        .await
        .expect("write");
    assert_eq!(app.row("t", "7").await, Some(json!({"n": "12"})));
    app.sql.execute("UPDATE t SET n = 13", []).expect("update");
    assert_eq!(app.row("t", "7").await, Some(json!({"n": 13})));
}

#[tokio::test]
async fn rows_that_the_engine_has_not_met_are_listed_and_never_unseen() {
    let app = App::new(TODOS, &["todos"]).await;
    app.sql
        .execute("INSERT INTO todos (id, title) VALUES ('7', 'old')", [])
        .expect("insert");
    let page = app.local.list("todos", None, 10).await.expect("list");
    let rows: Vec<_> = page.records.into_iter().map(|record| record.row).collect();
    assert_eq!(json!(rows), json!([{"id": "7", "title": "old"}]));
    // Only what a pull brought can be missing from the next one.
    let unseen = app
        .local
        .unseen("todos", 9, None, 10)
        .await
        .expect("unseen");
    assert!(unseen.records.is_empty());
}

#[tokio::test]
async fn columns_that_stay_on_the_device_are_neither_read_nor_written() {
    let sql = "CREATE TABLE t (key TEXT UNIQUE, a TEXT, is_open BOOLEAN DEFAULT 1, \
               twice TEXT GENERATED ALWAYS AS (a || a))";
    let app = App::unopened(sql);
    let table = SqliteTable::new("t")
        .id_column("key")
        .local_only(["is_open"]);
    let _local = app.local.clone().table(table);
    app.open(&["t"]).await.expect("open");
    app.write("t", "7", json!({"a": "x"})).await.expect("write");
    app.sql
        .execute("UPDATE t SET is_open = 0", [])
        .expect("update");
    app.write("t", "7", json!({"a": "y"})).await.expect("write");
    assert_eq!(app.row("t", "7").await, Some(json!({"a": "y"})));
    let sql = "SELECT is_open, twice FROM t";
    let found: (bool, String) = app
        .sql
        .query_row(sql, [], |row| row.try_into())
        .expect("row");
    assert_eq!(found, (false, "yy".into()));
}

#[tokio::test]
async fn names_are_quoted_whatever_stands_in_them() {
    let (table, column) = ("a\"b; DROP TABLE t; --", "'c\"d\u{e9}");
    let sql = format!(
        "CREATE TABLE {} (\"id\" TEXT PRIMARY KEY, {} TEXT)",
        schema::quoted(table),
        schema::quoted(column)
    );
    let app = App::new(&sql, &[table]).await;
    let row = json!({column: "x"});
    app.write(table, "o'\"\0", row.clone())
        .await
        .expect("write");
    assert_eq!(app.row(table, "o'\"\0").await, Some(row));
    let fields = Touched::Fields(vec![column.to_owned()]);
    let step = LocalStep::new().write(record(table, "o'\"\0", json!({column: "y"})), fields);
    app.local.commit(step).await.expect("patch");
    assert_eq!(app.row(table, "o'\"\0").await, Some(json!({column: "y"})));
    app.local.clear(table).await.expect("clear");
    assert_eq!(app.row(table, "o'\"\0").await, None);
}

#[tokio::test]
async fn a_table_that_cannot_hold_records_is_refused_with_the_reason() {
    let app = App::unopened(
        "CREATE TABLE number (id INTEGER PRIMARY KEY);
         CREATE TABLE nameless (key TEXT PRIMARY KEY);
         CREATE TABLE many (id TEXT);
         CREATE TABLE folded (id TEXT COLLATE NOCASE PRIMARY KEY);
         CREATE TABLE two (id TEXT, part TEXT, PRIMARY KEY (id, part));
         CREATE VIEW shown AS SELECT * FROM nameless",
    );
    for (table, reason) in [
        ("number", "no TEXT"),
        ("nameless", "no column \"id\""),
        ("many", "not unique"),
        ("folded", "not unique"),
        ("two", "not unique"),
        ("shown", "is not in the database"),
        ("missing", "is not in the database"),
    ] {
        let error = app.open(&[table]).await.expect_err(table);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(reason), "{table}: {error}");
    }
    assert_eq!(app.local.tables().await.expect("tables"), [""; 0]);
}

#[tokio::test]
async fn a_row_that_does_not_fit_its_table_is_invalid_and_the_step_leaves_nothing() {
    let sql = "CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER NOT NULL CHECK (n > 0))";
    let app = App::new(sql, &["t"]).await;
    for bad in [json!({}), json!({"n": -1})] {
        let step = LocalStep::new()
            .write(record("t", "good", json!({"n": 1})), Touched::Row)
            .write(record("t", "bad", bad), Touched::Row);
        let error = app.local.commit(step).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert_eq!(app.row("t", "good").await, None);
    }
}

#[tokio::test]
async fn a_column_that_may_not_be_empty_gets_its_default_back() {
    let app = App::new(TODOS, &["todos"]).await;
    app.write("todos", "7", json!({"title": "milk"}))
        .await
        .expect("write");
    app.write("todos", "7", json!({"note": "x"}))
        .await
        .expect("write");
    assert_eq!(app.row("todos", "7").await, Some(json!({"note": "x"})));
    let title: String = app
        .sql
        .query_row("SELECT title FROM todos", [], |row| row.get(0))
        .expect("title");
    assert_eq!(title, "none");
}

#[tokio::test]
async fn a_change_and_its_request_are_there_together_or_not_at_all() {
    let app = App::new(
        "CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER NOT NULL)",
        &["t"],
    )
    .await;
    let vault = SyncVault::builder("http://127.0.0.1:9")
        .store(SqliteStore::outbox(&app.path).expect("outbox"))
        .build()
        .await
        .expect("vault");
    vault.set_connectivity(ConnectivityMode::Offline);
    let request = |key: &str| {
        let request = vault.put("/t/7").body("x").idempotency_key(key);
        QueueRequest::new(vault.clone(), request)
    };
    let step = |row| LocalStep::new().write(record("t", "7", row), Touched::Row);

    let refused = app.local.write(step(json!({})), request("a")).await;
    assert_eq!(refused.expect_err("no n").kind(), ErrorKind::Invalid);
    assert_eq!(app.requests(), 0);

    app.local
        .write(step(json!({"n": 1})), request("b"))
        .await
        .expect("write");
    assert_eq!(app.requests(), 1);

    // The same key with another request: the vault refuses, and the row stays as it was.
    let other = vault.put("/t/8").body("y").idempotency_key("b");
    let other = QueueRequest::new(vault.clone(), other);
    let refused = app.local.write(step(json!({"n": 2})), other).await;
    assert_eq!(
        refused.expect_err("conflict").kind(),
        ErrorKind::IdempotencyConflict
    );
    assert_eq!(app.row("t", "7").await, Some(json!({"n": 1})));
    vault.shutdown(Duration::ZERO).await.expect("shutdown");
}

#[tokio::test]
async fn a_vault_with_another_database_is_refused_by_the_first_write() {
    let app = App::new("CREATE TABLE t (id TEXT PRIMARY KEY)", &["t"]).await;
    let vault = SyncVault::builder("http://127.0.0.1:9")
        .store(crate::store::MemoryStore::new())
        .build()
        .await
        .expect("vault");
    vault.set_connectivity(ConnectivityMode::Offline);
    let request = || QueueRequest::new(vault.clone(), vault.put("/t/7").body("x"));
    let step = || LocalStep::new().write(record("t", "7", json!({})), Touched::Row);
    let error = app
        .local
        .write(step(), request())
        .await
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(app.row("t", "7").await, None);

    let apart = SqliteLocal::open(&app.path).expect("store");
    apart.open(&[TableSpec::new("t")]).await.expect("open");
    apart.write(step(), request()).await.expect("write");
    assert_eq!(app.row("t", "7").await, Some(json!({})));
    assert_eq!(vault.pending_count().await.expect("count"), 1);
}

#[tokio::test]
async fn a_damaged_record_is_named_and_the_rest_goes_on() {
    let app = App::new(TODOS, &["todos"]).await;
    for id in ["1", "2", "3"] {
        app.write("todos", id, json!({"title": id}))
            .await
            .expect("write");
    }
    app.sql
        .execute(
            "UPDATE syncvault_local_records SET meta = '{' WHERE id = '2'",
            [],
        )
        .expect("damage");
    app.sql
        .execute(
            "UPDATE todos SET title = CAST(x'ff' AS TEXT) WHERE id = '3'",
            [],
        )
        .expect("damage");
    let page = app.local.list("todos", None, 10).await.expect("list");
    assert_eq!(page.records.len(), 1);
    assert_eq!(page.damaged, ["2".into(), "3".into()]);
    assert_eq!(page.last(), Some(&"3".into()));
}

#[tokio::test]
async fn the_quarantine_of_a_table_is_bounded() {
    let app = App::new(TODOS, &["todos"]).await;
    for round in 0..3_u64 {
        let mut step = LocalStep::new();
        for at in 0..500 {
            let at = Timestamp::from_millis(round * 500 + at);
            step.quarantine.push(Quarantined::new("todos", None, at));
        }
        app.local.commit(step).await.expect("commit");
    }
    let kept = app.local.quarantine("todos", 5_000).await.expect("kept");
    assert_eq!(kept.len(), 1_000);
    assert_eq!(kept[0].at.as_millis(), 1_499);
}

#[test]
fn a_number_loses_nothing_on_its_way_through_json() {
    // Steps through all exponents and many fractions.
    let numbers = (0..20_000_u64).map(|at| f64::from_bits(at.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    for number in numbers.filter(|number| number.is_finite()) {
        let text = json!(number).to_string();
        let back: f64 = serde_json::from_str(&text).expect("number");
        assert_eq!(back.to_bits(), number.to_bits(), "{text}");
    }
}
