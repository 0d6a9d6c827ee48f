//! Large values, bodies and answers, as files of their own. A file is whole and durable before a record refers
//! to it, and is removed after the commit that makes it garbage; what a crash leaves over is swept at open.

mod name;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub(super) use self::name::FileKind;
use self::name::parse;
use super::dir::{create_dir, failed, no_follow, private_file, sync_dir, unsynced};
use super::snapshot::{Snapshot, Source, damaged, uncopied};
use crate::action::{ActionId, Body, BodyFile, Piece};
use crate::error::{Error, ErrorKind, Result};

/// Values up to this length stay in the engine, and snapshots in memory; an engine may keep longer values too.
pub(super) const INLINE_BYTES_MAX: u64 = 8 * 1024;

/// A file, as a record refers to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileRef {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) crc32c: u32,
}

/// What the sweep at open does with files that no record names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Orphans {
    /// A crash left them over: they go.
    Remove,
    /// Something else is unusual: they may be all that is left of an action.
    SetAside,
}

/// The directory of the files. Each is named `<id>.<run><number>.<kind>` and written once: a refused append of a
/// known action never touches the file of the action that is kept.
#[derive(Debug)]
pub(super) struct Bodies {
    dir: PathBuf,
    quarantine: PathBuf,
    /// Which run of the store writes: a random number, or that of the run itself where others may be alive.
    run: AtomicU32,
    written: AtomicU32,
    /// Values up to this length are left to the engine.
    inline_bytes_max: u64,
    /// How a file is made durable. A test lets it fail.
    sync_file: fn(&File) -> io::Result<()>,
    /// How many syncs of the directory were asked for.
    asked: AtomicU64,
    /// Up to which one it is done.
    done: Mutex<u64>,
    is_broken: AtomicBool,
}

impl Bodies {
    pub(super) fn new(dir: PathBuf, quarantine: PathBuf) -> Self {
        Self {
            dir,
            quarantine,
            run: AtomicU32::new(rand::random()),
            written: AtomicU32::new(0),
            inline_bytes_max: INLINE_BYTES_MAX,
            sync_file: File::sync_all,
            asked: AtomicU64::new(0),
            done: Mutex::new(0),
            is_broken: AtomicBool::new(false),
        }
    }

    /// For an engine that keeps values of any length: only snapshots become files.
    #[cfg(feature = "sqlite")]
    pub(super) fn of_snapshots(dir: PathBuf, quarantine: PathBuf) -> Self {
        Self {
            inline_bytes_max: u64::MAX,
            ..Self::new(dir, quarantine)
        }
    }

    pub(super) fn inline_bytes_max(&self) -> u64 {
        self.inline_bytes_max
    }

    fn run(&self) -> u32 {
        self.run.load(Ordering::Acquire)
    }

    /// Puts the number of the run into the names of its files, so that others can tell whether it is alive.
    pub(super) fn name_run(&self, epoch: u64) {
        // So many runs are never reached; if they were, their files would be left alone.
        let run = u32::try_from(epoch).unwrap_or(u32::MAX);
        self.run.store(run, Ordering::Release);
    }

    fn new_name(&self, id: ActionId, kind: FileKind) -> String {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        format!("{id}.{:08x}{number:08x}.{}", self.run(), kind.name())
    }

    /// Writes a value. Its name is durable after [`sync`](Self::sync).
    pub(super) fn write(&self, id: ActionId, kind: FileKind, value: &Bytes) -> Result<FileRef> {
        let name = self.new_name(id, kind);
        let write = |file: &mut File| io::Write::write_all(file, value);
        let path = self.dir.join(&name);
        self.create(&name, write)?
            .map_err(|e| failed("write", &path, e))?;
        Ok(FileRef {
            name,
            bytes: value.len() as u64,
            crc32c: crc32c::crc32c(value),
        })
    }

