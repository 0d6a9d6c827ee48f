//! What the app sees: events (a broadcast with sequence numbers) and the status (a watched value).
//! Nothing is published here that is not on disk yet, and a slow reader never slows delivery.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;

use crate::action::{ActionId, Counts, DeadReason, Lane, Record, State};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::store::{Find, Store, Totals};

/// Something that happened to an action, published after it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// Grows by one with every event of this vault handle's run; 0 for events rebuilt from the store.
    pub sequence: u64,
    /// How many events this reader lost right before this one, because it read too slowly. Re-read what matters.
    pub missed_before: u64,
    /// The action.
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
    /// A newer action with the same coalescing key took its place.
    Superseded,
}

impl EventKind {
    /// True when nothing follows unless somebody acts: a per-action stream ends after it.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        !matches!(
            self,
            Self::Queued | Self::Started { .. } | Self::Failed { .. }
        )
    }

    /// `Queued`, or what can be the next event after it.
    fn may_follow_queued(&self) -> bool {
        matches!(
            self,
            Self::Queued
                | Self::Started { .. }
                | Self::Cancelled
                | Self::Expired
                | Self::Superseded
        )
    }
}

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
            | Self::Error(counts) => counts,
        }
    }

    fn of(counts: Counts, store_failed: bool) -> Self {
        if counts.in_flight > 0 && !store_failed {
            Self::Syncing(counts)
        } else if counts.dead > 0 || store_failed {
            Self::Error(counts)
        } else if counts.pending > 0 {
            Self::Pending(counts)
        } else {
            Self::Synced(counts)
        }
    }
}

/// Publishes events and the status.
#[derive(Debug)]
pub(crate) struct EventHub {
    order: Mutex<Order>,
    /// Nothing once the vault is closed: every stream then ends.
    senders: Mutex<Option<Senders>>,
    last: Mutex<(u64, Status)>,
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
        let status = Status::of(totals.counts, false);
        let senders = Senders {
            events: broadcast::Sender::new(buffer),
            status: watch::Sender::new(status),
        };
        Self {
            order: Mutex::default(),
            senders: Mutex::new(Some(senders)),
            last: Mutex::new((totals.commit, status)),
        }
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
            *last = (totals.commit, Status::of(totals.counts, false));
            self.send_status(last.1);
        }
    }

    pub(crate) fn store_failed(&self) {
        let mut last = lock(&self.last);
        last.1 = Status::of(*last.1.counts(), true);
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

    /// All events from now on.
    pub(crate) fn subscribe(&self) -> Events {
        Events::new(stream::unfold(self.reader(), |mut reader| async move {
            let event = reader.next().await?;
            Some((event, reader))
        }))
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
        lane: record.lane.clone(),
        at,
        kind,
        revision: record.revision,
    }
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
        State::Superseded { at } => (EventKind::Superseded, *at),
    };
    event_of(record, kind, at)
}

/// A broadcast reader that folds lost events into the next one.
struct Reader {
    events: broadcast::Receiver<Event>,
    missed: u64,
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        loop {
            match self.events.recv().await {
                Ok(mut event) => {
                    event.missed_before = std::mem::take(&mut self.missed);
                    return Some(event);
                }
                Err(RecvError::Lagged(count)) => self.missed += count,
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// A stream of [`Event`]s.
pub struct Events(Pin<Box<dyn Stream<Item = Event> + Send>>);

impl Events {
    fn new(stream: impl Stream<Item = Event> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// The next event; nothing when the stream has ended. The same as `StreamExt::next`, without the import.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.0.as_mut().poll_next(cx)).await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// Follows one action: first what the store knows, then what happens, up to the terminal event.
struct Follower {
    store: Arc<dyn Store>,
    find: Find,
    reader: Reader,
    ready: VecDeque<Event>,
    revision: Option<u64>,
    is_over: bool,
}

/// The stream of one action, by its id or its key. It ends after the terminal event, at once when an id is
/// not known, and when the vault is closed.
///
/// The reader subscribes before the store is read, and revisions tell what the store already told.
pub(crate) async fn follow(hub: &EventHub, store: Arc<dyn Store>, find: Find) -> Result<Events> {
    let reader = hub.reader();
    let mut follower = Follower {
        store,
        find,
        reader,
        ready: VecDeque::new(),
        revision: None,
        is_over: false,
    };
    follower.read_store(0).await?;
    Ok(Events::new(stream::unfold(
        follower,
        |mut follower| async move {
            let event = follower.next().await?;
            Some((event, follower))
        },
    )))
}

impl Follower {
    async fn read_store(&mut self, missed: u64) -> Result<()> {
        match self.store.get(self.find.clone()).await? {
            Some(record) if self.revision.is_none_or(|seen| record.revision > seen) => {
                self.revision = Some(record.revision);
                let mut event = known(&record);
                event.missed_before = missed;
                self.ready.push_back(event);
            }
            Some(_) => {}
            None => self.is_over = matches!(self.find, Find::Id(_)) || self.revision.is_some(),
        }
        Ok(())
    }

    fn is_mine(&self, event: &Event) -> bool {
        let is_same = match &self.find {
            Find::Id(id) => event.action_id == *id,
            Find::Key(key) => event.key == *key,
        };
        is_same && self.revision.is_none_or(|seen| event.revision > seen)
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.is_over |= event.kind.is_terminal();
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            match self.reader.events.recv().await {
                Ok(event) if self.is_mine(&event) => {
                    self.revision = Some(event.revision);
                    self.ready.push_back(event);
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    if let Err(error) = self.read_store(missed).await {
                        tracing::debug!(%error, "a per-action stream ends: the store cannot be read");
                        return None;
                    }
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// A stream of [`Status`], starting with the current one.
pub struct StatusChanges(Pin<Box<dyn Stream<Item = Status> + Send>>);

impl StatusChanges {
    fn new(mut watch: watch::Receiver<Status>) -> Self {
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
