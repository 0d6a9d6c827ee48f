//! Records in memory: for tests, and for apps whose data does not outlive the process either.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::local::{
    LocalFuture, LocalStep, LocalStore, Quarantined, RecordPage, RecordWrite, TableSpec,
    TableState, Touched,
};
use super::record::{LocalRecord, RecordKey, RecordMeta, Row};
use crate::clock::Timestamp;
use crate::sync::{Checkpoint, CheckpointKey, ItemId};

/// Records in memory. Clones share them: an engine that is built anew over a clone finds what was there.
#[derive(Clone, Debug, Default)]
pub struct MemoryLocal(Arc<Mutex<Shelf>>);

#[derive(Clone, Debug, Default)]
struct Shelf {
    records: BTreeMap<RecordKey, (Option<Row>, RecordMeta)>,
    /// Ids of records whose description was damaged by a test.
    damaged: BTreeSet<RecordKey>,
    states: BTreeMap<String, TableState>,
    checkpoints: BTreeMap<CheckpointKey, Checkpoint>,
    quarantine: Vec<Quarantined>,
    held: BTreeMap<(String, RecordKey), RecordMeta>,
}

impl MemoryLocal {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a record unreadable, for tests of what happens then.
    pub fn damage(&self, key: &RecordKey) {
        self.shelf().damaged.insert(key.clone());
    }

    fn page(
        &self,
        (table, after, limit): (&str, Option<&ItemId>, usize),
        is_wanted: impl Fn(&Option<Row>, &RecordMeta) -> bool,
    ) -> RecordPage {
        let shelf = self.shelf();
        let first = RecordKey::new(table, after.map_or_else(|| ItemId::new(""), ItemId::clone));
        let start = match after {
            Some(_) => Bound::Excluded(first),
            None => Bound::Included(first),
        };
        let mut page = RecordPage::default();
        let in_table = shelf.records.range((start, Bound::Unbounded));
        for (key, (row, meta)) in in_table.take_while(|(key, _)| key.table == table) {
            if page.records.len() + page.damaged.len() == limit {
                break;
            }
            if shelf.damaged.contains(key) {
                page.damaged.push(key.id.clone());
            } else if is_wanted(row, meta) {
                page.records.push(record(key, row, meta));
            }
        }
        page
    }
}

fn record(key: &RecordKey, row: &Option<Row>, meta: &RecordMeta) -> LocalRecord {
    LocalRecord {
        key: key.clone(),
        row: row.clone(),
        meta: meta.clone(),
    }
}

impl Shelf {
    fn commit(&mut self, step: LocalStep) {
        for RecordWrite { record, touched } in step.writes {
            let LocalRecord { key, row, meta } = record;
            self.damaged.remove(&key);
            let kept = self.records.entry(key).or_default();
            kept.0 = match touched {
                Touched::Row => row,
                Touched::Fields(fields) => fielded(kept.0.take(), row, fields),
                Touched::Nothing => kept.0.take(),
            };
            kept.1 = meta;
        }
        for key in step.removes {
            self.records.remove(&key);
            self.damaged.remove(&key);
        }
        self.states.extend(step.state);
        let checkpoint = step
            .checkpoint
            .map(|checkpoint| (checkpoint.key.clone(), checkpoint));
        self.checkpoints.extend(checkpoint);
        self.quarantine.extend(step.quarantine);
        for (user, record) in step.hold {
            self.held.insert((user, record.key), record.meta);
        }
        for at in step.release {
            self.held.remove(&at);
        }
    }
}

/// The row that was there, with these fields of another.
fn fielded(before: Option<Row>, after: Option<Row>, fields: Vec<String>) -> Option<Row> {
    let (mut row, mut after) = (before.unwrap_or_default(), after.unwrap_or_default());
    for field in fields {
        match after.remove(&field) {
            Some(value) => drop(row.insert(field, value)),
            None => drop(row.remove(&field)),
        }
    }
    Some(row)
}

impl LocalStore for MemoryLocal {
    fn open<'a>(&'a self, _tables: &'a [TableSpec]) -> LocalFuture<'a, ()> {
        Box::pin(ready(Ok(())))
    }

