//! Queueing inside a transaction of the app. It is not on disk yet when this returns, so nothing is published and
//! nobody is woken.

use std::any::Any;

use rusqlite::Transaction;

use super::{Dispatch, Draft, conflict, full, leased, not_over, unfit};
use crate::error::{Error, ErrorKind, Result};
use crate::payload::Payload;
use crate::store::{Append, Appended, Over, SqliteStore, Store};
use crate::ticket::Ticket;

impl Dispatch {
    /// Queues in the app's own transaction.
    pub(crate) fn enqueue_in(
        &self,
        mut draft: Draft,
        payload: Payload,
        transaction: &Transaction<'_>,
    ) -> Result<Ticket> {
        let parts = &self.desk.parts;
        parts.check_open()?;
        draft.drop_credentials(parts)?;
        let now = parts.now();
        let body = payload.keep_bytes(parts)?;
        let record = draft.record(&body, now)?;
        let mut append = self.desk.to_append(record, body.hand_over(), now)?;
        if parts.options.coalesce_by.is_some() {
            // Nobody is asked in the middle of the app's transaction: nothing is lost by keeping both.
            append.over = Over::Nothing;
        }
        match append_in(&*parts.store, transaction, append)? {
            Appended::Queued { record, .. }
            | Appended::Known { record }
            | Appended::Cancelled { record, .. } => Ok(Ticket::of(parts.clone(), &record)),
            Appended::Conflict { id } => Err(conflict(id)),
            Appended::Full { limit } => Err(full(&limit)),
            Appended::Unfit { parent, why } => Err(unfit(parent, why)),
            Appended::NotOver { .. } => Err(not_over()),
            Appended::Leased { .. } => Err(leased()),
        }
    }
}

fn append_in(store: &dyn Store, transaction: &Transaction<'_>, append: Append) -> Result<Appended> {
    let store: &dyn Any = store;
    #[cfg(feature = "encrypt")]
    if let Some(sealed) = store.downcast_ref::<crate::store::crypt::Sealed>() {
        return sealed.append_in(transaction, append);
    }
    let Some(store) = store.downcast_ref::<SqliteStore>() else {
        let text = "only a vault whose store is a `SqliteStore` can queue in a transaction: build it with `store(..)`";
        return Err(Error::new(ErrorKind::Unsupported, text));
    };
    store.append_in(transaction, append)
}
