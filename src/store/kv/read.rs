//! Reads: single actions, pages, lanes. What is read is durable when it is answered.

use super::Engine;
use super::keys::{self, Key, Place};
use super::queue::Queue;
use super::records::Found;
use crate::action::{ActionId, Lane, Record};
use crate::error::Result;
use crate::store::{Cursor, Find, LaneTotals, Page, Part, Query};

/// A stretch of keys that a page goes over.
struct Range {
    start: Key,
    end: Key,
}

impl Range {
    fn of(prefix: &[u8]) -> Self {
        Self {
            start: prefix.to_vec(),
            end: keys::behind(prefix),
        }
    }
}

impl<E: Engine> Queue<E> {
    pub(super) fn get(&mut self, find: &Find) -> Result<Option<Record>> {
        match find {
            Find::Id(id) => self.record(*id),
            Find::Key(key) => match self.id_of_key(key)? {
                Some(id) => self.record(id),
                None => Ok(None),
            },
            Find::Coalescing { lane, key } => self.waiting(lane, key),
        }
    }

    /// The action that goes by `key`: the caller's, or its own id when it was given none.
    pub(super) fn id_of_key(&mut self, key: &str) -> Result<Option<ActionId>> {
        if let Some(id) = self.txn.get(&keys::idempotency(key))? {
            return keys::id_at(&id, 0).map(Some);
        }
        let Ok(id) = key.parse::<ActionId>() else {
            return Ok(None);
        };
        Ok(match self.find(id)? {
            Found::Record(record) if record.key.is_none() => Some(id),
            _ => None,
        })
    }

    pub(super) fn lane(&mut self, lane: &Lane) -> Result<LaneTotals> {
        let direct = self.direct_in(lane);
        let Some(row) = self.lane_row(lane)? else {
            return Ok(LaneTotals::default());
        };
        Ok(LaneTotals {
            direct,
            pending: row.pending,
            in_flight: row.in_flight,
            head: row.first.map(|first| first.id),
            blocked_by: row.blocked.first().map(|block| block.id),
            blocking: row.blocked.iter().map(|block| block.id).collect(),
        })
    }

    pub(super) fn page(&mut self, query: Query) -> Result<Page> {
        let limit = query.limit.clamp(1, Query::LIMIT_MAX);
        let Some(range) = self.range(&query.part)? else {
            return Ok(Page::default());
        };
        let mut from = range.start;
        if let Some(Cursor(after)) = &query.after {
            from = from.max(keys::after(after));
        }
        let mut page = Page::default();
        loop {
            let want = limit - page.records.len();
            let mut entries = self.txn.scan(&from, &range.end, want + 1)?;
            let has_more = entries.len() > want;
            entries.truncate(want);
            for (key, value) in &entries {
                page.records.extend(self.entry(&query.part, key, value)?);
            }
            let Some((last, _)) = entries.last().filter(|_| has_more) else {
                return Ok(page);
            };
            if page.records.len() == limit {
                page.next = Some(Cursor(last.clone()));
                return Ok(page);
            }
            from = keys::after(last);
        }
    }

    fn range(&mut self, part: &Part) -> Result<Option<Range>> {
        Ok(Some(match part {
            Part::Pending => Range::of(&[keys::PLACES]),
            Part::Lane(lane) => match self.lane_row(lane)? {
                Some(row) => Range::of(&keys::places_of(row.no)),
                None => return Ok(None),
            },
            Part::Dead => Range::of(&[keys::DEAD]),
            Part::Settled => Range::of(&[keys::SETTLED]),
        }))
    }

    /// The record of an index entry. One that cannot be read is left to whoever meets it at work, or evicted
    /// when nobody would.
    fn entry(&mut self, part: &Part, key: &[u8], value: &[u8]) -> Result<Option<Record>> {
        let id = match part {
            Part::Pending | Part::Lane(_) => Place::decode(value)?.id,
            Part::Dead | Part::Settled => keys::id_at(key, 9)?,
        };
        // What is in flight is known from memory, and is not evicted from under its attempt.
        if let Some(record) = self.in_flight.get(&id) {
            return Ok(Some(record.clone()));
        }
        match self.read(id)?.0 {
            Found::Record(record) => return Ok(Some(record)),
            Found::Newer => return Ok(None),
            Found::Missing | Found::Damaged => {}
        }
        match part {
            Part::Pending | Part::Lane(_) => {
                let place = Place::decode(value)?;
                self.evict_pending(&place, keys::number_at(key, 9)?)?;
            }
            Part::Dead => self.evict_dead(id, key, value)?,
            Part::Settled => self.unretain_entry(key, value)?,
        }
        Ok(None)
    }

    fn evict_dead(&mut self, id: ActionId, key: &[u8], value: &[u8]) -> Result<()> {
        self.quarantine(id)?;
        self.look_at_children(id)?;
        self.txn.delete(key.to_vec());
        let weight = keys::number_at(value, 0)?;
        let tally = &mut self.tally;
        tally.counts.dead = tally.counts.dead.saturating_sub(1);
        tally.counts.bytes = tally.counts.bytes.saturating_sub(weight);
        tally.ledger.dead = tally.ledger.dead.saturating_sub(1);
        tally.ledger.evicted += 1;
        match value.get(8..) {
            Some(name) if !name.is_empty() => self.unblock(&keys::lane_of(name)?, id),
            _ => Ok(()),
        }
    }
}