    fn read<'a>(&'a self, table: &'a str, ids: &'a [ItemId]) -> LocalFuture<'a, RecordPage> {
        let shelf = self.shelf();
        let mut page = RecordPage::default();
        for id in ids {
            let key = RecordKey::new(table, id);
            if shelf.damaged.contains(&key) {
                page.damaged.push(id.clone());
            } else if let Some((row, meta)) = shelf.records.get(&key) {
                page.records.push(record(&key, row, meta));
            }
        }
        Box::pin(ready(Ok(page)))
    }

    fn list<'a>(
        &'a self,
        table: &'a str,
        after: Option<&'a ItemId>,
        limit: usize,
    ) -> LocalFuture<'a, RecordPage> {
        let page = self.page((table, after, limit), |row, _| row.is_some());
        Box::pin(ready(Ok(page)))
    }

    fn unsynced<'a>(
        &'a self,
        table: &'a str,
        after: Option<&'a ItemId>,
        limit: usize,
    ) -> LocalFuture<'a, RecordPage> {
        let page = self.page((table, after, limit), |_, meta| meta.is_unsynced());
        Box::pin(ready(Ok(page)))
    }

    fn unsynced_count<'a>(&'a self, table: &'a str) -> LocalFuture<'a, u64> {
        let page = self.page((table, None, usize::MAX), |_, meta| meta.is_unsynced());
        Box::pin(ready(Ok(page.records.len() as u64)))
    }

    fn unseen<'a>(
        &'a self,
        table: &'a str,
        generation: u64,
        after: Option<&'a ItemId>,
        limit: usize,
    ) -> LocalFuture<'a, RecordPage> {
        let page = self.page((table, after, limit), |_, meta| meta.seen < generation);
        Box::pin(ready(Ok(page)))
    }

    fn tombstones<'a>(
        &'a self,
        table: &'a str,
        before: Timestamp,
        limit: usize,
    ) -> LocalFuture<'a, RecordPage> {
        let page = self.page((table, None, limit), |_, meta| {
            !meta.is_unsynced() && meta.deleted_at.is_some_and(|at| at < before)
        });
        Box::pin(ready(Ok(RecordPage::new(page.records))))
    }

    fn commit(&self, step: LocalStep) -> LocalFuture<'_, ()> {
        self.shelf().commit(step);
        Box::pin(ready(Ok(())))
    }

    fn state<'a>(&'a self, table: &'a str) -> LocalFuture<'a, TableState> {
        let state = self.shelf().states.get(table).cloned();
        Box::pin(ready(Ok(state.unwrap_or_default())))
    }

    fn tables(&self) -> LocalFuture<'_, Vec<String>> {
        let shelf = self.shelf();
        let records = shelf.records.keys().map(|key| &key.table);
        let quarantine = shelf.quarantine.iter().map(|set_aside| &set_aside.table);
        let all: BTreeSet<&String> = records
            .chain(shelf.states.keys())
            .chain(quarantine)
            .collect();
        Box::pin(ready(Ok(all.into_iter().cloned().collect())))
    }

    fn checkpoint<'a>(&'a self, key: &'a CheckpointKey) -> LocalFuture<'a, Option<Checkpoint>> {
        Box::pin(ready(Ok(self.shelf().checkpoints.get(key).cloned())))
    }

    fn remove_checkpoint<'a>(&'a self, key: &'a CheckpointKey) -> LocalFuture<'a, ()> {
        self.shelf().checkpoints.remove(key);
        Box::pin(ready(Ok(())))
    }

    fn held<'a>(&'a self, user: &'a str, limit: usize) -> LocalFuture<'a, Vec<LocalRecord>> {
        let shelf = self.shelf();
        let held = shelf.held.iter().filter(|((whose, _), _)| whose == user);
        let records = held.map(|((_, key), meta)| record(key, &None, meta));
        let records = records.take(limit).collect();
        Box::pin(ready(Ok(records)))
    }

    fn clear<'a>(&'a self, table: &'a str) -> LocalFuture<'a, ()> {
        let mut shelf = self.shelf();
        shelf.records.retain(|key, _| key.table != table);
        shelf.damaged.retain(|key| key.table != table);
        shelf.states.remove(table);
        shelf
            .checkpoints
            .retain(|key, _| key.feature.as_str() != table);
        shelf
            .quarantine
            .retain(|set_aside| set_aside.table != table);
        Box::pin(ready(Ok(())))
    }

    fn quarantine<'a>(&'a self, table: &'a str, limit: usize) -> LocalFuture<'a, Vec<Quarantined>> {
        let shelf = self.shelf();
        let of_table = shelf
            .quarantine
            .iter()
            .rev()
            .filter(|set_aside| set_aside.table == table);
        let newest = of_table.take(limit).cloned().collect();
        Box::pin(ready(Ok(newest)))
    }
}
