//! Opening never bricks: single flipped bits and cut files, over copies of one vault. It opens each time; what it gives
//! is what was put in; nothing that was delivered is sent again; and the next open finds a whole vault.
//!
//! `SYNCVAULT_DAMAGE_FLIPS` and `SYNCVAULT_DAMAGE_CUTS` say how many, `SYNCVAULT_DAMAGE_SEED` which.

mod sample;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{BufRead, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
#[cfg(feature = "sled")]
use std::time::Duration;

use sample::{Ending, Engine, Kind, NOW, Open, Originals, copy, deliver, files, fill, held, lease};
use syncvault::action::{Body, Record, State};
use syncvault::store::{Find, Opened, Store};
use syncvault::{ActionId, DeadReason, ErrorKind};
#[cfg(feature = "sled")]
use syncvault::{EventKind, SyncVault, doctor};

use crate::crash::fork;
use crate::dice::Dice;

#[cfg(feature = "fjall")]
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_fjall_vault_opens_and_tells_no_lies() {
    suite(Engine::Fjall, false, (60, 15)).await;
}

#[cfg(all(feature = "fjall", feature = "encrypt"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_and_sealed_fjall_vault_opens_and_tells_no_lies() {
    suite(Engine::Fjall, true, (12, 4)).await;
}

#[cfg(feature = "sled")]
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_sled_vault_opens_and_tells_no_lies() {
    suite(Engine::Sled, false, (60, 15)).await;
}

#[cfg(all(feature = "sled", feature = "encrypt"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_and_sealed_sled_vault_opens_and_tells_no_lies() {
    suite(Engine::Sled, true, (12, 4)).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_sqlite_vault_opens_and_tells_no_lies() {
    suite(Engine::Sqlite, false, (60, 15)).await;
}

#[cfg(all(feature = "sqlite", feature = "encrypt"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_and_sealed_sqlite_vault_opens_and_tells_no_lies() {
    suite(Engine::Sqlite, true, (12, 4)).await;
}

const BLOCK: usize = 64;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// What a frame begins with: a byte of its magic, and so much up to the id and the revision.
const MAGIC: &[u8] = b"SVf\x01";
const HEAD: usize = 40;

/// A vault before it is damaged.
struct Vault {
    dir: PathBuf,
    kind: Kind,
    originals: Originals,
}

#[derive(Clone, Copy, Debug)]
enum Blow {
    Flip,
    Cut,
}

/// What became of a damaged vault.
#[derive(Debug, Default)]
struct Tally {
    blows: u64,
    rebuilt: u64,
    proved: u64,
    regressed: u64,
    /// Its keyring was hit.
    keyless: u64,
    /// Actions that were not hit.
    whole: u64,
    /// Those of them that are there afterwards.
    kept: u64,
}

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| text.parse().expect(name))
}

#[expect(clippy::print_stdout, reason = "the seed and the figures of a run")]
async fn suite(engine: Engine, is_sealed: bool, (flips, cuts): (u64, u64)) {
    let kind = Kind { engine, is_sealed };
    let seed = number("SYNCVAULT_DAMAGE_SEED", 0x5eed_0003);
    let flips = number("SYNCVAULT_DAMAGE_FLIPS", flips);
    let cuts = number("SYNCVAULT_DAMAGE_CUTS", cuts);
    println!("{kind:?}: seed {seed:#x}, {flips} flips, {cuts} cuts");
    let temp = tempfile::tempdir().expect("tempdir");
    let mut vaults = Vec::new();
    for ending in [Ending::Closed, Ending::CutOff] {
        let [work, vault] = ["work", "vault"].map(|name| {
            let name = format!("{name}-{ending:?}");
            temp.path().join(name)
        });
        let originals = fill((kind, ending), &work, &vault, &mut fork(seed, 0)).await;
        let blocks = blocks(&vault);
        vaults.push((
            Vault {
                dir: vault,
                kind,
                originals,
            },
            blocks,
        ));
    }
    for (blow, count) in [(Blow::Flip, flips), (Blow::Cut, cuts)] {
        let mut tally = Tally::default();
        for round in 0..count {
            let copied = temp.path().join("copy");
            let mut dice = fork(seed, 1 + round);
            let (vault, blocks) = &vaults[dice.place(vaults.len())];
            copy(&vault.dir, &copied);
            let what = strike(blow, &copied, blocks, &mut dice);
            examine(vault, &copied, &what, &mut tally).await;
            fs::remove_dir_all(&copied).expect("remove");
        }
        println!("{kind:?} {blow:?}: {tally:?}");
        assert!(
            tally.kept * 100 >= tally.whole * 99,
            "{kind:?} {blow:?}: {tally:?}"
        );
    }
}

