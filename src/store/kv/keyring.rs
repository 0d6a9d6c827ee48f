//! The keyring: a row of the engine, or a file of its own beside an engine that keeps for a while what was overwritten. Its
//! revision is in the row of the run, so that what was sealed under another one is refused in the commit that would take it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::committer::{Order, work};
use super::queue::Queue;
use super::{Engine, KvStore, keys};
use crate::error::{Error, ErrorKind, Result};
use crate::store::dir::{failed, no_follow, private_file, sync_dir};
use crate::store::snapshot::blocking;
use crate::store::{KeptKeyring, StoreFuture};

/// What is asked of the queue while a keyring is replaced; the answer is a revision.
type Ask<E> = Box<dyn FnOnce(&mut Queue<E>) -> Result<Option<u64>> + Send>;

/// A keyring in a file. A new one takes the place of the old in one step, and the old one is overwritten: the keys that are no
/// longer in it are to be gone.
#[derive(Debug)]
pub(super) struct KeyringFile {
    path: PathBuf,
    /// Held while it is replaced.
    changing: Mutex<()>,
}

impl KeyringFile {
    #[cfg(any(feature = "fjall", feature = "sled"))]
    pub(super) fn new(path: PathBuf) -> Self {
        let changing = Mutex::default();
        Self { path, changing }
    }

    fn read(&self) -> Result<Option<Bytes>> {
        match read_whole(&self.path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("read", &self.path, e)),
        }
    }

    /// Whether the new one or the old one is there after a failed sync of the directory nobody knows: `on_broken` is told.
    fn replace(&self, keyring: &[u8], on_broken: impl FnOnce()) -> Result<()> {
        let path = &self.path;
        let new = path.with_extension("new");
        let old = open_old(path)?;
        write_new(&new, keyring).map_err(|e| failed("write", &new, e))?;
        fs::rename(&new, path).map_err(|e| failed("replace", path, e))?;
        if let Some(dir) = path.parent() {
            sync_dir(dir).inspect_err(|_| on_broken())?;
        }
        match old {
            Some(old) => overwrite(old).map_err(|e| failed("overwrite", path, e)),
            None => Ok(()),
        }
    }
}

impl<E: Engine + Send + 'static> KvStore<E> {
    pub(super) fn read_keyring(&self) -> StoreFuture<'_, Option<KeptKeyring>> {
        let Some(file) = self.keyring.clone() else {
            return self.submit(|queue| queue.kept_keyring());
        };
        let revision = self.submit(|queue| Ok(queue.run.keyring));
        Box::pin(async move {
            let revision = revision.await?;
            let bytes = blocking(move || file.read()).await?;
            Ok(bytes.map(|bytes| KeptKeyring::new(revision, bytes)))
        })
    }

    pub(super) fn replace_keyring(
        &self,
        before: Option<u64>,
        keyring: Bytes,
    ) -> StoreFuture<'_, Option<u64>> {
        let Some(file) = self.keyring.clone() else {
            return self.submit(move |queue| queue.replace_keyring(before, keyring));
        };
        let (front, status, bodies) =
            (self.front.clone(), self.status.clone(), self.bodies.clone());
        // The caller may be gone before it is done: it is done all the same.
        Box::pin(blocking(move || {
            let _changing = file.changing.lock().unwrap_or_else(PoisonError::into_inner);
            let ask = |verb: Ask<E>| {
                let (reply, answer) = oneshot::channel();
                front.send(work(verb, reply, Order::now()));
                answer
                    .blocking_recv()
                    .unwrap_or_else(|_| Err(status.gone()))
            };
            let has_one = file.read()?.is_some();
            let is_kept = ask(Box::new(move |queue| {
                Ok(queue.is_keyring(has_one, before)?.then_some(0))
            }))?;
            if is_kept.is_none() {
                return Ok(None);
            }
            file.replace(&keyring, || {
                if let Some(bodies) = bodies {
                    bodies.give_up();
                }
                front.stop_if_broken();
            })?;
            ask(Box::new(|queue| queue.next_keyring().map(Some)))
        }))
    }
}

impl<E: Engine> Queue<E> {
    /// Refuses what was sealed under another keyring than the one that is kept; nothing = in clear.
    pub(super) fn check_keyring(&self, sealed: Option<u64>) -> Result<()> {
        if sealed.unwrap_or_default() == self.run.keyring {
            return Ok(());
        }
        let text = match sealed {
            Some(_) => {
                "the keyring was changed meanwhile: what was sealed before that is not taken"
            }
            None => "the store is sealed by now and takes nothing in clear: open it with its key",
        };
        Err(Error::new(ErrorKind::WrongKey, text))
    }

    pub(super) fn kept_keyring(&self) -> Result<Option<KeptKeyring>> {
        let bytes = self.txn.get(keys::KEYRING)?;
        Ok(bytes.map(|bytes| KeptKeyring::new(self.run.keyring, bytes)))
    }

    pub(super) fn replace_keyring(
        &mut self,
        before: Option<u64>,
        keyring: Bytes,
    ) -> Result<Option<u64>> {
        let has_one = self.txn.get(keys::KEYRING)?.is_some();
        if !self.is_keyring(has_one, before)? {
            return Ok(None);
        }
        self.txn.put(keys::KEYRING.to_vec(), keyring);
        self.next_keyring().map(Some)
    }

    /// # Errors
    ///
    /// [`ErrorKind::WrongState`] for the first keyring of a store that has held something in clear.
    fn is_keyring(&self, has_one: bool, before: Option<u64>) -> Result<bool> {
        match before {
            Some(revision) => Ok(has_one && revision == self.run.keyring),
            None if has_one => Ok(false),
            None if self.tally.ledger.enqueued == 0 => Ok(true),
            None => {
                let text = "the store holds, or held, requests in clear: a sealed one begins in a new directory";
                Err(Error::new(ErrorKind::WrongState, text))
            }
        }
    }

    fn next_keyring(&mut self) -> Result<u64> {
        self.run.keyring += 1;
        self.put_row(keys::RUN.to_vec(), &self.run.clone())?;
        Ok(self.run.keyring)
    }
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
