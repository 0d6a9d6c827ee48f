//! The store in one SQLite file: a vault's own, or an app's database, where a request is queued in the app's own
//! transaction (the outbox). Actions are rows with columns that a person can read; see `docs/format.md`.

mod carve;
mod connect;
mod engine;
mod examine;
mod file;
mod peers;
mod reserve;
mod rows;
mod schema;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, Transaction};

use self::connect::{Tuning, in_savepoint};
use self::engine::{Guest, SqliteEngine};
pub(crate) use self::examine::examine_sqlite;
use self::file::{Mark, SidePlace};
#[cfg(feature = "encrypt")]
use super::KeptKeyring;
use super::bodies::Bodies;
use super::dir::{QUARANTINE, VaultDir};
use super::kv::{KvStore, Sink, Site, append_within, refuse_unfinished};
#[cfg(feature = "encrypt")]
use super::kv::{get_within, keyring_within, set_keyring_within};
use super::{
    Advance, Advanced, Amend, Amended, Append, Appended, Chunks, Find, LaneTotals, Opened, Page,
    Query, Snapshot, Source, Store, StoreFuture, Totals,
};
use crate::action::{ActionId, Body, BodyFile, Lane, Record};
use crate::clock::Timestamp;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Result};

/// The name of the database in the directory of a vault.
const FILE: &str = "vault.db";

/// Enough for what becomes longer on a full disk before something else can go.
const RESERVE_BYTES_MAX: u64 = 256 * 1024;

/// Who may open the database of a vault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// One process at a time; another one gets [`ErrorKind::Locked`]. Nothing is polled.
    #[default]
    Alone,
    /// Any number of processes. Each may enqueue and make its direct sends; one at a time leases from the queue, and when
    /// it dies the next one does. Every process must open it so.
    Shared,
}

/// How a [`SqliteStore`] works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SqliteOptions {
    /// Who may open it. Default: one process at a time.
    pub access: Access,
    /// How much SQLite keeps in memory, in bytes. Default: 8 MiB.
    pub cache_bytes: u64,
    /// How often a process looks whether another one changed something; only where others can. Default: 1 second.
    pub poll: Duration,
    /// How long a commit waits for the transactions of others. Default: 5 seconds.
    pub busy_timeout: Duration,
    /// How large the file is that is kept only to be removed when the disk is full, so that the vault still opens and
    /// drains; zero = none. Up to 256 KiB more is kept inside the database. The write-ahead log is brought into the database when
    /// it is as long. In an app's database there is none. Default: 4 MiB.
    pub ballast_bytes: u64,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            access: Access::default(),
            cache_bytes: 8 * 1024 * 1024,
            poll: Duration::from_secs(1),
            busy_timeout: Duration::from_secs(5),
            ballast_bytes: 4 * 1024 * 1024,
        }
    }
}

impl SqliteOptions {
    /// How much room is kept inside the database, beside the ballast.
    fn reserve_bytes(&self) -> u64 {
        RESERVE_BYTES_MAX.min(self.ballast_bytes / 2)
    }

    fn tuning(&self) -> Tuning {
        Tuning {
            log_bytes: self.ballast_bytes,
            cache_bytes: self.cache_bytes,
            busy_timeout: self.busy_timeout,
        }
    }
}

/// A [`Store`] in a SQLite database. In a directory of its own, bodies from files lie beside it, in `bodies/`, of any size; in an app's
/// database they are read into memory, up to 16 MiB.
///
/// # The outbox: a row and its request, both or neither
///
/// ```
/// # async fn example(dir: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
/// use syncvault::rusqlite::{Connection, TransactionBehavior};
/// use syncvault::{SyncVault, store::SqliteStore};
///
/// let mut app = Connection::open(dir.join("app.db"))?;
/// app.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS orders (what TEXT)")?;
/// SqliteStore::attach(&app)?;
/// let vault = SyncVault::builder("https://api.example.com")
///     .store(SqliteStore::outbox(dir.join("app.db"))?)
///     .build()
///     .await?;
///
/// let transaction = app.transaction_with_behavior(TransactionBehavior::Immediate)?;
/// transaction.execute("INSERT INTO orders VALUES ('two coffees')", [])?;
/// let ticket = vault.post("/orders").body("two coffees").enqueue_in(&transaction)?;
/// transaction.commit()?;
/// vault.notify_committed();
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct SqliteStore {
    store: KvStore<SqliteEngine>,
    path: PathBuf,
    access: Access,
}

