//! What the word of a server means for a record: of a row in a page, of an answer to a push. Values in, values out.

use std::cmp::Ordering;

use super::change::{Change, Operation};
use super::conflict::{Decision, TableConflict};
use super::local::Touched;
use super::record::{LocalRecord, Outgoing, OutgoingState, Row, Unsynced};
use super::remote::RemoteRow;
use super::same::{has_arrived, same, same_row};
use super::version::Version;
use crate::clock::Timestamp;

/// What a row of the server means for a record.
#[derive(Debug, PartialEq)]
pub(super) enum Met {
    /// Nothing new.
    Known,
    /// The record as it is from now on; nobody is to be asked.
    Taken(Box<LocalRecord>, Touched),
    /// Both sides changed it.
    Conflict(Box<TableConflict>),
}

/// A row of the server meets the record of the device.
pub(super) fn meet(
    record: &LocalRecord,
    server: &RemoteRow,
    server_fields: &[String],
    now: Timestamp,
) -> Met {
    if is_known(record, server) {
        return Met::Known;
    }
    let Some(unsynced) = &record.meta.unsynced else {
        let is_same = record.row.is_none() == server.row.is_none() && record.row == server.row;
        let mut record = record.clone();
        stand_on(&mut record, server, now);
        record.row.clone_from(&server.row);
        let touched = if is_same {
            Touched::Nothing
        } else {
            Touched::Row
        };
        return Met::Taken(Box::new(record), touched);
    };
    match arrived(unsynced, server, server_fields) {
        Arrived::Newest => {
            let mut record = moved_on(record, server);
            record.row.clone_from(&server.row);
            Met::Taken(Box::new(record), Touched::Row)
        }
        Arrived::Nothing
            if !same_row(unsynced.base.as_ref(), server.row.as_ref(), server_fields) =>
        {
            Met::Conflict(Box::new(conflict(record, unsynced, server)))
        }
        Arrived::Nothing | Arrived::Alone => {
            Met::Taken(Box::new(moved_on(record, server)), Touched::Nothing)
        }
        Arrived::Under(base) => {
            let unsynced = Unsynced {
                base,
                changes: unsynced.changes.clone(),
            };
            Met::Conflict(Box::new(conflict(record, &unsynced, server)))
        }
    }
}

/// Which of our own changes a row of the server shows.
#[derive(Debug, PartialEq)]
enum Arrived {
    Nothing,
    /// The newest: the row is ours, and what others added to it.
    Newest,
    /// An earlier one, and nothing else: the later ones go on top of it.
    Alone,
    /// An earlier one that looked like this, and somebody wrote over it since: the later ones were not made on that.
    Under(Option<Row>),
}

fn arrived(unsynced: &Unsynced, server: &RemoteRow, server_fields: &[String]) -> Arrived {
    let row = server.row.as_ref();
    let mut changes = unsynced.changes.iter();
    let Some(at) = changes.rposition(|change| has_arrived(change, row, server_fields)) else {
        return Arrived::Nothing;
    };
    let sent = &unsynced.changes[at].row;
    match at + 1 == unsynced.changes.len() {
        true => Arrived::Newest,
        false if same_row(sent.as_ref(), row, server_fields) => Arrived::Alone,
        false => Arrived::Under(sent.clone()),
    }
}

/// True for what is no newer than what the device is in step with.
fn is_known(record: &LocalRecord, server: &RemoteRow) -> bool {
    let versions = record.meta.version.as_ref().zip(server.version.as_ref());
    match versions.map(|(ours, theirs)| theirs.compare(ours)) {
        Some(Some(order)) => order != Ordering::Greater,
        _ => false,
    }
}

/// The record with its base moved to the server's row; what the app changed stays.
pub(super) fn moved_on(record: &LocalRecord, server: &RemoteRow) -> LocalRecord {
    let mut record = record.clone();
    record.meta.version.clone_from(&server.version);
    record.meta.updated_at = server.updated_at;
    if let Some(unsynced) = &mut record.meta.unsynced {
        base_on(unsynced, server);
    }
    record
}

/// What the app changed is to be pushed over this row.
fn base_on(unsynced: &mut Unsynced, server: &RemoteRow) {
    unsynced.base.clone_from(&server.row);
    if let Some(newest) = unsynced.changes.last_mut() {
        newest.is_new = server.row.is_none();
    }
}

