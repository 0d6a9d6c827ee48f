//! What a group of commands writes, laid over the engine: a command reads what the ones before it wrote,
//! and nothing reaches the engine before `commit`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::keys::Key;
use super::overlay::{Entries, scan_over};
use super::{Batch, Engine, Peers};
use crate::error::{Error, ErrorKind, Result};

#[derive(Debug)]
pub(super) struct Txn<E> {
    engine: E,
    writes: Batch,
}

impl<E: Engine> Txn<E> {
    pub(super) fn new(engine: E) -> Self {
        let writes = BTreeMap::new();
        Self { engine, writes }
    }

    /// Begins a group. True when somebody else wrote since the last one.
    pub(super) fn begin(&mut self) -> Result<bool> {
        self.engine.begin()
    }

    /// Ends a group; what it wants to write goes with the next one.
    pub(super) fn pause(&mut self) -> Result<()> {
        self.engine.end()
    }

    /// Drops what was not committed.
    pub(super) fn forget(&mut self) {
        self.writes.clear();
    }

    pub(super) fn is_shared(&self) -> bool {
        self.engine.is_shared()
    }

    pub(super) fn check_room(&mut self) -> Result<()> {
        self.engine.check_room()
    }

    pub(super) fn is_tight(&self) -> Result<bool> {
        self.engine.is_tight().map_err(fatal)
    }

    pub(super) fn peers(&mut self) -> Option<&mut dyn Peers> {
        self.engine.peers()
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.engine.get(key).map_err(fatal),
        }
    }

    pub(super) fn put(&mut self, key: Key, value: impl Into<Bytes>) {
        self.writes.insert(key, Some(value.into()));
    }

    pub(super) fn delete(&mut self, key: Key) {
        self.writes.insert(key, None);
    }

    /// The first `limit` entries from `from` up to, not including, `to`.
    pub(super) fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Entries> {
        let below =
            |from: &[u8], to: &[u8], limit| self.engine.scan(from, to, limit).map_err(fatal);
        scan_over(&self.writes, below, (from, to), limit)
    }

    /// Writes everything in one durable step.
    pub(super) fn commit(&mut self) -> Result<()> {
        if self.writes.is_empty() {
            return self.engine.end().map_err(fatal);
        }
        let writes = std::mem::take(&mut self.writes);
        self.engine.apply(writes).map_err(fatal)
    }

    pub(super) fn engine(&self) -> &E {
        &self.engine
    }

    pub(super) fn into_engine(self) -> E {
        self.engine
    }
}

/// What is damaged is a record, which goes to quarantine, or the engine itself, which nothing can be built on.
fn fatal(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Corrupt => Error::new(ErrorKind::Poisoned, error.to_string()).with_source(error),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryEngine;

    fn filled(keys: &[&str]) -> Txn<MemoryEngine> {
        let mut txn = Txn::new(MemoryEngine::default());
        for key in keys {
            txn.put(key.as_bytes().to_vec(), Bytes::from_static(b"old"));
        }
        txn.commit().expect("commit");
        txn
    }

    fn scan(txn: &Txn<MemoryEngine>, from: &str, to: &str, limit: usize) -> Vec<String> {
        let entries = txn.scan(from.as_bytes(), to.as_bytes(), limit);
        let entries = entries.expect("scan").into_iter();
        entries
            .map(|(k, v)| format!("{}={}", str(&k), str(&v)))
            .collect()
    }

    fn str(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_scan_sees_puts_and_deletes_that_are_not_committed() {
        let mut txn = filled(&["b", "d", "f", "h"]);
        txn.put(b"a".to_vec(), Bytes::from_static(b"new"));
        txn.put(b"d".to_vec(), Bytes::from_static(b"new"));
        txn.delete(b"b".to_vec());
        txn.put(b"g".to_vec(), Bytes::from_static(b"new"));
        assert_eq!(
            scan(&txn, "a", "z", 9),
            ["a=new", "d=new", "f=old", "g=new", "h=old"]
        );
        assert_eq!(scan(&txn, "a", "z", 2), ["a=new", "d=new"]);
        assert_eq!(scan(&txn, "b", "g", 9), ["d=new", "f=old"]);
        assert_eq!(txn.get(b"b").expect("get"), None);
    }

    #[test]
    fn a_scan_goes_on_behind_a_run_of_deletes() {
        let mut txn = filled(&["a", "b", "c", "d", "e"]);
        for key in ["a", "b", "c", "d"] {
            txn.delete(key.as_bytes().to_vec());
        }
        assert_eq!(scan(&txn, "a", "z", 1), ["e=old"]);
        txn.commit().expect("commit");
        assert_eq!(scan(&txn, "a", "z", 9), ["e=old"]);
    }
}
