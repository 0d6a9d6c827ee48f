//! The contract suite on the store in a SQLite file: alone on it, as one of several processes, and in an app's database.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use syncvault::Result;
use syncvault::rusqlite::Connection;
use syncvault::store::{Access, SqliteOptions, SqliteStore, Store};
use syncvault::testing::contract::StoreFactory;
use tempfile::TempDir;

use super::in_directory::InDirectory;

/// Stores that no other process opens.
pub(super) const ALONE: InDirectory = InDirectory(|path| Ok(Arc::new(SqliteStore::open(path)?)));

/// Waits until the thread of a dropped store has ended: others may open the database before.
async fn is_let_go(dir: &Path) {
    let Ok(lock) = File::open(dir.join("LOCK")) else {
        return;
    };
    for _ in 0..10_000 {
        if lock.try_lock().is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("a dropped store never lets go of its directory");
}

/// Stores that other processes may open too.
struct Shared;

impl StoreFactory for Shared {
    type Place = TempDir;

    fn place(&self) -> TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    async fn open(&self, place: &TempDir) -> Result<Arc<dyn Store>> {
        let dir = place.path().join("vault");
        is_let_go(&dir).await;
        let mut options = SqliteOptions::default();
        options.access = Access::Shared;
        Ok(Arc::new(SqliteStore::open_with(dir, options)?))
    }
}

/// Stores in an app's database.
struct Outbox;

impl StoreFactory for Outbox {
    type Place = TempDir;

    fn place(&self) -> TempDir {
        let place = tempfile::tempdir().expect("a temporary directory");
        let app = Connection::open(place.path().join("app.db")).expect("a database");
        app.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE notes (text TEXT)")
            .expect("a table of the app");
        SqliteStore::attach(&app).expect("the tables of the outbox");
        place
    }

    async fn open(&self, place: &TempDir) -> Result<Arc<dyn Store>> {
        is_let_go(&place.path().join("app.db-syncvault")).await;
        Ok(Arc::new(SqliteStore::outbox(place.path().join("app.db"))?))
    }
}

syncvault::store_contract!(ALONE, flavor = "multi_thread", worker_threads = 2);

mod on_one_thread {
    syncvault::store_contract!(super::ALONE);
}

mod shared {
    syncvault::store_contract!(super::Shared, flavor = "multi_thread", worker_threads = 2);
}

mod outbox {
    syncvault::store_contract!(super::Outbox, flavor = "multi_thread", worker_threads = 2);
}
