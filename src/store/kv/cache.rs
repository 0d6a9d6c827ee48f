//! Answers that are cached: a head, a body and a place in the order of their use for each. What cannot be read is dropped: a cache
//! may be lost. Nothing here is touched by a queue without a cache.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Engine;
use super::keys::{self, CacheSlot};
use super::queue::{Queue, parse};
use super::records::{Kept, frame, unframe};
use crate::action::{ActionId, Body, Frame, FrameKind};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::store::bodies::INLINE_BYTES_MAX;
use crate::store::{CacheEntry, CacheKey, CacheTarget, CacheTotals, Cached, CachedHead};

/// How many answers one call lets go, and of how many it notes that they were used.
const STEP: usize = 64;
/// What sealing may add to a head.
const SEAL_BYTES_MAX: usize = 1024;

/// What is counted of the cache, one row.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct CacheTally {
    entries: u64,
    bytes: u64,
    /// How many were ever kept: the number of the newest.
    kept: u64,
}

impl CacheTally {
    /// In place of one that cannot be read.
    const LOST: Self = Self {
        entries: 0,
        bytes: u64::MAX,
        kept: u64::MAX / 2,
    };

    #[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
    pub(super) fn counts(&self, entries: u64, bytes: u64) -> bool {
        (self.entries, self.bytes) == (entries, bytes)
    }
}

/// The fields of a head's frame. Its revision is the number of the answer.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct HeadFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    principal: Option<String>,
    resource: String,
    query: String,
    variant: String,
    pub(super) used: Timestamp,
    pub(super) weight: u64,
    pub(super) body_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stale_since: Option<Timestamp>,
}

impl HeadFields {
    fn is_of(&self, target: &CacheTarget) -> bool {
        (&self.principal, &self.resource, &self.query)
            == (&target.principal, &target.resource, &target.query)
    }

    pub(super) fn slot(&self) -> CacheSlot {
        let query = self.query.clone();
        let target = CacheTarget::new(self.principal.clone(), self.resource.clone(), query);
        CacheSlot::of(&CacheKey::new(target, self.variant.clone()))
    }
}

/// A head, as it is kept.
#[derive(Clone)]
pub(super) struct KeptHead {
    pub(super) fields: HeadFields,
    no: u64,
    content: Bytes,
}

impl KeptHead {
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) when it is damaged, or that of another answer.
    pub(super) fn decode(slot: CacheSlot, bytes: Bytes) -> Result<Self> {
        let frame = Frame::decode(bytes)?;
        let fields: HeadFields = frame.fields()?;
        let is_own = (frame.kind, frame.id) == (FrameKind::CachedHead, slot.id());
        if !is_own || fields.slot() != slot {
            return Err(misplaced());
        }
        Ok(Self {
            fields,
            no: frame.revision,
            content: frame.content,
        })
    }

    fn encode(&self, slot: CacheSlot) -> Result<Vec<u8>> {
        let kind = FrameKind::CachedHead;
        Frame::encode(kind, slot.id(), self.no, &self.fields, &self.content)
    }
}

fn misplaced() -> Error {
    let text = "a cached answer is that of another request";
    Error::new(crate::error::ErrorKind::Corrupt, text)
}

impl<E: Engine> Queue<E> {
    fn cache_tally(&mut self) -> Result<CacheTally> {
        if let Some(tally) = self.cache {
            return Ok(tally);
        }
        let row = self.txn.get(keys::CACHE)?;
        let tally = row.map_or(Ok(CacheTally::default()), |row| parse(&row));
        // What cannot be counted any more goes as if it were too much, and whatever is written to is newer than all of it.
        let tally = tally.unwrap_or(CacheTally::LOST);
        self.cache = Some(tally);
        Ok(tally)
    }

    fn set_cache_tally(&mut self, tally: CacheTally) -> Result<()> {
        self.cache = Some(tally);
        self.put_row(keys::CACHE.to_vec(), &tally)
    }

    pub(super) fn cache_totals(&mut self) -> Result<CacheTotals> {
        let tally = self.cache_tally()?;
        Ok(CacheTotals::new(tally.entries, tally.bytes, tally.kept))
    }

