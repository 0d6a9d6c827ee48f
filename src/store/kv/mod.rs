//! The queue over any ordered key-value engine. `Engine` is what an engine must do; `KvStore` makes a `Store` of
//! it. Encoding, order, leases and counts are written once, in the files beside this one.

mod advance;
mod amend;
mod amending;
mod append;
mod cache;
mod caching;
mod coalesce;
mod committer;
mod crowd;
mod ending;
#[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
mod examine;
mod forget;
mod front;
mod gates;
mod keeper;
mod keyring;
mod keys;
#[cfg_attr(
    not(any(feature = "fjall", feature = "sled", feature = "sqlite")),
    allow(dead_code, reason = "only stores on disk can be damaged")
)]
mod ladder;
mod lanes;
mod lease;
mod marks;
mod notes;
mod open;
pub(super) mod overlay;
mod parents;
mod queue;
mod read;
mod ready;
mod records;
mod reseal;
mod restore;
mod runs;
#[cfg_attr(
    not(any(feature = "fjall", feature = "sled", feature = "sqlite")),
    allow(dead_code, reason = "only stores on disk can be damaged")
)]
mod salvage;
mod txn;
mod verify;
#[cfg(feature = "sqlite")]
mod within;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
#[cfg(any(feature = "fjall", feature = "sled"))]
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use self::committer::{Front, Growth, Order, Status, work};
#[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
pub(super) use self::examine::examine;
use self::keeper::{Keeper, Size, fetch, keep_all, keep_answers};
use self::keyring::KeyringFile;
#[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
pub(super) use self::ladder::Site;
use self::ladder::Started;
#[cfg(feature = "sqlite")]
pub(super) use self::ladder::refuse_unfinished;
use self::queue::Queue;
#[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
pub(super) use self::salvage::Sink;
#[cfg(feature = "sqlite")]
pub(super) use self::salvage::is_row_of_queue;
#[cfg(feature = "sqlite")]
pub(super) use self::within::append_within;
#[cfg(all(feature = "sqlite", feature = "encrypt"))]
pub(super) use self::within::{get_within, keyring_within, set_keyring_within};
use super::bodies::{Bodies, FileKind};
#[cfg(any(feature = "fjall", feature = "sled"))]
use super::dir::{QUARANTINE, VaultDir, refuse_links};
use super::snapshot::{blocking, in_memory, run_blocking};
use super::{
    Advance, Advanced, Amend, Amended, Append, Appended, CacheChange, CacheKey, CacheTarget,
    CacheTotals, Cached, CachedHead, Changed, Find, KeptKeyring, LaneTotals, Opened, Page, Query,
    Restore, Snapshot, Source, Store, StoreFuture, Totals, Urgency,
};
use crate::action::{ActionId, Body, Lane, Record};
use crate::clock::Timestamp;
use crate::error::{ErrorKind, Result};

/// Puts (a value) and deletes (nothing), sorted by key; each key once.
pub type Batch = BTreeMap<Vec<u8>, Option<Bytes>>;

/// An ordered key-value engine with atomic, durable batches. One thread uses it.
///
/// An engine that somebody else may write to at the same time also has [`begin`](Self::begin), [`end`](Self::end) and
/// [`peers`](Self::peers).
pub trait Engine: fmt::Debug {
    /// Begins a group of reads, which ends with one `apply` or with `end`: until then nobody else writes. True when
    /// somebody else wrote since the group before.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] when it cannot begin now; nothing has changed, and it may be tried again.
    fn begin(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// Ends a group that has nothing to write, or that is dropped.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] when that fails. After an error the engine is not used any more.
    fn end(&mut self) -> Result<()> {
        Ok(())
    }

    /// May somebody else write to it? Then a group is not held back once it has begun.
    fn is_shared(&self) -> bool {
        false
    }

    /// The other processes on the same data; nothing when there can be none.
    fn peers(&mut self) -> Option<&mut dyn Peers> {
        None
    }

    /// May what is kept grow? Asked before each append; what makes room, a settle say, is not asked for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StorageFull`] as long as it may not. It costs the append alone.
    fn check_room(&mut self) -> Result<()> {
        Ok(())
    }

    /// Is next to nothing left of the room for a full disk? Then settled actions are forgotten before their time. It fails
    /// when that cannot be told.
    fn is_tight(&self) -> Result<bool> {
        Ok(false)
    }

    /// Makes the whole batch durable, or fails. After [`ErrorKind::StorageFull`] nothing of it is there, the group is over,
    /// and the engine goes on; after any other error it is not used any more, but for [`abandon`](Self::abandon).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StorageFull`] for a full disk; [`ErrorKind::Storage`] otherwise, and for whatever a sync says.
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

    /// Releases files and locks after a failure. It syncs nothing: a sync that failed would look like a success.
    fn abandon(self)
    where
        Self: Sized,
    {
        drop(self);
    }
}

/// Processes on the same data: each runs its own direct sends, one at a time leases from the queue. Asked only between
/// [`begin`](Engine::begin) and the end of a group, so that no two of them decide at once. What a process holds here goes
/// with it, however it ends.
pub trait Peers {
    /// This process is the run `epoch` from now on, and no longer the one that it was.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] when that cannot be marked.
    fn start(&mut self, epoch: u64) -> Result<()>;

