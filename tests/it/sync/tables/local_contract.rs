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
