//! The directory of a vault: ours alone (0700, files 0600), locked while it is open, never reached through a
//! symbolic link. The lock is the kernel's: a file left behind by a dead process locks nothing.

mod lock;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use self::lock::{Holding, lock};
use crate::error::{Error, ErrorKind, Result};

const LOCK: &str = "LOCK";
const OPENING: &str = "open.lock";

/// Stands in the vault's directory once it was made whole.
pub(super) const MARK: &str = "format";

/// Where in the vault's directory things are moved aside to.
pub(super) const QUARANTINE: &str = "quarantine";

/// A vault's directory, locked as long as this value lives.
#[derive(Debug)]
pub(crate) struct VaultDir {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl VaultDir {
    /// Creates the directory when it is missing, checks that it is ours, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Self::take(path, Holding::Alone)
    }

    /// As [`open`](Self::open), beside any number of others that open it so.
    pub(super) fn open_shared(path: &Path) -> Result<Self> {
        Self::take(path, Holding::Shared)
    }

    fn take(path: &Path, holding: Holding) -> Result<Self> {
        if path.as_os_str().is_empty() {
            return Err(Error::invalid(
                "the path of the vault is empty; name a directory",
            ));
        }
        // Absolute, so that a changed working directory changes nothing; rebuilt from its parts, so that a trailing
        // separator does not hide a symbolic link.
        let path = std::path::absolute(path).map_err(|e| failed("find", path, e))?;
        let path: PathBuf = path.components().collect();
        let is_new = create_dir(&path)?;
        refuse_foreign(&path)?;
        // A directory with other things in it, a home directory say, keeps its mode.
        if is_new || is_vault_or_empty(&path)? {
            restrict_dir(&path)?;
        }
        let lock = lock(&path.join(LOCK), holding)?;
        Ok(Self { path, _lock: lock })
    }

    /// Locks a vault that is there, to look at it: nothing is made and nothing is written.
    #[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
    pub(crate) fn look(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(|e| failed("find", path, e))?;
        let path: PathBuf = path.components().collect();
        let lock = path.join(LOCK);
        refuse_links([path.clone(), lock.clone()])?;
        let mut options = OpenOptions::new();
        options.read(true);
        no_follow(&mut options);
        let mut file = options.open(&lock).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::invalid(format!(
                "{} is not a vault: it has no {LOCK}",
                path.display()
            )),
            _ => failed("open", &lock, e),
        })?;
        lock::lock_at_once(&mut file, &lock)?;
        Ok(Self { path, _lock: file })
    }

    /// A directory beside it for us alone, which goes with its value.
    #[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
    pub(super) fn scratch(&self) -> Result<Scratch> {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".examined-{:016x}", rand::random::<u64>()));
        let path = PathBuf::from(name);
        let mut builder = fs::DirBuilder::new();
        private_dir(&mut builder);
        let made = builder.create(&path);
        made.map_err(|e| failed("make a copy to look at in", &path, e))?;
        Ok(Scratch { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until nobody else is opening, and keeps others waiting as long as the value lives.
    pub(super) fn serialize(&self) -> Result<File> {
        let path = self.path.join(OPENING);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        private_file(&mut options);
        let opened = options.open(&path);
        let file = opened.map_err(|e| failed("open", &path, e))?;
        file.lock().map_err(|e| failed("lock", &path, e))?;
        Ok(file)
    }

    /// Makes durable which names are in it, and its own name, as far as we may read the directory above.
    pub(super) fn sync_name(&self) -> Result<()> {
        sync_dir(&self.path)?;
        let above = self.path.canonicalize().ok();
        match above.as_deref().and_then(Path::parent) {
            Some(above) if fs::read_dir(above).is_ok() => sync_dir(above),
            _ => Ok(()),
        }
    }

    /// Was the vault made whole, once? Then what is missing was lost.
    pub(super) fn is_made(&self) -> Result<bool> {
        let mark = self.path.join(MARK);
        refuse_links([mark.clone()])?;
        mark.try_exists().map_err(|e| failed("look at", &mark, e))
    }

    /// Says, durably, that the vault is whole.
    pub(super) fn mark_made(&self) -> Result<()> {
        let mark = self.path.join(MARK);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        private_file(&mut options);
        options
            .open(&mark)
            .and_then(|mut file| {
                file.write_all(b"syncvault 1\n")?;
                file.sync_all()
            })
            .map_err(|e| failed("write", &mark, e))?;
        self.sync_name()
    }

    /// Moves what lies inside to quarantine, under its name and a suffix.
    pub(super) fn move_aside(&self, from: &Path) -> Result<()> {
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        let unique = format!("{name}.{:08x}", rand::random::<u32>());
        let to = self.subdir(QUARANTINE)?.join(unique);
        fs::rename(from, &to).map_err(|e| failed("move aside", from, e))?;
        tracing::warn!(%name, "it was moved to quarantine");
        Ok(())
    }

    /// A directory inside, created when it is missing.
    pub(super) fn subdir(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        create_dir(&path)?;
        restrict_dir(&path)?;
        Ok(path)
    }
}

/// A private copy of what cannot be looked at without writing. Dropping it removes it.
#[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

#[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
impl Scratch {
    /// Copies a file, or a directory with all plain files below, in the way that is cheapest for the file system. Its path here.
    pub(super) fn copy(&self, from: &Path) -> Result<PathBuf> {
        let to = self.path.join(from.file_name().unwrap_or_default());
        Self::copy_below(from, &to)?;
        Ok(to)
    }

    fn copy_below(from: &Path, to: &Path) -> Result<()> {
        let found = fs::symlink_metadata(from).map_err(|e| failed("look at", from, e))?;
        if !found.is_dir() {
            return Self::copy_file(from, to);
        }
        let mut builder = fs::DirBuilder::new();
        private_dir(&mut builder);
        builder.create(to).map_err(|e| failed("create", to, e))?;
        let mut paths = paths_in(from)?.into_iter();
        paths.try_for_each(|path| {
            let name = path.file_name().unwrap_or_default();
            Self::copy_below(&path, &to.join(name))
        })
    }

    fn copy_file(from: &Path, to: &Path) -> Result<()> {
        let found = fs::symlink_metadata(from).map_err(|e| failed("look at", from, e))?;
        if !found.is_file() {
            return Ok(());
        }
        fs::copy(from, to).map_err(|e| failed("copy", from, e))?;
        restrict_file(to)
    }
}

#[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a copy of the vault stays");
        }
    }
}