    /// The one place where a snapshot is written. What is small stays in memory.
    pub(super) fn snapshot(&self, id: ActionId, mut source: Source) -> Result<Snapshot> {
        if let Some(small) = source.read_small(INLINE_BYTES_MAX).map_err(uncopied)? {
            let digest = blake3::hash(&small).into();
            return Ok(Snapshot::new(Body::Bytes(small.into()), digest));
        }
        let name = self.new_name(id, FileKind::Body);
        let path = self.dir.join(&name);
        self.create(&name, |file| source.write_to(file))?
            .map_err(uncopied)?;
        let measured = measure(&path).map_err(|e| failed("read", &path, e));
        let measured = measured.inspect_err(|_| self.remove(&name))?;
        let file = BodyFile::new(path, measured.bytes, measured.crc32c);
        Ok(Snapshot::new(Body::File(file), measured.digest))
    }

    /// Makes a file. When its content cannot be written, it goes again; when it cannot be synced, the store is broken.
    fn create<T>(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> io::Result<T>,
    ) -> Result<io::Result<T>> {
        self.check()?;
        let path = self.dir.join(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        private_file(&mut options);
        let mut file = options
            .open(&path)
            .map_err(|e| failed("create", &path, e))?;
        let written = write(&mut file);
        if written.is_err() {
            self.remove(name);
            return Ok(written);
        }
        (self.sync_file)(&file).map_err(|e| self.broken(unsynced(&path, e)))?;
        Ok(written)
    }

    /// Makes the names of all files durable that were written before. Those who come together share a sync.
    pub(super) fn sync(&self) -> Result<()> {
        let mine = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        if *done >= mine {
            return Ok(());
        }
        let covered = self.asked.load(Ordering::Acquire);
        sync_dir(&self.dir).map_err(|e| self.broken(e))?;
        *done = covered;
        Ok(())
    }

    /// A sync that failed is never tried again: the system may call the next one a success and have dropped the data.
    fn broken(&self, error: Error) -> Error {
        self.give_up();
        error
    }

    /// From now on nothing is taken: a sync failed, here or beside.
    pub(super) fn give_up(&self) {
        self.is_broken.store(true, Ordering::Release);
    }

    /// # Errors
    ///
    /// [`ErrorKind::Poisoned`] once a sync failed.
    pub(super) fn check(&self) -> Result<()> {
        if !self.is_broken.load(Ordering::Acquire) {
            return Ok(());
        }
        let text = format!(
            "a file in {} or beside it could not be synced; reopen the vault",
            self.dir.display()
        );
        Err(Error::new(ErrorKind::Poisoned, text))
    }

    /// The reference of a record to a snapshot of this run.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a file that is none, or that was taken for another action.
    pub(super) fn own(&self, id: ActionId, file: &BodyFile) -> Result<FileRef> {
        self.reference(id, file, |run| run == self.run())
    }

    /// As [`own`](Self::own), to a file of whatever run.
    pub(super) fn known(&self, id: ActionId, file: &BodyFile) -> Result<FileRef> {
        self.reference(id, file, |_| true)
    }

    fn reference(
        &self,
        id: ActionId,
        file: &BodyFile,
        is_run: impl Fn(u32) -> bool,
    ) -> Result<FileRef> {
        let name = file.path.file_name().and_then(|name| name.to_str());
        let is_ours = |name: &&str| {
            let is_of = |(of, kind, run)| of == id && kind == FileKind::Body && is_run(run);
            self.dir.join(name) == file.path && parse(name).is_some_and(is_of)
        };
        let Some(name) = name.filter(is_ours) else {
            let text = format!(
                "{} is no snapshot that this store took for action {id}",
                file.path.display()
            );
            return Err(Error::invalid(text));
        };
        Ok(FileRef {
            name: name.to_owned(),
            bytes: file.bytes,
            crc32c: file.crc32c,
        })
    }

    /// Reads a value back and checks it.
    pub(super) fn read(&self, file: &BodyFile) -> Result<Bytes> {
        let path = self.dir.join(&file.path);
        let value = match read_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(damaged(&path, "is gone")),
            Err(_) if path.is_symlink() => return Err(damaged(&path, "is a symbolic link")),
            read => read.map_err(|e| failed("read", &path, e))?,
        };
        if value.len() as u64 != file.bytes {
            return Err(damaged(&path, "has another length"));
        }
        if crc32c::crc32c(&value) != file.crc32c {
            return Err(damaged(&path, "fails its checksum"));
        }
        Ok(value.into())
    }

