//! The cache, as an option of the vault.

use super::SyncVaultBuilder;
use crate::parts::cached::{CacheOptions, CacheSetting};

impl SyncVaultBuilder {
    /// Keeps answers to GETs in the vault's store, and gives them to
    /// [`send_or_cached`](crate::RequestBuilder::send_or_cached) when the server gives none and they may be used. Default: nothing is
    /// kept.
    ///
    /// **Kept** is what a private cache may keep (RFC 9111), once its body was read to the end: not with `no-store`, `Vary: *`, after
    /// a redirect, over `entry_bytes_max`, or in answer to a request that brings credentials, a `Range` or conditions of its own.
    /// Cookies and challenges are left out. Answers that a queued GET got are not kept. HEAD is answered from a kept GET.
    ///
    /// **The server is asked first**, with `If-None-Match` and `If-Modified-Since`; after a 304 the caller gets
    /// [`Outcome::Sent`](crate::Outcome::Sent) with the kept body, its status, and fresh headers.
    /// [`WhenFresh::Answer`](crate::WhenFresh) changes that.
    ///
    /// **Given** is what is fresh, or no staler than the request's [`max_stale`](crate::RequestBuilder::max_stale) or, when the server is
    /// away or answers 500, 502, 503 or 504, the answer's `stale-if-error` (RFC 5861) allows. Then the request is not queued. It has
    /// `Age` and `Cache-Status` (RFC 9211).
    ///
    /// **Stale** is also what was written to since, from the moment the write is queued, and again once it was delivered: every
    /// cached answer with the path of the write, whatever its query and its principal, and with the paths in the answer's `Location` and
    /// `Content-Location`. A vault that is opened without this option marks nothing: after it has written, call
    /// [`clear_cache`](crate::SyncVault::clear_cache).
    ///
    /// Answers belong to the principal that asked, and go with it. Without [principals](crate::SyncVault::principal), who has the
    /// vault's credentials next gets what its predecessor asked for.
    ///
    /// ```
    /// use std::time::Duration;
    /// use syncvault::{CacheOptions, SyncVault};
    ///
    /// let mut cache = CacheOptions::default();
    /// cache.max_stale = Duration::from_secs(24 * 60 * 60);
    /// let builder = SyncVault::builder("https://api.example.com").cache(cache);
    /// ```
    pub fn cache(mut self, options: CacheOptions) -> Self {
        self.cache = CacheSetting(Some(options));
        self
    }
}
