//! Records in the app's own SQLite database: rows in plain tables of the app, what is known of them beside, in tables named
//! `syncvault_local_..`. With the vault in the same database, a record and its request are one transaction.

mod read;
mod schema;
#[cfg(test)]
mod tests;
mod value;
mod write;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use self::read::Reader;
use self::schema::Schema;
use self::write::{Schemas, Writer};
use super::local::{
    LocalFuture, LocalStep, LocalStore, Quarantined, QueueRequest, RecordPage, TableSpec,
    TableState,
};
use super::record::LocalRecord;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{SqliteStore, blocking};
use crate::sync::{Checkpoint, CheckpointKey, ItemId, SqliteCheckpoints};

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS syncvault_local_tables (
    no INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    state TEXT
);
CREATE TABLE IF NOT EXISTS syncvault_local_records (
    tbl INTEGER NOT NULL,
    id TEXT NOT NULL,
    meta TEXT NOT NULL,
    exacts TEXT,
    has_id INTEGER NOT NULL,
    unsynced INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    deleted_at INTEGER,
    PRIMARY KEY (tbl, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS syncvault_local_unsynced ON syncvault_local_records (tbl, id) WHERE unsynced = 1;
CREATE INDEX IF NOT EXISTS syncvault_local_tombstones ON syncvault_local_records (tbl, deleted_at)
    WHERE unsynced = 0 AND deleted_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS syncvault_local_quarantine (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    tbl INTEGER NOT NULL,
    id TEXT,
    reason TEXT NOT NULL,
    text TEXT NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS syncvault_local_quarantined ON syncvault_local_quarantine (tbl, no);
CREATE TABLE IF NOT EXISTS syncvault_local_held (
    user TEXT NOT NULL,
    tbl TEXT NOT NULL,
    id TEXT NOT NULL,
    meta TEXT NOT NULL,
    PRIMARY KEY (user, tbl, id)
) WITHOUT ROWID;
";

/// How long a write waits for the app's transactions.
const PATIENCE: Duration = Duration::from_secs(5);

/// Statements kept ready: a table has some for each set of fields that its rows come with.
const STATEMENTS: usize = 128;

/// Records in the app's own SQLite database.
///
/// **The app makes its tables**, as it likes, and reads them with its own SQL. A table needs a `TEXT` column for ids that is its
/// primary key, or unique. Fields go into the columns of the same name; a field without a column is kept beside the row, and comes
/// back with it. All changes of records go through the engine.
///
/// | JSON | in a column |
/// | --- | --- |
/// | string | TEXT |
/// | integer up to 64 bits with a sign | INTEGER |
/// | other number | REAL, or TEXT for an integer that is larger |
/// | `true`, `false` | 1, 0; declare the column `BOOLEAN` |
/// | object, array | JSON as TEXT; declare the column `JSON` |
/// | `null`, no such field | NULL, or the column's default where that may not be |
///
/// A value comes back as it was written whatever the column makes of it, for as long as the app leaves the column alone.
/// A BLOB of the app's comes as a base64 text.
///
/// ```
/// # fn open(path: &std::path::Path) -> syncvault::Result<()> {
/// use syncvault::rusqlite::Connection;
/// use syncvault::store::SqliteStore;
/// use syncvault::sync::{SqliteLocal, SqliteTable};
/// use syncvault::SyncVault;
///
/// let app = Connection::open(path).expect("the app's database");
/// app.execute_batch("CREATE TABLE IF NOT EXISTS todos (id TEXT PRIMARY KEY, title TEXT, done BOOLEAN, is_open BOOLEAN)")
///     .expect("the app's tables");
/// // Records and the vault's queue in one database: a change and its request are one transaction.
/// let local = SqliteLocal::with_outbox(path)?.table(SqliteTable::new("todos").local_only(["is_open"]));
/// let vault = SyncVault::builder("https://api.example.com").store(SqliteStore::outbox(path)?);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SqliteLocal(Arc<Inner>);

struct Inner {
    path: PathBuf,
    has_outbox: bool,
    tables: Mutex<Vec<SqliteTable>>,
    schemas: Mutex<Arc<Schemas>>,
    writer: Mutex<Connection>,
    /// Of its own, so that a list does not wait for a commit.
    reader: Mutex<Connection>,
}

/// What is special about one of the app's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct SqliteTable {
    /// The table.
    pub name: String,
    /// The column of the ids. Default: `id`.
    pub id_column: String,
    /// Columns that never leave the device and that the engine never touches.
    pub local_only: Vec<String>,
}

impl SqliteTable {
    /// A table whose ids are in the column `id`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            id_column: "id".to_owned(),
            local_only: Vec::new(),
        }
    }

    /// Its ids are in another column.
    pub fn id_column(mut self, column: impl Into<String>) -> Self {
        self.id_column = column.into();
        self
    }

    /// These columns are no part of its records: they stay on the device.
    pub fn local_only(mut self, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.local_only = columns.into_iter().map(Into::into).collect();
        self
    }
}

