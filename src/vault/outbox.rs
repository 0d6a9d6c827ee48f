//! The outbox: what the vault must be told.

use super::SyncVault;

impl SyncVault {
    /// A transaction with requests in it was committed: they are looked for now, not only at the next poll.
    /// See [`enqueue_in`](crate::RequestBuilder::enqueue_in).
    pub fn notify_committed(&self) {
        self.parts().wake.notify_one();
    }
}
