//! The verbs of the cache, between the caller and the queue: large bodies go to files.

use bytes::Bytes;

use super::committer::Growth;
use super::keeper::Size;
use super::keys::CacheSlot;
use super::{Engine, KvStore};
use crate::action::Body;
use crate::error::{ErrorKind, Result};
use crate::store::bodies::FileKind;
use crate::store::{CacheChange, CacheEntry, CacheKey, Cached, StoreFuture, Urgency};

impl<E: Engine + Send + 'static> KvStore<E> {
    /// One that is damaged is dropped: a cache may be lost.
    pub(super) async fn read_cached(&self, key: &CacheKey) -> Result<Option<Bytes>> {
        let slot = CacheSlot::of(key);
        self.submit(move |queue| queue.cached_body(slot)).await?;
        match self.read_kept(slot.id(), FileKind::Cached).await {
            Ok(Some(Body::Bytes(body))) => Ok(Some(body)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(%error, "a cached answer cannot be read: it is dropped");
                self.submit(move |queue| queue.drop_cached(slot)).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn change_cache(&self, change: CacheChange) -> StoreFuture<'static, Cached> {
        match change {
            CacheChange::Keep(entry) => self.keep_in_cache(*entry),
            CacheChange::Stale { resources, now } => self.submit(move |queue| {
                queue.mark_stale(&resources, now)?;
                Ok(Cached::Done)
            }),
            CacheChange::Drop(key) => {
                let slot = CacheSlot::of(&key);
                self.submit(move |queue| {
                    queue.drop_cached(slot)?;
                    Ok(Cached::Done)
                })
            }
            CacheChange::Trim { bytes_max, limit } => {
                self.submit(move |queue| queue.trim_cached(bytes_max, limit))
            }
        }
    }

    fn keep_in_cache(&self, mut entry: CacheEntry) -> StoreFuture<'static, Cached> {
        let lengths = entry.body.iter().map(|body| body.len() as u64);
        let size = Size::of(lengths, self.bodies.as_ref());
        let id = CacheSlot::of(&entry.key).id();
        let keyring = entry.keyring;
        self.submit_kept(
            (size, Urgency::Now, Growth::Grows),
            move |keeper| {
                let body = entry.body.take();
                let kept = body.map(|body| keeper.keep(id, FileKind::Cached, body));
                Ok((entry, kept.transpose()?))
            },
            move |queue, (entry, body)| {
                if let Err(error) = queue.check_keyring(keyring) {
                    body.into_iter().for_each(|body| queue.refuse(body));
                    return Err(error);
                }
                queue.keep_cached(entry, body)
            },
        )
    }
}