impl SqliteLocal {
    /// In the app's database at `path`. The vault has a store of its own: a change is committed first and queued then, and what a
    /// crash cut off between is made up for at the next start.
    ///
    /// # Errors
    ///
    /// Storage errors; [`ErrorKind::Corrupt`] for what is no database.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_at(path.as_ref(), false)
    }

    /// In the app's database at `path`, which holds the vault's queue too: the vault's store is [`SqliteStore::outbox`] on the same
    /// path. A change and its request are one transaction.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn with_outbox(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_at(path.as_ref(), true)
    }

    fn open_at(path: &Path, has_outbox: bool) -> Result<Self> {
        let writer = connect(path)?;
        writer
            .execute_batch(CREATE)
            .map_err(says("be given a place"))?;
        SqliteCheckpoints::attach(&writer)?;
        if has_outbox {
            SqliteStore::attach(&writer)?;
        }
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            has_outbox,
            tables: Mutex::default(),
            schemas: Mutex::default(),
            writer: Mutex::new(writer),
            reader: Mutex::new(connect(path)?),
        })))
    }

    /// Says what is special about a table. Those that are not named here have their ids in `id`, and nothing of their own.
    #[must_use]
    pub fn table(self, table: SqliteTable) -> Self {
        let mut tables = self.0.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.retain(|known| known.name != table.name);
        tables.push(table);
        drop(tables);
        self
    }

    /// Off the async runtime: SQLite waits for disks and for others.
    fn act<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> LocalFuture<'static, T> {
        let inner = self.0.clone();
        Box::pin(blocking(move || act(&inner)))
    }

    fn page(
        &self,
        table: &str,
        page: impl FnOnce(Reader<'_>) -> Result<RecordPage> + Send + 'static,
    ) -> LocalFuture<'static, RecordPage> {
        let table = table.to_owned();
        self.act(move |inner| {
            let schemas = inner.schemas();
            page(Reader {
                connection: &inner.reader(),
                schema: schema_of(&schemas, &table)?,
                table: &table,
            })
        })
    }
}

