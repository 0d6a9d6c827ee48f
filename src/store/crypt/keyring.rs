//! The keyring: the keys that values are sealed with, one for each principal, themselves sealed under the app's key.
//!
//! ```text
//! "SVkr" | id of the app's key (8) | envelope of the fields as JSON
//! ```
//!
//! To forget a principal is to write a keyring without its key.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::envelope::{self, Kind, Place};
use super::key::{Key, Keys};
use crate::error::{Error, ErrorKind, Result};
use crate::store::KeptKeyring;

const MAGIC: &[u8; 4] = b"SVkr";
const HEAD_BYTES: usize = 4 + 8;
const PLACE: Place = Place {
    kind: Kind::Keyring,
    id: [0; 16],
};

/// A key that values are sealed with.
#[derive(Clone, Debug)]
pub(super) struct DataKey {
    pub(super) id: u32,
    /// The hashed name of its principal; nothing = no principal.
    pub(super) owner: Option<String>,
    pub(super) key: Key,
    /// It only opens: nothing new is sealed with it.
    pub(super) is_old: bool,
}

/// All keys of a vault. A changed one is written down before it is used.
#[derive(Clone, Debug)]
pub(super) struct Keyring {
    /// Names are hashed with it: the same name gives the same hash for as long as the vault lives.
    pub(super) hash: Key,
    pub(super) keys: Vec<DataKey>,
    next_id: u32,
    /// Principals (hashed) whose key is gone and whose actions are still to go.
    pub(super) forgetting: Vec<String>,
    /// Keys of those, for what must be told of them now. Never written.
    pub(super) dying: Vec<DataKey>,
    /// The keyring of a sealed store above this one.
    pub(super) above: Option<Above>,
    /// By which the store knows it.
    pub(super) revision: u64,
}

/// The keyring of a sealed store above this one, with its own revision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Above {
    pub(super) revision: u64,
    pub(super) keyring: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Fields {
    hash: [u8; 32],
    keys: Vec<KeyFields>,
    next_id: u32,
    #[serde(default)]
    forgetting: Vec<String>,
    #[serde(default)]
    above: Option<Above>,
}

#[derive(Serialize, Deserialize)]
struct KeyFields {
    id: u32,
    owner: Option<String>,
    key: [u8; 32],
    #[serde(default)]
    is_old: bool,
}

impl Drop for Fields {
    fn drop(&mut self) {
        self.hash.zeroize();
        self.keys.iter_mut().for_each(|key| key.key.zeroize());
    }
}

impl Keyring {
    pub(super) fn new() -> Self {
        Self {
            hash: Key::generate(),
            keys: Vec::new(),
            next_id: 1,
            forgetting: Vec::new(),
            dying: Vec::new(),
            above: None,
            revision: 0,
        }
    }

    /// Sealed under the current key of the app.
    pub(super) fn seal(&self, keys: &Keys) -> Result<Bytes> {
        let fields = Fields {
            hash: *self.hash.bytes(),
            keys: self.keys.iter().map(KeyFields::of).collect(),
            next_id: self.next_id,
            forgetting: self.forgetting.clone(),
            above: self.above.clone(),
        };
        let unreadable = |e| Error::new(ErrorKind::Storage, "no keyring").with_source(e);
        let text = Zeroizing::new(serde_json::to_vec(&fields).map_err(unreadable)?);
        let sealed = envelope::seal(&sealing(&keys.current), 0, PLACE, &text)?;
        Ok([MAGIC, &name(&keys.current)[..], &sealed].concat().into())
    }

