//! The ways out of the queue: settled and kept for a while, dead, or gone at once. Each counts in the ledger
//! in the same step.

use super::Engine;
use super::append::settled_at;
use super::keys;
use super::lanes::Block;
use super::queue::Queue;
use crate::action::{ActionId, Change, Lane, Record, State, transition};
use crate::clock::Timestamp;
use crate::decide::DeadLane;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Retention;

/// How many settled actions one `advance` forgets.
const TRIM_MAX: usize = 64;

/// How many go before their time for each one that is settled, where there is no room for it.
const FORGOTTEN_FOR_ONE: usize = 2;

impl<E: Engine> Queue<E> {
    /// Ends a queued action: cancelled, expired or superseded.
    pub(super) fn end_queued(&mut self, mut record: Record, change: Change) -> Result<Record> {
        self.unindex_queued(&record)?;
        let ledger = &mut self.tally.ledger;
        match &change {
            Change::Cancel { .. } => ledger.cancelled += 1,
            Change::Expire { .. } => ledger.expired += 1,
            _ => ledger.superseded += 1,
        }
        record.state = change_state(&record, change)?;
        self.leave_pending(&record)?;
        self.untie(&record)?;
        self.retain(&mut record)?;
        self.look_at_children(record.id)?;
        Ok(record)
    }

    /// Takes a pending action out of its lane and out of the pending counts.
    pub(super) fn leave_pending(&mut self, record: &Record) -> Result<()> {
        self.displace(&record.lane, record.seq)?;
        let short = || Error::new(ErrorKind::Storage, "more actions end than were pending");
        let (counts, ledger) = (&mut self.tally.counts, &mut self.tally.ledger);
        counts.pending = counts.pending.checked_sub(1).ok_or_else(short)?;
        ledger.pending = ledger.pending.checked_sub(1).ok_or_else(short)?;
        self.tally.toggle(record.id, record.revision);
        Ok(())
    }

    /// Keeps a settled record without its body, for its key and its answer.
    pub(super) fn retain(&mut self, record: &mut Record) -> Result<()> {
        let Some(at) = settled_at(record) else {
            return Ok(());
        };
        self.delete_body(record);
        self.rewrite(record)?;
        self.put_retained(record, at);
        let counts = &mut self.tally.counts;
        counts.bytes = counts.bytes.saturating_sub(record.weight());
        counts.retained += 1;
        counts.retained_bytes += record.answer_bytes;
        Ok(())
    }

    pub(super) fn put_retained(&mut self, record: &Record, at: Timestamp) {
        let value = record.answer_bytes.to_be_bytes().to_vec();
        let key = keys::settled(at, record.id);
        self.settled.put(&mut self.txn, key, value);
    }

    /// Forgets a settled record.
    pub(super) fn unretain(&mut self, record: &Record) -> Result<()> {
        self.unlist(record);
        self.forget(record)
    }

    /// Takes a settled record out of the retention ring.
    fn unlist(&mut self, record: &Record) {
        let Some(at) = settled_at(record) else {
            return;
        };
        let key = keys::settled(at, record.id);
        self.settled.delete(&mut self.txn, key);
        let counts = &mut self.tally.counts;
        counts.retained = counts.retained.saturating_sub(1);
        counts.retained_bytes = counts.retained_bytes.saturating_sub(record.answer_bytes);
    }

    /// Takes an action out of whatever part it is in; its bytes are for the caller to remove. What had no end yet is
    /// counted as evicted.
    pub(super) fn take_out(&mut self, record: &Record) -> Result<()> {
        self.untie(record)?;
        self.look_at_children(record.id)?;
        match record.state {
            State::Queued { .. } => self.unindex_queued(record)?,
            State::InFlight { .. } => {
                self.in_flight.remove(&record.id);
                self.end_attempt(record)?;
            }
            State::Dead { .. } => drop(self.exhume(record)?),
            _ => {
                self.unlist(record);
                return Ok(());
            }
        }
        if record.state.is_pending() {
            self.leave_pending(record)?;
        } else {
            let dead = &mut self.tally.ledger.dead;
            *dead = dead.saturating_sub(1);
        }
        self.tally.ledger.evicted += 1;
        let counts = &mut self.tally.counts;
        counts.bytes = counts.bytes.saturating_sub(record.weight());
        Ok(())
    }