pub(super) fn conflict(
    record: &LocalRecord,
    unsynced: &Unsynced,
    server: &RemoteRow,
) -> TableConflict {
    let newest = unsynced.changes.last();
    TableConflict {
        key: record.key.clone(),
        base: base_of(unsynced, server.row.as_ref()),
        local: record.row.clone(),
        server: server.row.clone(),
        local_version: record.meta.version.clone(),
        server_version: server.version.clone(),
        local_changed_at: newest.map_or(Timestamp::EPOCH, |change| change.changed_at),
        server_updated_at: server.updated_at,
    }
}

/// The row that both sides started from. A field of the server's that holds what an earlier change of ours sent is our own work,
/// whatever others did to the fields beside it: what came later was made on that.
fn base_of(unsynced: &Unsynced, server: Option<&Row>) -> Option<Row> {
    let (Some(server), [earlier @ .., _]) = (server, &unsynced.changes[..]) else {
        return unsynced.base.clone();
    };
    let mut base = unsynced.base.clone();
    for (change, row) in earlier
        .iter()
        .filter_map(|change| Some((change, change.row.as_ref()?)))
    {
        let is_sent = |field: &String| change.fields.is_empty() || change.fields.contains(field);
        for (field, ours) in row.iter().filter(|(field, _)| is_sent(field)) {
            if server.get(field).is_some_and(|theirs| same(ours, theirs)) {
                base.get_or_insert_default()
                    .insert(field.clone(), ours.clone());
            }
        }
    }
    base
}

/// The record is in step with this row from now on, but for its own row.
fn stand_on(record: &mut LocalRecord, server: &RemoteRow, now: Timestamp) {
    record.meta.version.clone_from(&server.version);
    record.meta.updated_at = server.updated_at;
    record.meta.deleted_at = match server.row {
        Some(_) => None,
        None => record.meta.deleted_at.or(Some(now)),
    };
    record.meta.unsynced = None;
}

/// The server took the change at `at`, and had `server` then. When the device knows something newer by now, that stays.
pub(super) fn accepted(
    record: &LocalRecord,
    at: usize,
    server: &RemoteRow,
    now: Timestamp,
) -> (LocalRecord, Touched) {
    let mut record = record.clone();
    let Some(mut unsynced) = record.meta.unsynced.take() else {
        return (record, Touched::Nothing);
    };
    unsynced.changes.drain(..=at);
    let newer = is_known(&record, server).then(|| RemoteRow {
        id: server.id.clone(),
        version: record.meta.version.clone(),
        updated_at: record.meta.updated_at,
        row: unsynced.base.clone(),
    });
    let server = match &newer {
        Some(newer) if record.meta.version != server.version => newer,
        _ => server,
    };
    if unsynced.changes.is_empty() {
        stand_on(&mut record, server, now);
        let touched = if record.row == server.row {
            Touched::Nothing
        } else {
            Touched::Row
        };
        record.row.clone_from(&server.row);
        return (record, touched);
    }
    base_on(&mut unsynced, server);
    record.meta.unsynced = Some(unsynced);
    record.meta.version.clone_from(&server.version);
    record.meta.updated_at = server.updated_at;
    (record, Touched::Nothing)
}

/// The same change once more, on the version that the device is in step with now.
pub(super) fn again(record: &LocalRecord, key: String) -> Option<(LocalRecord, Touched)> {
    let mut record = record.clone();
    let unsynced = record.meta.unsynced.as_mut()?;
    let newest = unsynced.changes.last()?.clone();
    let is_patch = newest.operation == Operation::Patch && !newest.is_new;
    let operation = match newest.row {
        Some(_) if is_patch => Operation::Patch,
        Some(_) => Operation::Upsert,
        None => Operation::Delete,
    };
    unsynced.changes = vec![Outgoing {
        key,
        operation,
        base_version: record.meta.version.clone(),
        rounds: newest.rounds.saturating_add(1),
        state: OutgoingState::Queued,
        ..newest
    }];
    Some((record, Touched::Nothing))
}

