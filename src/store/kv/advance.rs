//! The worker's verb: settle, set gates, expire, lease, all in one commit.

use std::collections::BTreeSet;

use super::Engine;
use super::ending::change_state;
use super::keys;
use super::queue::Queue;
use super::records::{Found, Kept};
use crate::action::{Change, DeadReason, Origin, Record, State, WireState};
use crate::clock::Timestamp;
use crate::decide::{Counted, DeadLane, Gate, GateKey, Settlement};
use crate::error::Result;
use crate::store::{Advance, Advanced, Leased, Settle, Whose};

/// How many actions one `advance` lets expire.
const EXPIRE_MAX: usize = 256;

/// A worker's step, the answers where they belong: one for each settle.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) advance: Advance,
    pub(super) answers: Vec<Option<Kept>>,
    /// The bodies that were filled in: one for each fill.
    pub(super) bodies: Vec<Option<Kept>>,
}

#[cfg(test)]
impl Step {
    /// Without bodies.
    pub(super) fn plain(advance: Advance, answers: Vec<Option<Kept>>) -> Self {
        let bodies = Vec::new();
        Self {
            advance,
            answers,
            bodies,
        }
    }
}

impl<E: Engine> Queue<E> {
    pub(super) fn advance(&mut self, step: Step) -> Result<Advanced> {
        let Step {
            advance,
            answers,
            bodies,
        } = step;
        if let Err(error) = self.refuse_half_restored() {
            let answers = answers.into_iter().flatten();
            answers.for_each(|answer| self.refuse(answer));
            let bodies = bodies.into_iter().flatten();
            bodies.for_each(|body| self.refuse(body));
            return Err(error);
        }
        let now = advance.now;
        let mut done = Advanced::default();
        for (settle, answer) in advance.settle.into_iter().zip(answers) {
            done.settled.push(self.settle(settle, answer, now)?);
        }
        self.mark_stale(&advance.stale, now)?;
        for gate in advance.gates {
            self.gates.put(&mut self.txn, gate)?;
        }
        let how = (advance.dead_lane, now);
        for (fill, body) in advance.fills.into_iter().zip(bodies) {
            self.fill(fill, body, how, &mut done)?;
        }
        done.expired = self.expire(now)?;
        self.reclaim_dead(now)?;
        self.tend(advance.dead_lane, now, &mut done)?;
        self.arm(now)?;
        let has_turn = match &advance.lease {
            Some(_) => self.take_turn()?,
            None => true,
        };
        let whose = advance.lease.as_ref().map(|lease| lease.whose.clone());
        let taken = match advance.lease.filter(|_| has_turn) {
            Some(lease) => {
                let taken = self.lease(&lease, now, &mut done)?;
                self.set_gates_after(lease.gates_after, &done)?;
                taken
            }
            None => BTreeSet::new(),
        };
        self.trim(&advance.retention, now, done.settled.len())?;
        self.arm(now)?;
        let whose = whose.unwrap_or_default();
        // Whose turn it is leases what is due; time does not help here.
        done.next_due = match has_turn {
            true => self.next_due(&taken, &whose)?,
            false => None,
        };
        self.must_watch = self.give_turn() || !has_turn;
        done.next_expiry = self.next_expiry()?;
        done.unfilled = self.unfilled()?;
        done.is_unfinished = self.is_unfinished()?;
        done.totals = self.totals_now()?;
        done.is_paused = self.txn.peers().is_some().then_some(self.run.is_paused);
        Ok(done)
    }

    fn set_gates_after(&mut self, gates: Vec<Gate>, done: &Advanced) -> Result<()> {
        for gate in gates {
            let is_of = |leased: &Leased| matches!(&gate.key, GateKey::Origin(origin) if *origin == leased.record.origin);
            if done.leased.iter().any(is_of) {
                self.gates.put(&mut self.txn, gate)?;
            }
        }
        Ok(())
    }

    fn settle(
        &mut self,
        settle: Settle,
        answer: Option<Kept>,
        now: Timestamp,
    ) -> Result<Option<Record>> {
        let lease = State::InFlight {
            attempt: settle.attempt,
            epoch: settle.epoch,
        };
        let is_held = |record: &Record| record.state == lease;
        if !self.in_flight.get(&settle.id).is_some_and(is_held) {
            answer.into_iter().for_each(|answer| self.refuse(answer));
            return Ok(None);
        }
        let Some(mut record) = self.in_flight.remove(&settle.id) else {
            return Ok(None);
        };
        let is_told = !self.is_direct(&record);
        self.end_attempt(&record)?;
        record.wire = settle.wire;
        record.last_status = settle.status.or(record.last_status);
        record.last_error = settle.error;
        record.portal = settle.portal;
        if let Some(answer) = answer {
            self.put_answer(&mut record, &answer)?;
        }
        let result = match (settle.result, settle.status) {
            // Somebody holds a ticket of it by now: what was refused must stay to be seen.
            (Settlement::Returned, Some(status)) if is_told => Settlement::Dead {
                reason: DeadReason::Rejected { status },
                lane: DeadLane::Skip,
            },
            (result, _) => result,
        };
        record.batch = match result {
            Settlement::Retry { .. } => settle.batch,
            _ => None,
        };
        self.conclude(&mut record, result, now)?;
        Ok(Some(record))
    }

