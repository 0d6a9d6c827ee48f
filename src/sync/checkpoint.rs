//! How far a feature of a user is, and who keeps that: memory, the vault's own store, or the app's database.

mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;
mod vault;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

pub use memory::MemoryCheckpoints;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteCheckpoints;
pub use vault::VaultCheckpoints;

use super::{Cursor, FeatureKey};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// The format of a checkpoint as text.
const FORMAT: u32 = 1;

/// Whose checkpoint, and of what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct CheckpointKey {
    /// The user. Two users share nothing.
    pub user: String,
    /// The feature.
    pub feature: FeatureKey,
}

impl CheckpointKey {
    /// The checkpoint of a feature of a user.
    pub fn new(user: impl Into<String>, feature: impl Into<FeatureKey>) -> Self {
        Self {
            user: user.into(),
            feature: feature.into(),
        }
    }
}

/// How far a feature of a user is: everything before this is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Whose, and of what.
    pub key: CheckpointKey,
    /// Where the next page starts; nothing = at the beginning.
    pub cursor: Option<Cursor>,
    /// How many pages the initial sync has applied.
    pub pages: u64,
    /// When the initial sync was completed; nothing = it was not.
    pub initial_done: Option<Timestamp>,
    /// When a background sync was last completed.
    pub synced_at: Option<Timestamp>,
}

/// A checkpoint as text, without its key.
#[derive(Serialize, Deserialize)]
struct Fields {
    format: u32,
    cursor: Option<Cursor>,
    #[serde(default)]
    pages: u64,
    initial_done: Option<Timestamp>,
    synced_at: Option<Timestamp>,
}

impl Checkpoint {
    /// Where everything begins.
    #[must_use]
    pub fn start(key: CheckpointKey) -> Self {
        Self {
            key,
            cursor: None,
            pages: 0,
            initial_done: None,
            synced_at: None,
        }
    }

    /// As text, for a store of checkpoints.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`], which does not happen: every checkpoint can be written.
    pub fn encode(&self) -> Result<String> {
        let fields = Fields {
            format: FORMAT,
            cursor: self.cursor.clone(),
            pages: self.pages,
            initial_done: self.initial_done,
            synced_at: self.synced_at,
        };
        serde_json::to_string(&fields).map_err(|e| {
            Error::new(ErrorKind::Storage, "a checkpoint cannot be written").with_source(e)
        })
    }

    /// From its text.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when it is damaged, or of a newer version.
    pub fn decode(key: CheckpointKey, text: &[u8]) -> Result<Self> {
        let corrupt = |what: &str| {
            let text = format!(
                "the checkpoint of {} {what}; `resync` starts it anew",
                key.feature
            );
            Error::new(ErrorKind::Corrupt, text)
        };
        let fields: Fields =
            serde_json::from_slice(text).map_err(|e| corrupt("is damaged").with_source(e))?;
        if fields.format > FORMAT {
            return Err(corrupt("is of a newer version"));
        }
        Ok(Self {
            key,
            cursor: fields.cursor,
            pages: fields.pages,
            initial_done: fields.initial_done,
            synced_at: fields.synced_at,
        })
    }
}

/// What a verb of a [`CheckpointStore`] returns.
pub type CheckpointFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Keeps checkpoints.
///
/// What was saved is there after a restart, whole or not at all. A checkpoint that is lost costs a new initial sync; one that
/// runs ahead of the data costs the pages between: so it may never be more durable than the data it speaks of.
pub trait CheckpointStore: fmt::Debug + Send + Sync + 'static {
    /// The checkpoint, if one was saved.
    fn load(&self, key: &CheckpointKey) -> CheckpointFuture<'_, Option<Checkpoint>>;

    /// Saves it in the place of the one before.
    fn save(&self, checkpoint: &Checkpoint) -> CheckpointFuture<'_, ()>;

    /// Removes it. One that is not there is fine.
    fn remove(&self, key: &CheckpointKey) -> CheckpointFuture<'_, ()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_back_as_written() {
        let mut checkpoint = Checkpoint::start(CheckpointKey::new("ann", "messages"));
        checkpoint.cursor = Some(Cursor::new("\0 \u{1F600} \" '; --"));
        checkpoint.pages = u64::MAX;
        checkpoint.initial_done = Some(Timestamp::from_millis(5));
        let text = checkpoint.encode().expect("encode");
        let read = Checkpoint::decode(checkpoint.key.clone(), text.as_bytes()).expect("decode");
        assert_eq!(read, checkpoint);
    }

    #[test]
    fn a_damaged_or_newer_checkpoint_is_told_from_none() {
        let newer = r#"{"format":2,"cursor":null,"initial_done":null,"synced_at":null}"#;
        for text in ["", "{", "null", r#"{"format":1"#, newer] {
            let key = CheckpointKey::new("ann", "messages");
            let error = Checkpoint::decode(key, text.as_bytes()).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{text}: {error}");
        }
    }
}
