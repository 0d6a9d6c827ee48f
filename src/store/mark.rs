//! The high-water mark: what the store last had acknowledged, in a file of its own. It may lag behind, so it is a lower
//! bound; an engine that is behind it has lost something. A thread writes it, and nobody waits for that.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::dir::{failed, private_file, refuse_links, sync_dir};
use crate::action::{Counts, Ledger};
use crate::error::{Error, ErrorKind, Result};

/// The name of the file in the directory of a vault.
pub(super) const FILE: &str = "mark";

const MAGIC: [u8; 4] = *b"SVm\x01";
/// The file has two of these: a write that is cut off leaves the other.
const SLOT: usize = 4096;
/// Magic, checksum, length, zero, turn.
const HEAD: usize = 4 + 4 + 4 + 4 + 8;
/// How often it is written, at most.
const PAUSE: Duration = Duration::from_millis(100);

/// What the store had acknowledged at least.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Mark {
    /// The version of the counts.
    pub(super) no: u64,
    /// Greater than every place in the queue so far.
    pub(super) seq_next: u64,
    /// Everything below it was settled.
    pub(super) floor: u64,
    pub(super) epoch: u64,
    pub(super) is_paused: bool,
    /// An import that is not all there yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) restoring: Option<String>,
    /// Which revisions are pending, as one number.
    pub(super) live: Option<u64>,
    pub(super) counts: Counts,
    pub(super) ledger: Ledger,
    /// The store failed: look closer at what is there.
    pub(super) is_suspect: bool,
}

/// The newest mark; nothing when there is none that can be read.
pub(super) fn read(path: &Path) -> Result<Option<Mark>> {
    Ok(slots(path)?
        .into_iter()
        .max_by_key(|slot| slot.0)
        .map(|slot| slot.1))
}

fn slots(path: &Path) -> Result<Vec<(u64, Mark)>> {
    refuse_links([path.to_owned()])?;
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(2 * SLOT as u64).read_to_end(&mut bytes)) {
        Ok(_) => Ok(bytes.chunks(SLOT).filter_map(decode).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed("read", path, e)),
    }
}

fn encode(turn: u64, mark: &Mark) -> Option<Vec<u8>> {
    let text = serde_json::to_vec(mark).ok()?;
    let mut slot = Vec::with_capacity(SLOT);
    slot.extend_from_slice(&MAGIC);
    slot.extend_from_slice(&[0; 4]);
    slot.extend_from_slice(&u32::try_from(text.len()).ok()?.to_le_bytes());
    slot.extend_from_slice(&[0; 4]);
    slot.extend_from_slice(&turn.to_le_bytes());
    slot.extend_from_slice(&text);
    let crc = crc32c::crc32c(&slot[8..]);
    slot[4..8].copy_from_slice(&crc.to_le_bytes());
    (slot.len() <= SLOT).then(|| {
        slot.resize(SLOT, 0);
        slot
    })
}

fn decode(slot: &[u8]) -> Option<(u64, Mark)> {
    let four = |at: usize| Some(u32::from_le_bytes(slot.get(at..at + 4)?.try_into().ok()?));
    let length = usize::try_from(four(8)?).ok()?;
    let end = HEAD.checked_add(length)?;
    let bytes = slot.get(..end)?;
    if !bytes.starts_with(&MAGIC) || crc32c::crc32c(&bytes[8..]) != four(4)? {
        return None;
    }
    let turn = u64::from_le_bytes(bytes[16..24].try_into().ok()?);
    Some((turn, serde_json::from_slice(&bytes[HEAD..]).ok()?))
}

