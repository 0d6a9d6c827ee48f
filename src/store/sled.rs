//! The embedded default store: sled with a journal before it. sled's own `flush` is not durable on Linux, so every
//! turn of the journal ends with a sync of our own handle on its file. See `docs/format.md`.

mod before;
mod examine;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::before::Before;
pub(crate) use self::examine::examine_sled;
use super::ballast::{Ballast, free_bytes};
use super::carve::frames_below;
use super::dir::{
    MARK, VaultDir, check_still_there, failed, kind_of, no_follow, paths_in, private_file,
    refuse_links, restrict_below, sync_dir, unsynced,
};
use super::journal::{self, Base, FILE_BYTES, Journaled};
use super::kv::overlay::Entries;
use super::kv::{Batch, KvStore, Sink, Site};
use super::{
    Advance, Advanced, Amend, Amended, Append, Appended, Chunks, Find, LaneTotals, Opened, Page,
    Query, Snapshot, Source, Store, StoreFuture, Totals,
};
use crate::action::{ActionId, Body, BodyFile, Lane, Record};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// sled writes pages of more than a quarter of this to files that it never syncs. A page holds about 17 values
/// of at most 75 KiB (a record of 64 KiB and a body of 8 KiB), so none gets there.
/// Part of the format: it can never change for a vault that exists.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// Before the length of the journal's files, in the mark.
const JOURNAL: &str = "journal_bytes ";

/// How long the files of the journal may be.
const JOURNAL_BYTES: RangeInclusive<u64> = 256 * 1024..=64 * 1024 * 1024;

/// Room for what an open writes: sled fills up its last segment with zeros, and makes a snapshot of its index.
const BALLAST_BYTES: u64 = SEGMENT_BYTES as u64 + 2 * SNAPSHOT_BYTES;

/// Room for a snapshot of sled's index: some bytes for each of its pages.
const SNAPSHOT_BYTES: u64 = 2 * 1024 * 1024;

/// How a [`SledStore`] uses memory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SledOptions {
    /// How much sled keeps in memory, in bytes. Default: 16 MiB.
    pub cache_bytes: u64,
    /// How long each of the two files of the journal is, from 256 KiB to 64 MiB. It is settled when the vault is made.
    /// A shorter one is brought into sled more often, and needs less room on the disk. Default: 8 MiB.
    pub journal_bytes: u64,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 16 * 1024 * 1024,
            journal_bytes: FILE_BYTES,
        }
    }
}

/// A [`Store`] in a directory, over sled.
#[derive(Debug)]
pub struct SledStore {
    store: KvStore<Journaled<SledBase>>,
}

impl SledStore {
    /// Takes the directory, which is created when it is missing. sled opens on the store's own thread; the first
    /// verb waits for it, and gets the error when that fails.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Locked`] when somebody has it open, [`ErrorKind::Invalid`] when it is not a directory of our
    /// own, [`ErrorKind::Storage`] or [`ErrorKind::StorageFull`] when it cannot be written to.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, SledOptions::default())
    }

    /// As [`open`](Self::open), with options.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, options: SledOptions) -> Result<Self> {
        Self::open_at(path.as_ref(), options, false)
    }

    /// As [`open`](Self::open), and all of it is looked at, however large it is.
    pub(crate) fn open_doubted(path: &Path) -> Result<Self> {
        Self::open_at(path, SledOptions::default(), true)
    }

    fn open_at(path: &Path, options: SledOptions, is_doubted: bool) -> Result<Self> {
        if !JOURNAL_BYTES.contains(&options.journal_bytes) {
            let (min, max) = JOURNAL_BYTES.into_inner();
            let text = format!(
                "a file of the journal is {min} to {max} bytes long; correct journal_bytes"
            );
            return Err(Error::invalid(text));
        }
        let site = |dir| SledSite {
            dir: Arc::new(dir),
            options,
            is_doubted,
        };
        let store = KvStore::in_directory(path, site)?;
        Ok(Self { store })
    }
}

super::delegate_store!(SledStore);

/// Where a vault has sled and its journal.
struct SledSite {
    dir: Arc<VaultDir>,
    options: SledOptions,
    is_doubted: bool,
}

impl Site for SledSite {
    type Engine = Journaled<SledBase>;

    fn dir(&self) -> &VaultDir {
        &self.dir
    }