/// A vault after a crash whose newest commits were hit.
#[cfg(feature = "sled")]
async fn hit(temp: &Path) -> PathBuf {
    let (work, dir) = (temp.join("work"), temp.join("vault"));
    let kind = Kind {
        engine: Engine::Sled,
        is_sealed: false,
    };
    fill((kind, Ending::CutOff), &work, &dir, &mut Dice::new(1)).await;
    for name in ["a", "b"] {
        let journal = dir.join("journal").join(name);
        let middle = held(&journal).len() / 2;
        let mut file = open_file(&journal);
        file.seek(SeekFrom::Start(middle as u64)).expect("seek");
        file.write_all(&[0xa5; 64]).expect("write");
    }
    dir
}

#[cfg(feature = "sled")]
#[tokio::test(flavor = "multi_thread")]
async fn an_app_sees_what_was_found_in_a_damaged_vault() {
    let temp = tempfile::tempdir().expect("tempdir");
    let dir = hit(temp.path()).await;
    let vault = SyncVault::builder("https://a.example").storage_path(&dir);
    let vault = vault.build().await.expect("a vault");
    let report = vault.open_report();
    assert!(report.recovered > 0 && report.quarantined.is_some());
    for _ in 0..2 {
        let first = vault.events().next().await.expect("an event");
        let told = EventKind::Salvaged {
            report: Box::new(report.clone()),
        };
        assert_eq!((first.kind, first.sequence), (told, 0), "to each reader");
    }
    vault.shutdown(Duration::ZERO).await.expect("shut down");
    let again = SyncVault::open("https://a.example", &dir).await;
    assert!(again.expect("a vault").open_report().is_clean());
}

#[cfg(feature = "sled")]
#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_salvages_as_an_open_does() {
    let temp = tempfile::tempdir().expect("tempdir");
    let dir = hit(temp.path()).await;
    let seen = doctor::examine(&dir, |_| {}).await.expect("examine");
    assert!(!seen.is_healthy(), "{seen}");
    let report = doctor::salvage(&dir).await.expect("salvage");
    assert!(report.recovered > 0 && report.quarantined.is_some());
    let again = doctor::salvage(&dir).await.expect("salvage");
    assert!(again.is_clean(), "{again:?}");
}

/// A log that lost its end is no error to SQLite: it goes on where it was before, and would send again what was delivered
/// since. The mark beside it tells. Method: a flipped bit in the first page of the log, so that all of it counts for nothing.
#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_counts_for_nothing_is_told() {
    let temp = tempfile::tempdir().expect("tempdir");
    let (work, dir) = (temp.path().join("work"), temp.path().join("vault"));
    let kind = Kind {
        engine: Engine::Sqlite,
        is_sealed: false,
    };
    let originals = fill((kind, Ending::CutOff), &work, &dir, &mut Dice::new(1)).await;
    let mut log = open_file(&dir.join("vault.db-wal"));
    log.seek(SeekFrom::Start(200)).expect("seek");
    log.write_all(&[0xa5; 8]).expect("write");
    let copied = temp.path().join("copy");
    copy(&dir, &copied);
    let vault = Vault {
        dir,
        kind,
        originals,
    };
    let mut tally = Tally::default();
    examine(&vault, &copied, "the log counts for nothing", &mut tally).await;
    assert_eq!((tally.rebuilt, tally.regressed), (1, 1), "{tally:?}");
}

/// Damages one file. What was done, in words.
fn strike(blow: Blow, dir: &Path, blocks: &[(PathBuf, usize)], dice: &mut Dice) -> String {
    match blow {
        Blow::Flip => flip(dir, blocks, dice),
        Blow::Cut => cut(dir, blocks, dice),
    }
}

