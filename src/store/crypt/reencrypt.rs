//! Sealing everything anew, in bounded steps: new keys, each record under them, then the old keys go. What is done
//! stays done: a record tells by its key whether it is still to do. Of a body in files, the value with their keys is sealed
//! anew; the files stay as they are.

use bytes::Bytes;

use super::keyring::Keyring;
use super::{Cursor, Kind, Sealed, lock, pieces};
use crate::action::Record;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Amend, Amended, Find, Part, Query, Store};

/// How far the pass over all records is.
#[derive(Debug, Default)]
pub(super) struct Pass {
    is_running: bool,
    at: usize,
    after: Option<Cursor>,
    /// Something old was met, moved or could not be done: another pass must find nothing.
    is_dirty: bool,
}

impl Pass {
    /// The store told of this record outside the pass: it may have moved to where the pass has been.
    pub(super) fn note(&mut self, ring: &Keyring, record: &Record) {
        self.is_dirty |= self.is_running && ring.is_old(&record.content);
    }
}

fn part(at: usize) -> Option<Part> {
    [Part::Dead, Part::Pending, Part::Settled]
        .into_iter()
        .nth(at)
}

impl Sealed {
    /// One step: at most `limit` records are looked at. The records that were sealed anew.
    pub(super) async fn reencrypt(&self, limit: usize) -> Result<Amended> {
        let mut ring = self.ring()?;
        if !lock(&self.pass).is_running {
            if !ring.keys.iter().any(|key| key.is_old) {
                ring = self.change(Keyring::renew).await?;
            }
            *lock(&self.pass) = Pass {
                is_running: true,
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

    /// After a pass that found nothing old, the old keys go.
    async fn end_pass(&self) -> Result<Amended> {
        let was_dirty = lock(&self.pass).is_dirty;
        *lock(&self.pass) = Pass {
            is_running: was_dirty,
            ..Pass::default()
        };
        if was_dirty {
            return Ok(Amended::More(Vec::new()));
        }
        self.change(|ring| ring.keys.retain(|key| !key.is_old))
            .await?;
        Ok(Amended::Done(Vec::new()))
    }

    /// Seals one action anew. Nothing when it is in flight, or changed meanwhile: the next pass meets it again.
    async fn renew(&self, stored: Record) -> Result<Option<Record>> {
        let (id, revision) = (stored.id, stored.revision);
        if stored.state.name() == "in_flight" {
            return Ok(None);
        }
        let ring = self.ring()?;
        let clear = match ring.open_record(stored) {
            Ok(clear) => clear,
            Err(error) => {
                self.quarantine(id, &error).await;
                return Ok(None);
            }
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
        let Some(stored) = self.store.get(Find::Id(id)).await? else {
            return Ok(Amended::Unknown);
        };
        let mut clear = self.ring()?.open_record(stored)?;
        clear.content = content;
        clear.last_error = last_error;
        let owner = clear.principal.as_deref();
        let ring = self.ring_for(std::iter::once(owner)).await?;
        let sealed = ring.seal_record(&clear)?;
        let owner = sealed.principal.as_deref();
        let seal_answer = |answer: Bytes| ring.seal_value(owner, Kind::Answer, id, &answer);
        let seal_body = |body| pieces::seal(&ring, owner, id, body);
        let change = Amend::Reseal {
            id,
            revision,
            content: sealed.content.clone(),
            last_error: sealed.last_error.clone(),
            body: body.map(seal_body).transpose()?,
            answer: answer.map(seal_answer).transpose()?,
        };
        self.store.amend(change).await
    }
}
