//! What the app sees: events (a broadcast with sequence numbers) and the status (a watched value).
//! Nothing is published here that is not on disk yet, and a slow reader never slows delivery.

mod status;
mod stream;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::{iter, unfold};
use serde::Serialize;
use tokio::sync::{broadcast, watch};

use crate::action::{ActionId, DeadReason, Lane, Record, State};
use crate::clock::Timestamp;
use crate::store::{OpenReport, Totals};

use status::Trouble;
pub use status::{Status, StatusChanges};
pub use stream::Events;
use stream::Reader;
pub(crate) use stream::follow;

/// Something that happened to an action, published after it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// Grows by one with every event of this vault handle's run; 0 for events rebuilt from the store.
    pub sequence: u64,
    /// How many events this reader lost right before this one, because it read too slowly. Re-read what matters.
    pub missed_before: u64,
    /// The action; all zeros for what concerns the whole vault ([`EventKind::Salvaged`]).
    pub action_id: ActionId,
    /// Its idempotency key: the caller's, or the id.
    pub key: String,
    /// Its lane.
    pub lane: Lane,
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub kind: EventKind,
    #[serde(skip)]
    revision: u64,
    #[serde(skip)]
    owner: Owner,
}

/// On whose behalf: not for every eye that sees an event.
#[derive(Clone, Default, PartialEq, Eq)]
struct Owner(Option<String>);

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

/// What happened to an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// It is on disk and waits for its turn.
    Queued,
    /// Attempt number `attempt` starts.
    Started {
        /// From 1.
        attempt: u32,
    },
    /// The server answered 2xx.
    Succeeded {
        /// The status.
        status: u16,
    },
    /// The attempt failed; the action is queued again.
    Failed {
        /// What went wrong, without any content of the request.
        error: String,
        /// The status of the answer, if there was one.
        status: Option<u16>,
        /// The earliest time of the next attempt, as far as the action itself is concerned.
        next: Timestamp,
        /// Whether the attempt used up a retry. An unreachable server uses up none.
        is_counted: bool,
    },
    /// It became a dead letter.
    DeadLettered {
        /// Why.
        reason: DeadReason,
    },
    /// A direct send was refused and its answer went to the caller; nothing is kept.
    Returned {
        /// The status.
        status: Option<u16>,
    },
    /// The app took it back.
    Cancelled,
    /// Its time was over.
    Expired,
    /// Another action took its place: a newer one with the same coalescing key, or the one that the app
    /// [put there](crate::SyncVault::replace).
    Superseded {
        /// That action.
        by: Option<ActionId>,
    },
    /// Its principal was forgotten; nothing is kept.
    Evicted,
    /// The store was damaged, or had lost what it held last, and was built anew when the vault opened. Every stream of all
    /// events begins with it, as long as the vault is open.
    Salvaged {
        /// What was found, and what is missing.
        report: Box<OpenReport>,
    },
}

impl EventKind {
    /// True when nothing follows unless somebody acts: a per-action stream ends after it.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        !matches!(
            self,
            Self::Queued | Self::Started { .. } | Self::Failed { .. } | Self::Salvaged { .. }
        )
    }

    /// `Queued`, or what can be the next event after it.
    fn may_follow_queued(&self) -> bool {
        matches!(
            self,
            Self::Queued
                | Self::Started { .. }
                | Self::DeadLettered { .. }
                | Self::Cancelled
                | Self::Expired
                | Self::Superseded { .. }
                | Self::Evicted
        )
    }
}

/// Publishes events and the status.
#[derive(Debug)]
pub(crate) struct EventHub {
    /// What a stream of all events begins with.
    opening: Option<Event>,
    order: Mutex<Order>,
    /// Nothing once the vault is closed: every stream then ends.
    senders: Mutex<Option<Senders>>,
    last: Mutex<(u64, Status)>,
    /// The store changed, and could not tell its counts.
    is_behind: AtomicBool,
    /// A login page of the network stands before a server.
    is_behind_portal: AtomicBool,
}

/// What gives events their order.
#[derive(Debug, Default)]
struct Order {
    /// The number of the newest event.
    sequence: u64,
    /// Actions on their way into the queue, and whether their `Queued` is published.
    coming: HashMap<ActionId, bool>,
}

/// An action on its way into the queue. See [`EventHub::coming`].
#[derive(Debug)]
pub(crate) struct Coming<'a> {
    hub: &'a EventHub,
    id: ActionId,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        lock(&self.hub.order).coming.remove(&self.id);
    }
}

#[derive(Debug)]
struct Senders {
    events: broadcast::Sender<Event>,
    status: watch::Sender<Status>,
}

impl EventHub {
    pub(crate) fn new(buffer: usize, totals: Totals) -> Self {
        let status = Status::of(totals.counts, Trouble::None);
        let senders = Senders {
            events: broadcast::Sender::new(buffer),
            status: watch::Sender::new(status),
        };
        Self {
            opening: None,
            order: Mutex::default(),
            senders: Mutex::new(Some(senders)),
            last: Mutex::new((totals.commit, status)),
            is_behind: AtomicBool::new(false),
            is_behind_portal: AtomicBool::new(false),
        }
    }

    /// Tells every reader of all events what opening the store was like, if there is something to tell.
    pub(crate) fn with_report(mut self, report: &OpenReport, at: Timestamp) -> Self {
        self.opening = (!report.is_clean()).then(|| Event {
            sequence: 0,
            missed_before: 0,
            action_id: ActionId::from_bytes([0; 16]),
            key: String::new(),
            lane: Lane::default_lane(),
            at,
            kind: EventKind::Salvaged {
                report: Box::new(report.clone()),
            },
            revision: 0,
            owner: Owner::default(),
        });
        self
    }