    /// The mark of a whole vault goes first: without it, nothing is missed.
    fn names(&self) -> &'static [&'static str] {
        &[MARK, "sled", "journal"]
    }

    fn is_doubted(&self) -> bool {
        self.is_doubted
    }

    fn open(&self) -> Result<Self::Engine> {
        open_engine(self.dir.clone(), &self.options)
    }

    /// sled's files hold what the journal brought there. The commits of the journal come last, in their order.
    fn carve(&self, from: &Path, sink: &mut dyn Sink) -> Result<()> {
        for name in ["sled", "journal"] {
            frames_below(&from.join(name), &mut |bytes| sink.frame(bytes))?;
        }
        let commits = journal::commits_in(&from.join("journal"))?;
        commits.into_iter().try_for_each(|batch| sink.commit(batch))
    }
}

/// The engine of a vault: its directory, sled, the journal.
fn open_engine(dir: Arc<VaultDir>, options: &SledOptions) -> Result<Journaled<SledBase>> {
    let (mark, is_made) = (dir.path().join(MARK), dir.is_made()?);
    let (sled, journal) = (dir.subdir("sled")?, dir.subdir("journal")?);
    if is_made && !Journaled::<SledBase>::is_in(&journal) {
        let text = format!(
            "the vault {} lost its journal, or half of it, and with it what it held last",
            dir.path().display()
        );
        return Err(Error::new(ErrorKind::Corrupt, text));
    }
    refuse_links(paths_in(&sled)?)?;
    refuse_links(paths_in(&journal)?)?;
    move_aside_torn_snapshots(&sled, &dir)?;
    let vault = dir.path().to_owned();
    let file_bytes = match is_made {
        true => journal_bytes(&mark)?,
        // What an open that was cut off made is used as it is.
        false => match fs::symlink_metadata(journal.join("a")) {
            Ok(found) => found.len(),
            Err(_) => options.journal_bytes,
        },
    };
    let engine = Journaled::open(SledBase::open(sled, dir, options)?, &journal, file_bytes)?;
    if !is_made {
        write_mark(&mark, file_bytes)?;
        sync_dir(&vault)?;
    }
    Ok(engine)
}

/// Says that the vault was made whole: from then on, what is missing was lost.
fn write_mark(path: &Path, journal_bytes: u64) -> Result<()> {
    // It has its name only once it is whole.
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    private_file(&mut options);
    options
        .open(&new)
        .and_then(|mut file| {
            file.write_all(format!("syncvault 1\n{JOURNAL}{journal_bytes}\n").as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&new, path))
        .map_err(|e| failed("write", path, e))
}

/// How long the files of the journal were made. A mark that does not say it is of a vault with the usual length.
fn journal_bytes(mark: &Path) -> Result<u64> {
    let text = fs::read_to_string(mark).map_err(|e| failed("read", mark, e))?;
    let Some(bytes) = text.lines().find_map(|line| line.strip_prefix(JOURNAL)) else {
        return Ok(FILE_BYTES);
    };
    bytes.parse().map_err(|_| {
        let text = format!("{} does not say how long the journal is", mark.display());
        Error::new(ErrorKind::Corrupt, text)
    })
}

/// sled, made durable.
#[derive(Debug)]
struct SledBase {
    db: sled::Db,
    /// Our own handle on sled's file: syncing it is what makes a flush durable.
    file: File,
    path: PathBuf,
    before: Before,
    ballast: Mutex<Ballast>,
    /// Released last.
    dir: Arc<VaultDir>,
}

impl SledBase {
    fn ballast(&self) -> MutexGuard<'_, Ballast> {
        self.ballast.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(path: PathBuf, dir: Arc<VaultDir>, options: &SledOptions) -> Result<Self> {
        let config = sled::Config::new()
            .path(&path)
            .cache_capacity(options.cache_bytes)
            .mode(sled::Mode::HighThroughput)
            .segment_size(SEGMENT_BYTES)
            .use_compression(false)
            .flush_every_ms(None);
        let mut ballast = Ballast::of(dir.path(), BALLAST_BYTES);
        make_room_to_open(&path, &mut ballast)?;
        let before = Before::of(&path)?;
        let db = open_patiently(&config)?;
        ballast.renew()?;
        restrict_below(&path)?;
        let file_path = path.join("db");
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        no_follow(&mut options);
        let file = options
            .open(&file_path)
            .map_err(|e| failed("open", &file_path, e))?;
        sync_names(&path, &dir)?;
        Ok(Self {
            db,
            file,
            path,
            before,
            ballast: Mutex::new(ballast),
            dir,
        })
    }
}

/// sled fills up its last segment when it opens. It is not let near a disk where that would break off.
fn make_room_to_open(path: &Path, ballast: &mut Ballast) -> Result<()> {
    let db = path.join("db");
    let bytes = fs::symlink_metadata(&db).map_or(0, |found| found.len());
    let segment = SEGMENT_BYTES as u64;
    let wanted = bytes.next_multiple_of(segment) - bytes + SNAPSHOT_BYTES;
    if free_bytes(&db)? >= wanted || (ballast.release()? && free_bytes(&db)? >= wanted) {
        return Ok(());
    }
    let text = format!(
        "the disk of {} is full: opening it takes {wanted} bytes; free some space. Nothing was changed",
        path.display()
    );
    Err(Error::new(ErrorKind::StorageFull, text))
}

/// A snapshot that a crash cut off keeps sled from opening for good; without it, sled reads its log instead.
fn move_aside_torn_snapshots(path: &Path, dir: &VaultDir) -> Result<()> {
    for snapshot in paths_in(path)? {
        if snapshot.extension().is_some_and(|end| end == "generating") {
            dir.move_aside(&snapshot)?;
        }
    }
    Ok(())
}

/// Opens the database. We hold the lock of the directory, so whoever holds sled's own is what is left of an earlier
/// store of this process: sled's threads let go of it a little after its handle was dropped.
fn open_patiently(config: &sled::Config) -> Result<sled::Db> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let start = Instant::now();
    loop {
        match config.open() {
            Err(error) if is_locked(&error) && start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) if is_locked(&error) => {
                let text =
                    "the database is in use by something that does not hold the vault's lock";
                return Err(Error::new(ErrorKind::Locked, text).with_source(error));
            }
            opened => return opened.map_err(unopenable),
        }
    }
}

