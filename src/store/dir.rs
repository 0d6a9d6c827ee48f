//! The directory of a vault: ours alone (0700, files 0600), locked while it is open, never reached through a
//! symbolic link. The lock is the kernel's: a file left behind by a dead process locks nothing.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};

const LOCK: &str = "LOCK";
const OPENING: &str = "open.lock";

/// Who else may hold the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holding {
    Alone,
    Shared,
}

/// A vault's directory, locked as long as this value lives.
#[derive(Debug)]
pub(super) struct VaultDir {
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

    pub(super) fn path(&self) -> &Path {
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

    /// A directory inside, created when it is missing.
    pub(super) fn subdir(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        create_dir(&path)?;
        restrict_dir(&path)?;
        Ok(path)
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

/// How long one waits for a store of this very process: a dropped one closes behind the back of its owner.
const OWN_PATIENCE: Duration = Duration::from_secs(1);

fn lock(path: &Path, holding: Holding) -> Result<File> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        let text = format!("{} is not a plain file; remove it", path.display());
        return Err(Error::invalid(text));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    private_file(&mut options);
    let mut file = options.open(path).map_err(|e| failed("open", path, e))?;
    let patience = Instant::now() + OWN_PATIENCE;
    loop {
        let tried = match holding {
            Holding::Alone => file.try_lock(),
            Holding::Shared => file.try_lock_shared(),
        };
        match tried {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&mut file);
                let is_us = holder == Some(std::process::id());
                if !is_us || Instant::now() > patience {
                    return Err(locked(path, holder));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::Error(e)) => return Err(failed("lock", path, e)),
        }
    }
    restrict_file(path)?;
    write_pid(&mut file).map_err(|e| failed("write", path, e))?;
    Ok(file)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// The pid that the lock file names.
fn holder(file: &mut File) -> Option<u32> {
    let mut pid = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut pid).ok()?;
    pid.trim().parse().ok()
}

fn locked(path: &Path, holder: Option<u32>) -> Error {
    let holder = holder.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    );
    let dir = path.parent().unwrap_or(path).display();
    Error::new(
        ErrorKind::Locked,
        format!("the vault {dir} is in use by {holder}; close it there first"),
    )
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

/// The paths of everything in a directory.
pub(super) fn paths_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(|e| failed("list", dir, e))?;
    entries
        .map(|entry| Ok(entry.map_err(|e| failed("list", dir, e))?.path()))
        .collect()
}

/// Sets the mode itself: the one at creation is subject to the umask, and others made the file.
#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|e| failed("protect", path, e))
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
        let found = fs::symlink_metadata(&path).map_err(|e| failed("look at", &path, e))?;
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
        .map_err(|e| failed("sync", path, e))
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

/// An error of the operating system, with what was tried on what.
pub(super) fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    let text = format!("cannot {what} {}", path.display());
    Error::new(kind_of(&error), text).with_source(error)
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
