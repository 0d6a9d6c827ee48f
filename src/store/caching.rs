//! Values of `Store::cache` and its siblings: answers that are kept for a time without a network. They are no actions: neither
//! counted nor in the ledger, and a store may lose them.

use std::fmt;

use bytes::Bytes;

use crate::clock::Timestamp;

/// What an answer is for: a URL, asked for on behalf of somebody.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct CacheTarget {
    /// On whose behalf; nothing = nobody's in particular.
    pub principal: Option<String>,
    /// The URL without query and fragment. What is written to it makes all of its answers stale, whoever asked for them.
    pub resource: String,
    /// The query; empty without one.
    pub query: String,
}

impl CacheTarget {
    /// What `principal` asks of `resource` with `query`.
    #[must_use]
    pub fn new(principal: Option<String>, resource: String, query: String) -> Self {
        Self {
            principal,
            resource,
            query,
        }
    }
}

/// Without names: those of users, and what they ask for, stay out of logs.
impl fmt::Debug for CacheTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheTarget").finish_non_exhaustive()
    }
}

/// One of the answers to a target: a server may choose by headers of the request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct CacheKey {
    /// What it is for.
    pub target: CacheTarget,
    /// Which of the answers it is; empty when there is one for all.
    pub variant: String,
}

impl CacheKey {
    /// One answer to `target`.
    #[must_use]
    pub fn new(target: CacheTarget, variant: String) -> Self {
        Self { target, variant }
    }
}

/// An answer to keep.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CacheEntry {
    /// Which one; an earlier one of the same key goes.
    pub key: CacheKey,
    /// What is known of it, as the vault encoded it; up to [`CacheEntry::HEAD_BYTES_MAX`].
    pub head: Bytes,
    /// Its body; nothing = the one that is kept stays.
    pub body: Option<Bytes>,
    /// Since when it is stale; nothing = its head tells.
    pub stale_since: Option<Timestamp>,
    /// Answers that were used since the last one was kept, and when: of those, the store looks at 64. So reading costs no commit.
    pub used: Vec<(CacheKey, Timestamp)>,
    /// How many bytes all answers together may weigh; those that were used least recently go.
    pub bytes_max: u64,
    /// The [revision](super::KeptKeyring::revision) of the keyring that head and body are sealed under; nothing = in clear. A
    /// store that keeps another one refuses it.
    pub keyring: Option<u64>,
    /// The vault's clock.
    pub now: Timestamp,
}

impl CacheEntry {
    /// How long a head may be. Every store takes that much.
    pub const HEAD_BYTES_MAX: usize = 16 * 1024;

    /// How many answers one target may have; the one that was used least recently goes.
    pub const VARIANTS_MAX: usize = 16;

    /// What an answer weighs beside its head and its body.
    pub const OVERHEAD_BYTES: u64 = 512;

    /// An answer to keep in place of an earlier one.
    #[must_use]
    pub fn new(key: CacheKey, head: Bytes, body: Option<Bytes>, now: Timestamp) -> Self {
        Self {
            key,
            head,
            body,
            stale_since: None,
            used: Vec::new(),
            bytes_max: u64::MAX,
            keyring: None,
            now,
        }
    }
}

/// A change of what is cached.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CacheChange {
    /// Keeps an answer. What has to go for it goes in the same commit, up to 64 answers.
    Keep(Box<CacheEntry>),
    /// Something was written to these resources: what is kept of them is stale from now on.
    Stale {
        /// Which ones.
        resources: Vec<String>,
        /// The vault's clock.
        now: Timestamp,
    },
    /// Removes one answer.
    Drop(CacheKey),
    /// Removes answers, least recently used ones first, until what is left weighs no more than this; with zero, everything.
    Trim {
        /// What may stay.
        bytes_max: u64,
        /// How many may go in this call.
        limit: usize,
    },
}

/// What became of a [`CacheChange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cached {
    /// It is done.
    Done,
    /// A part is: others went to make room, and more must go. Nothing was kept yet; the same call again goes on.
    More,
    /// Nothing is kept: the body that was to stay is not there, or it would not fit into the whole of `bytes_max`.
    Nothing,
}

/// What is known of an answer that is kept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CachedHead {
    /// Which of the answers it is.
    pub variant: String,
    /// As the vault encoded it.
    pub head: Bytes,
    /// Since when something that was written makes it stale; nothing = nothing does.
    pub stale_since: Option<Timestamp>,
}

impl CachedHead {
    /// What is known of an answer.
    #[must_use]
    pub fn new(variant: String, head: Bytes, stale_since: Option<Timestamp>) -> Self {
        Self {
            variant,
            head,
            stale_since,
        }
    }
}

/// How much is cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheTotals {
    /// How many answers are there.
    pub entries: u64,
    /// What they weigh together: heads, bodies and [`CacheEntry::OVERHEAD_BYTES`] for each.
    pub bytes: u64,
    /// How many were ever kept.
    pub kept: u64,
}

impl CacheTotals {
    /// Counts.
    #[must_use]
    pub fn new(entries: u64, bytes: u64, kept: u64) -> Self {
        Self {
            entries,
            bytes,
            kept,
        }
    }
}
