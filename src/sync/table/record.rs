//! One record as the device has it: its row, and what is known of it beside the row. Values only.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::change::Operation;
use super::version::Version;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::ItemId;

/// The content of a record: a JSON object. It may hold the id under a name that the [`RemoteStore`](super::RemoteStore) knows,
/// or not: the engine takes the id from beside it.
pub type Row = Map<String, Value>;

/// Which record: the table, and the id in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct RecordKey {
    /// The table.
    pub table: String,
    /// The id, the same here and at the server.
    pub id: ItemId,
}

impl RecordKey {
    /// A record of a table.
    pub fn new(table: impl Into<String>, id: impl Into<ItemId>) -> Self {
        Self {
            table: table.into(),
            id: id.into(),
        }
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.table, self.id)
    }
}

/// A record as the device has it.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct LocalRecord {
    /// Which.
    pub key: RecordKey,
    /// What the app sees; nothing = it was deleted, and the record is a tombstone.
    pub row: Option<Row>,
    /// What is known beside it.
    pub meta: RecordMeta,
}

impl LocalRecord {
    /// A record that nobody knows yet.
    #[must_use]
    pub fn unknown(key: RecordKey) -> Self {
        Self {
            key,
            row: None,
            meta: RecordMeta::default(),
        }
    }
}

/// Without the row: its fields may be secret.
impl fmt::Debug for LocalRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalRecord")
            .field("key", &self.key)
            .field("fields", &self.row.as_ref().map(Map::len))
            .field("meta", &self.meta)
            .finish()
    }
}

/// What is known of a record beside its row. A store keeps it whole, as [`encode`](Self::encode) gives it, and beside that what
/// it has to search by: [`is_unsynced`](Self::is_unsynced), [`seen`](Self::seen) and [`deleted_at`](Self::deleted_at).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RecordMeta {
    /// The version of the server that the device was last in step with; nothing = the server never had it, or tells none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// When the server's row changed, by the server's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// The number of the newest full pull that brought it, see [`TableState`](super::TableState).
    #[serde(default)]
    pub seen: u64,
    /// Grows by one with each change of the row by the app.
    #[serde(default)]
    pub revision: u64,
    /// Since when it is a tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
    /// What the app changed and the server is not known to have; nothing = in step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsynced: Option<Unsynced>,
    /// A pull brought a row while a change was on the wire, so nobody could say which is newer: the server is asked for this record
    /// once its answer is here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recheck: bool,
}

impl RecordMeta {
    /// True while the app's newest change is not known to be at the server, or the server's is not known here.
    #[must_use]
    pub fn is_unsynced(&self) -> bool {
        self.unsynced.is_some() || self.recheck
    }

    /// The newest change that is on its way.
    #[must_use]
    pub fn newest(&self) -> Option<&Outgoing> {
        self.unsynced
            .as_ref()
            .and_then(|unsynced| unsynced.changes.last())
    }

    /// As text, for a store.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`], which does not happen.
    pub fn encode(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| {
            Error::new(
                ErrorKind::Storage,
                "what is known of a record cannot be written",
            )
            .with_source(e)
        })
    }

    /// From its text.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when it is damaged: a store then names the record in [`RecordPage::damaged`](super::RecordPage).
    pub fn decode(text: &[u8]) -> Result<Self> {
        serde_json::from_slice(text).map_err(|e| {
            Error::new(ErrorKind::Corrupt, "what is known of a record is damaged").with_source(e)
        })
    }
}

/// What the app changed since the device was in step.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Unsynced {
    /// The row that was last in step: the base of a merge. Nothing = the server had none.
    #[serde(default)]
    pub base: Option<Row>,
    /// The changes on their way, oldest first. Never empty: the last one is what the record holds now.
    pub changes: Vec<Outgoing>,
}

/// Without rows.
impl fmt::Debug for Unsynced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsynced")
            .field("changes", &self.changes)
            .finish_non_exhaustive()
    }
}

/// One change on its way to the server.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Outgoing {
    /// The idempotency key of its action in the vault, made by the engine.
    pub key: String,
    /// What is done.
    pub operation: Operation,
    /// The row after it (of a [`Patch`](Operation::Patch) too); nothing after a deletion.
    #[serde(default)]
    pub row: Option<Row>,
    /// The fields that a patch sends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// The version that it was made on.
    #[serde(default)]
    pub base_version: Option<Version>,
    /// The server has no such row, as far as it is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_new: bool,
    /// When the app made it, by the clock of the device.
    pub changed_at: Timestamp,
    /// How often it was queued anew because the server had another version.
    #[serde(default)]
    pub rounds: u32,
    /// Where it is.
    #[serde(default)]
    pub state: OutgoingState,
}

impl Outgoing {
    /// A change that the app makes now, of a record that the server has.
    #[must_use]
    pub fn new(operation: Operation, row: Option<Row>, changed_at: Timestamp) -> Self {
        Self {
            key: String::new(),
            operation,
            row,
            fields: Vec::new(),
            base_version: None,
            is_new: false,
            changed_at,
            rounds: 0,
            state: OutgoingState::Queued,
        }
    }
}

/// Without the row.
impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("key", &self.key)
            .field("operation", &self.operation)
            .field("base_version", &self.base_version)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Where a change is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OutgoingState {
    /// In the vault's queue, or about to be: the repair at open makes up for a crash between.
    #[default]
    Queued,
    /// The server refused it, and it waits for a person or the next write: as a dead letter in the vault, or because the server
    /// said so in an answer that counts as delivered.
    Refused {
        /// What the server said.
        reason: String,
    },
}
