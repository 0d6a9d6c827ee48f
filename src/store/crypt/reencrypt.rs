//! Sealing everything anew, in bounded steps: new keys, each record under them, then the old keys go. What is done
//! stays done: a record tells by its key whether it is still to do. Of a body in files, the value with their keys is sealed
//! anew; the files stay as they are.

use bytes::Bytes;

use super::{Cursor, Kind, Sealed, lock, pieces, under};
use crate::action::{ActionId, Record};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Amend, Amended, Find, Part, Query, Store};

/// How far the pass over all records is.
#[derive(Debug, Default)]
pub(super) struct Pass {
    is_running: bool,
    /// The keys that go in the end.
    old: Vec<u32>,
    at: usize,
    after: Option<Cursor>,
    /// Something old was met: another pass must find nothing.
    is_dirty: bool,
}

/// In the order in which actions go their way, so that none slips behind the pass, whoever moves it. Only who requeues a dead
/// letter brings it back, and seals it anew first. Nothing new is sealed with an old key: the store refuses it.
fn part(at: usize) -> Option<Part> {
    [Part::Pending, Part::Dead, Part::Settled]
        .into_iter()
        .nth(at)
}

impl Sealed {
    /// One step: at most `limit` records are looked at. The records that were sealed anew.
    pub(super) async fn reencrypt(&self, limit: usize) -> Result<Amended> {
        if !lock(&self.pass).is_running {
            self.is_outdated(&*self.ring()?).await?;
            self.change(|ring| ring.old().is_empty() && ring.renew())
                .await?;
            *lock(&self.pass) = Pass {
                is_running: true,
                old: self.ring()?.old(),
                ..Pass::default()
            };
        }
        let (at, after) = {
            let pass = lock(&self.pass);
            (pass.at, pass.after.clone())
        };
        let Some(part) = part(at) else {
            return self.end_pass().await;
        };
        let mut query = Query::first(part, limit);
        query.after = after;
        let page = self.store.page(query).await?;
        let ring = self.ring()?;
        let mut done = Vec::new();
        for record in page.records {
            if ring.is_old(&record.content) {
                lock(&self.pass).is_dirty = true;
                done.extend(self.renew(record).await?);
            }
        }
        let mut pass = lock(&self.pass);
        pass.at += usize::from(page.next.is_none());
        pass.after = page.next;
        Ok(Amended::More(done))
    }

    /// Something old came to where the pass was already.
    pub(super) fn must_pass_again(&self) {
        lock(&self.pass).is_dirty = true;
    }

    /// After a pass that found nothing old, the old keys go.
    async fn end_pass(&self) -> Result<Amended> {
        let pass = std::mem::take(&mut *lock(&self.pass));
        if pass.is_dirty {
            *lock(&self.pass) = Pass {
                is_running: true,
                old: pass.old,
                ..Pass::default()
            };
            return Ok(Amended::More(Vec::new()));
        }
        self.clear_cache().await?;
        self.change(|ring| ring.drop_old(&pass.old)).await?;
        Ok(Amended::Done(Vec::new()))
    }

    /// Seals one action anew. Nothing when it is in flight, or changed meanwhile: the next pass meets it again.
    async fn renew(&self, stored: Record) -> Result<Option<Record>> {
        let (id, revision) = (stored.id, stored.revision);
        if stored.state.name() == "in_flight" {
            return Ok(None);
        }
        let ring = self.ring()?;
        let Some(clear) = self.opened(&ring, stored).await? else {
            return Ok(None);
        };
        let change = Amend::Reseal {
            id,
            revision,
            content: clear.content.clone(),
            last_error: clear.last_error.clone(),
            body: self.body(id).await?,
            answer: self.answer(id).await?,
        };
        match self.reseal(change).await? {
            Amended::Done(_) => Ok(Some(clear)),
            _ => Ok(None),
        }
    }

    /// Puts new values in the place of old ones, sealed.
    pub(super) async fn reseal(&self, change: Amend) -> Result<Amended> {
        let Amend::Reseal {
            id,
            revision,
            content,
            last_error,
            body,
            answer,
        } = change
        else {
            return Err(Error::new(ErrorKind::Unsupported, "not a change of values"));
        };
        loop {
            let Some(mut clear) = self.reread(id).await? else {
                return Ok(Amended::Unknown);
            };
            clear.content.clone_from(&content);
            clear.last_error.clone_from(&last_error);
            let owner = clear.principal.as_deref();
            let ring = self.ring_for(std::iter::once(owner)).await?;
            let sealed = ring.seal_record(&clear)?;
            let owner = sealed.principal.as_deref();
            let seal_answer = |answer: &Bytes| ring.seal_value(owner, Kind::Answer, id, answer);
            let seal_body = |body| pieces::seal(&ring, owner, id, body);
            let change = Amend::Reseal {
                id,
                revision,
                content: sealed.content.clone(),
                last_error: sealed.last_error.clone(),
                body: body.clone().map(seal_body).transpose()?,
                answer: answer.as_ref().map(seal_answer).transpose()?,
            };
            let done = self.store.amend(under(&ring, change)).await;
            if !self.is_late(&done, &ring).await? {
                return done;
            }
        }
    }

    /// Sends a dead letter back, sealed with a key that stays.
    pub(super) async fn requeue(&self, id: ActionId, now: Timestamp) -> Result<Amended> {
        loop {
            let ring = self.ring()?;
            if let Some(stored) = self.store.get(Find::Id(id)).await?
                && stored.state.is_dead()
                && ring.is_old(&stored.content)
            {
                self.renew(stored).await?;
                continue;
            }
            let change = under(&ring, Amend::Requeue { id, now });
            let done = self.store.amend(change).await;
            if !self.is_late(&done, &ring).await? {
                return done;
            }
        }
    }
}
