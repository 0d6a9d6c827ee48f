//! The outbox of a sealed vault: a request is sealed and queued in the app's own transaction. The keyring is read there too,
//! and when the principal is new, changed there: a rollback takes that back as well.

use rusqlite::Transaction;

use super::keyring::Keyring;
use super::step::{id_in_key, restored, sealed_append};
use super::{Sealed, Unlocked};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Append, Appended, Find, SqliteStore};

impl Sealed {
    /// As [`SqliteStore::append_in`], sealed.
    ///
    /// # Errors
    ///
    /// As there; [`ErrorKind::Unsupported`] when another store is sealed.
    pub fn append_in(&self, transaction: &Transaction<'_>, append: Append) -> Result<Appended> {
        let store: &dyn std::any::Any = &*self.store;
        let Some(store) = store.downcast_ref::<SqliteStore>() else {
            let text = "only a vault whose store is a `SqliteStore` can queue in a transaction: build it with `store(..)`";
            return Err(Error::new(ErrorKind::Unsupported, text));
        };
        let ring = self.ring_in(store, transaction, append.record.principal.as_deref())?;
        let other = match id_in_key(&append) {
            Some(id) => store.get_in(transaction, Find::Id(id))?,
            None => None,
        };
        let clear = append.record.clone();
        let sealed = sealed_append(&ring, append, other.as_ref())?;
        Ok(match store.append_in(transaction, sealed)? {
            Appended::Queued { record, .. } => Appended::Queued {
                record: restored(record, &clear, clear.last_error.clone()),
                superseded: None,
            },
            Appended::Known { record } => match ring.open_record(&record) {
                Ok(record) => Appended::Known { record },
                Err(_) => Appended::Conflict { id: record.id },
            },
            other => other,
        })
    }

    /// The keyring as the transaction sees it, with a key for this principal. What it changes is ours when it is committed, and
    /// is read then.
    fn ring_in(
        &self,
        store: &SqliteStore,
        transaction: &Transaction<'_>,
        principal: Option<&str>,
    ) -> Result<Keyring> {
        let Unlocked { keys, ring } = self.unlocked()?;
        let kept = store.keyring_in(transaction)?;
        let mut ring = match kept {
            Some(kept) if kept.revision == ring.revision => Keyring::clone(&ring),
            Some(kept) => Keyring::open(&kept, &keys)?.0,
            None => return Err(super::unlocked::no_keyring()),
        };
        let owner = principal.map(|name| ring.principal(name));
        if ring.add(owner.as_deref()) {
            let sealed = ring.seal(&keys)?;
            let set = store.set_keyring_in(transaction, ring.revision, sealed)?;
            ring.revision = set.ok_or_else(super::unlocked::no_keyring)?;
        }
        Ok(ring)
    }
}
