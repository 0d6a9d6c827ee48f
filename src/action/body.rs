//! The body of a request or of an answer: in memory, in a file of the vault, or in pieces of both.

use std::fmt;
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
    /// One piece after the other: a form with files.
    Pieces(Vec<Piece>),
}

/// A stretch of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Piece {
    /// In memory.
    Bytes(Bytes),
    /// In a file that belongs to the vault.
    File(BodyFile),
}

/// A body in a file of the vault. Length and checksum are checked before its last byte is sent.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BodyFile {
    /// Where it is.
    pub path: PathBuf,
    /// The length of the body in it.
    pub bytes: u64,
    /// CRC32C of that body.
    pub crc32c: u32,
    /// What a sealed store opens the file with; empty for one in clear. It is a secret: a store around another one keeps
    /// it sealed, and nobody else keeps it.
    pub seal: Bytes,
}

impl BodyFile {
    /// A file in clear.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, bytes: u64, crc32c: u32) -> Self {
        Self {
            path: path.into(),
            bytes,
            crc32c,
            seal: Bytes::new(),
        }
    }
}

/// Without the seal.
impl fmt::Debug for BodyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyFile")
            .field("path", &self.path)
            .field("bytes", &self.bytes)
            .field("is_sealed", &!self.seal.is_empty())
            .finish_non_exhaustive()
    }
}

impl Body {
    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => file.bytes,
            Self::Pieces(pieces) => pieces.iter().map(Piece::len).sum(),
        }
    }

    /// True when there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its pieces, in order.
    #[must_use]
    pub fn into_pieces(self) -> Vec<Piece> {
        match self {
            Self::Bytes(bytes) => vec![Piece::Bytes(bytes)],
            Self::File(file) => vec![Piece::File(file)],
            Self::Pieces(pieces) => pieces,
        }
    }

    /// The files that hold it.
    pub fn files(&self) -> impl Iterator<Item = &BodyFile> {
        let (whole, pieces) = match self {
            Self::Bytes(_) => (None, &[][..]),
            Self::File(file) => (Some(file), &[][..]),
            Self::Pieces(pieces) => (None, pieces.as_slice()),
        };
        whole
            .into_iter()
            .chain(pieces.iter().filter_map(Piece::file))
    }
}

impl Piece {
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

    fn file(&self) -> Option<&BodyFile> {
        match self {
            Self::Bytes(_) => None,
            Self::File(file) => Some(file),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}
