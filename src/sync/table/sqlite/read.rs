//! Records out of the database: a row of the app's table, and what is known of it beside.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Params, Row as SqlRow, params};
use serde_json::Value;

use super::says;
use super::schema::Schema;
use super::value::{Exacts, decode_exacts};
use crate::clock::Timestamp;
use crate::error::{ErrorKind, Result};
use crate::sync::ItemId;
use crate::sync::table::{
    LocalRecord, Quarantined, RecordKey, RecordMeta, RecordPage, Row, TableState,
};

/// Where the columns of [`Schema::selected`] begin in a result: behind the id.
const SELECTED: usize = 1;
/// Where those of the app's table begin.
const COLUMNS: usize = SELECTED + 4;

/// Reads from one table.
pub(super) struct Reader<'a> {
    pub(super) connection: &'a Connection,
    pub(super) schema: &'a Schema,
    pub(super) table: &'a str,
}

impl Reader<'_> {
    pub(super) fn read(&self, ids: &[ItemId]) -> Result<RecordPage> {
        let Schema {
            table: app, id, no, ..
        } = self.schema;
        let sql = format!(
            "SELECT k.id, {} FROM (SELECT ?1 AS id) AS k \
             LEFT JOIN syncvault_local_records AS r ON r.tbl = {no} AND r.id = k.id \
             LEFT JOIN {app} AS t ON t.{id} = k.id \
             WHERE r.id IS NOT NULL OR t.{id} IS NOT NULL",
            self.schema.selected()
        );
        let mut page = RecordPage::default();
        for id in ids {
            self.fill(&mut page, &sql, [id.as_str()])?;
        }
        Ok(page)
    }

    /// The rows of the app's table, also those that the engine has not met yet.
    pub(super) fn list(&self, after: Option<&ItemId>, limit: i64) -> Result<RecordPage> {
        let Schema {
            table: app, id, no, ..
        } = self.schema;
        let (from, after) = from(after);
        let sql = format!(
            "SELECT t.{id}, {} FROM {app} AS t \
             LEFT JOIN syncvault_local_records AS r ON r.tbl = {no} AND r.id = t.{id} \
             WHERE t.{id} {from} ?1 ORDER BY t.{id} LIMIT ?2",
            self.schema.selected()
        );
        self.page(&sql, params![after, limit])
    }

    pub(super) fn unsynced(&self, after: Option<&ItemId>, limit: i64) -> Result<RecordPage> {
        let (from, after) = from(after);
        let sql = self.known(&format!("r.unsynced = 1 AND r.id {from} ?1"), "LIMIT ?2");
        self.page(&sql, params![after, limit])
    }

    pub(super) fn unseen(
        &self,
        generation: u64,
        after: Option<&ItemId>,
        limit: i64,
    ) -> Result<RecordPage> {
        let (from, after) = from(after);
        let sql = self.known(&format!("r.seen < ?3 AND r.id {from} ?1"), "LIMIT ?2");
        self.page(&sql, params![after, limit, generation])
    }

    pub(super) fn tombstones(&self, before: Timestamp, limit: i64) -> Result<RecordPage> {
        let sql = self.known("r.unsynced = 0 AND r.deleted_at < ?1", "LIMIT ?2");
        self.page(&sql, params![before.as_millis(), limit])
    }

    /// Records that the engine knows, in the order of their ids.
    fn known(&self, condition: &str, limit: &str) -> String {
        let Schema {
            table: app, id, no, ..
        } = self.schema;
        format!(
            "SELECT r.id, {} FROM syncvault_local_records AS r LEFT JOIN {app} AS t ON t.{id} = r.id \
             WHERE r.tbl = {no} AND {condition} ORDER BY r.id {limit}",
            self.schema.selected()
        )
    }

    fn page(&self, sql: &str, values: impl Params) -> Result<RecordPage> {
        let mut page = RecordPage::default();
        self.fill(&mut page, sql, values)?;
        Ok(page)
    }

    fn fill(&self, page: &mut RecordPage, sql: &str, values: impl Params) -> Result<()> {
        let read = says("be read");
        let mut statement = self.connection.prepare_cached(sql).map_err(&read)?;
        let mut rows = statement.query(values).map_err(&read)?;
        while let Some(row) = rows.next().map_err(&read)? {
            let id = row.get_ref(0).map_err(&read)?;
            let Some(id) = id.as_str().ok().map(ItemId::new) else {
                tracing::warn!(table = self.table, "an id that is no text is passed over");
                continue;
            };
            match self.record(row, &id) {
                Ok(record) => page.records.push(record),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::warn!(table = self.table, %error, "a record cannot be read");
                    page.damaged.push(id);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn record(&self, found: &SqlRow<'_>, id: &ItemId) -> Result<LocalRecord> {
        let read = says("be read");
        let meta = bytes(found.get_ref(SELECTED).map_err(&read)?);
        let exacts = decode_exacts(bytes(found.get_ref(SELECTED + 1).map_err(&read)?))?;
        let has_id: Option<bool> = found.get(SELECTED + 2).map_err(&read)?;
        let is_there: bool = found.get(SELECTED + 3).map_err(&read)?;
        let mut record = LocalRecord::unknown(RecordKey::new(self.table, id));
        if let Some(meta) = meta {
            record.meta = RecordMeta::decode(meta)?;
        }
        if is_there {
            let mut row = self.row(found, &exacts)?;
            // The app wrote it, and the engine has not met it yet: it looks as the app's own JSON would.
            if has_id.unwrap_or(true) {
                let id = Value::String(id.as_str().to_owned());
                row.insert(self.schema.id_name.clone(), id);
            }
            record.row = Some(row);
        }
        Ok(record)
    }

    fn row(&self, found: &SqlRow<'_>, exacts: &Exacts) -> Result<Row> {
        let mut row = Row::new();
        for (at, column) in self.schema.columns.iter().enumerate() {
            let stored = found.get_ref(COLUMNS + at).map_err(says("be read"))?;
            let exact = exacts
                .get(&column.name)
                .and_then(|exact| exact.while_stored(stored));
            let value = match exact {
                Some(value) => value.cloned(),
                None => column.kind.decode(stored)?,
            };
            row.extend(value.map(|value| (column.name.clone(), value)));
        }
        for (name, exact) in exacts {
            let has_column = self
                .schema
                .columns
                .iter()
                .any(|column| column.name == *name);
            if !has_column {
                row.extend(exact.value().map(|value| (name.clone(), value.clone())));
            }
        }
        Ok(row)
    }
}

/// How a page begins: behind an id, or with the first one, which may be empty.
fn from(after: Option<&ItemId>) -> (&'static str, &str) {
    match after {
        Some(after) => (">", after.as_str()),
        None => (">=", ""),
    }
}

/// A text, also one that is damaged.
fn bytes(value: ValueRef<'_>) -> Option<&[u8]> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes),
        _ => None,
    }
}

pub(super) fn state(connection: &Connection, table: &str) -> Result<TableState> {
    let sql = "SELECT state FROM syncvault_local_tables WHERE name = ?1";
    let text: Option<Option<String>> = connection
        .prepare_cached(sql)
        .and_then(|mut state| state.query_row([table], |row| row.get(0)).optional())
        .map_err(says("be read"))?;
    let damaged = |e| {
        let text = format!("what is known of the table {table:?} is damaged; `resync` starts anew");
        crate::Error::new(ErrorKind::Corrupt, text).with_source(e)
    };
    text.flatten().map_or_else(
        || Ok(TableState::default()),
        |text| serde_json::from_str(&text).map_err(damaged),
    )
}

pub(super) fn held(connection: &Connection, user: &str, limit: i64) -> Result<Vec<LocalRecord>> {
    let sql =
        "SELECT tbl, id, meta FROM syncvault_local_held WHERE user = ?1 ORDER BY tbl, id LIMIT ?2";
    let read = says("be read");
    let mut statement = connection.prepare_cached(sql).map_err(&read)?;
    let mut rows = statement.query(params![user, limit]).map_err(&read)?;
    let mut held = Vec::new();
    while let Some(row) = rows.next().map_err(&read)? {
        let (table, id, meta): (String, String, String) = row.try_into().map_err(&read)?;
        let mut record = LocalRecord::unknown(RecordKey::new(table, id));
        record.meta = RecordMeta::decode(meta.as_bytes())?;
        held.push(record);
    }
    Ok(held)
}

pub(super) fn quarantine(
    connection: &Connection,
    table: &str,
    limit: i64,
) -> Result<Vec<Quarantined>> {
    let sql = "SELECT q.id, q.reason, q.text, q.at FROM syncvault_local_quarantine AS q \
               JOIN syncvault_local_tables AS t ON t.no = q.tbl \
               WHERE t.name = ?1 ORDER BY q.no DESC LIMIT ?2";
    let set_aside = |row: &SqlRow<'_>| {
        let id: Option<String> = row.get(0)?;
        let at = Timestamp::from_millis(row.get(3)?);
        let mut found = Quarantined::new(table, id.map(ItemId::new), at);
        (found.reason, found.text) = (row.get(1)?, row.get(2)?);
        Ok(found)
    };
    connection
        .prepare_cached(sql)
        .and_then(|mut all| all.query_map(params![table, limit], set_aside)?.collect())
        .map_err(says("be read"))
}