    /// The same body, with whole paths.
    pub(super) fn located(&self, body: Body) -> Body {
        let locate = |file: BodyFile| BodyFile {
            path: self.dir.join(&file.path),
            ..file
        };
        let locate_piece = |piece| match piece {
            Piece::File(file) => Piece::File(locate(file)),
            piece @ Piece::Bytes(_) => piece,
        };
        match body {
            Body::Bytes(bytes) => Body::Bytes(bytes),
            Body::File(file) => Body::File(locate(file)),
            Body::Pieces(pieces) => match <[Piece; 1]>::try_from(pieces) {
                Ok([Piece::File(file)]) => Body::File(locate(file)),
                Ok(one) => Body::Pieces(one.into()),
                Err(pieces) => Body::Pieces(pieces.into_iter().map(locate_piece).collect()),
            },
        }
    }

    /// Removes a file that nothing refers to.
    pub(super) fn remove(&self, name: &str) {
        match fs::remove_file(self.dir.join(name)) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(name, %error, "a file of the vault cannot be removed"),
        }
    }

    /// Moves a file aside that nothing refers to.
    pub(super) fn set_aside(&self, name: &str) -> Result<()> {
        create_dir(&self.quarantine)?;
        let (from, to) = (self.dir.join(name), self.quarantine.join(name));
        fs::rename(&from, to).map_err(|e| failed("move aside", &from, e))
    }

    /// The files of our pattern that this run did not write, and those that did.
    pub(super) fn of_other_runs(&self) -> Result<Vec<Stray>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|e| failed("list", &self.dir, e))? {
            let entry = entry.map_err(|e| failed("list", &self.dir, e))?;
            let name = entry.file_name();
            let Some((name, (id, kind, run))) = name.to_str().and_then(|n| Some((n, parse(n)?)))
            else {
                continue;
            };
            let is_file = entry.file_type().is_ok_and(|found| found.is_file());
            if run != self.run() && is_file {
                let name = name.to_owned();
                found.push(Stray {
                    id,
                    kind,
                    run,
                    name,
                });
            }
        }
        Ok(found)
    }
}

/// A file of another run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stray {
    pub(super) id: ActionId,
    pub(super) kind: FileKind,
    pub(super) run: u32,
    pub(super) name: String,
}

fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    no_follow(&mut options);
    options.open(path)
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut value = Vec::new();
    open_file(path)?.read_to_end(&mut value)?;
    Ok(value)
}

/// What lies in a file.
struct Measured {
    bytes: u64,
    crc32c: u32,
    digest: [u8; 32],
}

/// Reads a file through, a chunk at a time.
fn measure(path: &Path) -> io::Result<Measured> {
    let mut file = open_file(path)?;
    let (mut crc32c, mut hash) = (0, blake3::Hasher::new());
    let mut chunk = vec![0; 256 * 1024];
    loop {
        let read = match file.read(&mut chunk) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            break;
        }
        crc32c = crc32c::crc32c_append(crc32c, &chunk[..read]);
        hash.update(&chunk[..read]);
    }
    Ok(Measured {
        bytes: file.stream_position()?,
        crc32c,
        digest: hash.finalize().into(),
    })
}

/// Reads a file through, and checks its length and its checksum.
#[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
pub(super) fn check_file(dir: &Path, file: &BodyFile) -> Result<()> {
    let path = dir.join(&file.path);
    let measured = match measure(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(damaged(&path, "is gone")),
        Err(_) if path.is_symlink() => return Err(damaged(&path, "is a symbolic link")),
        measured => measured.map_err(|e| failed("read", &path, e))?,
    };
    match (measured.bytes, measured.crc32c) == (file.bytes, file.crc32c) {
        true => Ok(()),
        false => Err(damaged(&path, "fails its checksum")),
    }
}

/// Whose file it is, and which of its values is in it.
#[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
pub(super) type Owner = (ActionId, FileKind);