    /// To be called before an action is given to the store, and held until its `Queued` was published. The worker may
    /// lease the action before the task that added it hears of it: the first event then brings `Queued` with it.
    pub(crate) fn coming(&self, id: ActionId) -> Coming<'_> {
        lock(&self.order).coming.insert(id, false);
        Coming { hub: self, id }
    }

    /// Publishes what happened to `record`, which is on disk in this form.
    pub(crate) fn publish(&self, record: &Record, kind: EventKind, at: Timestamp) {
        let event = event_of(record, kind, at);
        let mut order = lock(&self.order);
        let coming = order.coming.get_mut(&record.id);
        let was_published = match event.kind.may_follow_queued() {
            true => coming.map(|is_published| std::mem::replace(is_published, true)),
            false => None,
        };
        match (&event.kind, was_published) {
            (EventKind::Queued, Some(true)) => return,
            (EventKind::Queued, _) | (_, None | Some(true)) => {}
            (_, Some(false)) => {
                let mut queued = event_of(record, EventKind::Queued, at);
                queued.revision = event.revision.saturating_sub(1);
                self.send(&mut order, queued);
            }
        }
        self.send(&mut order, event);
    }

    fn send(&self, order: &mut Order, mut event: Event) {
        order.sequence += 1;
        event.sequence = order.sequence;
        if let Some(senders) = &*lock(&self.senders) {
            // No reader is not an error.
            drop(senders.events.send(event));
        }
    }

    /// Publishes new totals; older ones than those known change nothing.
    pub(crate) fn set_totals(&self, totals: Totals) {
        let mut last = lock(&self.last);
        if totals.commit >= last.0 {
            self.is_behind.store(false, Ordering::Release);
            *last = (totals.commit, Status::of(totals.counts, self.trouble()));
            self.send_status(last.1);
        }
    }

    fn trouble(&self) -> Trouble {
        match self.is_behind_portal.load(Ordering::Acquire) {
            true => Trouble::Portal,
            false => Trouble::None,
        }
    }

    /// A login page of the network was met, or is gone.
    pub(crate) fn set_portal(&self, is_behind: bool) {
        if self.is_behind_portal.swap(is_behind, Ordering::AcqRel) != is_behind {
            let mut last = lock(&self.last);
            last.1 = Status::of(*last.1.counts(), self.trouble());
            self.send_status(last.1);
        }
    }

    pub(crate) fn counts_are_behind(&self) {
        self.is_behind.store(true, Ordering::Release);
    }

    /// Nothing is pending and no lane is blocked, for certain.
    pub(crate) fn is_empty(&self) -> bool {
        let counts = *self.status().counts();
        let is_empty = counts.pending == 0 && counts.blocked_lanes == 0;
        is_empty && !self.is_behind.load(Ordering::Acquire)
    }

    pub(crate) fn store_failed(&self) {
        let mut last = lock(&self.last);
        last.1 = Status::of(*last.1.counts(), Trouble::Store);
        self.send_status(last.1);
    }

    fn send_status(&self, status: Status) {
        if let Some(senders) = &*lock(&self.senders) {
            senders.status.send_if_modified(|current| {
                let is_new = *current != status;
                *current = status;
                is_new
            });
        }
    }

    pub(crate) fn status(&self) -> Status {
        lock(&self.last).1
    }

    /// Ends every stream. The last status stays readable.
    pub(crate) fn close(&self) {
        *lock(&self.senders) = None;
    }

    /// Now, and whenever it changes.
    pub(crate) fn watch(&self) -> StatusChanges {
        let watch = match &*lock(&self.senders) {
            Some(senders) => senders.status.subscribe(),
            None => watch::channel(self.status()).1,
        };
        StatusChanges::new(watch)
    }

    fn reader(&self) -> Reader {
        let events = match &*lock(&self.senders) {
            Some(senders) => senders.events.subscribe(),
            None => broadcast::channel(1).1,
        };
        Reader { events, missed: 0 }
    }

    /// What opening was like, and all events from now on.
    pub(crate) fn subscribe(&self) -> Events {
        let coming = unfold(self.reader(), |mut reader| async move {
            let event = reader.next().await?;
            Some((event, reader))
        });
        Events::new(iter(self.opening.clone()).chain(coming))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn event_of(record: &Record, kind: EventKind, at: Timestamp) -> Event {
    Event {
        sequence: 0,
        missed_before: 0,
        action_id: record.id,
        key: record.effective_key(),
        lane: record.lane.bare(),
        at,
        kind,
        revision: record.revision,
        owner: Owner(record.principal.clone()),
    }
}

/// What happened to a record that is superseded.
pub(crate) fn superseded(record: &Record) -> EventKind {
    let by = record.superseded_by;
    EventKind::Superseded { by }
}

/// What the stored state of an action says, as an event.
fn known(record: &Record) -> Event {
    let (kind, at) = match &record.state {
        State::Queued { .. } => (EventKind::Queued, record.created),
        State::InFlight { attempt, .. } => (
            EventKind::Started { attempt: *attempt },
            record.last_attempt.unwrap_or(record.created),
        ),
        State::Delivered { status, at } => (EventKind::Succeeded { status: *status }, *at),
        State::Dead { reason, at } => (
            EventKind::DeadLettered {
                reason: reason.clone(),
            },
            *at,
        ),
        State::Cancelled { at } => (EventKind::Cancelled, *at),
        State::Expired { at } => (EventKind::Expired, *at),
        State::Superseded { at } => (superseded(record), *at),
    };
    event_of(record, kind, at)
}
