//! The queue itself: one thread, no clock, commands in and values out. What several commands write
//! goes to the engine in one durable step; what is kept in memory here can be read again from the engine.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::Engine;
use super::cache::CacheTally;
use super::forget::Forgetting;
use super::front::Front;
use super::gates::Gates;
use super::keys;
use super::lanes::LaneRow;
use super::ready::Ready;
use super::records::Head;
use super::txn::Txn;
use crate::action::{ActionId, Counts, Lane, Ledger, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{OpenReport, Totals};

/// The newest format of the keys that this version reads.
pub(super) const FORMAT: u32 = 1;

/// How many lane rows and heads stay decoded between commits.
const WARM_MAX: usize = 256;

/// The newest run of the store, and what the app told it to remember.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Run {
    pub(super) epoch: u64,
    pub(super) is_paused: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) forgetting: Vec<Forgetting>,
    /// What is being put back and is not all there yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) restoring: Option<String>,
    /// The revision of the keyring; zero in a plain store.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) keyring: u64,
    /// It was built anew, and what lies beside it was not looked through since.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_salvaged: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Everything that is counted, one row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Tally {
    pub(super) ledger: Ledger,
    pub(super) counts: Counts,
    pub(super) seq_next: u64,
    pub(super) lane_no_next: u64,
    /// The greatest id so far: a greater one cannot be known.
    pub(super) id_max: Option<ActionId>,
    /// Counts the versions of this row: of two, the one with the larger number is newer.
    pub(super) no: u64,
    /// Which revisions are pending, as one number; nothing once that cannot be told.
    pub(super) live: Option<u64>,
    /// How many children wait for parents or need their answers, once for each parent.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) ties: u64,
}

impl Tally {
    /// Puts a revision among the pending ones, or takes it out.
    pub(super) fn toggle(&mut self, id: ActionId, revision: u64) {
        self.live = self.live.map(|live| live ^ digest(id, revision));
    }
}

