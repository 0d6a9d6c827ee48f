//! A store around another one that sees no content and no name: values are sealed on the way in and opened on the way
//! out. What the scheduler needs (ids, times, states, counts) stays readable, and hashes stand for names.

mod chunks;
mod envelope;
mod key;
mod keyring;
mod names;
mod notes;
mod pieces;
mod reencrypt;
mod restore;
mod step;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use self::envelope::Kind;
pub use self::key::{Key, KeyError, KeyFile, KeyFuture, KeyProvider, Keys};
use self::keyring::Keyring;
use self::reencrypt::Pass;
use super::{
    Advance, Advanced, Amend, Amended, Append, Appended, Changed, Chunks, Cursor, Find, LaneTotals,
    Opened, Page, Part, Query, Restore, Snapshot, Source, Store, StoreFuture, Totals,
};
use crate::action::{ActionId, Body, BodyFile, Lane, Record};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// A [`Store`] that seals what another one keeps: requests, names, bodies, answers. It works on every store.
///
/// The app's key opens a keyring, which the store keeps; the keyring holds the keys that values are sealed with, one for
/// each principal. A new store becomes a sealed one when it is opened first; one that has held something in clear is
/// refused, because what was written once may still lie in its files.
///
/// `SyncVaultBuilder::encryption` puts it around the vault's store.
pub struct Sealed {
    store: Arc<dyn Store>,
    provider: Box<dyn KeyProvider>,
    unlocked: Mutex<Option<Unlocked>>,
    /// Held while a keyring is changed.
    changing: tokio::sync::Mutex<()>,
    /// What is in flight, in clear: its settle names its id alone.
    flights: Mutex<HashMap<ActionId, Record>>,
    pass: Mutex<Pass>,
}

#[derive(Clone)]
struct Unlocked {
    keys: Arc<Keys>,
    ring: Arc<Keyring>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sealed {
    /// Seals what `store` keeps, with the key that `provider` gives when it is opened.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, provider: impl KeyProvider) -> Self {
        Self {
            store,
            provider: Box::new(provider),
            unlocked: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            flights: Mutex::default(),
            pass: Mutex::default(),
        }
    }

    fn ring(&self) -> Result<Arc<Keyring>> {
        let unlocked = lock(&self.unlocked);
        let ring = unlocked.as_ref().map(|unlocked| unlocked.ring.clone());
        ring.ok_or_else(|| Error::new(ErrorKind::Closed, "the sealed store is not open"))
    }

