//! The keyring as a store keeps it.

use bytes::Bytes;

/// The keyring of a sealed vault, as a store keeps it. What is in it is the business of who sealed it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptKeyring {
    /// Another one for each keyring.
    pub revision: u64,
    /// As it was given.
    pub bytes: Bytes,
}

impl KeptKeyring {
    /// This keyring, with this revision.
    #[must_use]
    pub fn new(revision: u64, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { revision, bytes }
    }
}
