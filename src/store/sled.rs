//! The embedded default store: sled with a journal before it. sled's own `flush` is not durable on Linux, so every
//! turn of the journal ends with a sync of our own handle on its file. See `docs/format.md`.

#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::bodies::Bodies;
use super::carve::frames_in;
use super::dir::{
    VaultDir, check_still_there, failed, kind_of, no_follow, paths_in, private_file, refuse_links,
    restrict_below, sync_dir,
};
use super::journal::{self, Base, Journaled};
use super::kv::overlay::Entries;
use super::kv::{Batch, KvStore, QUARANTINE, Sink, Site};
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

/// Stands in the vault's directory once it was made whole.
const MARK: &str = "format";

/// How a [`SledStore`] uses memory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SledOptions {
    /// How much sled keeps in memory, in bytes. Default: 16 MiB.
    pub cache_bytes: u64,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 16 * 1024 * 1024,
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
        let dir = VaultDir::open(path.as_ref())?;
        let quarantine = dir.path().join(QUARANTINE);
        let bodies = Arc::new(Bodies::new(dir.subdir("bodies")?, quarantine));
        let site = SledSite {
            dir: Arc::new(dir),
            options,
        };
        let store = KvStore::in_dir(site, Some(bodies))?;
        Ok(Self { store })
    }
}

super::delegate_store!(SledStore);

/// Where a vault has sled and its journal.
struct SledSite {
    dir: Arc<VaultDir>,
    options: SledOptions,
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

    fn open(&self) -> Result<Self::Engine> {
        open_engine(self.dir.clone(), &self.options)
    }

    /// sled's files hold what the journal brought there. The commits of the journal come last, in their order.
    fn carve(&self, from: &Path, sink: &mut dyn Sink) -> Result<()> {
        let mut files = Vec::new();
        for name in ["sled", "journal"] {
            files_below(&from.join(name), &mut files)?;
        }
        for file in files {
            frames_in(&file, &mut |bytes| sink.frame(bytes))?;
        }
        let commits = journal::commits_in(&from.join("journal"))?;
        commits.into_iter().try_for_each(|batch| sink.commit(batch))
    }
}

/// The plain files in a directory and below it. None when it is not there.
fn files_below(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for path in paths_in(dir)? {
        let found = fs::symlink_metadata(&path).map_err(|e| failed("look at", &path, e))?;
        if found.is_dir() {
            files_below(&path, files)?;
        } else if found.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// The engine of a vault: its directory, sled, the journal.
fn open_engine(dir: Arc<VaultDir>, options: &SledOptions) -> Result<Journaled<SledBase>> {
    let mark = dir.path().join(MARK);
    refuse_links([mark.clone()])?;
    let is_made = mark.try_exists().map_err(|e| failed("look at", &mark, e))?;
    let (sled, journal) = (dir.subdir("sled")?, dir.subdir("journal")?);
    if is_made && paths_in(&journal)?.is_empty() {
        let text = format!(
            "the vault {} lost its journal, and with it what it held last",
            dir.path().display()
        );
        return Err(Error::new(ErrorKind::Corrupt, text));
    }
    refuse_links(paths_in(&sled)?)?;
    refuse_links(paths_in(&journal)?)?;
    move_aside_torn_snapshots(&sled, &dir)?;
    let vault = dir.path().to_owned();
    let engine = Journaled::open(SledBase::open(sled, dir, options)?, &journal)?;
    if !is_made {
        write_mark(&mark)?;
        sync_dir(&vault)?;
    }
    Ok(engine)
}

/// Says that the vault was made whole: from then on, what is missing was lost.
fn write_mark(path: &Path) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    private_file(&mut options);
    options
        .open(path)
        .and_then(|mut file| {
            file.write_all(b"syncvault 1\n")?;
            file.sync_all()
        })
        .map_err(|e| failed("write", path, e))
}

/// sled, made durable.
#[derive(Debug)]
struct SledBase {
    db: sled::Db,
    /// Our own handle on sled's file: syncing it is what makes a flush durable.
    file: File,
    path: PathBuf,
    /// Released last.
    dir: Arc<VaultDir>,
}

impl SledBase {
    fn open(path: PathBuf, dir: Arc<VaultDir>, options: &SledOptions) -> Result<Self> {
        let config = sled::Config::new()
            .path(&path)
            .cache_capacity(options.cache_bytes)
            .mode(sled::Mode::HighThroughput)
            .segment_size(SEGMENT_BYTES)
            .use_compression(false)
            .flush_every_ms(None);
        let db = open_patiently(&config)?;
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
            dir,
        })
    }
}

/// A snapshot that a crash cut off keeps sled from opening for good; without it, sled reads its log instead.
fn move_aside_torn_snapshots(path: &Path, dir: &VaultDir) -> Result<()> {
    for entry in fs::read_dir(path).map_err(|e| failed("list", path, e))? {
        let entry = entry.map_err(|e| failed("list", path, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".generating") {
            continue;
        }
        let unique = format!("{name}.{:08x}", rand::random::<u32>());
        let to = dir.subdir(QUARANTINE)?.join(unique);
        fs::rename(entry.path(), &to).map_err(|e| failed("move aside", &entry.path(), e))?;
        tracing::warn!(name, "a torn snapshot was moved to quarantine");
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
    sync_dir(dir.path())?;
    match dir
        .path()
        .canonicalize()
        .ok()
        .as_deref()
        .and_then(Path::parent)
    {
        Some(parent) => sync_parent(parent),
        None => Ok(()),
    }
}

/// A parent that we may not read cannot be synced by us.
fn sync_parent(parent: &Path) -> Result<()> {
    match fs::read_dir(parent) {
        Ok(_) => sync_dir(parent),
        Err(_) => Ok(()),
    }
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
    fn write(&self, batch: Batch) -> Result<()> {
        let mut writes = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => writes.insert(key, &value[..]),
                None => writes.remove(key),
            }
        }
        self.db
            .apply_batch(writes)
            .map_err(|e| broken("write to", e))
    }

    fn sync(&self) -> Result<()> {
        self.db.flush().map_err(|e| broken("flush", e))?;
        let file = self.path.join("db");
        self.file
            .sync_data()
            .map_err(|e| failed("sync", &file, e))?;
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
            dir,
            ..
        } = self;
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
