//! Actions that wait for others. A tie leads from a parent to each child that waits for it or needs its answer. When a parent
//! comes to an end, or comes back, a mark says so in the same commit; later steps go through its children, a bounded number at
//! a time, and compare each with what the parent is by then. See DESIGN.md, "How does an action wait for another one?".

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Engine;
use super::ending::change_state;
use super::keys;
use super::queue::Queue;
use super::records::{Found, Kept};
use crate::action::{ActionId, Change, DeadReason, Record, State};
use crate::clock::Timestamp;
use crate::decide::DeadLane;
use crate::error::Result;
use crate::store::{Advanced, Fill, PARENTS_MAX, Unfit};

/// How many children one `advance` looks at.
const TEND_MAX: usize = 256;
/// How many children one `advance` gives to be filled in.
const UNFILLED_MAX: usize = 64;

/// What a parent is, as its children see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Queued or in flight, at this place.
    Pending(u64),
    Delivered,
    Dead,
    /// It came to another end, or it is not there.
    Gone,
    /// Written by a newer version: only that knows.
    Newer,
}

impl Fate {
    fn of(parent: &Record) -> Self {
        match parent.state {
            State::Queued { .. } | State::InFlight { .. } => Self::Pending(parent.seq),
            State::Delivered { .. } => Self::Delivered,
            State::Dead { .. } => Self::Dead,
            _ => Self::Gone,
        }
    }
}

/// Whom an action is tied to.
fn ties(record: &Record) -> BTreeSet<ActionId> {
    record.waits.iter().chain(&record.needs).copied().collect()
}

impl<E: Engine> Queue<E> {
    /// Finds out for whom a new action has to wait; nothing is written. Why it cannot is the answer.
    pub(super) fn adopt(&mut self, record: &mut Record) -> Result<Option<(ActionId, Unfit)>> {
        record.waits.clear();
        if let Some(parent) = record.parents.get(PARENTS_MAX) {
            return Ok(Some((*parent, Unfit::TooMany)));
        }
        for parent in record.parents.clone() {
            let found = match self.find(parent)? {
                Found::Record(found) => found,
                _ if parent == record.id => return Ok(Some((parent, Unfit::Itself))),
                _ => return Ok(Some((parent, Unfit::Unknown))),
            };
            let needs_answer = record.needs.contains(&parent);
            let unfit = match Fate::of(&found) {
                _ if found.principal != record.principal => Some(Unfit::Foreign),
                Fate::Delivered if needs_answer && found.answer_bytes == 0 => Some(Unfit::NoAnswer),
                Fate::Pending(_) | Fate::Delivered | Fate::Dead => None,
                Fate::Gone | Fate::Newer => Some(Unfit::Ended),
            };
            if let Some(why) = unfit {
                return Ok(Some((parent, why)));
            }
            if !matches!(found.state, State::Delivered { .. }) && !record.waits.contains(&parent) {
                record.waits.push(parent);
            }
        }
        let is_parent = |id: &ActionId| record.parents.contains(id);
        let stranger = record.needs.iter().find(|id| !is_parent(id));
        Ok(stranger.map(|stranger| (*stranger, Unfit::Unknown)))
    }

    /// After an action with parents got its place: it is found by them from now on.
    pub(super) fn join(&mut self, record: &Record) -> Result<()> {
        for parent in &record.waits {
            if let Found::Record(found) = self.find(*parent)? {
                // Somebody waits for it: what is refused must stay to be seen.
                self.end_direct(&found)?;
            }
        }
        self.tie(record)?;
        for parent in &record.waits {
            if !matches!(self.fate(*parent)?, Fate::Pending(_)) {
                self.look_at_children(*parent)?;
            }
        }
        Ok(())
    }

    /// Writes the ties of an action that is pending or dead.
    pub(super) fn tie(&mut self, record: &Record) -> Result<()> {
        for parent in ties(record) {
            let key = keys::tie(parent, record.id);
            if self.txn.get(&key)?.is_none() {
                self.txn.put(key, Bytes::new());
                self.tally.ties += 1;
            }
        }
        self.list_unfilled(record);
        Ok(())
    }

    fn list_unfilled(&mut self, record: &Record) {
        let is_free = record.waits.is_empty() && !record.needs.is_empty();
        if is_free && record.due().is_some() {
            self.txn.put(keys::unfilled(record.id), Bytes::new());
        }
    }

    /// As [`tie`](Self::tie), of an action that comes from elsewhere: what its parents are is looked at later.
    pub(super) fn tie_anew(&mut self, record: &Record) -> Result<()> {
        self.tie(record)?;
        for parent in &record.waits {
            self.look_at_children(*parent)?;
        }
        Ok(())
    }

    /// Removes all ties of an action to its parents.
    pub(super) fn untie(&mut self, record: &Record) -> Result<()> {
        for parent in ties(record) {
            self.untie_from(parent, record.id)?;
        }
        if !record.needs.is_empty() {
            self.txn.delete(keys::unfilled(record.id));
        }
        Ok(())
    }