    /// The heads of all answers to a target.
    pub(super) fn cached(&mut self, target: &CacheTarget) -> Result<Vec<CachedHead>> {
        let slot = CacheSlot::of(&CacheKey::new(target.clone(), String::new()));
        let mark = self.stale_mark(slot)?;
        let heads = self.heads_under(&slot.target())?;
        let own = heads
            .into_iter()
            .filter(|(_, head)| head.fields.is_of(target));
        let told = own.map(|(_, head)| {
            let marked = mark.filter(|(no, _)| *no >= head.no).map(|(_, at)| at);
            let stale = [marked, head.fields.stale_since];
            let stale_since = stale.into_iter().flatten().min();
            CachedHead::new(head.fields.variant, head.content, stale_since)
        });
        Ok(told.collect())
    }

    /// Those that can be read, the others are dropped.
    fn heads_under(&mut self, prefix: &[u8]) -> Result<Vec<(CacheSlot, KeptHead)>> {
        let limit = 2 * CacheEntry::VARIANTS_MAX;
        let found = self.txn.scan(prefix, &keys::behind(prefix), limit)?;
        let mut heads = Vec::with_capacity(found.len());
        for (key, bytes) in found {
            let slot = CacheSlot::of_key(&key)?;
            match KeptHead::decode(slot, bytes) {
                Ok(head) => heads.push((slot, head)),
                Err(error) => self.drop_damaged(slot, &error)?,
            }
        }
        Ok(heads)
    }

    fn head_at(&mut self, slot: CacheSlot) -> Result<Option<KeptHead>> {
        let Some(bytes) = self.txn.get(&slot.key())? else {
            return Ok(None);
        };
        match KeptHead::decode(slot, bytes) {
            Ok(head) => Ok(Some(head)),
            Err(error) => {
                self.drop_damaged(slot, &error)?;
                Ok(None)
            }
        }
    }

    pub(super) fn cached_body(&mut self, slot: CacheSlot) -> Result<Option<Body>> {
        match self.cached_body_at(slot.id()) {
            Err(error) if error.kind() == crate::error::ErrorKind::Corrupt => {
                self.drop_damaged(slot, &error)?;
                Ok(None)
            }
            read => read,
        }
    }

    pub(super) fn cached_body_at(&self, id: ActionId) -> Result<Option<Body>> {
        let bytes = self.txn.get(&keys::cached_body(id))?;
        let body = bytes.map(|bytes| unframe(bytes, FrameKind::CachedBody, id));
        body.transpose()
    }

    pub(super) fn keep_cached(&mut self, entry: CacheEntry, body: Option<Kept>) -> Result<Cached> {
        if entry.head.len() > CacheEntry::HEAD_BYTES_MAX + SEAL_BYTES_MAX {
            body.into_iter().for_each(|body| self.refuse(body));
            let max = CacheEntry::HEAD_BYTES_MAX;
            let text = format!("the head of a cached answer is limited to {max} bytes");
            return Err(Error::invalid(text));
        }
        for (key, at) in entry.used.iter().take(STEP) {
            self.touch_cached(CacheSlot::of(key), *at)?;
        }
        let slot = CacheSlot::of(&entry.key);
        let kept = match (self.head_at(slot)?, &body) {
            // Another answer, whose place is the same.
            (Some(kept), None) if !kept.fields.is_of(&entry.key.target) => None,
            (Some(kept), _) => Some(kept),
            (None, _) => None,
        };
        let Some(body_bytes) = body.as_ref().map(Kept::len).or_else(|| {
            let kept = kept.as_ref();
            kept.map(|kept| kept.fields.body_bytes)
        }) else {
            return Ok(Cached::Nothing);
        };
        let weight = CacheEntry::OVERHEAD_BYTES + entry.head.len() as u64 + body_bytes;
        if weight > entry.bytes_max {
            self.drop_cached(slot)?;
            body.into_iter().for_each(|body| self.refuse(body));
            return Ok(Cached::Nothing);
        }
        match (&body, &kept) {
            (Some(_), _) => self.drop_cached(slot)?,
            // It does not go for its own sake.
            (None, Some(kept)) => self.leave_order(slot, kept.fields.used)?,
            (None, None) => {}
        }
        if !self.make_room(entry.bytes_max - weight)? {
            if let Some(kept) = self.head_at(slot)? {
                self.enter_order(slot, &kept.fields)?;
            }
            body.into_iter().for_each(|body| self.refuse(body));
            return Ok(Cached::More);
        }
        self.put_cached(slot, entry, body, (weight, body_bytes))?;
        self.bound_variants(slot)?;
        Ok(Cached::Done)
    }

