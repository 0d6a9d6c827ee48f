//! The disk of a run, for the vault and for the naive clients: an engine in memory that outlives who wrote to it. It can
//! cut its power at a commit, tells how much was read, and can be looked into and damaged.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use syncvault::store::kv::{Batch, Engine};
use syncvault::{Error, ErrorKind, Result};
use tokio::sync::Notify;

/// What is kept. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    state: Arc<Mutex<State>>,
    cut: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Vec<u8>, Bytes>,
    /// Whose handle counts: after a cut, no older one.
    life: u64,
    /// So many commits more, and then the power is cut, before or after the commit.
    fate: Option<(u64, Cut)>,
    bytes_read: u64,
}

/// When the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    BeforeCommit,
    AfterCommit,
}

impl Disk {
    /// A handle for one life of a process.
    pub(super) fn plug(&self) -> Plugged {
        let life = self.state().life;
        Plugged {
            disk: self.clone(),
            life,
        }
    }

    /// From now on, nothing of the process before reaches the disk.
    pub(super) fn cut(&self) {
        let mut state = self.state();
        state.life += 1;
        state.fate = None;
        drop(state);
        self.cut.notify_one();
    }

    /// Cuts the power at a commit to come.
    pub(super) fn cut_at(&self, commits: u64, cut: Cut) {
        self.state().fate = Some((commits, cut));
    }

    /// Waits for the cut.
    pub(super) async fn was_cut(&self) {
        self.cut.notified().await;
    }

    /// How many bytes lie on it.
    pub(super) fn bytes(&self) -> usize {
        let entries = &self.state().entries;
        entries
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum()
    }

    /// How many bytes were read since the last call.
    pub(super) fn take_bytes_read(&self) -> u64 {
        std::mem::take(&mut self.state().bytes_read)
    }

    /// Do these bytes lie on it, in a key or in a value?
    pub(super) fn holds(&self, wanted: &str) -> bool {
        let has =
            |bytes: &[u8]| (bytes.windows(wanted.len())).any(|window| window == wanted.as_bytes());
        let state = self.state();
        let mut entries = state.entries.iter();
        entries.any(|(key, value)| has(key) || has(value))
    }

    /// Changes the first value that has these bytes in it, and is of this kind.
    pub(super) fn change(
        &self,
        wanted: &str,
        is_it: impl Fn(&[u8]) -> bool,
        change: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut state = self.state();
        let has = |bytes: &Bytes| {
            (bytes.windows(wanted.len())).any(|window| window == wanted.as_bytes()) && is_it(bytes)
        };
        let found = state.entries.values_mut().find(|value| has(value));
        let value = found.unwrap_or_else(|| panic!("{wanted:?} is not on the disk"));
        let mut bytes = value.to_vec();
        change(&mut bytes);
        *value = bytes.into();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The disk, as one process has it.
#[derive(Debug)]
pub(super) struct Plugged {
    disk: Disk,
    life: u64,
}

fn gone() -> Error {
    Error::new(ErrorKind::Storage, "the power is cut")
}

impl Plugged {
    fn alive(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        match state.life == self.life {
            true => Ok(state),
            false => Err(gone()),
        }
    }
}

impl Engine for Plugged {
    fn apply(&mut self, batch: Batch) -> Result<()> {
        let mut state = self.alive()?;
        let cut = match &mut state.fate {
            Some((0, cut)) => Some(*cut),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        if cut != Some(Cut::BeforeCommit) {
            for (key, value) in batch {
                match value {
                    Some(value) => drop(state.entries.insert(key, value)),
                    None => drop(state.entries.remove(&key)),
                }
            }
        }
        if cut.is_some() {
            drop(state);
            self.disk.cut();
            return Err(gone());
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let mut state = self.alive()?;
        let value = state.entries.get(key).cloned();
        state.bytes_read += value.as_ref().map_or(0, |value| value.len() as u64);
        Ok(value)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        let mut state = self.alive()?;
        let range = (Bound::Included(from), Bound::Excluded(to));
        let found = state.entries.range::<[u8], _>(range).take(limit);
        let found: Vec<_> = found
            .map(|(key, value)| (Bytes::copy_from_slice(key), value.clone()))
            .collect();
        let weigh = |(key, value): &(Bytes, Bytes)| (key.len() + value.len()) as u64;
        state.bytes_read += found.iter().map(weigh).sum::<u64>();
        Ok(found)
    }
}
