//! What a running engine is made of: the seams, the rules, and whose turn it is at a record. No flow of its own.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::{MutexGuard, Notify, RwLockReadGuard};

use super::event::{TableEventKind, TableHub};
use super::guard::{Guards, lane_of};
use super::local::{LocalStep, LocalStore, Quarantined, QueueRequest, Touched};
use super::options::Table;
use super::reconcile::change_of;
use super::record::{LocalRecord, Outgoing, RecordKey};
use super::remote::{RemoteError, RemoteErrorKind, RemoteStore};
use crate::SyncVault;
use crate::action::ActionId;
use crate::clock::Timestamp;
use crate::decide::{Backoff, Dice};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::ItemId;
use crate::vault::Keyed;

/// How many records of a table can be worked on side by side.
const STRIPES: usize = 32;

/// By it an action of the vault is known as one of a table: `sync:<table>`.
const TAG: &str = "sync:";

/// All actions of a record coalesce: the newest holds what those before it wanted.
const COALESCE: &str = "record";

/// What an engine has seen so far, by whoever looked.
#[derive(Debug, Default)]
pub(super) struct Tally {
    accepted: AtomicU64,
    queued: AtomicU64,
}

impl Tally {
    /// Changes that the server took.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Acquire)
    }

    /// Changes that the engine queued anew by itself.
    pub(super) fn queued(&self) -> u64 {
        self.queued.load(Ordering::Acquire)
    }

    pub(super) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn count_queued(&self) {
        self.queued.fetch_add(1, Ordering::AcqRel);
    }
}

/// Everything that the parts of an engine share.
pub(super) struct Core {
    pub(super) vault: SyncVault,
    pub(super) local: Arc<dyn LocalStore>,
    pub(super) remote: Arc<dyn RemoteStore>,
    pub(super) guards: Guards,
    pub(super) hub: TableHub,
    pub(super) backoff: Backoff,
    pub(super) desks: RwLock<BTreeMap<String, Arc<Desk>>>,
    pub(super) tally: Tally,
    pub(super) is_closed: AtomicBool,
    /// Somebody was told that credentials are wanted.
    pub(super) is_auth_told: AtomicBool,
    /// Something is to be looked after that no event tells.
    pub(super) sweep: Notify,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("guards", &self.guards)
            .finish_non_exhaustive()
    }
}

/// One table that is open.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) table: Table,
    /// Records are worked on one by one; a page has all of them.
    pub(super) gate: tokio::sync::RwLock<()>,
    stripes: Vec<tokio::sync::Mutex<()>>,
    /// The number of the newest full pull.
    pub(super) generation: AtomicU64,
    /// Records that were settled since the newest page was asked for.
    pub(super) settled: Mutex<HashSet<ItemId>>,
}

/// The turn at one record: until it is dropped nobody else changes the record.
pub(super) struct Turn<'d> {
    _gate: RwLockReadGuard<'d, ()>,
    _stripe: MutexGuard<'d, ()>,
}

impl Desk {
    pub(super) fn new(table: Table, generation: u64) -> Self {
        Self {
            table,
            gate: tokio::sync::RwLock::default(),
            stripes: std::iter::repeat_with(tokio::sync::Mutex::default)
                .take(STRIPES)
                .collect(),
            generation: AtomicU64::new(generation),
            settled: Mutex::default(),
        }
    }