    fn untie_from(&mut self, parent: ActionId, child: ActionId) -> Result<()> {
        let key = keys::tie(parent, child);
        if self.txn.get(&key)?.is_some() {
            self.txn.delete(key);
            self.tally.ties = self.tally.ties.saturating_sub(1);
        }
        Ok(())
    }

    /// Does anybody wait for it, or need its answer?
    pub(super) fn has_children(&self, id: ActionId) -> Result<bool> {
        if self.tally.ties == 0 {
            return Ok(false);
        }
        let from = keys::ties_of(id);
        let first = self.txn.scan(&from, &keys::behind(&from), 1)?;
        Ok(!first.is_empty())
    }

    /// Something happened to a parent: its children are looked at from the first one, by this step or by later ones.
    pub(super) fn look_at_children(&mut self, id: ActionId) -> Result<()> {
        if self.has_children(id)? {
            self.txn.put(keys::mark(id), Bytes::new());
        }
        Ok(())
    }

    fn fate(&mut self, parent: ActionId) -> Result<Fate> {
        Ok(match self.find(parent)? {
            Found::Record(record) => Fate::of(&record),
            Found::Missing | Found::Damaged => Fate::Gone,
            Found::Newer => Fate::Newer,
        })
    }

    /// Goes on with the children that are to be looked at.
    pub(super) fn tend(
        &mut self,
        dead_lane: DeadLane,
        now: Timestamp,
        done: &mut Advanced,
    ) -> Result<()> {
        let mut room = TEND_MAX;
        while room > 0 {
            let Some((parent, after)) = self.first_mark()? else {
                break;
            };
            let (mut from, end) = (keys::ties_of(parent), keys::behind(&keys::ties_of(parent)));
            if let Some(after) = after {
                from = keys::after(&keys::tie(parent, after));
            }
            let page = self.txn.scan(&from, &end, room)?;
            let is_last = page.len() < room;
            room -= page.len().max(1);
            let mut last = after;
            for (key, _) in page {
                let child = keys::id_at(&key, 17)?;
                self.meet(child, parent, (dead_lane, now), done)?;
                last = Some(child);
            }
            match last {
                Some(last) if !is_last => {
                    let last = keys::id_value(last);
                    self.txn.put(keys::mark(parent), last);
                }
                _ => self.txn.delete(keys::mark(parent)),
            }
        }
        Ok(())
    }

    /// The parent whose children are to be looked at next, and after which of them.
    fn first_mark(&self) -> Result<Option<(ActionId, Option<ActionId>)>> {
        if self.tally.ties == 0 {
            return Ok(None);
        }
        let from = [keys::MARKS];
        let first = self.txn.scan(&from, &keys::behind(&from), 1)?.pop();
        let read = |(key, after): (Bytes, Bytes)| {
            let after = match after.is_empty() {
                true => None,
                false => Some(keys::id_at(&after, 0)?),
            };
            Ok((keys::id_at(&key, 1)?, after))
        };
        first.map(read).transpose()
    }

    pub(super) fn is_unfinished(&self) -> Result<bool> {
        Ok(self.first_mark()?.is_some())
    }