impl Inner {
    fn schemas(&self) -> Arc<Schemas> {
        let schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        schemas.clone()
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `write` in a transaction of its own. Whatever it makes goes with an error.
    fn transact<T>(
        &self,
        write: impl FnOnce(&Writer<'_>, &rusqlite::Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut connection = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(says("be written"))?;
        let schemas = self.schemas();
        let writer = Writer {
            connection: &transaction,
            schemas: &schemas,
        };
        let done = write(&writer, &transaction)?;
        transaction.commit().map_err(says("be written"))?;
        Ok(done)
    }

    fn open(&self, specs: &[TableSpec]) -> Result<()> {
        let special = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let mut schemas = Schemas::clone(&self.schemas());
        let known = |name: &str| special.iter().find(|table| table.name == name);
        let opened = self.transact(|_, transaction| {
            specs
                .iter()
                .map(|spec| {
                    let table = known(&spec.name)
                        .cloned()
                        .unwrap_or_else(|| SqliteTable::new(&spec.name));
                    let no = number_of(transaction, &spec.name)?;
                    let schema = Schema::read(transaction, &table, no)?;
                    Ok((spec.name.clone(), Arc::new(schema)))
                })
                .collect::<Result<Vec<_>>>()
        })?;
        schemas.extend(opened);
        *self.schemas.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(schemas);
        Ok(())
    }
}

fn number_of(connection: &Connection, table: &str) -> Result<i64> {
    let written = says("be written");
    connection
        .execute(
            "INSERT OR IGNORE INTO syncvault_local_tables (name) VALUES (?1)",
            [table],
        )
        .map_err(&written)?;
    let sql = "SELECT no FROM syncvault_local_tables WHERE name = ?1";
    connection
        .query_row(sql, [table], |row| row.get(0))
        .map_err(written)
}

fn schema_of<'a>(schemas: &'a Schemas, table: &str) -> Result<&'a Arc<Schema>> {
    schemas.get(table).ok_or_else(|| {
        Error::invalid(format!(
            "the table {table:?} was not opened: add it to the engine"
        ))
    })
}

fn connect(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path).map_err(says("be opened"))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection
        .busy_timeout(PATIENCE)
        .and_then(|()| connection.pragma_update(None, "journal_mode", "WAL"))
        .and_then(|()| connection.pragma_update(None, "synchronous", "FULL"))
        .map_err(says("be opened"))?;
    Ok(connection)
}

