//! The store over fjall, a log-structured engine: a batch is one append to its journal and one `fdatasync`. What its
//! own thread does behind that (flushing, merging) stops the store when it fails. See `docs/format.md`.

mod engine;
mod examine;
mod failure;
mod journals;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use self::engine::FjallEngine;
pub(crate) use self::examine::examine_fjall;
use super::carve::frames_below;
use super::dir::{MARK, VaultDir};
use super::kv::{KvStore, Sink, Site};
use super::{
    Advance, Advanced, Amend, Amended, Append, Appended, Chunks, Find, LaneTotals, Opened, Page,
    Query, Snapshot, Source, Store, StoreFuture, Totals,
};
use crate::action::{ActionId, Body, BodyFile, Lane, Record};
use crate::clock::Timestamp;
use crate::error::Result;

/// How a [`FjallStore`] uses memory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FjallOptions {
    /// How much of what it read fjall keeps in memory, in bytes. Default: 16 MiB.
    pub cache_bytes: u64,
}

impl Default for FjallOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 16 * 1024 * 1024,
        }
    }
}

/// A [`Store`] in a directory, over fjall.
#[derive(Debug)]
pub struct FjallStore {
    store: KvStore<FjallEngine>,
}

impl FjallStore {
    /// Takes the directory, which is created when it is missing. fjall opens on the store's own thread; the first
    /// verb waits for it, and gets the error when that fails.
    ///
    /// # Errors
    ///
    /// Kind [`Locked`](crate::ErrorKind::Locked) when somebody has it open, [`Invalid`](crate::ErrorKind::Invalid) when it
    /// is not a directory of our own, [`Storage`](crate::ErrorKind::Storage) or
    /// [`StorageFull`](crate::ErrorKind::StorageFull) when it cannot be written to.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, FjallOptions::default())
    }

    /// As [`open`](Self::open), with options.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, options: FjallOptions) -> Result<Self> {
        Self::open_at(path.as_ref(), options, false)
    }

    /// As [`open`](Self::open), and all of it is looked at, however large it is.
    pub(crate) fn open_doubted(path: &Path) -> Result<Self> {
        Self::open_at(path, FjallOptions::default(), true)
    }

    fn open_at(path: &Path, options: FjallOptions, is_doubted: bool) -> Result<Self> {
        let site = |dir| FjallSite {
            dir: Arc::new(dir),
            options,
            is_doubted,
        };
        let store = KvStore::in_directory(path, site)?;
        Ok(Self { store })
    }
}

super::delegate_store!(FjallStore);

/// Where a vault has fjall.
struct FjallSite {
    dir: Arc<VaultDir>,
    options: FjallOptions,
    is_doubted: bool,
}

impl Site for FjallSite {
    type Engine = FjallEngine;

    fn dir(&self) -> &VaultDir {
        &self.dir
    }

    /// The mark of a whole vault goes first: without it, nothing is missed.
    fn names(&self) -> &'static [&'static str] {
        &[MARK, "fjall"]
    }

    fn is_doubted(&self) -> bool {
        self.is_doubted
    }

    fn open(&self) -> Result<FjallEngine> {
        FjallEngine::open(self.dir.clone(), &self.options)
    }

    /// The tables hold what left the journals. The batches of these come last, in their order.
    fn carve(&self, from: &Path, sink: &mut dyn Sink) -> Result<()> {
        let dir = from.join("fjall");
        frames_below(&dir, &mut |bytes| sink.frame(bytes))?;
        journals::batches_in(&dir, &mut |batch| sink.commit(batch))
    }
}
