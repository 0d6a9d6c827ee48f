//! The disk of a run: a store, or an engine under the queue, that crashes the process before or after a step, is full,
//! fails or is slow when it is told to. What it took stays; what it did not take was never told.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::trouble::Trouble;
use super::world::World;
use crate::action::{ActionId, Body, BodyFile, Lane, Record};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::kv::{Batch, Engine};
use crate::store::{
    Advance, Advanced, Amend, Amended, Append, Appended, Changed, Chunks, Find, KeptKeyring,
    LaneTotals, MemoryEngine, Opened, Page, Query, Restore, Snapshot, Source, Store, StoreFuture,
    Totals,
};

/// What the disk is told to do.
#[derive(Debug, Default)]
pub(super) struct DiskWeather {
    /// So many steps more, and then this.
    pub(super) step_fate: Option<(u64, Fate)>,
    /// So many commits more, and then this.
    pub(super) commit_fate: Option<(u64, Fate)>,
    /// How long a step takes at most, in milliseconds.
    pub(super) pace_ms: u64,
    /// How many steps there were.
    pub(super) steps: u64,
    /// When a step failed last: the vault waits a while before it tries again.
    pub(super) failed_at: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    CrashBefore,
    CrashAfter,
    Full,
    Error,
}

impl Fate {
    fn trouble(self) -> Trouble {
        match self {
            Self::CrashBefore => Trouble::CrashBefore,
            Self::CrashAfter => Trouble::CrashAfter,
            Self::Full => Trouble::DiskFull,
            Self::Error => Trouble::DiskError,
        }
    }

    fn error(self) -> Error {
        match self {
            Self::Full => Error::new(ErrorKind::StorageFull, "the simulated disk is full"),
            _ => Error::new(ErrorKind::Storage, "the simulated disk failed"),
        }
    }
}

fn strike(fate: &mut Option<(u64, Fate)>) -> Option<Fate> {
    let (left, _) = fate.as_mut()?;
    match left.checked_sub(1) {
        Some(fewer) => {
            *left = fewer;
            None
        }
        None => fate.take().map(|(_, fate)| fate),
    }
}

/// A store that does as the weather says.
#[derive(Debug)]
pub(super) struct WorldStore {
    inner: Arc<dyn Store>,
    world: Arc<World>,
    /// Steps go one after the other, in the order of the calls.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// May a step fail? Reads and the end of a run only crash.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Write,
    Read,
}

impl WorldStore {
    pub(super) fn new(inner: Arc<dyn Store>, world: Arc<World>) -> Self {
        Self {
            inner,
            world,
            turn: Arc::default(),
        }
    }

    fn call<'a, T: Send + 'static>(
        &'a self,
        step: Step,
        name: &'static str,
        work: impl for<'s> FnOnce(&'s dyn Store) -> StoreFuture<'s, T> + Send + 'static,
    ) -> StoreFuture<'a, T> {
        let (world, inner, turn) = (self.world.clone(), self.inner.clone(), self.turn.clone());
        Box::pin(async move {
            world.stop_if_crashed().await;
            let (fate, before, after, is_detached) = world.next_step(step);
            let run = async move {
                let held = turn.lock().await;
                pause(before).await;
                world.stop_if_crashed().await;
                match fate {
                    Some(Fate::CrashBefore) => {
                        world.crash(Trouble::CrashBefore);
                        pending::<()>().await;
                    }
                    Some(fate @ (Fate::Full | Fate::Error)) => return Err(fate.error()),
                    _ => {}
                }
                world.note(format_args!("store: {name}"));
                let done = work(&*inner).await;
                if fate == Some(Fate::CrashAfter) {
                    world.crash(Trouble::CrashAfter);
                }
                world.stop_if_crashed().await;
                drop(held);
                pause(after).await;
                world.stop_if_crashed().await;
                done
            };
            match is_detached {
                // A dropped call happens all the same, as with a store that has a thread.
                true => tokio::spawn(run)
                    .await
                    .unwrap_or_else(|_| Err(Error::closed())),
                false => run.await,
            }
        })
    }
}