/// Where something stands in a vault, block by block: most of a journal is zeros.
fn blocks(dir: &Path) -> Vec<(PathBuf, usize)> {
    let mut blocks = Vec::new();
    for path in files(dir) {
        let bytes = held(&path);
        let chunks = bytes.chunks(BLOCK).enumerate();
        let held = chunks.filter(|(_, block)| *block != &ZEROS[..block.len()]);
        let path = path.strip_prefix(dir).expect("below");
        blocks.extend(held.map(|(number, _)| (path.to_owned(), number * BLOCK)));
    }
    blocks
}

fn flip(dir: &Path, blocks: &[(PathBuf, usize)], dice: &mut Dice) -> String {
    let (path, start) = &blocks[dice.place(blocks.len())];
    let path = dir.join(path);
    let mut file = open_file(&path);
    let length = usize::try_from(file.metadata().expect("metadata").len()).expect("length");
    let at = start + dice.place(BLOCK.min(length - start));
    let bit = dice.below(8);
    let mut byte = [0];
    let place = SeekFrom::Start(at as u64);
    file.seek(place).expect("seek");
    file.read_exact(&mut byte).expect("read");
    byte[0] ^= 1 << bit;
    file.seek(place).expect("seek");
    file.write_all(&byte).expect("write");
    format!("bit {bit} of byte {at} in {}", path.display())
}

fn open_file(path: &Path) -> File {
    let mut options = File::options();
    options.read(true).write(true).open(path).expect("open")
}

/// Cuts a file somewhere in what it holds.
fn cut(dir: &Path, blocks: &[(PathBuf, usize)], dice: &mut Dice) -> String {
    let mut all = files(dir);
    all.retain(|path| fs::metadata(path).expect("metadata").len() > 0);
    let path = all.swap_remove(dice.place(all.len()));
    let below = path.strip_prefix(dir).expect("below");
    let held = blocks.iter().filter(|(path, _)| path == below);
    let last = held.map(|(_, start)| *start).max().unwrap_or(0);
    let file = open_file(&path);
    let before = file.metadata().expect("metadata").len();
    let length = before.min(dice.below((last + BLOCK) as u64));
    file.set_len(length).expect("cut");
    format!("{} cut from {before} to {length}", path.display())
}

impl Vault {
    /// Opens a damaged copy; nothing when its keys are lost with its database.
    async fn open(&self, dir: &Path, what: &str, tally: &mut Tally) -> Option<(Open, Opened)> {
        let open = self
            .kind
            .open(dir)
            .unwrap_or_else(|e| panic!("{what}: {e:?}"));
        let error = match open.store.open(NOW).await {
            Ok(opened) => return Some((open, opened)),
            Err(error) => error,
        };
        // A damaged keyring is the one thing that only a backup brings back; until then nothing changes.
        assert!(self.kind.is_sealed, "{what}: {error:?}");
        tally.keyless += 1;
        open.store.close().await.expect("close");
        let keyring = self.dir.join("keyring");
        if !keyring.exists() {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{what}: {error:?}");
            return None;
        }
        assert!(what.contains("/keyring"), "{what}: {error:?}");
        fs::copy(keyring, dir.join("keyring")).expect("restore");
        let open = self.kind.open(dir).expect("open");
        let opened = open.store.open(NOW).await;
        let opened = opened.unwrap_or_else(|e| panic!("{what}: {e:?}"));
        Some((open, opened))
    }
}

#[expect(clippy::print_stdout, reason = "what was lost, to be looked into")]
async fn examine(vault: &Vault, dir: &Path, what: &str, tally: &mut Tally) {
    let originals = &vault.originals;
    let intact = intact(dir, originals);
    tally.blows += 1;
    let Some((Open { store, .. }, opened)) = vault.open(dir, what, tally).await else {
        return;
    };
    let report = &opened.report;
    tally.rebuilt += u64::from(report.quarantined.is_some());
    tally.regressed += u64::from(report.regressed.is_some());
    tally.proved += u64::from(report.quarantined.is_some() && report.salvaged == 0);
    assert!(opened.is_balanced, "{what}: {opened:?}");
    for (id, original) in originals {
        let found = found(&*store, *id, what).await;
        let is_whole = intact.contains(id);
        tally.whole += u64::from(is_whole);
        tally.kept += u64::from(is_whole && found.is_some());
        if is_whole && found.is_none() {
            let Record { seq, state, .. } = &original.record;
            println!("{what}: {id} is lost, place {seq}, {state:?}: {report:?}");
        }
        if let Some(found) = found {
            compare(&original.record, &found, what);
            check_body(&*store, &found, &original.body, what).await;
        }
    }
    store.close().await.expect("close");

    let again = vault.open(dir, what, tally).await;
    let (Open { store, .. }, opened) = again.expect("its keys are there");
    assert!(opened.report.is_clean(), "{what}: {opened:?}");
    assert!(opened.is_balanced, "{what}: {opened:?}");
    send_all(&*store, originals, what).await;
    store.close().await.expect("close");
}

