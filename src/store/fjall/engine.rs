//! The engine: one atomic batch is one `fdatasync`.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::FjallOptions;
use super::failure::{broken, unopenable};
use super::journals::{self, VERSION};
use crate::error::Result;
use crate::store::dir::{
    VaultDir, check_still_there, failed, paths_in, refuse_links_below, restrict_below,
};
use crate::store::kv::{Batch, Engine};

/// How much is written before it goes from memory to a table; a few of these may wait for that.
const MEMTABLE_BYTES: u64 = 16 * 1024 * 1024;
/// How many of them wait before a commit does.
const MEMTABLES_WAITING_MAX: usize = 3;
/// How long journals get before what they hold is brought to tables early.
const JOURNALS_BYTES: u64 = 128 * 1024 * 1024;
const OPEN_FILES_MAX: usize = 64;

pub(super) struct FjallEngine {
    db: Database,
    queue: Keyspace,
    /// Stands for the directory; the other files come and go.
    version: File,
    path: PathBuf,
    /// Released last.
    dir: Arc<VaultDir>,
}

impl FjallEngine {
    pub(super) fn open(dir: Arc<VaultDir>, options: &FjallOptions) -> Result<Self> {
        let (is_made, path) = (dir.is_made()?, dir.subdir("fjall")?);
        refuse_links_below(&path)?;
        if is_made {
            journals::check(&path)?;
        } else if !paths_in(&path)?.is_empty() {
            // A creation that a crash cut off: nothing was acknowledged.
            dir.move_aside(&path)?;
            dir.subdir("fjall")?;
        }
        let engine = Self::open_at(path, dir, options)?;
        if !is_made {
            engine.dir.mark_made()?;
        }
        Ok(engine)
    }

    /// The engine in this directory, as it is.
    pub(super) fn open_at(
        path: PathBuf,
        dir: Arc<VaultDir>,
        options: &FjallOptions,
    ) -> Result<Self> {
        let db = Database::builder(&path)
            .cache_size(options.cache_bytes)
            .journal_compression(CompressionType::None)
            .max_journaling_size(JOURNALS_BYTES)
            .max_cached_files(Some(OPEN_FILES_MAX))
            .worker_threads(1)
            .open()
            .map_err(unopenable)?;
        let queue = db.keyspace("queue", queue_options).map_err(unopenable)?;
        let file = path.join(VERSION);
        let version = File::open(&file).map_err(|e| failed("open", &file, e))?;
        restrict_below(&path)?;
        Ok(Self {
            db,
            queue,
            version,
            path,
            dir,
        })
    }

    /// A commit waits for fjall's thread when that falls behind, without end when the thread has failed. So it is
    /// waited for here, where that shows.
    fn wait_for_room(&self) -> Result<()> {
        while self.queue.sealed_memtable_count() >= MEMTABLES_WAITING_MAX {
            let checked = self.db.persist(PersistMode::Buffer);
            checked.map_err(|e| broken("write to", e))?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Nothing is compressed, so that records can be found in the raw bytes of a damaged database.
fn queue_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMTABLE_BYTES)
        .data_block_compression_policy(CompressionPolicy::disabled())
        .index_block_compression_policy(CompressionPolicy::disabled())
}

impl Engine for FjallEngine {
    fn apply(&mut self, batch: Batch) -> Result<()> {
        self.wait_for_room()?;
        let mut writes = self.db.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in batch {
            match value {
                Some(value) => writes.insert(&self.queue, key, &value[..]),
                None => writes.remove(&self.queue, key),
            }
        }
        writes.commit().map_err(|e| broken("write to", e))?;
        check_still_there(&self.path.join(VERSION), &self.version)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.queue.get(key).map_err(|e| broken("read", e))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        let found = self.queue.range(from..to).take(limit);
        found
            .map(|entry| {
                let (key, value) = entry.into_inner().map_err(|e| broken("read", e))?;
                Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
            })
            .collect()
    }

    fn close(self) -> Result<()> {
        let Self {
            db,
            queue,
            path,
            dir,
            ..
        } = self;
        drop(queue);
        drop(db);
        restrict_below(&path)?;
        drop(dir);
        Ok(())
    }
}

impl fmt::Debug for FjallEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FjallEngine").finish_non_exhaustive()
    }
}