    /// Forgets settled actions beyond the retention, oldest first. Where there is no room for what was just `settled`, some
    /// go before their time.
    pub(super) fn trim(&mut self, keep: &Retention, now: Timestamp, settled: usize) -> Result<()> {
        let too_many = match settled > 0 && self.txn.is_tight()? {
            true => settled.saturating_mul(FORGOTTEN_FOR_ONE),
            false => 0,
        };
        let mut early = 0;
        for _ in 0..TRIM_MAX {
            let Some((key, value)) = self.settled.peek(&self.txn)? else {
                break;
            };
            let at = Timestamp::from_millis(keys::number_at(&key, 1)?);
            let counts = &self.tally.counts;
            let is_over = counts.retained > keep.count || counts.retained_bytes > keep.bytes;
            if !is_over && at.after(keep.age) > now {
                if early == too_many {
                    break;
                }
                early += 1;
            }
            if self.has_children(keys::id_at(&key, 9)?)? {
                return self.trim_behind(&key, keep, now);
            }
            self.unretain_entry(&key, &value)?;
        }
        if early > 0 {
            tracing::warn!(
                count = early,
                "the disk is full: settled actions are forgotten before their time"
            );
        }
        Ok(())
    }

    /// The oldest is kept for its children: goes on behind it, a bounded number in each step.
    fn trim_behind(&mut self, oldest: &[u8], keep: &Retention, now: Timestamp) -> Result<()> {
        let from = keys::after(oldest).max(std::mem::take(&mut self.trimmed_to));
        let end = keys::behind(&[keys::SETTLED]);
        let chunk = self.txn.scan(&from, &end, TRIM_MAX)?;
        for (key, value) in &chunk {
            let at = Timestamp::from_millis(keys::number_at(key, 1)?);
            let counts = &self.tally.counts;
            let is_over = counts.retained > keep.count || counts.retained_bytes > keep.bytes;
            if !is_over && at.after(keep.age) > now {
                return Ok(());
            }
            if !self.has_children(keys::id_at(key, 9)?)? {
                self.unretain_entry(key, value)?;
            }
        }
        if let Some((last, _)) = chunk.last() {
            self.trimmed_to = keys::after(last);
        }
        Ok(())
    }

    pub(super) fn unretain_entry(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let id = keys::id_at(key, 9)?;
        match self.record(id) {
            Ok(Some(record)) if settled_at(&record).is_some() => return self.unretain(&record),
            Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
            Ok(_) => {}
            Err(_) => self.quarantine(id)?,
        }
        self.settled.delete(&mut self.txn, key.to_vec());
        let counts = &mut self.tally.counts;
        counts.retained = counts.retained.saturating_sub(1);
        let bytes = keys::number_at(value, 0)?;
        counts.retained_bytes = counts.retained_bytes.saturating_sub(bytes);
        Ok(())
    }

    /// Makes a record that left the pending ones a dead letter.
    pub(super) fn bury(&mut self, record: &mut Record, policy: DeadLane) -> Result<()> {
        self.list_dead(record, policy)?;
        self.rewrite(record)
    }

    /// Counts a record in among the dead letters.
    pub(super) fn list_dead(&mut self, record: &Record, policy: DeadLane) -> Result<()> {
        let State::Dead { at, .. } = record.state else {
            return Ok(());
        };
        self.tally.counts.dead += 1;
        self.tally.ledger.dead += 1;
        let mut value = record.weight().to_be_bytes().to_vec();
        if policy == DeadLane::Block {
            value.extend_from_slice(record.lane.as_str().as_bytes());
            self.block(record)?;
        }
        self.txn.put(keys::dead(at, record.id), value);
        Ok(())
    }

    fn block(&mut self, record: &Record) -> Result<()> {
        let block = Block {
            seq: record.seq,
            id: record.id,
        };
        let row = self.lane_mut(&record.lane)?;
        let is_first = row.blocked.is_empty();
        row.blocked.push(block);
        row.blocked.sort_by_key(|block| block.seq);
        self.tally.counts.blocked_lanes += u64::from(is_first);
        Ok(())
    }

    /// Takes a dead letter out of the dead ones. True when its lane waited for it.
    pub(super) fn exhume(&mut self, record: &Record) -> Result<bool> {
        let State::Dead { at, .. } = record.state else {
            return Ok(false);
        };
        self.txn.delete(keys::dead(at, record.id));
        self.tally.counts.dead -= 1;
        let waits = self
            .lane_row(&record.lane)?
            .is_some_and(|row| row.blocked.iter().any(|block| block.id == record.id));
        if waits {
            self.unblock(&record.lane, record.id)?;
        }
        Ok(waits)
    }

    pub(super) fn unblock(&mut self, lane: &Lane, id: ActionId) -> Result<()> {
        let row = self.lane_mut(lane)?;
        row.blocked.retain(|block| block.id != id);
        let is_free = row.blocked.is_empty();
        self.tally.counts.blocked_lanes -= u64::from(is_free);
        Ok(())
    }
}

pub(super) fn change_state(record: &Record, change: Change) -> Result<State> {
    transition(&record.state, change).map_err(|e| {
        let text = format!("action {} is not in a state for this", record.id);
        Error::new(ErrorKind::Storage, text).with_source(e)
    })
}
