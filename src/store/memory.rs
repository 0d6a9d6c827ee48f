//! A store in memory, for tests and for apps that keep nothing. It forgets with the process, not before:
//! a restart can be played by opening it again.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::kv::{Batch, Engine, KvStore};
use super::{
    Advance, Advanced, Amend, Amended, Append, Appended, Chunks, Find, LaneTotals, Opened, Page,
    Query, Snapshot, Source, Store, StoreFuture, Totals,
};
use crate::action::{ActionId, Body, BodyFile, Lane, Record};
use crate::clock::Timestamp;
use crate::error::Result;

type Entries = BTreeMap<Vec<u8>, Bytes>;

/// An engine in memory. Clones share what they hold.
#[derive(Clone, Debug, Default)]
pub struct MemoryEngine {
    entries: Arc<Mutex<Entries>>,
}

impl MemoryEngine {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for MemoryEngine {
    fn apply(&mut self, batch: Batch) -> Result<()> {
        let mut entries = self.entries();
        for (key, value) in batch {
            match value {
                Some(value) => drop(entries.insert(key, value)),
                None => drop(entries.remove(&key)),
            }
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.entries().get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        let entries = self.entries();
        let range = (Bound::Included(from), Bound::Excluded(to));
        let found = entries.range::<[u8], _>(range).take(limit);
        Ok(found
            .map(|(key, value)| (Bytes::copy_from_slice(key), value.clone()))
            .collect())
    }
}

/// A [`Store`] in memory. Every verb is done when its future is first polled, so paused time works.
#[derive(Debug)]
pub struct MemoryStore {
    engine: MemoryEngine,
    store: KvStore<MemoryEngine>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::over(MemoryEngine::default())
    }

    /// A new handle on the same data, as after a restart of the process. Close or forget the old one first.
    #[must_use]
    pub fn restarted(&self) -> Self {
        Self::over(self.engine.clone())
    }

    fn over(engine: MemoryEngine) -> Self {
        let store = KvStore::inline(engine.clone());
        Self { engine, store }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

super::delegate_store!(MemoryStore);
