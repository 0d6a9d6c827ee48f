//! The records of the reference server, in SQLite: versions, tombstones, cursors, keys. No HTTP in here.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use syncvault::clock::Timestamp;
use syncvault::rusqlite::{
    Connection, OptionalExtension, Result, Row, Transaction, TransactionBehavior, params,
};

/// One number for every change of any record: it is the version of the record, and its place in the cursor. SQLite has one
/// writer at a time, so numbers are committed in their order, and who has seen number 7 has seen all before it.
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS counter (epoch TEXT NOT NULL, version INTEGER NOT NULL);
    INSERT INTO counter SELECT lower(hex(randomblob(4))), 0 WHERE NOT EXISTS (SELECT 1 FROM counter);
    CREATE TABLE IF NOT EXISTS users (token TEXT PRIMARY KEY, owner TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS records (
        tbl TEXT NOT NULL, id TEXT NOT NULL, owner TEXT NOT NULL,
        version INTEGER NOT NULL UNIQUE, updated_ms INTEGER NOT NULL, row TEXT,
        PRIMARY KEY (tbl, id));
    CREATE INDEX IF NOT EXISTS changes ON records (owner, tbl, version);
    CREATE INDEX IF NOT EXISTS tombstones ON records (updated_ms) WHERE row IS NULL;
    -- Up to which version the tombstones of a table are forgotten.
    CREATE TABLE IF NOT EXISTS horizons (tbl TEXT PRIMARY KEY, version INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS keys (
        owner TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL,
        status INTEGER NOT NULL, version INTEGER, body TEXT NOT NULL, at_ms INTEGER NOT NULL,
        PRIMARY KEY (owner, key));
    CREATE INDEX IF NOT EXISTS old_keys ON keys (at_ms);";

/// What the server answers.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// For the ETag.
    pub(crate) version: Option<i64>,
    pub(crate) body: Value,
    pub(crate) is_replayed: bool,
}

impl Reply {
    fn new(status: u16, body: Value) -> Self {
        Self {
            status,
            version: None,
            body,
            is_replayed: false,
        }
    }

    /// A problem (RFC 9457).
    pub(crate) fn problem(status: u16, title: &str) -> Self {
        Self::new(status, json!({ "status": status, "title": title }))
    }

    fn record(status: u16, record: &Record) -> Self {
        Self {
            version: Some(record.version),
            ..Self::new(status, record.json())
        }
    }

    /// Nobody ever heard of the record.
    fn unknown(status: u16, id: &str) -> Self {
        Self::new(status, json!({ "id": id, "deleted": true }))
    }
}

/// A change as it came in.
pub(crate) struct Incoming {
    pub(crate) key: Option<String>,
    pub(crate) method: String,
    pub(crate) table: String,
    pub(crate) id: String,
    pub(crate) if_match: Option<String>,
    pub(crate) if_none_match: bool,
    pub(crate) row: Option<Map<String, Value>>,
}

impl Incoming {
    /// What must be the same when its key comes again.
    fn text(&self) -> String {
        let row = self.row.as_ref();
        json!([
            self.method,
            self.table,
            self.id,
            self.if_match,
            self.if_none_match,
            row
        ])
        .to_string()
    }
}

struct Record {
    id: String,
    owner: String,
    version: i64,
    updated_at: String,
    row: Option<String>,
}

impl Record {
    const COLUMNS: &str =
        "id, owner, version, strftime('%Y-%m-%dT%H:%M:%fZ', updated_ms / 1000.0, 'unixepoch'), row";

    fn read(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            owner: row.get(1)?,
            version: row.get(2)?,
            updated_at: row.get(3)?,
            row: row.get(4)?,
        })
    }

    fn json(&self) -> Value {
        let mut record =
            json!({ "id": self.id, "version": self.version, "updated_at": self.updated_at });
        match &self.row {
            Some(row) => record["row"] = serde_json::from_str(row).unwrap_or_default(),
            None => record["deleted"] = true.into(),
        }
        record
    }

    fn is_tagged(&self, tag: &str) -> bool {
        tag == "*" || tag.trim_start_matches("W/").trim_matches('"') == self.version.to_string()
    }
}

