//! The engine: one connection, a transaction for each group of commands, and what it does when the disk is full.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Connection;

use super::connect::{self, busy, in_savepoint, says};
use super::file::{self, Mark, SidePlace};
use super::peers::Locks;
use super::reserve::{self, Reserve};
use super::{Access, FILE, SqliteOptions, SqliteStore, rows, schema};
use crate::error::{Error, ErrorKind, Result};
use crate::store::ballast::Ballast;
use crate::store::dir::{VaultDir, refuse_links};
use crate::store::kv::{Batch, Engine, Peers};

/// How many pages of nothing a close gives back to the file system, at most: 64 MiB.
const VACUUM_PAGES: u32 = 16 * 1024;

/// A connection that belongs to the store.
#[derive(Debug)]
pub(super) struct SqliteEngine {
    pub(super) connection: Connection,
    path: PathBuf,
    /// The file that was opened.
    mark: Mark,
    /// What tells when another connection wrote.
    version: Option<i64>,
    locks: Option<Locks>,
    is_own: bool,
    ballast: Ballast,
    reserve: Reserve,
    /// How much of the database must be free, when the disk is not, before anything is added.
    spare_bytes: u64,
    /// Released last.
    _dir: Arc<VaultDir>,
}

impl SqliteEngine {
    pub(super) fn open_own(dir: Arc<VaultDir>, options: &SqliteOptions) -> Result<Self> {
        let path = dir.path().join(FILE);
        let _opening = dir.serialize()?;
        let others = ["vault.db-journal", "vault.db-wal", "vault.db-shm"];
        refuse_links(others.map(|name| dir.path().join(name)))?;
        let is_new = file::create_private(&path)?;
        schema::check_own(&path)?;
        let mut ballast = Ballast::of(dir.path(), options.ballast_bytes);
        let connection = match connect::own(&path, &options.tuning()) {
            Err(error) if error.kind() == ErrorKind::StorageFull && ballast.release()? => {
                connect::own(&path, &options.tuning())?
            }
            opened => opened?,
        };
        ballast.renew()?;
        if is_new {
            dir.sync_name()?;
        }
        let locks = match options.access {
            Access::Alone => None,
            Access::Shared => Some(Locks::new(&dir)?),
        };
        Ok(Self {
            connection,
            mark: Mark::of(&path)?,
            path,
            version: None,
            locks,
            is_own: true,
            ballast,
            reserve: Reserve::of(options.reserve_bytes()),
            spare_bytes: options.ballast_bytes + options.reserve_bytes(),
            _dir: dir,
        })
    }

    pub(super) fn open_beside(place: SidePlace, options: &SqliteOptions) -> Result<Self> {
        let SidePlace {
            dir,
            database: path,
        } = place;
        let _opening = dir.serialize()?;
        let connection = connect::beside(&path, &options.tuning())?;
        SqliteStore::attach(&connection)?;
        Ok(Self {
            connection,
            mark: Mark::of(&path)?,
            path,
            version: None,
            locks: Some(Locks::new(&dir)?),
            is_own: false,
            // The app's database is the app's to keep room for.
            ballast: Ballast::of(dir.path(), 0),
            reserve: Reserve::of(0),
            spare_bytes: 0,
            _dir: Arc::new(dir),
        })
    }

    fn run(&self, sql: &str) -> Result<()> {
        let mut statement = self.connection.prepare_cached(sql).map_err(says(sql))?;
        statement.execute([]).map_err(says(sql)).map(drop)
    }

    fn write(&self, batch: &Batch) -> Result<()> {
        rows::write(&self.connection, batch)?;
        self.run("COMMIT")
    }

    /// A full disk: rolls back, makes room, and writes once more, unless somebody else wrote in between.
    fn write_again(&mut self, batch: &Batch, full: Error) -> Result<()> {
        self.end()?;
        self.reserve.doubt();
        self.ballast.release()?;
        connect::start_log_over(&self.connection);
        let is_changed = self.begin()?;
        let written = match is_changed {
            false => self
                .reserve
                .give(&self.connection)
                .and_then(|()| self.write(batch)),
            true => Err(full),
        };
        match written {
            // The database takes its room at once, before somebody else does.
            Ok(()) => connect::start_log_over(&self.connection),
            Err(_) => {
                self.end()?;
                self.reserve.doubt();
            }
        }
        written
    }

