//! Leasing: highest priority first, then the longest wait, over all gates that are open.

use std::collections::{BTreeSet, HashMap};

use super::Engine;
use super::keys::{self, Ready};
use super::queue::Queue;
use super::records::Found;
use crate::action::{Body, BodyFile, Change, Lane, Origin, Record};
use crate::clock::Timestamp;
use crate::error::{ErrorKind, Result};
use crate::store::{Advanced, Lease, Leased};

/// How many heads one `advance` may find expired or unreadable while it leases.
const SIDE_STEPS_MAX: usize = 256;

/// The heads that may go, the first of each group, and how many more each origin may have.
struct Choice {
    heads: BTreeSet<Ready>,
    room: HashMap<Origin, usize>,
}

impl<E: Engine> Queue<E> {
    /// Leases what it may, and tells which origins have no slot left.
    pub(super) fn lease(
        &mut self,
        lease: &Lease,
        now: Timestamp,
        done: &mut Advanced,
    ) -> Result<BTreeSet<Origin>> {
        let room = lease.origin_slots.iter().cloned().collect();
        let heads = BTreeSet::new();
        let mut choice = Choice { heads, room };
        self.offer_all(lease, now, &mut choice)?;
        let (mut side_steps, mut starts) = (0, 0);
        while starts < lease.slots && side_steps < SIDE_STEPS_MAX {
            let Some(head) = choice.heads.pop_first() else {
                break;
            };
            let Some((origin, lane)) = self.target(&head)? else {
                continue;
            };
            if choice.room.get(&origin) == Some(&0) {
                continue;
            }
            if self.take(&lane, lease, now, done)? {
                starts += 1;
                choice.room.entry(origin).and_modify(|room| *room -= 1);
                self.offer((head.gate_no, head.rank), now, &mut choice)?;
            } else {
                side_steps += 1;
                self.arm(now)?;
                self.offer_all(lease, now, &mut choice)?;
            }
        }
        let taken = choice.room.into_iter().filter(|(_, room)| *room == 0);
        Ok(taken.map(|(origin, _)| origin).collect())
    }

    /// Offers the first head of every group whose gates are open.
    fn offer_all(&mut self, lease: &Lease, now: Timestamp, choice: &mut Choice) -> Result<()> {
        choice.heads.clear();
        for group in self.ready.groups() {
            let Some(pair) = self.gates.pair(group.0) else {
                continue;
            };
            let is_held =
                !lease.whose.allows(pair.1.as_deref()) || self.is_forgetting(pair.1.as_deref());
            if !is_held && self.gates.open_at(pair, &lease.forced) <= now {
                self.offer(group, now, choice)?;
            }
        }
        Ok(())
    }

    fn offer(&mut self, group: (u32, u8), now: Timestamp, choice: &mut Choice) -> Result<()> {
        if let Some((head, _)) = self.ready.first(&self.txn, group)?
            && head.due <= now
        {
            choice.heads.insert(head);
        }
        Ok(())
    }

    fn target(&mut self, head: &Ready) -> Result<Option<(Origin, Lane)>> {
        let first = self.ready.first(&self.txn, (head.gate_no, head.rank))?;
        let Some((_, name)) = first.filter(|(first, _)| first == head) else {
            return Ok(None);
        };
        let lane = keys::lane_of(&name)?;
        let origin = self.gates.pair(head.gate_no).map(|(origin, _)| origin);
        Ok(origin.map(|origin| (origin.clone(), lane)))
    }

    /// Leases the head of a lane, or the run at its head. False when it turned out expired or unreadable and stepped aside.
    fn take(
        &mut self,
        lane: &Lane,
        lease: &Lease,
        now: Timestamp,
        done: &mut Advanced,
    ) -> Result<bool> {
        let Some(id) = self
            .lane_row(lane)?
            .and_then(|row| row.ready)
            .map(|ready| ready.id)
        else {
            return Ok(false);
        };
        let Found::Record(record) = self.find(id)? else {
            self.refuse_head(lane)?;
            return Ok(false);
        };
        if record.expires.is_some_and(|expires| expires <= now) {
            let expired = self.end_queued(record, Change::Expire { at: now })?;
            done.expired.push(expired);
            return Ok(false);
        }
        let body = match self.body_of(id) {
            Ok(Some(body)) => body,
            Ok(None) => no_body(&record),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.evict_head(&record)?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let run = self.take_run((record, body), lease.batches.as_ref(), now)?;
        done.leased.extend(run);
        Ok(true)
    }

    pub(super) fn take_record(
        &mut self,
        mut record: Record,
        body: Body,
        now: Timestamp,
    ) -> Result<Leased> {
        let wire_before = record.wire;
        self.unindex_queued(&record)?;
        self.disarm(&record.lane);
        self.start_attempt(&mut record, now)?;
        self.rewrite(&mut record)?;
        self.in_flight.insert(record.id, record.clone());
        Ok(Leased::new(record, wire_before, body))
    }

    /// The head cannot be read: arming its lane again finds out what to do with it.
    fn refuse_head(&mut self, lane: &Lane) -> Result<()> {
        self.lane_mut(lane)?;
        self.disarm(lane);
        Ok(())
    }

    fn evict_head(&mut self, record: &Record) -> Result<()> {
        self.unindex_queued(record)?;
        let place = keys::Place {
            id: record.id,
            created: record.created,
            weight: record.weight(),
            lane: record.lane.clone(),
        };
        self.evict_pending(&place, record.seq)
    }
}

/// Stands for a body that is not there: nothing, when there was none; else what cannot be read, so that it is never
/// sent without.
fn no_body(record: &Record) -> Body {
    match record.body_bytes {
        0 => Body::Bytes(bytes::Bytes::new()),
        bytes => Body::File(BodyFile::new(format!("{}.lost", record.id), bytes, 0)),
    }
}