    /// Is the run `epoch` alive, in whatever process?
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] when that cannot be told.
    fn is_live(&self, epoch: u64) -> Result<bool>;

    /// Takes the turn to lease from the queue, or keeps it. False while another process has it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] when that cannot be told.
    fn take_turn(&mut self) -> Result<bool>;

    /// Gives the turn back.
    fn give_turn(&mut self);
}

/// A [`Store`] over an [`Engine`].
#[derive(Debug)]
pub struct KvStore<E: Engine> {
    front: Arc<Front<E>>,
    status: Arc<Status>,
    bodies: Option<Arc<Bodies>>,
    /// A file of its own, for an engine that keeps for a while what was overwritten.
    keyring: Option<Arc<KeyringFile>>,
    is_swept: AtomicBool,
    /// How often to look whether somebody else changed what is stored; nothing = nobody else can.
    poll: Option<Duration>,
}

impl<E: Engine + Send + 'static> KvStore<E> {
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
        Self::started(|| Started::plain(open()?), None)
    }

    /// In a directory: its lock, its bodies, its keyring, and the engine of the site there; what is damaged is built anew.
    #[cfg(any(feature = "fjall", feature = "sled"))]
    pub(super) fn in_directory<S>(path: &Path, site: impl FnOnce(VaultDir) -> S) -> Result<Self>
    where
        S: Site<Engine = E> + Send + 'static,
    {
        let dir = VaultDir::open(path)?;
        let (quarantine, keyring) = (dir.path().join(QUARANTINE), dir.path().join("keyring"));
        refuse_links([keyring.clone()])?;
        let bodies = Bodies::new(dir.subdir("bodies")?, quarantine);
        let store = Self::at_site(site(dir), bodies)?;
        Ok(store.with_keyring(keyring))
    }

    /// As [`threaded`](Self::threaded), with files of bodies; what is damaged is built anew.
    #[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
    pub(super) fn at_site<S>(site: S, bodies: Bodies) -> Result<Self>
    where
        S: Site<Engine = E> + Send + 'static,
    {
        Self::started(move || Started::open(&site), Some(Arc::new(bodies)))
    }

    /// As [`threaded`](Self::threaded), with files of bodies.
    #[cfg(feature = "sqlite")]
    pub(super) fn with_bodies(
        open: impl FnOnce() -> Result<E> + Send + 'static,
        bodies: Bodies,
    ) -> Result<Self> {
        Self::started(|| Started::plain(open()?), Some(Arc::new(bodies)))
    }

    fn started(
        open: impl FnOnce() -> Result<Started<E>> + Send + 'static,
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
            keyring: None,
            bodies,
            is_swept: AtomicBool::new(false),
            poll: None,
        }
    }

    /// Keeps the keyring in a file of its own.
    #[cfg(any(feature = "fjall", feature = "sled"))]
    pub(super) fn with_keyring(mut self, path: PathBuf) -> Self {
        self.keyring = Some(Arc::new(KeyringFile::new(path)));
        self
    }

    /// Looks every `poll` whether somebody else changed what is stored: for engines with [`Peers`].
    #[must_use]
    pub fn polled(mut self, poll: Duration) -> Self {
        self.poll = Some(poll);
        self
    }

    /// Starts a command now; the future only waits for its answer.
    fn submit<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&mut Queue<E>) -> Result<T> + Send + 'static,
    ) -> StoreFuture<'static, T> {
        let (reply, answer) = oneshot::channel();
        self.front.send(work(verb, reply, Order::now()));
        self.wait(answer)
    }

    /// As [`submit`](Self::submit), after large values went to their files, off the async runtime.
    fn submit_kept<P, T>(
        &self,
        (size, urgency, growth): (Size, Urgency, Growth),
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
            Ok(kept) => {
                let written = keeper.into_written();
                let order = Order {
                    urgency,
                    growth,
                    written,
                };
                front.send(work(move |queue| verb(queue, kept), reply, order));
            }
            Err(error) => {
                keeper.undo();
                front.stop_if_broken();
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

impl<E: Engine + Send + 'static> KvStore<E> {
    /// Reads a body or an answer. Its file may be replaced or removed between the two steps: then the queue knows of
    /// another one, or of none.
    async fn read_kept(&self, id: ActionId, kind: FileKind) -> Result<Option<Body>> {
        const TRIES: u32 = 4;
        let mut tries = 0;
        loop {
            let kept = self.submit(move |queue| match kind {
                FileKind::Body => queue.body_of(id),
                FileKind::Answer => queue.answer_of(id),
                FileKind::Cached => queue.cached_body_at(id),
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

impl<E: Engine + Send + 'static> Store for KvStore<E> {
    fn open(&self, now: Timestamp) -> StoreFuture<'_, Opened> {
        let is_first = !self.is_swept.swap(true, Ordering::AcqRel);
        let bodies = self.bodies.clone();
        self.submit(move |queue| {
            let opened = queue.open(now)?;
            if let Some(bodies) = &bodies {
                queue.name_run(bodies);
            }
            if let Some(bodies) = bodies.filter(|_| is_first) {
                let orphans = queue.orphans(opened.is_balanced)?;
                queue.sweep(&bodies, orphans)?;
            }
            Ok(opened)
        })
    }

    fn append(&self, batch: Vec<Append>) -> StoreFuture<'_, Vec<Appended>> {
        if let Err(error) = append::check(&batch) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let bodies = batch.iter().map(|append| &append.body);
        let size = Size::of_bodies(bodies, self.bodies.as_ref());
        let order = (size, Urgency::Now, Growth::Grows);
        let sealed: Vec<_> = batch.iter().map(|append| append.keyring).collect();
        self.submit_kept(
            order,
            |keeper| keep_all(keeper, batch),
            move |queue, incoming| {
                sealed
                    .iter()
                    .try_for_each(|sealed| queue.check_keyring(*sealed))?;
                queue.append(incoming)
            },
        )
    }

    fn advance(&self, step: Advance) -> StoreFuture<'_, Advanced> {
        let answers = step
            .settle
            .iter()
            .filter_map(|settle| settle.answer.as_ref());
        let lengths = answers.map(|answer| answer.len() as u64);
        let bodies = step.fills.iter().filter_map(|fill| fill.body.as_ref());
        let lengths = lengths.chain(bodies.map(Body::len));
        let size = Size::of(lengths, self.bodies.as_ref());
        let order = (size, step.urgency, Growth::Stays);
        let sealed = step.keyring;
        let done = self.submit_kept(
            order,
            |keeper| keep_answers(keeper, step),
            move |queue, step| {
                sealed.map_or(Ok(()), |sealed| queue.check_keyring(Some(sealed)))?;
                queue.advance(step)
            },
        );
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
            Amend::Under { keyring, change } => self.change(*change, Some(keyring)),
            change => self.change(change, None),
        }
    }

    fn restore(&self, restore: Restore) -> StoreFuture<'_, ()> {
        self.put_back(restore)
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
                _ => Ok(None),
            }
        })
    }

    fn snapshot(&self, id: ActionId, source: Source) -> StoreFuture<'_, Snapshot> {
        // Not a long copy for a store that takes nothing more.
        if let Err(error) = self.status.totals() {
            return Box::pin(std::future::ready(Err(error)));
        }
        let (bodies, front) = (self.bodies.clone(), self.front.clone());
        Box::pin(blocking(move || match bodies {
            Some(bodies) => {
                let taken = bodies.snapshot(id, source);
                taken.inspect_err(|_| front.stop_if_broken())
            }
            None => in_memory(source),
        }))
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

    fn keyring(&self) -> StoreFuture<'_, Option<KeptKeyring>> {
        self.read_keyring()
    }

    fn set_keyring(&self, before: Option<u64>, keyring: Bytes) -> StoreFuture<'_, Option<u64>> {
        self.replace_keyring(before, keyring)
    }

    fn note(&self, name: &str) -> StoreFuture<'_, Option<Bytes>> {
        let key = keys::note(name);
        self.submit(move |queue| queue.note(&key))
    }

    fn set_note(&self, name: &str, note: Option<Bytes>) -> StoreFuture<'_, ()> {
        let key = keys::note(name);
        self.submit(move |queue| queue.set_note(key, note))
    }

    fn cached(&self, target: CacheTarget) -> StoreFuture<'_, Vec<CachedHead>> {
        self.submit(move |queue| queue.cached(&target))
    }

    fn cached_body(&self, key: CacheKey) -> StoreFuture<'_, Option<Bytes>> {
        Box::pin(async move { self.read_cached(&key).await })
    }

    fn cache(&self, change: CacheChange) -> StoreFuture<'_, Cached> {
        self.change_cache(change)
    }

    fn cache_totals(&self) -> StoreFuture<'_, CacheTotals> {
        self.submit(|queue| queue.cache_totals())
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.front.close().await;
            Ok(())
        })
    }

    fn changed(&self) -> Changed<'_> {
        let Some(poll) = self.poll else {
            return Box::pin(std::future::pending());
        };
        Box::pin(async move {
            while !self.status.take_news() {
                tokio::time::sleep(poll).await;
                // A group that does nothing finds out. When it fails, whoever looks closer gets the error.
                let looked = self.submit(|_| Ok(())).await;
                if looked.is_err() || self.status.must_watch() {
                    return;
                }
            }
        })
    }
}
