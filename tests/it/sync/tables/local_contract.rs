//! The contract suite of local stores, on each store of the crate.

use std::sync::Arc;

use syncvault::Result;
use syncvault::sync::{LocalStore, MemoryLocal};
use syncvault::testing::local_contract::LocalFactory;

struct Memory;

impl LocalFactory for Memory {
    type Place = MemoryLocal;

    fn place(&self) -> MemoryLocal {
        MemoryLocal::new()
    }

    async fn open(&self, place: &MemoryLocal) -> Result<Arc<dyn LocalStore>> {
        Ok(Arc::new(place.clone()))
    }
}

mod memory {
    syncvault::local_contract!(super::Memory);
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use std::path::PathBuf;

    use syncvault::rusqlite::Connection;
    use syncvault::sync::SqliteLocal;
    use tempfile::TempDir;

    use super::*;

    struct Sqlite;

    impl LocalFactory for Sqlite {
        type Place = (TempDir, PathBuf);

        fn place(&self) -> Self::Place {
            let dir = TempDir::new().expect("directory");
            let path = dir.path().join("app.db");
            // `list` and `more` have no column in one of the tables.
            Connection::open(&path)
                .and_then(|app| {
                    app.execute_batch(
                        "CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT, number INTEGER, list JSON, more);
                         CREATE TABLE tasks (id TEXT PRIMARY KEY, text TEXT, number REAL)",
                    )
                })
                .expect("the app's tables");
            (dir, path)
        }

        async fn open(&self, (_, path): &Self::Place) -> Result<Arc<dyn LocalStore>> {
            Ok(Arc::new(SqliteLocal::open(path)?))
        }
    }

    syncvault::local_contract!(Sqlite);
}
