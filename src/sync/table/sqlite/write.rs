//! A step into the database, within a transaction.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension, ToSql, params, params_from_iter};
use serde_json::Value;

use super::says;
use super::schema::{Column, Schema};
use super::value::{Exact, Exacts, decode_exacts, encode_exacts};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::table::{
    LocalRecord, LocalStep, Quarantined, RecordKey, RecordMeta, RecordWrite, Row, Touched,
};
use crate::sync::{ItemId, SqliteCheckpoints};

/// How much of a table's quarantine is kept.
const QUARANTINE_MAX: i64 = 1_000;

/// The app's tables, by name.
pub(super) type Schemas = HashMap<String, Arc<Schema>>;

/// Writes into one database.
pub(super) struct Writer<'a> {
    pub(super) connection: &'a Connection,
    pub(super) schemas: &'a Schemas,
}

impl Writer<'_> {
    pub(super) fn step(&self, step: &LocalStep) -> Result<()> {
        for key in &step.removes {
            self.remove(key)?;
        }
        for write in &step.writes {
            self.record(write)?;
        }
        if let Some((table, state)) = &step.state {
            let text = serde_json::to_string(state).map_err(|e| {
                Error::new(
                    ErrorKind::Storage,
                    "what is known of a table cannot be written",
                )
                .with_source(e)
            })?;
            self.run(
                "UPDATE syncvault_local_tables SET state = ?2 WHERE no = ?1",
                params![self.schema(table)?.no, text],
            )?;
        }
        if let Some(checkpoint) = &step.checkpoint {
            SqliteCheckpoints::save_in(self.connection, checkpoint)?;
        }
        for set_aside in &step.quarantine {
            self.set_aside(set_aside)?;
        }
        for (user, record) in &step.hold {
            let RecordKey { table, id } = &record.key;
            self.run(
                "INSERT INTO syncvault_local_held (user, tbl, id, meta) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (user, tbl, id) DO UPDATE SET meta = excluded.meta",
                params![user, table, id.as_str(), record.meta.encode()?],
            )?;
        }
        for (user, RecordKey { table, id }) in &step.release {
            self.run(
                "DELETE FROM syncvault_local_held WHERE user = ?1 AND tbl = ?2 AND id = ?3",
                params![user, table, id.as_str()],
            )?;
        }
        Ok(())
    }

    fn schema(&self, table: &str) -> Result<&Schema> {
        super::schema_of(self.schemas, table).map(|schema| &**schema)
    }

    fn remove(&self, key: &RecordKey) -> Result<()> {
        let schema = self.schema(&key.table)?;
        self.run(&schema.delete(), [key.id.as_str()])?;
        self.run(
            "DELETE FROM syncvault_local_records WHERE tbl = ?1 AND id = ?2",
            params![schema.no, key.id.as_str()],
        )
    }

    fn record(&self, RecordWrite { record, touched }: &RecordWrite) -> Result<()> {
        let schema = self.schema(&record.key.table)?;
        let id = &record.key.id;
        let exacts = match (touched, &record.row) {
            (Touched::Nothing, _) => self.exacts(schema, id)?,
            (_, None) => {
                self.run(&schema.delete(), [id.as_str()])?;
                Exacts::new()
            }
            (Touched::Row, Some(row)) => self.whole(schema, id, row)?,
            (Touched::Fields(fields), Some(row)) => self.fields(schema, id, (row, fields))?,
        };
        self.meta(schema, record, &exacts)
    }

    fn whole(&self, schema: &Schema, id: &ItemId, row: &Row) -> Result<Exacts> {
        let is_present = |column: &Column| row.contains_key(&column.name);
        let sql = schema.upsert(is_present);
        self.run(&sql, params_from_iter(values(schema, id, row, is_present)))?;
        let mut exacts = Exacts::new();
        self.compare(schema, (id, row), &mut exacts, |_| true)?;
        Ok(exacts)
    }

    /// Changes the named fields and no others. A row that is gone is written whole.
    fn fields(
        &self,
        schema: &Schema,
        id: &ItemId,
        (row, fields): (&Row, &[String]),
    ) -> Result<Exacts> {
        let is_touched = |name: &str| fields.iter().any(|field| field == name);
        let in_column = |column: &Column| is_touched(&column.name);
        if let Some(sql) = schema.update(in_column) {
            let values = values(schema, id, row, in_column);
            let changed = self.count(&sql, params_from_iter(values))?;
            if changed == 0 {
                return self.whole(schema, id, row);
            }
        }
        let mut exacts = self.exacts(schema, id)?;
        exacts.retain(|name, _| !is_touched(name));
        self.compare(schema, (id, row), &mut exacts, is_touched)?;
        Ok(exacts)
    }

    /// Reads back what was written, and remembers the fields that came out otherwise.
    fn compare(
        &self,
        schema: &Schema,
        (id, row): (&ItemId, &Row),
        exacts: &mut Exacts,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let read = says("be read back");
        let mut statement = self
            .connection
            .prepare_cached(&schema.select_columns())
            .map_err(&read)?;
        let mut rows = statement.query([id.as_str()]).map_err(&read)?;
        let Some(found) = rows.next().map_err(&read)? else {
            return Ok(());
        };
        for (at, column) in schema.columns.iter().enumerate() {
            let stored = found.get_ref(at).map_err(&read)?;
            let wanted = row.get(&column.name);
            let is_same = column
                .kind
                .decode(stored)
                .is_ok_and(|value| value.as_ref() == wanted);
            if is_wanted(&column.name) && !is_same {
                exacts.insert(column.name.clone(), Exact::beside(wanted, stored));
            }
        }
        for (name, value) in row {
            let has_place = schema.columns.iter().any(|column| column.name == *name)
                || is_id(schema, id, (name, value));
            if is_wanted(name) && !has_place {
                exacts.insert(name.clone(), Exact::without_column(value));
            }
        }
        Ok(())
    }

    fn exacts(&self, schema: &Schema, id: &ItemId) -> Result<Exacts> {
        let sql = "SELECT exacts FROM syncvault_local_records WHERE tbl = ?1 AND id = ?2";
        let text: Option<Option<String>> = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut exacts| {
                let found = exacts.query_row(params![schema.no, id.as_str()], |row| row.get(0));
                found.optional()
            })
            .map_err(says("be read"))?;
        decode_exacts(text.flatten().as_deref().map(str::as_bytes))
    }

    fn meta(&self, schema: &Schema, record: &LocalRecord, exacts: &Exacts) -> Result<()> {
        const SAVE: &str = "INSERT INTO syncvault_local_records \
                                (tbl, id, meta, exacts, has_id, unsynced, seen, deleted_at) \
                            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
                            ON CONFLICT (tbl, id) DO UPDATE SET \
                                meta = excluded.meta, exacts = excluded.exacts, has_id = excluded.has_id, \
                                unsynced = excluded.unsynced, seen = excluded.seen, \
                                deleted_at = excluded.deleted_at";
        let LocalRecord { key, row, meta } = record;
        let RecordMeta {
            seen, deleted_at, ..
        } = meta;
        let has_id = row.as_ref().is_some_and(|row| {
            let id = row.get_key_value(&schema.id_name);
            id.is_some_and(|field| is_id(schema, &key.id, field))
        });
        self.run(
            SAVE,
            params![
                schema.no,
                key.id.as_str(),
                meta.encode()?,
                encode_exacts(exacts)?,
                has_id,
                meta.is_unsynced(),
                seen,
                deleted_at.map(|at| at.as_millis()),
            ],
        )
    }

    fn set_aside(&self, set_aside: &Quarantined) -> Result<()> {
        let no = self.schema(&set_aside.table)?.no;
        self.run(
            "INSERT INTO syncvault_local_quarantine (tbl, id, reason, text, at) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                no,
                set_aside.id.as_ref().map(ItemId::as_str),
                set_aside.reason,
                set_aside.text,
                set_aside.at.as_millis(),
            ],
        )?;
        self.run(
            "DELETE FROM syncvault_local_quarantine WHERE tbl = ?1 AND no <= \
                 (SELECT no FROM syncvault_local_quarantine WHERE tbl = ?1 ORDER BY no DESC LIMIT 1 OFFSET ?2)",
            params![no, QUARANTINE_MAX],
        )
    }

    /// Removes everything of a table but what is held.
    pub(super) fn clear(&self, table: &str) -> Result<()> {
        let schema = self.schema(table)?;
        self.run(&format!("DELETE FROM {}", schema.table), [])?;
        for sql in [
            "DELETE FROM syncvault_local_records WHERE tbl = ?1",
            "DELETE FROM syncvault_local_quarantine WHERE tbl = ?1",
            "UPDATE syncvault_local_tables SET state = NULL WHERE no = ?1",
        ] {
            self.run(sql, [schema.no])?;
        }
        SqliteCheckpoints::remove_all_in(self.connection, table)
    }

    fn run(&self, sql: &str, values: impl rusqlite::Params) -> Result<()> {
        self.count(sql, values).map(drop)
    }

    fn count(&self, sql: &str, values: impl rusqlite::Params) -> Result<usize> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(values))
            .map_err(says("be written"))
    }
}

/// Is the field the record's own id?
fn is_id(schema: &Schema, id: &ItemId, (name, value): (&String, &Value)) -> bool {
    *name == schema.id_name && value.as_str() == Some(id.as_str())
}

/// The id, then the chosen columns of the row, absent ones as NULL.
fn values<'a>(
    schema: &'a Schema,
    id: &'a ItemId,
    row: &'a Row,
    is_chosen: impl Fn(&Column) -> bool + 'a,
) -> impl Iterator<Item = Box<dyn ToSql + 'a>> + 'a {
    let columns = schema.columns.iter().filter(move |c| is_chosen(c));
    let columns = columns.map(|column| {
        let value = row.get(&column.name);
        let value = value.map_or(Sql::Null, |value| column.kind.encode(value));
        Box::new(value) as Box<dyn ToSql>
    });
    std::iter::once(Box::new(id.as_str()) as Box<dyn ToSql>).chain(columns)
}
