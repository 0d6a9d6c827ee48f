//! What a run tells when it is over.

use std::fmt;

use super::failure::Failure;
use crate::sync::FeatureKey;

/// Which sync of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The first one, page by page, once.
    Initial,
    /// The ones after it: push, then pull.
    Background,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initial => "initial",
            Self::Background => "background",
        })
    }
}

/// One step of a sync: what is tried again on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Read or write the checkpoint.
    Checkpoint,
    /// Ask the handler what the app changed.
    LocallyModified,
    /// Send it.
    Push,
    /// Fetch a page.
    Fetch,
    /// Apply it.
    Apply,
}

impl Step {
    /// True for what waits for a server, and may be cut off at any moment. What is local is done to its end.
    pub(super) fn is_remote(self) -> bool {
        matches!(self, Self::Push | Self::Fetch)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checkpoint => "keep its checkpoint",
            Self::LocallyModified => "find local changes",
            Self::Push => "push",
            Self::Fetch => "fetch a page",
            Self::Apply => "apply a page",
        })
    }
}

/// What one sync moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Pages that were applied.
    pub pages: u64,
    /// Items in them.
    pub items: u64,
    /// Items that the server took.
    pub pushed: u64,
    /// Items that were changed on both sides: refused by the server, or met in a page.
    pub conflicts: u64,
    /// Items that the server did not take. They stay modified.
    pub push_failures: u64,
}

/// How the sync of a feature ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// It is in step.
    Completed(Tally),
    /// Its initial sync was done before.
    AlreadyCompleted,
    /// Its last sync is younger than the minimum interval.
    NotDue,
    /// It failed.
    Failed(Failure),
    /// What it depends on is not in step: it was not started.
    Blocked {
        /// What it waits for; the feature itself when its initial sync is missing.
        by: FeatureKey,
    },
    /// The app cancelled it. The next run goes on where it stopped.
    Cancelled,
}

impl End {
    /// True when the feature is in step, as far as it was asked for.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(
            self,
            Self::Completed(_) | Self::AlreadyCompleted | Self::NotDue
        )
    }
}

/// What became of one feature.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeatureReport {
    /// The feature.
    pub feature: FeatureKey,
    /// Its initial sync, if it has one and it was asked for.
    pub initial: Option<End>,
    /// Its background sync, if it has one and it was asked for.
    pub background: Option<End>,
}

/// What became of a run, feature by feature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a run does not fail as a whole: its features do"]
#[non_exhaustive]
pub struct SyncReport {
    /// The features, by name.
    pub features: Vec<FeatureReport>,
}

impl SyncReport {
    /// What became of one feature.
    #[must_use]
    pub fn feature(&self, key: impl Into<FeatureKey>) -> Option<&FeatureReport> {
        let key = key.into();
        self.features.iter().find(|report| report.feature == key)
    }

    /// True when all that was asked for is in step.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.ends().all(End::is_success)
    }

    /// The first failure, if there is one.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        self.ends().find_map(|end| match end {
            End::Failed(failure) => Some(failure),
            _ => None,
        })
    }

    fn ends(&self) -> impl Iterator<Item = &End> {
        let features = self.features.iter();
        features.flat_map(|report| report.initial.iter().chain(&report.background))
    }

    pub(super) fn add(&mut self, feature: &FeatureKey, phase: Phase, end: End) {
        let at = self.features.iter().position(|f| f.feature == *feature);
        let at = at.unwrap_or_else(|| {
            self.features.push(FeatureReport {
                feature: feature.clone(),
                initial: None,
                background: None,
            });
            self.features.len() - 1
        });
        let report = &mut self.features[at];
        match phase {
            Phase::Initial => report.initial = Some(end),
            Phase::Background => report.background = Some(end),
        }
    }
}
