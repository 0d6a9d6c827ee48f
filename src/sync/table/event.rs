//! What happens to tables, told: one stream of events. What an event tells is committed already.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::stream;
use tokio::sync::broadcast::{self, error::RecvError};

use super::change::Operation;
use super::conflict::TableConflict;
use super::record::RecordKey;
use super::version::Version;
use crate::clock::{Clock, Timestamp};
use crate::sync::orchestrator::{SyncEvent, SyncEventKind};
use crate::sync::{ItemId, Winner};

/// Something that happened to a table.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TableEvent {
    /// Grows by one with every event of this engine.
    pub sequence: u64,
    /// How many events this reader lost right before this one, because it read too slowly.
    pub missed_before: u64,
    /// The table; nothing when it is about all of them.
    pub table: Option<String>,
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub kind: TableEventKind,
}

/// What happened to a table. Rows in events are masked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TableEventKind {
    /// A record is another now, here: the app wrote it, or a pull or a conflict did.
    Changed {
        /// Which.
        id: ItemId,
        /// Who changed it.
        by: ChangedBy,
    },
    /// The server took a change.
    Pushed {
        /// Of which record.
        id: ItemId,
        /// What was done.
        operation: Operation,
        /// The version that the record has now, if the server told.
        version: Option<Version>,
    },
    /// A record was changed here and at the server. Told once.
    Conflict {
        /// Both sides and the base, masked.
        conflict: Box<TableConflict>,
        /// Which side is kept.
        winner: Winner,
        /// What is kept, masked; nothing = the record is deleted.
        kept: Option<super::record::Row>,
    },
    /// The server refused a change: it is a dead letter of the vault, and the record stays unsynced. Requeue or discard it there, or
    /// write the record anew.
    Refused {
        /// Of which record.
        id: ItemId,
        /// Why.
        reason: String,
    },
    /// The server said 200 and did not take a change. The record stays unsynced: write it anew.
    RemoteRejected {
        /// Of which record.
        id: ItemId,
        /// What it said.
        reason: String,
    },
    /// The server wants credentials. Told once, until it has taken some. Nothing is lost meanwhile.
    AuthRequired {
        /// What it said.
        reason: String,
    },
    /// An attempt to push a change failed, and is made again.
    RetryScheduled {
        /// Of which record.
        id: ItemId,
        /// When, at the earliest.
        next: Timestamp,
    },
    /// A row of somebody else came, and was left out.
    Skipped {
        /// Which.
        id: ItemId,
        /// Whose it is.
        owner: String,
    },
    /// Something that cannot be read was set aside.
    Quarantined {
        /// Which record, if that could be read.
        id: Option<ItemId>,
        /// What is wrong.
        reason: String,
    },
    /// The server has forgotten the cursor: the table is listed anew. What the app changed stays.
    FullResync,
    /// A drain is over.
    Drained {
        /// Changes that the server took.
        delivered: u64,
        /// Records that are still unsynced.
        remaining: u64,
    },
    /// What the orchestrator tells of the table's syncs.
    Sync(SyncEventKind),
    /// The user is logged out.
    LoggedOut,
}

/// Who changed a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangedBy {
    /// The app.
    App,
    /// The server.
    Server,
}

/// Publishes events.
#[derive(Debug)]
pub(super) struct TableHub {
    clock: Arc<dyn Clock>,
    outlet: Mutex<(u64, Option<broadcast::Sender<TableEvent>>)>,
}

impl TableHub {
    pub(super) fn new(clock: Arc<dyn Clock>, buffer: usize) -> Self {
        let outlet = Mutex::new((0, Some(broadcast::Sender::new(buffer))));
        Self { clock, outlet }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn publish(&self, table: Option<&str>, kind: TableEventKind) {
        let mut outlet = self.outlet.lock().unwrap_or_else(PoisonError::into_inner);
        outlet.0 += 1;
        let event = TableEvent {
            sequence: outlet.0,
            missed_before: 0,
            table: table.map(str::to_owned),
            at: self.now(),
            kind,
        };
        if let Some(events) = &outlet.1 {
            // No reader is not an error.
            drop(events.send(event));
        }
    }

    pub(super) fn tell(&self, key: &RecordKey, kind: TableEventKind) {
        self.publish(Some(&key.table), kind);
    }

    /// Passes on what the orchestrator tells.
    pub(super) fn forward(&self, event: SyncEvent) {
        let table = event
            .feature
            .as_ref()
            .map(|feature| feature.as_str().to_owned());
        self.publish(table.as_deref(), TableEventKind::Sync(event.kind));
    }

    /// Ends every stream.
    pub(super) fn close(&self) {
        self.outlet.lock().unwrap_or_else(PoisonError::into_inner).1 = None;
    }

    pub(super) fn subscribe(&self) -> TableEvents {
        let outlet = self.outlet.lock().unwrap_or_else(PoisonError::into_inner);
        let events = match &outlet.1 {
            Some(events) => events.subscribe(),
            None => broadcast::channel(1).1,
        };
        let start = (events, 0);
        TableEvents(Box::pin(stream::unfold(
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

/// A stream of [`TableEvent`]s. It ends with the engine.
pub struct TableEvents(Pin<Box<dyn Stream<Item = TableEvent> + Send>>);

impl TableEvents {
    /// The next event; nothing when the engine is gone.
    pub async fn next(&mut self) -> Option<TableEvent> {
        std::future::poll_fn(|cx| self.0.as_mut().poll_next(cx)).await
    }
}

impl Stream for TableEvents {
    type Item = TableEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<TableEvent>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for TableEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableEvents").finish_non_exhaustive()
    }
}