    /// Two processes would each write a keyring of their own, and one would lose the other's keys.
    #[cfg(feature = "sqlite")]
    fn check_alone(&self) -> Result<()> {
        let store: &dyn std::any::Any = &*self.store;
        let store = store.downcast_ref::<super::SqliteStore>();
        if store.is_none_or(|store| store.access() == super::Access::Alone) {
            return Ok(());
        }
        let text = "a database that several processes open, an outbox too, cannot be sealed: \
             use a store of its own, or no encryption";
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    #[cfg(not(feature = "sqlite"))]
    #[expect(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "the same shape with every feature"
    )]
    fn check_alone(&self) -> Result<()> {
        Ok(())
    }

    async fn keys(&self) -> Result<Keys> {
        self.provider.keys().await.map_err(|e| {
            let text = "the vault is sealed, and its key cannot be had";
            Error::new(ErrorKind::WrongKey, text).with_source(e)
        })
    }

    /// Opens the keyring that the store keeps. False when it keeps none.
    async fn unlock(&self) -> Result<bool> {
        let _changing = self.changing.lock().await;
        let Some(sealed) = self.store.keyring().await? else {
            return Ok(false);
        };
        let keys = self.keys().await?;
        let (mut ring, is_old) = Keyring::open(&sealed, &keys)?;
        if is_old {
            // What is written from now on must not open with what opened the old keyring.
            ring.renew();
            self.store.set_keyring(ring.seal(&keys)?).await?;
        }
        self.set(keys, ring);
        Ok(true)
    }

    fn set(&self, keys: Keys, ring: Keyring) {
        let (keys, ring) = (Arc::new(keys), Arc::new(ring));
        *lock(&self.unlocked) = Some(Unlocked { keys, ring });
    }

    /// The first keyring of a store that has never held anything.
    async fn found(&self, opened: &Opened) -> Result<()> {
        if opened.totals.ledger.enqueued > 0 || !opened.gates.is_empty() {
            let text = "the vault holds, or held, requests, and has no keyring. If they are in clear, drain it without \
                 encryption and start a sealed one in a new directory; if it was sealed, restore its keyring from a backup";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let (keys, ring) = (self.keys().await?, Keyring::new());
        self.store.set_keyring(ring.seal(&keys)?).await?;
        self.set(keys, ring);
        Ok(())
    }

    /// Changes the keyring: on disk first.
    async fn change(&self, change: impl FnOnce(&mut Keyring)) -> Result<Arc<Keyring>> {
        let _changing = self.changing.lock().await;
        let mut ring = Keyring::clone(&*self.ring()?);
        change(&mut ring);
        let unlocked = lock(&self.unlocked).clone();
        let Some(unlocked) = unlocked else {
            return Err(Error::closed());
        };
        self.store.set_keyring(ring.seal(&unlocked.keys)?).await?;
        let ring = Arc::new(ring);
        *lock(&self.unlocked) = Some(Unlocked {
            keys: unlocked.keys,
            ring: ring.clone(),
        });
        Ok(ring)
    }

    /// The keyring, with a key for each of these principals.
    async fn ring_for<'a>(
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
        let add = |ring: &mut Keyring| new.iter().for_each(|owner| ring.add(owner.as_deref()));
        self.change(add).await
    }

    /// Opens a record that the store gave; one that does not open goes to quarantine.
    async fn opened(&self, ring: &Keyring, record: Record) -> Option<Record> {
        lock(&self.pass).note(ring, &record);
        let id = record.id;
        match ring.open_record(record) {
            Ok(record) => Some(record),
            Err(error) => {
                self.quarantine(id, &error).await;
                None
            }
        }
    }

    async fn all_opened(&self, ring: &Keyring, records: Vec<Record>) -> Vec<Record> {
        let mut opened = Vec::with_capacity(records.len());
        for record in records {
            opened.extend(self.opened(ring, record).await);
        }
        opened
    }

    /// A failure here must not hide what the verb around it has done: the action is met again.
    async fn quarantine(&self, id: ActionId, error: &Error) {
        tracing::error!(%id, %error, "a sealed action cannot be opened: it goes to quarantine");
        if let Err(error) = self.store.amend(Amend::Quarantine { id }).await {
            tracing::error!(%id, %error, "it could not be moved there");
        }
    }

    /// The hashed principal of an action; nothing for an unknown one.
    async fn owner(&self, id: ActionId) -> Result<Option<Option<String>>> {
        let record = self.store.get(Find::Id(id)).await?;
        Ok(record.map(|record| record.principal))
    }

    async fn forget(&self, principal: &str, limit: usize) -> Result<Amended> {
        let ring = self.ring()?;
        let owner = ring.principal(principal);
        let ring = match ring.forgetting.contains(&owner) {
            true => ring,
            false => self.change(|ring| ring.forget(&owner)).await?,
        };
        let principal = owner.clone();
        let amended = self.store.amend(Amend::Forget { principal, limit }).await?;
        let open = |records: Vec<Record>| {
            let records = records.into_iter();
            records
                .filter_map(|record| ring.open_record(record).ok())
                .collect()
        };
        Ok(match amended {
            Amended::Done(records) => {
                let records = open(records);
                self.change(|ring| ring.is_forgotten(&owner)).await?;
                Amended::Done(records)
            }
            Amended::More(records) => Amended::More(open(records)),
            other => other,
        })
    }

    /// Ends what a crash cut off: the keys are gone already.
    async fn end_forgetting(&self) -> Result<()> {
        for owner in self.ring()?.forgetting.clone() {
            loop {
                let change = Amend::Forget {
                    principal: owner.clone(),
                    limit: Query::LIMIT_MAX,
                };
                if !matches!(self.store.amend(change).await?, Amended::More(_)) {
                    break;
                }
            }
            self.change(|ring| ring.is_forgotten(&owner)).await?;
        }
        Ok(())
    }

    async fn keep_answer(&self, id: ActionId, answer: &Bytes) -> Result<Amended> {
        let Some(owner) = self.owner(id).await? else {
            return Ok(Amended::Unknown);
        };
        let answer = self
            .ring()?
            .seal_value(owner.as_deref(), Kind::Answer, id, answer)?;
        self.store.amend(Amend::KeepAnswer { id, answer }).await
    }

    async fn opened_amended(&self, amended: Amended) -> Result<Amended> {
        let ring = self.ring()?;
        Ok(match amended {
            Amended::Done(records) => Amended::Done(self.all_opened(&ring, records).await),
            Amended::More(records) => Amended::More(self.all_opened(&ring, records).await),
            Amended::NotNow(record) => match self.opened(&ring, record).await {
                Some(record) => Amended::NotNow(record),
                None => Amended::Unknown,
            },
            Amended::Unknown => Amended::Unknown,
        })
    }

    /// A key that is the id of an action without one is known by that: ids are readable.
    async fn by_key(&self, key: &str) -> Result<Option<Record>> {
        let hashed = self.ring()?.key(key);
        if let Some(record) = self.store.get(Find::Key(hashed)).await? {
            return Ok(Some(record));
        }
        let Ok(id) = key.parse::<ActionId>() else {
            return Ok(None);
        };
        let record = self.store.get(Find::Id(id)).await?;
        Ok(record.filter(|record| record.key.is_none()))
    }
}

