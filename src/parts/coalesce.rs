//! The app's rule for two requests with one coalescing key: what it is asked, and what it may say.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::action::{Lane, StoredRequest};
use crate::store::LanePlace;

/// Two requests with one coalescing key: one that waits in the queue and was never sent, and a newer one.
#[derive(Debug)]
#[non_exhaustive]
pub struct Coalescing<'a> {
    /// The coalescing key.
    pub key: &'a str,
    /// The lane of both.
    pub lane: &'a Lane,
    /// The one that waits.
    pub waiting: &'a WholeRequest,
    /// The newer one.
    pub newer: &'a WholeRequest,
}

/// A request with its body.
#[derive(Clone)]
#[non_exhaustive]
pub struct WholeRequest {
    /// Method, URL, headers.
    pub request: StoredRequest,
    /// The body.
    pub body: Bytes,
}

impl WholeRequest {
    pub(crate) fn new(request: StoredRequest, body: Bytes) -> Self {
        Self { request, body }
    }
}

/// The length of the body only: bodies stay out of logs.
impl fmt::Debug for WholeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WholeRequest")
            .field("request", &self.request)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// What becomes of two requests with one coalescing key. See [`coalesce_by`](crate::SyncVaultBuilder::coalesce_by).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Coalesced {
    /// Both are sent, in their order.
    KeepBoth,
    /// The newer one is sent, from the end of the lane; the waiting one is superseded. What is done without a rule.
    TakeNew,
    /// One request is sent in place of both; the waiting one is superseded.
    Merge(Merge),
    /// Neither is sent: what they do cancels out. Both are cancelled.
    CancelBoth,
}

/// One request in place of two: the method, URL, headers and tag of one of them, and a new body.
///
/// It is the newer action with its idempotency key, if the caller gave it one; the key of the waiting one is never sent with the
/// new body. Priority and retries are the higher ones, the expiry is the later one, and it goes out before neither's
/// `not_before`.
#[derive(Clone)]
#[must_use = "a merge does nothing until the rule returns it"]
pub struct Merge {
    pub(crate) base: Base,
    pub(crate) body: Bytes,
    pub(crate) place: LanePlace,
}

/// Which of two requests a merged one looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Waiting,
    Newer,
}

impl Merge {
    /// The waiting request, with this body: a creation that takes up a later change, say.
    pub fn into_waiting(body: impl Into<Bytes>) -> Self {
        Self::new(Base::Waiting, body.into())
    }

    /// The newer request, with this body.
    pub fn into_newer(body: impl Into<Bytes>) -> Self {
        Self::new(Base::Newer, body.into())
    }

    fn new(base: Base, body: Bytes) -> Self {
        let place = LanePlace::default();
        Self { base, body, place }
    }

    /// Where it goes in its lane. Default: [`LanePlace::OldIfLast`], so that nothing overtakes anything: when something was queued
    /// between the two, both are kept. Only the app knows whether what stands between may see the one earlier, or the other
    /// later.
    pub fn place(mut self, place: LanePlace) -> Self {
        self.place = place;
        self
    }
}

/// The length of the body only: bodies stay out of logs.
impl fmt::Debug for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merge")
            .field("base", &self.base)
            .field("body_bytes", &self.body.len())
            .field("place", &self.place)
            .finish()
    }
}

pub(crate) type CoalesceRule = Arc<dyn Fn(&Coalescing<'_>) -> Coalesced + Send + Sync>;
