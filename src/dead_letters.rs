//! Dead letters: listed, counted, sent back or forgotten. They stay on disk until somebody acts.

use std::sync::Arc;

use crate::action::{Action, ActionId, Answer, DeadReason, Record, State};
use crate::error::{Error, ErrorKind, Result};
use crate::listing::{Listing, Paging};
use crate::parts::{DeadLetter, Parts};
use crate::store::{Amend, Amended, Find, Part, Query};
use crate::ticket::Ticket;

/// The dead letters of a vault. Made by [`SyncVault::dead_letters`](crate::SyncVault::dead_letters).
///
/// # A screen that asks the user
///
/// ```
/// # async fn ask(text: &str) -> bool { true }
/// # async fn example(vault: &syncvault::SyncVault) -> syncvault::Result<()> {
/// use syncvault::Paging;
///
/// let dead = vault.dead_letters();
/// for letter in dead.list(Paging::first(20)).await?.items {
///     let (action, reason) = (&letter.action, &letter.reason);
///     if ask(&format!("{} {}: {reason}. Try again?", action.method, action.url)).await {
///         let ticket = dead.requeue(action.id).await?;
///     } else {
///         dead.discard(action.id).await?;
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct DeadLetters {
    parts: Arc<Parts>,
}

impl DeadLetters {
    pub(crate) fn new(parts: Arc<Parts>) -> Self {
        Self { parts }
    }

    /// How many there are. Kept, not scanned.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn count(&self) -> Result<u64> {
        Ok(self.parts.store.totals().await?.counts.dead)
    }

    /// A page of them, oldest first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a page size outside 1 to 1000; storage errors.
    pub async fn list(&self, paging: Paging) -> Result<Listing<DeadLetter>> {
        let page = self.parts.store.page(paging.query(Part::Dead)?).await?;
        let mut items = Vec::with_capacity(page.records.len());
        for record in &page.records {
            items.extend(self.letter(record).await?);
        }
        Ok(Listing::new(items, paging.limit(), page.next))
    }

    /// One of them; nothing when the id is not that of a dead letter.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn get(&self, id: ActionId) -> Result<Option<DeadLetter>> {
        match self.parts.store.get(Find::Id(id)).await? {
            Some(record) => self.letter(&record).await,
            None => Ok(None),
        }
    }

    async fn letter(&self, record: &Record) -> Result<Option<DeadLetter>> {
        let State::Dead { reason, at } = record.state.clone() else {
            return Ok(None);
        };
        let kept = self.parts.store.answer(record.id).await?;
        let answer = kept.and_then(|bytes| Answer::decode(bytes).ok());
        let action = Action::of(record)?;
        Ok(Some(DeadLetter {
            action,
            reason,
            at,
            answer,
        }))
    }

    /// Sends one back: to the end of its lane, or to its old place when it blocks the lane; with the same id, key and
    /// body, and with all its retries. What died with it ([`ParentDead`](crate::DeadReason::ParentDead)) comes back too, behind it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] and [`ErrorKind::WrongState`] when it is not a dead letter, or waits for an action that
    /// is dead or gone; storage errors.
    pub async fn requeue(&self, id: ActionId) -> Result<Ticket> {
        let now = self.parts.now();
        let amended = self.parts.amend(Amend::Requeue { id, now }).await?;
        let record = self.one(id, amended)?;
        Ok(Ticket::of(self.parts.clone(), &record))
    }

    /// Sends all of them back, oldest first, but for those that are [`Uncertain`](crate::DeadReason::Uncertain): each of them is for
    /// somebody to look at. Returns how many.
    ///
    /// # Errors
    ///
    /// As [`requeue`](Self::requeue); those already sent back stay so.
    pub async fn requeue_all(&self) -> Result<u64> {
        let now = self.parts.now();
        let mut query = Query::first(Part::Dead, Query::LIMIT_MAX);
        let mut count = 0;
        loop {
            let page = self.parts.store.page(query.clone()).await?;
            // One that dies again at once must not make this endless.
            let is_old = |record: &&Record| match record.state {
                State::Dead { at, .. } => at <= now,
                _ => false,
            };
            let is_any_old = page.records.iter().any(|record| is_old(&record));
            for record in page.records.iter().filter(is_old).filter(is_certain) {
                match self.requeue(record.id).await {
                    Ok(_) => count += 1,
                    Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::WrongState) => {}
                    Err(error) => return Err(error),
                }
            }
            match page.next {
                Some(after) if is_any_old => query.after = Some(after),
                _ => return Ok(count),
            }
        }
    }

    /// Forgets one. The ledger keeps counting it as dead.
    ///
    /// # Errors
    ///
    /// As [`requeue`](Self::requeue).
    pub async fn discard(&self, id: ActionId) -> Result<()> {
        let amended = self.parts.amend(Amend::Discard { id }).await?;
        self.one(id, amended).map(drop)
    }

    fn one(&self, id: ActionId, amended: Amended) -> Result<Record> {
        match amended {
            Amended::Done(records) | Amended::More(records) => records
                .into_iter()
                .next()
                .ok_or_else(|| Error::new(ErrorKind::Storage, "the store gave no record")),
            Amended::Unknown => {
                let text = format!("action {id} is not known");
                Err(Error::new(ErrorKind::NotFound, text))
            }
            Amended::NotNow(record) => {
                let text = match record.waits.first() {
                    Some(parent) if record.state.is_dead() => format!(
                        "action {id} waits for action {parent}, which was not delivered: requeue that one, or discard this one"
                    ),
                    _ => format!("action {id} is {}, not a dead letter", record.state.name()),
                };
                Err(Error::new(ErrorKind::WrongState, text))
            }
        }
    }
}

fn is_certain(record: &&Record) -> bool {
    !matches!(
        record.state,
        State::Dead {
            reason: DeadReason::Uncertain { .. },
            ..
        }
    )
}
