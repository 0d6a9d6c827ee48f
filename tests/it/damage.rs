//! Opening never bricks: single flipped bits and cut files, over copies of one vault. It opens each time; what it gives
//! is what was put in; nothing that was delivered is sent again; and the next open finds a whole vault.
//!
//! `SYNCVAULT_DAMAGE_FLIPS` and `SYNCVAULT_DAMAGE_CUTS` say how many, `SYNCVAULT_DAMAGE_SEED` which.

mod sample;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sample::{Ending, Kind, NOW, Originals, copy, deliver, files, fill, lease};
use syncvault::action::{Body, Record, State};
use syncvault::store::{Find, Opened, Store};
use syncvault::{ActionId, DeadReason, ErrorKind};

use crate::crash::dice::Dice;

#[cfg(feature = "fjall")]
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_fjall_vault_opens_and_tells_no_lies() {
    suite(Kind::Fjall).await;
}

#[cfg(feature = "sled")]
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_sled_vault_opens_and_tells_no_lies() {
    suite(Kind::Sled).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_sqlite_vault_opens_and_tells_no_lies() {
    suite(Kind::Sqlite).await;
}

const BLOCK: usize = 64;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

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
async fn suite(kind: Kind) {
    let seed = number("SYNCVAULT_DAMAGE_SEED", 0x5eed_0003);
    let flips = number("SYNCVAULT_DAMAGE_FLIPS", 60);
    let cuts = number("SYNCVAULT_DAMAGE_CUTS", 15);
    println!("{kind:?}: seed {seed:#x}, {flips} flips, {cuts} cuts");
    let temp = tempfile::tempdir().expect("tempdir");
    let dice = Dice::new(seed);
    let mut vaults = Vec::new();
    for ending in [Ending::Closed, Ending::CutOff] {
        let [work, vault] = ["work", "vault"].map(|name| {
            let name = format!("{name}-{ending:?}");
            temp.path().join(name)
        });
        let originals = fill((kind, ending), &work, &vault, &mut dice.fork(0)).await;
        let blocks = blocks(&vault);
        vaults.push((vault, originals, blocks));
    }
    for (blow, count) in [(Blow::Flip, flips), (Blow::Cut, cuts)] {
        let mut tally = Tally::default();
        for round in 0..count {
            let copied = temp.path().join("copy");
            let mut dice = dice.fork(1 + round);
            let (vault, originals, blocks) = &vaults[dice.size_below(vaults.len())];
            copy(vault, &copied);
            let what = strike(blow, &copied, blocks, &mut dice);
            examine(kind, &copied, originals, &what, &mut tally).await;
            fs::remove_dir_all(&copied).expect("remove");
        }
        println!("{kind:?} {blow:?}: {tally:?}");
        assert!(
            tally.kept * 100 >= tally.whole * 99,
            "{kind:?} {blow:?}: {tally:?}"
        );
    }
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
        let bytes = fs::read(&path).expect("read");
        let chunks = bytes.chunks(BLOCK).enumerate();
        let held = chunks.filter(|(_, block)| *block != &ZEROS[..block.len()]);
        let path = path.strip_prefix(dir).expect("below");
        blocks.extend(held.map(|(number, _)| (path.to_owned(), number * BLOCK)));
    }
    blocks
}

fn flip(dir: &Path, blocks: &[(PathBuf, usize)], dice: &mut Dice) -> String {
    let (path, start) = &blocks[dice.size_below(blocks.len())];
    let path = dir.join(path);
    let mut bytes = fs::read(&path).expect("read");
    let at = start + dice.size_below(BLOCK.min(bytes.len() - start));
    let bit = dice.below(8);
    bytes[at] ^= 1 << bit;
    fs::write(&path, bytes).expect("write");
    format!("bit {bit} of byte {at} in {}", path.display())
}

/// Cuts a file somewhere in what it holds.
fn cut(dir: &Path, blocks: &[(PathBuf, usize)], dice: &mut Dice) -> String {
    let mut all = files(dir);
    all.retain(|path| fs::metadata(path).expect("metadata").len() > 0);
    let path = all.swap_remove(dice.size_below(all.len()));
    let below = path.strip_prefix(dir).expect("below");
    let held = blocks.iter().filter(|(path, _)| path == below);
    let last = held.map(|(_, start)| *start).max().unwrap_or(0);
    let length = dice.size_below(last + BLOCK);
    let bytes = fs::read(&path).expect("read");
    let length = length.min(bytes.len());
    fs::write(&path, &bytes[..length]).expect("write");
    format!("{} cut from {} to {length}", path.display(), bytes.len())
}

async fn open(kind: Kind, dir: &Path, what: &str) -> (Box<dyn Store>, Opened) {
    let store = kind.open(dir).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let opened = store.open(NOW).await;
    let opened = opened.unwrap_or_else(|e| panic!("{what}: {e:?}"));
    (store, opened)
}

async fn examine(kind: Kind, dir: &Path, originals: &Originals, what: &str, tally: &mut Tally) {
    let intact = intact(dir, originals);
    let (store, opened) = open(kind, dir, what).await;
    let report = &opened.report;
    tally.blows += 1;
    tally.rebuilt += u64::from(report.quarantined.is_some());
    tally.regressed += u64::from(report.regressed.is_some());
    tally.proved += u64::from(report.quarantined.is_some() && report.salvaged == 0);
    assert!(opened.is_balanced, "{what}: {opened:?}");
    for (id, original) in originals {
        let found = found(&*store, *id, what).await;
        let is_whole = intact.contains_key(id);
        tally.whole += u64::from(is_whole);
        tally.kept += u64::from(is_whole && found.is_some());
        if let Some(found) = found {
            compare(&original.record, &found, what);
            check_body(&*store, &found, &original.body, what).await;
        }
    }
    store.close().await.expect("close");

    let (store, opened) = open(kind, dir, what).await;
    assert!(opened.report.is_clean(), "{what}: {opened:?}");
    assert!(opened.is_balanced, "{what}: {opened:?}");
    send_all(&*store, originals, what).await;
    store.close().await.expect("close");
}

/// The actions that were not hit: their newest bytes are in some file.
fn intact(dir: &Path, originals: &Originals) -> BTreeMap<ActionId, ()> {
    let bytes: Vec<Vec<u8>> = files(dir).iter().map(|path| held(path)).collect();
    let is_there = |record: &Record| {
        let frame = record.encode().expect("encode");
        bytes.iter().any(|file| memmem(file, &frame))
    };
    let there = originals.iter().filter(|(_, one)| is_there(&one.record));
    there.map(|(id, _)| (*id, ())).collect()
}

/// A file without the zeros at its end.
fn held(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).expect("read");
    let is_held = |(_, block): &(usize, &[u8])| *block != &ZEROS[..block.len()];
    let last = bytes.chunks(BLOCK).enumerate().rev().find(is_held);
    let held = last.map_or(0, |(number, block)| number * BLOCK + block.len());
    bytes.truncate(held);
    bytes
}

fn memmem(mut bytes: &[u8], text: &[u8]) -> bool {
    use std::io::BufRead;
    while bytes.len() >= text.len() {
        bytes.skip_until(text[0]).expect("memory");
        if bytes.starts_with(&text[1..]) {
            return true;
        }
    }
    false
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
