//! Connections: how they are opened and set, and what their errors mean.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use super::schema;
use crate::error::{Error, ErrorKind, Result};

/// A write-ahead log that grew larger than this is cut when it starts over.
const LOG_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// After how many pages SQLite brings the log into the database by itself, and how long one is.
const LOG_PAGES: u64 = 1000;
pub(super) const PAGE_BYTES: u64 = 4096;

/// How many statements stay prepared: more than there are.
const STATEMENTS: usize = 48;

pub(super) struct Tuning {
    pub(super) cache_bytes: u64,
    /// How long the write-ahead log may become before it is brought into the database; zero = as SQLite has it.
    pub(super) log_bytes: u64,
    pub(super) busy_timeout: Duration,
}

/// The connection to a vault's own database, whose tables it makes.
pub(super) fn own(path: &Path, tuning: &Tuning) -> Result<Connection> {
    let connection = open(path, tuning)?;
    keep_log(&connection, true);
    // Before the first table, or never.
    set(&connection, "PRAGMA auto_vacuum = INCREMENTAL")?;
    set(&connection, "PRAGMA journal_mode = WAL")?;
    set(
        &connection,
        &format!("PRAGMA journal_size_limit = {LOG_BYTES_MAX}"),
    )?;
    let log_pages = tuning.log_bytes / PAGE_BYTES;
    if (1..LOG_PAGES).contains(&log_pages) {
        set(
            &connection,
            &format!("PRAGMA wal_autocheckpoint = {log_pages}"),
        )?;
    }
    set(&connection, "BEGIN IMMEDIATE")?;
    schema::create(&connection, schema::Place::Own)?;
    set(&connection, "COMMIT")?;
    Ok(connection)
}

/// A connection to an app's database, which stays as it is.
pub(super) fn beside(path: &Path, tuning: &Tuning) -> Result<Connection> {
    open(path, tuning)
}

fn open(path: &Path, tuning: &Tuning) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(says("open"))?;
    connection
        .busy_timeout(tuning.busy_timeout)
        .map_err(says("set"))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    let cache_kib = tuning.cache_bytes / 1024;
    // FULL: a commit has synced the log when it returns. `fullfsync` is what makes that true on macOS.
    set(&connection, "PRAGMA synchronous = FULL")?;
    set(&connection, "PRAGMA fullfsync = ON")?;
    set(&connection, "PRAGMA checkpoint_fullfsync = ON")?;
    set(&connection, "PRAGMA trusted_schema = OFF")?;
    set(&connection, &format!("PRAGMA cache_size = -{cache_kib}"))?;
    Ok(connection)
}

/// Brings the log into the database and starts it over. The file keeps its length: that is room which nobody else can take.
pub(super) fn start_log_over(connection: &Connection) {
    if let Err(error) = set(connection, "PRAGMA wal_checkpoint(RESTART)") {
        tracing::debug!(%error, "the write-ahead log goes on where it is");
    }
}

/// The end of a connection brings the log into the database and drops it, unless it is kept. What is damaged may lie in it.
pub(super) fn keep_log(connection: &Connection, is_kept: bool) {
    let switch = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    if let Err(error) = connection.set_db_config(switch, is_kept) {
        tracing::debug!(%error, "the write-ahead log may be brought into the database");
    }
}

/// Lets SQLite look at the whole file.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] when something is not as it should be.
pub(super) fn check(connection: &Connection) -> Result<()> {
    let look = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
    let said = connection.query_row("PRAGMA integrity_check(1)", [], look);
    match said.map_err(says("check"))? {
        said if said == "ok" => Ok(()),
        said => Err(Error::new(
            ErrorKind::Corrupt,
            format!("the database is damaged: {said}"),
        )),
    }
}

/// Gives free pages back to the file system, a bounded number.
pub(super) fn shrink(connection: &Connection, pages: u32) -> Result<()> {
    let shrunk = connection
        .prepare(&format!("PRAGMA incremental_vacuum({pages})"))
        .and_then(|mut statement| {
            // One page each step.
            let mut steps = statement.query([])?;
            while steps.next()?.is_some() {}
            Ok(())
        });
    shrunk.map_err(says("shrink"))
}

fn set(connection: &Connection, sql: &str) -> Result<()> {
    connection.execute_batch(sql).map_err(says(sql))
}

/// Does all of it or nothing, in whatever transaction the connection is.
pub(super) fn in_savepoint(
    connection: &Connection,
    act: impl FnOnce() -> Result<()>,
) -> Result<()> {
    set(connection, "SAVEPOINT syncvault").map_err(busy)?;
    let done = act().and_then(|()| set(connection, "RELEASE syncvault"));
    if done.is_err()
        && let Err(error) = set(connection, "ROLLBACK TO syncvault; RELEASE syncvault")
    {
        // SQLite rolled back the whole transaction by itself: nothing of it is left.
        tracing::debug!(%error, "a savepoint was gone already");
    }
    done.map_err(busy)
}

/// An error of SQLite, with what was tried.
pub(super) fn says(what: &str) -> impl FnOnce(rusqlite::Error) -> Error {
    move |error| {
        let extended = error.sqlite_error().map(|error| error.extended_code);
        let (kind, hint) = match error.sqlite_error_code() {
            // The shared memory of the log could not be made longer: that, too, comes before anything was written.
            _ if extended == Some(ffi::SQLITE_IOERR_SHMSIZE) => {
                (ErrorKind::StorageFull, ": the disk is full")
            }
            Some(ErrorCode::DiskFull) => (ErrorKind::StorageFull, ": the disk is full"),
            Some(ErrorCode::DatabaseCorrupt) => (ErrorKind::Corrupt, ": it is damaged"),
            Some(ErrorCode::NotADatabase) => (ErrorKind::Corrupt, ": it is no database"),
            _ => (ErrorKind::Storage, ""),
        };
        Error::new(kind, format!("the database failed at {what:?}{hint}")).with_source(error)
    }
}

/// Adds what helps when another connection holds the database.
pub(super) fn busy(error: Error) -> Error {
    let source = std::error::Error::source(&error).and_then(|e| e.downcast_ref());
    let code = source.and_then(rusqlite::Error::sqlite_error_code);
    if !matches!(
        code,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    ) {
        return error;
    }
    let text = "the database is busy: another connection keeps a transaction open, or this one began before that wrote; \
                keep transactions short, and begin those that write as immediate ones";
    Error::new(error.kind(), text).with_source(error)
}
