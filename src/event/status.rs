//! The state of the whole vault: a watched value.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::watch;

use crate::action::Counts;

/// The state of the whole vault, with its counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "is", content = "counts", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// Nothing is pending and nothing is dead.
    Synced(Counts),
    /// Something waits.
    Pending(Counts),
    /// Something is on the wire.
    Syncing(Counts),
    /// Something waits, and a login page of the network stands before a server: somebody has to log in to the network.
    Portal(Counts),
    /// Nothing is on the wire, and dead letters or a failed store need somebody.
    Error(Counts),
}

impl Status {
    /// The counts.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        match self {
            Self::Synced(counts)
            | Self::Pending(counts)
            | Self::Syncing(counts)
            | Self::Portal(counts)
            | Self::Error(counts) => counts,
        }
    }

    pub(super) fn of(counts: Counts, trouble: Trouble) -> Self {
        if trouble == Trouble::Store {
            Self::Error(counts)
        } else if counts.in_flight > 0 {
            Self::Syncing(counts)
        } else if counts.pending > 0 && trouble == Trouble::Portal {
            Self::Portal(counts)
        } else if counts.dead > 0 {
            Self::Error(counts)
        } else if counts.pending > 0 {
            Self::Pending(counts)
        } else {
            Self::Synced(counts)
        }
    }
}

/// What is wrong beside the actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    /// A login page of the network was met.
    Portal,
    /// The store failed.
    Store,
}

/// A stream of [`Status`], starting with the current one.
pub struct StatusChanges(Pin<Box<dyn Stream<Item = Status> + Send>>);

impl StatusChanges {
    pub(super) fn new(mut watch: watch::Receiver<Status>) -> Self {
        watch.mark_changed();
        Self(Box::pin(stream::unfold(watch, |mut watch| async move {
            watch.changed().await.ok()?;
            let status = *watch.borrow_and_update();
            Some((status, watch))
        })))
    }

    /// The next status; nothing when the vault is closed.
    pub async fn next(&mut self) -> Option<Status> {
        std::future::poll_fn(|cx| self.0.as_mut().poll_next(cx)).await
    }
}

impl Stream for StatusChanges {
    type Item = Status;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Status>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for StatusChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusChanges").finish_non_exhaustive()
    }
}
