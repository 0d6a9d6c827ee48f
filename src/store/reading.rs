//! Values of the reads: how to find an action, and pages.

use bytes::Bytes;

use crate::action::{ActionId, Lane, Record};

/// How to find one action.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Find {
    /// By its id.
    Id(ActionId),
    /// By the caller's idempotency key.
    Key(String),
    /// What waits under a coalescing key: see [`Over`](super::Over).
    Coalescing {
        /// In this lane.
        lane: Lane,
        /// The coalescing key.
        key: String,
    },
}

/// Which records a page holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Query {
    /// Which part of the store.
    pub part: Part,
    /// After this cursor; nothing = from the start.
    pub after: Option<Cursor>,
    /// At most so many records, 1 to [`Query::LIMIT_MAX`].
    pub limit: usize,
}

impl Query {
    /// The largest page.
    pub const LIMIT_MAX: usize = 1000;

    /// The first page of a part.
    #[must_use]
    pub fn first(part: Part, limit: usize) -> Self {
        Self {
            part,
            after: None,
            limit,
        }
    }
}

/// A part of the store that can be paged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// Queued and in flight: lane by lane, each in its order.
    Pending,
    /// Queued and in flight of one lane, in order.
    Lane(Lane),
    /// Dead letters, oldest first.
    Dead,
    /// Settled and kept, oldest first.
    Settled,
}

/// Where a page ended. Opaque; good for the store that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub Bytes);

/// A page of records.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Page {
    /// The records.
    pub records: Vec<Record>,
    /// Where to go on; nothing = this was the last page.
    pub next: Option<Cursor>,
}