fn is_locked(error: &sled::Error) -> bool {
    let is_lock = |e: &io::Error| e.to_string().contains("could not acquire lock");
    matches!(error, sled::Error::Io(e) if is_lock(e))
}

/// Makes every name durable on the way to the data, before anything is acknowledged.
fn sync_names(path: &Path, dir: &VaultDir) -> Result<()> {
    for name in ["db", "conf"] {
        let file = path.join(name);
        File::open(&file)
            .and_then(|opened| sync_readable(&opened))
            .map_err(|e| failed("sync", &file, e))?;
    }
    let blobs = path.join("blobs");
    if blobs.is_dir() {
        sync_dir(&blobs)?;
    }
    sync_dir(path)?;
    dir.sync_name()
}

/// Windows syncs only what is open for writing; sled's commits do that there.
fn sync_readable(file: &File) -> io::Result<()> {
    if cfg!(windows) {
        Ok(())
    } else {
        file.sync_all()
    }
}

impl Base for SledBase {
    /// sled writes whole pages and, now and then, moves old ones; what it holds open is a segment that is not full.
    fn has_room(&self, bytes: u64) -> Result<bool> {
        let wanted = 2 * SEGMENT_BYTES as u64 + 4 * bytes;
        let has_room = free_bytes(&self.path)? >= wanted;
        if has_room {
            self.ballast().renew()?;
        }
        Ok(has_room)
    }

    fn give_room(&self) -> Result<bool> {
        self.ballast().release()
    }

    /// Key by key: a batch of sled would write its buffer out twice, and readers would wait for all of it.
    fn write(&self, batch: Batch) -> Result<()> {
        self.before.remove();
        for (key, value) in batch {
            let written = match value {
                Some(value) => self.db.insert(key, &value[..]),
                None => self.db.remove(key),
            };
            written.map_err(|e| broken("write to", e))?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.db.flush().map_err(|e| broken("flush", e))?;
        let file = self.path.join("db");
        self.file.sync_data().map_err(|e| unsynced(&file, e))?;
        check_still_there(&file, &self.file)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.db.get(key).map_err(|e| broken("read", e))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Entries> {
        let found = self.db.range(from..to).take(limit);
        found
            .map(|entry| {
                let (key, value) = entry.map_err(|e| broken("read", e))?;
                Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
            })
            .collect()
    }

    fn close(self) -> Result<()> {
        let Self {
            db,
            file,
            path,
            before,
            dir,
            ..
        } = self;
        before.remove();
        drop(db);
        file.sync_all().map_err(|e| failed("sync", &path, e))?;
        restrict_below(&path)?;
        sync_dir(&path)?;
        drop(dir);
        Ok(())
    }
}

/// What fails while opening, and not in the operating system, is damage.
fn unopenable(error: sled::Error) -> Error {
    let kind = match &error {
        sled::Error::Io(e) if e.raw_os_error().is_some() => kind_of(e),
        _ => ErrorKind::Corrupt,
    };
    Error::new(kind, "cannot open the database").with_source(error)
}

fn broken(what: &str, error: sled::Error) -> Error {
    let kind = match &error {
        sled::Error::Io(e) => kind_of(e),
        _ => ErrorKind::Storage,
    };
    Error::new(kind, format!("cannot {what} the database")).with_source(error)
}