/// The actions that were not hit: their newest bytes are in some file.
fn intact(dir: &Path, originals: &Originals) -> BTreeSet<ActionId> {
    let head = |frame: &[u8]| Some(<[u8; HEAD]>::try_from(frame.get(..HEAD)?).expect("so long"));
    let frames = originals.iter().map(|(id, one)| (id, &one.frame));
    let frames: HashMap<_, _> = frames
        .map(|(id, frame)| (head(frame).expect("a frame"), (id, frame)))
        .collect();
    let mut intact = BTreeSet::new();
    for path in files(dir) {
        let bytes = held(&path);
        let mut rest = &bytes[..];
        while rest.skip_until(MAGIC[0]).expect("memory") > 0 {
            let at = bytes.len() - rest.len() - 1;
            let found = head(&bytes[at..]).and_then(|head| frames.get(&head));
            if let Some((id, frame)) = found
                && bytes[at..].starts_with(frame)
            {
                intact.insert(**id);
            }
        }
    }
    intact
}

async fn found(store: &dyn Store, id: ActionId, what: &str) -> Option<Record> {
    match store.get(Find::Id(id)).await {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::Corrupt => None,
        Err(error) => panic!("{what}: {id}: {error:?}"),
    }
}

/// A record that is given is the one that was put in, and its state says no more than is known.
fn compare(original: &Record, found: &Record, what: &str) {
    let fixed = |record: &Record| {
        let record = record.clone();
        (
            (record.seq, record.key, record.lane, record.origin),
            (record.principal, record.fingerprint, record.content),
            (record.body_bytes, record.created, record.attempts_max),
        )
    };
    assert_eq!(fixed(original), fixed(found), "{what}");
    let is_salvaged = matches!(
        found.state,
        State::Dead {
            reason: DeadReason::Salvaged,
            ..
        }
    );
    let id = original.id;
    if original.state.is_pending() {
        assert!(
            found.state.is_pending() || is_salvaged,
            "{what}: {id} was pending and is {:?}",
            found.state
        );
    } else {
        assert!(
            !found.state.is_pending(),
            "{what}: {id} was {:?} and is {:?}",
            original.state,
            found.state
        );
    }
    if found.state.is_pending() {
        assert!(found.attempts >= original.attempts, "{what}: {id}");
        assert_eq!(found.wire, original.wire, "{what}: {id}");
    }
}

async fn check_body(store: &dyn Store, record: &Record, body: &bytes::Bytes, what: &str) {
    if record.state.is_terminal() && !record.state.is_dead() {
        return;
    }
    match store.body(record.id).await {
        Ok(Some(Body::Bytes(bytes))) => assert_eq!(bytes, body, "{what}: {}", record.id),
        Ok(Some(other)) => panic!("{what}: {other:?}"),
        // Told, not sent.
        Ok(None) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error:?}"),
    }
}

/// Nothing goes out that was settled, each goes once, in the order of its lane, with its body.
async fn send_all(store: &dyn Store, originals: &Originals, what: &str) {
    let mut sent: BTreeMap<ActionId, ()> = BTreeMap::new();
    let mut places: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        let leased = lease(store).await;
        if leased.is_empty() {
            return;
        }
        for one in &leased {
            let (id, lane) = (one.record.id, one.record.lane.as_str().to_owned());
            let original = &originals[&id];
            assert!(
                original.record.state.is_pending(),
                "{what}: {id} is sent again"
            );
            assert!(sent.insert(id, ()).is_none(), "{what}: {id} is sent twice");
            let before = places.insert(lane, one.record.seq);
            assert!(before.is_none_or(|seq| seq < one.record.seq), "{what}");
            if let Body::Bytes(bytes) = &one.body {
                assert_eq!(bytes, &original.body, "{what}: {id}");
            }
        }
        deliver(store, &leased).await;
    }
}