    /// Opens a keyring with the current key, or with one of before. True: it was one of before.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WrongKey`] when none of the keys opens it, [`ErrorKind::Corrupt`] when it is damaged.
    pub(super) fn open(kept: &KeptKeyring, keys: &Keys) -> Result<(Self, bool)> {
        let damaged = |what: &str| Error::new(ErrorKind::Corrupt, format!("the keyring {what}"));
        let (head, sealed) = kept
            .bytes
            .split_at_checked(HEAD_BYTES)
            .filter(|(head, _)| head.starts_with(MAGIC))
            .ok_or_else(|| damaged("of the vault is damaged; restore it from a backup"))?;
        let mut all = std::iter::once(&keys.current).chain(&keys.old);
        let at = all.position(|key| name(key)[..] == head[MAGIC.len()..]);
        let Some((at, key)) = at.and_then(|at| Some((at, all_at(keys, at)?))) else {
            let text = "the key does not open this vault: give the key that it was sealed with";
            return Err(Error::new(ErrorKind::WrongKey, text));
        };
        let text = envelope::open(&sealing(key), PLACE, sealed);
        let text =
            text.map_err(|_| damaged("of the vault is damaged; restore it from a backup"))?;
        let text = Zeroizing::new(text);
        let fields: Fields = serde_json::from_slice(&text)
            .map_err(|e| damaged("is not readable by this version").with_source(e))?;
        let ring = Self::of(&fields, kept.revision);
        Ok((ring, at > 0))
    }

    fn of(fields: &Fields, revision: u64) -> Self {
        let keys = fields.keys.iter().map(|key| DataKey {
            id: key.id,
            owner: key.owner.clone(),
            key: Key::new(key.key),
            is_old: key.is_old,
        });
        Self {
            hash: Key::new(fields.hash),
            keys: keys.collect(),
            next_id: fields.next_id,
            forgetting: fields.forgetting.clone(),
            dying: Vec::new(),
            above: fields.above.clone(),
            revision,
        }
    }

    /// The keys that this process still needs to tell what goes.
    pub(super) fn take_dying(&mut self, before: &Self) {
        self.dying.clone_from(&before.dying);
    }

    /// The key that opens what was sealed with it.
    pub(super) fn opener(&self, id: u32) -> Option<&DataKey> {
        self.keys.iter().chain(&self.dying).find(|key| key.id == id)
    }

    /// The key that seals for a principal.
    pub(super) fn sealer(&self, owner: Option<&str>) -> Option<&DataKey> {
        let mut keys = self.keys.iter();
        keys.find(|key| !key.is_old && key.owner.as_deref() == owner)
    }

    /// Gives a principal a key. False when it has one.
    pub(super) fn add(&mut self, owner: Option<&str>) -> bool {
        if self.sealer(owner).is_some() {
            return false;
        }
        self.keys.push(DataKey {
            id: self.next_id,
            owner: owner.map(str::to_owned),
            key: Key::generate(),
            is_old: false,
        });
        self.next_id += 1;
        true
    }

    /// The keys that nothing new is sealed with.
    pub(super) fn old(&self) -> Vec<u32> {
        let old = self.keys.iter().filter(|key| key.is_old);
        old.map(|key| key.id).collect()
    }

    /// By which a sealed store above knows its keyring.
    pub(super) fn revision_above(&self) -> Option<u64> {
        self.above.as_ref().map(|above| above.revision)
    }

    /// Everybody gets a new key; what there is only opens from now on.
    pub(super) fn renew(&mut self) -> bool {
        self.keys.iter_mut().for_each(|key| key.is_old = true);
        let owners = self.keys.iter().map(|key| key.owner.clone());
        for owner in owners.collect::<Vec<_>>() {
            self.add(owner.as_deref());
        }
        true
    }

    /// Destroys keys that only open. False when they are gone.
    pub(super) fn drop_old(&mut self, old: &[u32]) -> bool {
        let before = self.keys.len();
        self.keys
            .retain(|key| !(key.is_old && old.contains(&key.id)));
        self.keys.len() < before
    }