/// What a page may hold at most.
fn bounded(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

impl LocalStore for SqliteLocal {
    fn open<'a>(&'a self, tables: &'a [TableSpec]) -> LocalFuture<'a, ()> {
        let tables = tables.to_vec();
        self.act(move |inner| inner.open(&tables))
    }

    fn read<'a>(&'a self, table: &'a str, ids: &'a [ItemId]) -> LocalFuture<'a, RecordPage> {
        let ids = ids.to_vec();
        self.page(table, move |reader| reader.read(&ids))
    }

    fn list<'a>(
        &'a self,
        table: &'a str,
        after: Option<&'a ItemId>,
        limit: usize,
    ) -> LocalFuture<'a, RecordPage> {
        let (after, limit) = (after.cloned(), bounded(limit));
        self.page(table, move |reader| reader.list(after.as_ref(), limit))
    }

    fn unsynced<'a>(
        &'a self,
        table: &'a str,
        after: Option<&'a ItemId>,
        limit: usize,
    ) -> LocalFuture<'a, RecordPage> {
        let (after, limit) = (after.cloned(), bounded(limit));
        self.page(table, move |reader| reader.unsynced(after.as_ref(), limit))
    }

    fn unsynced_count<'a>(&'a self, table: &'a str) -> LocalFuture<'a, u64> {
        let table = table.to_owned();
        self.act(move |inner| {
            let schemas = inner.schemas();
            let sql =
                "SELECT count(*) FROM syncvault_local_records WHERE tbl = ?1 AND unsynced = 1";
            let counted = inner.reader().prepare_cached(sql).and_then(|mut count| {
                let no = schemas.get(&table).map(|schema| schema.no);
                count.query_row([no], |row| row.get(0))
            });
            counted.map_err(says("be counted"))
        })
    }

    fn unseen<'a>(
        &'a self,
        table: &'a str,
        generation: u64,
        after: Option<&'a ItemId>,
        limit: usize,
    ) -> LocalFuture<'a, RecordPage> {
        let (after, limit) = (after.cloned(), bounded(limit));
        self.page(table, move |reader| {
            reader.unseen(generation, after.as_ref(), limit)
        })
    }

    fn tombstones<'a>(
        &'a self,
        table: &'a str,
        before: Timestamp,
        limit: usize,
    ) -> LocalFuture<'a, RecordPage> {
        let limit = bounded(limit);
        self.page(table, move |reader| reader.tombstones(before, limit))
    }

    fn commit(&self, step: LocalStep) -> LocalFuture<'_, ()> {
        self.act(move |inner| inner.transact(|writer, _| writer.step(&step)))
    }

    fn write<'a>(&'a self, step: LocalStep, request: QueueRequest) -> LocalFuture<'a, ()> {
        if !self.0.has_outbox {
            return Box::pin(async move {
                self.commit(step).await?;
                request.enqueue().await
            });
        }
        self.act(move |inner| {
            let queued = inner.transact(|writer, transaction| {
                writer.step(&step)?;
                request.enqueue_in(transaction)
            })?;
            queued.committed();
            Ok(())
        })
    }

    fn state<'a>(&'a self, table: &'a str) -> LocalFuture<'a, TableState> {
        let table = table.to_owned();
        self.act(move |inner| read::state(&inner.reader(), &table))
    }

    fn tables(&self) -> LocalFuture<'_, Vec<String>> {
        const ALL: &str = "SELECT name FROM syncvault_local_tables AS t \
                           WHERE state IS NOT NULL \
                              OR EXISTS (SELECT 1 FROM syncvault_local_records WHERE tbl = t.no) \
                              OR EXISTS (SELECT 1 FROM syncvault_local_quarantine WHERE tbl = t.no) \
                           ORDER BY name";
        self.act(|inner| {
            let connection = inner.reader();
            let all = connection.prepare_cached(ALL).and_then(|mut all| {
                let names = all.query_map([], |row| row.get(0))?;
                names.collect()
            });
            all.map_err(says("be listed"))
        })
    }

    fn checkpoint<'a>(&'a self, key: &'a CheckpointKey) -> LocalFuture<'a, Option<Checkpoint>> {
        let key = key.clone();
        self.act(move |inner| SqliteCheckpoints::load_from(&inner.reader(), key))
    }

    fn remove_checkpoint<'a>(&'a self, key: &'a CheckpointKey) -> LocalFuture<'a, ()> {
        let key = key.clone();
        self.act(move |inner| {
            inner.transact(|_, transaction| SqliteCheckpoints::remove_in(transaction, &key))
        })
    }

    fn held<'a>(&'a self, user: &'a str, limit: usize) -> LocalFuture<'a, Vec<LocalRecord>> {
        let (user, limit) = (user.to_owned(), bounded(limit));
        self.act(move |inner| read::held(&inner.reader(), &user, limit))
    }

    fn clear<'a>(&'a self, table: &'a str) -> LocalFuture<'a, ()> {
        let table = table.to_owned();
        self.act(move |inner| inner.transact(|writer, _| writer.clear(&table)))
    }

    fn quarantine<'a>(&'a self, table: &'a str, limit: usize) -> LocalFuture<'a, Vec<Quarantined>> {
        let (table, limit) = (table.to_owned(), bounded(limit));
        self.act(move |inner| read::quarantine(&inner.reader(), &table, limit))
    }
}

impl fmt::Debug for SqliteLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteLocal")
            .field("path", &self.0.path)
            .field("has_outbox", &self.0.has_outbox)
            .finish_non_exhaustive()
    }
}

/// What SQLite said, as an error of ours. A constraint of the app's table is the app's: the row does not fit it.
fn says(what: &str) -> impl Fn(rusqlite::Error) -> Error {
    move |error| {
        let (kind, hint) = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => (ErrorKind::StorageFull, ": the disk is full"),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                (ErrorKind::Corrupt, ": the database is damaged")
            }
            Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => {
                (ErrorKind::Invalid, ": it does not fit its table")
            }
            Some(ErrorCode::TooBig) => (ErrorKind::Invalid, ": it is too large for SQLite"),
            _ => (ErrorKind::Storage, ""),
        };
        let text = format!("local records cannot {what}{hint}: {error}");
        Error::new(kind, text).with_source(error)
    }
}
