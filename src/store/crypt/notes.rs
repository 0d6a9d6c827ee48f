//! Notes of a sealed vault. They are nobody's actions, so their key hangs on the vault's hash key and stays as long as it:
//! sealing everything anew does not touch them.

use bytes::Bytes;

use super::envelope::{self, Kind, Place};
use super::key::Key;
use super::keyring::Keyring;
use crate::error::Result;

impl Keyring {
    /// Seals a note under its hashed name.
    pub(super) fn seal_note(&self, hashed: &str, note: &[u8]) -> Result<Bytes> {
        envelope::seal(&self.note_key(), 0, place(hashed), note).map(Bytes::from)
    }

    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) when it is damaged, or the note of another name.
    pub(super) fn open_note(&self, hashed: &str, sealed: &[u8]) -> Result<Bytes> {
        envelope::open(&self.note_key(), place(hashed), sealed).map(Bytes::from)
    }

    fn note_key(&self) -> Key {
        self.hash.derive("syncvault 2026-11 key of the notes")
    }
}

fn place(hashed: &str) -> Place {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(hashed.as_bytes()).as_bytes()[..16]);
    Place {
        kind: Kind::Note,
        id,
    }
}
