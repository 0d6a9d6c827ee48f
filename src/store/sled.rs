//! The embedded default store. sled's own `flush` is not durable on Linux, so every commit ends with a sync of
//! our own handle on its file; names are synced when they are made. See `docs/format.md`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::bodies::Bodies;
use super::dir::{VaultDir, failed, kind_of, private_file, restrict_below, sync_dir};
use super::kv::{Batch, Engine, KvStore};
use super::{
    Advance, Advanced, Amend, Amended, Append, Appended, Find, LaneTotals, Opened, Page, Query,
    Store, StoreFuture, Totals,
};
use crate::action::{ActionId, Body, Lane, Record};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// sled writes pages of more than a quarter of this to files that it never syncs. A page holds about 17 values
/// of at most 75 KiB (a record of 64 KiB and a body of 8 KiB), so none gets there.
/// Part of the format: it can never change for a vault that exists.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

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
        let bodies = Arc::new(Bodies::new(dir.subdir("bodies")?));
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
        move_aside_torn_snapshots(&path, &dir)?;
        let db = sled::Config::new()
            .path(&path)
            .cache_capacity(options.cache_bytes)
            .mode(sled::Mode::HighThroughput)
            .segment_size(SEGMENT_BYTES)
            .use_compression(false)
            .flush_every_ms(None)
            .open()
            .map_err(unopenable)?;
        restrict_below(&path)?;
        let file_path = path.join("db");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
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
        let to = dir.subdir("quarantine")?.join(unique);
        fs::rename(entry.path(), &to).map_err(|e| failed("move aside", &entry.path(), e))?;
        tracing::warn!(name, "a torn snapshot was moved to quarantine");
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Origin, WireState};
    use crate::decide::Settlement;
    use crate::store::{Lease, Part, Retention, Settle};

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn action(body: Vec<u8>) -> Append {
        let origin = Origin::from_stored("http://a.example:80");
        let content = Bytes::from_static(b"{}");
        let record = Record::new(
            ActionId::new(),
            Lane::default_lane(),
            origin,
            content,
            at(1),
        );
        Append::new(record, Bytes::from(body), at(1))
    }

    fn lease(now: u64) -> Advance {
        let mut advance = Advance::new(at(now), Retention::default());
        advance.lease = Some(Lease {
            slots: 1,
            ..Lease::default()
        });
        advance
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("list");
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("entry").file_name();
        entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect()
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_there_after_a_restart() {
        let temp = tempfile::tempdir().expect("tempdir");
        let store = SledStore::open(temp.path()).expect("open");
        assert_eq!(store.open(at(1)).await.expect("open").epoch, 1);
        let batch: Vec<Append> = (0..3).map(|n| action(vec![n; 1000])).collect();
        let ids: Vec<ActionId> = batch.iter().map(|one| one.record.id).collect();
        store.append(batch).await.expect("append");
        let leased = store.advance(lease(2)).await.expect("advance").leased;
        assert_eq!(leased[0].record.id, ids[0]);
        assert_eq!(leased[0].body, Body::Bytes(vec![0; 1000].into()));
        store.close().await.expect("close");

        let store = SledStore::open(temp.path()).expect("open again");
        let opened = store.open(at(3)).await.expect("open");
        assert_eq!((opened.epoch, opened.reclaimed), (2, vec![ids[0]]));
        assert!(opened.is_balanced);
        assert_eq!(opened.totals.counts.pending, 3);
        let again = store.advance(lease(4)).await.expect("advance").leased;
        assert_eq!(again[0].record.id, ids[0]);
        assert_eq!(again[0].wire_before, WireState::MaybeSent);
        let page = store
            .page(Query::first(Part::Pending, 10))
            .await
            .expect("page");
        let paged: Vec<ActionId> = page.records.iter().map(|r| r.id).collect();
        assert_eq!(paged, ids);
    }

    #[tokio::test]
    async fn a_large_body_has_a_file_as_long_as_it_is_wanted() {
        let temp = tempfile::tempdir().expect("tempdir");
        let bodies = temp.path().join("bodies");
        let store = SledStore::open(temp.path()).expect("open");
        store.open(at(1)).await.expect("open");
        let large = action(vec![9; 300_000]);
        let again = large.clone();
        let mut full = action(vec![9; 300_000]);
        full.limits.actions_max = 1;
        let id = large.record.id;
        let done = store
            .append(vec![large, full, again])
            .await
            .expect("append");
        assert!(matches!(done[0], Appended::Queued { .. }));
        assert!(matches!(done[1], Appended::Full { .. }));
        assert!(matches!(done[2], Appended::Known { .. }));
        // Reading goes behind the removal of what was refused.
        let body = store.body(id).await.expect("body").expect("there");
        assert_eq!(body, Body::Bytes(vec![9; 300_000].into()));
        assert_eq!(names(&bodies).len(), 1);
        let leased = store
            .advance(lease(2))
            .await
            .expect("lease")
            .leased
            .remove(0);
        assert_eq!(leased.body.len(), 300_000);

        let delivered = Settlement::Delivered { status: 200 };
        let mut settle =
            Settle::of(&leased.record, delivered, WireState::Answered).expect("in flight");
        settle.answer = Some(vec![3; 20_000].into());
        let mut advance = Advance::new(at(3), Retention::default());
        advance.settle = vec![settle];
        store.advance(advance).await.expect("settle");
        let answer = store.answer(id).await.expect("answer");
        assert_eq!(answer.as_deref(), Some(&[3; 20_000][..]));
        let left = names(&bodies);
        assert!(left.len() == 1 && left[0].ends_with(".answer"), "{left:?}");
        let mut forget = Advance::new(at(3), Retention::default());
        forget.retention.count = 0;
        store.advance(forget).await.expect("trim");
        assert!(store.get(Find::Id(id)).await.expect("get").is_none());
        assert!(names(&bodies).is_empty());
    }

    #[tokio::test]
    async fn orphans_are_swept_at_open_and_live_files_stay() {
        let temp = tempfile::tempdir().expect("tempdir");
        let bodies = temp.path().join("bodies");
        let store = SledStore::open(temp.path()).expect("open");
        store.open(at(1)).await.expect("open");
        let large = action(vec![9; 20_000]);
        let id = large.record.id;
        store.append(vec![large]).await.expect("append");
        store.close().await.expect("close");
        let live = names(&bodies).remove(0);
        let orphan = format!("{}.{}.body", ActionId::new(), "0".repeat(16));
        fs::copy(bodies.join(&live), bodies.join(&orphan)).expect("copy");
        let older = live.replace(&live[37..53], "00000000000000aa");
        fs::copy(bodies.join(&live), bodies.join(&older)).expect("copy");

        let store = SledStore::open(temp.path()).expect("open");
        store.open(at(2)).await.expect("open");
        assert!(store.body(id).await.expect("body").is_some());
        assert_eq!(names(&bodies), std::slice::from_ref(&live));

        fs::write(bodies.join(&live), b"damaged").expect("write");
        let error = store.body(id).await.expect_err("damaged");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let leased = store
            .advance(lease(3))
            .await
            .expect("lease")
            .leased
            .remove(0);
        let Body::File(file) = leased.body else {
            panic!("a damaged body is not given as bytes")
        };
        assert_eq!(file.path, bodies.join(&live));
    }

    #[tokio::test]
    async fn a_torn_snapshot_is_moved_aside() {
        let temp = tempfile::tempdir().expect("tempdir");
        let store = SledStore::open(temp.path()).expect("open");
        store.open(at(1)).await.expect("open");
        store.append(vec![action(vec![1])]).await.expect("append");
        store.close().await.expect("close");
        let torn = "snap.00000000000FFFFF.generating";
        fs::write(temp.path().join("sled").join(torn), b"junk").expect("write");
        let store = SledStore::open(temp.path()).expect("open");
        let opened = store.open(at(2)).await.expect("open");
        assert_eq!(opened.totals.counts.pending, 1);
        assert_eq!(names(&temp.path().join("quarantine")).len(), 1);
    }

    #[tokio::test]
    async fn a_second_handle_is_refused_until_the_first_is_closed() {
        let temp = tempfile::tempdir().expect("tempdir");
        let store = SledStore::open(temp.path()).expect("open");
        let error = SledStore::open(temp.path()).expect_err("locked");
        assert_eq!(error.kind(), ErrorKind::Locked);
        store.close().await.expect("close");
        store.close().await.expect("closing twice is fine");
        SledStore::open(temp.path()).expect("open");
    }

    #[tokio::test]
    async fn a_database_that_does_not_open_fails_every_verb_with_its_reason() {
        let temp = tempfile::tempdir().expect("tempdir");
        let store = SledStore::open(temp.path()).expect("open");
        store.open(at(1)).await.expect("open");
        store.close().await.expect("close");
        fs::write(temp.path().join("sled/db"), b"junk").expect("write");
        let store = SledStore::open(temp.path()).expect("open");
        for _ in 0..2 {
            let error = store.open(at(1)).await.expect_err("damaged");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn everything_in_the_directory_is_ours_alone() {
        use std::os::unix::fs::PermissionsExt;
        fn check(dir: &Path) {
            for name in names(dir) {
                let path = dir.join(name);
                let found = fs::metadata(&path).expect("metadata");
                let mode = found.permissions().mode() & 0o777;
                assert_eq!(mode, if found.is_dir() { 0o700 } else { 0o600 }, "{path:?}");
                if found.is_dir() {
                    check(&path);
                }
            }
        }
        let temp = tempfile::tempdir().expect("tempdir");
        let store = SledStore::open(temp.path()).expect("open");
        store.open(at(1)).await.expect("open");
        store
            .append(vec![action(vec![1; 20_000])])
            .await
            .expect("append");
        check(temp.path());
        store.close().await.expect("close");
        check(temp.path());
    }
}
