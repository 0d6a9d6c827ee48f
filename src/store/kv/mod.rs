//! The queue over any ordered key-value engine. `Engine` is what an engine must do; `KvStore` makes a `Store` of
//! it. Encoding, order, leases and counts are written once, in the files beside this one.

mod advance;
mod amend;
mod append;
mod committer;
mod ending;
mod forget;
mod gates;
mod keeper;
mod keyring;
mod keys;
mod lanes;
mod lease;
mod open;
mod queue;
mod read;
mod ready;
mod records;
mod reseal;
mod txn;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::oneshot;

use self::committer::{Front, Status, work};
use self::keeper::{Keeper, Size, fetch, keep_all, keep_answers, run_blocking};
use self::queue::Queue;
use super::bodies::{Bodies, FileKind};
use super::{
    Advance, Advanced, Amend, Amended, Append, Appended, Find, LaneTotals, Opened, Page, Query,
    Store, StoreFuture, Totals,
};
use crate::action::{ActionId, Body, Lane, Record};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// How long an encoded request may be: it is kept in the engine.
const CONTENT_BYTES_MAX: usize = 64 * 1024;

/// Puts (a value) and deletes (nothing), sorted by key; each key once.
pub type Batch = BTreeMap<Vec<u8>, Option<Bytes>>;

/// An ordered key-value engine with atomic, durable batches. One thread uses it.
pub trait Engine: fmt::Debug + Send + 'static {
    /// Makes the whole batch durable, or fails. After an error the engine is not used any more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StorageFull`] for a full disk, otherwise [`ErrorKind::Storage`].
    fn apply(&mut self, batch: Batch) -> Result<()>;

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] when it cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// The first `limit` entries from `from` up to, not including, `to`, in the order of their keys.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] when they cannot be read.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>>;

    /// Releases files and locks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] when that fails; everything applied stays durable.
    fn close(self) -> Result<()>
    where
        Self: Sized,
    {
        Ok(())
    }
}

/// A [`Store`] over an [`Engine`].
#[derive(Debug)]
pub struct KvStore<E: Engine> {
    front: Arc<Front<E>>,
    status: Arc<Status>,
    bodies: Option<Arc<Bodies>>,
    /// A file of its own, where there is a directory: an engine keeps what was overwritten for a while.
    keyring: Option<PathBuf>,
    is_swept: AtomicBool,
}

impl<E: Engine> KvStore<E> {
    /// Runs every verb at once, on the caller's thread: for engines that never wait.
    #[must_use]
    pub fn inline(engine: E) -> Self {
        let status = Arc::new(Status::default());
        let front = Front::inline(engine, status.clone());
        Self::of(front, status, None)
    }

    /// Gives the engine a thread of its own, which also opens it: why that failed is the answer of every verb.
    /// Verbs that wait at the same time share one commit.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] when no thread can be started.
    pub fn threaded(open: impl FnOnce() -> Result<E> + Send + 'static) -> Result<Self> {
        Self::with_bodies(open, None)
    }

    pub(super) fn with_bodies(
        open: impl FnOnce() -> Result<E> + Send + 'static,
        bodies: Option<Arc<Bodies>>,
    ) -> Result<Self> {
        let status = Arc::new(Status::default());
        let front = Front::thread(open, status.clone(), bodies.clone())?;
        Ok(Self::of(front, status, bodies))
    }

    fn of(front: Front<E>, status: Arc<Status>, bodies: Option<Arc<Bodies>>) -> Self {
        Self {
            front: Arc::new(front),
            status,
            keyring: bodies.as_ref().and_then(|bodies| bodies.beside("keyring")),
            bodies,
            is_swept: AtomicBool::new(false),
        }
    }

    /// Starts a command now; the future only waits for its answer.
    fn submit<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&mut Queue<E>) -> Result<T> + Send + 'static,
    ) -> StoreFuture<'static, T> {
        let (reply, answer) = oneshot::channel();
        self.front.send(work(verb, reply));
        self.wait(answer)
    }

    /// As [`submit`](Self::submit), after large values went to their files, off the async runtime.
    fn submit_kept<P, T>(
        &self,
        size: Size,
        keep: impl FnOnce(&mut Keeper) -> Result<P> + Send + 'static,
        verb: impl FnOnce(&mut Queue<E>, P) -> Result<T> + Send + 'static,
    ) -> StoreFuture<'static, T>
    where
        P: Send + 'static,
        T: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let (front, mut keeper) = (self.front.clone(), Keeper::new(self.bodies.clone()));
        let start = move || match keep(&mut keeper).and_then(|kept| keeper.sync().map(|()| kept)) {
            Ok(kept) => front.send(work(move |queue| verb(queue, kept), reply)),
            Err(error) => {
                keeper.undo();
                // The caller may be gone; nothing was kept.
                drop(reply.send(Err(error)));
            }
        };
        match size {
            Size::Large if self.bodies.is_some() => run_blocking(start),
            _ => start(),
        }
        self.wait(answer)
    }

    fn wait<T: Send + 'static>(
        &self,
        answer: oneshot::Receiver<Result<T>>,
    ) -> StoreFuture<'static, T> {
        let status = self.status.clone();
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(status.gone())) })
    }
}

