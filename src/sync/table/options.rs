//! A table as the app describes it.

use std::time::Duration;

use super::conflict::{ConflictStrategy, PendingDelete};
use super::guard::check_table;
use crate::error::{Error, Result};
use crate::sync::FeatureKey;

/// A table: its name, here and as a feature of the orchestrator, and its rules. A name alone is one with the defaults.
#[derive(Clone, Debug)]
#[must_use]
#[non_exhaustive]
pub struct Table {
    /// The name: 1 to 64 bytes, no slash.
    pub name: String,
    /// What is done about conflicts. Default: [`ConflictStrategy::LastWriteWins`].
    pub conflicts: ConflictStrategy,
    /// What a deletion does that the server does not know yet. Default: it wins.
    pub pending_delete: PendingDelete,
    /// Fields that the server sets itself: when a row comes back with others, that is no conflict, and a merge takes the server's.
    /// Default: `created_at` and `updated_at`.
    pub server_fields: Vec<String>,
    /// How long a tombstone in step is remembered, so that a row that comes late does not rise again. Default: 30 days.
    pub tombstone_retention: Duration,
    /// Higher goes first. Default: 0.
    pub priority: i32,
    /// The tables that are synced before it.
    pub depends_on: Vec<FeatureKey>,
}

impl Table {
    /// A table with the defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            conflicts: ConflictStrategy::default(),
            pending_delete: PendingDelete::default(),
            server_fields: vec!["created_at".to_owned(), "updated_at".to_owned()],
            tombstone_retention: Duration::from_secs(30 * 24 * 60 * 60),
            priority: 0,
            depends_on: Vec::new(),
        }
    }

    /// What is done about conflicts.
    pub fn conflicts(mut self, strategy: ConflictStrategy) -> Self {
        self.conflicts = strategy;
        self
    }

    /// What a deletion does that the server does not know yet.
    pub fn pending_delete(mut self, rule: PendingDelete) -> Self {
        self.pending_delete = rule;
        self
    }

    /// The fields that the server sets itself, in place of the default.
    pub fn server_fields<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Self {
        self.server_fields = fields.into_iter().map(Into::into).collect();
        self
    }

    /// How long tombstones are remembered.
    pub fn tombstone_retention(mut self, retention: Duration) -> Self {
        self.tombstone_retention = retention;
        self
    }

    /// Of the tables that can be synced, the one with the higher priority goes first.
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// It is synced when these are in step, and not before.
    pub fn depends_on<K: Into<FeatureKey>>(mut self, tables: impl IntoIterator<Item = K>) -> Self {
        self.depends_on.extend(tables.into_iter().map(Into::into));
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        check_table(&self.name)?;
        if self.server_fields.iter().any(String::is_empty) {
            return Err(Error::invalid("a server field needs a name"));
        }
        Ok(())
    }
}

impl From<&str> for Table {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Table {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}
