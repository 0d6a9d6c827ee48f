//! The tables and views, and who may touch them: versions, and databases that are not ours.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::connect::says;
use crate::error::{Error, ErrorKind, Result};
use crate::store::mark;

/// The version of the tables. A newer one is refused, and not touched.
const VERSION: i64 = 1;

/// In the head of a vault's own file: `SVdb`.
const APPLICATION_ID: i64 = 0x5356_6462;

/// Whose database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A vault's: the views have plain names, and the file says what it is.
    Own,
    /// An app's: all names start with `syncvault_`.
    Attached,
}

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS syncvault_schema (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS syncvault_actions (
    no INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    seq INTEGER,
    lane TEXT,
    origin TEXT,
    principal TEXT,
    key TEXT,
    state TEXT,
    wire TEXT,
    attempts INTEGER,
    priority INTEGER,
    due INTEGER,
    created INTEGER,
    expires INTEGER,
    last_attempt INTEGER,
    settled INTEGER,
    reason TEXT,
    last_status INTEGER,
    last_error TEXT,
    method TEXT,
    url TEXT,
    tag TEXT,
    body_bytes INTEGER,
    answer_bytes INTEGER,
    record BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS syncvault_dead ON syncvault_actions (settled) WHERE state = 'dead';
CREATE TABLE IF NOT EXISTS syncvault_bodies (action INTEGER PRIMARY KEY, frame BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS syncvault_answers (action INTEGER PRIMARY KEY, frame BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS syncvault_kv (key BLOB PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
";

/// The views; `{p}` stands for what their names start with.
const VIEWS: &str = "
CREATE VIEW IF NOT EXISTS {p}actions AS SELECT
    lower(substr(hex(id), 1, 8) || '-' || substr(hex(id), 9, 4) || '-' || substr(hex(id), 13, 4) || '-' ||
        substr(hex(id), 17, 4) || '-' || substr(hex(id), 21)) AS id,
    seq, lane, state, method, url, body_bytes, key, principal, origin, tag, wire, attempts, priority,
    {time:due}, {time:created}, {time:expires}, {time:last_attempt}, {time:settled},
    reason, last_status, last_error, answer_bytes
    FROM syncvault_actions;
CREATE VIEW IF NOT EXISTS {p}pending AS SELECT * FROM {p}actions
    WHERE state IN ('queued', 'in_flight') ORDER BY lane, seq;
CREATE VIEW IF NOT EXISTS {p}dead_letters AS SELECT * FROM {p}actions WHERE state = 'dead' ORDER BY settled;
CREATE VIEW IF NOT EXISTS {p}delivered AS SELECT * FROM {p}actions WHERE state = 'delivered' ORDER BY settled;
CREATE VIEW IF NOT EXISTS {p}lanes AS
    WITH lane AS (
        SELECT CAST(substr(key, 2) AS TEXT) AS name, CAST(value AS TEXT) AS row FROM syncvault_kv
        WHERE key >= x'6e' AND key < x'6f'
    )
    SELECT name, json_extract(row, '$.pending') AS pending, json_extract(row, '$.in_flight') AS in_flight,
        json_extract(row, '$.first.id') AS first, json_extract(row, '$.blocked[0].id') AS blocked_by
    FROM lane;
CREATE VIEW IF NOT EXISTS {p}ledger AS
    WITH totals AS (
        SELECT json_extract(CAST(value AS TEXT), '$.ledger') AS row FROM syncvault_kv
        WHERE key = x'6d746f74616c73'
    )
    SELECT json_extract(row, '$.enqueued') AS enqueued, json_extract(row, '$.delivered') AS delivered,
        json_extract(row, '$.returned') AS returned, json_extract(row, '$.dead') AS dead,
        json_extract(row, '$.cancelled') AS cancelled, json_extract(row, '$.expired') AS expired,
        json_extract(row, '$.superseded') AS superseded, json_extract(row, '$.evicted') AS evicted,
        json_extract(row, '$.pending') AS pending
    FROM totals;
";

const TIMES: [&str; 5] = ["due", "created", "expires", "last_attempt", "settled"];

fn views(place: Place) -> String {
    let prefix = match place {
        Place::Own => "",
        Place::Attached => "syncvault_",
    };
    // In an app's database the table has the name already.
    let mut sql = match place {
        Place::Own => VIEWS.to_owned(),
        Place::Attached => VIEWS.replace("{p}actions", "syncvault_all"),
    };
    for name in TIMES {
        let readable = format!(
            "{name}, strftime('%Y-%m-%dT%H:%M:%fZ', {name} / 1000.0, 'unixepoch') AS {name}_at"
        );
        sql = sql.replace(&format!("{{time:{name}}}"), &readable);
    }
    sql.replace("{p}", prefix)
}

/// Makes what is missing. In a transaction of the caller.
pub(super) fn create(connection: &Connection, place: Place) -> Result<()> {
    let failed = || says("make the tables");
    match (version(connection)?, place) {
        (Some(VERSION), _) => return refuse_unreleased(connection),
        (Some(version), Place::Attached) => return Err(newer(version)),
        (Some(_), Place::Own) => return Err(at_odds()),
        (None, _) => {}
    }
    connection.execute_batch(TABLES).map_err(failed())?;
    connection.execute_batch(&views(place)).map_err(failed())?;
    connection
        .execute("INSERT INTO syncvault_schema VALUES (?1)", [VERSION])
        .map_err(failed())?;
    if place == Place::Own {
        let sql =
            format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}");
        connection.execute_batch(&sql).map_err(failed())?;
    }
    Ok(())
}

/// The version of the tables that are there.
fn version(connection: &Connection) -> Result<Option<i64>> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'syncvault_schema'";
    let look = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let look = |sql| look(sql).map_err(says("look at the tables"));
    match look(sql)? {
        0 => Ok(None),
        _ => look("SELECT max(version) FROM syncvault_schema").map(Some),
    }
}

fn newer(version: i64) -> Error {
    let text = format!(
        "the database has version {version}, this version of the library reads up to {VERSION}; use a newer one"
    );
    Error::new(ErrorKind::Unsupported, text)
}

/// In a vault's own file both places of the version say the same.
fn at_odds() -> Error {
    let text = "the database is damaged: it names two versions of its tables";
    Error::new(ErrorKind::Corrupt, text)
}

/// Before its first release, this crate made tables without checksums.
fn refuse_unreleased(connection: &Connection) -> Result<()> {
    let sql = "SELECT count(*) FROM pragma_table_info('syncvault_kv') WHERE name = 'crc'";
    let found = connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    match found.map_err(says("look at the tables"))? {
        0 => Err(Error::invalid(
            "a version that was never released made the database; drain it with that one, and use a new directory",
        )),
        _ => Ok(()),
    }
}

/// Looks into a vault's file before anything is written to it.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] when it is no database, [`ErrorKind::Unsupported`] when a newer version made it,
/// [`ErrorKind::Invalid`] when it is the database of something else. A vault that has a mark beside it was made by a version
/// like this one: there the last is damage as well.
pub(super) fn check_own(path: &Path) -> Result<()> {
    let is_marked = path.with_file_name(mark::FILE).exists();
    match look_at(path) {
        Err(error) if error.kind() == ErrorKind::Invalid && is_marked => {
            Err(Error::new(ErrorKind::Corrupt, error.to_string()))
        }
        looked => looked,
    }
}

fn look_at(path: &Path) -> Result<()> {
    let look = |access| {
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(says("open"))?;
        check(&connection, path)
    };
    match look(OpenFlags::SQLITE_OPEN_READ_ONLY) {
        // A crash left a transaction half done: nobody can read it before SQLite took that back.
        Err(error) if is_half_done(&error) => look(OpenFlags::SQLITE_OPEN_READ_WRITE),
        looked => looked,
    }
}

fn is_half_done(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|e| e.downcast_ref());
    source.and_then(rusqlite::Error::sqlite_error_code) == Some(ErrorCode::ReadOnly)
}

/// As [`check_own`], of a file that is open.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<()> {
    let look = |sql| {
        connection
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .map_err(says("look at"))
    };
    let application_id = look("PRAGMA application_id")?;
    let tables = look("SELECT count(*) FROM sqlite_schema")?;
    match look("PRAGMA user_version")? {
        _ if (application_id, tables) == (0, 0) => Ok(()),
        newest if application_id == APPLICATION_ID && newest > VERSION => {
            match version(connection) {
                Ok(Some(other)) if other <= VERSION => Err(at_odds()),
                _ => Err(newer(newest)),
            }
        }
        _ if application_id == APPLICATION_ID => refuse_unreleased(connection),
        _ => {
            let text = format!(
                "{} is the database of something else; give the vault a directory of its own",
                path.display()
            );
            Err(Error::invalid(text))
        }
    }
}