fn check(batch: &[Append]) -> Result<()> {
    for append in batch {
        if !matches!(append.body, Body::Bytes(_)) {
            let text = "a body in a file cannot be appended yet; give its bytes";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        if append.record.content.len() > CONTENT_BYTES_MAX {
            let text = format!(
                "URL and headers of a request are limited to {CONTENT_BYTES_MAX} bytes, these have {}",
                append.record.content.len()
            );
            return Err(Error::invalid(text));
        }
    }
    Ok(())
}

impl<E: Engine> KvStore<E> {
    /// Reads a body or an answer. Its file may be replaced or removed between the two steps: then the queue knows of
    /// another one, or of none.
    async fn read_kept(&self, id: ActionId, kind: FileKind) -> Result<Option<Body>> {
        const TRIES: u32 = 4;
        let mut tries = 0;
        loop {
            let kept = self.submit(move |queue| match kind {
                FileKind::Body => queue.body_of(id),
                FileKind::Answer => queue.answer_of(id),
            });
            let Some(kept) = kept.await? else {
                return Ok(None);
            };
            tries += 1;
            match fetch(self.bodies.clone(), kept).await {
                Err(error) if error.kind() == ErrorKind::Corrupt && tries < TRIES => {}
                read => return read.map(Some),
            }
        }
    }
}

impl<E: Engine> Store for KvStore<E> {
    fn open(&self, now: Timestamp) -> StoreFuture<'_, Opened> {
        let is_first = !self.is_swept.swap(true, Ordering::AcqRel);
        let bodies = self.bodies.clone().filter(|_| is_first);
        self.submit(move |queue| {
            let opened = queue.open(now)?;
            if let Some(bodies) = bodies {
                queue.sweep(&bodies)?;
            }
            Ok(opened)
        })
    }

    fn append(&self, batch: Vec<Append>) -> StoreFuture<'_, Vec<Appended>> {
        if let Err(error) = check(&batch) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let size = Size::of(batch.iter().map(|append| append.body.len()));
        self.submit_kept(size, |keeper| keep_all(keeper, batch), Queue::append)
    }

    fn advance(&self, step: Advance) -> StoreFuture<'_, Advanced> {
        let answers = step
            .settle
            .iter()
            .filter_map(|settle| settle.answer.as_ref());
        let size = Size::of(answers.map(|answer| answer.len() as u64));
        let done = self.submit_kept(size, |keeper| keep_answers(keeper, step), Queue::advance);
        let bodies = self.bodies.clone();
        Box::pin(async move {
            let mut done = done.await?;
            for leased in &mut done.leased {
                let body = leased.body.clone();
                match fetch(bodies.clone(), body).await {
                    Ok(body) => leased.body = body,
                    Err(error) => {
                        let id = leased.record.id;
                        tracing::error!(%id, %error, "the body of an action cannot be read");
                        leased.body = bodies.as_deref().map_or_else(
                            || leased.body.clone(),
                            |bodies| bodies.located(leased.body.clone()),
                        );
                    }
                }
            }
            Ok(done)
        })
    }

    fn amend(&self, change: Amend) -> StoreFuture<'_, Amended> {
        match change {
            Amend::Cancel { id, now } => self.submit(move |queue| queue.cancel(id, now)),
            Amend::Requeue { id, now } => self.submit(move |queue| queue.requeue(id, now)),
            Amend::Discard { id } => self.submit(move |queue| queue.discard(id)),
            Amend::Clear { limit, now } => self.submit(move |queue| queue.clear(limit, now)),
            Amend::Pause { paused } => self.submit(move |queue| queue.pause(paused)),
            Amend::Forget { principal, limit } => {
                self.submit(move |queue| queue.forget_principal(&principal, limit))
            }
            Amend::Quarantine { id } => self.submit(move |queue| queue.quarantine_action(id)),
            change @ Amend::Reseal { .. } => self.reseal(change),
            Amend::Reencrypt { .. } => Box::pin(std::future::ready(Ok(Amended::Done(Vec::new())))),
            Amend::Hasten { until } => self.submit(move |queue| queue.hasten(until)),
            Amend::KeepAnswer { id, answer } => {
                let size = Size::of(std::iter::once(answer.len() as u64));
                self.submit_kept(
                    size,
                    move |keeper| keeper.keep(id, FileKind::Answer, answer),
                    move |queue, answer| queue.keep_answer(id, answer),
                )
            }
        }
    }

    fn get(&self, find: Find) -> StoreFuture<'_, Option<Record>> {
        self.submit(move |queue| queue.get(&find))
    }

    fn body(&self, id: ActionId) -> StoreFuture<'_, Option<Body>> {
        Box::pin(async move { self.read_kept(id, FileKind::Body).await })
    }

    fn answer(&self, id: ActionId) -> StoreFuture<'_, Option<Bytes>> {
        Box::pin(async move {
            match self.read_kept(id, FileKind::Answer).await? {
                Some(Body::Bytes(bytes)) => Ok(Some(bytes)),
                Some(Body::File(_)) | None => Ok(None),
            }
        })
    }

    fn page(&self, query: Query) -> StoreFuture<'_, Page> {
        self.submit(move |queue| queue.page(query))
    }

    fn totals(&self) -> StoreFuture<'_, Totals> {
        Box::pin(std::future::ready(self.status.totals()))
    }

    fn lane(&self, lane: Lane) -> StoreFuture<'_, LaneTotals> {
        self.submit(move |queue| queue.lane(&lane))
    }

    fn keyring(&self) -> StoreFuture<'_, Option<Bytes>> {
        match &self.keyring {
            Some(file) => keyring::read(file.clone(), self.status.totals()),
            None => self.submit(|queue| queue.txn.get(keys::KEYRING)),
        }
    }

    fn set_keyring(&self, keyring: Bytes) -> StoreFuture<'_, ()> {
        match &self.keyring {
            Some(file) => keyring::replace(file.clone(), keyring, self.status.totals()),
            None => self.submit(move |queue| {
                queue.txn.put(keys::KEYRING.to_vec(), keyring);
                Ok(())
            }),
        }
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.front.close().await;
            Ok(())
        })
    }
}
