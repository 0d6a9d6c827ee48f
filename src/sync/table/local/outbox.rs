//! The request of a change, queued in the transaction that writes its record.

use rusqlite::Transaction;

use super::QueueRequest;
use crate::SyncVault;
use crate::error::Result;

/// A request that is in a transaction. Tell the vault when that is committed.
#[derive(Debug)]
#[must_use = "after the commit, call `committed`; after a rollback, drop it"]
pub struct QueuedInTransaction(SyncVault);

impl QueueRequest {
    /// Queues it in a transaction on the vault's own database: it is there when that commits.
    ///
    /// # Errors
    ///
    /// As [`RequestBuilder::enqueue_in`](crate::RequestBuilder::enqueue_in); nothing was added then.
    pub fn enqueue_in(self, transaction: &Transaction<'_>) -> Result<QueuedInTransaction> {
        self.request.enqueue_in(transaction)?;
        Ok(QueuedInTransaction(self.vault))
    }
}

impl QueuedInTransaction {
    /// The transaction was committed: the vault looks for it now.
    pub fn committed(self) {
        self.0.notify_committed();
    }
}