/// A conflict was decided: the record from now on, and whether it has something to push.
pub(super) fn decided(
    record: &LocalRecord,
    server: &RemoteRow,
    decision: Decision,
    (key, now): (String, Timestamp),
) -> (LocalRecord, Touched) {
    let mut after = record.clone();
    let newest = record.meta.newest().cloned();
    stand_on(&mut after, server, now);
    let row = match (decision, newest.as_ref()) {
        (Decision::Server, _) | (_, None) => server.row.clone(),
        (Decision::Merged(row), _) => Some(row),
        (Decision::Local, Some(newest)) => local_side(newest, server.row.as_ref()),
    };
    let touched = if record.row == row {
        Touched::Nothing
    } else {
        Touched::Row
    };
    after.row.clone_from(&row);
    let Some(newest) = newest.filter(|_| row != server.row) else {
        return (after, touched);
    };
    let operation = match &row {
        None => Operation::Delete,
        // A patch that won sends its fields; anything else is a whole row by now.
        Some(_)
            if newest.operation == Operation::Patch
                && server.row.is_some()
                && is_patched(&newest, server.row.as_ref(), row.as_ref()) =>
        {
            Operation::Patch
        }
        Some(_) => Operation::Upsert,
    };
    if row.is_some() {
        after.meta.deleted_at = None;
    } else {
        after.meta.deleted_at = after.meta.deleted_at.or(Some(now));
    }
    let change = Outgoing {
        key,
        operation,
        row,
        fields: if operation == Operation::Patch {
            newest.fields
        } else {
            Vec::new()
        },
        base_version: server.version.clone(),
        is_new: server.row.is_none(),
        rounds: newest.rounds.saturating_add(1),
        state: OutgoingState::Queued,
        changed_at: newest.changed_at,
    };
    after.meta.unsynced = Some(Unsynced {
        base: server.row.clone(),
        changes: vec![change],
    });
    (after, touched)
}

/// The app's side on top of the server's: a patch changes its fields only.
fn local_side(newest: &Outgoing, server: Option<&Row>) -> Option<Row> {
    let ours = newest.row.as_ref()?;
    match (newest.operation, server) {
        (Operation::Patch, Some(theirs)) => Some(patched(theirs, ours, &newest.fields)),
        _ => Some(ours.clone()),
    }
}

/// A row with these fields of another.
pub(super) fn patched(row: &Row, from: &Row, fields: &[String]) -> Row {
    let mut row = row.clone();
    for field in fields {
        match from.get(field) {
            Some(value) => drop(row.insert(field.clone(), value.clone())),
            None => drop(row.remove(field)),
        }
    }
    row
}

fn is_patched(newest: &Outgoing, server: Option<&Row>, row: Option<&Row>) -> bool {
    let Some(((server, row), ours)) = server.zip(row).zip(newest.row.as_ref()) else {
        return false;
    };
    patched(server, ours, &newest.fields) == *row
}

/// A change as the dialect of the server is asked for it.
pub(super) fn change_of(record: &LocalRecord, outgoing: &Outgoing) -> Change {
    let row = match (outgoing.operation, &outgoing.row) {
        (Operation::Delete, _) | (_, None) => Row::new(),
        (Operation::Upsert, Some(row)) => row.clone(),
        (Operation::Patch, Some(row)) => {
            let fields = outgoing.fields.iter();
            let value = |field: &String| row.get(field).cloned().unwrap_or_default();
            fields.map(|field| (field.clone(), value(field))).collect()
        }
    };
    Change {
        key: record.key.clone(),
        operation: outgoing.operation,
        row,
        base_version: outgoing.base_version.clone(),
        is_new: outgoing.is_new,
        changed_at: outgoing.changed_at,
        idempotency_key: outgoing.key.clone(),
    }
}

/// What the server has after it took a change, as far as it told: else what was sent, and the version before it.
pub(super) fn after_push(
    record: &LocalRecord,
    change: &Outgoing,
    told: (Option<Version>, Option<Timestamp>, Option<Row>),
) -> RemoteRow {
    let (version, updated_at, row) = told;
    let row = match change.operation {
        Operation::Delete => None,
        _ => row.or_else(|| change.row.clone()),
    };
    RemoteRow {
        id: record.key.id.clone(),
        version: version.or_else(|| record.meta.version.clone()),
        updated_at: updated_at.or(record.meta.updated_at),
        row,
    }
}