    fn conclude(&mut self, record: &mut Record, result: Settlement, at: Timestamp) -> Result<()> {
        match result {
            Settlement::Delivered { status } => {
                record.state = change_state(record, Change::Deliver { status, at })?;
                self.leave_pending(record)?;
                self.tally.ledger.delivered += 1;
                self.retain(record)?;
                self.look_at_children(record.id)
            }
            Settlement::Returned => {
                self.leave_pending(record)?;
                self.tally.ledger.returned += 1;
                let counts = &mut self.tally.counts;
                counts.bytes = counts.bytes.saturating_sub(record.weight());
                self.forget(record)
            }
            Settlement::Retry {
                due,
                counts,
                backoff_ms,
            } => {
                record.state = change_state(record, Change::Return { due })?;
                record.backoff_ms = backoff_ms;
                record.attempts_counted += u32::from(counts == Counted::Yes);
                self.pass_key(record)?;
                self.rewrite(record)?;
                self.heads.insert(record.id, record.clone().into());
                self.index_queued(record)
            }
            Settlement::Dead { reason, lane } => {
                record.state = change_state(record, Change::Die { reason, at })?;
                self.leave_pending(record)?;
                self.bury(record, lane)?;
                self.look_at_children(record.id)
            }
        }
    }

    /// Marks a placed, queued record as leased, in memory and in the indexes. Writing it is up to the caller.
    pub(super) fn start_attempt(&mut self, record: &mut Record, now: Timestamp) -> Result<()> {
        let change = Change::Lease {
            attempt: record.attempts + 1,
            epoch: self.epoch,
        };
        let state = change_state(record, change)?;
        record.state = state;
        record.attempts += 1;
        if record.wire == WireState::NeverSent {
            record.first_attempt = None;
        }
        record.first_attempt.get_or_insert(now);
        record.previous_attempt = record.last_attempt.replace(now);
        record.wire = WireState::MaybeSent;
        let place = keys::Place {
            id: record.id,
            created: record.created,
            weight: record.weight(),
            lane: record.lane.clone(),
        };
        let value = [&record.seq.to_be_bytes()[..], &place.encode()].concat();
        self.txn.put(keys::in_flight(record.id), value);
        self.lane_mut(&record.lane)?.in_flight += 1;
        self.tally.counts.in_flight += 1;
        Ok(())
    }

    /// The lease is over; the action stays pending at its place.
    pub(super) fn end_attempt(&mut self, record: &Record) -> Result<()> {
        self.txn.delete(keys::in_flight(record.id));
        if let Some(direct) = self.direct.get_mut(&record.lane) {
            direct.remove(&record.id);
            if direct.is_empty() {
                self.direct.remove(&record.lane);
            }
        }
        let row = self.lane_mut(&record.lane)?;
        row.in_flight = row.in_flight.saturating_sub(1);
        let counts = &mut self.tally.counts;
        counts.in_flight = counts.in_flight.saturating_sub(1);
        Ok(())
    }

    /// Ends the queued actions whose time is over.
    fn expire(&mut self, at: Timestamp) -> Result<Vec<Record>> {
        let mut expired = Vec::new();
        for _ in 0..EXPIRE_MAX {
            let Some((key, _)) = self.expiry.peek(&self.txn)? else {
                break;
            };
            if keys::number_at(&key, 1)? > at.as_millis() {
                break;
            }
            match self.find(keys::id_at(&key, 9)?)? {
                Found::Record(record) if record.due().is_some() => {
                    expired.push(self.end_queued(record, Change::Expire { at })?);
                }
                // What cannot be read is met again at the head of its lane.
                _ => self.expiry.delete(&mut self.txn, key.to_vec()),
            }
        }
        Ok(expired)
    }

    fn next_expiry(&mut self) -> Result<Option<Timestamp>> {
        let first = self.expiry.peek(&self.txn)?;
        first
            .map(|(key, _)| keys::number_at(&key, 1).map(Timestamp::from_millis))
            .transpose()
    }

    /// The earliest time at which a head can be leased, without the origins that have no slot left and the principals
    /// that are held.
    fn next_due(&mut self, taken: &BTreeSet<Origin>, whose: &Whose) -> Result<Option<Timestamp>> {
        let mut next: Option<Timestamp> = None;
        for group in self.ready.groups() {
            let Some((head, _)) = self.ready.first(&self.txn, group)? else {
                continue;
            };
            let Some(pair) = self.gates.pair(head.gate_no) else {
                continue;
            };
            let principal = pair.1.as_deref();
            let is_held = !whose.allows(principal) || self.is_forgetting(principal);
            if is_held || taken.contains(&pair.0) {
                continue;
            }
            let due = head.due.max(self.gates.open_at(pair, &[]));
            next = Some(next.map_or(due, |next| next.min(due)));
        }
        Ok(next)
    }
}
