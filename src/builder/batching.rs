//! The option that lets waiting actions of a lane leave together.

use std::sync::Arc;

use super::SyncVaultBuilder;
use super::check::{bad, option};
use crate::action::Lane;
use crate::decide::Batcher;
use crate::error::Result;
use crate::parts::{Batched, Batchers};

/// What the app said about batches: lanes, and who folds them.
#[derive(Default)]
pub(super) struct Batching(Vec<(String, Arc<dyn Batcher>)>);

impl SyncVaultBuilder {
    /// Lets waiting actions of some lanes leave together, in one request: see [`Batcher`]. `lanes` is the name of a lane, or the
    /// beginning of names with a `*` behind it; `*` alone is every lane. When several name a lane, the first has it.
    ///
    /// Only what waits is folded: actions of one lane, one origin and one principal, that are due and stand side by side at its
    /// head. A direct send, and an action that waits alone, goes as it is. What was sent alone without success goes on
    /// alone.
    ///
    /// A batch is one request: it takes one slot of [`max_in_flight`](Self::max_in_flight), and counts once for the rate limit, the
    /// breaker and the stats of its origin. Events, tickets, answers, retries and the ledger are those of each action.
    ///
    /// ```
    /// # use syncvault::decide::{BatchAnswer, BatchItem, BatchRequest, Batcher, Folded, ItemVerdict};
    /// # struct Readings;
    /// # impl Batcher for Readings {
    /// #     fn fold(&self, _: &[BatchItem]) -> Folded { Folded::Singly }
    /// #     fn split(&self, _: &BatchAnswer, _: &[BatchItem]) -> Vec<ItemVerdict> { Vec::new() }
    /// # }
    /// use syncvault::SyncVault;
    ///
    /// let builder = SyncVault::builder("https://api.example.com")
    ///     .lane_by(|request| request.url.path().strip_prefix("/sensors/").map(|id| format!("sensor/{id}")))
    ///     .batcher("sensor/*", Readings);
    /// ```
    pub fn batcher(mut self, lanes: impl Into<String>, batcher: impl Batcher) -> Self {
        self.batching.0.push((lanes.into(), Arc::new(batcher)));
        self
    }

    pub(super) fn batchers(&mut self) -> Result<Batchers> {
        let given = std::mem::take(&mut self.batching.0).into_iter();
        let batchers = given.map(|(lanes, batcher)| {
            let name = lanes.strip_suffix('*').unwrap_or(&lanes);
            let is_every = name.is_empty() && lanes == "*";
            if name.contains('*') {
                return Err(bad("batcher", "takes a `*` at the end of a name only"));
            }
            if !is_every {
                option("batcher", Lane::new(name))?;
            }
            let limits = batcher.limits();
            option("batcher", limits.check())?;
            Ok(Batched::new(&lanes, batcher, limits))
        });
        batchers.collect::<Result<_>>().map(Batchers::new)
    }
}
