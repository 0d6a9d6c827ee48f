//! Changes that people and apps ask for.

use super::Engine;
use super::append::settled_at;
use super::ending::change_state;
use super::keys::{self, Place};
use super::queue::Queue;
use super::records::{Found, Kept};
use crate::action::{ActionId, Change, DeadReason, Record, State, WireState};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::store::Amended;

/// How many places are looked at in one scan.
const CHUNK: usize = 256;

impl<E: Engine> Queue<E> {
    pub(super) fn cancel(&mut self, id: ActionId, at: Timestamp) -> Result<Amended> {
        let Some(record) = self.record(id)? else {
            return Ok(Amended::Unknown);
        };
        if record.due().is_none() || record.wire != WireState::NeverSent {
            return Ok(Amended::NotNow(record));
        }
        let record = self.end_queued(record, Change::Cancel { at })?;
        Ok(Amended::Done(vec![record]))
    }

    pub(super) fn requeue(&mut self, id: ActionId, now: Timestamp) -> Result<Amended> {
        let Some(mut record) = self.record(id)? else {
            return Ok(Amended::Unknown);
        };
        if !record.state.is_dead() {
            return Ok(Amended::NotNow(record));
        }
        if self.is_forgetting(record.principal.as_deref()) {
            return Ok(Amended::Unknown);
        }
        if let State::Dead {
            reason: DeadReason::Uncertain { .. },
            ..
        } = record.state
        {
            record.first_attempt = None;
        }
        // A child goes back when its parents do.
        if self.settle_waits(&mut record)?.is_some() {
            return Ok(Amended::NotNow(record));
        }
        let record = self.send_back(record, now)?;
        Ok(Amended::Done(vec![record]))
    }

    /// Queues a dead letter again.
    pub(super) fn send_back(&mut self, mut record: Record, now: Timestamp) -> Result<Record> {
        let keeps_place = self.exhume(&record)? && self.may_stand_at(&record, record.seq)?;
        if !keeps_place {
            self.take_last_place(&mut record);
        }
        record.state = change_state(&record, Change::Requeue { due: now })?;
        record.attempts_counted = 0;
        record.backoff_ms = 0;
        let tally = &mut self.tally;
        tally.counts.pending += 1;
        tally.ledger.pending += 1;
        tally.ledger.dead = tally.ledger.dead.saturating_sub(1);
        tally.toggle(record.id, record.revision);
        self.pass_key(&mut record)?;
        self.rewrite(&mut record)?;
        self.place(&record)?;
        self.index_queued(&record)?;
        self.tie(&record)?;
        self.look_at_children(record.id)?;
        Ok(record)
    }

    pub(super) fn discard(&mut self, id: ActionId) -> Result<Amended> {
        let Some(record) = self.record(id)? else {
            return Ok(Amended::Unknown);
        };
        if !record.state.is_dead() {
            return Ok(Amended::NotNow(record));
        }
        self.exhume(&record)?;
        self.untie(&record)?;
        let counts = &mut self.tally.counts;
        counts.bytes = counts.bytes.saturating_sub(record.weight());
        self.forget(&record)?;
        Ok(Amended::Done(vec![record]))
    }

    /// Cancels what is queued, lane by lane, at most `limit` actions.
    pub(super) fn clear(&mut self, limit: usize, at: Timestamp) -> Result<Amended> {
        let (mut from, end) = (vec![keys::PLACES], keys::behind(&[keys::PLACES]));
        let mut cancelled = Vec::new();
        while cancelled.len() < limit {
            let chunk = self.txn.scan(&from, &end, CHUNK)?;
            let Some((last, _)) = chunk.last() else { break };
            from = keys::after(last);
            for (key, value) in chunk {
                if cancelled.len() == limit {
                    break;
                }
                cancelled.extend(self.clear_one(&key, &value, at)?);
            }
        }
        Ok(Amended::Done(cancelled))
    }

    fn clear_one(&mut self, key: &[u8], value: &[u8], at: Timestamp) -> Result<Option<Record>> {
        let place = Place::decode(value)?;
        match self.find(place.id)? {
            Found::Record(record) if record.due().is_some() => {
                let record = self.end_queued(record, Change::Cancel { at })?;
                Ok(Some(record))
            }
            Found::Missing | Found::Damaged => {
                self.evict_pending(&place, keys::number_at(key, 9)?)?;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    pub(super) fn pause(&mut self, paused: bool) -> Result<Amended> {
        self.run.is_paused = paused;
        self.put_row(keys::RUN.to_vec(), &self.run.clone())?;
        Ok(Amended::Done(Vec::new()))
    }

    pub(super) fn keep_answer(&mut self, id: ActionId, answer: Kept) -> Result<Amended> {
        let record = match self.record(id) {
            Ok(Some(record)) => record,
            other => {
                self.refuse(answer);
                return other.map(|_| Amended::Unknown);
            }
        };
        if record.state.is_pending() {
            self.refuse(answer);
            return Ok(Amended::NotNow(record));
        }
        let mut record = record;
        let before = record.answer_bytes;
        self.put_answer(&mut record, &answer)?;
        self.rewrite(&mut record)?;
        if let Some(at) = settled_at(&record) {
            let counts = &mut self.tally.counts;
            counts.retained_bytes =
                counts.retained_bytes.saturating_sub(before) + record.answer_bytes;
            self.put_retained(&record, at);
        }
        Ok(Amended::Done(vec![record]))
    }

    /// The clock went back: no wait that the vault chose lasts beyond `until`.
    pub(super) fn hasten(&mut self, until: Timestamp) -> Result<Amended> {
        self.arm(Timestamp::EPOCH)?;
        self.gates.hasten(&mut self.txn, until)?;
        let mut hastened = Vec::new();
        for group in self.ready.groups() {
            let late = keys::Ready {
                gate_no: group.0,
                rank: group.1,
                due: Timestamp::from_millis(until.as_millis().saturating_add(1)),
                lane_no: 0,
            };
            let end = keys::behind(&keys::ready_group(group.0, group.1));
            let mut from = late.key();
            loop {
                let chunk = self.txn.scan(&from, &end, CHUNK)?;
                let Some((last, _)) = chunk.last() else { break };
                from = keys::after(last);
                for (_, name) in chunk {
                    hastened.extend(self.hasten_lane(&name, until)?);
                }
            }
        }
        Ok(Amended::Done(hastened))
    }

    fn hasten_lane(&mut self, name: &[u8], until: Timestamp) -> Result<Option<Record>> {
        let lane = keys::lane_of(name)?;
        let Some(ready) = self.lane_row(&lane)?.and_then(|row| row.ready) else {
            return Ok(None);
        };
        let Found::Record(mut record) = self.find(ready.id)? else {
            return Ok(None);
        };
        let Some(due) = record.due() else {
            return Ok(None);
        };
        // A first attempt later than its making is a time that the app set.
        let is_backoff = record.attempts > 0 || due <= record.created;
        let is_late = is_backoff && due > until;
        if is_late {
            record.state = State::Queued { due: until };
            self.rewrite(&mut record)?;
        }
        if record.due() != Some(ready.due) {
            self.disarm(&lane);
            self.set_ready(&record, Timestamp::EPOCH)?;
        }
        Ok(is_late.then_some(record))
    }
}
