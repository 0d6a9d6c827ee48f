//! What a group of commands writes, laid over the engine: a command reads what the ones before it wrote,
//! and nothing reaches the engine before `commit`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::keys::{self, Key};
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
    pub(super) fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        let mut out = Vec::new();
        let mut from = from.to_vec();
        while from.as_slice() < to && out.len() < limit {
            let want = limit - out.len();
            let stored = self.engine.scan(&from, to, want).map_err(fatal)?;
            let end = match stored.last() {
                Some((last, _)) if stored.len() == want => keys::after(last),
                _ => to.to_vec(),
            };
            self.merge(&from, &end, stored, &mut out);
            from = end;
        }
        out.truncate(limit);
        Ok(out)
    }

    fn merge(
        &self,
        from: &[u8],
        to: &[u8],
        stored: Vec<(Bytes, Bytes)>,
        out: &mut Vec<(Bytes, Bytes)>,
    ) {
        let mut stored = stored.into_iter().peekable();
        let range = (
            std::ops::Bound::Included(from),
            std::ops::Bound::Excluded(to),
        );
        for (key, value) in self.writes.range::<[u8], _>(range) {
            while let Some(entry) = stored.next_if(|(stored, _)| stored < key) {
                out.push(entry);
            }
            // What the engine holds under this key is covered by the write.
            drop(stored.next_if(|(stored, _)| stored == key));
            if let Some(value) = value {
                out.push((Bytes::copy_from_slice(key), value.clone()));
            }
        }
        out.extend(stored);
    }

    /// Writes everything in one durable step.
    pub(super) fn commit(&mut self) -> Result<()> {
        if self.writes.is_empty() {
            return self.engine.end().map_err(fatal);
        }
        let writes = std::mem::take(&mut self.writes);
        self.engine.apply(writes).map_err(fatal)
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

/// The first entry of a part of the keys, known without a search from its start: an engine keeps what was
/// deleted for a while, and would walk over all of it.
#[derive(Debug)]
pub(super) struct Front {
    from: Key,
    end: Key,
    first: First,
}

#[derive(Debug)]
enum First {
    /// Not below `from`.
    Unknown,
    /// This one; nothing = the part is empty.
    Known(Option<(Bytes, Bytes)>),
}

impl Front {
    pub(super) fn new(prefix: &[u8]) -> Self {
        Self {
            from: prefix.to_vec(),
            end: keys::behind(prefix),
            first: First::Unknown,
        }
    }

    /// For a part that is known to be empty.
    pub(super) fn empty(prefix: &[u8]) -> Self {
        let first = First::Known(None);
        Self {
            first,
            ..Self::new(prefix)
        }
    }

    pub(super) fn peek<E: Engine>(&mut self, txn: &Txn<E>) -> Result<Option<(Bytes, Bytes)>> {
        if let First::Known(first) = &self.first {
            return Ok(first.clone());
        }
        let first = txn.scan(&self.from, &self.end, 1)?.pop();
        self.first = First::Known(first.clone());
        Ok(first)
    }

    pub(super) fn put<E: Engine>(&mut self, txn: &mut Txn<E>, key: Key, value: impl Into<Bytes>) {
        let value = value.into();
        match &mut self.first {
            First::Unknown if key < self.from => self.from.clone_from(&key),
            First::Unknown => {}
            First::Known(Some((first, _))) if key.as_slice() > &first[..] => {}
            First::Known(first) => *first = Some((Bytes::copy_from_slice(&key), value.clone())),
        }
        txn.put(key, value);
    }

    pub(super) fn delete<E: Engine>(&mut self, txn: &mut Txn<E>, key: Key) {
        if let First::Known(Some((first, _))) = &self.first
            && *first == key
        {
            self.from.clone_from(&key);
            self.first = First::Unknown;
        }
        txn.delete(key);
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

    #[test]
    fn a_front_follows_puts_and_deletes() {
        let mut txn = filled(&["xb", "xd"]);
        let mut front = Front::new(b"x");
        let first = |front: &mut Front, txn: &Txn<MemoryEngine>| {
            let first = front.peek(txn).expect("peek");
            first.map(|(key, _)| str(&key).to_owned())
        };
        assert_eq!(first(&mut front, &txn).as_deref(), Some("xb"));
        front.delete(&mut txn, b"xb".to_vec());
        front.put(&mut txn, b"xa".to_vec(), Bytes::new());
        assert_eq!(first(&mut front, &txn).as_deref(), Some("xa"));
        front.delete(&mut txn, b"xa".to_vec());
        front.delete(&mut txn, b"xd".to_vec());
        assert_eq!(first(&mut front, &txn), None);
        front.put(&mut txn, b"xc".to_vec(), Bytes::new());
        assert_eq!(first(&mut front, &txn).as_deref(), Some("xc"));
    }
}
