//! What happens, told: one stream of events, and the board of states. What an event tells is saved already.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;

use super::failure::Failure;
use super::report::{End, Phase, Step, Tally};
use super::status::{Board, FeatureStatus};
use crate::clock::{Clock, Timestamp};
use crate::sync::{Conflict, FeatureKey, ItemId};

/// Something that happened in a sync, published after it was saved.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SyncEvent {
    /// Grows by one with every event of this orchestrator.
    pub sequence: u64,
    /// How many events this reader lost right before this one, because it read too slowly.
    pub missed_before: u64,
    /// The feature; nothing when it is about all of them.
    pub feature: Option<FeatureKey>,
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub kind: SyncEventKind,
}

/// What happened in a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncEventKind {
    /// An initial sync starts, or goes on.
    InitialStarted {
        /// How many pages earlier runs have applied.
        pages: u64,
    },
    /// An initial sync is done.
    InitialCompleted(Tally),
    /// It was done before.
    InitialAlreadyCompleted,
    /// Every initial sync is done, the last of them just now.
    AllInitialCompleted {
        /// How many features have one.
        features: usize,
    },
    /// Every initial sync was done before.
    AllInitialAlreadyCompleted,
    /// A background sync starts.
    BackgroundStarted,
    /// A background sync is done.
    BackgroundCompleted(Tally),
    /// The server answered a push.
    Pushed {
        /// Items that it took.
        taken: usize,
        /// Items that it did not take: each has an event of its own.
        refused: usize,
    },
    /// The server has something newer than an item that was pushed. The item stays modified.
    PushConflict {
        /// Which.
        item: ItemId,
        /// What the server said.
        reason: String,
    },
    /// The server did not take an item. It stays modified, and goes with the next sync again.
    PushFailed {
        /// Which.
        item: ItemId,
        /// What the server said.
        reason: String,
    },
    /// A page was applied, and the checkpoint behind it is saved.
    PageApplied {
        /// The number of the page, from 1.
        page: u64,
        /// Items in it.
        items: usize,
    },
    /// An item was changed on both sides.
    Conflict(Conflict),
    /// A step failed and is tried again.
    Retrying {
        /// Which.
        step: Step,
        /// The attempt that failed, from 1.
        attempt: u32,
        /// The wait before the next one.
        wait: Duration,
        /// What went wrong.
        error: String,
    },
    /// A sync failed. The next run goes on where it stopped.
    Failed(Failure),
    /// A sync was not started, because a feature that it depends on is not in step.
    Blocked {
        /// Which sync.
        phase: Phase,
        /// By which feature.
        by: FeatureKey,
    },
    /// A sync was cancelled. The next run goes on where it stopped.
    Cancelled {
        /// Which sync.
        phase: Phase,
    },
    /// The app paused everything.
    Paused,
    /// The app ended the pause.
    Resumed,
}

/// Publishes events and states.
#[derive(Debug)]
pub(super) struct Hub {
    clock: Arc<dyn Clock>,
    outlet: Mutex<Outlet>,
    pub(super) board: watch::Sender<Board>,
}

/// Locked while an event is sent, so that events arrive in their order.
#[derive(Debug)]
struct Outlet {
    /// The number of the newest event.
    sequence: u64,
    /// Nothing after the end.
    events: Option<broadcast::Sender<SyncEvent>>,
}

impl Hub {
    pub(super) fn new(clock: Arc<dyn Clock>, buffer: usize, board: Board) -> Self {
        let events = Some(broadcast::Sender::new(buffer));
        Self {
            clock,
            outlet: Mutex::new(Outlet {
                sequence: 0,
                events,
            }),
            board: watch::Sender::new(board),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn publish(&self, feature: Option<&FeatureKey>, kind: SyncEventKind) {
        let mut outlet = self.outlet();
        outlet.sequence += 1;
        let event = SyncEvent {
            sequence: outlet.sequence,
            missed_before: 0,
            feature: feature.cloned(),
            at: self.now(),
            kind,
        };
        if let Some(events) = &outlet.events {
            // No reader is not an error.
            drop(events.send(event));
        }
    }

    /// Ends every stream of events.
    pub(super) fn close(&self) {
        self.outlet().events = None;
    }

    fn outlet(&self) -> MutexGuard<'_, Outlet> {
        self.outlet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state of a feature; nobody is told when it is the same.
    pub(super) fn change(&self, feature: &FeatureKey, change: impl FnOnce(&mut FeatureStatus)) {
        self.board.send_if_modified(|board| {
            let Some(status) = board.get_mut(feature) else {
                return false;
            };
            let before = status.clone();
            change(status);
            *status != before
        });
    }

    /// States first: who reads them because of the event finds them.
    pub(super) fn ended(&self, feature: &FeatureKey, phase: Phase, end: &End) {
        let at = self.now();
        self.change(feature, |status| status.has_ended(phase, end, at));
        let kind = match (end.clone(), phase) {
            (End::Completed(tally), Phase::Initial) => SyncEventKind::InitialCompleted(tally),
            (End::Completed(tally), Phase::Background) => SyncEventKind::BackgroundCompleted(tally),
            (End::AlreadyCompleted, _) => SyncEventKind::InitialAlreadyCompleted,
            (End::Failed(failure), _) => SyncEventKind::Failed(failure),
            (End::Blocked { by }, phase) => SyncEventKind::Blocked { phase, by },
            (End::Cancelled, phase) => SyncEventKind::Cancelled { phase },
            (End::NotDue, _) => return,
        };
        self.publish(Some(feature), kind);
    }

    pub(super) fn subscribe(&self) -> SyncEvents {
        let events = match &self.outlet().events {
            Some(events) => events.subscribe(),
            None => broadcast::channel(1).1,
        };
        let start = (events, 0);
        SyncEvents(Box::pin(stream::unfold(
            start,
            |(mut events, mut missed)| async move {
                loop {
                    match events.recv().await {
                        Ok(mut event) => {
                            event.missed_before = missed;
                            return Some((event, (events, 0)));
                        }
                        Err(RecvError::Lagged(count)) => missed += count,
                        Err(RecvError::Closed) => return None,
                    }
                }
            },
        )))
    }
}

/// A stream of [`SyncEvent`]s. It ends with the orchestrator.
pub struct SyncEvents(Pin<Box<dyn Stream<Item = SyncEvent> + Send>>);

impl SyncEvents {
    /// Only those of one feature.
    #[must_use]
    pub fn of(self, feature: impl Into<FeatureKey>) -> Self {
        let feature = feature.into();
        let start = (self.0, feature, 0);
        Self(Box::pin(stream::unfold(
            start,
            |(mut events, feature, mut missed)| async move {
                loop {
                    let mut event =
                        std::future::poll_fn(|cx| events.as_mut().poll_next(cx)).await?;
                    missed += event.missed_before;
                    if event.feature.as_ref() == Some(&feature) {
                        event.missed_before = missed;
                        return Some((event, (events, feature, 0)));
                    }
                }
            },
        )))
    }

    /// The next event; nothing when the orchestrator is gone.
    pub async fn next(&mut self) -> Option<SyncEvent> {
        std::future::poll_fn(|cx| self.0.as_mut().poll_next(cx)).await
    }
}

impl Stream for SyncEvents {
    type Item = SyncEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<SyncEvent>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for SyncEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncEvents").finish_non_exhaustive()
    }
}
