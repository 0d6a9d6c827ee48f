//! Keys to rows and back. The record, the body and the answer of an action are in tables of their own, with columns for
//! people; everything else is one ordered table of keys. What counts is the frames: the columns are read off them.

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Params, Row, named_params, params};

use super::connect::says;
use crate::action::{Frame, Record, State, StoredRequest, WireState};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::kv::Batch;

const RECORD: u8 = b'a';
const BIRTH: u8 = b'b';
const ANSWER: u8 = b'p';

/// Past the last id.
const PAST_IDS: [u8; 17] = [u8::MAX; 17];

/// Where a key leads.
enum Slot<'k> {
    /// The record of an action, in its newest form.
    Record(&'k [u8]),
    /// The same record, and the body behind it.
    Birth(&'k [u8]),
    Answer(&'k [u8]),
    Other,
}

impl<'k> Slot<'k> {
    fn of(key: &'k [u8]) -> Self {
        match key.split_first() {
            Some((&RECORD, id)) => Self::Record(id),
            Some((&BIRTH, id)) => Self::Birth(id),
            Some((&ANSWER, id)) => Self::Answer(id),
            _ => Self::Other,
        }
    }
}

pub(super) fn get(connection: &Connection, key: &[u8]) -> Result<Option<Bytes>> {
    match Slot::of(key) {
        Slot::Record(id) => one(
            connection,
            "SELECT record FROM syncvault_actions WHERE id = ?1",
            id,
        ),
        Slot::Birth(id) => one(
            connection,
            "SELECT record, frame FROM syncvault_actions JOIN syncvault_bodies ON action = no WHERE id = ?1",
            id,
        ),
        Slot::Answer(id) => one(
            connection,
            "SELECT frame FROM syncvault_actions JOIN syncvault_answers ON action = no WHERE id = ?1",
            id,
        ),
        Slot::Other => other(connection, key),
    }
}

fn other(connection: &Connection, key: &[u8]) -> Result<Option<Bytes>> {
    let sql = "SELECT value, crc FROM syncvault_kv WHERE key = ?1";
    let found = connection.prepare_cached(sql).and_then(|mut statement| {
        let mut rows = statement.query([key])?;
        let read = |row: &Row<'_>| Ok((Bytes::copy_from_slice(blob(row, 0)?), row.get(1)?));
        rows.next()?.map(read).transpose()
    });
    let found: Option<(Bytes, i64)> = found.map_err(says("read"))?;
    found
        .map(|(value, crc)| checked(key, value, crc))
        .transpose()
}

/// These rows are no frames: their checksum stands beside them.
pub(super) fn crc_of(key: &[u8], value: &[u8]) -> i64 {
    i64::from(crc32c::crc32c_append(crc32c::crc32c(key), value))
}

fn checked(key: &[u8], value: Bytes, crc: i64) -> Result<Bytes> {
    match crc == crc_of(key, &value) {
        true => Ok(value),
        false => Err(Error::new(
            ErrorKind::Corrupt,
            "a row of the database fails its checksum",
        )),
    }
}

fn one(connection: &Connection, sql: &str, key: &[u8]) -> Result<Option<Bytes>> {
    let found = connection.prepare_cached(sql).and_then(|mut statement| {
        let mut rows = statement.query([key])?;
        rows.next()?.map(|row| joined(row, 0)).transpose()
    });
    found.map_err(says("read"))
}

/// The bytes of all columns from `first` on, one behind the other.
fn joined(row: &Row<'_>, first: usize) -> rusqlite::Result<Bytes> {
    let columns = row.as_ref().column_count();
    if first + 1 == columns {
        return blob(row, first).map(Bytes::copy_from_slice);
    }
    let mut bytes = Vec::new();
    for column in first..columns {
        bytes.extend_from_slice(blob(row, column)?);
    }
    Ok(bytes.into())
}

/// A value of another type was put there by somebody else: it reads as what it is, and fails its checksum.
fn blob<'r>(row: &'r Row<'_>, column: usize) -> rusqlite::Result<&'r [u8]> {
    Ok(match row.get_ref(column)? {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes,
        _ => &[],
    })
}

pub(super) fn scan(
    connection: &Connection,
    from: &[u8],
    to: &[u8],
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>> {
    let mut found = Vec::new();
    for part in PARTS {
        let start = from.max(part.start);
        let end = part.end.map_or(to, |end| to.min(end));
        if start < end && found.len() < limit {
            found.extend(part.read(connection, start, end, limit - found.len())?);
        }
    }
    Ok(found)
}

/// A stretch of the keys that lies in one table.
struct Part {
    start: &'static [u8],
    end: Option<&'static [u8]>,
    /// Its rows by id; nothing = by key.
    by_id: Option<&'static str>,
}

const PARTS: [Part; 6] = [
    Part {
        start: b"",
        end: Some(b"a"),
        by_id: None,
    },
    Part {
        start: b"a",
        end: Some(b"b"),
        by_id: Some(
            "SELECT id, record FROM syncvault_actions \
             WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3",
        ),
    },
    Part {
        start: b"b",
        end: Some(b"c"),
        by_id: Some(
            "SELECT id, record, frame FROM syncvault_actions JOIN syncvault_bodies ON action = no \
             WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3",
        ),
    },
    Part {
        start: b"c",
        end: Some(b"p"),
        by_id: None,
    },
    Part {
        start: b"p",
        end: Some(b"q"),
        by_id: Some(
            "SELECT id, frame FROM syncvault_actions JOIN syncvault_answers ON action = no \
             WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3",
        ),
    },
    Part {
        start: b"q",
        end: None,
        by_id: None,
    },
];

impl Part {
    fn read(
        &self,
        connection: &Connection,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let (sql, prefix) = match self.by_id {
            Some(sql) => (sql, self.start),
            None => return others(connection, (start, end), limit),
        };
        let start = start.strip_prefix(prefix).unwrap_or_default();
        let end = end.strip_prefix(prefix).unwrap_or(&PAST_IDS);
        let read = connection.prepare_cached(sql).and_then(|mut statement| {
            let mut found = Vec::new();
            let mut rows = statement.query(params![start, end, limit])?;
            while let Some(row) = rows.next()? {
                let key = [prefix, blob(row, 0)?].concat();
                found.push((key.into(), joined(row, 1)?));
            }
            Ok(found)
        });
        read.map_err(says("read"))
    }
}

fn others(
    connection: &Connection,
    (start, end): (&[u8], &[u8]),
    limit: i64,
) -> Result<Vec<(Bytes, Bytes)>> {
    let sql = "SELECT key, value, crc FROM syncvault_kv \
               WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3";
    let read = connection.prepare_cached(sql).and_then(|mut statement| {
        let rows = statement.query_map(params![start, end, limit], |row| {
            let own = |column| blob(row, column).map(Bytes::copy_from_slice);
            Ok((own(0)?, own(1)?, row.get(2)?))
        })?;
        rows.collect::<rusqlite::Result<Vec<(Bytes, Bytes, i64)>>>()
    });
    let rows = read.map_err(says("read"))?.into_iter();
    rows.map(|(key, value, crc)| {
        let value = checked(&key, value, crc)?;
        Ok((key, value))
    })
    .collect()
}

/// Writes a whole batch, in a transaction of the caller.
pub(super) fn write(connection: &Connection, batch: &Batch) -> Result<()> {
    for (key, value) in batch {
        match (Slot::of(key), value) {
            (Slot::Record(id), Some(frame)) => put_record(connection, id, frame.clone())?,
            (Slot::Record(id), None) => forget(connection, id)?,
            (Slot::Birth(id), Some(value)) => {
                let (_, length) = Frame::decode_prefix(value)?;
                let is_rewritten = batch.get(&[&[RECORD], id].concat()).is_some();
                if !is_rewritten {
                    put_record(connection, id, value.slice(..length))?;
                }
                put_frame(connection, PUT_BODY, id, &value[length..])?;
            }
            (Slot::Birth(id), None) => run(connection, DELETE_BODY, [id])?,
            (Slot::Answer(id), Some(frame)) => put_frame(connection, PUT_ANSWER, id, frame)?,
            (Slot::Answer(id), None) => run(connection, DELETE_ANSWER, [id])?,
            (Slot::Other, Some(value)) => {
                let crc = crc_of(key, value);
                run(connection, PUT, params![key, &value[..], crc])?;
            }
            (Slot::Other, None) => run(connection, DELETE, [key])?,
        }
    }
    Ok(())
}

const PUT: &str = "INSERT INTO syncvault_kv (key, value, crc) VALUES (?1, ?2, ?3) \
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value, crc = excluded.crc";
const DELETE: &str = "DELETE FROM syncvault_kv WHERE key = ?1";
const PUT_BODY: &str = "INSERT OR REPLACE INTO syncvault_bodies (action, frame) \
                        SELECT no, ?2 FROM syncvault_actions WHERE id = ?1";
const DELETE_BODY: &str = "DELETE FROM syncvault_bodies \
                           WHERE action = (SELECT no FROM syncvault_actions WHERE id = ?1)";
const PUT_ANSWER: &str = "INSERT OR REPLACE INTO syncvault_answers (action, frame) \
                          SELECT no, ?2 FROM syncvault_actions WHERE id = ?1";
const DELETE_ANSWER: &str = "DELETE FROM syncvault_answers \
                             WHERE action = (SELECT no FROM syncvault_actions WHERE id = ?1)";
const DELETE_ACTION: &str = "DELETE FROM syncvault_actions WHERE id = ?1";
const PUT_ACTION: &str = "\
    INSERT INTO syncvault_actions (
        id, seq, lane, origin, principal, key, state, wire, attempts, priority, due, created, expires, last_attempt,
        settled, reason, last_status, last_error, method, url, tag, body_bytes, answer_bytes, record
    ) VALUES (
        :id, :seq, :lane, :origin, :principal, :key, :state, :wire, :attempts, :priority, :due, :created, :expires,
        :last_attempt, :settled, :reason, :last_status, :last_error, :method, :url, :tag, :body_bytes, :answer_bytes,
        :record
    ) ON CONFLICT (id) DO UPDATE SET
        seq = excluded.seq, lane = excluded.lane, origin = excluded.origin, principal = excluded.principal,
        key = excluded.key, state = excluded.state, wire = excluded.wire, attempts = excluded.attempts,
        priority = excluded.priority, due = excluded.due, created = excluded.created, expires = excluded.expires,
        last_attempt = excluded.last_attempt, settled = excluded.settled, reason = excluded.reason,
        last_status = excluded.last_status, last_error = excluded.last_error, method = excluded.method,
        url = excluded.url, tag = excluded.tag, body_bytes = excluded.body_bytes,
        answer_bytes = excluded.answer_bytes, record = excluded.record";

fn run(connection: &Connection, sql: &str, values: impl Params) -> Result<()> {
    execute(connection, sql, values).map(|_| ())
}

/// Tells how many rows were written.
fn execute(connection: &Connection, sql: &str, values: impl Params) -> Result<usize> {
    let ran = connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(values));
    ran.map_err(says("write"))
}

/// An action goes whole: with its body and its answer.
fn forget(connection: &Connection, id: &[u8]) -> Result<()> {
    for sql in [DELETE_BODY, DELETE_ANSWER, DELETE_ACTION] {
        run(connection, sql, [id])?;
    }
    Ok(())
}

fn put_frame(connection: &Connection, sql: &str, id: &[u8], frame: &[u8]) -> Result<()> {
    match execute(connection, sql, params![id, frame])? {
        1 => Ok(()),
        _ => Err(Error::new(
            ErrorKind::Storage,
            "a body or an answer has no action that it belongs to",
        )),
    }
}

fn put_record(connection: &Connection, id: &[u8], frame: Bytes) -> Result<()> {
    let record = Record::decode(frame.clone())?;
    // Sealed content has no method and no URL that anybody may read.
    let request = StoredRequest::decode(&record.content).ok();
    let (settled, reason) = match &record.state {
        State::Queued { .. } | State::InFlight { .. } => (None, None),
        State::Delivered { at, .. }
        | State::Cancelled { at }
        | State::Expired { at }
        | State::Superseded { at } => (Some(*at), None),
        State::Dead { reason, at } => (Some(*at), Some(reason.to_string())),
    };
    let wire = match record.wire {
        WireState::NeverSent => "never_sent",
        WireState::MaybeSent => "maybe_sent",
        WireState::Answered => "answered",
    };
    let values = named_params! {
        ":id": id,
        ":seq": number(record.seq),
        ":lane": record.lane.as_str(),
        ":origin": record.origin.as_str(),
        ":principal": record.principal,
        ":key": record.key,
        ":state": record.state.name(),
        ":wire": wire,
        ":attempts": record.attempts,
        ":priority": record.priority,
        ":due": record.due().map(time),
        ":created": time(record.created),
        ":expires": record.expires.map(time),
        ":last_attempt": record.last_attempt.map(time),
        ":settled": settled.map(time),
        ":reason": reason,
        ":last_status": record.last_status,
        ":last_error": record.last_error,
        ":method": request.as_ref().map(|request| request.method.as_str()),
        ":url": request.as_ref().map(|request| request.url.as_str()),
        ":tag": request.as_ref().and_then(|request| request.tag.as_deref()),
        ":body_bytes": number(record.body_bytes),
        ":answer_bytes": number(record.answer_bytes),
        ":record": &frame[..],
    };
    run(connection, PUT_ACTION, values)
}

fn time(at: Timestamp) -> i64 {
    number(at.as_millis())
}

/// The columns are for people: the end of time will do for what is later.
fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