    pub(super) async fn turn(&self, id: &ItemId) -> Turn<'_> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(id);
        let at = usize::try_from(hash % STRIPES as u64).unwrap_or(0);
        let gate = self.gate.read().await;
        Turn {
            _gate: gate,
            _stripe: self.stripes[at].lock().await,
        }
    }

    /// What a record that is in step now remembers of full pulls: the next one does not miss it.
    pub(super) fn seen(&self) -> u64 {
        self.generation.load(Ordering::Acquire).max(1)
    }

    pub(super) fn note_settled(&self, id: &ItemId) {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled.insert(id.clone());
    }

    pub(super) fn was_settled(&self, id: &ItemId) -> bool {
        self.settled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(id)
    }

    pub(super) fn forget_settled(&self) {
        self.settled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl Core {
    pub(super) fn desk(&self, table: &str) -> Result<Arc<Desk>> {
        let desks = self.desks.read().unwrap_or_else(PoisonError::into_inner);
        desks.get(table).cloned().ok_or_else(|| {
            let text = format!("there is no table {table:?}: name it in `tables(..)`, or add it");
            Error::new(ErrorKind::NotFound, text)
        })
    }

    pub(super) fn all_desks(&self) -> Vec<Arc<Desk>> {
        let desks = self.desks.read().unwrap_or_else(PoisonError::into_inner);
        desks.values().cloned().collect()
    }

    /// # Errors
    ///
    /// [`ErrorKind::Closed`] after a logout.
    pub(super) fn check_open(&self) -> Result<()> {
        if self.is_closed.load(Ordering::Acquire) {
            let text = "the engine is closed: its user is logged out; build it again";
            return Err(Error::new(ErrorKind::Closed, text));
        }
        Ok(())
    }

    /// The record, or one that nobody knows. One that cannot be read is set aside.
    pub(super) async fn read(&self, key: &RecordKey) -> Result<LocalRecord> {
        let page = self
            .local
            .read(&key.table, std::slice::from_ref(&key.id))
            .await?;
        if let Some(record) = page.records.into_iter().next() {
            return Ok(record);
        }
        if page.damaged.contains(&key.id) {
            self.set_aside(key).await?;
        }
        Ok(LocalRecord::unknown(key.clone()))
    }

    /// A record of the store that cannot be read goes; the server has it, or the queue.
    pub(super) async fn set_aside(&self, key: &RecordKey) -> Result<()> {
        let reason = "what is kept of the record cannot be read".to_owned();
        let mut set_aside = Quarantined::new(&key.table, Some(key.id.clone()), self.hub.now());
        set_aside.reason.clone_from(&reason);
        let mut step = LocalStep::new();
        step.removes.push(key.clone());
        step.quarantine.push(set_aside);
        self.local.commit(step).await?;
        let id = Some(key.id.clone());
        self.hub
            .tell(key, TableEventKind::Quarantined { id, reason });
        Ok(())
    }

    pub(super) fn new_key(&self) -> String {
        format!("sync_{}", ActionId::new())
    }

    /// The action of a change, if the vault knows it.
    pub(super) async fn action(&self, change: &Outgoing) -> Result<Option<Keyed>> {
        self.vault.keyed(&self.guards.user, &change.key).await
    }

    /// The request of a record's newest change.
    pub(super) fn request(&self, record: &LocalRecord) -> Result<QueueRequest> {
        let Some(newest) = record.meta.newest() else {
            return Err(Error::new(
                ErrorKind::WrongState,
                "there is nothing to push",
            ));
        };
        let push = self.remote.request(&change_of(record, newest))?;
        let mut request = self
            .vault
            .request(push.method, push.path)
            .headers(push.headers)
            .body(push.body)
            .lane(lane_of(&record.key)?)
            .idempotency_key(&newest.key)
            .coalesce(COALESCE)
            .tag(format!("{TAG}{}", record.key.table))
            .principal(&self.guards.user)
            .answers(push.answers)
            .wait_for_credentials();
        if let Some(time) = self.not_before(newest) {
            request = request.not_before(time.into());
        }
        Ok(QueueRequest::new(self.vault.clone(), request))
    }

    /// A record that the server changes all the time is not tried all the time.
    fn not_before(&self, change: &Outgoing) -> Option<Timestamp> {
        const AT_ONCE: u32 = 3;
        let round = change
            .rounds
            .checked_sub(AT_ONCE)
            .filter(|round| *round > 0)?;
        let wait = self
            .backoff
            .delay(round, std::time::Duration::ZERO, &mut Dice::from_entropy());
        Some(self.hub.now().after(wait))
    }

    /// Commits a record, and queues its newest change.
    pub(super) async fn commit_and_queue(
        &self,
        record: LocalRecord,
        touched: Touched,
    ) -> Result<()> {
        let request = self.request(&record)?;
        let step = LocalStep::new().write(record, touched);
        self.local.write(step, request).await
    }

    pub(super) async fn commit(&self, record: LocalRecord, touched: Touched) -> Result<()> {
        self.local
            .commit(LocalStep::new().write(record, touched))
            .await
    }

    /// Tells once that credentials are wanted.
    pub(super) fn tell_auth(&self, reason: impl Into<String>) {
        if !self.is_auth_told.swap(true, Ordering::AcqRel) {
            let reason = reason.into();
            self.hub
                .publish(None, TableEventKind::AuthRequired { reason });
        }
    }

    /// The server has taken credentials.
    pub(super) fn auth_is_good(&self) {
        self.is_auth_told.store(false, Ordering::Release);
    }

    /// What the answer of a server says of credentials.
    pub(super) fn note_answer<T>(&self, answer: &Result<T, RemoteError>) {
        match answer {
            Err(error) if error.kind == RemoteErrorKind::AuthRequired => {
                self.tell_auth(error.to_string());
            }
            Err(_) => {}
            Ok(_) => self.auth_is_good(),
        }
    }
}