/// Every name in a directory of bodies, with the action that owns it, if it is one of ours.
#[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
pub(super) fn files_in(dir: &Path) -> Result<Vec<(String, Option<Owner>)>> {
    let entries = fs::read_dir(dir).map_err(|e| failed("list", dir, e))?;
    let names = entries.map(|entry| {
        let name = entry.map_err(|e| failed("list", dir, e))?.file_name();
        let owner = name.to_str().and_then(parse);
        let owner = owner.map(|(id, kind, _)| (id, kind));
        Ok((name.to_string_lossy().into_owned(), owner))
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies_in(dir: &Path) -> Bodies {
        Bodies::new(dir.to_owned(), dir.join("quarantine"))
    }

    fn body_file(file: &FileRef) -> BodyFile {
        BodyFile::new(&file.name, file.bytes, file.crc32c)
    }

    #[test]
    fn a_value_reads_back_and_damage_is_found() {
        let temp = tempfile::tempdir().expect("tempdir");
        let bodies = bodies_in(temp.path());
        let value = Bytes::from(vec![7; 20_000]);
        let file = bodies
            .write(ActionId::new(), FileKind::Body, &value)
            .expect("write");
        bodies.sync().expect("sync");
        assert_eq!(bodies.read(&body_file(&file)).expect("read"), value);

        let path = temp.path().join(&file.name);
        let mut bytes = fs::read(&path).expect("read");
        bytes[19_999] ^= 1;
        fs::write(&path, &bytes).expect("write");
        let error = bodies.read(&body_file(&file)).expect_err("flipped");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        fs::write(&path, &bytes[..100]).expect("write");
        let error = bodies.read(&body_file(&file)).expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        bodies.remove(&file.name);
        let error = bodies.read(&body_file(&file)).expect_err("gone");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn only_files_of_our_pattern_and_of_other_runs_are_listed() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (id, value) = (ActionId::new(), Bytes::from_static(b"x"));
        let earlier = bodies_in(temp.path());
        let old = earlier.write(id, FileKind::Answer, &value).expect("write");
        fs::write(temp.path().join("notes.txt"), "x").expect("write");
        fs::write(temp.path().join(format!("{id}.body")), "x").expect("write");
        let now = bodies_in(temp.path());
        now.write(id, FileKind::Body, &value).expect("write");
        let found = now.of_other_runs().expect("list");
        let want = Stray {
            id,
            kind: FileKind::Answer,
            run: earlier.run(),
            name: old.name,
        };
        assert_eq!(found, [want]);
    }

    #[cfg(unix)]
    #[test]
    fn files_are_readable_by_us_alone() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().expect("tempdir");
        let bodies = bodies_in(temp.path());
        let file = bodies
            .write(ActionId::new(), FileKind::Body, &Bytes::from_static(b"x"))
            .expect("write");
        let found = fs::metadata(temp.path().join(file.name)).expect("metadata");
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
    }

    fn source(bytes: &[u8]) -> Source {
        Source::reader(io::Cursor::new(bytes.to_vec()), 1024 * 1024)
    }

    fn snapshot_file(snapshot: &Snapshot) -> &BodyFile {
        snapshot.body().files().next().expect("a file")
    }

    #[test]
    fn a_snapshot_is_measured_and_goes_unless_it_is_handed_over() {
        let temp = tempfile::tempdir().expect("tempdir");
        let bodies = bodies_in(temp.path());
        let (id, content) = (ActionId::new(), vec![5; 300_000]);
        let snapshot = bodies.snapshot(id, source(&content)).expect("snapshot");
        let file = snapshot_file(&snapshot).clone();
        assert_eq!(file.bytes, 300_000);
        assert_eq!(file.crc32c, crc32c::crc32c(&content));
        assert_eq!(snapshot.digest(), blake3::hash(&content).as_bytes());
        assert_eq!(bodies.own(id, &file).expect("ours").bytes, 300_000);
        let other = bodies.own(ActionId::new(), &file).expect_err("another's");
        assert_eq!(other.kind(), ErrorKind::Invalid);
        drop(snapshot);
        assert!(!file.path.exists());
        let snapshot = bodies.snapshot(id, source(&content)).expect("snapshot");
        let file = snapshot_file(&snapshot).clone();
        snapshot.hand_over();
        assert!(file.path.exists());
    }

    #[test]
    fn a_small_snapshot_stays_in_memory() {
        let temp = tempfile::tempdir().expect("tempdir");
        let bodies = bodies_in(temp.path());
        let snapshot = bodies.snapshot(ActionId::new(), source(b"small"));
        let snapshot = snapshot.expect("snapshot");
        assert_eq!(*snapshot.body(), Body::Bytes(Bytes::from_static(b"small")));
        assert_eq!(names(temp.path()), [""; 0]);
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_and_breaks_nothing() {
        struct FullDisk;
        impl Read for FullDisk {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
        }
        let temp = tempfile::tempdir().expect("tempdir");
        let bodies = bodies_in(temp.path());
        let half = io::Cursor::new(vec![1; 100_000]).chain(FullDisk);
        let snapshot = bodies.snapshot(ActionId::new(), Source::reader(half, u64::MAX));
        assert_eq!(snapshot.expect_err("full").kind(), ErrorKind::StorageFull);
        let long = Source::reader(io::repeat(7), 100_000);
        let snapshot = bodies.snapshot(ActionId::new(), long);
        assert_eq!(snapshot.expect_err("endless").kind(), ErrorKind::Invalid);
        assert_eq!(names(temp.path()), [""; 0]);
        bodies.sync().expect("the next one is fine");
    }

    #[test]
    fn a_failed_sync_is_final() {
        let temp = tempfile::tempdir().expect("tempdir");
        let mut bodies = bodies_in(temp.path());
        bodies.sync_file = |_| Err(io::Error::other("EIO"));
        let error = bodies.snapshot(ActionId::new(), source(&[1; 10_000]));
        assert_eq!(error.expect_err("EIO").kind(), ErrorKind::Storage);
        bodies.sync_file = File::sync_all;
        for error in [
            bodies.sync().expect_err("broken"),
            bodies
                .write(ActionId::new(), FileKind::Body, &Bytes::from_static(b"x"))
                .expect_err("broken"),
        ] {
            assert_eq!(error.kind(), ErrorKind::Poisoned);
        }
    }

    #[test]
    fn those_who_wait_share_one_sync_of_the_directory() {
        let temp = tempfile::tempdir().expect("tempdir");
        let dir = temp.path().join("bodies");
        fs::create_dir(&dir).expect("create");
        let bodies = bodies_in(&dir);
        std::thread::scope(|scope| {
            let turn = bodies.done.lock().expect("no panic");
            let waiting: Vec<_> = (0..8).map(|_| scope.spawn(|| bodies.sync())).collect();
            while bodies.asked.load(Ordering::Acquire) < 8 {
                std::thread::yield_now();
            }
            drop(turn);
            for sync in waiting {
                sync.join().expect("no panic").expect("synced");
            }
        });
        assert_eq!(*bodies.done.lock().expect("no panic"), 8);
        fs::remove_dir(&dir).expect("remove");
        assert_eq!(bodies.sync().expect_err("gone").kind(), ErrorKind::Storage);
        assert_eq!(bodies.sync().expect_err("gone").kind(), ErrorKind::Poisoned);
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_is_not_followed() {
        let temp = tempfile::tempdir().expect("tempdir");
        let dir = temp.path().join("bodies");
        fs::create_dir(&dir).expect("create");
        let file = bodies_in(&dir)
            .write(ActionId::new(), FileKind::Body, &vec![3; 10_000].into())
            .expect("write");
        let (path, elsewhere) = (dir.join(&file.name), temp.path().join("elsewhere"));
        fs::rename(&path, &elsewhere).expect("move");
        std::os::unix::fs::symlink(&elsewhere, &path).expect("link");
        let bodies = bodies_in(&dir);
        let error = bodies.read(&body_file(&file)).expect_err("a link");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(bodies.of_other_runs().expect("list"), []);
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("list");
        let names = entries.map(|entry| entry.expect("entry").file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }
}
