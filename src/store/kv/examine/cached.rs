//! Cached answers: each with its body and its place in the order of use, and counted. What is wrong here costs no action.

use super::super::cache::{CacheTally, KeptHead};
use super::super::keys::{self, CacheSlot};
use super::super::queue::parse;
use super::Examined;
use crate::action::FrameKind;
use crate::error::Result;
use crate::store::examination::Problem;
use crate::store::kv::Engine;

impl<E: Engine> Examined<'_, E> {
    pub(super) fn cache(&mut self) -> Result<()> {
        let (mut entries, mut bytes) = (0, 0_u64);
        self.over(&[keys::CACHED], |this, key, value| {
            let slot = CacheSlot::of_key(key)?;
            match KeptHead::decode(slot, value.clone()) {
                Ok(head) => this.cached_answer(slot, &head),
                Err(error) => {
                    this.wrong_in_cache(slot, &error.to_string());
                    Ok(())
                }
            }
        })?;
        self.over(&[keys::USED], |this, key, weight| {
            entries += 1;
            bytes = bytes.saturating_add(keys::number_at(weight, 0)?);
            let slot = CacheSlot::of_used_key(key)?;
            if this.txn.get(&slot.key())?.is_none() {
                this.wrong_in_cache(slot, "it has a place in the order of use, and is not there");
            }
            Ok(())
        })?;
        let tally = self.txn.get(keys::CACHE)?;
        let tally: CacheTally = tally.map_or(Ok(CacheTally::default()), |row| parse(&row))?;
        if !tally.counts(entries, bytes) {
            let text = "what is counted of it is not what is there";
            self.out.find(Problem::Cache, "the cache", text);
        }
        Ok(())
    }

    fn cached_answer(&mut self, slot: CacheSlot, head: &KeptHead) -> Result<()> {
        if self.txn.get(&slot.used_key(head.fields.used))?.is_none() {
            self.wrong_in_cache(slot, "it has no place in the order of use");
        }
        let id = slot.id();
        let body = self.txn.get(&keys::cached_body(id))?;
        let body = body.map(|body| self.value(id, body, FrameKind::CachedBody));
        match body {
            Some(Ok(body)) if body.len() == head.fields.body_bytes => self.out.seen.cached += 1,
            Some(Ok(_)) => self.wrong_in_cache(slot, "its body is not as long as its head says"),
            Some(Err(error)) => self.wrong_in_cache(slot, &format!("its body: {error}")),
            None => self.wrong_in_cache(slot, "its body is gone"),
        }
        Ok(())
    }

    fn wrong_in_cache(&mut self, slot: CacheSlot, text: &str) {
        let place = format!("cached answer {}", slot.id());
        self.out.find(Problem::Cache, place, text);
    }
}