/// What one revision adds to the digest of all.
pub(super) fn digest(id: ActionId, revision: u64) -> u64 {
    let text = [&id.as_bytes()[..], &revision.to_le_bytes()].concat();
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(&text).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// What only this run knows, as it was before a group.
#[derive(Debug)]
pub(super) struct Before {
    epoch: u64,
    direct: HashMap<Lane, HashSet<ActionId>>,
    report: OpenReport,
}

#[derive(Debug)]
pub(super) struct Queue<E> {
    pub(super) txn: Txn<E>,
    /// Which run this is; 0 before it was opened.
    pub(super) epoch: u64,
    pub(super) run: Run,
    pub(super) tally: Tally,
    tally_written: Tally,
    pub(super) lanes: HashMap<Lane, LaneRow>,
    /// Lanes whose head may have changed.
    pub(super) touched: BTreeSet<Lane>,
    /// Lanes whose row is to be written.
    pub(super) dirty: BTreeSet<Lane>,
    pub(super) in_flight: HashMap<ActionId, Record>,
    /// Direct sends in flight, lane by lane: they stand in no other direct send's way.
    pub(super) direct: HashMap<Lane, HashSet<ActionId>>,
    /// Another process stands in the way: what it holds must be looked at again.
    pub(super) must_watch: bool,
    /// The number of the newest totals that anybody was told.
    told: u64,
    /// Heads that were decoded lately.
    pub(super) heads: HashMap<ActionId, Head>,
    pub(super) gates: Gates,
    pub(super) ready: Ready,
    pub(super) oldest: Front,
    pub(super) expiry: Front,
    pub(super) settled: Front,
    /// Cached answers in the order of their use.
    pub(super) recent: Front,
    /// What is cached, once somebody asked.
    pub(super) cache: Option<CacheTally>,
    /// What is kept for children lies before this key, as far as retention went around it.
    pub(super) trimmed_to: keys::Key,
    /// Names of files that nothing refers to after the commit.
    pub(super) garbage: Vec<String>,
    /// A group came to nothing: what is kept in memory is of no moment, and must be read again.
    is_stale: bool,
    /// Everything below it was settled, as far as somebody looked.
    pub(super) floor: u64,
    /// What opening it was like, until somebody asks.
    pub(super) report: OpenReport,
}

impl<E: Engine> Queue<E> {
    /// Reads what is kept in memory. Writes nothing but the format of a new store.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] when a newer version wrote the store.
    pub(super) fn load(engine: E) -> Result<Self> {
        let mut queue = Self {
            txn: Txn::new(engine),
            epoch: 0,
            run: Run::default(),
            tally: Tally::default(),
            tally_written: Tally::default(),
            lanes: HashMap::new(),
            touched: BTreeSet::new(),
            dirty: BTreeSet::new(),
            in_flight: HashMap::new(),
            direct: HashMap::new(),
            must_watch: false,
            told: 0,
            heads: HashMap::new(),
            gates: Gates::default(),
            ready: Ready::default(),
            oldest: Front::new(&[keys::OLDEST]),
            expiry: Front::new(&[keys::EXPIRY]),
            settled: Front::new(&[keys::SETTLED]),
            recent: Front::new(&[keys::USED]),
            cache: None,
            trimmed_to: keys::Key::new(),
            garbage: Vec::new(),
            is_stale: false,
            floor: 0,
            report: OpenReport::default(),
        };
        queue.read_all()?;
        Ok(queue)
    }

    /// As [`load`](Self::load), while nobody else writes.
    pub(super) fn load_whole(mut engine: E) -> Result<Self> {
        engine.begin()?;
        let mut queue = Self::load(engine)?;
        queue.txn.pause()?;
        Ok(queue)
    }

    fn read_all(&mut self) -> Result<()> {
        self.check_format()?;
        self.run = self.row(keys::RUN)?.unwrap_or_default();
        self.tally = self.row(keys::TOTALS)?.unwrap_or_default();
        self.tally_written = self.tally.clone();
        self.gates = Gates::load(&self.txn)?;
        self.ready = Ready::load(&self.txn)?;
        self.load_in_flight()
    }

    pub(super) fn before(&self) -> Before {
        Before {
            epoch: self.epoch,
            direct: self.direct.clone(),
            report: self.report.clone(),
        }
    }

    /// Drops a group that came to nothing. What else it changed in memory is read again by the next one.
    pub(super) fn take_back(&mut self, before: Before) -> Result<()> {
        self.txn.pause()?;
        self.garbage.clear();
        self.epoch = before.epoch;
        self.direct = before.direct;
        self.report = before.report;
        self.is_stale = true;
        Ok(())
    }

    /// Reads again what is kept in memory, if somebody else wrote or a group came to nothing.
    pub(super) fn catch_up(&mut self, is_changed: bool) -> Result<()> {
        match (std::mem::take(&mut self.is_stale), is_changed) {
            (true, _) => self.refresh_stale(is_changed),
            (false, true) => self.refresh(),
            (false, false) => Ok(()),
        }
    }

    fn refresh_stale(&mut self, is_changed: bool) -> Result<()> {
        let direct = std::mem::take(&mut self.direct);
        self.refresh()?;
        // Whether another process told somebody of one cannot be seen any more: then all count as told.
        if !is_changed {
            self.direct = direct;
        }
        Ok(())
    }

    /// Somebody else wrote. What only this run knows stays.
    fn refresh(&mut self) -> Result<()> {
        self.txn.forget();
        self.lanes.clear();
        self.touched.clear();
        self.dirty.clear();
        self.heads.clear();
        self.oldest = Front::new(&[keys::OLDEST]);
        self.expiry = Front::new(&[keys::EXPIRY]);
        self.settled = Front::new(&[keys::SETTLED]);
        self.recent = Front::new(&[keys::USED]);
        self.cache = None;
        let before = std::mem::take(&mut self.in_flight);
        self.read_all()?;
        self.keep_direct(&before);
        Ok(())
    }

    fn check_format(&mut self) -> Result<()> {
        match self.row::<u32>(keys::FORMAT)? {
            Some(format) if format > FORMAT => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the store has format {format}, this version reads up to {FORMAT}; use a newer version"
                ),
            )),
            Some(_) => Ok(()),
            None => self.put_row(keys::FORMAT.to_vec(), &FORMAT),
        }
    }

    /// Makes everything durable that the commands since the last call wrote.
    pub(super) fn commit(&mut self) -> Result<()> {
        self.write_lanes()?;
        self.tally.counts.oldest = self.oldest_created()?;
        if self.tally.counts.pending == 0 {
            self.tally.live = Some(0);
        }
        if self.tally != self.tally_written {
            self.tally.no += 1;
            self.put_row(keys::TOTALS.to_vec(), &self.tally.clone())?;
            self.tally_written = self.tally.clone();
        }
        self.txn.commit()?;
        self.told += 1;
        if self.lanes.len() > WARM_MAX {
            self.lanes.clear();
        }
        if self.heads.len() > WARM_MAX {
            self.heads.clear();
        }
        Ok(())
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            commit: self.told,
            counts: self.tally.counts,
            ledger: self.tally.ledger,
        }
    }

    /// Counts and ledger in the middle of a group, heads included. What the rest of the group changes is newer.
    pub(super) fn totals_now(&mut self) -> Result<Totals> {
        self.tally.counts.oldest = self.oldest_created()?;
        self.told += 1;
        Ok(self.totals())
    }

    pub(super) fn row<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        self.txn.get(key)?.map(|bytes| parse(&bytes)).transpose()
    }

    pub(super) fn put_row(&mut self, key: keys::Key, row: &impl Serialize) -> Result<()> {
        self.txn.put(key, to_json(row)?);
        Ok(())
    }

    pub(super) fn into_engine(self) -> E {
        self.txn.into_engine()
    }
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::new(ErrorKind::Poisoned, "a row of the store is not readable").with_source(e)
    })
}

pub(super) fn to_json(row: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(row).map_err(|e| {
        Error::new(ErrorKind::Storage, "a row of the store cannot be encoded").with_source(e)
    })
}
