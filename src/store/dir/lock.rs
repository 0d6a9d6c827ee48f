//! The lock of a directory: the kernel's. What the file says, a pid, is for the message to others.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{failed, private_file, restrict_file};
use crate::error::{Error, ErrorKind, Result};

/// Who else may hold the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    Alone,
    Shared,
}

/// How long one waits for a store of this very process: a dropped one closes behind the back of its owner.
const OWN_PATIENCE: Duration = Duration::from_secs(1);

pub(super) fn lock(path: &Path, holding: Holding) -> Result<File> {
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
    match write_pid(&mut file).map_err(|e| failed("write", path, e)) {
        // The lock is the kernel's: the pid is only for the message of others.
        Err(error) if error.kind() == ErrorKind::StorageFull => {
            tracing::warn!(%error, "the lock does not name this process");
        }
        written => written?,
    }
    Ok(file)
}

/// Without waiting, and without a word in the file.
#[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
pub(super) fn lock_at_once(file: &mut File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(locked(path, holder(file))),
        Err(TryLockError::Error(e)) => Err(failed("lock", path, e)),
    }
}

/// In place: on a full disk, room that was given back may be gone.
fn write_pid(file: &mut File) -> io::Result<()> {
    let pid = format!("{}\n", std::process::id());
    file.rewind()?;
    file.write_all(pid.as_bytes())?;
    file.set_len(pid.len() as u64)
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
