//! The contract suite on sealed stores: a store around another one keeps the same rules.

use std::sync::Arc;

use syncvault::Result;
use syncvault::store::Store;
use syncvault::store::crypt::{Key, Sealed};
use syncvault::testing::contract::StoreFactory;

/// The stores of another factory, sealed.
struct SealedStores<F>(F);

impl<F: StoreFactory> StoreFactory for SealedStores<F> {
    type Place = F::Place;

    fn place(&self) -> F::Place {
        self.0.place()
    }

    async fn open(&self, place: &F::Place) -> Result<Arc<dyn Store>> {
        let store = self.0.open(place).await?;
        Ok(Arc::new(Sealed::new(store, Key::new([7; 32]))))
    }
}

mod memory {
    syncvault::store_contract!(super::SealedStores(crate::store_contract::Memory));
}

#[cfg(feature = "fjall")]
mod fjall {
    syncvault::store_contract!(
        super::SealedStores(crate::store_contract::in_directory::FJALL),
        flavor = "multi_thread",
        worker_threads = 2
    );
}

#[cfg(feature = "sled")]
mod sled {
    syncvault::store_contract!(
        super::SealedStores(crate::store_contract::in_directory::SLED),
        flavor = "multi_thread",
        worker_threads = 2
    );
}

#[cfg(feature = "sqlite")]
mod sqlite {
    syncvault::store_contract!(
        super::SealedStores(crate::store_contract::sqlite::ALONE),
        flavor = "multi_thread",
        worker_threads = 2
    );
}
