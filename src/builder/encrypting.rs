//! Encryption at rest, as an option of the vault.

use std::sync::Arc;

use super::SyncVaultBuilder;
use crate::store::Store;
use crate::store::crypt::{KeyProvider, Sealed};

impl SyncVaultBuilder {
    /// Seals all that the vault keeps: URLs, headers, bodies, answers, tags, keys, and the names of lanes, principals and
    /// origins. Ids, times, states, counts and lengths stay readable. Requests may then be queued with credentials of their own.
    ///
    /// Start with a new directory: a vault that has held something in clear is refused. To use another key, give the old
    /// one beside it, once; [`reencrypt`](crate::SyncVault::reencrypt) then seals anew what the old one could open.
    ///
    /// When several processes share the store, the others get [`ErrorKind::WrongKey`](crate::ErrorKind::WrongKey) from then on until
    /// their provider, which is asked again, gives the new key.
    ///
    /// ```
    /// # async fn from_key_chain() -> std::io::Result<[u8; 32]> { Ok([0; 32]) }
    /// use syncvault::SyncVault;
    /// use syncvault::store::crypt::{Key, KeyFile, Keys};
    ///
    /// let builder = SyncVault::builder("https://api.example.com")
    ///     .encryption(KeyFile::new("/etc/my-app/vault.key"));
    /// // Or from wherever the app keeps it:
    /// let builder = SyncVault::builder("https://api.example.com").encryption(|| async {
    ///     let key = Key::new(from_key_chain().await?);
    ///     std::io::Result::Ok(Keys::new(key))
    /// });
    /// ```
    pub fn encryption(mut self, keys: impl KeyProvider) -> Self {
        let seal = move |store| Arc::new(Sealed::new(store, keys)) as Arc<dyn Store>;
        self.seal = Some(Box::new(seal));
        self
    }
}
