//! Opening the store of a vault, and ending what an earlier run left half done.

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Amend, Amended, Opened, Query, Store};

pub(super) type SealStore = Box<dyn FnOnce(Arc<dyn Store>) -> Arc<dyn Store> + Send>;

/// Puts encryption around the store. Without it, a sealed store is refused: nothing could be read.
pub(super) async fn sealed_or_plain(
    store: Arc<dyn Store>,
    seal: Option<SealStore>,
) -> Result<Arc<dyn Store>> {
    match seal {
        Some(seal) => Ok(seal(store)),
        None if store.keyring().await?.is_some() => {
            let text =
                "the vault is sealed: give its key with `encryption(..)` (feature `encrypt`)";
            Err(Error::new(ErrorKind::WrongKey, text))
        }
        None => Ok(store),
    }
}

/// Opens the store. Principals whose forgetting a crash cut off are forgotten now, before anything is sent.
pub(super) async fn open(store: &dyn Store, now: Timestamp) -> Result<Opened> {
    let mut opened = store.open(now).await?;
    if opened.is_half_restored {
        let text = "an import into this vault was not finished: run the same one again, or import into a new directory";
        return Err(Error::new(ErrorKind::WrongState, text));
    }
    for principal in std::mem::take(&mut opened.forgetting) {
        loop {
            let change = Amend::Forget {
                principal: principal.clone(),
                limit: Query::LIMIT_MAX,
            };
            if !matches!(store.amend(change).await?, Amended::More(_)) {
                break;
            }
        }
        opened.totals = store.totals().await?;
    }
    Ok(opened)
}

#[cfg(feature = "sled")]
pub(super) async fn open_store(path: PathBuf) -> Result<Arc<dyn Store>> {
    let open = tokio::task::spawn_blocking(move || crate::store::SledStore::open(path));
    let store = open.await.map_err(|e| {
        Error::new(ErrorKind::Storage, "opening the store was cut off").with_source(e)
    })??;
    Ok(Arc::new(store))
}

#[cfg(not(feature = "sled"))]
pub(super) async fn open_store(_path: PathBuf) -> Result<Arc<dyn Store>> {
    let text =
        "this build has no embedded store: switch the feature `sled` on, or give `store(..)`";
    Err(Error::new(ErrorKind::Unsupported, text))
}