/// Creates a directory, or checks the one that is there. True when it is new.
pub(super) fn create_dir(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => Err(Error::invalid(format!(
            "{} is a symbolic link; give the directory itself",
            path.display()
        ))),
        Ok(found) if !found.is_dir() => Err(Error::invalid(format!(
            "{} is not a directory",
            path.display()
        ))),
        Ok(_) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            create_durably(path)?;
            Ok(true)
        }
        Err(e) => Err(failed("look at", path, e)),
    }
}

/// Creates a directory and what is missing above it, and makes each new name durable. A parent that we may not read
/// cannot be synced by us.
fn create_durably(path: &Path) -> Result<()> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let named: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    private_dir(&mut builder);
    builder
        .create(path)
        .map_err(|e| failed("create", path, e))?;
    for parent in named.into_iter().filter_map(Path::parent) {
        if fs::read_dir(parent).is_ok() {
            sync_dir(parent)?;
        }
    }
    Ok(())
}

fn is_vault_or_empty(path: &Path) -> Result<bool> {
    if path.join(LOCK).exists() {
        return Ok(true);
    }
    let mut entries = fs::read_dir(path).map_err(|e| failed("list", path, e))?;
    Ok(entries.next().is_none())
}

/// Refuses a directory of another user: what we write there would be theirs. Our own user is read off a file
/// that we make.
#[cfg(unix)]
fn refuse_foreign(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;

    let probe = path.join(format!(".probe-{:016x}", rand::random::<u64>()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    private_file(&mut options);
    let file = options
        .open(&probe)
        .map_err(|e| failed("write to", path, e))?;
    let ours = file.metadata().map(|found| found.uid());
    fs::remove_file(&probe).map_err(|e| failed("remove", &probe, e))?;
    let ours = ours.map_err(|e| failed("look at", &probe, e))?;
    let owner = fs::metadata(path).map_err(|e| failed("look at", path, e))?;
    if owner.uid() != ours {
        let text = format!(
            "{} belongs to user {}, not to user {ours}; use a directory of your own",
            path.display(),
            owner.uid()
        );
        return Err(Error::invalid(text));
    }
    Ok(())
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "the same shape on every platform")]
fn refuse_foreign(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(unix)]
fn private_dir(builder: &mut fs::DirBuilder) {
    use std::os::unix::fs::DirBuilderExt;
    builder.mode(0o700);
}

#[cfg(not(unix))]
fn private_dir(_: &mut fs::DirBuilder) {}

/// Lets only us read and write files made with these options, and refuses a symbolic link in their place.
#[cfg(unix)]
pub(super) fn private_file(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
}

#[cfg(not(unix))]
pub(super) fn private_file(_: &mut OpenOptions) {}

/// A symbolic link in the place of the file is an error, not a way out of the directory.
#[cfg(unix)]
pub(super) fn no_follow(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;
    options.custom_flags(libc::O_NOFOLLOW);
}

#[cfg(not(unix))]
pub(super) fn no_follow(_: &mut OpenOptions) {}

/// Puts a small file in the place of the one that was there, durably, whole or not at all.
pub(super) fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    private_file(&mut options);
    options
        .open(&new)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&new, path))
        .map_err(|e| failed("write", path, e))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Refuses a symbolic link among these, if they are there.
