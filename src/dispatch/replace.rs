//! Putting another request in the place of a queued one. The store compares: only what was never sent gives way.

use super::{Admitted, Desk, Detached, Dispatch, Draft, conflict, unknown};
use crate::action::{ActionId, Lane, Record, WireState};
use crate::error::{Error, ErrorKind, Result};
use crate::payload::{KeptBody, Payload};
use crate::store::{Appended, Find, LanePlace, Over, Then};
use crate::ticket::Ticket;

/// What became of [`SyncVault::replace`](crate::SyncVault::replace).
#[derive(Clone, Debug)]
#[must_use = "only `Replaced` means that the new request is kept"]
#[non_exhaustive]
pub enum Replaced {
    /// The new request stands in the place of the old one, of which no byte was ever sent; this is its ticket.
    Replaced(Ticket),
    /// The old one has ended already: delivered, dead, or otherwise. Nothing of the new one is kept.
    TooLate,
    /// An attempt of the old one is running, or one was made that reached the server, or may have. Nothing of the new one is
    /// kept.
    MayHaveBeenSent,
}

impl Dispatch {
    /// `lane`: the one that the caller named.
    pub(crate) async fn replace(
        &self,
        id: ActionId,
        mut draft: Draft,
        payload: Payload,
        lane: Option<Lane>,
    ) -> Result<Replaced> {
        let parts = &self.desk.parts;
        parts.check_open()?;
        draft.drop_credentials(parts)?;
        let old = parts.store.get(Find::Id(id)).await?;
        let Some(old) = old.filter(|old| old.principal == draft.principal) else {
            return Err(unknown(id));
        };
        if let Some(refusal) = refusal(&old) {
            // The same call again: its request, with a key of its own, is there by now.
            return match self.desk.successor(&old, &draft).await? {
                Some(ticket) => Ok(Replaced::Replaced(ticket)),
                None => Ok(refusal),
            };
        }
        if lane.is_some_and(|lane| lane != old.lane.bare()) {
            let text = format!(
                "action {id} is in another lane than the request that is to replace it: name no lane"
            );
            return Err(Error::invalid(text));
        }
        draft.lane = old.lane.clone();
        let body = payload.keep(parts, &mut draft.request.headers).await?;
        let record = draft.record(&body, parts.now())?;
        let desk = self.desk.clone();
        Detached::new(async move { desk.put_over(id, record, body).await }).await
    }
}

impl Desk {
    /// What took the place of `old`, when that has the key of this request.
    async fn successor(&self, old: &Record, draft: &Draft) -> Result<Option<Ticket>> {
        let (Some(by), Some(key)) = (old.superseded_by, draft.scoped_key()) else {
            return Ok(None);
        };
        let found = self.parts.store.get(Find::Id(by)).await?;
        let found = found.filter(|record| record.key.as_deref() == Some(&*key));
        Ok(found.map(|record| Ticket::of(self.parts.clone(), &record)))
    }

    async fn put_over(&self, id: ActionId, record: Record, body: KeptBody) -> Result<Replaced> {
        let now = self.parts.now();
        let _coming = self.parts.hub.coming(record.id);
        let mut append = self.to_append(record, body.hand_over(), now)?;
        append.over = Over::Exactly {
            id,
            revision: None,
            then: Then::Supersede(LanePlace::Old),
        };
        let appended = self.put(append).await?;
        self.parts.publish_totals().await;
        match appended {
            Some(Appended::NotOver { found: None }) => Err(unknown(id)),
            Some(Appended::NotOver { found: Some(found) }) => refusal(&found).ok_or_else(|| {
                let text = format!("the store does not replace action {id}, and gives no reason");
                Error::new(ErrorKind::Storage, text)
            }),
            // Nothing gave way: the key is that of another action, or of the old one itself.
            Some(Appended::Known { record }) if record.id != id => Err(conflict(record.id)),
            appended => match self.admit(appended, now)? {
                Admitted::Queued(ticket) => Ok(Replaced::Replaced(ticket)),
                Admitted::Leased(_) => Err(super::leased()),
            },
        }
    }
}

/// Why an action does not give way; nothing when it does.
fn refusal(old: &Record) -> Option<Replaced> {
    match (&old.state, old.wire) {
        (state, _) if !state.is_pending() => Some(Replaced::TooLate),
        (_, WireState::NeverSent) if old.due().is_some() => None,
        _ => Some(Replaced::MayHaveBeenSent),
    }
}
