//! What a table of Postgres has beside the app's columns, and how a row of it is read. Values only.

use serde_json::Value;
use serde_json::value::RawValue;

use super::super::instant::Instant;
use super::super::record::Row;
use super::super::remote::{DamagedRow, RemoteRow};
use super::super::version::Version;
use crate::sync::ItemId;

/// How much of a row that cannot be read is set aside.
const TEXT_MAX: usize = 16 * 1024;

/// The columns of a table that the sync lives by. They travel beside the row: a pulled row does not hold them (but for the id), and a
/// pushed one does not send them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgrestTable {
    /// The primary key, one column. Default: `id`.
    pub id: String,
    /// When the row changed, `timestamptz not null`, set by a trigger at each insert and update, whatever the client sends. Default:
    /// `updated_at`.
    pub updated_at: String,
    /// The version, a number or a text that the server changes at each update. Nothing, the default: `updated_at` is the version.
    /// Two updates of a row in one transaction then look like one.
    pub version: Option<String>,
    /// How deletions are told. Default: [`Deletions::Listed`].
    pub deletions: Deletions,
}

/// How a table tells of rows that were deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Deletions {
    /// Not at all: rows go, and each pull lists the whole table, so that what is missing is seen. Right, and dear for large tables.
    #[default]
    Listed,
    /// By a time in this column (`deleted_at timestamptz`): nothing = the row is there. A deletion sets it, by the server's clock.
    Time(String),
    /// By a flag in this column (`is_deleted boolean not null default false`). A deletion sets it.
    Flag(String),
    /// Rows of this table are never deleted.
    Never,
}

impl Default for PostgrestTable {
    fn default() -> Self {
        Self {
            id: "id".to_owned(),
            updated_at: "updated_at".to_owned(),
            version: None,
            deletions: Deletions::default(),
        }
    }
}

impl PostgrestTable {
    /// With another primary key.
    #[must_use]
    pub fn id(mut self, column: impl Into<String>) -> Self {
        self.id = column.into();
        self
    }

    /// With another time of change.
    #[must_use]
    pub fn updated_at(mut self, column: impl Into<String>) -> Self {
        self.updated_at = column.into();
        self
    }

    /// With a version.
    #[must_use]
    pub fn version(mut self, column: impl Into<String>) -> Self {
        self.version = Some(column.into());
        self
    }

    /// With deletions that are told.
    #[must_use]
    pub fn deletions(mut self, deletions: Deletions) -> Self {
        self.deletions = deletions;
        self
    }

    /// The column that a conditional change asks for.
    pub(super) fn version_column(&self) -> &str {
        self.version.as_deref().unwrap_or(&self.updated_at)
    }

    fn deleted_column(&self) -> Option<&str> {
        match &self.deletions {
            Deletions::Time(column) | Deletions::Flag(column) => Some(column),
            _ => None,
        }
    }

    /// The column that tells a deletion, and the filter for a row that is there.
    pub(super) fn alive(&self) -> Option<(&str, &'static str)> {
        match &self.deletions {
            Deletions::Time(column) => Some((column, "is.null")),
            Deletions::Flag(column) => Some((column, "not.is.true")),
            _ => None,
        }
    }

    /// What a deletion sets, where rows stay.
    pub(super) fn deletion(&self) -> Option<Row> {
        let (column, value) = match &self.deletions {
            // A word of Postgres for a time: its own.
            Deletions::Time(column) => (column, Value::from("now")),
            Deletions::Flag(column) => (column, Value::from(true)),
            _ => return None,
        };
        Some(Row::from_iter([(column.clone(), value)]))
    }

    /// What undoes one.
    pub(super) fn revival(&self) -> Option<Row> {
        let (column, value) = match &self.deletions {
            Deletions::Time(column) => (column, Value::Null),
            Deletions::Flag(column) => (column, Value::from(false)),
            _ => return None,
        };
        Some(Row::from_iter([(column.clone(), value)]))
    }

    fn is_own(&self, column: &str) -> bool {
        column == self.updated_at
            || self.version.as_deref() == Some(column)
            || self.deleted_column() == Some(column)
    }

    /// The app's columns of a row.
    pub(super) fn sent(&self, row: &Row) -> Row {
        let fields = row.iter().filter(|(column, _)| !self.is_own(column));
        fields
            .map(|(column, value)| (column.clone(), value.clone()))
            .collect()
    }

    /// Where a row is in the order of changes, if it says.
    pub(super) fn place(&self, row: &Row) -> Option<(String, ItemId)> {
        let at = row.get(&self.updated_at)?.as_str()?;
        Instant::parse(at)?;
        Some((at.to_owned(), id_of(row.get(&self.id)?)?))
    }

    /// A row as the server has it.
    ///
    /// # Errors
    ///
    /// What is wrong with it, without its content.
    pub(super) fn read(&self, row: &Row) -> Result<RemoteRow, String> {
        let told = |column: &str| row.get(column).ok_or(format!("it has no column {column}"));
        let Some(id) = id_of(told(&self.id)?) else {
            return Err(format!("its {} is neither a text nor a number", self.id));
        };
        let at = told(&self.updated_at)?.as_str();
        let Some((text, at)) = at.and_then(|text| Some((text, Instant::parse(text)?))) else {
            return Err(format!("its {} is not a time", self.updated_at));
        };
        let version = match &self.version {
            None => Version::from(text),
            Some(column) => match told(column)? {
                Value::String(text) => Version::from(text.as_str()),
                value => match value.as_u64() {
                    Some(number) => Version::from(number),
                    None => return Err(format!("its {column} is no version")),
                },
            },
        };
        let is_deleted = match self.deleted_column() {
            None => false,
            Some(column) => !matches!(told(column)?, Value::Null | Value::Bool(false)),
        };
        let read = match is_deleted {
            true => RemoteRow::deleted(id),
            false => RemoteRow::new(id, self.sent(row)),
        };
        Ok(read.version(version).updated_at(at.timestamp()))
    }

    /// A row that could not be read.
    pub(super) fn damaged(&self, row: Option<&Row>, raw: &RawValue, reason: String) -> DamagedRow {
        let id = row.and_then(|row| id_of(row.get(&self.id)?));
        let text = raw.get().chars().take(TEXT_MAX).collect::<String>();
        DamagedRow::new(id, reason, text)
    }
}

/// A key is a text, a UUID, or a number.
pub(super) fn id_of(value: &Value) -> Option<ItemId> {
    match value {
        Value::String(text) => Some(ItemId::new(text)),
        Value::Number(number) => Some(ItemId::new(number.to_string())),
        _ => None,
    }
}