    /// A database that was deleted or replaced under a running vault must not acknowledge anything.
    fn check_still_there(&self) -> Result<()> {
        if Mark::of(&self.path)? == self.mark {
            return Ok(());
        }
        let text = format!(
            "{} was replaced while the vault was open; reopen it",
            self.path.display()
        );
        Err(Error::new(ErrorKind::Storage, text))
    }
}

impl Engine for SqliteEngine {
    fn is_shared(&self) -> bool {
        true
    }

    fn begin(&mut self) -> Result<bool> {
        self.run("BEGIN IMMEDIATE").map_err(busy)?;
        if self.locks.is_some() {
            self.ballast.look();
        }
        let version = self
            .connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)));
        match version {
            Ok(version) => {
                let before = self.version.replace(version);
                let is_changed = before.is_some_and(|before| before != version);
                if is_changed {
                    self.reserve.doubt();
                }
                Ok(is_changed)
            }
            Err(error) => {
                self.end()?;
                Err(says("look for changes")(error))
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        match self.connection.is_autocommit() {
            // SQLite ended it by itself.
            true => Ok(()),
            false => self.run("ROLLBACK"),
        }
    }

    fn peers(&mut self) -> Option<&mut dyn Peers> {
        self.locks.as_mut().map(|locks| locks as &mut dyn Peers)
    }

    fn check_room(&mut self) -> Result<()> {
        // What was drained is room as well, and nobody else can take it.
        let has_room =
            self.ballast.renew()? || reserve::free_bytes(&self.connection)? >= self.spare_bytes;
        match has_room {
            true => Ok(()),
            false => Err(full(&self.path)),
        }
    }

    /// Half of the reserve is for what becomes longer before anything was forgotten.
    fn is_tight(&self) -> Result<bool> {
        if self.ballast.is_held() {
            return Ok(false);
        }
        Ok(reserve::free_bytes(&self.connection)? < self.reserve.bytes() / 2)
    }

    fn apply(&mut self, batch: Batch) -> Result<()> {
        self.check_still_there()?;
        let kept = match self.ballast.is_held() {
            true => self.reserve.keep(&self.connection, &self.path),
            false => Ok(()),
        };
        match kept.and_then(|()| self.write(&batch)) {
            Err(error) if error.kind() == ErrorKind::StorageFull => self.write_again(&batch, error),
            written => written,
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        rows::get(&self.connection, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        rows::scan(&self.connection, from, to, limit)
    }

    fn close(self) -> Result<()> {
        let Self {
            connection,
            locks,
            is_own,
            ballast,
            ..
        } = self;
        connect::keep_log(&connection, !ballast.is_held());
        if is_own
            && ballast.is_held()
            && connection.is_autocommit()
            && let Err(error) = connect::shrink(&connection, VACUUM_PAGES)
        {
            tracing::debug!(%error, "the database stays as large as it is");
        }
        connection
            .close()
            .map_err(|(_, error)| says("close")(error))?;
        if let Some(locks) = locks {
            locks.close();
        }
        Ok(())
    }

    fn abandon(self) {
        connect::keep_log(&self.connection, true);
    }
}

/// A transaction of the app: it commits.
#[derive(Debug)]
pub(super) struct Guest<'t>(pub(super) &'t Connection);

impl Engine for Guest<'_> {
    fn apply(&mut self, batch: Batch) -> Result<()> {
        in_savepoint(self.0, || rows::write(self.0, &batch))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        rows::get(self.0, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        rows::scan(self.0, from, to, limit)
    }
}

/// What an append gets while there is no room.
fn full(path: &Path) -> Error {
    let text = format!(
        "the disk of {} is full: nothing is added until there is room; free some space",
        path.display()
    );
    Error::new(ErrorKind::StorageFull, text)
}
