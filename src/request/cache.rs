//! What a read says about the cache.

use std::time::Duration;

use super::RequestBuilder;
use crate::dispatch::Outcome;
use crate::error::Result;
use crate::parts::cached::WhenFresh;

impl RequestBuilder {
    /// As [`send`](Self::send), and takes a cached answer in the place of none: [`Outcome::Cached`], with its
    /// age. Which one may be given is said at [`SyncVaultBuilder::cache`](crate::SyncVaultBuilder::cache); without that option, or for
    /// what is not a GET or a HEAD, there is none.
    ///
    /// ```
    /// # async fn example(vault: &syncvault::SyncVault) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use syncvault::Outcome;
    ///
    /// let week = Duration::from_secs(7 * 24 * 60 * 60);
    /// match vault.get("/menu").max_stale(week).send_or_cached().await? {
    ///     Outcome::Sent(response) => println!("{}", response.text().await?),
    ///     Outcome::Cached(response, age) => println!("{} s old: {}", age.as_secs(), response.text().await?),
    ///     Outcome::Queued(_) => println!("nothing is known of it yet"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn send_or_cached(mut self) -> Result<Outcome<Duration>> {
        self.cache.is_taken = true;
        self.send_out().await
    }

    /// How stale a cached answer may be when the server gives none: it is away, or it answers with an error that the request would
    /// be queued for. `Duration::MAX`: any. Default: that of the vault's [`CacheOptions`](crate::CacheOptions). An answer that says
    /// `no-cache` or `must-revalidate` is never given stale. It is not sent. For [`send_or_cached`](Self::send_or_cached).
    pub fn max_stale(mut self, max_stale: Duration) -> Self {
        self.cache.max_stale = Some(max_stale);
        self
    }

    /// What is done with a cached answer that is fresh. Default: that of the vault's [`CacheOptions`](crate::CacheOptions). For
    /// [`send_or_cached`](Self::send_or_cached).
    pub fn when_fresh(mut self, when_fresh: WhenFresh) -> Self {
        self.cache.when_fresh = Some(when_fresh);
        self
    }
}
