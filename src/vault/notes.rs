//! Notes: small values of what is built on the vault, in its own store.

use bytes::Bytes;

use super::SyncVault;
use crate::error::Result;

impl SyncVault {
    /// A note that was kept under this name.
    pub(crate) async fn note(&self, name: &str) -> Result<Option<Bytes>> {
        self.parts().check_open()?;
        self.parts().store.note(name).await
    }

    /// Keeps a note, or removes it. Durable when it returns.
    pub(crate) async fn set_note(&self, name: &str, note: Option<Bytes>) -> Result<()> {
        self.parts().check_open()?;
        self.parts().store.set_note(name, note).await
    }
}
