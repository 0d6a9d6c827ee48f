//! The verb `amend`: which change is whose business, and what must be checked before it.

use super::committer::Growth;
use super::keeper::Size;
use super::queue::Queue;
use super::{Engine, KvStore};
use crate::error::Error;
use crate::store::bodies::FileKind;
use crate::store::{Amend, Amended, StoreFuture, Urgency};

impl<E: Engine + Send + 'static> KvStore<E> {
    /// `sealed`: the keyring that its values are sealed under; nothing = there are none.
    pub(super) fn change(&self, change: Amend, sealed: Option<u64>) -> StoreFuture<'_, Amended> {
        let is_current = move |queue: &Queue<E>| match sealed {
            Some(_) => queue.check_keyring(sealed),
            None => Ok(()),
        };
        match change {
            Amend::Cancel { id, now } => self.submit(move |queue| queue.cancel(id, now)),
            Amend::Requeue { id, now } => self.submit(move |queue| {
                is_current(queue)?;
                queue.requeue(id, now)
            }),
            Amend::Discard { id } => self.submit(move |queue| queue.discard(id)),
            Amend::Clear { limit, now } => self.submit(move |queue| queue.clear(limit, now)),
            Amend::Pause { paused } => self.submit(move |queue| queue.pause(paused)),
            Amend::Forget { principal, limit } => {
                self.submit(move |queue| queue.forget_principal(&principal, limit))
            }
            Amend::Quarantine { id } => self.submit(move |queue| queue.quarantine_action(id)),
            change @ Amend::Reseal { .. } => self.reseal(change, is_current),
            Amend::Reencrypt { .. } => Box::pin(std::future::ready(Ok(Amended::Done(Vec::new())))),
            Amend::Hasten { until } => self.submit(move |queue| queue.hasten(until)),
            Amend::KeepAnswer { id, answer } => {
                let length = std::iter::once(answer.len() as u64);
                let size = Size::of(length, self.bodies.as_ref());
                self.submit_kept(
                    (size, Urgency::Soon, Growth::Grows),
                    move |keeper| keeper.keep(id, FileKind::Answer, answer),
                    move |queue, answer| {
                        is_current(queue)?;
                        queue.keep_answer(id, answer)
                    },
                )
            }
            Amend::Under { .. } => {
                let error = Error::invalid("a change is sealed under one keyring");
                Box::pin(std::future::ready(Err(error)))
            }
        }
    }
}
