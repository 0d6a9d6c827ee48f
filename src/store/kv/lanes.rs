//! Lanes: what is pending in each, in order, and which of them has a head that can be leased.
//! The invariant: a lane has an entry among the ready heads exactly when it has a first action that is queued,
//! nothing in flight and nothing that blocks it.

use serde::{Deserialize, Serialize};

use super::Engine;
use super::front::Front;
use super::keys::{self, Place, Ready};
use super::queue::Queue;
use super::records::Found;
use crate::action::{ActionId, Lane, Record, State};
use crate::clock::Timestamp;
use crate::error::Result;

/// What is kept of one lane, as long as there is something in it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct LaneRow {
    pub(super) no: u64,
    pub(super) pending: u64,
    pub(super) in_flight: u64,
    /// The first that is pending.
    pub(super) first: Option<First>,
    /// Its entry among the ready heads.
    pub(super) ready: Option<ReadyRow>,
    /// The dead letters that block the lane, in its order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) blocked: Vec<Block>,
    /// Under which time the lane stands in the index of the oldest.
    pub(super) oldest: Option<Timestamp>,
    /// The places of the lane.
    #[serde(skip)]
    places: Option<Front>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct First {
    pub(super) seq: u64,
    pub(super) id: ActionId,
    created: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReadyRow {
    pub(super) id: ActionId,
    gate_no: u32,
    rank: u8,
    pub(super) due: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Block {
    pub(super) seq: u64,
    pub(super) id: ActionId,
}

impl LaneRow {
    /// The lowest place that is needed still; nothing when it is not known.
    pub(super) fn lowest(&self) -> Option<u64> {
        let first = self.first.map(|first| first.seq);
        let blocked = self.blocked.first().map(|block| block.seq);
        match (first, blocked) {
            (None, _) if self.pending > 0 => None,
            (Some(first), Some(blocked)) => Some(first.min(blocked)),
            (first, blocked) => first.or(blocked),
        }
    }

    fn is_empty(&self) -> bool {
        self.pending == 0 && self.blocked.is_empty()
    }

    /// A row that was read is asked for its first before that is taken out: nothing lies below it.
    fn places(&mut self) -> &mut Front {
        let (no, first) = (self.no, self.first);
        self.places.get_or_insert_with(|| {
            let prefix = keys::places_of(no);
            match first {
                Some(first) => Front::from(keys::place(no, first.seq), &prefix),
                None => Front::new(&prefix),
            }
        })
    }

    /// The id that should stand among the ready heads.
    pub(super) fn head(&self) -> Option<ActionId> {
        let is_open = self.in_flight == 0 && self.blocked.is_empty();
        self.first.filter(|_| is_open).map(|first| first.id)
    }

    pub(super) fn ready_key(&self) -> Option<Ready> {
        self.ready.map(|ready| Ready {
            rank: ready.rank,
            due: ready.due,
            lane_no: self.no,
            gate_no: ready.gate_no,
        })
    }
}

impl<E: Engine> Queue<E> {
    /// A lane for reading; nothing when there is nothing in it.
    pub(super) fn lane_row(&mut self, lane: &Lane) -> Result<Option<&LaneRow>> {
        if !self.lanes.contains_key(lane) {
            let Some(row) = self.row::<LaneRow>(&keys::lane(lane))? else {
                return Ok(None);
            };
            self.lanes.insert(lane.clone(), row);
        }
        Ok(self.lanes.get(lane))
    }

    /// A lane for changing. What changes here is armed and written later.
    pub(super) fn lane_mut(&mut self, lane: &Lane) -> Result<&mut LaneRow> {
        if self.lane_row(lane)?.is_none() {
            let no = self.tally.lane_no_next;
            self.tally.lane_no_next += 1;
            let row = LaneRow {
                no,
                places: Some(Front::empty(&keys::places_of(no))),
                ..LaneRow::default()
            };
            self.lanes.insert(lane.clone(), row);
        }
        if !self.touched.contains(lane) {
            self.touched.insert(lane.clone());
            self.dirty.insert(lane.clone());
        }
        Ok(self.lanes.entry(lane.clone()).or_default())
    }

    /// Puts a pending record at its place.
    pub(super) fn place(&mut self, record: &Record) -> Result<()> {
        let place = Place {
            id: record.id,
            created: record.created,
            weight: record.weight(),
            lane: record.lane.clone(),
        };
        self.floor = self.floor.min(record.seq);
        self.lane_mut(&record.lane)?;
        let Some(row) = self.lanes.get_mut(&record.lane) else {
            return Ok(());
        };
        let key = keys::place(row.no, record.seq);
        row.places().put(&mut self.txn, key, place.encode());
        row.pending += 1;
        let first = First {
            seq: record.seq,
            id: record.id,
            created: record.created,
        };
        match row.first {
            // The first was taken out and is not looked for yet: this one will be met.
            None if row.pending > 1 => {}
            Some(first) if first.seq < record.seq => {}
            _ => row.first = Some(first),
        }
        Ok(())
    }

    /// Takes what is pending at `seq` out of its lane.
    pub(super) fn displace(&mut self, lane: &Lane, seq: u64) -> Result<()> {
        self.lane_mut(lane)?;
        let Some(row) = self.lanes.get_mut(lane) else {
            return Ok(());
        };
        let key = keys::place(row.no, seq);
        row.places().delete(&mut self.txn, key);
        row.pending = row.pending.saturating_sub(1);
        if row.first.is_some_and(|first| first.seq == seq) {
            row.first = None;
        }
        Ok(())
    }

    /// Brings the index of ready heads in line with the lanes that changed. A lane that was just served waits
    /// its turn: its next head counts as due at `fair` at the earliest.
    pub(super) fn arm(&mut self, fair: Timestamp) -> Result<()> {
        while let Some(lane) = self.touched.pop_first() {
            self.arm_lane(&lane, fair)?;
        }
        Ok(())
    }

    fn arm_lane(&mut self, lane: &Lane, fair: Timestamp) -> Result<()> {
        loop {
            self.find_first(lane)?;
            let Some(row) = self.lanes.get(lane) else {
                return Ok(());
            };
            let head = row.head();
            if row.ready.map(|ready| ready.id) == head {
                break;
            }
            self.disarm(lane);
            let Some(id) = head else { break };
            match self.find(id)? {
                Found::Record(record) if record.is_held() => break,
                Found::Record(record) => {
                    self.set_ready(&record, fair)?;
                    break;
                }
                // It stays, and so does what is behind it: only a newer version may send it.
                Found::Newer => break,
                Found::Missing | Found::Damaged => self.evict_first(lane)?,
            }
        }
        self.note_oldest(lane);
        Ok(())
    }

    pub(super) fn disarm(&mut self, lane: &Lane) {
        let Some(row) = self.lanes.get_mut(lane) else {
            return;
        };
        if let Some(head) = row.ready_key() {
            row.ready = None;
            self.ready.delete(&mut self.txn, &head);
            self.dirty.insert(lane.clone());
        }
    }

    pub(super) fn set_ready(&mut self, record: &Record, fair: Timestamp) -> Result<()> {
        let pair = (record.origin.clone(), record.principal.clone());
        let gate_no = self.gates.number(&mut self.txn, pair)?;
        let due = match record.state {
            State::Queued { due } => due.max(fair),
            _ => fair,
        };
        let Some(row) = self.lanes.get_mut(&record.lane) else {
            return Ok(());
        };
        row.ready = Some(ReadyRow {
            id: record.id,
            gate_no,
            rank: keys::rank(record.priority),
            due,
        });
        if let Some(head) = row.ready_key() {
            self.ready.put(&mut self.txn, &head, &record.lane);
        }
        self.dirty.insert(record.lane.clone());
        Ok(())
    }

    fn find_first(&mut self, lane: &Lane) -> Result<()> {
        let Some(row) = self.lanes.get_mut(lane) else {
            return Ok(());
        };
        if row.first.is_some() || row.pending == 0 {
            return Ok(());
        }
        let Some((key, value)) = row.places().peek(&self.txn)? else {
            tracing::error!(%lane, pending = row.pending, "a lane's index is empty, but its count is not");
            return Ok(());
        };
        let place = Place::decode(&value)?;
        row.first = Some(First {
            seq: keys::number_at(&key, 9)?,
            id: place.id,
            created: place.created,
        });
        Ok(())
    }

    /// Moves the first of a lane, whose record cannot be read, out of the way.
    fn evict_first(&mut self, lane: &Lane) -> Result<()> {
        let Some(row) = self.lanes.get(lane) else {
            return Ok(());
        };
        let Some(first) = row.first else {
            return Ok(());
        };
        let key = keys::place(row.no, first.seq);
        let Some(value) = self.txn.get(&key)? else {
            return self.displace(lane, first.seq);
        };
        self.evict_pending(&Place::decode(&value)?, first.seq)?;
        self.touched.remove(lane);
        Ok(())
    }

    fn note_oldest(&mut self, lane: &Lane) {
        let Some(row) = self.lanes.get_mut(lane) else {
            return;
        };
        let oldest = row.first.map(|first| first.created);
        if row.oldest == oldest {
            return;
        }
        let old = std::mem::replace(&mut row.oldest, oldest);
        let no = row.no;
        if let Some(created) = old {
            self.oldest.delete(&mut self.txn, keys::oldest(created, no));
        }
        if let Some(created) = oldest {
            let key = keys::oldest(created, no);
            self.oldest.put(&mut self.txn, key, Vec::new());
        }
        self.dirty.insert(lane.clone());
    }

    pub(super) fn oldest_created(&mut self) -> Result<Option<Timestamp>> {
        let first = self.oldest.peek(&self.txn)?;
        first
            .map(|(key, _)| keys::number_at(&key, 1).map(Timestamp::from_millis))
            .transpose()
    }

    /// Arms what is left and writes the rows that changed; the row of an empty lane goes.
    pub(super) fn write_lanes(&mut self) -> Result<()> {
        self.arm(Timestamp::EPOCH)?;
        while let Some(lane) = self.dirty.pop_first() {
            let Some(row) = self.lanes.get(&lane) else {
                continue;
            };
            let key = keys::lane(&lane);
            if row.is_empty() {
                self.lanes.remove(&lane);
                self.txn.delete(key);
            } else {
                let row = super::queue::to_json(row)?;
                self.txn.put(key, row);
            }
        }
        Ok(())
    }
}
