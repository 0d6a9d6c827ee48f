//! The embedded default store. sled's own `flush` is not durable on Linux, so every commit ends with a sync of
//! our own handle on its file; names are synced when they are made. See `docs/format.md`.

#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::bodies::Bodies;
use super::dir::{
    VaultDir, failed, kind_of, no_follow, paths_in, private_file, refuse_links, restrict_below,
    sync_dir,
};
use super::kv::{Batch, Engine, KvStore};
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

/// Where in the vault's directory things are moved aside to.
const QUARANTINE: &str = "quarantine";

/// Stands in the vault's directory once something was committed.
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
    store: KvStore<SledEngine>,
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
        let open = move || SledEngine::open(dir, &options);
        let store = KvStore::with_bodies(open, Some(bodies))?;
        Ok(Self { store })
    }
}

super::delegate_store!(SledStore);

/// sled, made durable.
#[derive(Debug)]
struct SledEngine {
    db: sled::Db,
    /// Our own handle on sled's file: syncing it is what makes a commit durable.
    file: File,
    path: PathBuf,
    is_marked: bool,
    /// Released last.
    dir: VaultDir,
}

impl SledEngine {
    fn open(dir: VaultDir, options: &SledOptions) -> Result<Self> {
        let path = dir.subdir("sled")?;
        refuse_links(paths_in(&path)?)?;
        refuse_links([dir.path().join(MARK)])?;
        move_aside_torn_snapshots(&path, &dir)?;
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
        let mark = dir.path().join(MARK);
        let is_marked = mark.exists();
        if is_marked && db.is_empty() {
            let text = format!(
                "the database of the vault {} lost what it held: it opens empty",
                dir.path().display()
            );
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        Ok(Self {
            db,
            file,
            path,
            is_marked,
            dir,
        })
    }

    /// A directory that was deleted or replaced under a running vault must not acknowledge anything.
    fn check_still_there(&self) -> Result<()> {
        let file = self.path.join("db");
        if is_same_file(&file, &self.file).map_err(|e| failed("look at", &file, e))? {
            return Ok(());
        }
        let text = format!(
            "{} was replaced while the vault was open; reopen it",
            file.display()
        );
        Err(Error::new(ErrorKind::Storage, text))
    }

    /// Remembers outside sled that the database holds something: sled takes a damaged file for an empty one.
    fn mark(&mut self) -> Result<()> {
        let path = self.dir.path().join(MARK);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        private_file(&mut options);
        options
            .open(&path)
            .and_then(|mut file| {
                file.write_all(b"syncvault 1\n")?;
                file.sync_all()
            })
            .map_err(|e| failed("write", &path, e))?;
        sync_dir(self.dir.path())?;
        self.is_marked = true;
        Ok(())
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

#[cfg(unix)]
fn is_same_file(path: &Path, open: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (there, ours) = (fs::symlink_metadata(path)?, open.metadata()?);
    Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino()))
}

/// Elsewhere an open file cannot be replaced.
#[cfg(not(unix))]
fn is_same_file(path: &Path, _open: &File) -> io::Result<bool> {
    path.try_exists()
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

impl Engine for SledEngine {
    fn apply(&mut self, batch: Batch) -> Result<()> {
        let mut writes = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => writes.insert(key, &value[..]),
                None => writes.remove(key),
            }
        }
        self.check_still_there()?;
        self.db
            .apply_batch(writes)
            .map_err(|e| broken("write to", e))?;
        self.db.flush().map_err(|e| broken("flush", e))?;
        let file = self.path.join("db");
        self.file
            .sync_data()
            .map_err(|e| failed("sync", &file, e))?;
        if self.is_marked { Ok(()) } else { self.mark() }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.db.get(key).map_err(|e| broken("read", e))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
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
