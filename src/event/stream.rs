//! Streams of events: all of them, or those of one action from what is known to its end.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::stream;
use tokio::sync::broadcast::{self, error::RecvError};

use super::{Event, EventHub, known};
use crate::action::scoped_key;
use crate::error::Result;
use crate::store::{Find, Store};

/// A broadcast reader that folds lost events into the next one.
pub(super) struct Reader {
    pub(super) events: broadcast::Receiver<Event>,
    pub(super) missed: u64,
}

impl Reader {
    pub(super) async fn next(&mut self) -> Option<Event> {
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
    pub(super) fn new(stream: impl Stream<Item = Event> + Send + 'static) -> Self {
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
            Find::Key(key) => scoped_key(event.owner.0.as_deref(), &event.key) == *key,
            // Nobody follows what waits under a coalescing key: it is another one at each look.
            Find::Coalescing { .. } => false,
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
