//! The state of each feature: watched values.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::stream;
use tokio::sync::watch;

use super::failure::Failure;
use super::graph::Graph;
use super::report::{End, Phase, Step};
use crate::clock::Timestamp;
use crate::sync::FeatureKey;

/// The state of one feature, since the orchestrator was built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeatureStatus {
    /// Of its initial sync; nothing when it has none.
    pub initial: Option<InitialState>,
    /// Of its background sync; nothing when it has none.
    pub background: Option<BackgroundState>,
}

/// The state of an initial sync.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InitialState {
    /// No run has come to it yet. Whether an earlier process completed it is known when one does.
    #[default]
    NotStarted,
    /// It runs.
    Running {
        /// The page it is at, from 1; pages of earlier, interrupted runs count.
        page: u64,
    },
    /// This process completed it.
    Completed,
    /// It was completed before.
    AlreadyCompleted,
    /// It failed. The next run goes on where it stopped.
    Failed(Failure),
    /// It was not started, because this feature is not in step.
    Blocked {
        /// Which.
        by: FeatureKey,
    },
    /// The app cancelled it. The next run goes on where it stopped.
    Cancelled,
}

/// The state of the background syncs of a feature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackgroundState {
    /// No run has come to it yet.
    #[default]
    NotStarted,
    /// It runs.
    Running {
        /// What it does.
        step: Step,
        /// The page it is at, from 1; zero while it pushes.
        page: u64,
    },
    /// The newest one was completed.
    Completed {
        /// When.
        at: Timestamp,
    },
    /// The newest one failed.
    Failed(Failure),
    /// It was not started, because this feature is not in step.
    Blocked {
        /// Which; the feature itself when its initial sync is missing.
        by: FeatureKey,
    },
    /// The app cancelled it.
    Cancelled,
}

/// All of them.
pub(super) type Board = BTreeMap<FeatureKey, FeatureStatus>;

pub(super) fn first_board(graph: &Graph) -> Board {
    let mut board = Board::new();
    for node in &graph.nodes {
        let status = board.entry(node.feature.clone()).or_default();
        match node.phase {
            Phase::Initial => status.initial = Some(InitialState::NotStarted),
            Phase::Background => status.background = Some(BackgroundState::NotStarted),
        }
    }
    board
}

impl FeatureStatus {
    pub(super) fn is_running(&mut self, phase: Phase, step: Step, page: u64) {
        match phase {
            Phase::Initial => self.initial = Some(InitialState::Running { page }),
            Phase::Background => self.background = Some(BackgroundState::Running { step, page }),
        }
    }

    /// What is not due stays as it was.
    pub(super) fn has_ended(&mut self, phase: Phase, end: &End, at: Timestamp) {
        match phase {
            Phase::Initial => self.initial = initial(end).or_else(|| self.initial.take()),
            Phase::Background => {
                self.background = background(end, at).or_else(|| self.background.take());
            }
        }
    }
}

fn initial(end: &End) -> Option<InitialState> {
    Some(match end.clone() {
        End::Completed(_) => InitialState::Completed,
        End::AlreadyCompleted => InitialState::AlreadyCompleted,
        End::Failed(failure) => InitialState::Failed(failure),
        End::Blocked { by } => InitialState::Blocked { by },
        End::Cancelled => InitialState::Cancelled,
        End::NotDue => return None,
    })
}

fn background(end: &End, at: Timestamp) -> Option<BackgroundState> {
    Some(match end.clone() {
        End::Completed(_) | End::AlreadyCompleted => BackgroundState::Completed { at },
        End::Failed(failure) => BackgroundState::Failed(failure),
        End::Blocked { by } => BackgroundState::Blocked { by },
        End::Cancelled => BackgroundState::Cancelled,
        End::NotDue => return None,
    })
}

/// A stream of the [`FeatureStatus`] of one feature, starting with the current one. It ends with the orchestrator. Who reads
/// slowly sees the newest, not each.
pub struct FeatureStatuses(Pin<Box<dyn Stream<Item = FeatureStatus> + Send>>);

impl FeatureStatuses {
    pub(super) fn new(mut board: watch::Receiver<Board>, feature: FeatureKey) -> Self {
        board.mark_changed();
        let start = (board, None);
        Self(Box::pin(stream::unfold(start, move |(mut board, last)| {
            let feature = feature.clone();
            async move {
                loop {
                    board.changed().await.ok()?;
                    let status = board.borrow_and_update().get(&feature).cloned();
                    if status.is_some() && status != last {
                        return Some((status.clone()?, (board, status)));
                    }
                }
            }
        })))
    }

    /// The next status; nothing when the orchestrator is gone.
    pub async fn next(&mut self) -> Option<FeatureStatus> {
        std::future::poll_fn(|cx| self.0.as_mut().poll_next(cx)).await
    }
}

impl Stream for FeatureStatuses {
    type Item = FeatureStatus;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<FeatureStatus>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for FeatureStatuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeatureStatuses").finish_non_exhaustive()
    }
}
