//! A journal before an engine: a commit is one append to a file that was filled ahead, and one `fdatasync`.
//! What it wrote stays in memory until its file is full; then a thread brings it into the engine below, while
//! commits go on in the other file. What was written and deleted again by then never gets there as two writes.
//! See `docs/format.md`.

mod file;
mod frame;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::file::{Found, JournalFile};
use self::frame::Commit;
use super::kv::overlay::{Entries, scan_over};
use super::kv::{Batch, Engine};
use crate::error::{Error, ErrorKind, Result};

/// How many bytes one of the two files holds, unless the app wants it otherwise.
pub(super) const FILE_BYTES: u64 = 8 * 1024 * 1024;
const FILES: [&str; 2] = ["a", "b"];
/// How many keys go into the engine below in one step: a thread that turns over rests after each.
const STEP_KEYS: usize = 16;
/// In the engine below: the number of the newest commit that it holds. No key of the queue starts with zero.
const APPLIED: &[u8] = b"\0applied";

/// What lies below a journal. Reads go on while it is written to.
pub(super) trait Base: fmt::Debug + Send + Sync + 'static {
    /// Is there room for batches of so many bytes together?
    fn has_room(&self, bytes: u64) -> Result<bool>;

    /// Gives back room that was kept for a full disk. False when there is none to give.
    fn give_room(&self) -> Result<bool>;

    /// Writes a batch. It need not be durable yet, nor whole when it fails: the journal has all of it.
    fn write(&self, batch: Batch) -> Result<()>;

    /// Makes everything durable that was written.
    fn sync(&self) -> Result<()>;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Entries>;

    fn close(self) -> Result<()>;
}

/// Every whole commit in the files of a journal, in order, those of earlier turns too.
///
/// # Errors
///
/// Storage errors.
pub(super) fn commits_in(dir: &Path) -> Result<Vec<Batch>> {
    let mut commits = Vec::new();
    for name in ["a", "b"] {
        commits.extend(file::salvage(&dir.join(name))?);
    }
    commits.sort_by_key(|commit: &Commit| commit.number);
    Ok(commits.into_iter().map(|commit| commit.batch).collect())
}

/// An engine with a journal before it.
#[derive(Debug)]
pub(super) struct Journaled<B> {
    base: Arc<B>,
    /// What the file in use holds.
    active: Batch,
    /// What the other file holds and the engine below does not yet.
    turn_over: Option<TurnOver>,
    files: [JournalFile; 2],
    in_use: usize,
    /// The number of the next commit.
    next: u64,
}

#[derive(Debug)]
struct TurnOver {
    writes: Arc<Batch>,
    /// The newest commit among them.
    last: u64,
    /// Nothing while there is no room for them below.
    thread: Option<JoinHandle<Result<()>>>,
    /// A commit cannot go on before it ends: it rests no more.
    is_awaited: Arc<AtomicBool>,
}

impl<B: Base> Journaled<B> {
    /// Are both files there? Where a vault was made whole, a missing one was lost: it is not made again.
    pub(super) fn is_in(dir: &Path) -> bool {
        FILES.iter().all(|name| dir.join(name).exists())
    }

    /// Reads the journal in `dir`, which is made when it is missing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when the journal, or the engine below, does not hold what it did, and storage errors.
    pub(super) fn open(base: B, dir: &Path, file_bytes: u64) -> Result<Self> {
        let applied = applied(&base)?;
        let (a, in_a) = JournalFile::open(dir.join(FILES[0]), file_bytes)?;
        let (b, in_b) = JournalFile::open(dir.join(FILES[1]), file_bytes)?;
        let in_use = usize::from(first(&in_b) > first(&in_a));
        let (older, newer) = match in_use {
            0 => (in_b, in_a),
            _ => (in_a, in_b),
        };
        check(applied, &older, &newer)?;
        let next = last(&newer).unwrap_or(applied) + 1;
        let waiting = (last(&older), writes_behind(applied, older));
        let mut journaled = Self {
            base: Arc::new(base),
            active: writes_behind(applied, newer),
            turn_over: None,
            files: [a, b],
            in_use,
            next,
        };
        if let (Some(last), writes) = waiting
            && !writes.is_empty()
        {
            journaled.wait_for_room(writes, last);
            journaled.go_on()?;
        }
        Ok(journaled)
    }