    fn put_cached(
        &mut self,
        slot: CacheSlot,
        entry: CacheEntry,
        body: Option<Kept>,
        (weight, body_bytes): (u64, u64),
    ) -> Result<()> {
        let mut tally = self.cache_tally()?;
        tally.kept += 1;
        self.set_cache_tally(tally)?;
        let CacheKey { target, variant } = entry.key;
        let head = KeptHead {
            fields: HeadFields {
                principal: target.principal,
                resource: target.resource,
                query: target.query,
                variant,
                used: entry.now,
                weight,
                body_bytes,
                stale_since: entry.stale_since,
            },
            no: tally.kept,
            content: entry.head,
        };
        self.txn.put(slot.key(), head.encode(slot)?);
        self.enter_order(slot, &head.fields)?;
        if let Some(body) = body {
            let frame = frame(FrameKind::CachedBody, slot.id(), &body)?;
            self.txn.put(keys::cached_body(slot.id()), frame);
        }
        Ok(())
    }

    /// Puts an answer into the order of use, and into the counts: both stand and fall together.
    fn enter_order(&mut self, slot: CacheSlot, head: &HeadFields) -> Result<()> {
        let weight = Bytes::copy_from_slice(&head.weight.to_be_bytes());
        let key = slot.used_key(head.used);
        self.recent.put(&mut self.txn, key, weight);
        let mut tally = self.cache_tally()?;
        tally.entries += 1;
        tally.bytes = tally.bytes.saturating_add(head.weight);
        self.set_cache_tally(tally)
    }

    fn leave_order(&mut self, slot: CacheSlot, used: Timestamp) -> Result<()> {
        let key = slot.used_key(used);
        let Some(weight) = self.txn.get(&key)? else {
            return Ok(());
        };
        self.recent.delete(&mut self.txn, key);
        let mut tally = self.cache_tally()?;
        tally.entries = tally.entries.saturating_sub(1);
        let weight = keys::number_at(&weight, 0).unwrap_or_default();
        tally.bytes = tally.bytes.saturating_sub(weight);
        self.set_cache_tally(tally)
    }

    fn touch_cached(&mut self, slot: CacheSlot, at: Timestamp) -> Result<()> {
        match self.head_at(slot)? {
            Some(mut head) if head.fields.used < at => {
                self.leave_order(slot, head.fields.used)?;
                head.fields.used = at;
                self.txn.put(slot.key(), head.encode(slot)?);
                self.enter_order(slot, &head.fields)
            }
            _ => Ok(()),
        }
    }

    /// Lets answers go, those that were used least recently first, a bounded number. False when that did not do.
    fn make_room(&mut self, bytes_max: u64) -> Result<bool> {
        for _ in 0..STEP {
            if self.cache_tally()?.bytes <= bytes_max {
                return Ok(true);
            }
            let Some((key, _)) = self.recent.peek(&self.txn)? else {
                // Nothing is there that could be counted.
                let tally = CacheTally {
                    entries: 0,
                    bytes: 0,
                    ..self.cache_tally()?
                };
                self.set_cache_tally(tally)?;
                return Ok(true);
            };
            self.evict_cached(&key)?;
        }
        Ok(self.cache_tally()?.bytes <= bytes_max)
    }

    /// Lets the answer at a place in the order of use go; the place too when it leads nowhere.
    fn evict_cached(&mut self, key: &[u8]) -> Result<()> {
        let (used, slot) = (keys::number_at(key, 1)?, CacheSlot::of_used_key(key)?);
        let used = Timestamp::from_millis(used);
        let head = self.head_at(slot)?;
        if head.is_some_and(|head| head.fields.used == used) {
            self.drop_cached(slot)?;
        }
        self.leave_order(slot, used)
    }

    /// Of too many answers to one target the one goes that was used least recently.
    fn bound_variants(&mut self, slot: CacheSlot) -> Result<()> {
        let mut heads = self.heads_under(&slot.target())?;
        heads.retain(|(other, _)| *other != slot);
        heads.sort_by_key(|(_, head)| std::cmp::Reverse(head.fields.used));
        for (other, _) in heads.into_iter().skip(CacheEntry::VARIANTS_MAX - 1) {
            self.drop_cached(other)?;
        }
        Ok(())
    }

    fn drop_damaged(&mut self, slot: CacheSlot, error: &Error) -> Result<()> {
        tracing::warn!(%error, "a cached answer cannot be read: it is dropped");
        // Its place in the order of use stays until it is its turn: only a head tells it.
        self.remove_cached(slot, true)
    }