/// Where a client goes on.
enum Place {
    /// In a full listing that began at `start`: what was deleted before that is left out.
    Listing { start: i64, after: i64 },
    /// In the changes.
    Changes { after: i64 },
}

impl Place {
    fn text(&self, epoch: &str) -> String {
        match self {
            Self::Listing { start, after } => format!("l.{epoch}.{start}.{after}"),
            Self::Changes { after } => format!("c.{epoch}.{after}"),
        }
    }

    /// Nothing for what is not of this database, or of a time that it does not know (it was put back from a backup).
    fn parse(text: &str, epoch: &str, newest: i64) -> Option<Self> {
        let words: Vec<&str> = text.split('.').collect();
        let number = |text: &str| {
            text.parse::<i64>()
                .ok()
                .filter(|n| (0..=newest).contains(n))
        };
        match words[..] {
            ["l", of, start, after] if of == epoch => Some(Self::Listing {
                start: number(start)?,
                after: number(after)?,
            }),
            ["c", of, after] if of == epoch => Some(Self::Changes {
                after: number(after)?,
            }),
            _ => None,
        }
    }
}

/// The database.
pub(crate) struct Book {
    database: Connection,
    /// How long keys are remembered.
    pub(crate) keys_for: Duration,
    /// How long tombstones are.
    pub(crate) tombstones_for: Duration,
    /// The time, for tests in which it stands still.
    pub(crate) frozen: Option<i64>,
}

