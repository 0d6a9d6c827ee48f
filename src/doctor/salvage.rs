//! A vault salvaged without an app: what an open does by itself, over all of it.

use std::path::Path;
use std::sync::Arc;

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::store::{OpenReport, Store};

/// Looks at all of the vault in `path`, however large it is, and builds it anew from what is intact when it is damaged. An
/// open does the same, but looks at a large vault only when it has a reason to. Nothing is deleted: the damaged database is
/// in `quarantine/` afterwards. A sealed vault needs no key for this.
///
/// The vault is opened and closed by it: what was in flight is queued.
///
/// # Errors
///
/// [`ErrorKind::Locked`](crate::ErrorKind::Locked) when somebody has it open, [`ErrorKind::Invalid`](crate::ErrorKind::Invalid)
/// when there is no vault, [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when a newer version made it, storage errors.
pub async fn salvage(path: impl AsRef<Path>) -> Result<OpenReport> {
    let store = doubted(path.as_ref())?;
    let opened = store.open(SystemClock.now()).await;
    store.close().await?;
    opened.map(|opened| opened.report)
}

fn doubted(path: &Path) -> Result<Arc<dyn Store>> {
    #[cfg(feature = "sled")]
    if path.join("sled").is_dir() {
        return Ok(Arc::new(crate::store::SledStore::open_doubted(path)?));
    }
    #[cfg(feature = "fjall")]
    if path.join("fjall").is_dir() {
        return Ok(Arc::new(crate::store::FjallStore::open_doubted(path)?));
    }
    #[cfg(feature = "sqlite")]
    if path.join("vault.db").is_file() {
        return Ok(Arc::new(crate::store::SqliteStore::open_doubted(path)?));
    }
    let text = format!(
        "{} holds no vault of a store that this build has",
        path.display()
    );
    Err(Error::invalid(text))
}
