//! A store around another one that sees no content and no name: values are sealed on the way in and opened on the way
//! out. What the scheduler needs (ids, times, states, counts) stays readable, and hashes stand for names.

mod cache;
mod chunks;
mod envelope;
mod key;
mod keyring;
mod names;
mod notes;
#[cfg(feature = "sqlite")]
mod outbox;
mod pieces;
mod reencrypt;
mod restore;
mod step;
mod unlocked;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use self::envelope::Kind;
pub use self::key::{Key, KeyError, KeyFile, KeyFuture, KeyProvider, Keys};
use self::keyring::{Above, Keyring};
use self::reencrypt::Pass;
use self::unlocked::Unlocked;
use super::{
    Advance, Advanced, Amend, Amended, Append, Appended, CacheChange, CacheKey, CacheTarget,
    CacheTotals, Cached, CachedHead, Changed, Chunks, Cursor, Find, KeptKeyring, LaneTotals,
    Opened, Page, Part, Query, Restore, Snapshot, Source, Store, StoreFuture, Totals,
};
use crate::action::{ActionId, Body, BodyFile, Lane, Record};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// A [`Store`] that seals what another one keeps: requests, names, bodies, answers. It works on every store.
///
/// The app's key opens a keyring, which the store keeps; the keyring holds the keys that values are sealed with, one for
/// each principal. A new store becomes a sealed one when it is opened first; one that has held something in clear is
/// refused, because what was written once may still lie in its files. Several processes may share one, when the store lets them.
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

    /// Reads and opens. When the keyring was changed meanwhile, both again.
    async fn read<'s, V, T>(
        &'s self,
        read: impl Fn() -> StoreFuture<'s, Option<V>>,
        open: impl Fn(&Keyring, &V) -> Result<T>,
    ) -> Result<Option<T>> {
        loop {
            let ring = self.ring()?;
            let Some(value) = read().await? else {
                return Ok(None);
            };
            match open(&ring, &value) {
                Ok(opened) => return Ok(Some(opened)),
                Err(error) if !self.is_outdated(&ring).await? => return Err(error),
                Err(_) => {}
            }
        }
    }

    async fn reread(&self, id: ActionId) -> Result<Option<Record>> {
        let read = || self.store.get(Find::Id(id));
        self.read(read, Keyring::open_record).await
    }

    /// Opens a record that the store gave. One that does not open may have been sealed by another process with a key that was
    /// not known here, or be sealed anew by now; else it is set aside.
    async fn opened(&self, ring: &Keyring, record: Record) -> Result<Option<Record>> {
        let mut error = match ring.open_record(&record) {
            Ok(record) => return Ok(Some(record)),
            Err(error) => error,
        };
        if self.is_outdated(ring).await? {
            match self.reread(record.id).await {
                Err(damaged) if damaged.kind() == ErrorKind::Corrupt => error = damaged,
                read => return read,
            }
        }
        self.set_aside(&record, &error).await;
        Ok(None)
    }

    /// As [`opened`](Self::opened), of a record that was read in a commit that knew the keyring.
    async fn known(&self, ring: &Keyring, record: Record) -> Option<Record> {
        match ring.open_record(&record) {
            Ok(record) => Some(record),
            Err(error) => {
                self.set_aside(&record, &error).await;
                None
            }
        }
    }

    /// What does not open goes to quarantine, unless it is on its way out: its principal is being forgotten.
    async fn set_aside(&self, record: &Record, error: &Error) {
        let owner = record.principal.as_deref();
        let is_forgetting = |ring: Arc<Keyring>| owner.is_some_and(|name| ring.is_forgetting(name));
        if !self.ring().is_ok_and(is_forgetting) {
            self.quarantine(record.id, error).await;
        }
    }

    async fn all_opened(&self, ring: &Keyring, records: Vec<Record>) -> Result<Vec<Record>> {
        let mut opened = Vec::with_capacity(records.len());
        for record in records {
            opened.extend(self.opened(ring, record).await?);
        }
        Ok(opened)
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
        self.is_outdated(&*self.ring()?).await?;
        let owner = self.ring()?.principal(principal);
        self.change(|ring| ring.forget(&owner)).await?;
        let (ring, principal) = (self.ring()?, owner.clone());
        let amended = self.store.amend(Amend::Forget { principal, limit }).await?;
        let open = |records: Vec<Record>| {
            let records = records.into_iter();
            records
                .filter_map(|record| ring.open_record(&record).ok())
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
        loop {
            let ring = self.ring()?;
            let Some(owner) = self.owner(id).await? else {
                return Ok(Amended::Unknown);
            };
            let answer = ring.seal_value(owner.as_deref(), Kind::Answer, id, answer)?;
            let change = under(&ring, Amend::KeepAnswer { id, answer });
            let done = self.store.amend(change).await;
            if !self.is_late(&done, &ring).await? {
                return done;
            }
        }
    }

    async fn changed_as_asked(&self, change: Amend) -> Result<Amended> {
        let change = match change {
            Amend::Under { keyring, change } => {
                check_above(&*self.ring()?, Some(keyring))?;
                *change
            }
            change => change,
        };
        let amended = match change {
            Amend::Forget { principal, limit } => return self.forget(&principal, limit).await,
            Amend::Reencrypt { limit } => return self.reencrypt(limit).await,
            Amend::KeepAnswer { id, answer } => self.keep_answer(id, &answer).await?,
            Amend::Requeue { id, now } => self.requeue(id, now).await?,
            change @ Amend::Reseal { .. } => self.reseal(change).await?,
            change => self.store.amend(change).await?,
        };
        self.opened_amended(amended).await
    }

    async fn opened_amended(&self, amended: Amended) -> Result<Amended> {
        let ring = self.ring()?;
        Ok(match amended {
            Amended::Done(records) => Amended::Done(self.all_opened(&ring, records).await?),
            Amended::More(records) => Amended::More(self.all_opened(&ring, records).await?),
            Amended::NotNow(record) => match self.opened(&ring, record).await? {
                Some(record) => Amended::NotNow(record),
                None => Amended::Unknown,
            },
            Amended::Unknown => Amended::Unknown,
        })
    }

    async fn waiting(&self, lane: &Lane, key: &str) -> Result<Option<Record>> {
        let ring = self.ring()?;
        let (lane, key) = (ring.lane(lane), ring.coalesce(key));
        self.store.get(Find::Coalescing { lane, key }).await
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

/// A change with values that are sealed under this keyring.
fn under(ring: &Keyring, change: Amend) -> Amend {
    Amend::Under {
        keyring: ring.revision,
        change: Box::new(change),
    }
}

/// Refuses what a sealed store above this one sealed under another keyring of its own.
fn check_above(ring: &Keyring, sealed: Option<u64>) -> Result<()> {
    if sealed == ring.revision_above() {
        return Ok(());
    }
    let text = "the keyring above a sealed store was changed meanwhile";
    Err(Error::new(ErrorKind::WrongKey, text))
}

impl Store for Sealed {
    fn open(&self, now: Timestamp) -> StoreFuture<'_, Opened> {
        Box::pin(async move {
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
        Box::pin(self.changed_as_asked(change))
    }

    fn restore(&self, restore: Restore) -> StoreFuture<'_, ()> {
        Box::pin(self.restore_sealed(restore))
    }

    fn get(&self, find: Find) -> StoreFuture<'_, Option<Record>> {
        Box::pin(async move {
            match &find {
                Find::Id(id) => self.reread(*id).await,
                Find::Key(key) => {
                    let read = || Box::pin(self.by_key(key)) as StoreFuture<'_, _>;
                    self.read(read, Keyring::open_record).await
                }
                Find::Coalescing { lane, key } => {
                    let read = || Box::pin(self.waiting(lane, key)) as StoreFuture<'_, _>;
                    self.read(read, Keyring::open_record).await
                }
            }
        })
    }

    fn body(&self, id: ActionId) -> StoreFuture<'_, Option<Body>> {
        let read = move || {
            Box::pin(async move {
                match self.store.body(id).await? {
                    Some(body) => self.at_hand(body).await.map(Some),
                    None => Ok(None),
                }
            }) as StoreFuture<'_, _>
        };
        let open = move |ring: &Keyring, body: &Body| pieces::open(ring, id, body.clone());
        Box::pin(self.read(read, open))
    }

    fn answer(&self, id: ActionId) -> StoreFuture<'_, Option<Bytes>> {
        let open = move |ring: &Keyring, sealed: &Bytes| {
            let opened = ring.open_value(Kind::Answer, id, sealed);
            opened.map(Bytes::from)
        };
        Box::pin(self.read(move || self.store.answer(id), open))
    }

    fn page(&self, mut query: Query) -> StoreFuture<'_, Page> {
        Box::pin(async move {
            let ring = self.ring()?;
            if let Part::Lane(lane) = &query.part {
                query.part = Part::Lane(ring.lane(lane));
            }
            let mut page = self.store.page(query).await?;
            page.records = self.all_opened(&ring, page.records).await?;
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

    fn keyring(&self) -> StoreFuture<'_, Option<KeptKeyring>> {
        Box::pin(async move {
            if !self.unlock().await? {
                return Ok(None);
            }
            let above = self.ring()?.above.clone();
            Ok(above.map(|above| KeptKeyring::new(above.revision, above.keyring)))
        })
    }

    fn set_keyring(&self, before: Option<u64>, keyring: Bytes) -> StoreFuture<'_, Option<u64>> {
        let revision = before.unwrap_or_default() + 1;
        let is_set = Arc::new(AtomicBool::new(false));
        let replace = {
            let is_set = is_set.clone();
            move |ring: &mut Keyring| {
                let is_kept = ring.revision_above() == before;
                is_set.store(is_kept, Ordering::Relaxed);
                if is_kept {
                    let keyring = keyring.clone();
                    ring.above = Some(Above { revision, keyring });
                }
                is_kept
            }
        };
        Box::pin(async move {
            if before.is_none() && self.store.totals().await?.ledger.enqueued > 0 {
                let text = "the store holds, or held, requests: nothing seals above it any more";
                return Err(Error::new(ErrorKind::WrongState, text));
            }
            self.change(replace).await?;
            Ok(is_set.load(Ordering::Relaxed).then_some(revision))
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

    fn cached(&self, target: CacheTarget) -> StoreFuture<'_, Vec<CachedHead>> {
        Box::pin(self.cached_opened(target))
    }

    fn cached_body(&self, key: CacheKey) -> StoreFuture<'_, Option<Bytes>> {
        Box::pin(self.cached_body_opened(key))
    }

    fn cache(&self, change: CacheChange) -> StoreFuture<'_, Cached> {
        Box::pin(self.cache_sealed(change))
    }

    fn cache_totals(&self) -> StoreFuture<'_, CacheTotals> {
        self.store.cache_totals()
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.store.close()
    }

    fn changed(&self) -> Changed<'_> {
        self.store.changed()
    }
}
