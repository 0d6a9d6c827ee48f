//! A file in a vault's directory that only takes room. When the disk is full it goes, so that the vault can still be
//! opened and drained; until it is there again, nothing is added.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::dir::{failed, private_file};
use crate::error::{ErrorKind, Result};

const FILE: &str = "ballast";
/// Random, so that no file system makes it smaller, and longer than what one compresses at a time.
const BLOCK_BYTES: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    bytes: u64,
    is_held: bool,
}

impl Ballast {
    /// The ballast of the vault in `dir`; zero bytes are none. Nothing is made yet.
    pub(super) fn of(dir: &Path, bytes: u64) -> Self {
        let mut ballast = Self {
            path: dir.join(FILE),
            bytes,
            is_held: false,
        };
        ballast.look();
        ballast
    }

    /// Looks whether it is there: another process may have released it, or made it again.
    pub(super) fn look(&mut self) {
        let is_file = |found: fs::Metadata| found.is_file();
        self.is_held = self.bytes == 0 || fs::symlink_metadata(&self.path).is_ok_and(is_file);
    }

    #[cfg(feature = "sqlite")]
    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }

    /// Gives its room back. False when there is none to give.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] when it cannot be removed.
    pub(super) fn release(&mut self) -> Result<bool> {
        self.is_held = self.bytes == 0;
        match fs::remove_file(&self.path) {
            Ok(()) => {
                tracing::warn!(path = %self.path.display(), "the disk is full: the ballast was released");
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(failed("release", &self.path, e)),
        }
    }

    /// Makes it again when it is gone and twice its room is free. True when it is there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] when it cannot be made for another reason than a full disk.
    pub(super) fn renew(&mut self) -> Result<bool> {
        if !self.is_held && free_bytes(&self.path)? >= self.bytes.saturating_mul(2) {
            self.is_held = self.make()?;
        }
        Ok(self.is_held)
    }

    fn make(&self) -> Result<bool> {
        let new = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        private_file(&mut options);
        let made = options
            .open(&new)
            .and_then(|mut file| fill(&mut file, self.bytes))
            .and_then(|()| fs::rename(&new, &self.path));
        let Err(error) = made else { return Ok(true) };
        let error = failed("make", &self.path, error);
        if let Err(error) = fs::remove_file(&new) {
            tracing::debug!(%error, "there is nothing of a ballast to remove");
        }
        match error.kind() {
            ErrorKind::StorageFull => Ok(false),
            _ => Err(error),
        }
    }
}

/// Nothing depends on it after a power cut, so it is not synced.
fn fill(file: &mut File, bytes: u64) -> io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    rand::fill(&mut block[..]);
    let mut left = bytes;
    while left > 0 {
        let part = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.write_all(&block[..part])?;
        left -= part as u64;
    }
    Ok(())
}

/// How much may be written beside `path`.
///
/// # Errors
///
/// [`ErrorKind::Storage`] when the system does not tell.
pub(super) fn free_bytes(path: &Path) -> Result<u64> {
    let dir = path.parent().unwrap_or(path);
    fs4::available_space(dir).map_err(|e| failed("look for free space in", dir, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_room_until_it_is_released_and_comes_back() {
        let temp = tempfile::tempdir().expect("tempdir");
        let file = temp.path().join(FILE);
        let mut ballast = Ballast::of(temp.path(), 1_000_000);
        assert!(ballast.renew().expect("renew"));
        assert_eq!(fs::metadata(&file).expect("there").len(), 1_000_000);
        assert!(ballast.release().expect("release"));
        assert!(!file.exists());
        assert!(!ballast.release().expect("nothing left"));
        let mut again = Ballast::of(temp.path(), 1_000_000);
        assert!(again.renew().expect("renew"));
        ballast.look();
        assert!(ballast.release().expect("another one made it"));
    }

    #[test]
    fn it_is_not_made_where_there_is_no_room_for_it() {
        let temp = tempfile::tempdir().expect("tempdir");
        let mut ballast = Ballast::of(temp.path(), u64::MAX / 4);
        assert!(!ballast.renew().expect("renew"));
        assert!(fs::read_dir(temp.path()).expect("list").next().is_none());
    }

    #[test]
    fn none_is_always_there() {
        let temp = tempfile::tempdir().expect("tempdir");
        let mut ballast = Ballast::of(temp.path(), 0);
        assert!(!ballast.release().expect("release"));
        assert!(ballast.renew().expect("renew"));
    }
}
