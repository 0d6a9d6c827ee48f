//! Checkpoints in the app's own SQLite database, which can share the transaction of the page they speak of.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::{Checkpoint, CheckpointFuture, CheckpointKey, CheckpointStore};
use crate::error::{Error, ErrorKind, Result};
use crate::store::blocking;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS syncvault_checkpoints (\
                          user TEXT NOT NULL, feature TEXT NOT NULL, checkpoint TEXT NOT NULL, \
                          PRIMARY KEY (user, feature)) WITHOUT ROWID";
const SAVE: &str = "INSERT INTO syncvault_checkpoints (user, feature, checkpoint) VALUES (?1, ?2, ?3) \
                    ON CONFLICT (user, feature) DO UPDATE SET checkpoint = excluded.checkpoint";
const LOAD: &str = "SELECT checkpoint FROM syncvault_checkpoints WHERE user = ?1 AND feature = ?2";
const REMOVE: &str = "DELETE FROM syncvault_checkpoints WHERE user = ?1 AND feature = ?2";
const REMOVE_ALL: &str = "DELETE FROM syncvault_checkpoints WHERE feature = ?1";

/// How long a write waits for the app's transactions.
const PATIENCE: Duration = Duration::from_secs(5);

/// Checkpoints in the app's database, in a table of their own, `syncvault_checkpoints`.
///
/// A handler that writes its rows and calls [`save_in`](Self::save_in) in one transaction never sees a page twice: both are
/// there, or neither. Where it does not, the orchestrator saves the checkpoint when the page was applied.
///
/// ```
/// # fn apply(database: &mut syncvault::rusqlite::Connection, checkpoint: &syncvault::sync::Checkpoint) -> Result<(), Box<dyn std::error::Error>> {
/// use syncvault::sync::SqliteCheckpoints;
///
/// let transaction = database.transaction()?;
/// transaction.execute("INSERT INTO notes (id, text) VALUES ('7', 'hello')", [])?;
/// SqliteCheckpoints::save_in(&transaction, checkpoint)?;
/// transaction.commit()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SqliteCheckpoints {
    connection: Arc<Mutex<Connection>>,
}

impl SqliteCheckpoints {
    /// In the database at `path`, over a connection of its own. The table is made when it is missing.
    ///
    /// # Errors
    ///
    /// Storage errors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let connection = Connection::open(path).map_err(says("be opened"))?;
        connection
            .busy_timeout(PATIENCE)
            .and_then(|()| connection.pragma_update(None, "synchronous", "FULL"))
            .map_err(says("be prepared"))?;
        Self::attach(&connection)?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
        })
    }

    /// Makes the table in the app's database, if it is not there.
    ///
    /// # Errors
    ///
    /// Storage errors.
    pub fn attach(connection: &Connection) -> Result<()> {
        connection.execute_batch(CREATE).map_err(says("be created"))
    }

    /// Saves a checkpoint in a transaction of the app: it is there when that commits.
    ///
    /// # Errors
    ///
    /// Storage errors.
    pub fn save_in(connection: &Connection, checkpoint: &Checkpoint) -> Result<()> {
        let CheckpointKey { user, feature } = &checkpoint.key;
        let values = params![user, feature.as_str(), checkpoint.encode()?];
        connection
            .prepare_cached(SAVE)
            .and_then(|mut save| save.execute(values))
            .map_err(says("be written"))
            .map(drop)
    }

    /// Removes a checkpoint in a transaction.
    pub(in crate::sync) fn remove_in(connection: &Connection, key: &CheckpointKey) -> Result<()> {
        connection
            .execute(REMOVE, params![key.user, key.feature.as_str()])
            .map_err(says("be removed"))
            .map(drop)
    }

    /// Removes the checkpoints of a feature, whosever they are.
    pub(in crate::sync) fn remove_all_in(connection: &Connection, feature: &str) -> Result<()> {
        connection
            .execute(REMOVE_ALL, [feature])
            .map_err(says("be removed"))
            .map(drop)
    }

    pub(in crate::sync) fn load_from(
        connection: &Connection,
        key: CheckpointKey,
    ) -> Result<Option<Checkpoint>> {
        let text: Option<String> = connection
            .prepare_cached(LOAD)
            .and_then(|mut load| {
                load.query_row(params![key.user, key.feature.as_str()], |row| row.get(0))
                    .optional()
            })
            .map_err(says("be read"))?;
        text.map(|text| Checkpoint::decode(key, text.as_bytes()))
            .transpose()
    }

    /// Off the async runtime: SQLite waits for disks and for others.
    fn act<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> CheckpointFuture<'static, T> {
        let connection = self.connection.clone();
        Box::pin(blocking(move || {
            act(&connection.lock().unwrap_or_else(PoisonError::into_inner))
        }))
    }
}

impl CheckpointStore for SqliteCheckpoints {
    fn load(&self, key: &CheckpointKey) -> CheckpointFuture<'_, Option<Checkpoint>> {
        let key = key.clone();
        self.act(move |connection| Self::load_from(connection, key))
    }

    fn save(&self, checkpoint: &Checkpoint) -> CheckpointFuture<'_, ()> {
        let checkpoint = checkpoint.clone();
        self.act(move |connection| Self::save_in(connection, &checkpoint))
    }

    fn remove(&self, key: &CheckpointKey) -> CheckpointFuture<'_, ()> {
        let key = key.clone();
        self.act(move |connection| Self::remove_in(connection, &key))
    }
}

impl fmt::Debug for SqliteCheckpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteCheckpoints").finish_non_exhaustive()
    }
}

fn says(what: &str) -> impl FnOnce(rusqlite::Error) -> Error {
    move |error| {
        let (kind, hint) = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => (ErrorKind::StorageFull, ": the disk is full"),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                (ErrorKind::Corrupt, ": the database is damaged")
            }
            _ => (ErrorKind::Storage, ""),
        };
        Error::new(kind, format!("a checkpoint cannot {what}{hint}")).with_source(error)
    }
}
