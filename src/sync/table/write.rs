//! What the app writes: checked, committed, queued. It never waits for the network.

use super::change::Operation;
use super::core::{Core, Desk};
use super::event::{ChangedBy, TableEventKind};
use super::guard::lane_of;
use super::local::{LocalStep, Touched};
use super::reconcile::{again, patched};
use super::record::{LocalRecord, Outgoing, OutgoingState, RecordKey, Row, Unsynced};
use crate::State;
use crate::error::{Error, ErrorKind, Result};

/// What the app wants of a record.
#[derive(Debug)]
pub(super) enum Wanted {
    /// This row.
    Upsert(Row),
    /// These fields.
    Patch(Row),
    /// That it goes.
    Delete,
}

/// Who writes the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    Engine,
    /// The app has written it in a way of its own.
    App,
}

impl Core {
    /// Commits what the app wants, and queues it.
    pub(super) async fn write(&self, key: RecordKey, wanted: Wanted, writer: Writer) -> Result<()> {
        self.check_open()?;
        let desk = self.desk(&key.table)?;
        lane_of(&key)?;
        let turn = desk.turn(&key.id).await;
        self.check_open()?;
        let before = self.read(&key).await?;
        self.check(&before, &wanted)?;
        let (after, mut touched) = self.changed(before.clone(), wanted).await?;
        if writer == Writer::App {
            touched = Touched::Nothing;
        }
        if let Err(error) = self.commit_and_queue(after.clone(), touched).await {
            self.take_back(before, &after).await?;
            return Err(error);
        }
        drop(turn);
        let id = key.id.clone();
        self.hub.tell(
            &key,
            TableEventKind::Changed {
                id,
                by: ChangedBy::App,
            },
        );
        Ok(())
    }

    fn check(&self, record: &LocalRecord, wanted: &Wanted) -> Result<()> {
        let key = &record.key;
        if let Some(row) = &record.row {
            self.guards.check_owner(key, row)?;
        }
        match (wanted, &record.row) {
            (Wanted::Upsert(row), _) => self.guards.check(key, row),
            (Wanted::Patch(fields), Some(row)) => {
                let names: Vec<String> = fields.keys().cloned().collect();
                self.guards.check(key, &patched(row, fields, &names))
            }
            (Wanted::Delete, Some(_)) => Ok(()),
            (Wanted::Patch(_) | Wanted::Delete, None) => {
                let text = format!("there is no record {key}");
                Err(Error::new(ErrorKind::NotFound, text))
            }
        }
    }

    /// The record after what the app wants. The change holds what the ones before it wanted, so that it may take their place.
    async fn changed(
        &self,
        mut record: LocalRecord,
        wanted: Wanted,
    ) -> Result<(LocalRecord, Touched)> {
        let now = self.hub.now();
        let mut unsynced = self.open_changes(&record).await?;
        let newest = record.meta.newest().cloned();
        let (mut operation, row, mut fields, touched) = applied(record.row.take(), wanted);
        match &newest {
            Some(newest) if operation == Operation::Patch => {
                if newest.operation == Operation::Patch {
                    fields.extend(newest.fields.iter().cloned());
                    fields.sort_unstable();
                    fields.dedup();
                } else {
                    (operation, fields) = (Operation::Upsert, Vec::new());
                }
            }
            _ => {}
        }
        let is_new = match &newest {
            Some(newest) => newest.is_new,
            None => {
                record.meta.deleted_at.is_some()
                    || (record.meta.seen == 0 && record.meta.version.is_none())
            }
        };
        let mut change = Outgoing::new(operation, row.clone(), now);
        change.key = self.new_key();
        change.fields = fields;
        change.base_version.clone_from(&record.meta.version);
        change.is_new = is_new;
        unsynced.changes.push(change);
        record.meta.unsynced = Some(unsynced);
        record.meta.revision += 1;
        record.meta.deleted_at = if row.is_none() { Some(now) } else { None };
        record.row = row;
        Ok((record, touched))
    }

    /// What is on its way already, without what the vault has dropped for something newer.
    async fn open_changes(&self, record: &LocalRecord) -> Result<Unsynced> {
        let Some(unsynced) = &record.meta.unsynced else {
            return Ok(Unsynced {
                base: record.row.clone(),
                changes: Vec::new(),
            });
        };
        let mut open = unsynced.clone();
        open.changes.clear();
        for change in &unsynced.changes {
            let action = self.action(change).await?;
            let is_gone = |state: &State| {
                matches!(
                    state,
                    State::Superseded { .. } | State::Cancelled { .. } | State::Expired { .. }
                )
            };
            if action.is_some_and(|action| !is_gone(&action.state)) {
                open.changes.push(change.clone());
            }
        }
        Ok(open)
    }

    /// The change could not be queued: as if it had never been written.
    async fn take_back(&self, before: LocalRecord, after: &LocalRecord) -> Result<()> {
        let kept = self.read(&after.key).await?;
        let ours = after.meta.newest().map(|change| &change.key);
        if kept.meta.newest().map(|change| &change.key) != ours {
            return Ok(());
        }
        let is_unknown = before == LocalRecord::unknown(before.key.clone());
        let mut step = LocalStep::new();
        match is_unknown {
            true => step.removes.push(before.key),
            false => step = step.write(before, Touched::Row),
        }
        self.local.commit(step).await
    }

    /// The change of a record that was refused, once more, as a new action.
    pub(super) async fn resend(&self, desk: &Desk, key: &RecordKey) -> Result<()> {
        let _turn = desk.turn(&key.id).await;
        let record = self.read(key).await?;
        match record.meta.newest() {
            Some(newest) if newest.state != OutgoingState::Queued => {}
            _ => return Ok(()),
        }
        match again(&record, self.new_key()) {
            Some((record, touched)) => self.commit_and_queue(record, touched).await,
            None => Ok(()),
        }
    }
}

fn applied(row: Option<Row>, wanted: Wanted) -> (Operation, Option<Row>, Vec<String>, Touched) {
    match wanted {
        Wanted::Upsert(row) => (Operation::Upsert, Some(row), Vec::new(), Touched::Row),
        Wanted::Delete => (Operation::Delete, None, Vec::new(), Touched::Row),
        Wanted::Patch(from) => {
            let fields: Vec<String> = from.keys().cloned().collect();
            let row = patched(&row.unwrap_or_default(), &from, &fields);
            (
                Operation::Patch,
                Some(row),
                fields.clone(),
                Touched::Fields(fields),
            )
        }
    }
}
