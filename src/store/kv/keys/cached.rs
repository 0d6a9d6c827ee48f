//! The keys of cached answers. Names are hashed, 8 bytes each: the names themselves lie in the head, and tell two apart whose
//! hashes are the same.

use super::{CACHED, CACHED_BODIES, Key, STALE, USED, broken, join};
use crate::action::ActionId;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::store::CacheKey;

const PART: usize = 8;
const SLOT: usize = 3 * PART;

/// Where a cached answer lies: hashes of its resource, of who asks with which query, and of its variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct CacheSlot([u8; SLOT]);

impl CacheSlot {
    pub(in super::super) fn of(key: &CacheKey) -> Self {
        let target = &key.target;
        let principal = target.principal.as_deref();
        let asked = [
            &[u8::from(principal.is_some())],
            principal.unwrap_or_default().as_bytes(),
            &[0],
            target.query.as_bytes(),
        ];
        let mut slot = [0; SLOT];
        slot[..PART].copy_from_slice(&short(target.resource.as_bytes()));
        slot[PART..2 * PART].copy_from_slice(&short(&asked.concat()));
        slot[2 * PART..].copy_from_slice(&short(key.variant.as_bytes()));
        Self(slot)
    }

    /// # Errors
    ///
    /// When it is no such key.
    pub(in super::super) fn of_key(key: &[u8]) -> Result<Self> {
        slot_at(key, 1)
    }

    /// # Errors
    ///
    /// When it is no such key.
    pub(in super::super) fn of_used_key(key: &[u8]) -> Result<Self> {
        slot_at(key, 9)
    }

    /// The id of its frames and of its file.
    pub(in super::super) fn id(&self) -> ActionId {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(&self.0).as_bytes()[..16]);
        ActionId::from_bytes(id)
    }

    pub(in super::super) fn key(&self) -> Key {
        join(CACHED, &[&self.0])
    }

    /// All answers to its target.
    pub(in super::super) fn target(&self) -> Key {
        join(CACHED, &[&self.0[..2 * PART]])
    }

    /// All answers of its resource.
    pub(in super::super) fn resource(&self) -> Key {
        join(CACHED, &[&self.0[..PART]])
    }

    pub(in super::super) fn mark_key(&self) -> Key {
        join(STALE, &[&self.0[..PART]])
    }

    pub(in super::super) fn used_key(&self, used: Timestamp) -> Key {
        join(USED, &[&used.as_millis().to_be_bytes(), &self.0])
    }
}

/// The body of a cached answer.
pub(in super::super) fn cached_body(id: ActionId) -> Key {
    join(CACHED_BODIES, &[id.as_bytes()])
}

fn slot_at(key: &[u8], at: usize) -> Result<CacheSlot> {
    let slot = key.get(at..).and_then(|rest| rest.try_into().ok());
    slot.map(CacheSlot).ok_or_else(broken)
}

fn short(text: &[u8]) -> [u8; PART] {
    let mut short = [0; PART];
    short.copy_from_slice(&blake3::hash(text).as_bytes()[..PART]);
    short
}