pub(super) fn refuse_links(paths: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    match paths.into_iter().find(|path| path.is_symlink()) {
        None => Ok(()),
        Some(link) => Err(Error::invalid(format!(
            "{} is a symbolic link, which a vault never follows; put the file itself there",
            link.display()
        ))),
    }
}

/// As [`refuse_links`], for everything below a directory.
pub(super) fn refuse_links_below(dir: &Path) -> Result<()> {
    let paths = paths_in(dir)?;
    refuse_links(paths.clone())?;
    let mut inner = paths.iter().filter(|path| path.is_dir());
    inner.try_for_each(|dir| refuse_links_below(dir))
}

/// The paths of everything in a directory.
pub(super) fn paths_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(|e| failed("list", dir, e))?;
    entries
        .map(|entry| Ok(entry.map_err(|e| failed("list", dir, e))?.path()))
        .collect()
}

/// Sets the mode itself: the one at creation is subject to the umask, and others made the file. One that its engine
/// removed meanwhile needs none.
#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    match fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        set => set.map_err(|e| failed("protect", path, e)),
    }
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "the same shape on every platform")]
fn set_mode(_: &Path, _: u32) -> Result<()> {
    Ok(())
}

fn restrict_dir(path: &Path) -> Result<()> {
    set_mode(path, 0o700)
}

fn restrict_file(path: &Path) -> Result<()> {
    set_mode(path, 0o600)
}

/// Restricts everything below a directory: files that an engine made.
pub(super) fn restrict_below(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(|e| failed("list", dir, e))? {
        let path = entry.map_err(|e| failed("list", dir, e))?.path();
        let found = match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            found => found.map_err(|e| failed("look at", &path, e))?,
        };
        if found.is_dir() {
            restrict_dir(&path)?;
            restrict_below(&path)?;
        } else if found.is_file() {
            restrict_file(&path)?;
        }
    }
    Ok(())
}

/// Makes the names in a directory durable.
#[cfg(unix)]
pub(super) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| unsynced(path, e))
}

/// Directories cannot be synced here; the file system's journal keeps names.
#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "the same shape on every platform")]
pub(super) fn sync_dir(_: &Path) -> Result<()> {
    Ok(())
}

/// A file that was deleted or replaced under a running vault must not acknowledge anything.
///
/// # Errors
///
/// [`ErrorKind::Storage`] when `path` no longer leads to `open`.
pub(super) fn check_still_there(path: &Path, open: &File) -> Result<()> {
    if is_same_file(path, open).map_err(|e| failed("look at", path, e))? {
        return Ok(());
    }
    let text = format!(
        "{} was replaced while the vault was open; reopen it",
        path.display()
    );
    Err(Error::new(ErrorKind::Storage, text))
}

/// Asks for numbers only: once a time of the file was asked for, Linux from 6.13 on gives the next write a new one, and
/// its sync has that to write too.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_same_file(path: &Path, open: &File) -> io::Result<bool> {
    use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, statx};
    let number = |found: Statx| (found.stx_dev_major, found.stx_dev_minor, found.stx_ino);
    let there = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO);
    let ours = statx(open, "", AtFlags::EMPTY_PATH, StatxFlags::INO);
    match (there, ours) {
        (Err(rustix::io::Errno::NOSYS), _) => has_same_metadata(path, open),
        (there, ours) => Ok(number(there?) == number(ours?)),
    }
}

