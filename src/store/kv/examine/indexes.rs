//! The indexes, entry by entry: each must lead to an action that says the same.

use std::path::Path;

use bytes::Bytes;

use super::super::append::settled_at;
use super::super::coalesce::is_waiting;
use super::super::keys::{self, Place, Ready};
use super::super::lanes::LaneRow;
use super::super::queue::{Tally, parse};
use super::{Examined, Kept};
use crate::action::{ActionId, Record, State};
use crate::decide::Gate;
use crate::error::Result;
use crate::store::bodies::{FileKind, files_in};
use crate::store::examination::Problem;
use crate::store::kv::Engine;

/// A lane's places, as they were met.
struct Met {
    no: u64,
    lane: crate::action::Lane,
    count: u64,
    first: (u64, ActionId),
}

impl<E: Engine> Examined<'_, E> {
    pub(super) fn indexes(&mut self) -> Result<()> {
        self.places()?;
        self.over(b"n", Self::lane_row)?;
        self.over(&[keys::READY], Self::ready)?;
        self.over(&[keys::IN_FLIGHT], |this, key, _| {
            let id = keys::id_at(key, 1)?;
            this.must_be(id, "what is in flight", |record| {
                matches!(record.state, State::InFlight { .. })
            })
        })?;
        self.over(&[keys::EXPIRY], |this, key, _| {
            let at = keys::number_at(key, 1)?;
            this.must_be(keys::id_at(key, 9)?, "what expires", |record| {
                let expires = record.expires.filter(|_| record.due().is_some());
                expires.is_some_and(|expires| expires.as_millis() == at)
            })
        })?;
        self.over(&[keys::SETTLED], |this, key, value| {
            let (at, bytes) = (keys::number_at(key, 1)?, keys::number_at(value, 0)?);
            this.must_be(keys::id_at(key, 9)?, "what is settled", |record| {
                let is_then = settled_at(record).is_some_and(|then| then.as_millis() == at);
                is_then && record.answer_bytes == bytes
            })
        })?;
        self.over(&[keys::DEAD], Self::dead)?;
        self.ties()?;
        self.over(b"k", |this, _, value| {
            this.must_be(keys::id_at(value, 0)?, "keys", |_| true)
        })?;
        self.over(b"c", |this, _, value| {
            this.must_be(keys::id_at(value, 0)?, "coalescing keys", |record| {
                is_waiting(record)
            })
        })?;
        self.over(b"p", |this, key, _| {
            let id = keys::id_at(key, 1)?;
            if matches!(this.newest(id)?, Kept::Nothing) {
                let place = format!("action {id}");
                let text = "there is an answer, and no action";
                this.out.find(Problem::Orphan, place, text);
            }
            Ok(())
        })?;
        self.over(&[keys::GATES], |this, key, value| {
            let gate: Gate = parse(value)?;
            if keys::gate(&gate.key) != key {
                this.out
                    .find(Problem::Index, "a gate", "it lies under another name");
            }
            Ok(())
        })?;
        self.over(b"q", |this, _, _| {
            let text = "bytes that could not be read lie in quarantine";
            this.out.find(Problem::Quarantine, "the store", text);
            Ok(())
        })
    }

    /// The action that an index leads to is there, and is what the index says.
    fn must_be(
        &mut self,
        id: ActionId,
        index: &str,
        is_so: impl FnOnce(&Record) -> bool,
    ) -> Result<()> {
        let is_right = match self.newest(id)? {
            Kept::Record(record) => is_so(&record),
            Kept::Newer => true,
            Kept::Nothing => false,
        };
        if !is_right {
            let text = format!("the index of {index} has it, and it is not");
            self.out.find(Problem::Index, format!("action {id}"), text);
        }
        Ok(())
    }

    /// Lane by lane, in order.
    fn places(&mut self) -> Result<()> {
        let mut met: Option<Met> = None;
        self.over(&[keys::PLACES], |this, key, value| {
            let (no, seq) = (keys::number_at(key, 1)?, keys::number_at(key, 9)?);
            let place = Place::decode(value)?;
            this.must_be(place.id, "places", |record| {
                record.state.is_pending() && record.seq == seq && record.lane == place.lane
            })?;
            match &mut met {
                Some(met) if met.no == no => met.count += 1,
                _ => {
                    let next = Met {
                        no,
                        lane: place.lane,
                        count: 1,
                        first: (seq, place.id),
                    };
                    if let Some(last) = met.replace(next) {
                        this.lane_of_places(&last)?;
                    }
                }
            }
            Ok(())
        })?;
        match met {
            Some(last) => self.lane_of_places(&last),
            None => Ok(()),
        }
    }

    /// The row of a lane says what its places are.
    fn lane_of_places(&mut self, met: &Met) -> Result<()> {
        let row: Option<LaneRow> = self.row(&keys::lane(&met.lane))?;
        let first = row.as_ref().and_then(|row| row.first);
        let is_right = row
            .as_ref()
            .is_some_and(|row| row.no == met.no && row.pending == met.count)
            && first.is_some_and(|first| (first.seq, first.id) == met.first);
        if !is_right {
            let text = "its row does not say how many are pending, or which is first";
            self.out
                .find(Problem::Lane, format!("lane {}", met.no), text);
        }
        Ok(())
    }

    fn lane_row(&mut self, key: &[u8], value: &Bytes) -> Result<()> {
        let lane = keys::lane_of(&key[1..])?;
        let row: LaneRow = parse(value)?;
        let place = format!("lane {}", row.no);
        let places = keys::places_of(row.no);
        let has_places = !self
            .txn
            .scan(&places, &keys::behind(&places), 1)?
            .is_empty();
        let in_flight = self.in_flight.get(&lane).copied().unwrap_or(0);
        if has_places != (row.pending > 0) || in_flight != row.in_flight {
            let text = "its row does not say what is pending or in flight";
            self.out.find(Problem::Lane, &place, text);
        }
        self.out.seen.counts.blocked_lanes += u64::from(!row.blocked.is_empty());
        for block in &row.blocked {
            self.must_be(block.id, "what blocks lanes", |record| {
                record.state.is_dead() && record.lane == lane && record.seq == block.seq
            })?;
        }
        self.head(&row, &place)
    }

    /// A head that can be leased stands among the ready ones, and its lane among the oldest.
    fn head(&mut self, row: &LaneRow, place: &str) -> Result<()> {
        let (is_readable, is_held) = match row.head() {
            Some(id) => match self.newest(id)? {
                Kept::Record(record) => (true, record.is_held()),
                _ => (false, false),
            },
            None => (true, false),
        };
        let ready = row.ready.map(|ready| ready.id);
        let head = row.head().filter(|_| !is_held);
        let is_listed = match row.ready_key() {
            Some(ready) => self.txn.get(&ready.key())?.is_some(),
            None => true,
        };
        if !is_listed || (is_readable && ready != head) {
            let text = "its head is not among those that can be leased";
            self.out.find(Problem::Lane, place, text);
        }
        if let Some(created) = row.oldest
            && self.txn.get(&keys::oldest(created, row.no))?.is_none()
        {
            let text = "it is missing in the index of the oldest";
            self.out.find(Problem::Index, place, text);
        }
        let oldest = &mut self.out.seen.counts.oldest;
        *oldest = match (*oldest, row.oldest) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Ok(())
    }

    /// Each tie leads to a child that says the same. One whose child could not be read goes when its parent ends.
    fn ties(&mut self) -> Result<()> {
        let mut count = 0;
        self.over(&[keys::TIES], |this, key, _| {
            count += 1;
            let (parent, child) = (keys::id_at(key, 1)?, keys::id_at(key, 17)?);
            if matches!(this.newest(child)?, Kept::Nothing) {
                return Ok(());
            }
            this.must_be(child, "children", |record| {
                record.waits.contains(&parent) || record.needs.contains(&parent)
            })
        })?;
        let tally: Tally = self.row(keys::TOTALS)?.unwrap_or_default();
        if tally.ties != count {
            let text = format!("the store counts {}, and {count} are there", tally.ties);
            self.out.find(Problem::Count, "children", text);
        }
        self.over(&[keys::UNFILLED], |this, key, _| {
            this.must_be(keys::id_at(key, 1)?, "what is to be filled in", |record| {
                record.waits.is_empty() && !record.needs.is_empty()
            })
        })
    }

    fn ready(&mut self, key: &[u8], value: &Bytes) -> Result<()> {
        let ready = Ready::of(key)?;
        let row: Option<LaneRow> = self.row(&keys::lane(&keys::lane_of(value)?))?;
        let is_told = row.and_then(|row| row.ready_key()) == Some(ready);
        if !is_told || self.txn.get(&keys::pair(ready.gate_no))?.is_none() {
            let text = "it stands among the ready ones, and its row or its gate does not say so";
            let place = format!("lane {}", ready.lane_no);
            self.out.find(Problem::Lane, place, text);
        }
        Ok(())
    }

    fn dead(&mut self, key: &[u8], value: &Bytes) -> Result<()> {
        let (at, id) = (keys::number_at(key, 1)?, keys::id_at(key, 9)?);
        let weight = keys::number_at(value, 0)?;
        self.must_be(id, "dead letters", |record| {
            let is_then =
                matches!(record.state, State::Dead { at: then, .. } if then.as_millis() == at);
            is_then && record.weight() == weight
        })?;
        let name = value.get(8..).unwrap_or_default();
        if name.is_empty() {
            return Ok(());
        }
        let row: Option<LaneRow> = self.row(&keys::lane(&keys::lane_of(name)?))?;
        let is_blocking = row.is_some_and(|row| row.blocked.iter().any(|block| block.id == id));
        if !is_blocking {
            let text = "it blocks its lane, and the lane does not know";
            self.out.find(Problem::Lane, format!("action {id}"), text);
        }
        Ok(())
    }

    /// Files that no body and no answer names.
    pub(super) fn files(&mut self, dir: &Path) -> Result<()> {
        for (name, owner) in files_in(dir)? {
            let Some((id, kind)) = owner else {
                let text = "it has no name of the vault's; it is left alone";
                self.out.find(Problem::UnknownFile, name, text);
                continue;
            };
            let body = match kind {
                FileKind::Body => self.txn.get(&keys::birth(id))?.and_then(behind_record),
                FileKind::Answer => self.txn.get(&keys::answer(id))?,
                FileKind::Cached => self.txn.get(&keys::cached_body(id))?,
            };
            let names = body.map_or_else(Vec::new, |bytes| names_in(&bytes, id));
            if !names.contains(&name) {
                let text = "no action names it: the next open removes it";
                self.out.find(Problem::Orphan, name, text);
            }
        }
        Ok(())
    }
}

fn behind_record(birth: Bytes) -> Option<Bytes> {
    let (_, length) = crate::action::Frame::decode_prefix(&birth).ok()?;
    Some(birth.slice(length..))
}

fn names_in(bytes: &Bytes, id: ActionId) -> Vec<String> {
    let kinds = [
        crate::action::FrameKind::Body,
        crate::action::FrameKind::Answer,
        crate::action::FrameKind::CachedBody,
    ];
    let found = kinds
        .into_iter()
        .find_map(|kind| super::unframe(bytes.clone(), kind, id).ok());
    let names = found.iter().flat_map(crate::action::Body::files);
    names
        .map(|file| file.path.to_string_lossy().into_owned())
        .collect()
}
