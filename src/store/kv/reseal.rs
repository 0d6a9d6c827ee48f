//! What a sealed vault asks for: the same values sealed anew, and quarantine for what does not open.

use std::borrow::Cow;

use bytes::Bytes;

use super::committer::Growth;
use super::keeper::Size;
use super::queue::Queue;
use super::records::{Kept, frame};
use super::{Engine, KvStore, keys};
use crate::action::{ActionId, FrameKind, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::store::bodies::FileKind;
use crate::store::{Amend, Amended, StoreFuture, Urgency};

/// The new values of one action, where they belong.
struct Resealed {
    id: ActionId,
    revision: u64,
    content: Bytes,
    last_error: Option<String>,
    body: Option<Kept>,
    answer: Option<Kept>,
}

impl<E: Engine + Send + 'static> KvStore<E> {
    /// `is_current` tells whether the values are sealed under the keyring that is kept.
    pub(super) fn reseal(
        &self,
        change: Amend,
        is_current: impl FnOnce(&Queue<E>) -> Result<()> + Send + 'static,
    ) -> StoreFuture<'_, Amended> {
        let Amend::Reseal {
            id,
            revision,
            content,
            last_error,
            body,
            answer,
        } = change
        else {
            let error = Error::new(ErrorKind::Unsupported, "not a change of sealed values");
            return Box::pin(std::future::ready(Err(error)));
        };
        let kept = self.bodies.as_ref();
        let size = match Size::of_bodies(body.iter(), kept) {
            Size::Small => Size::of(answer.iter().map(|answer| answer.len() as u64), kept),
            Size::Large => Size::Large,
        };
        self.submit_kept(
            (size, Urgency::Now, Growth::Stays),
            move |keeper| {
                let body = body.map(|body| keeper.keep_again(id, body));
                let answer = answer.map(|answer| keeper.keep(id, FileKind::Answer, answer));
                Ok(Resealed {
                    id,
                    revision,
                    content,
                    last_error,
                    body: body.transpose()?,
                    answer: answer.transpose()?,
                })
            },
            move |queue, new| {
                is_current(queue)?;
                queue.reseal(new)
            },
        )
    }
}

impl<E: Engine> Queue<E> {
    fn reseal(&mut self, new: Resealed) -> Result<Amended> {
        let Some(mut record) = self.record(new.id)? else {
            self.refuse_new(new);
            return Ok(Amended::Unknown);
        };
        if record.revision != new.revision || self.in_flight.contains_key(&new.id) {
            self.refuse_new(new);
            return Ok(Amended::NotNow(record));
        }
        record.content = new.content;
        record.last_error = new.last_error;
        if let Some(answer) = new.answer {
            self.put_answer(&mut record, &answer)?;
        }
        self.rewrite(&mut record)?;
        if let Some(body) = new.body {
            self.put_body(&record, &body)?;
        }
        Ok(Amended::Done(vec![record]))
    }

    fn refuse_new(&mut self, new: Resealed) {
        if let Some(body) = new.body {
            self.refuse_body(new.id, body);
        }
        if let Some(answer) = new.answer {
            self.refuse(answer);
        }
    }

    /// Puts another body in the place of the one before. Files that it has again stay.
    pub(super) fn put_body(&mut self, record: &Record, body: &Kept) -> Result<()> {
        if let Ok(Some(old)) = self.body_of(record.id) {
            let old = old.files().map(|file| file.path.to_string_lossy());
            let gone = old.filter(|name| !body.has_file(name));
            self.garbage.extend(gone.map(Cow::into_owned));
        }
        let mut bytes = record.encode()?;
        bytes.extend_from_slice(&frame(FrameKind::Body, record.id, body)?);
        self.txn.put(keys::birth(record.id), bytes);
        Ok(())
    }

    pub(super) fn quarantine_action(&mut self, id: ActionId) -> Result<Amended> {
        let Some(record) = self.record(id)? else {
            return Ok(Amended::Unknown);
        };
        self.take_out(&record)?;
        self.quarantine(id)?;
        Ok(Amended::Done(vec![record]))
    }
}