    pub(super) fn drop_cached(&mut self, slot: CacheSlot) -> Result<()> {
        let Some(head) = self.head_at(slot)? else {
            return Ok(());
        };
        self.leave_order(slot, head.fields.used)?;
        self.remove_cached(slot, head.fields.body_bytes > INLINE_BYTES_MAX)
    }

    fn remove_cached(&mut self, slot: CacheSlot, may_have_file: bool) -> Result<()> {
        if may_have_file {
            let body = self.cached_body_at(slot.id());
            self.drop_file(body);
        }
        self.txn.delete(slot.key());
        self.txn.delete(keys::cached_body(slot.id()));
        let resource = slot.resource();
        let others = self.txn.scan(&resource, &keys::behind(&resource), 1)?;
        if others.is_empty() && self.txn.get(&slot.mark_key())?.is_some() {
            self.txn.delete(slot.mark_key());
        }
        Ok(())
    }

    /// The number of the newest answer that was there when something was written, and when that was.
    fn stale_mark(&self, slot: CacheSlot) -> Result<Option<(u64, Timestamp)>> {
        let Some(mark) = self.txn.get(&slot.mark_key())? else {
            return Ok(None);
        };
        let mark = (keys::number_at(&mark, 0), keys::number_at(&mark, 8));
        Ok(Some(match mark {
            (Ok(no), Ok(at)) => (no, Timestamp::from_millis(at)),
            // All of it is stale, and has been for long.
            _ => (u64::MAX, Timestamp::EPOCH),
        }))
    }

    /// Something was written, or will be: what is cached of it is stale. One small row, however much that is.
    pub(super) fn mark_stale(&mut self, resources: &[String], now: Timestamp) -> Result<()> {
        for resource in resources {
            let target = CacheTarget::new(None, resource.clone(), String::new());
            let slot = CacheSlot::of(&CacheKey::new(target, String::new()));
            let prefix = slot.resource();
            if self
                .txn
                .scan(&prefix, &keys::behind(&prefix), 1)?
                .is_empty()
            {
                continue;
            }
            let mut tally = self.cache_tally()?;
            if tally.kept == 0 {
                // Something is there, and the row that counts it is not.
                tally = CacheTally::LOST;
                self.set_cache_tally(tally)?;
            }
            let no = tally.kept;
            let mark = [no.to_be_bytes(), now.as_millis().to_be_bytes()].concat();
            self.txn.put(slot.mark_key(), mark);
        }
        Ok(())
    }

    pub(super) fn trim_cached(&mut self, bytes_max: u64, limit: usize) -> Result<Cached> {
        let limit = limit.clamp(1, STEP);
        for _ in 0..limit {
            if self.cache_tally()?.bytes <= bytes_max && bytes_max > 0 {
                return Ok(Cached::Done);
            }
            let Some((key, _)) = self.recent.peek(&self.txn)? else {
                return self.sweep_cached(limit);
            };
            self.evict_cached(&key)?;
        }
        Ok(Cached::More)
    }

    /// What is left when nothing is in the order of use any more, after damage.
    fn sweep_cached(&mut self, limit: usize) -> Result<Cached> {
        for part in [keys::CACHED, keys::CACHED_BODIES, keys::STALE] {
            let found = self.txn.scan(&[part], &keys::behind(&[part]), limit)?;
            if found.is_empty() {
                continue;
            }
            for (key, value) in found {
                if part == keys::CACHED_BODIES {
                    let id = keys::id_at(&key, 1)?;
                    let body = unframe(value, FrameKind::CachedBody, id);
                    self.drop_file(body.map(Some));
                }
                self.txn.delete(key.to_vec());
            }
            return Ok(Cached::More);
        }
        let kept = self.cache_tally()?.kept;
        if kept > 0 {
            let tally = CacheTally {
                kept,
                ..CacheTally::default()
            };
            self.set_cache_tally(tally)?;
        }
        Ok(Cached::Done)
    }

    /// Drops an answer of this principal.
    pub(super) fn forget_cached(&mut self, key: &[u8], principal: &str) -> Result<()> {
        let slot = CacheSlot::of_key(key)?;
        match self.head_at(slot)? {
            Some(head) if head.fields.principal.as_deref() == Some(principal) => {
                self.drop_cached(slot)
            }
            _ => Ok(()),
        }
    }
}
