//! The handle of a queued action: its id, its events, its end.

use std::sync::Arc;

use crate::action::{ActionId, Answer, DeadReason, Lane, Record, State};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventKind, Events, follow};
use crate::parts::Parts;
use crate::store::Find;

/// The handle of a queued action. Keep its [`id`](Ticket::id): `SyncVault::ticket` gives the ticket
/// back, also after a restart.
///
/// # The answer to a request that was sent much later
///
/// ```
/// # async fn example(vault: &syncvault::SyncVault, id: syncvault::ActionId) -> syncvault::Result<()> {
/// use syncvault::End;
///
/// if let Some(ticket) = vault.ticket(id).await? {
///     match ticket.wait().await? {
///         End::Delivered(answer) => println!("{}: {} bytes", answer.status, answer.body.len()),
///         End::Dead(reason) => println!("{reason}"),
///         end => println!("{end:?}"),
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Ticket {
    parts: Arc<Parts>,
    id: ActionId,
    key: String,
    lane: Lane,
    parents: Vec<ActionId>,
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The server answered 2xx; this is what is kept of the answer.
    Delivered(Answer),
    /// It is a dead letter.
    Dead(DeadReason),
    /// The app took it back.
    Cancelled,
    /// Its time was over.
    Expired,
    /// Another action took its place: a newer one with the same coalescing key, or one that the app put there. Its event names it.
    Superseded,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("id", &self.id)
            .field("key", &self.key)
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}

impl From<&Ticket> for ActionId {
    fn from(ticket: &Ticket) -> Self {
        ticket.id
    }
}

impl Ticket {
    pub(crate) fn of(parts: Arc<Parts>, record: &Record) -> Self {
        Self {
            parts,
            id: record.id,
            key: record.effective_key(),
            lane: record.lane.bare(),
            parents: record.parents.clone(),
        }
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> ActionId {
        self.id
    }

    /// The idempotency key: the caller's, or the id.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The lane.
    #[must_use]
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// The actions that it was queued [after](crate::RequestBuilder::after).
    #[must_use]
    pub fn parents(&self) -> &[ActionId] {
        &self.parents
    }

    /// Its events: first what is known, then what happens, up to the terminal one.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn events(&self) -> Result<Events> {
        follow(&self.parts.hub, self.parts.store.clone(), Find::Id(self.id)).await
    }

    /// How it ended, if it has. The end is remembered for the key retention time (24 hours unless set),
    /// dead letters until they are requeued or discarded.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the action is not known (any more); storage errors.
    pub async fn end(&self) -> Result<Option<End>> {
        let Some(record) = self.parts.store.get(Find::Id(self.id)).await? else {
            return Err(self.forgotten());
        };
        Ok(Some(match record.state {
            State::Queued { .. } | State::InFlight { .. } => return Ok(None),
            State::Delivered { status, at } => {
                let kept = self.parts.store.answer(self.id).await?;
                let answer = kept.and_then(|bytes| Answer::decode(bytes).ok());
                End::Delivered(answer.unwrap_or_else(|| Answer::new(status, at)))
            }
            State::Dead { reason, .. } => End::Dead(reason),
            State::Cancelled { .. } => End::Cancelled,
            State::Expired { .. } => End::Expired,
            State::Superseded { .. } => End::Superseded,
        }))
    }

    /// Waits until it has ended, and tells how. Dropping the future changes nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when the action is not known (any more), [`ErrorKind::Closed`] when the vault
    /// is shut down before the end, storage errors.
    pub async fn wait(&self) -> Result<End> {
        loop {
            let mut elsewhere = self.parts.elsewhere.subscribe();
            let mut events = self.events().await?;
            let mut is_over = false;
            loop {
                tokio::select! {
                    event = events.next() => match event.map(|event| event.kind) {
                        Some(EventKind::Returned { .. } | EventKind::Evicted) => {
                            return Err(self.forgotten());
                        }
                        Some(kind) => is_over = kind.is_terminal(),
                        None => break,
                    },
                    // Another process has no events for us: what it ended is seen in the store.
                    Ok(()) = elsewhere.changed() => if let Some(end) = self.end().await? {
                        return Ok(end);
                    },
                }
            }
            match self.end().await? {
                Some(end) => return Ok(end),
                // A dead letter was requeued between its event and our look: go on waiting.
                None if is_over => {}
                None => return Err(Error::closed()),
            }
        }
    }

    fn forgotten(&self) -> Error {
        let text = format!(
            "action {} is not known: it was never queued here, or is forgotten",
            self.id
        );
        Error::new(ErrorKind::NotFound, text)
    }
}
