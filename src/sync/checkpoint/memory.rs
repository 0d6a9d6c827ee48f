//! Checkpoints in memory: for tests, and for apps whose data does not outlive the process either.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Checkpoint, CheckpointFuture, CheckpointKey, CheckpointStore};

/// Checkpoints in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryCheckpoints(Arc<Mutex<BTreeMap<CheckpointKey, Checkpoint>>>);

impl MemoryCheckpoints {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<CheckpointKey, Checkpoint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CheckpointStore for MemoryCheckpoints {
    fn load(&self, key: &CheckpointKey) -> CheckpointFuture<'_, Option<Checkpoint>> {
        Box::pin(ready(Ok(self.all().get(key).cloned())))
    }

    fn save(&self, checkpoint: &Checkpoint) -> CheckpointFuture<'_, ()> {
        self.all()
            .insert(checkpoint.key.clone(), checkpoint.clone());
        Box::pin(ready(Ok(())))
    }

    fn remove(&self, key: &CheckpointKey) -> CheckpointFuture<'_, ()> {
        self.all().remove(key);
        Box::pin(ready(Ok(())))
    }
}
