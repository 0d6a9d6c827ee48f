//! Records of a table as values of a type of the app.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::engine::SyncEngine;
use super::record::{RecordKey, Row};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::ItemId;

/// The records of a table as values of `T`, which is written as a JSON object. [`SyncEngine::collection`] gives one.
pub struct Collection<T> {
    engine: SyncEngine,
    table: String,
    of: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Self {
            engine: self.engine.clone(),
            table: self.table.clone(),
            of: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Collection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collection")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl<T: Serialize + DeserializeOwned> Collection<T> {
    pub(super) fn new(engine: SyncEngine, table: String) -> Self {
        Self {
            engine,
            table,
            of: PhantomData,
        }
    }

    /// Writes a record: [`SyncEngine::write`].
    ///
    /// # Errors
    ///
    /// As there, and [`ErrorKind::Invalid`] for a value that is no JSON object.
    pub async fn write(&self, id: impl Into<ItemId>, value: &T) -> Result<()> {
        let row = row_of(value)?;
        self.engine.write(&self.table, id, row).await
    }

    /// Writes some fields: [`SyncEngine::patch`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn patch(&self, id: impl Into<ItemId>, fields: Row) -> Result<()> {
        self.engine.patch(&self.table, id, fields).await
    }

    /// Deletes a record: [`SyncEngine::remove`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn remove(&self, id: impl Into<ItemId>) -> Result<()> {
        self.engine.remove(&self.table, id).await
    }

    /// A record, if there is one.
    ///
    /// # Errors
    ///
    /// As [`SyncEngine::get`], and [`ErrorKind::Corrupt`] for a row that is no `T`.
    pub async fn get(&self, id: impl Into<ItemId>) -> Result<Option<T>> {
        let id = id.into();
        let row = self.engine.get(&self.table, &id).await?;
        row.map(|row| self.value_of(id, row)).transpose()
    }

    /// Records by id, behind `after`, at most `limit`.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn list(&self, after: Option<&ItemId>, limit: usize) -> Result<Vec<(ItemId, T)>> {
        let page = self.engine.list(&self.table, after, limit).await?;
        let records = page.records.into_iter();
        let rows = records.filter_map(|record| record.row.map(|row| (record.key.id, row)));
        rows.map(|(id, row)| Ok((id.clone(), self.value_of(id, row)?)))
            .collect()
    }

    fn value_of(&self, id: ItemId, row: Row) -> Result<T> {
        serde_json::from_value(Value::Object(row)).map_err(|e| {
            let key = RecordKey::new(&self.table, id);
            Error::new(
                ErrorKind::Corrupt,
                format!("the row of {key} has another shape than the app expects"),
            )
            .with_source(e)
        })
    }
}

fn row_of<T: Serialize>(value: &T) -> Result<Row> {
    match serde_json::to_value(value) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(_) => Err(Error::invalid(
            "a record is a JSON object: a struct or a map",
        )),
        Err(e) => Err(Error::invalid("a record cannot be written as JSON").with_source(e)),
    }
}
