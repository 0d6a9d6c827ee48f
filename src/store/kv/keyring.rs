//! The keyring as a file. A new one takes the place of the old in one step, and the old one is overwritten: the keys
//! that are no longer in it are to be gone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::store::dir::{failed, no_follow, private_file, sync_dir};
use crate::store::snapshot::run_blocking;
use crate::store::{StoreFuture, Totals};

/// `open` is an error when the store takes nothing any more.
pub(super) fn read(path: PathBuf, open: Result<Totals>) -> StoreFuture<'static, Option<Bytes>> {
    in_background(move || {
        open?;
        match read_whole(&path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("read", &path, e)),
        }
    })
}

/// Whether the new one or the old one is there after a failed sync of the directory nobody knows: `on_broken` is told.
pub(super) fn replace(
    path: PathBuf,
    keyring: Bytes,
    open: Result<Totals>,
    on_broken: impl FnOnce() + Send + 'static,
) -> StoreFuture<'static, ()> {
    in_background(move || {
        open?;
        let new = path.with_extension("new");
        let old = open_old(&path)?;
        write_new(&new, &keyring).map_err(|e| failed("write", &new, e))?;
        fs::rename(&new, &path).map_err(|e| failed("replace", &path, e))?;
        if let Some(dir) = path.parent() {
            sync_dir(dir).inspect_err(|_| on_broken())?;
        }
        match old {
            Some(old) => overwrite(old).map_err(|e| failed("overwrite", &path, e)),
            None => Ok(()),
        }
    })
}

fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    options.read(true);
    no_follow(&mut options);
    let mut keyring = Vec::new();
    options.open(path)?.read_to_end(&mut keyring)?;
    Ok(keyring)
}

fn open_old(path: &Path) -> Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.write(true);
    no_follow(&mut options);
    match options.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("open", path, e)),
    }
}

fn write_new(path: &Path, keyring: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    private_file(&mut options);
    let mut file = options.open(path)?;
    file.write_all(keyring)?;
    file.sync_all()
}

fn overwrite(mut old: File) -> io::Result<()> {
    let zeros = vec![0; usize::try_from(old.metadata()?.len()).unwrap_or(0)];
    old.rewind()?;
    old.write_all(&zeros)?;
    old.sync_all()
}

fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> StoreFuture<'static, T> {
    let (reply, answer) = oneshot::channel();
    // The caller may be gone by then.
    run_blocking(move || drop(reply.send(work())));
    Box::pin(async move { answer.await.map_err(|_| Error::closed())? })
}