impl Book {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let database = Connection::open(path)?;
        database.busy_timeout(Duration::from_secs(10))?;
        database.execute_batch(SCHEMA)?;
        Ok(Self {
            database,
            keys_for: Duration::from_secs(24 * 60 * 60),
            tombstones_for: Duration::from_secs(90 * 24 * 60 * 60),
            frozen: None,
        })
    }

    /// Who has this token is this owner.
    pub(crate) fn admit(&self, token: &str, owner: &str) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO users (token, owner) VALUES (?1, ?2)";
        self.database.execute(sql, params![token, owner]).map(drop)
    }

    /// The token is no good any more.
    pub(crate) fn dismiss(&self, token: &str) -> Result<()> {
        let sql = "DELETE FROM users WHERE token = ?1";
        self.database.execute(sql, [token]).map(drop)
    }

    pub(crate) fn owner(&self, token: &str) -> Result<Option<String>> {
        let sql = "SELECT owner FROM users WHERE token = ?1";
        self.database
            .query_row(sql, [token], |row| row.get(0))
            .optional()
    }

    fn now(&self) -> i64 {
        let now = Timestamp::from(std::time::SystemTime::now()).as_millis();
        self.frozen
            .unwrap_or(i64::try_from(now).unwrap_or(i64::MAX))
    }

    /// Applies a change, unless its key is known: then it answers as before.
    pub(crate) fn change(&mut self, owner: &str, change: &Incoming) -> Result<Reply> {
        let now = self.now();
        let keys_since = now - millis(self.keys_for);
        let dead_since = now - millis(self.tombstones_for);
        let transaction = self
            .database
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        forget(&transaction, keys_since, dead_since)?;
        let reply = match known(&transaction, owner, change)? {
            Some(reply) => reply,
            None => {
                let reply = apply(&transaction, owner, change, now)?;
                remember(&transaction, owner, change, (&reply, now))?;
                reply
            }
        };
        transaction.commit()?;
        Ok(reply)
    }

    /// Forgets tombstones that are so old. A cursor from before cannot go on.
    pub(crate) fn forget_tombstones(&mut self, older_than: Duration) -> Result<()> {
        let since = self.now() - millis(older_than);
        let transaction = self
            .database
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        forget(&transaction, i64::MIN, since.saturating_add(1))?;
        transaction.commit()
    }

    pub(crate) fn get(&self, owner: &str, table: &str, id: &str) -> Result<Reply> {
        Ok(match find(&self.database, table, id)? {
            None => Reply::unknown(404, id),
            Some(record) if record.owner != owner => foreign(),
            Some(record) if record.row.is_none() => Reply::record(410, &record),
            Some(record) => Reply::record(200, &record),
        })
    }

    /// A page.
    pub(crate) fn list(
        &mut self,
        (owner, table): (&str, &str),
        cursor: Option<&str>,
        limit: i64,
    ) -> Result<Reply> {
        // One transaction: the rows and the numbers are of the same moment.
        let transaction = self.database.transaction()?;
        let (epoch, newest): (String, i64) =
            transaction.query_row("SELECT epoch, version FROM counter", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let sql = "SELECT version FROM horizons WHERE tbl = ?1";
        let horizon = transaction.query_row(sql, [table], |row| row.get::<_, i64>(0));
        let horizon = horizon.optional()?.unwrap_or_default();
        let place = match cursor {
            None => Some(Place::Listing {
                start: newest,
                after: 0,
            }),
            Some(text) => Place::parse(text, &epoch, newest),
        };
        let (start, after) = match place {
            Some(Place::Listing { start, after }) if start >= horizon => (start, after),
            Some(Place::Changes { after }) if after >= horizon => (0, after),
            _ => {
                return Ok(Reply::problem(
                    410,
                    "the cursor is not known any more: list everything anew",
                ));
            }
        };
        let sql = format!(
            "SELECT {} FROM records WHERE owner = ?1 AND tbl = ?2 AND version > ?3 AND (row IS NOT NULL OR version > ?4) \
             ORDER BY version LIMIT ?5",
            Record::COLUMNS
        );
        let mut statement = transaction.prepare_cached(&sql)?;
        let rows =
            statement.query_map(params![owner, table, after, start, limit + 1], Record::read)?;
        let mut records = rows.collect::<Result<Vec<_>>>()?;
        let has_more = i64::try_from(records.len()).unwrap_or(i64::MAX) > limit;
        records.truncate(usize::try_from(limit).unwrap_or_default());
        let last = records.last().map_or(after, |record| record.version);
        let next = match place {
            Some(Place::Listing { start, .. }) => Place::Listing { start, after: last },
            _ => Place::Changes { after: last },
        };
        let mut page = json!({ "rows": records.iter().map(Record::json).collect::<Vec<_>>() });
        match has_more {
            true => page["next"] = next.text(&epoch).into(),
            false => page["resume"] = Place::Changes { after: newest }.text(&epoch).into(),
        }
        Ok(Reply::new(200, page))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2)
}

fn foreign() -> Reply {
    Reply::problem(403, "the record belongs to somebody else")
}

fn find(database: &Connection, table: &str, id: &str) -> Result<Option<Record>> {
    let sql = format!(
        "SELECT {} FROM records WHERE tbl = ?1 AND id = ?2",
        Record::COLUMNS
    );
    let mut statement = database.prepare_cached(&sql)?;
    statement.query_row([table, id], Record::read).optional()
}

/// Old keys, and old tombstones: up to where those of a table are gone is written down.
fn forget(transaction: &Transaction<'_>, keys_since: i64, dead_since: i64) -> Result<()> {
    transaction.execute("DELETE FROM keys WHERE at_ms < ?1", [keys_since])?;
    transaction.execute(
        "INSERT INTO horizons (tbl, version) SELECT tbl, max(version) FROM records WHERE row IS NULL AND updated_ms < ?1 GROUP BY tbl \
         ON CONFLICT (tbl) DO UPDATE SET version = max(version, excluded.version)",
        [dead_since],
    )?;
    let sql = "DELETE FROM records WHERE row IS NULL AND updated_ms < ?1";
    transaction.execute(sql, [dead_since]).map(drop)
}

