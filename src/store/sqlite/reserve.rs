//! Room inside the database, given back when the disk is full. What a ballast frees anybody may take; a page that is free
//! in the file is taken by the database alone, and the log can be brought into it without the file growing.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::connect::{PAGE_BYTES, says};
use crate::error::Result;
use crate::store::ballast;

const LOOK: &str = "SELECT 1 FROM sqlite_schema WHERE name = 'syncvault_reserve'";
/// Only a vault's own database has it.
const TABLE: &str = "CREATE TABLE syncvault_reserve (no INTEGER PRIMARY KEY, room BLOB NOT NULL)";
const COUNT: &str = "SELECT 1 FROM syncvault_reserve";
const PUT: &str = "INSERT INTO syncvault_reserve VALUES (1, zeroblob(?1))";
const GIVE: &str = "DELETE FROM syncvault_reserve";

#[derive(Debug)]
pub(super) struct Reserve {
    bytes: u64,
    /// Nothing = it must be looked at.
    is_kept: Option<bool>,
    /// There was no room for it, though the disk said so.
    is_given_up: bool,
}

impl Reserve {
    /// Zero bytes are none. Nothing is made yet.
    pub(super) fn of(bytes: u64) -> Self {
        Self {
            bytes,
            is_kept: None,
            is_given_up: false,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Somebody else wrote, or a transaction of ours was rolled back.
    pub(super) fn doubt(&mut self) {
        self.is_kept = None;
    }

    /// Makes it when it is missing and the disk has room for it and for the log on its way there. In a transaction of the
    /// caller, with which it may come to nothing.
    pub(super) fn keep(&mut self, connection: &Connection, path: &Path) -> Result<()> {
        if self.bytes == 0 || self.is_given_up || self.is_there(connection)? {
            return Ok(());
        }
        if ballast::free_bytes(path)? < self.bytes.saturating_mul(3) {
            return Ok(());
        }
        let made = self.make(connection);
        self.is_given_up = made.is_err();
        made
    }

    fn make(&mut self, connection: &Connection) -> Result<()> {
        if !has(connection, LOOK)? {
            run(connection, TABLE, [])?;
        }
        let bytes = i64::try_from(self.bytes).unwrap_or(i64::MAX);
        run(connection, PUT, params![bytes])?;
        self.is_kept = Some(true);
        Ok(())
    }

    /// Gives it back, in a transaction of the caller, with which it may come to nothing.
    pub(super) fn give(&mut self, connection: &Connection) -> Result<()> {
        if self.is_there(connection)? {
            run(connection, GIVE, [])?;
            self.is_kept = Some(false);
        }
        Ok(())
    }

    fn is_there(&mut self, connection: &Connection) -> Result<bool> {
        let is_kept = match self.is_kept {
            Some(is_kept) => is_kept,
            None => has(connection, LOOK)? && has(connection, COUNT)?,
        };
        self.is_kept = Some(is_kept);
        Ok(is_kept)
    }
}

/// How much may be put into the database before its file grows.
pub(super) fn free_bytes(connection: &Connection) -> Result<u64> {
    let pages = connection.query_row("PRAGMA freelist_count", [], |row| row.get::<_, u64>(0));
    let pages = pages.map_err(says("look for free pages"))?;
    Ok(pages.saturating_mul(PAGE_BYTES))
}

fn has(connection: &Connection, sql: &str) -> Result<bool> {
    let found = connection.query_row(sql, [], |_| Ok(())).optional();
    found
        .map(|row| row.is_some())
        .map_err(says("look at the reserve"))
}

fn run(connection: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<()> {
    let ran = connection.execute(sql, values);
    ran.map(drop).map_err(says("change the reserve"))
}
