//! Forgetting a principal: all that is kept of its actions goes, in bounded steps. What is being forgotten is on disk
//! before the first action goes, so that a crash in the middle neither sends nor keeps the rest.

use serde::{Deserialize, Serialize};

use super::Engine;
use super::keys::{self, Key, Place};
use super::queue::Queue;
use super::records::Found;
use crate::action::Record;
use crate::clock::Timestamp;
use crate::decide::GateKey;
use crate::error::Result;
use crate::store::Amended;

/// In the order of their keys, so that one key tells how far it is. What leaves the queue meanwhile goes ahead of it.
const PARTS: [u8; 4] = [keys::PLACES, keys::CACHED, keys::SETTLED, keys::DEAD];

/// A principal that is being forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Forgetting {
    principal: String,
    /// Actions from this place on were added later: they stay.
    seq_end: u64,
    /// Nothing of it is left before this key.
    from: Key,
}

impl<E: Engine> Queue<E> {
    pub(super) fn forgetting(&self) -> Vec<String> {
        let marks = self.run.forgetting.iter();
        marks.map(|mark| mark.principal.clone()).collect()
    }

    pub(super) fn is_forgetting(&self, principal: Option<&str>) -> bool {
        let mut marks = self.run.forgetting.iter();
        principal.is_some_and(|name| marks.any(|mark| mark.principal == name))
    }

    /// Looks at no more than `limit` entries.
    pub(super) fn forget_principal(&mut self, principal: &str, limit: usize) -> Result<Amended> {
        let mut mark = self.take_mark(principal);
        let mut room = limit.max(1);
        let mut gone = Vec::new();
        for part in PARTS {
            let (from, end) = (mark.from.clone().max(vec![part]), keys::behind(&[part]));
            if room == 0 || from >= end {
                continue;
            }
            let found = self.txn.scan(&from, &end, room)?;
            room -= found.len();
            for (key, value) in &found {
                gone.extend(self.forget_entry(part, key, value, &mark)?);
            }
            mark.from = match found.last() {
                Some((last, _)) if room == 0 => keys::after(last),
                _ => end,
            };
        }
        let is_done = room > 0;
        if is_done {
            let gate = GateKey::Principal(Some(principal.to_owned()));
            self.gates.remove(&mut self.txn, &gate);
            self.arm(Timestamp::EPOCH)?;
            self.forget_unused_pairs()?;
        } else {
            self.run.forgetting.push(mark);
        }
        self.put_row(keys::RUN.to_vec(), &self.run.clone())?;
        Ok(if is_done {
            Amended::Done(gone)
        } else {
            Amended::More(gone)
        })
    }

    fn take_mark(&mut self, principal: &str) -> Forgetting {
        let mut marks = self.run.forgetting.iter();
        match marks.position(|mark| mark.principal == principal) {
            Some(at) => self.run.forgetting.swap_remove(at),
            None => Forgetting {
                principal: principal.to_owned(),
                seq_end: self.tally.seq_next,
                from: Key::new(),
            },
        }
    }

    fn forget_entry(
        &mut self,
        part: u8,
        key: &[u8],
        value: &[u8],
        mark: &Forgetting,
    ) -> Result<Option<Record>> {
        let id = match part {
            keys::CACHED => {
                self.forget_cached(key, &mark.principal)?;
                return Ok(None);
            }
            keys::PLACES => Place::decode(value)?.id,
            _ => keys::id_at(key, 9)?,
        };
        let record = match self.in_flight.get(&id) {
            Some(record) => record.clone(),
            None => match self.read(id)?.0 {
                Found::Record(record) => record,
                // Whose it is cannot be told.
                _ => return Ok(None),
            },
        };
        if record.principal.as_ref() != Some(&mark.principal) || record.seq >= mark.seq_end {
            return Ok(None);
        }
        self.take_out(&record)?;
        self.forget(&record)?;
        Ok(Some(record))
    }
}
