//! The file of a database and what lies beside it. It is never opened here: on Unix, closing any handle of a file drops
//! the locks that SQLite has on it.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::store::dir::{VaultDir, failed, private_file};

/// Makes the file, empty and for us alone, unless it is there. True when it is new.
pub(super) fn create_private(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => return Ok(false),
        Ok(_) => {
            let text = format!("{} is not a plain file; remove it", path.display());
            return Err(Error::invalid(text));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed("look at", path, e)),
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    private_file(&mut options);
    options
        .open(path)
        .and_then(|file| file.sync_all())
        .map_err(|e| failed("create", path, e))?;
    Ok(true)
}

/// Which file is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    #[cfg(unix)]
    file: (u64, u64),
    /// Elsewhere an open file cannot be replaced: its path says which it is.
    #[cfg(not(unix))]
    file: PathBuf,
}

impl Mark {
    #[cfg(unix)]
    pub(super) fn of(path: &Path) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(path).map_err(|e| failed("look at", path, e))?;
        let file = (found.dev(), found.ino());
        Ok(Self { file })
    }

    #[cfg(not(unix))]
    pub(super) fn of(path: &Path) -> Result<Self> {
        let file = fs::canonicalize(path).map_err(|e| failed("look at", path, e))?;
        Ok(Self { file })
    }
}

/// A database of an app, and our directory beside it.
#[derive(Debug)]
pub(super) struct SidePlace {
    pub(super) dir: VaultDir,
    pub(super) database: PathBuf,
}

impl SidePlace {
    pub(super) fn beside(path: &Path) -> Result<Self> {
        let database = match fs::canonicalize(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let text = format!(
                    "the database {} is not there; open it before its outbox",
                    path.display()
                );
                return Err(Error::invalid(text));
            }
            found => found.map_err(|e| failed("find", path, e))?,
        };
        let mut beside = database.clone().into_os_string();
        beside.push("-syncvault");
        let dir = VaultDir::open_shared(Path::new(&beside))?;
        Ok(Self { dir, database })
    }
}
