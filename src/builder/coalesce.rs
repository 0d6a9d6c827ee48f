//! The option for what becomes of requests with one coalescing key.

use std::sync::Arc;

use super::SyncVaultBuilder;
use crate::parts::{Coalesced, Coalescing};

impl SyncVaultBuilder {
    /// Says what becomes of two requests with the same [coalescing key](crate::RequestBuilder::coalesce) in the same lane, of
    /// which the older one waits and was never sent. Default: the newer one supersedes the older one.
    ///
    /// The closure is called in the task that sends or queues the newer request, and may be called again when the queue changed
    /// meanwhile: let it only look at the two. Its word holds only for what it saw: nothing that is on the wire by then is
    /// merged or cancelled. A panic in it keeps both.
    ///
    /// It is not asked, and both are kept, when one of the bodies is over 1 MiB or has a `Content-Encoding`; when that of the newer
    /// one is streamed from files; when the newer one was tried before it was queued; and in a transaction of the app
    /// (`enqueue_in`). Both are kept too when a merged body is over [`body_bytes_max`](Self::body_bytes_max).
    ///
    /// # A to-do list, edited offline
    ///
    /// ```
    /// use syncvault::{Coalesced, Merge, SyncVault};
    ///
    /// fn merged(old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    ///     let mut fields: serde_json::Map<_, _> = serde_json::from_slice(old).ok()?;
    ///     fields.extend(serde_json::from_slice::<serde_json::Map<_, _>>(new).ok()?);
    ///     serde_json::to_vec(&fields).ok()
    /// }
    ///
    /// // One coalescing key for each item. Creations and changes take up later changes; what was never created is never deleted.
    /// let builder = SyncVault::builder("https://api.example.com").coalesce_by(|two| {
    ///     let (waiting, newer) = (&two.waiting.request.method, &two.newer.request.method);
    ///     match (waiting.as_str(), newer.as_str()) {
    ///         ("POST", "DELETE") => Coalesced::CancelBoth,
    ///         ("PATCH", "DELETE") => Coalesced::TakeNew,
    ///         ("POST" | "PATCH", "PATCH") => match merged(&two.waiting.body, &two.newer.body) {
    ///             Some(body) => Coalesced::Merge(Merge::into_waiting(body)),
    ///             None => Coalesced::KeepBoth,
    ///         },
    ///         _ => Coalesced::KeepBoth,
    ///     }
    /// });
    /// ```
    pub fn coalesce_by<F>(mut self, rule: F) -> Self
    where
        F: Fn(&Coalescing<'_>) -> Coalesced + Send + Sync + 'static,
    {
        self.coalesce_by = Some(Arc::new(rule));
        self
    }
}