impl SqliteStore {
    /// Takes the directory, which is created when it is missing; the database in it is `vault.db`. It opens on the store's
    /// own thread; the first verb waits for it, and gets the error when that fails.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Locked`] when somebody has it open, [`ErrorKind::Invalid`] when it is not a directory of our own,
    /// [`ErrorKind::Storage`] or [`ErrorKind::StorageFull`] when it cannot be written to.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, SqliteOptions::default())
    }

    /// As [`open`](Self::open), with options.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self> {
        Self::open_at(path.as_ref(), options, false)
    }

    /// As [`open`](Self::open), and all of it is looked at, however large it is.
    pub(crate) fn open_doubted(path: &Path) -> Result<Self> {
        Self::open_at(path, SqliteOptions::default(), true)
    }

    fn open_at(path: &Path, options: SqliteOptions, is_doubted: bool) -> Result<Self> {
        let dir = match options.access {
            Access::Alone => VaultDir::open(path)?,
            Access::Shared => VaultDir::open_shared(path)?,
        };
        let path = dir.path().join(FILE);
        let quarantine = dir.path().join(QUARANTINE);
        let bodies = Bodies::of_snapshots(dir.subdir("bodies")?, quarantine);
        let (access, poll, dir) = (options.access, options.poll, Arc::new(dir));
        let store = match access {
            Access::Alone => {
                let site = SqliteSite {
                    dir,
                    options,
                    is_doubted,
                };
                KvStore::at_site(site, bodies)?
            }
            // What others have open cannot be moved away.
            Access::Shared => {
                let open = move || {
                    refuse_unfinished(&dir)?;
                    SqliteEngine::open_own(dir, &options)
                };
                KvStore::with_bodies(open, bodies)?.polled(poll)
            }
        };
        Ok(Self {
            store,
            path,
            access,
        })
    }

    /// The store in the app's own database, which is there already. What else is in it stays as it is, journal mode and
    /// all; `PRAGMA journal_mode = WAL` is what suits a vault best.
    ///
    /// Any number of processes may open it: see [`Access::Shared`]. Their locks are in a directory beside the database,
    /// `<name>-syncvault`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn outbox(path: impl AsRef<Path>) -> Result<Self> {
        Self::outbox_with(path, SqliteOptions::default())
    }

    /// As [`outbox`](Self::outbox), with options. Access is shared in any case: the app writes too.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn outbox_with(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self> {
        let place = SidePlace::beside(path.as_ref())?;
        let path = place.database.clone();
        let poll = options.poll;
        let open = move || SqliteEngine::open_beside(place, &options);
        let store = KvStore::threaded(open)?.polled(poll);
        let access = Access::Shared;
        Ok(Self {
            store,
            path,
            access,
        })
    }

    /// Who may open it.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Makes the tables of the outbox in the app's database, if they are not there: each is named `syncvault_..`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when a newer version made them, storage errors.
    pub fn attach(connection: &Connection) -> Result<()> {
        in_savepoint(connection, || {
            schema::create(connection, schema::Place::Attached)
        })
    }

    /// Queues an action in a transaction of the app: it is there when that commits, and never was when it is rolled back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the transaction is on another database than this store, storage errors.
    pub fn append_in(&self, transaction: &Transaction<'_>, append: Append) -> Result<Appended> {
        self.check_database(transaction)?;
        append_within(Guest(transaction), append)
    }

    /// The keyring, as the app's transaction sees it.
    #[cfg(feature = "encrypt")]
    pub(super) fn keyring_in(&self, transaction: &Transaction<'_>) -> Result<Option<KeptKeyring>> {
        self.check_database(transaction)?;
        keyring_within(Guest(transaction))
    }

    /// Changes the keyring in a transaction of the app.
    #[cfg(feature = "encrypt")]
    pub(super) fn set_keyring_in(
        &self,
        transaction: &Transaction<'_>,
        before: u64,
        keyring: Bytes,
    ) -> Result<Option<u64>> {
        self.check_database(transaction)?;
        set_keyring_within(Guest(transaction), before, keyring)
    }

    /// One action, as the app's transaction sees it.
    #[cfg(feature = "encrypt")]
    pub(super) fn get_in(
        &self,
        transaction: &Transaction<'_>,
        find: Find,
    ) -> Result<Option<Record>> {
        self.check_database(transaction)?;
        get_within(Guest(transaction), &find)
    }

    fn check_database(&self, connection: &Connection) -> Result<()> {
        let other = connection.path().filter(|path| !path.is_empty());
        let is_ours = match other {
            Some(other) => Mark::of(Path::new(other))? == Mark::of(&self.path)?,
            None => false,
        };
        if is_ours {
            return Ok(());
        }
        let text = format!(
            "the transaction is on {}, but the vault sends what is queued in {}: use one database for both",
            other.unwrap_or("a database without a file"),
            self.path.display()
        );
        Err(Error::invalid(text))
    }
}

super::delegate_store!(SqliteStore);

/// Where a vault has its database.
struct SqliteSite {
    dir: Arc<VaultDir>,
    options: SqliteOptions,
    is_doubted: bool,
}

impl Site for SqliteSite {
    type Engine = SqliteEngine;

    fn dir(&self) -> &VaultDir {
        &self.dir
    }

    fn names(&self) -> &'static [&'static str] {
        &[FILE, "vault.db-journal", "vault.db-wal", "vault.db-shm"]
    }

    fn is_doubted(&self) -> bool {
        self.is_doubted
    }

    fn open(&self) -> Result<SqliteEngine> {
        SqliteEngine::open_own(self.dir.clone(), &self.options)
    }

    fn check(&self, engine: &SqliteEngine) -> Result<()> {
        connect::check(&engine.connection)
    }

    fn carve(&self, from: &Path, sink: &mut dyn Sink) -> Result<()> {
        carve::carve(from, sink)
    }
}
