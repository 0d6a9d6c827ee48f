//! A vault to be damaged: actions of every state in several lanes, and what is known of each.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use syncvault::action::{Lane, Origin, Record, WireState};
use syncvault::clock::Timestamp;
use syncvault::decide::{Counted, DeadLane, Settlement};
#[cfg(feature = "fjall")]
use syncvault::store::FjallStore;
#[cfg(feature = "sqlite")]
use syncvault::store::SqliteStore;
#[cfg(feature = "encrypt")]
use syncvault::store::crypt::{Key, Sealed};
use syncvault::store::{Advance, Append, Appended, Lease, Leased, Retention, Settle, Store};
#[cfg(feature = "sled")]
use syncvault::store::{SledOptions, SledStore};
use syncvault::{ActionId, DeadReason};

use crate::dice::Dice;

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

/// The engine of the store under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    #[cfg(feature = "fjall")]
    Fjall,
    #[cfg(feature = "sled")]
    Sled,
    #[cfg(feature = "sqlite")]
    Sqlite,
}

/// The store under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) engine: Engine,
    pub(super) is_sealed: bool,
}

/// A store, and what is below it: the same when it is plain.
pub(super) struct Open {
    pub(super) store: Arc<dyn Store>,
    pub(super) below: Arc<dyn Store>,
}

impl Kind {
    pub(super) fn open(self, dir: &Path) -> syncvault::Result<Open> {
        let below: Arc<dyn Store> = match self.engine {
            #[cfg(feature = "fjall")]
            Engine::Fjall => Arc::new(FjallStore::open(dir)?),
            #[cfg(feature = "sled")]
            Engine::Sled => {
                // So short that some of it is in sled and some is not.
                let mut options = SledOptions::default();
                options.journal_bytes = 256 * 1024;
                Arc::new(SledStore::open_with(dir, options)?)
            }
            #[cfg(feature = "sqlite")]
            Engine::Sqlite => Arc::new(SqliteStore::open(dir)?),
        };
        let store = match self.is_sealed {
            #[cfg(feature = "encrypt")]
            true => Arc::new(Sealed::new(below.clone(), Key::new([7; 32]))),
            _ => below.clone(),
        };
        Ok(Open { store, below })
    }
}

/// An action as it was when the vault was whole.
#[derive(Clone, Debug)]
pub(super) struct Original {
    pub(super) record: Record,
    /// The record as it is on disk.
    pub(super) frame: Vec<u8>,
    pub(super) body: Bytes,
}

pub(super) type Originals = BTreeMap<ActionId, Original>;

const LANES: u64 = 5;
/// Mostly those that lie in the engine: that is what is to be hit.
const SIZES: [usize; 16] = [
    0, 0, 1, 100, 100, 900, 900, 900, 2000, 2000, 4000, 4000, 8192, 8192, 20_000, 65_536,
];

/// How the vault was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// After three runs, the last one ended.
    Closed,
    /// In the middle of its first run, as a crash leaves it; its mark is up to date.
    CutOff,
}

/// Fills a vault in `work` and leaves it in `dir`.
pub(super) async fn fill(
    (kind, ending): (Kind, Ending),
    work: &Path,
    dir: &Path,
    dice: &mut Dice,
) -> Originals {
    let mut originals = Originals::new();
    let runs = match ending {
        Ending::Closed => 3,
        Ending::CutOff => 1,
    };
    for run in 1..=runs {
        let Open { store, below } = kind.open(work).expect("open");
        store.open(NOW).await.expect("open");
        for number in 0..120 / runs {
            add(&*store, &mut originals, dice, number).await;
            if number % 4 == 3 {
                drain(&*store, dice).await;
            }
        }
        for (id, original) in &mut originals {
            let find = syncvault::store::Find::Id(*id);
            original.record = store.get(find.clone()).await.expect("get").expect("there");
            let stored = below.get(find).await.expect("get").expect("there");
            original.frame = stored.encode().expect("encode");
        }
        if run == runs && ending == Ending::CutOff {
            marked(&*store, work).await;
            copy(work, dir);
        }
        store.close().await.expect("close");
    }
    if ending == Ending::Closed {
        copy(work, dir);
    }
    originals
}

/// Waits until the mark beside the store tells of all that was done.
async fn marked(store: &dyn Store, dir: &Path) {
    let totals = store.totals().await.expect("totals");
    let ledger = serde_json::to_string(&totals.ledger).expect("ledger");
    let is_marked = || {
        let mark = std::fs::read(dir.join("mark")).expect("a mark");
        String::from_utf8_lossy(&mark).contains(&ledger)
    };
    while !is_marked() {
        tokio::task::yield_now().await;
    }
}