#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
fn is_same_file(path: &Path, open: &File) -> io::Result<bool> {
    has_same_metadata(path, open)
}

#[cfg(unix)]
fn has_same_metadata(path: &Path, open: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (there, ours) = (fs::symlink_metadata(path)?, open.metadata()?);
    Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino()))
}

/// Elsewhere an open file cannot be replaced.
#[cfg(not(unix))]
fn is_same_file(path: &Path, _open: &File) -> io::Result<bool> {
    path.try_exists()
}

/// An error of the operating system, with what was tried on what.
pub(super) fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull => ": the disk is full, free some space",
        io::ErrorKind::QuotaExceeded => ": the quota is used up, free some space",
        io::ErrorKind::ReadOnlyFilesystem => ": the file system is read-only",
        io::ErrorKind::PermissionDenied => ": this user may not",
        _ => "",
    };
    let text = format!("cannot {what} {}{hint}", path.display());
    Error::new(kind_of(&error), text).with_source(error)
}

/// A sync that failed, also for want of room: what it covered may be gone, so this is never just a full disk.
pub(super) fn unsynced(path: &Path, error: io::Error) -> Error {
    let text = format!("cannot sync {}", path.display());
    Error::new(ErrorKind::Storage, text).with_source(error)
}

/// A full disk is told apart from every other failure.
pub(super) fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        _ => ErrorKind::Storage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_open_is_refused_and_names_the_pid() {
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("vault");
        let first = VaultDir::open(&path).expect("open");
        let error = VaultDir::open(&path).expect_err("locked");
        assert_eq!(error.kind(), ErrorKind::Locked);
        let pid = std::process::id().to_string();
        assert!(error.to_string().contains(&pid), "{error}");
        drop(first);
        VaultDir::open(&path).expect("the lock goes with its holder");
    }

    #[test]
    fn a_file_in_its_place_is_refused() {
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("vault");
        fs::write(&path, "x").expect("write");
        let error = VaultDir::open(&path).expect_err("not a directory");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[cfg(unix)]
    #[test]
    fn directory_and_lock_are_ours_alone() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("a/vault");
        let dir = VaultDir::open(&path).expect("open");
        let bodies = dir.subdir("bodies").expect("subdir");
        fs::write(bodies.join("loose"), "x").expect("write");
        restrict_below(&path).expect("restrict");
        let mode = |path: &Path| {
            let found = fs::metadata(path).expect("metadata");
            found.permissions().mode() & 0o777
        };
        assert_eq!((mode(&path), mode(&bodies)), (0o700, 0o700));
        assert_eq!(mode(&path.join(LOCK)), 0o600);
        assert_eq!(mode(&bodies.join("loose")), 0o600);
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_is_refused() {
        let temp = tempfile::tempdir().expect("tempdir");
        let target = temp.path().join("target");
        fs::create_dir(&target).expect("create");
        let link = temp.path().join("vault");
        std::os::unix::fs::symlink(&target, &link).expect("link");
        let error = VaultDir::open(&link).expect_err("a link");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(fs::read_dir(&target).expect("list").next().is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_with_other_things_in_it_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("home");
        fs::create_dir(&path).expect("create");
        fs::write(path.join("notes"), "x").expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        let _dir = VaultDir::open(&path).expect("open");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[cfg(unix)]
    #[test]
    fn links_inside_are_refused() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (vault, elsewhere) = (temp.path().join("vault"), temp.path().join("elsewhere"));
        fs::create_dir(&vault).expect("create");
        fs::create_dir(&elsewhere).expect("create");
        let link = |name: &str| {
            std::os::unix::fs::symlink(&elsewhere, vault.join(name)).expect("link");
        };
        link("bodies");
        let dir = VaultDir::open(&vault).expect("open");
        let error = dir.subdir("bodies").expect_err("a link");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let error = refuse_links(paths_in(&vault).expect("list")).expect_err("a link");
        assert!(error.to_string().contains("bodies"), "{error}");
        drop(dir);
        fs::remove_file(vault.join(LOCK)).expect("remove");
        link(LOCK);
        let error = VaultDir::open(&vault).expect_err("a link");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(paths_in(&elsewhere).expect("list").is_empty());
    }
}
