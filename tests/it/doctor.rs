//! The doctor: what a vault holds is carried from store to store, and what is wrong with it is found.

#[cfg(unix)]
mod examination;
mod transfer;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use syncvault::store::{FjallStore, MemoryStore, SledStore, SqliteStore, Store};

use crate::filled::{NOW, fill};

/// The stores that a vault can be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Sled,
    Sqlite,
    Fjall,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Memory, Self::Sled, Self::Sqlite, Self::Fjall];

    pub(crate) fn open(self, dir: &Path) -> Arc<dyn Store> {
        match self {
            Self::Memory => Arc::new(MemoryStore::new()),
            Self::Sled => Arc::new(SledStore::open(dir).expect("open")),
            Self::Sqlite => Arc::new(SqliteStore::open(dir).expect("open")),
            Self::Fjall => Arc::new(FjallStore::open(dir).expect("open")),
        }
    }
}

/// A filled store, open.
async fn filled(kind: Kind, dir: &Path) -> Arc<dyn Store> {
    let store = kind.open(dir);
    store.open(NOW).await.expect("open");
    fill(&*store).await;
    store
}

fn file(dir: &Path, name: &str) -> File {
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    options.open(dir.join(name)).expect("a file")
}
