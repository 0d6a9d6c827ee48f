//! Checkpoints in the vault's own store, as notes beside the queue.

use bytes::Bytes;

use super::{Checkpoint, CheckpointFuture, CheckpointKey, CheckpointStore};
use crate::vault::SyncVault;

/// Checkpoints in the vault's own store: durable as the queue is, and sealed when the vault is.
///
/// The data of the app lies elsewhere, so a page and its checkpoint are not written in one step: after a crash the page
/// comes again. A cursor may be up to 3 KiB long. They do not travel with an export of the vault.
#[derive(Clone, Debug)]
pub struct VaultCheckpoints(SyncVault);

impl VaultCheckpoints {
    /// In the store of this vault.
    #[must_use]
    pub fn new(vault: &SyncVault) -> Self {
        Self(vault.clone())
    }
}

/// The length of the user stands first: no two keys make one name.
fn name(key: &CheckpointKey) -> String {
    format!("checkpoint/{}/{}/{}", key.user.len(), key.user, key.feature)
}

impl CheckpointStore for VaultCheckpoints {
    fn load(&self, key: &CheckpointKey) -> CheckpointFuture<'_, Option<Checkpoint>> {
        let key = key.clone();
        Box::pin(async move {
            let note = self.0.note(&name(&key)).await?;
            note.map(|note| Checkpoint::decode(key, &note)).transpose()
        })
    }

    fn save(&self, checkpoint: &Checkpoint) -> CheckpointFuture<'_, ()> {
        let (name, text) = (name(&checkpoint.key), checkpoint.encode());
        Box::pin(async move { self.0.set_note(&name, Some(Bytes::from(text?))).await })
    }

    fn remove(&self, key: &CheckpointKey) -> CheckpointFuture<'_, ()> {
        let name = name(key);
        Box::pin(async move { self.0.set_note(&name, None).await })
    }
}