async fn add(store: &dyn Store, originals: &mut Originals, dice: &mut Dice, number: u64) {
    let lane = Lane::new(format!("lane-{}", dice.below(LANES))).expect("lane");
    let origin = Origin::from_stored("https://a.example:443");
    let id = ActionId::new();
    let content = format!("content of {id}, {}", "x".repeat(dice.place(300)));
    let mut record = Record::new(id, lane, origin, content.into(), NOW);
    record.fingerprint = id.to_string();
    record.key = number.is_multiple_of(3).then(|| format!("key of {id}"));
    let size = SIZES[dice.place(SIZES.len())];
    let mut body = vec![0; size];
    body.fill_with(|| dice.next().to_le_bytes()[0]);
    let body = Bytes::from(body);
    let added = store
        .append(vec![Append::new(record, body.clone(), NOW)])
        .await
        .expect("append")
        .remove(0);
    let Appended::Queued { record, .. } = added else {
        panic!("not queued: {added:?}")
    };
    let frame = Vec::new();
    let original = Original {
        record,
        frame,
        body,
    };
    originals.insert(id, original);
}

/// Leases what is ready; most of it gets an end, some stays in flight.
async fn drain(store: &dyn Store, dice: &mut Dice) {
    let leased = lease(store).await;
    let mut step = Advance::new(NOW, Retention::default());
    for leased in leased {
        let result = match dice.below(8) {
            0 => continue,
            1 => Settlement::Dead {
                reason: DeadReason::Rejected { status: 400 },
                lane: DeadLane::Skip,
            },
            2 => Settlement::Retry {
                due: NOW,
                counts: Counted::Yes,
                backoff_ms: 5,
            },
            _ => Settlement::Delivered { status: 200 },
        };
        let settle = Settle::of(&leased.record, result, WireState::Answered);
        let mut settle = settle.expect("in flight");
        settle.status = Some(200);
        settle.answer = dice.below(2).eq(&0).then(|| Bytes::from_static(b"answer"));
        step.settle.push(settle);
    }
    store.advance(step).await.expect("advance");
}

/// Leases what is ready, one of each lane.
pub(super) async fn lease(store: &dyn Store) -> Vec<Leased> {
    let mut step = Advance::new(NOW, Retention::default());
    let mut all = Lease::default();
    all.slots = 100;
    step.lease = Some(all);
    store.advance(step).await.expect("advance").leased
}

/// Settles as delivered.
pub(super) async fn deliver(store: &dyn Store, leased: &[Leased]) {
    let mut step = Advance::new(NOW, Retention::default());
    for leased in leased {
        let result = Settlement::Delivered { status: 200 };
        let settle = Settle::of(&leased.record, result, WireState::Answered);
        step.settle.push(settle.expect("in flight"));
    }
    store.advance(step).await.expect("advance");
}

/// The files that hold data, in the same order each time.
pub(super) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(dir).expect("list");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("entry").path()).collect();
    paths.sort();
    for path in paths {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("LOCK" | "open.lock" | "quarantine") => {}
            _ if path.is_dir() => found.extend(files(&path)),
            _ => found.push(path),
        }
    }
    found
}

/// Most of some files is room that was made ahead: it is made again, and not copied.
pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("create");
    for entry in std::fs::read_dir(from).expect("list") {
        let path = entry.expect("entry").path();
        let target = to.join(path.file_name().expect("name"));
        if path.is_dir() {
            copy(&path, &target);
            continue;
        }
        let length = std::fs::metadata(&path).expect("metadata").len();
        let mut copied = File::create(&target).expect("create");
        copied.write_all(&held(&path)).expect("write");
        copied.set_len(length).expect("length");
    }
}

/// What a file holds, without the zeros at its end.
pub(super) fn held(path: &Path) -> Vec<u8> {
    const BLOCK: usize = 64 * 1024;
    let (mut block, zeros) = (vec![0; BLOCK], vec![0; BLOCK]);
    let (mut bytes, mut unused) = (Vec::new(), 0);
    let mut file = File::open(path).expect("open");
    loop {
        let length = file.read(&mut block).expect("read");
        if length == 0 {
            return bytes;
        }
        unused += length;
        if block[..length] != zeros[..length] {
            bytes.resize(bytes.len() + unused - length, 0);
            bytes.extend_from_slice(&block[..length]);
            unused = 0;
        }
    }
}