impl Store for Sealed {
    fn open(&self, now: Timestamp) -> StoreFuture<'_, Opened> {
        Box::pin(async move {
            self.check_alone()?;
            let is_sealed = self.unlock().await?;
            let mut opened = self.store.open(now).await?;
            if !is_sealed {
                self.found(&opened).await?;
            }
            lock(&self.flights).clear();
            if !self.ring()?.forgetting.is_empty() {
                self.end_forgetting().await?;
                opened.totals = self.store.totals().await?;
            }
            // Begun without a word in the keyring: by nobody but a plain store's user.
            opened.forgetting.clear();
            let ring = self.ring()?;
            let gates = std::mem::take(&mut opened.gates).into_iter();
            opened.gates = gates.filter_map(|gate| ring.open_gate(gate)).collect();
            Ok(opened)
        })
    }

    fn append(&self, batch: Vec<Append>) -> StoreFuture<'_, Vec<Appended>> {
        Box::pin(self.append_sealed(batch))
    }

    fn advance(&self, step: Advance) -> StoreFuture<'_, Advanced> {
        Box::pin(self.advance_sealed(step))
    }

    fn amend(&self, change: Amend) -> StoreFuture<'_, Amended> {
        Box::pin(async move {
            let amended = match change {
                Amend::Forget { principal, limit } => return self.forget(&principal, limit).await,
                Amend::Reencrypt { limit } => return self.reencrypt(limit).await,
                Amend::KeepAnswer { id, answer } => self.keep_answer(id, &answer).await?,
                change @ Amend::Reseal { .. } => self.reseal(change).await?,
                change => self.store.amend(change).await?,
            };
            self.opened_amended(amended).await
        })
    }

    fn restore(&self, restore: Restore) -> StoreFuture<'_, ()> {
        Box::pin(self.restore_sealed(restore))
    }

    fn get(&self, find: Find) -> StoreFuture<'_, Option<Record>> {
        Box::pin(async move {
            let record = match find {
                Find::Id(id) => self.store.get(Find::Id(id)).await?,
                Find::Key(key) => self.by_key(&key).await?,
            };
            record
                .map(|record| self.ring()?.open_record(record))
                .transpose()
        })
    }

    fn body(&self, id: ActionId) -> StoreFuture<'_, Option<Body>> {
        Box::pin(async move {
            let Some(body) = self.store.body(id).await? else {
                return Ok(None);
            };
            let body = self.at_hand(body).await?;
            pieces::open(&*self.ring()?, id, body).map(Some)
        })
    }

    fn answer(&self, id: ActionId) -> StoreFuture<'_, Option<Bytes>> {
        Box::pin(async move {
            let answer = self.store.answer(id).await?;
            let ring = self.ring()?;
            let open = |sealed: Bytes| ring.open_value(Kind::Answer, id, &sealed);
            Ok(answer.map(open).transpose()?.map(Bytes::from))
        })
    }

    fn page(&self, mut query: Query) -> StoreFuture<'_, Page> {
        Box::pin(async move {
            let ring = self.ring()?;
            if let Part::Lane(lane) = &query.part {
                query.part = Part::Lane(ring.lane(lane));
            }
            let mut page = self.store.page(query).await?;
            page.records = self.all_opened(&ring, page.records).await;
            Ok(page)
        })
    }

    fn snapshot(&self, id: ActionId, source: Source) -> StoreFuture<'_, Snapshot> {
        Box::pin(self.take_snapshot(id, source))
    }

    fn chunks(&self, file: BodyFile) -> StoreFuture<'_, Chunks> {
        Box::pin(self.open_chunks(file))
    }

    fn totals(&self) -> StoreFuture<'_, Totals> {
        self.store.totals()
    }

    fn lane(&self, lane: Lane) -> StoreFuture<'_, LaneTotals> {
        Box::pin(async move {
            let lane = self.ring()?.lane(&lane);
            self.store.lane(lane).await
        })
    }

    fn keyring(&self) -> StoreFuture<'_, Option<Bytes>> {
        Box::pin(async move {
            match self.unlock().await? {
                true => Ok(self.ring()?.above.clone()),
                false => Ok(None),
            }
        })
    }

    fn set_keyring(&self, keyring: Bytes) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.change(|ring| ring.above = Some(keyring))
                .await
                .map(drop)
        })
    }

    fn note(&self, name: &str) -> StoreFuture<'_, Option<Bytes>> {
        let name = name.to_owned();
        Box::pin(async move {
            let ring = self.ring()?;
            let hashed = ring.note(&name);
            let sealed = self.store.note(&hashed).await?;
            let open = |sealed: Bytes| ring.open_note(&hashed, &sealed);
            sealed.map(open).transpose()
        })
    }

    fn set_note(&self, name: &str, note: Option<Bytes>) -> StoreFuture<'_, ()> {
        let name = name.to_owned();
        Box::pin(async move {
            let ring = self.ring()?;
            let hashed = ring.note(&name);
            let seal = |note: Bytes| ring.seal_note(&hashed, &note);
            let note = note.map(seal).transpose()?;
            self.store.set_note(&hashed, note).await
        })
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.store.close()
    }

    fn changed(&self) -> Changed<'_> {
        self.store.changed()
    }
}
