//! The keyring of an open store: opened, changed, and followed when another process changed it.

use std::sync::Arc;

use super::key::Keys;
use super::keyring::Keyring;
use super::{Sealed, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Opened;

/// A keyring that was opened, and the keys of the app that open it.
#[derive(Clone)]
pub(super) struct Unlocked {
    pub(super) keys: Arc<Keys>,
    pub(super) ring: Arc<Keyring>,
}

impl Sealed {
    pub(super) fn unlocked(&self) -> Result<Unlocked> {
        let unlocked = lock(&self.unlocked).clone();
        unlocked.ok_or_else(|| Error::new(ErrorKind::Closed, "the sealed store is not open"))
    }

    pub(super) fn ring(&self) -> Result<Arc<Keyring>> {
        self.unlocked().map(|unlocked| unlocked.ring)
    }

    async fn keys(&self) -> Result<Keys> {
        self.provider.keys().await.map_err(|e| {
            let text = "the vault is sealed, and its key cannot be had";
            Error::new(ErrorKind::WrongKey, text).with_source(e)
        })
    }

    /// Opens the keyring that the store keeps. False when it keeps none.
    pub(super) async fn unlock(&self) -> Result<bool> {
        let _changing = self.changing.lock().await;
        loop {
            let Some(kept) = self.store.keyring().await? else {
                return Ok(false);
            };
            let keys = self.keys().await?;
            let (mut ring, is_old) = Keyring::open(&kept, &keys)?;
            if is_old {
                // What is written from now on must not open with what opened the old keyring.
                ring.renew();
                let sealed = ring.seal(&keys)?;
                let set = self.store.set_keyring(Some(kept.revision), sealed);
                match set.await? {
                    Some(revision) => ring.revision = revision,
                    None => continue,
                }
            }
            self.set(Arc::new(keys), ring);
            return Ok(true);
        }
    }

    fn set(&self, keys: Arc<Keys>, mut ring: Keyring) {
        let mut unlocked = lock(&self.unlocked);
        if let Some(before) = &*unlocked {
            ring.take_dying(&before.ring);
        }
        let ring = Arc::new(ring);
        *unlocked = Some(Unlocked { keys, ring });
    }

    /// The first keyring of a store that has never held anything.
    pub(super) async fn found(&self, opened: &Opened) -> Result<()> {
        // Another process may have been faster.
        if self.unlock().await? {
            return Ok(());
        }
        let has_held = opened.totals.ledger.enqueued > 0 || !opened.gates.is_empty();
        if has_held || self.has_cached().await? {
            let text = "the vault holds, or held, requests, and has no keyring. If they are in clear, drain it without \
                 encryption and start a sealed one in a new directory; if it was sealed, restore its keyring from a backup";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let (keys, ring) = (self.keys().await?, Keyring::new());
        self.store.set_keyring(None, ring.seal(&keys)?).await?;
        match self.unlock().await? {
            true => Ok(()),
            false => Err(no_keyring()),
        }
    }

    /// Changes the keyring: on disk first. `change` tells whether there was anything to change; when another process changed the
    /// keyring meanwhile, it is asked again.
    pub(super) async fn change(&self, change: impl Fn(&mut Keyring) -> bool) -> Result<()> {
        let _changing = self.changing.lock().await;
        loop {
            let Unlocked { keys, ring } = self.unlocked()?;
            let mut changed = Keyring::clone(&ring);
            if !change(&mut changed) {
                return Ok(());
            }
            let sealed = changed.seal(&keys)?;
            let set = self.store.set_keyring(Some(ring.revision), sealed);
            if let Some(revision) = set.await? {
                changed.revision = revision;
                // What died in this change is in `changed` already.
                *lock(&self.unlocked) = Some(Unlocked {
                    keys,
                    ring: Arc::new(changed),
                });
                return Ok(());
            }
            if !self.take_over().await? {
                let text = "the store does not take the keyring";
                return Err(Error::new(ErrorKind::Storage, text));
            }
        }
    }

    /// Does the store keep another keyring than this one? Then it is the one to go on with.
    pub(super) async fn is_outdated(&self, ring: &Keyring) -> Result<bool> {
        let _changing = self.changing.lock().await;
        if self.ring()?.revision != ring.revision {
            return Ok(true);
        }
        self.take_over().await
    }

    /// Takes the keyring over that another process left, if there is one. To be called while nobody else changes ours.
    async fn take_over(&self) -> Result<bool> {
        let Unlocked { keys, ring } = self.unlocked()?;
        let kept = self.store.keyring().await?.ok_or_else(no_keyring)?;
        if kept.revision == ring.revision {
            return Ok(false);
        }
        match Keyring::open(&kept, &keys) {
            // Another process came with another key: the provider may know it by now.
            Err(error) if error.kind() == ErrorKind::WrongKey => {
                let keys = self.keys().await?;
                let (ring, _) = Keyring::open(&kept, &keys)?;
                self.set(Arc::new(keys), ring);
            }
            opened => self.set(keys, opened?.0),
        }
        Ok(true)
    }

    /// Was this refused because the keyring was changed meanwhile? The new one is taken over then.
    pub(super) async fn is_late<T>(&self, done: &Result<T>, ring: &Keyring) -> Result<bool>
    where
        T: Sync,
    {
        match done {
            Err(error) if error.kind() == ErrorKind::WrongKey => self.is_outdated(ring).await,
            _ => Ok(false),
        }
    }

    /// The keyring, with a key for each of these principals.
    pub(super) async fn ring_for<'a>(
        &self,
        principals: impl Iterator<Item = Option<&'a str>>,
    ) -> Result<Arc<Keyring>> {
        let ring = self.ring()?;
        let owners = principals.map(|name| name.map(|name| ring.principal(name)));
        let new: Vec<_> = owners
            .filter(|owner| ring.sealer(owner.as_deref()).is_none())
            .collect();
        if new.is_empty() {
            return Ok(ring);
        }
        self.change(|ring| {
            let added = new.iter().filter(|owner| ring.add(owner.as_deref()));
            added.count() > 0
        })
        .await?;
        self.ring()
    }
}

pub(super) fn no_keyring() -> Error {
    let text = "the keyring of the vault is gone; restore it from a backup";
    Error::new(ErrorKind::Corrupt, text)
}
