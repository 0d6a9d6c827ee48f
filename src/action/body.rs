//! The body of a request or of an answer, in memory or in a file of the vault.

use std::path::PathBuf;

use bytes::Bytes;

/// The bytes of a request, as a store takes and gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Body {
    /// In memory.
    Bytes(Bytes),
    /// In a file that belongs to the vault.
    File(BodyFile),
}

/// A body in a file of the vault. Length and checksum are checked before it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// CRC32C of its content.
    pub crc32c: u32,
}

impl Body {
    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => file.bytes,
        }
    }

    /// True when there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}
