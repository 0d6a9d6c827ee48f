//! Where runs of actions are leased together: a rule that a store asks about the head of a lane.

use std::fmt;
use std::sync::Arc;

use crate::action::Record;
use crate::decide::BatchLimits;

type Rule = dyn Fn(&Record) -> Option<BatchLimits> + Send + Sync;

/// Where a [`Lease`](super::Lease) takes a run of actions in place of one: how long it may be, told by the head of a lane.
///
/// # The run
///
/// It begins at the head, which is leased as ever. With it go the actions right behind it, as long as each
///
/// - is queued, due and not over its time,
/// - has the origin and the principal of the head,
/// - [may join a batch](Record::may_join_batch),
/// - and fits: count and [body bytes](Record::body_bytes) together stay within the [limits](BatchLimits).
///
/// A run of two or more is a batch: each record names it ([`Batching::Together`](crate::action::Batching::Together)) in the commit
/// that leases it.
///
/// # The same again
///
/// A head that names a batch is leased with the same members, all of them and in their order, whatever the limits say
/// now and whenever the others are due. When one is missing, because it expired say, or when nobody asks for batches
/// in that lane any more, the head goes [alone](crate::action::Batching::Singly), and so do the others in turn.
#[derive(Clone)]
pub struct Batches {
    rule: Arc<Rule>,
}

impl Batches {
    /// By a rule: the limits of a batch with this head, or nothing where each action goes alone. It must be quick, and must
    /// not panic.
    pub fn new(rule: impl Fn(&Record) -> Option<BatchLimits> + Send + Sync + 'static) -> Self {
        let rule = Arc::new(rule);
        Self { rule }
    }

    /// The limits of a batch with this head.
    #[must_use]
    pub fn limits(&self, head: &Record) -> Option<BatchLimits> {
        (self.rule)(head)
    }
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").finish_non_exhaustive()
    }
}
