//! Notes: small values of what is built on the vault, each under a name of its own.

use bytes::Bytes;

use super::Engine;
use super::keys::Key;
use super::queue::Queue;
use crate::error::{Error, Result};
use crate::store::NOTE_BYTES_MAX;

/// What sealing may add to a note.
const SEAL_BYTES_MAX: usize = 256;

impl<E: Engine> Queue<E> {
    pub(super) fn note(&mut self, key: &[u8]) -> Result<Option<Bytes>> {
        self.txn.get(key)
    }

    pub(super) fn set_note(&mut self, key: Key, note: Option<Bytes>) -> Result<()> {
        match note {
            Some(note) if note.len() > NOTE_BYTES_MAX + SEAL_BYTES_MAX => {
                let length = note.len();
                Err(Error::invalid(format!(
                    "a note is limited to {NOTE_BYTES_MAX} bytes, this one has {length}"
                )))
            }
            Some(note) => {
                self.txn.put(key, note);
                Ok(())
            }
            None => {
                self.txn.delete(key);
                Ok(())
            }
        }
    }
}
