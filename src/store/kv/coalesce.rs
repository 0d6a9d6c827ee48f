//! Whose place an action takes: what waits under its coalescing key, or one that the caller has looked at. Compare and set:
//! the app's rule ran before, outside, and what it saw must still be so.

use super::Engine;
use super::keys;
use super::queue::Queue;
use super::records::{Found, Kept};
use crate::action::{ActionId, Change, Lane, Record, State, WireState};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::store::{Appended, LanePlace, Over, Then};

/// Whose place a new action gets.
pub(super) enum Claim {
    /// Nobody's.
    Free,
    Takes(Record, Then),
    /// It may not be added; what is there.
    Refused(Option<Record>),
}

impl<E: Engine> Queue<E> {
    /// One that others wait for keeps its place: nobody takes it.
    pub(super) fn claim(&mut self, over: &Over, new: &Record) -> Result<Claim> {
        let (id, revision, then) = match *over {
            Over::Nothing => return Ok(Claim::Free),
            Over::Latest => {
                let old = self.rival_of(new)?;
                let take = |old| Claim::Takes(old, Then::Supersede(LanePlace::End));
                return Ok(old.map_or(Claim::Free, take));
            }
            Over::Vacant => {
                let old = self.rival_of(new)?;
                return Ok(old.map_or(Claim::Free, |old| Claim::Refused(Some(old))));
            }
            Over::Exactly { id, revision, then } => (id, revision, then),
        };
        let Found::Record(old) = self.find(id)? else {
            return Ok(Claim::Refused(None));
        };
        let is_same = revision.is_none_or(|revision| revision == old.revision);
        let is_free =
            is_same && old.lane == new.lane && is_unsent(&old) && !self.is_parent(&old, new)?;
        if is_free && (place_of(then) != LanePlace::OldIfLast || self.is_last(&old)?) {
            return Ok(Claim::Takes(old, then));
        }
        Ok(Claim::Refused(Some(old)))
    }

    fn is_parent(&self, old: &Record, new: &Record) -> Result<bool> {
        Ok(new.parents.contains(&old.id) || self.has_children(old.id)?)
    }

    fn waiting_of(&mut self, new: &Record) -> Result<Option<Record>> {
        match &new.coalesce {
            Some(key) => self.waiting(&new.lane, key),
            None => Ok(None),
        }
    }

    /// What waits under its coalescing key, and can be taken over.
    fn rival_of(&mut self, new: &Record) -> Result<Option<Record>> {
        match self.waiting_of(new)? {
            Some(old) if self.is_parent(&old, new)? => Ok(None),
            old => Ok(old),
        }
    }

    /// What waits under a coalescing key.
    pub(super) fn waiting(&mut self, lane: &Lane, key: &str) -> Result<Option<Record>> {
        match self.lane_row(lane)?.map(|row| row.no) {
            Some(no) => self.waiting_at(&keys::coalesce(no, key)),
            None => Ok(None),
        }
    }

    fn waiting_at(&mut self, key: &[u8]) -> Result<Option<Record>> {
        let Some(id) = self.txn.get(key)? else {
            return Ok(None);
        };
        match self.find(keys::id_at(&id, 0)?)? {
            Found::Record(old) if is_waiting(&old) => Ok(Some(old)),
            _ => Ok(None),
        }
    }

    /// To be called before a queued record is written: of two with one coalescing key, only the later one waits under it.
    pub(super) fn pass_key(&mut self, record: &mut Record) -> Result<()> {
        if !is_waiting(record) {
            return Ok(());
        }
        match self.waiting_of(record)? {
            Some(other) if other.id == record.id => Ok(()),
            Some(other) if other.seq > record.seq => {
                record.is_passed = true;
                Ok(())
            }
            Some(mut other) => {
                other.is_passed = true;
                self.rewrite(&mut other)
            }
            None => Ok(()),
        }
    }

    /// Does nothing stand behind it in its lane?
    fn is_last(&mut self, record: &Record) -> Result<bool> {
        let Some(no) = self.lane_row(&record.lane)?.map(|row| row.no) else {
            return Ok(true);
        };
        let from = keys::after(&keys::place(no, record.seq));
        let behind = self
            .txn
            .scan(&from, &keys::behind(&keys::places_of(no)), 1)?;
        Ok(behind.is_empty())
    }

    pub(super) fn supersede(
        &mut self,
        mut old: Record,
        then: Then,
        by: ActionId,
        at: Timestamp,
    ) -> Result<Record> {
        old.superseded_by = Some(by);
        old.is_merged = matches!(then, Then::Merge(_));
        self.end_queued(old, Change::Supersede { at })
    }

    /// The new one comes and goes in one: both are counted, and nothing is left to send.
    pub(super) fn cancel_both(
        &mut self,
        old: Record,
        mut record: Record,
        body: &Kept,
        at: Timestamp,
    ) -> Result<Appended> {
        let waiting = self.end_queued(old, Change::Cancel { at })?;
        self.admit(&mut record, None, at);
        self.pass_key(&mut record)?;
        self.write_birth(&mut record, body)?;
        self.place(&record)?;
        self.index_queued(&record)?;
        Ok(Appended::Cancelled {
            record: self.end_queued(record, Change::Cancel { at })?,
            waiting: Some(waiting),
        })
    }

    /// Lets a queued action wait under its coalescing key.
    pub(super) fn index_waiting(&mut self, record: &Record) -> Result<()> {
        if let Some(key) = self.waiting_key(record)? {
            self.txn.put(key, keys::id_value(record.id));
        }
        Ok(())
    }

    /// Undoes [`index_waiting`](Self::index_waiting). `record` is as it was queued.
    pub(super) fn unindex_waiting(&mut self, record: &Record) -> Result<()> {
        let Some(key) = self.waiting_key(record)? else {
            return Ok(());
        };
        if self.txn.get(&key)?.as_deref() == Some(&record.id.as_bytes()[..]) {
            self.txn.delete(key);
        }
        Ok(())
    }

    fn waiting_key(&mut self, record: &Record) -> Result<Option<keys::Key>> {
        match &record.coalesce {
            Some(coalesce) if is_waiting(record) => {
                let no = self.lane_mut(&record.lane)?.no;
                Ok(Some(keys::coalesce(no, coalesce)))
            }
            _ => Ok(None),
        }
    }
}

/// May another one take its place?
fn is_unsent(record: &Record) -> bool {
    matches!(record.state, State::Queued { .. }) && record.wire == WireState::NeverSent
}

/// Does it wait under its coalescing key?
pub(super) fn is_waiting(record: &Record) -> bool {
    is_unsent(record) && record.coalesce.is_some() && !record.is_passed
}

fn place_of(then: Then) -> LanePlace {
    match then {
        Then::Supersede(place) | Then::Merge(place) => place,
        Then::CancelBoth => LanePlace::End,
    }
}

/// The place of the older one, if the newer one gets it.
pub(super) fn kept_place((old, then): &(Record, Then)) -> Option<u64> {
    match place_of(*then) {
        LanePlace::Old | LanePlace::OldIfLast => Some(old.seq),
        LanePlace::End => None,
    }
}
