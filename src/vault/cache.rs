//! What is cached: how much it is, and the end of it.

use std::sync::atomic::Ordering;

use super::SyncVault;
use crate::error::Result;
use crate::store::{CacheChange, Cached};

/// How the cache fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Answers that are kept.
    pub entries: u64,
    /// What they weigh.
    pub bytes: u64,
    /// Answers that were given in the place of the server's, since the vault was opened.
    pub given: u64,
    /// Answers that the server said had not changed, since the vault was opened.
    pub revalidated: u64,
    /// Answers that were kept or renewed, since the vault was opened.
    pub kept: u64,
}

impl SyncVault {
    /// How the cache fares. Kept, not scanned.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a store that keeps no cached answers; storage errors.
    pub async fn cache_stats(&self) -> Result<CacheStats> {
        self.parts().cache.until_all_kept().await;
        let totals = self.parts().store.cache_totals().await?;
        let counts = &self.parts().cache.counts;
        Ok(CacheStats {
            entries: totals.entries,
            bytes: totals.bytes,
            given: counts.given.load(Ordering::Relaxed),
            revalidated: counts.revalidated.load(Ordering::Relaxed),
            kept: counts.kept.load(Ordering::Relaxed),
        })
    }

    /// Removes every cached answer, in bounded steps; also those of an earlier run with other options.
    ///
    /// # Errors
    ///
    /// As [`cache_stats`](Self::cache_stats); what was removed by then stays so.
    pub async fn clear_cache(&self) -> Result<()> {
        let trim = CacheChange::Trim {
            bytes_max: 0,
            limit: usize::MAX,
        };
        self.parts().cache.until_all_kept().await;
        while self.parts().store.cache(trim.clone()).await? == Cached::More {}
        Ok(())
    }
}