    /// Brings a child in line with what its parent is now.
    fn meet(
        &mut self,
        child: ActionId,
        parent: ActionId,
        (dead_lane, now): (DeadLane, Timestamp),
        done: &mut Advanced,
    ) -> Result<()> {
        let record = match self.find(child)? {
            Found::Record(record) => record,
            Found::Missing | Found::Damaged => return self.untie_from(parent, child),
            Found::Newer => return Ok(()),
        };
        let fate = self.fate(parent)?;
        match (&record.state, fate) {
            (_, Fate::Newer) => {}
            (State::Queued { .. }, _) if !record.waits.contains(&parent) => {}
            (State::Queued { .. }, Fate::Delivered) => self.free(record, parent)?,
            (State::Queued { .. }, Fate::Pending(seq)) if seq > record.seq => {
                self.move_behind(record)?;
            }
            (State::Queued { .. }, Fate::Dead | Fate::Gone) => {
                let reason = DeadReason::ParentDead { parent };
                let buried = self.bury_held(record, reason, dead_lane, now)?;
                done.buried.push(buried);
            }
            (State::Dead { reason, .. }, Fate::Delivered | Fate::Pending(_))
                if *reason == (DeadReason::ParentDead { parent }) =>
            {
                done.revived.extend(self.revive(record, now)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// One parent less to wait for.
    fn free(&mut self, mut record: Record, parent: ActionId) -> Result<()> {
        self.stop_waiting(&mut record, parent)?;
        self.rewrite(&mut record)?;
        self.list_unfilled(&record);
        // It may be the head of its lane, and can be leased now.
        self.lane_mut(&record.lane)?;
        Ok(())
    }

    fn stop_waiting(&mut self, record: &mut Record, parent: ActionId) -> Result<()> {
        record.waits.retain(|id| *id != parent);
        if !record.needs.contains(&parent) {
            self.untie_from(parent, record.id)?;
        }
        Ok(())
    }

    /// Its parent went to the end of the queue: it stays behind it, and its own children behind it.
    fn move_behind(&mut self, mut record: Record) -> Result<()> {
        self.displace(&record.lane, record.seq)?;
        self.take_last_place(&mut record);
        self.rewrite(&mut record)?;
        self.place(&record)?;
        self.look_at_children(record.id)
    }

    pub(super) fn take_last_place(&mut self, record: &mut Record) {
        record.seq = self.tally.seq_next;
        self.tally.seq_next += 1;
    }

    /// Would it stand behind all that it waits for?
    pub(super) fn may_stand_at(&mut self, record: &Record, place: u64) -> Result<bool> {
        for parent in &record.waits {
            if let Fate::Pending(seq) = self.fate(*parent)?
                && seq > place
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes a dead letter of an action that was never leased.
    fn bury_held(
        &mut self,
        mut record: Record,
        reason: DeadReason,
        lane: DeadLane,
        at: Timestamp,
    ) -> Result<Record> {
        self.unindex_queued(&record)?;
        self.txn.delete(keys::unfilled(record.id));
        record.state = change_state(&record, Change::Die { reason, at })?;
        self.leave_pending(&record)?;
        self.bury(&mut record, lane)?;
        self.look_at_children(record.id)?;
        Ok(record)
    }

    /// Sends a child back, unless another parent of it is dead: then it waits for that one.
    fn revive(&mut self, mut record: Record, now: Timestamp) -> Result<Option<Record>> {
        if self.is_forgetting(record.principal.as_deref()) {
            return Ok(None);
        }
        if let Some(parent) = self.settle_waits(&mut record)? {
            if let State::Dead { reason, .. } = &mut record.state {
                *reason = DeadReason::ParentDead { parent };
            }
            self.rewrite(&mut record)?;
            return Ok(None);
        }
        self.send_back(record, now).map(Some)
    }

    /// Takes the delivered parents off the waits. When one will not be delivered, it is the answer, and nothing has changed.
    pub(super) fn settle_waits(&mut self, record: &mut Record) -> Result<Option<ActionId>> {
        let mut delivered = Vec::new();
        for parent in &record.waits {
            match self.fate(*parent)? {
                Fate::Pending(_) => {}
                Fate::Delivered => delivered.push(*parent),
                Fate::Dead | Fate::Gone | Fate::Newer => return Ok(Some(*parent)),
            }
        }
        for parent in delivered {
            self.stop_waiting(record, parent)?;
        }
        Ok(None)
    }

    /// What waits for the worker to fill it in, a page of it.
    pub(super) fn unfilled(&mut self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        if self.tally.ties == 0 {
            return Ok(records);
        }
        let from = [keys::UNFILLED];
        for (key, _) in self.txn.scan(&from, &keys::behind(&from), UNFILLED_MAX)? {
            match self.find(keys::id_at(&key, 1)?)? {
                Found::Record(record) if record.due().is_some() => records.push(record),
                Found::Newer => {}
                _ => self.txn.delete(key.to_vec()),
            }
        }
        Ok(records)
    }

    /// Takes what was filled in, once and for good. One that changed meanwhile is given out again.
    pub(super) fn fill(
        &mut self,
        fill: Fill,
        body: Option<Kept>,
        (dead_lane, now): (DeadLane, Timestamp),
        done: &mut Advanced,
    ) -> Result<()> {
        let Fill {
            record: new, dead, ..
        } = fill;
        let is_unchanged = |record: &Record| {
            let is_free = record.waits.is_empty() && !record.needs.is_empty();
            record.revision == new.revision && record.due().is_some() && is_free
        };
        let found = match self.find(new.id)? {
            Found::Record(found) if is_unchanged(&found) => found,
            _ => {
                body.into_iter()
                    .for_each(|body| self.refuse_body(new.id, body));
                return Ok(());
            }
        };
        if let Some(reason) = dead {
            body.into_iter()
                .for_each(|body| self.refuse_body(new.id, body));
            let mut record = found;
            record.last_error = new.last_error;
            let buried = self.bury_held(record, reason, dead_lane, now)?;
            done.buried.push(buried);
            return Ok(());
        }
        self.fill_in(found, new, body)
    }

    fn fill_in(&mut self, mut record: Record, new: Record, body: Option<Kept>) -> Result<()> {
        let before = record.weight();
        self.untie(&record)?;
        record.needs.clear();
        record.content = new.content;
        record.origin = new.origin;
        record.head_bytes = new.head_bytes;
        if let Some(body) = &body {
            record.body_bytes = match record.head_bytes {
                Some(_) => new.body_bytes,
                None => body.len(),
            };
        }
        let counts = &mut self.tally.counts;
        counts.bytes = counts.bytes.saturating_sub(before) + record.weight();
        self.displace(&record.lane, record.seq)?;
        self.rewrite(&mut record)?;
        if let Some(body) = body {
            self.put_body(&record, &body)?;
        }
        self.place(&record)
    }
}