impl World {
    fn next_step(&self, step: Step) -> (Option<Fate>, Duration, Duration, bool) {
        let now = self.elapsed();
        let mut state = self.state();
        let state = &mut *state;
        state.disk.steps += 1;
        let mut fate = strike(&mut state.disk.step_fate);
        if step == Step::Read {
            fate = fate.filter(|fate| matches!(fate, Fate::CrashBefore | Fate::CrashAfter));
        }
        if let Some(fate @ (Fate::Full | Fate::Error)) = fate {
            state.injected.count(fate.trouble());
            state.disk.failed_at = Some(now);
        }
        match state.disk.pace_ms {
            0 => (fate, Duration::ZERO, Duration::ZERO, false),
            pace => {
                state.injected.count(Trouble::SlowDisk);
                let (before, after) = (state.dice.millis(0, pace), state.dice.millis(0, pace));
                (fate, before, after, state.dice.percent(50))
            }
        }
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

impl Store for WorldStore {
    fn open(&self, now: Timestamp) -> StoreFuture<'_, Opened> {
        self.call(Step::Write, "open", move |store| store.open(now))
    }

    fn append(&self, batch: Vec<Append>) -> StoreFuture<'_, Vec<Appended>> {
        self.call(Step::Write, "append", move |store| store.append(batch))
    }

    fn advance(&self, step: Advance) -> StoreFuture<'_, Advanced> {
        self.call(Step::Write, "advance", move |store| store.advance(step))
    }

    fn amend(&self, change: Amend) -> StoreFuture<'_, Amended> {
        self.call(Step::Write, "amend", move |store| store.amend(change))
    }

    fn restore(&self, restore: Restore) -> StoreFuture<'_, ()> {
        self.call(Step::Write, "restore", move |store| store.restore(restore))
    }

    fn get(&self, find: Find) -> StoreFuture<'_, Option<Record>> {
        self.call(Step::Read, "get", move |store| store.get(find))
    }

    fn body(&self, id: ActionId) -> StoreFuture<'_, Option<Body>> {
        self.call(Step::Read, "body", move |store| store.body(id))
    }

    fn answer(&self, id: ActionId) -> StoreFuture<'_, Option<Bytes>> {
        self.call(Step::Read, "answer", move |store| store.answer(id))
    }

    fn page(&self, query: Query) -> StoreFuture<'_, Page> {
        self.call(Step::Read, "page", move |store| store.page(query))
    }

    fn snapshot(&self, id: ActionId, source: Source) -> StoreFuture<'_, Snapshot> {
        self.inner.snapshot(id, source)
    }

    fn chunks(&self, file: BodyFile) -> StoreFuture<'_, Chunks> {
        self.inner.chunks(file)
    }

    fn totals(&self) -> StoreFuture<'_, Totals> {
        self.inner.totals()
    }

    fn lane(&self, lane: Lane) -> StoreFuture<'_, LaneTotals> {
        self.call(Step::Read, "lane", move |store| store.lane(lane))
    }

    fn keyring(&self) -> StoreFuture<'_, Option<KeptKeyring>> {
        self.inner.keyring()
    }

    fn set_keyring(&self, before: Option<u64>, keyring: Bytes) -> StoreFuture<'_, Option<u64>> {
        self.inner.set_keyring(before, keyring)
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.call(Step::Read, "close", |store| store.close())
    }

    fn changed(&self) -> Changed<'_> {
        self.inner.changed()
    }
}

/// An engine that keeps what was applied, and crashes at a commit when it is told to.
#[derive(Debug)]
pub(super) struct WorldEngine {
    kept: MemoryEngine,
    world: Arc<World>,
}

impl WorldEngine {
    pub(super) fn new(kept: MemoryEngine, world: Arc<World>) -> Self {
        Self { kept, world }
    }
}

impl Engine for WorldEngine {
    fn apply(&mut self, batch: Batch) -> Result<()> {
        let fate = {
            let mut state = self.world.state();
            if state.is_crashed {
                return Err(Fate::CrashBefore.error());
            }
            strike(&mut state.disk.commit_fate)
        };
        match fate {
            None => self.kept.apply(batch),
            Some(Fate::CrashAfter) => {
                self.kept.apply(batch)?;
                self.world.crash(Trouble::CrashAfter);
                Err(Fate::CrashAfter.error())
            }
            Some(Fate::CrashBefore) => {
                self.world.crash(Trouble::CrashBefore);
                Err(Fate::CrashBefore.error())
            }
            Some(fate @ (Fate::Full | Fate::Error)) => {
                let now = self.world.elapsed();
                let mut state = self.world.state();
                state.injected.count(fate.trouble());
                state.disk.failed_at = Some(now);
                Err(fate.error())
            }
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.kept.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        self.kept.scan(from, to, limit)
    }
}
