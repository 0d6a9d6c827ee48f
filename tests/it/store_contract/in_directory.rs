//! Stores in a directory of their own, and the contract suite on those that are nothing else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "fjall")]
use syncvault::store::FjallStore;
use syncvault::store::Store;
#[cfg(feature = "sled")]
use syncvault::store::{SledOptions, SledStore};
use syncvault::testing::contract::StoreFactory;
use syncvault::{ErrorKind, Result};
use tempfile::TempDir;

/// Stores in a directory, as the function opens them.
pub(super) struct InDirectory(pub(super) fn(&Path) -> Result<Arc<dyn Store>>);

impl StoreFactory for InDirectory {
    type Place = TempDir;

    fn place(&self) -> TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    async fn open(&self, place: &TempDir) -> Result<Arc<dyn Store>> {
        // A dropped store lets go of its directory when its thread has ended.
        for _ in 0..10_000 {
            match self.0(&place.path().join("vault")) {
                Err(error) if error.kind() == ErrorKind::Locked => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                opened => return opened,
            }
        }
        panic!("a dropped store never lets go of its directory");
    }
}

#[cfg(feature = "fjall")]
pub(super) const FJALL: InDirectory = InDirectory(|path| Ok(Arc::new(FjallStore::open(path)?)));

#[cfg(feature = "sled")]
pub(super) const SLED: InDirectory = InDirectory(|path| {
    // With the shortest journal, so that many rules see it brought into sled.
    let mut options = SledOptions::default();
    options.journal_bytes = 256 * 1024;
    Ok(Arc::new(SledStore::open_with(path, options)?))
});

#[cfg(feature = "fjall")]
mod fjall {
    syncvault::store_contract!(super::FJALL, flavor = "multi_thread", worker_threads = 2);

    mod on_one_thread {
        syncvault::store_contract!(super::super::FJALL);
    }
}

#[cfg(feature = "sled")]
mod sled {
    syncvault::store_contract!(super::SLED, flavor = "multi_thread", worker_threads = 2);

    mod on_one_thread {
        syncvault::store_contract!(super::super::SLED);
    }
}
