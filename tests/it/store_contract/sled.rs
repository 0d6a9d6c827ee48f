//! The contract suite on the store in a directory, over sled.

use std::sync::Arc;
use std::time::Duration;

use syncvault::store::{SledStore, Store};
use syncvault::testing::contract::StoreFactory;
use syncvault::{ErrorKind, Result};
use tempfile::TempDir;

/// Stores in a directory.
pub(super) struct Sled;

impl StoreFactory for Sled {
    type Place = TempDir;

    fn place(&self) -> TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    async fn open(&self, place: &TempDir) -> Result<Arc<dyn Store>> {
        // A dropped store lets go of its directory when its thread has ended.
        for _ in 0..10_000 {
            match SledStore::open(place.path().join("vault")) {
                Err(error) if error.kind() == ErrorKind::Locked => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                opened => return Ok(Arc::new(opened?)),
            }
        }
        panic!("a dropped store never lets go of its directory");
    }
}

syncvault::store_contract!(Sled, flavor = "multi_thread", worker_threads = 2);

mod on_one_thread {
    syncvault::store_contract!(super::Sled);
}