/// Writes marks behind the back of the commits.
#[derive(Debug)]
pub(super) struct MarkWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct State {
    newest: Option<Mark>,
    /// What was noted last.
    last: Option<Mark>,
    is_over: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MarkWriter {
    /// # Errors
    ///
    /// Storage errors when the file cannot be made or written to.
    pub(super) fn start(path: PathBuf) -> Result<Self> {
        let turn = slots(&path)?.into_iter().map(|slot| slot.0).max();
        let mut pen = Pen::open(path, turn.unwrap_or(0))?;
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("syncvault-mark".into())
            .spawn(move || work(&theirs, &mut pen))
            .map_err(|e| {
                Error::new(ErrorKind::Storage, "cannot start a thread of the store").with_source(e)
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Hands over the newest mark.
    pub(super) fn note(&self, mark: Mark) {
        let mut state = self.shared.lock();
        state.last = Some(mark.clone());
        state.newest = Some(mark);
        drop(state);
        self.shared.news.notify_one();
    }
}

impl MarkWriter {
    /// Notes that the store failed: the next open looks closer.
    pub(super) fn suspect(&self) {
        let mut state = self.shared.lock();
        if let Some(mut mark) = state.last.clone() {
            mark.is_suspect = true;
            state.newest = Some(mark);
        }
        drop(state);
        self.shared.news.notify_one();
    }
}

/// The last one is written before this returns.
impl Drop for MarkWriter {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.news.notify_one();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::warn!("the thread that writes the mark panicked");
        }
    }
}

fn work(shared: &Shared, pen: &mut Pen) {
    loop {
        let mut state = shared.lock();
        while state.newest.is_none() && !state.is_over {
            state = wait(shared, state, None);
        }
        let Some(mark) = state.newest.take() else {
            return;
        };
        drop(state);
        if let Err(error) = pen.write(&mark) {
            tracing::warn!(%error, "the mark beside the store is not written any more");
            return;
        }
        let state = shared.lock();
        if !state.is_over {
            drop(wait_out(shared, state));
        }
    }
}

/// Waits for the pause to be over, or for the end.
fn wait_out<'a>(shared: &'a Shared, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    let end = std::time::Instant::now() + PAUSE;
    while !state.is_over {
        let Some(left) = end.checked_duration_since(std::time::Instant::now()) else {
            break;
        };
        state = wait(shared, state, Some(left));
    }
    state
}

fn wait<'a>(
    shared: &'a Shared,
    state: MutexGuard<'a, State>,
    limit: Option<Duration>,
) -> MutexGuard<'a, State> {
    match limit {
        None => shared
            .news
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner),
        Some(limit) => {
            let waited = shared.news.wait_timeout(state, limit);
            waited.unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

/// The file, open for writing.
#[derive(Debug)]
struct Pen {
    path: PathBuf,
    file: File,
    turn: u64,
}

impl Pen {
    fn open(path: PathBuf, turn: u64) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        private_file(&mut options);
        let file = options.open(&path).map_err(|e| failed("open", &path, e))?;
        let length = 2 * SLOT as u64;
        let is_new = file.metadata().is_ok_and(|found| found.len() < length);
        if is_new {
            file.set_len(length)
                .and_then(|()| file.sync_all())
                .map_err(|e| failed("make", &path, e))?;
            path.parent().map_or(Ok(()), sync_dir)?;
        }
        Ok(Self { path, file, turn })
    }

    fn write(&mut self, mark: &Mark) -> Result<()> {
        self.turn += 1;
        let Some(slot) = encode(self.turn, mark) else {
            return Err(Error::new(ErrorKind::Storage, "the mark is too long"));
        };
        let at = (self.turn % 2) * SLOT as u64;
        self.file
            .seek(SeekFrom::Start(at))
            .and_then(|_| self.file.write_all(&slot))
            .and_then(|()| self.file.sync_data())
            .map_err(|e| failed("write", &self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(no: u64) -> Mark {
        Mark {
            no,
            live: Some(no),
            ..Mark::default()
        }
    }

    #[test]
    fn the_newest_mark_is_read_and_a_damaged_one_is_not() {
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join(FILE);
        assert_eq!(read(&path).expect("read"), None);
        for no in 1..5 {
            let writer = MarkWriter::start(path.clone()).expect("start");
            writer.note(mark(no));
            drop(writer);
            assert_eq!(read(&path).expect("read"), Some(mark(no)));
        }
        let whole = std::fs::read(&path).expect("read");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).expect("write");
            let found = read(&path).expect("read").expect("one of two");
            assert!([mark(3), mark(4)].contains(&found), "at {at}");
        }
    }

    #[test]
    fn the_last_note_is_written_whatever_was_noted_before() {
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join(FILE);
        let writer = MarkWriter::start(path.clone()).expect("start");
        (1..1000).for_each(|no| writer.note(mark(no)));
        drop(writer);
        assert_eq!(read(&path).expect("read"), Some(mark(999)));
    }
}