    /// Destroys the keys of a principal. False when it is being forgotten already.
    pub(super) fn forget(&mut self, owner: &str) -> bool {
        if self.is_forgetting(owner) {
            return false;
        }
        let (gone, kept) = std::mem::take(&mut self.keys)
            .into_iter()
            .partition(|key| key.owner.as_deref() == Some(owner));
        self.keys = kept;
        self.dying.extend::<Vec<_>>(gone);
        self.forgetting.push(owner.to_owned());
        true
    }

    pub(super) fn is_forgetting(&self, owner: &str) -> bool {
        self.forgetting.iter().any(|name| name == owner)
    }

    /// Nothing of that principal is left. False when that is known.
    pub(super) fn is_forgotten(&mut self, owner: &str) -> bool {
        let is_news = self.is_forgetting(owner);
        self.forgetting.retain(|name| name != owner);
        self.dying.retain(|key| key.owner.as_deref() != Some(owner));
        is_news
    }
}

impl KeyFields {
    fn of(key: &DataKey) -> Self {
        Self {
            id: key.id,
            owner: key.owner.clone(),
            key: *key.key.bytes(),
            is_old: key.is_old,
        }
    }
}

fn all_at(keys: &Keys, at: usize) -> Option<&Key> {
    std::iter::once(&keys.current).chain(&keys.old).nth(at)
}

/// By what a key of the app is known again.
fn name(key: &Key) -> [u8; 8] {
    let name = key.derive("syncvault 2026-11 name of a key");
    let mut short = [0; 8];
    short.copy_from_slice(&name.bytes()[..8]);
    short
}

fn sealing(key: &Key) -> Key {
    key.derive("syncvault 2026-11 key of the keyring")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(sealed: &[u8], keys: &Keys) -> Result<(Keyring, bool)> {
        let sealed = Bytes::copy_from_slice(sealed);
        Keyring::open(&KeptKeyring::new(1, sealed), keys)
    }

    fn filled() -> Keyring {
        let mut ring = Keyring::new();
        ring.add(None);
        ring.add(Some("ann"));
        ring
    }

    #[test]
    fn a_keyring_opens_with_its_key_alone() {
        let (key, old, other) = (Key::generate(), Key::generate(), Key::generate());
        let ring = filled();
        let sealed = ring.seal(&Keys::new(old.clone())).expect("seal");
        let (opened, is_old) = open(&sealed, &Keys::new(old.clone())).expect("open");
        assert!(!is_old);
        assert_eq!(opened.keys[1].key.bytes(), ring.keys[1].key.bytes());
        let rotated = Keys::new(key).with_old(other.clone()).with_old(old);
        assert!(open(&sealed, &rotated).expect("open").1);
        let error = open(&sealed, &Keys::new(other)).expect_err("another key");
        assert_eq!(error.kind(), ErrorKind::WrongKey);
    }

    #[test]
    fn a_damaged_keyring_is_never_taken_for_another() {
        let keys = Keys::new(Key::generate());
        let sealed = filled().seal(&keys).expect("seal").to_vec();
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            let error = open(&flipped, &keys).expect_err("flipped");
            let want = [ErrorKind::Corrupt, ErrorKind::WrongKey];
            assert!(want.contains(&error.kind()));
            assert!(open(&sealed[..at], &keys).is_err());
        }
    }

    #[test]
    fn a_forgotten_key_is_not_written_and_its_number_not_used_again() {
        let keys = Keys::new(Key::generate());
        let mut ring = filled();
        let id = ring.sealer(Some("ann")).expect("a key").id;
        ring.forget("ann");
        assert!(ring.sealer(Some("ann")).is_none() && ring.opener(id).is_some());
        let sealed = ring.seal(&keys).expect("seal");
        let (mut opened, _) = open(&sealed, &keys).expect("open");
        assert!(opened.opener(id).is_none());
        assert_eq!(opened.forgetting, ["ann"]);
        opened.add(Some("ann"));
        assert_ne!(opened.sealer(Some("ann")).expect("a new key").id, id);
        ring.is_forgotten("ann");
        assert!(ring.opener(id).is_none() && ring.forgetting.is_empty());
    }
}
