//! Cached answers of a sealed vault: hashes for their names, envelopes for head and body, under the key of whoever asked. One that
//! does not open is dropped. The name of the variant lies sealed in front of the head, so that it comes back.

use bytes::Bytes;

use super::envelope::{Kind, unopened};
use super::keyring::Keyring;
use super::{Sealed, check_above};
use crate::action::ActionId;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{
    CacheChange, CacheEntry, CacheKey, CacheTarget, CacheTotals, Cached, CachedHead,
};

impl Keyring {
    fn cache_target(&self, target: &CacheTarget) -> CacheTarget {
        let principal = target.principal.as_deref().map(|name| self.principal(name));
        CacheTarget::new(
            principal,
            self.resource(&target.resource),
            self.cache_query(&target.query),
        )
    }

    fn cache_key(&self, key: &CacheKey) -> CacheKey {
        let variant = self.cache_variant(&key.variant);
        CacheKey::new(self.cache_target(&key.target), variant)
    }

    fn seal_cached(&self, key: &CacheKey, kind: Kind, value: &[u8]) -> Result<Bytes> {
        let owner = key.target.principal.as_deref();
        self.seal_value(owner, kind, cached_id(key), value)
    }

    /// `entry` as the store gets it.
    fn seal_entry(&self, entry: &CacheEntry) -> Result<CacheEntry> {
        check_above(self, entry.keyring)?;
        let key = self.cache_key(&entry.key);
        let variant = entry.key.variant.as_bytes();
        let length = u32::try_from(variant.len());
        let length = length.map_err(|_| Error::invalid("the name of a variant is too long"))?;
        let head = [&length.to_le_bytes()[..], variant, &entry.head].concat();
        let body = entry.body.as_ref();
        let body = body.map(|body| self.seal_cached(&key, Kind::CachedBody, body));
        let used = entry.used.iter();
        Ok(CacheEntry {
            head: self.seal_cached(&key, Kind::CachedHead, &head)?,
            body: body.transpose()?,
            used: used.map(|(key, at)| (self.cache_key(key), *at)).collect(),
            keyring: Some(self.revision),
            key,
            ..entry.clone()
        })
    }

    fn open_head(&self, target: &CacheTarget, sealed: &CachedHead) -> Result<CachedHead> {
        let key = CacheKey::new(target.clone(), sealed.variant.clone());
        let head = self.open_value(Kind::CachedHead, cached_id(&key), &sealed.head)?;
        let (length, rest) = head.split_first_chunk::<4>().ok_or_else(unopened)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| unopened())?;
        let (variant, head) = rest.split_at_checked(length).ok_or_else(unopened)?;
        let variant = String::from_utf8(variant.to_vec()).map_err(|_| unopened())?;
        let head = Bytes::copy_from_slice(head);
        Ok(CachedHead::new(variant, head, sealed.stale_since))
    }
}

/// Answers have no id: their hashed names stand for it.
fn cached_id(hashed: &CacheKey) -> ActionId {
    let target = &hashed.target;
    let principal = target.principal.as_deref().unwrap_or_default();
    let names = [&target.resource, &target.query, &hashed.variant, principal];
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(names.join("/").as_bytes()).as_bytes()[..16]);
    ActionId::from_bytes(id)
}

impl Sealed {
    pub(super) async fn cached_opened(&self, target: CacheTarget) -> Result<Vec<CachedHead>> {
        loop {
            let ring = self.ring()?;
            let hashed = ring.cache_target(&target);
            let sealed = self.store.cached(hashed.clone()).await?;
            let (mut opened, mut failed) = (Vec::with_capacity(sealed.len()), Vec::new());
            for head in sealed {
                match ring.open_head(&hashed, &head) {
                    Ok(head) => opened.push(head),
                    Err(_) => failed.push(head.variant),
                }
            }
            if !failed.is_empty() && self.is_outdated(&ring).await? {
                continue;
            }
            for variant in failed {
                self.drop_unopened(CacheKey::new(hashed.clone(), variant))
                    .await?;
            }
            return Ok(opened);
        }
    }

    async fn drop_unopened(&self, hashed: CacheKey) -> Result<()> {
        tracing::warn!("a cached answer does not open: it is dropped");
        self.store.cache(CacheChange::Drop(hashed)).await.map(drop)
    }

    pub(super) async fn cached_body_opened(&self, key: CacheKey) -> Result<Option<Bytes>> {
        loop {
            let ring = self.ring()?;
            let hashed = ring.cache_key(&key);
            let Some(sealed) = self.store.cached_body(hashed.clone()).await? else {
                return Ok(None);
            };
            match ring.open_value(Kind::CachedBody, cached_id(&hashed), &sealed) {
                Ok(body) => return Ok(Some(body.into())),
                Err(_) if self.is_outdated(&ring).await? => {}
                Err(_) => {
                    self.drop_unopened(hashed).await?;
                    return Ok(None);
                }
            }
        }
    }

    pub(super) async fn cache_sealed(&self, change: CacheChange) -> Result<Cached> {
        let entry = match change {
            CacheChange::Keep(entry) => entry,
            CacheChange::Stale { resources, now } => {
                let resources = self.ring()?.resources(&resources);
                return self
                    .store
                    .cache(CacheChange::Stale { resources, now })
                    .await;
            }
            CacheChange::Drop(key) => {
                let key = self.ring()?.cache_key(&key);
                return self.store.cache(CacheChange::Drop(key)).await;
            }
            trim @ CacheChange::Trim { .. } => return self.store.cache(trim).await,
        };
        loop {
            let principal = entry.key.target.principal.as_deref();
            let ring = self.ring_for(std::iter::once(principal)).await?;
            let sealed = ring.seal_entry(&entry)?;
            let done = self.store.cache(CacheChange::Keep(Box::new(sealed))).await;
            if !self.is_late(&done, &ring).await? {
                return done;
            }
        }
    }

    /// What was cached under keys that go is not missed.
    pub(super) async fn clear_cache(&self) -> Result<()> {
        loop {
            let trim = CacheChange::Trim {
                bytes_max: 0,
                limit: usize::MAX,
            };
            match self.store.cache(trim).await {
                Ok(Cached::More) => {}
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Has the store ever kept an answer in clear?
    pub(super) async fn has_cached(&self) -> Result<bool> {
        match self.store.cache_totals().await {
            Ok(totals) => Ok(totals != CacheTotals::default()),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(false),
            Err(error) => Err(error),
        }
    }
}
