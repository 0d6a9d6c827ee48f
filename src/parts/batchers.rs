//! Which lanes are batched, and by whom.

use std::fmt;
use std::sync::Arc;

use crate::action::Lane;
use crate::decide::{BatchLimits, Batcher};
use crate::store::Batches;

/// The batchers of a vault, in the order in which the app gave them: the first that names a lane has it.
#[derive(Clone, Default)]
pub(crate) struct Batchers(Arc<[Batched]>);

/// The lanes of one batcher.
#[derive(Clone)]
pub(crate) struct Batched {
    lanes: Lanes,
    pub(crate) limits: BatchLimits,
    pub(crate) batcher: Arc<dyn Batcher>,
}

/// Lanes by their names, as the app gave them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Lanes {
    One(String),
    /// Every name that begins so.
    Beginning(String),
}

impl Batched {
    /// `lanes` is a name, or a beginning with a `*` behind it.
    pub(crate) fn new(lanes: &str, batcher: Arc<dyn Batcher>, limits: BatchLimits) -> Self {
        let lanes = match lanes.strip_suffix('*') {
            Some(beginning) => Lanes::Beginning(beginning.to_owned()),
            None => Lanes::One(lanes.to_owned()),
        };
        Self {
            lanes,
            limits,
            batcher,
        }
    }

    fn has(&self, lane: &Lane) -> bool {
        let lane = lane.bare();
        match &self.lanes {
            Lanes::One(name) => lane.as_str() == name,
            Lanes::Beginning(beginning) => lane.as_str().starts_with(beginning),
        }
    }
}

impl Batchers {
    pub(crate) fn new(batchers: Vec<Batched>) -> Self {
        Self(batchers.into())
    }

    /// Who folds the actions of a lane.
    pub(crate) fn of(&self, lane: &Lane) -> Option<&Batched> {
        self.0.iter().find(|batched| batched.has(lane))
    }

    /// What the store is told; nothing when no lane is batched.
    pub(crate) fn rule(&self) -> Option<Batches> {
        if self.0.is_empty() {
            return None;
        }
        let batchers = self.clone();
        Some(Batches::new(move |head| {
            batchers.of(&head.lane).map(|batched| batched.limits)
        }))
    }
}

impl fmt::Debug for Batchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|batched| &batched.lanes))
            .finish()
    }
}
