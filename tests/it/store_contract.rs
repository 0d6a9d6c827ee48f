//! The contract suite on the stores of the crate: every rule a test of its own, in both kinds of runtime.

#[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
mod in_directory;
#[cfg(feature = "encrypt")]
mod sealed;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::sync::Arc;

use syncvault::Result;
use syncvault::store::{MemoryStore, Store};
use syncvault::testing::contract::StoreFactory;

/// Stores in memory: a place is the engine that its stores share.
struct Memory;

impl StoreFactory for Memory {
    type Place = MemoryStore;

    fn place(&self) -> MemoryStore {
        MemoryStore::new()
    }

    async fn open(&self, place: &MemoryStore) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(place.restarted()))
    }
}

mod memory {
    syncvault::store_contract!(super::Memory);
}

mod memory_on_many_threads {
    syncvault::store_contract!(super::Memory, flavor = "multi_thread", worker_threads = 2);
}
