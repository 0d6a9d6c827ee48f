//! An app's table as the store sees it: its columns, the statements for it, and what it must be like.

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};

use super::SqliteTable;
use super::value::Kind;
use crate::error::{Error, Result};

/// One of the app's tables.
#[derive(Debug)]
pub(super) struct Schema {
    /// Its number, which stands for its name in our tables.
    pub(super) no: i64,
    pub(super) table: String,
    pub(super) id: String,
    pub(super) id_name: String,
    pub(super) columns: Vec<Column>,
}

/// A column that belongs to records.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    quoted: String,
    pub(super) kind: Kind,
    is_not_null: bool,
    default: Option<String>,
}

/// A name as SQL takes it, whatever stands in it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Schema {
    /// Reads what the table is like, and checks it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a table that cannot hold records, which says why.
    pub(super) fn read(connection: &Connection, table: &SqliteTable, no: i64) -> Result<Self> {
        let name = &table.name;
        let unfit = |what: &str| Error::invalid(format!("the table {name:?} {what}"));
        let columns = columns(connection, name).map_err(super::says("be looked at"))?;
        if columns.is_empty() {
            return Err(unfit(
                "is not in the database: create it, then add it to the engine",
            ));
        }
        let id_name = &table.id_column;
        let Some(id) = columns.iter().find(|column| column.name == *id_name) else {
            let text = format!("has no column {id_name:?} for the ids; name it with `id_column`");
            return Err(unfit(&text));
        };
        if !is_text(&id.declared) {
            return Err(unfit(
                "has ids that are no TEXT: declare the column TEXT, ids are any text",
            ));
        }
        if !is_unique(connection, name, id_name).map_err(super::says("be looked at"))? {
            return Err(unfit(
                "has ids that are not unique byte by byte: make the column the PRIMARY KEY, or UNIQUE, without a COLLATE",
            ));
        }
        if let Some(missing) = table
            .local_only
            .iter()
            .find(|local| !columns.iter().any(|column| column.name == **local))
        {
            return Err(unfit(&format!("has no column {missing:?}")));
        }
        let is_ours = |found: &Found| {
            !found.is_generated && found.name != *id_name && !table.local_only.contains(&found.name)
        };
        Ok(Self {
            no,
            table: quoted(name),
            id: quoted(id_name),
            id_name: id_name.clone(),
            columns: columns
                .into_iter()
                .filter(is_ours)
                .map(Column::of)
                .collect(),
        })
    }

    /// What a read selects, from our records as `r` and the app's table as `t`: see [`read`](super::read).
    pub(super) fn selected(&self) -> String {
        let mut list = format!("r.meta, r.exacts, r.has_id, t.{} IS NOT NULL", self.id);
        for column in &self.columns {
            list.push_str(", t.");
            list.push_str(&column.quoted);
        }
        list
    }

    /// The columns alone, of one row.
    pub(super) fn select_columns(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|c| c.quoted.as_str()).collect();
        let list = match names.is_empty() {
            true => "1".to_owned(),
            false => names.join(", "),
        };
        format!("SELECT {list} FROM {} WHERE {} = ?1", self.table, self.id)
    }

    /// Writes a whole row: ?1 is the id, then the columns for which `is_present`. The others get their default.
    pub(super) fn upsert(&self, is_present: impl Fn(&Column) -> bool) -> String {
        let (mut names, mut marks) = (self.id.clone(), "?1".to_owned());
        let mut sets = Vec::with_capacity(self.columns.len());
        let mut next = 2;
        for column in &self.columns {
            let quoted = &column.quoted;
            if is_present(column) {
                names.push_str(&format!(", {quoted}"));
                marks.push_str(&format!(", ?{next}"));
                sets.push(format!("{quoted} = excluded.{quoted}"));
                next += 1;
            } else if let Some(absent) = column.absent() {
                sets.push(format!("{quoted} = {absent}"));
            }
        }
        let on_conflict = match sets.is_empty() {
            true => "NOTHING".to_owned(),
            false => format!("UPDATE SET {}", sets.join(", ")),
        };
        let Self { table, id, .. } = self;
        format!(
            "INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT ({id}) DO {on_conflict}"
        )
    }

    /// Changes some columns of a row that is there: ?1 is the id, then the columns. Nothing when `is_touched` is true of none.
    pub(super) fn update(&self, is_touched: impl Fn(&Column) -> bool) -> Option<String> {
        let touched = self.columns.iter().filter(|column| is_touched(column));
        let sets: Vec<String> = touched
            .enumerate()
            .map(|(at, column)| format!("{} = ?{}", column.quoted, at + 2))
            .collect();
        let Self { table, id, .. } = self;
        (!sets.is_empty())
            .then(|| format!("UPDATE {table} SET {} WHERE {id} = ?1", sets.join(", ")))
    }

    pub(super) fn delete(&self) -> String {
        format!("DELETE FROM {} WHERE {} = ?1", self.table, self.id)
    }
}

impl Column {
    fn of(found: Found) -> Self {
        Self {
            quoted: quoted(&found.name),
            kind: Kind::of(&found.declared),
            name: found.name,
            is_not_null: found.is_not_null,
            default: found.default,
        }
    }

    /// What an update writes for a field that a row does not hold; nothing when the column stays as it is.
    fn absent(&self) -> Option<String> {
        match &self.default {
            Some(default) if self.is_not_null => Some(format!("({default})")),
            None if self.is_not_null => None,
            _ => Some("NULL".to_owned()),
        }
    }
}

struct Found {
    name: String,
    declared: String,
    is_not_null: bool,
    default: Option<String>,
    is_generated: bool,
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Found>> {
    const COLUMNS: &str = "SELECT c.name, c.type, c.\"notnull\", c.dflt_value, c.hidden \
                           FROM pragma_table_list(?1) AS t, pragma_table_xinfo(?1) AS c \
                           WHERE t.schema = 'main' AND t.type = 'table'";
    let found = |row: &SqlRow<'_>| {
        Ok(Found {
            name: row.get(0)?,
            declared: row.get(1)?,
            is_not_null: row.get(2)?,
            default: row.get(3)?,
            is_generated: row.get::<_, i64>(4)? != 0,
        })
    };
    let mut statement = connection.prepare(COLUMNS)?;
    statement.query_map([table], found)?.collect()
}

/// Does SQLite keep it as text? The rule is in its documentation, "Datatypes In SQLite", 3.1.
fn is_text(declared: &str) -> bool {
    let declared = declared.to_ascii_uppercase();
    let has = |part: &str| declared.contains(part);
    !has("INT") && (has("CHAR") || has("CLOB") || has("TEXT"))
}

/// Is there a unique index on this column alone, over all rows, that compares bytes?
fn is_unique(connection: &Connection, table: &str, column: &str) -> rusqlite::Result<bool> {
    const UNIQUE: &str = "SELECT 1 FROM pragma_index_list(?1) AS l \
                          WHERE l.\"unique\" AND NOT l.partial \
                            AND (SELECT count(*) FROM pragma_index_xinfo(l.name) WHERE key) = 1 \
                            AND EXISTS (SELECT 1 FROM pragma_index_xinfo(l.name) AS c \
                                        WHERE c.key AND c.name = ?2 AND c.coll = 'BINARY')";
    let found = connection.query_row(UNIQUE, params![table, column], |_| Ok(()));
    Ok(found.optional()?.is_some())
}
