//! The outbox: a request is queued in the app's own transaction.

use rusqlite::Transaction;

use super::RequestBuilder;
use crate::error::Result;
use crate::ticket::Ticket;

impl RequestBuilder {
    /// Keeps it in a transaction of the app: the app's rows and the request are there together when it commits, and never
    /// were when it is rolled back. The vault's store must be a [`SqliteStore`](crate::store::SqliteStore) on the same
    /// database. Checks, limits, keys and lanes are those of [`enqueue`](Self::enqueue).
    ///
    /// The worker finds it within the store's `poll`, or at once after
    /// [`notify_committed`](crate::SyncVault::notify_committed). Only then is there an event of it. The ticket knows
    /// nothing before the commit.
    ///
    /// It is as durable as the commit: use `synchronous = FULL`, SQLite's default. Begin the transaction as an immediate
    /// one. And keep it short: until it ends, the vault cannot write, and a call of it waits.
    ///
    /// ```
    /// # fn example(vault: &syncvault::SyncVault, app: &mut syncvault::rusqlite::Connection) -> Result<(), Box<dyn std::error::Error>> {
    /// use syncvault::rusqlite::TransactionBehavior;
    ///
    /// let transaction = app.transaction_with_behavior(TransactionBehavior::Immediate)?;
    /// transaction.execute("INSERT INTO orders (number) VALUES (7)", [])?;
    /// vault.post("/orders").body("7").idempotency_key("order-7").enqueue_in(&transaction)?;
    /// transaction.commit()?;
    /// vault.notify_committed();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`enqueue`](Self::enqueue); [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) with another store,
    /// and for a file, a form or a compressed body; [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the transaction
    /// is on another database. In each case
    /// nothing was added to the transaction, and it can go on.
    pub fn enqueue_in(self, transaction: &Transaction<'_>) -> Result<Ticket> {
        let dispatch = self.dispatch.clone();
        let (draft, payload) = self.check()?;
        dispatch.enqueue_in(draft, payload, transaction)
    }
}
