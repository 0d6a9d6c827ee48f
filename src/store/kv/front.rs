//! The first entries of a part of the keys, known without a search from its start: an engine keeps what was
//! deleted for a while, and would walk over all of it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Engine;
use super::keys::{self, Key};
use super::txn::Txn;
use crate::error::Result;

/// How many entries one search brings.
const WINDOW: usize = 32;

/// All entries below `known_to` are in memory.
#[derive(Debug)]
pub(super) struct Front {
    window: BTreeMap<Bytes, Bytes>,
    known_to: Key,
    end: Key,
}

impl Front {
    pub(super) fn new(prefix: &[u8]) -> Self {
        Self::from(prefix.to_vec(), prefix)
    }

    /// For a part of which nothing lies below `first`.
    pub(super) fn from(first: Key, prefix: &[u8]) -> Self {
        Self {
            window: BTreeMap::new(),
            known_to: first,
            end: keys::behind(prefix),
        }
    }

    /// For a part that is known to be empty.
    pub(super) fn empty(prefix: &[u8]) -> Self {
        Self::from(keys::behind(prefix), prefix)
    }

    pub(super) fn peek<E: Engine>(&mut self, txn: &Txn<E>) -> Result<Option<(Bytes, Bytes)>> {
        if self.window.is_empty() && self.known_to < self.end {
            let found = txn.scan(&self.known_to, &self.end, WINDOW)?;
            self.known_to = match found.last() {
                Some((last, _)) if found.len() == WINDOW => keys::after(last),
                _ => self.end.clone(),
            };
            self.window.extend(found);
        }
        let first = self.window.first_key_value();
        Ok(first.map(|(key, value)| (key.clone(), value.clone())))
    }

    pub(super) fn put<E: Engine>(&mut self, txn: &mut Txn<E>, key: Key, value: impl Into<Bytes>) {
        let value = value.into();
        if key < self.known_to {
            let key = Bytes::copy_from_slice(&key);
            self.window.insert(key, value.clone());
            self.shrink();
        }
        txn.put(key, value);
    }

    pub(super) fn delete<E: Engine>(&mut self, txn: &mut Txn<E>, key: Key) {
        self.window.remove(&key[..]);
        txn.delete(key);
    }

    /// What is put in is not kept without a limit.
    fn shrink(&mut self) {
        if self.window.len() > 4 * WINDOW
            && let Some(first) = self.window.keys().nth(WINDOW).cloned()
        {
            self.known_to = first.to_vec();
            self.window.split_off(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::memory::MemoryEngine;

    proptest! {
        #[test]
        fn it_follows_puts_and_deletes(
            stored in prop::collection::btree_set(0..200u16, 0..100),
            steps in prop::collection::vec((0..4u8, 0..200u16), 0..600),
        ) {
            let key = |n: u16| [b"x", &n.to_be_bytes()[..]].concat();
            let mut txn = Txn::new(MemoryEngine::default());
            for n in &stored {
                txn.put(key(*n), Bytes::from_static(b"stored"));
            }
            txn.put(b"y".to_vec(), Bytes::from_static(b"of another part"));
            txn.commit().expect("commit");
            let mut model = stored;
            let mut front = Front::new(b"x");
            for (step, n) in steps {
                match step {
                    0 => {
                        model.insert(n);
                        front.put(&mut txn, key(n), Bytes::from_static(b"put"));
                    }
                    1 => {
                        model.remove(&n);
                        front.delete(&mut txn, key(n));
                    }
                    2 => {
                        if let Some(first) = model.pop_first() {
                            front.delete(&mut txn, key(first));
                        }
                    }
                    _ => txn.commit().expect("commit"),
                }
                let first = front.peek(&txn).expect("peek").map(|(key, _)| key.to_vec());
                prop_assert_eq!(first, model.first().map(|n| key(*n)));
            }
        }
    }

    #[test]
    fn an_empty_part_is_known_without_a_search() {
        let mut txn = Txn::new(MemoryEngine::default());
        let mut front = Front::empty(b"x");
        assert!(front.peek(&txn).expect("peek").is_none());
        for n in 0..1000u16 {
            let key = [b"x", &n.to_be_bytes()[..]].concat();
            front.put(&mut txn, key, Bytes::new());
        }
        assert!(front.window.len() <= 4 * WINDOW);
        for n in 0..1000u16 {
            let key = [b"x", &n.to_be_bytes()[..]].concat();
            let first = front.peek(&txn).expect("peek").expect("there").0;
            assert_eq!(first, key);
            front.delete(&mut txn, key);
        }
        assert!(front.peek(&txn).expect("peek").is_none());
    }
}
