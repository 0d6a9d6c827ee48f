//! Looks at a vault on SQLite: at the database itself, opened so that nothing is written; at a private copy when a crash
//! left a log beside it, which only a writer can read.

use std::path::Path;

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags};

use super::connect::says;
use super::{FILE, rows, schema};
use crate::error::{Error, ErrorKind, Result};
use crate::store::dir::{Scratch, VaultDir};
use crate::store::examination::{Examiner, Problem};
use crate::store::kv::{Batch, Engine, examine};

/// # Errors
///
/// [`ErrorKind::Corrupt`] when it is no database, or a newer version made it; [`ErrorKind::Locked`] when somebody has the
/// vault open; storage errors.
pub(crate) fn examine_sqlite(path: &Path, out: &mut Examiner) -> Result<()> {
    let dir = VaultDir::look(path)?;
    let database = dir.path().join(FILE);
    let log = dir.path().join(format!("{FILE}-wal"));
    let scratch: Option<Scratch>;
    let connection = match log.metadata().is_ok_and(|found| found.len() > 0) {
        true => {
            let copy = dir.scratch()?;
            copy.copy(&log)?;
            let database = copy.copy(&database)?;
            scratch = Some(copy);
            Connection::open(&database).map_err(says("open"))?
        }
        false => {
            scratch = None;
            open_untouched(&database)?
        }
    };
    schema::check(&connection, &database)?;
    integrity(&connection, out)?;
    let examined = examine(Looked { connection }, None, out);
    drop(scratch);
    examined
}

/// Nobody else has the file open: we hold the lock of its directory.
fn open_untouched(database: &Path) -> Result<Connection> {
    let Some(path) = database.to_str() else {
        let text = "the path of the vault is not UTF-8; move it";
        return Err(Error::new(ErrorKind::Unsupported, text));
    };
    let path = path
        .replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{path}?immutable=1");
    Connection::open_with_flags(uri, flags).map_err(says("open"))
}

/// What SQLite itself finds, and rows that no action owns.
fn integrity(connection: &Connection, out: &mut Examiner) -> Result<()> {
    let texts = connection
        .prepare("PRAGMA integrity_check(100)")
        .and_then(|mut statement| {
            let texts = statement.query_map([], |row| row.get::<_, String>(0))?;
            texts.collect::<rusqlite::Result<Vec<String>>>()
        });
    for text in texts.map_err(says("check"))? {
        if text != "ok" {
            out.find(Problem::Engine, FILE, text);
        }
    }
    for table in ["syncvault_bodies", "syncvault_answers"] {
        let sql = format!(
            "SELECT count(*) FROM {table} WHERE action NOT IN (SELECT no FROM syncvault_actions)"
        );
        let count = connection.query_row(&sql, [], |row| row.get::<_, i64>(0));
        let count = count.map_err(says("count"))?;
        if count > 0 {
            let text = format!("{count} rows belong to no action");
            out.find(Problem::Orphan, table, text);
        }
    }
    Ok(())
}

/// A database that is only read.
#[derive(Debug)]
struct Looked {
    connection: Connection,
}

impl Engine for Looked {
    fn apply(&mut self, _: Batch) -> Result<()> {
        let text = "a database that is examined is not written to";
        Err(Error::new(ErrorKind::Storage, text))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        rows::get(&self.connection, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        rows::scan(&self.connection, from, to, limit)
    }
}