/// The answer to a key that is known; 422 when it came with another request.
fn known(transaction: &Transaction<'_>, owner: &str, change: &Incoming) -> Result<Option<Reply>> {
    let sql = "SELECT request, status, version, body FROM keys WHERE owner = ?1 AND key = ?2";
    let known = transaction.query_row(sql, params![owner, change.key], |row| {
        let reply = Reply {
            status: row.get(1)?,
            version: row.get(2)?,
            body: serde_json::from_str(&row.get::<_, String>(3)?).unwrap_or_default(),
            is_replayed: true,
        };
        Ok((row.get::<_, String>(0)?, reply))
    });
    Ok(known
        .optional()?
        .map(|(request, reply)| match request == change.text() {
            true => reply,
            false => Reply::problem(422, "the idempotency key belongs to another request"),
        }))
}

fn remember(
    transaction: &Transaction<'_>,
    owner: &str,
    change: &Incoming,
    (reply, now): (&Reply, i64),
) -> Result<()> {
    let Some(key) = &change.key else {
        return Ok(());
    };
    transaction
        .execute(
            "INSERT INTO keys (owner, key, request, status, version, body, at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![owner, key, change.text(), reply.status, reply.version, reply.body.to_string(), now],
        )
        .map(drop)
}

fn apply(transaction: &Transaction<'_>, owner: &str, change: &Incoming, now: i64) -> Result<Reply> {
    let record = find(transaction, &change.table, &change.id)?;
    if record.as_ref().is_some_and(|record| record.owner != owner) {
        return Ok(foreign());
    }
    let has_row = record.as_ref().is_some_and(|record| record.row.is_some());
    let is_other = change.if_match.as_ref().is_some_and(|tag| {
        let is_same = record.as_ref().is_some_and(|record| record.is_tagged(tag));
        !(has_row && is_same)
    });
    if is_other || (change.if_none_match && has_row) {
        return Ok(as_it_is(412, &change.id, record.as_ref()));
    }
    let before = record.as_ref().and_then(|record| record.row.as_deref());
    let row = match (change.method.as_str(), &change.row, before) {
        ("PUT", Some(row), _) => Some(row.clone()),
        ("PATCH", Some(fields), Some(before)) => {
            let mut row: Map<String, Value> = serde_json::from_str(before).unwrap_or_default();
            row.extend(fields.clone());
            Some(row)
        }
        ("DELETE", None, Some(_)) => None,
        ("PATCH", Some(_), None) | ("DELETE", None, None) => {
            let status = if record.is_some() { 410 } else { 404 };
            return Ok(as_it_is(status, &change.id, record.as_ref()));
        }
        _ => {
            return Ok(Reply::problem(
                400,
                "a row is a JSON object, and a deletion has none",
            ));
        }
    };
    write(transaction, (owner, now), change, row)?;
    let after = find(transaction, &change.table, &change.id)?;
    Ok(as_it_is(
        if has_row { 200 } else { 201 },
        &change.id,
        after.as_ref(),
    ))
}

fn as_it_is(status: u16, id: &str, record: Option<&Record>) -> Reply {
    match record {
        Some(record) => Reply::record(status, record),
        None => Reply::unknown(status, id),
    }
}

fn write(
    transaction: &Transaction<'_>,
    (owner, now): (&str, i64),
    change: &Incoming,
    row: Option<Map<String, Value>>,
) -> Result<()> {
    let sql = "UPDATE counter SET version = version + 1 RETURNING version";
    let version: i64 = transaction.query_row(sql, [], |row| row.get(0))?;
    let row = row.map(|row| Value::Object(row).to_string());
    let sql = "INSERT INTO records (tbl, id, owner, version, updated_ms, row) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
         ON CONFLICT (tbl, id) DO UPDATE SET version = excluded.version, updated_ms = excluded.updated_ms, row = excluded.row";
    let values = params![change.table, change.id, owner, version, now, row];
    transaction.execute(sql, values).map(drop)
}