    /// Brings everything of the file in use into the engine below, behind the back of the commits, which go on
    /// in the other file.
    fn turn_over(&mut self) -> Result<()> {
        let writes = std::mem::take(&mut self.active);
        self.wait_for_room(writes, self.next - 1);
        self.in_use = 1 - self.in_use;
        self.files[self.in_use].start_anew()?;
        self.go_on().map(drop)
    }

    fn wait_for_room(&mut self, writes: Batch, last: u64) {
        self.turn_over = Some(TurnOver {
            writes: Arc::new(writes),
            last,
            thread: None,
            is_awaited: Arc::default(),
        });
    }

    /// Starts what waits for room, if there is some, and ends what is done. True when the other file is free, or will be.
    fn go_on(&mut self) -> Result<bool> {
        let Some(turn_over) = &mut self.turn_over else {
            return Ok(true);
        };
        match &turn_over.thread {
            Some(thread) if thread.is_finished() => self.finish_turn_over().map(|()| true),
            Some(_) => Ok(true),
            None if self.base.has_room(bytes_of(&turn_over.writes))? => {
                turn_over.thread = Some(start(&self.base, turn_over)?);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Waits until the engine below holds what was turned over.
    fn finish_turn_over(&mut self) -> Result<()> {
        let Some(turn_over) = self.turn_over.take_if(|it| it.thread.is_some()) else {
            return Ok(());
        };
        let Some(thread) = turn_over.thread else {
            return Ok(());
        };
        turn_over.is_awaited.store(true, Ordering::Release);
        thread.thread().unpark();
        let panicked = |_| {
            Err(Error::new(
                ErrorKind::Poisoned,
                "the storage engine panicked",
            ))
        };
        thread.join().unwrap_or_else(panicked)
    }

    /// Appends to the file in use, also behind its end. On a full disk what is kept for it goes first.
    fn append(&mut self, frame: &[u8]) -> Result<()> {
        match self.files[self.in_use].append(frame) {
            Err(error) if error.kind() == ErrorKind::StorageFull && self.base.give_room()? => {
                self.files[self.in_use].append(frame)
            }
            appended => appended,
        }
    }

    /// What lies below the file in use.
    fn get_below(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let waiting = self.turn_over.as_ref();
        match waiting.and_then(|turn_over| turn_over.writes.get(key)) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    fn scan_below(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Entries> {
        let base = |from: &[u8], to: &[u8], limit| self.base.scan(from, to, limit);
        match &self.turn_over {
            Some(turn_over) => scan_over(&turn_over.writes, base, (from, to), limit),
            None => base(from, to, limit),
        }
    }
}

impl<B: Base> Engine for Journaled<B> {
    fn check_room(&mut self) -> Result<()> {
        match self.go_on()? {
            true => Ok(()),
            false => {
                let text = "the disk is full: the journal cannot be brought into the engine, and nothing is added until \
                            it can; free some space";
                Err(Error::new(ErrorKind::StorageFull, text))
            }
        }
    }

    fn apply(&mut self, batch: Batch) -> Result<()> {
        let may_turn = self.go_on()?;
        let mut frame = self.files[self.in_use].encode(self.next, &batch)?;
        if may_turn && !self.files[self.in_use].has_room(&frame) {
            self.finish_turn_over()?;
            self.turn_over()?;
            frame = self.files[self.in_use].encode(self.next, &batch)?;
        }
        self.append(&frame)?;
        self.next += 1;
        self.active.extend(batch);
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.active.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.get_below(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Entries> {
        let below = |from: &[u8], to: &[u8], limit| self.scan_below(from, to, limit);
        scan_over(&self.active, below, (from, to), limit)
    }

    /// A vault that was closed needs its journal no more, but keeps it: it shows whether the engine lost something.
    fn close(mut self) -> Result<()> {
        let is_below = self.go_on()?;
        if is_below {
            self.finish_turn_over()?;
        }
        if is_below && !self.active.is_empty() && self.base.has_room(bytes_of(&self.active))? {
            bring_down(&*self.base, &self.active, self.next - 1, |_| ())?;
        }
        let Some(base) = Arc::into_inner(self.base) else {
            let text = "the engine below the journal is still in use";
            return Err(Error::new(ErrorKind::Storage, text));
        };
        base.close()
    }

    /// What was turned over goes on in its thread until it ends: it holds on to the engine below.
    fn abandon(mut self) {
        if let Err(error) = self.finish_turn_over() {
            tracing::debug!(%error, "what was turned over is in the journal only");
        }
    }
}

fn start<B: Base>(base: &Arc<B>, turn_over: &TurnOver) -> Result<JoinHandle<Result<()>>> {
    let (base, writes, last) = (base.clone(), turn_over.writes.clone(), turn_over.last);
    let is_awaited = turn_over.is_awaited.clone();
    // As long as it worked, so that it never takes a core from the commits that go on meanwhile.
    let rest = move |worked: Duration| {
        if !is_awaited.load(Ordering::Acquire) {
            std::thread::park_timeout(worked);
        }
    };
    std::thread::Builder::new()
        .name("syncvault-turn".into())
        .spawn(move || bring_down(&*base, &writes, last, rest).map_err(cut_off))
        .map_err(|e| {
            Error::new(ErrorKind::Storage, "cannot start a thread of the store").with_source(e)
        })
}

/// The engine below takes nothing after a failed write, whatever the reason. The journal holds all of it.
fn cut_off(error: Error) -> Error {
    let text = format!("{error}; everything acknowledged is in the journal");
    Error::new(ErrorKind::Storage, text).with_source(error)
}

fn bytes_of(writes: &Batch) -> u64 {
    let bytes = |(key, value): (&Vec<u8>, &Option<Bytes>)| {
        (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64
    };
    writes.iter().map(bytes).sum()
}

/// The mark goes in when the rest is durable, so that it never says too much. `rest` is told how long a step took.
fn bring_down(base: &impl Base, writes: &Batch, last: u64, rest: impl Fn(Duration)) -> Result<()> {
    let (mut step, mut began) = (Batch::new(), Instant::now());
    for (key, value) in writes {
        // Most of what was deleted never got there.
        if value.is_none() && base.get(key)?.is_none() {
            continue;
        }
        step.insert(key.clone(), value.clone());
        if step.len() == STEP_KEYS {
            base.write(std::mem::take(&mut step))?;
            rest(began.elapsed());
            began = Instant::now();
        }
    }
    base.write(step)?;
    base.sync()?;
    let mark = Bytes::copy_from_slice(&last.to_be_bytes());
    base.write([(APPLIED.to_vec(), Some(mark))].into())?;
    base.sync()
}

fn applied(base: &impl Base) -> Result<u64> {
    let Some(mark) = base.get(APPLIED)? else {
        return Ok(0);
    };
    let damaged = |_| lost("the mark of the journal cannot be read".into());
    Ok(u64::from_be_bytes(mark[..].try_into().map_err(damaged)?))
}

/// Commits are numbered without a gap from the engine's mark through the older file to the end of the newer one.
fn check(applied: u64, older: &Found, newer: &Found) -> Result<()> {
    let end = last(newer).unwrap_or(0);
    let behind = older.newest_behind.max(newer.newest_behind);
    if let Some(behind) = behind.filter(|behind| *behind > end) {
        return Err(lost(format!(
            "the journal is damaged: commits after {end} up to {behind} cannot be read in order"
        )));
    }
    // What the engine holds is not wanted from the older file, whatever it looks like.
    let is_covered = first(newer).is_some_and(|first| first <= applied + 1);
    let nothing = Found::default();
    let older = if is_covered { &nothing } else { older };
    if let (Some(last), Some(first)) = (last(older), first(newer))
        && last + 1 != first
    {
        return Err(lost(format!(
            "the journal is damaged: the commits between {last} and {first} are gone"
        )));
    }
    let begin = first(older).or(first(newer)).unwrap_or(1);
    if begin > applied + 1 {
        return Err(lost(format!(
            "the engine lost commits: it ends with {applied}, the journal begins with {begin}"
        )));
    }
    if end < applied {
        return Err(lost(format!(
            "the journal lost commits: it ends with {end}, the engine with {applied}"
        )));
    }
    Ok(())
}

fn lost(text: String) -> Error {
    Error::new(ErrorKind::Corrupt, text)
}

fn first(found: &Found) -> Option<u64> {
    found.commits.first().map(|commit| commit.number)
}

fn last(found: &Found) -> Option<u64> {
    found.commits.last().map(|commit| commit.number)
}

fn writes_behind(applied: u64, found: Found) -> Batch {
    let commits = found.commits.into_iter();
    let behind = commits.filter(|commit| commit.number > applied);
    behind.flat_map(|commit: Commit| commit.batch).collect()
}
