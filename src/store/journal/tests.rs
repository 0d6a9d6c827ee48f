//! What a journal must do, over an engine that can be held up and killed.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::store::memory::MemoryEngine;

const SMALL: u64 = 4096;

/// A base whose writes can be held up. Clones are the same base.
#[derive(Clone, Debug, Default)]
struct Shared {
    engine: Arc<Mutex<MemoryEngine>>,
    held: Arc<Mutex<()>>,
    is_killed: Arc<AtomicBool>,
    is_full: Arc<AtomicBool>,
    /// Its disk turns out to be full, although there seemed to be room.
    is_broken: Arc<AtomicBool>,
}

impl Shared {
    /// What a crash leaves: what is written from now on by whom had it before is not there.
    fn kill(&mut self) {
        let engine = self.engine.lock().expect("engine");
        self.is_killed.store(true, Ordering::SeqCst);
        self.is_killed = Arc::default();
        self.held = Arc::default();
        drop(engine);
    }
}

impl Base for Shared {
    fn has_room(&self, _bytes: u64) -> Result<bool> {
        Ok(!self.is_full.load(Ordering::SeqCst))
    }

    fn give_room(&self) -> Result<bool> {
        Ok(false)
    }

    fn write(&self, batch: Batch) -> Result<()> {
        drop(self.held.lock().expect("held"));
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::StorageFull, "no room after all"));
        }
        let mut engine = self.engine.lock().expect("engine");
        if self.is_killed.load(Ordering::SeqCst) {
            return Ok(());
        }
        engine.apply(batch)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.engine.lock().expect("engine").get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Entries> {
        self.engine.lock().expect("engine").scan(from, to, limit)
    }

    fn close(self) -> Result<()> {
        Ok(())
    }
}

fn batch(entries: &[(&str, Option<&str>)]) -> Batch {
    let own = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let entries = entries.iter();
    entries
        .map(|(key, value)| (key.as_bytes().to_vec(), value.map(own)))
        .collect()
}

fn text(entries: Entries) -> Vec<String> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let entries = entries.into_iter();
    entries
        .map(|(key, value)| format!("{}={}", text(&key), text(&value)))
        .collect()
}

fn all(journaled: &Journaled<Shared>) -> Vec<String> {
    text(journaled.scan(b"a", b"z", 99).expect("scan"))
}

fn open(base: &Shared, dir: &Path) -> Result<Journaled<Shared>> {
    Journaled::open(base.clone(), dir, SMALL)
}

/// Fills the file in use, so that the next commit goes into the other one.
fn fill(journaled: &mut Journaled<Shared>, key: &str) {
    let value = "x".repeat(usize::try_from(SMALL).expect("small") * 2 / 3);
    journaled
        .apply(batch(&[(key, Some(&value))]))
        .expect("apply");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("read");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("write");
}

#[test]
fn a_turn_over_rests_after_each_step_and_brings_down_all() {
    let (base, rests) = (Shared::default(), AtomicU64::new(0));
    let keys: Vec<String> = (0..2 * STEP_KEYS + 1).map(|n| format!("k{n:03}")).collect();
    let entries: Vec<_> = keys.iter().map(|key| (&**key, Some("value"))).collect();
    bring_down(&base, &batch(&entries), 7, |_| {
        rests.fetch_add(1, Ordering::SeqCst);
    })
    .expect("bring down");
    assert_eq!(rests.into_inner(), 2);
    assert_eq!(applied(&base).expect("mark"), 7);
    let below = base.scan(b"k", b"l", 99).expect("scan");
    assert_eq!(below.len(), keys.len());
}

#[test]
fn what_was_applied_is_there_after_a_crash() {
    let temp = tempfile::tempdir().expect("tempdir");
    let base = Shared::default();
    let mut journaled = open(&base, temp.path()).expect("open");
    let first = batch(&[("a", Some("1")), ("b", Some("2"))]);
    journaled.apply(first).expect("apply");
    let second = batch(&[("a", None), ("c", Some("3"))]);
    journaled.apply(second).expect("apply");
    assert_eq!(all(&journaled), ["b=2", "c=3"]);
    drop(journaled);
    for _ in 0..2 {
        let mut journaled = open(&base, temp.path()).expect("open again");
        assert_eq!(all(&journaled), ["b=2", "c=3"]);
        let again = batch(&[("c", Some("3"))]);
        journaled.apply(again).expect("apply");
    }
    assert!(text(base.scan(b"a", b"z", 99).expect("scan")).is_empty());
}

#[test]
fn both_files_and_the_engine_are_read_as_one_while_it_is_written_to() {
    let temp = tempfile::tempdir().expect("tempdir");
    let base = Shared::default();
    let mut journaled = open(&base, temp.path()).expect("open");
    journaled
        .apply(batch(&[
            ("a", Some("1")),
            ("b", Some("2")),
            ("c", Some("3")),
        ]))
        .expect("apply");
    fill(&mut journaled, "x");
    let held = base.held.lock().expect("held");
    fill(&mut journaled, "x");
    journaled
        .apply(batch(&[("b", None), ("d", Some("4"))]))
        .expect("goes on in the other file");
    let seen = text(journaled.scan(b"a", b"w", 99).expect("scan"));
    assert_eq!(seen, ["a=1", "c=3", "d=4"]);
    assert_eq!(journaled.get(b"b").expect("get"), None);
    drop(held);
    journaled.finish_turn_over().expect("turn over");
    let below = text(base.scan(b"a", b"w", 99).expect("scan"));
    assert_eq!(below, ["a=1", "b=2", "c=3"]);
    assert_eq!(text(journaled.scan(b"a", b"w", 99).expect("scan")), seen);
    drop(journaled);
    let journaled = open(&base, temp.path()).expect("open again");
    assert_eq!(text(journaled.scan(b"a", b"w", 99).expect("scan")), seen);
}

#[test]
fn a_crash_before_the_engine_was_written_to_loses_nothing() {
    let temp = tempfile::tempdir().expect("tempdir");
    let mut base = Shared::default();
    for round in 0..9 {
        let mut journaled = open(&base, temp.path()).expect("open");
        journaled.finish_turn_over().expect("what was cut off");
        let held = base.held.clone();
        let held = held.lock().expect("held");
        fill(&mut journaled, &format!("k{round}"));
        // The thread waits; what it will write is in the journal all the same.
        assert_eq!(all(&journaled).len(), round + 1);
        base.kill();
        drop((journaled, held));
    }
    let journaled = open(&base, temp.path()).expect("open");
    assert_eq!(all(&journaled).len(), 9);
    journaled.close().expect("close");
    assert_eq!(base.scan(b"a", b"z", 99).expect("scan").len(), 9);
    assert_eq!(applied(&base).expect("mark"), 9);
}

#[test]
fn a_commit_that_is_larger_than_the_file_is_kept() {
    let temp = tempfile::tempdir().expect("tempdir");
    let base = Shared::default();
    let mut journaled = open(&base, temp.path()).expect("open");
    let large = "x".repeat(20_000);
    for key in ["a", "b", "c"] {
        let one = batch(&[(key, Some(&large))]);
        journaled.apply(one).expect("apply");
    }
    drop(journaled);
    let journaled = open(&base, temp.path()).expect("open again");
    assert_eq!(all(&journaled).len(), 3);
}

#[test]
fn a_torn_last_commit_is_none() {
    let temp = tempfile::tempdir().expect("tempdir");
    let base = Shared::default();
    let mut journaled = open(&base, temp.path()).expect("open");
    for key in ["a", "b"] {
        let one = batch(&[(key, Some("1"))]);
        journaled.apply(one).expect("apply");
    }
    drop(journaled);
    let path = temp.path().join("a");
    let whole = fs::read(&path).expect("read");
    let (_, end) = frame::decode(&whole).expect("first");
    flip(&path, end + 40);
    let mut journaled = open(&base, temp.path()).expect("open again");
    assert_eq!(all(&journaled), ["a=1"]);
    journaled.apply(batch(&[("c", Some("3"))])).expect("apply");
    drop(journaled);
    assert_eq!(
        all(&open(&base, temp.path()).expect("open")),
        ["a=1", "c=3"]
    );
}

fn refused(base: &Shared, dir: &Path) {
    let error = open(base, dir).expect_err("something is gone");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

/// Commits 1 and 2 in one file, 3 and 4 in the other.
fn two_turns(base: &Shared, dir: &Path) {
    let mut journaled = open(base, dir).expect("open");
    for key in ["a", "b", "c", "d"] {
        if key == "b" || key == "d" {
            fill(&mut journaled, key);
        } else {
            let one = batch(&[(key, Some("1"))]);
            journaled.apply(one).expect("apply");
        }
    }
    journaled.finish_turn_over().expect("turn over");
}

#[test]
fn damage_in_the_middle_is_told() {
    for (file, at) in [("a", 40), ("b", 40), ("a", 200)] {
        let temp = tempfile::tempdir().expect("tempdir");
        let base = Shared::default();
        let held = base.held.lock().expect("held");
        let mut journaled = open(&base, temp.path()).expect("open");
        for key in ["a", "b", "c"] {
            let one = batch(&[(key, Some("1"))]);
            journaled.apply(one).expect("apply");
        }
        fill(&mut journaled, "x");
        fill(&mut journaled, "y");
        let last = batch(&[("z", Some("1"))]);
        journaled.apply(last).expect("apply");
        drop(journaled);
        drop(held);
        flip(&temp.path().join(file), at);
        refused(&Shared::default(), temp.path());
    }
}

#[test]
fn damage_of_what_the_engine_holds_does_not_matter() {
    let temp = tempfile::tempdir().expect("tempdir");
    let base = Shared::default();
    two_turns(&base, temp.path());
    flip(&temp.path().join("a"), 40);
    assert_eq!(all(&open(&base, temp.path()).expect("open")).len(), 4);
}

#[test]
fn an_engine_that_lost_something_is_told() {
    let temp = tempfile::tempdir().expect("tempdir");
    let base = Shared::default();
    for _ in 0..3 {
        two_turns(&base, temp.path());
    }
    assert_eq!(all(&open(&base, temp.path()).expect("open")).len(), 4);
    refused(&Shared::default(), temp.path());
}

#[test]
fn a_journal_that_lost_something_is_told() {
    let temp = tempfile::tempdir().expect("tempdir");
    let base = Shared::default();
    two_turns(&base, temp.path());
    let [a, b] = ["a", "b"].map(|name| temp.path().join(name));
    let whole = fs::read(&b).expect("read");
    fs::write(&b, &whole[..1000]).expect("write");
    refused(&base, temp.path());
    fs::remove_file(&a).expect("remove");
    fs::remove_file(&b).expect("remove");
    refused(&base, temp.path());
}

fn put(journaled: &mut Journaled<Shared>, key: &str) {
    let one = batch(&[(key, Some("1"))]);
    journaled.apply(one).expect("apply");
}

/// Fills both files on a full disk: the first one waits to be brought down.
fn crowded(base: &Shared, dir: &Path) -> Journaled<Shared> {
    base.is_full.store(true, Ordering::SeqCst);
    let mut journaled = open(base, dir).expect("open");
    fill(&mut journaled, "a");
    journaled.check_room().expect("one file is free");
    fill(&mut journaled, "b");
    let refused = journaled
        .check_room()
        .expect_err("nothing can be brought down");
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    journaled
}

#[test]
fn on_a_full_disk_nothing_is_added_and_what_makes_room_goes_on() {
    let temp = tempfile::tempdir().expect("tempdir");
    let base = Shared::default();
    let mut journaled = crowded(&base, temp.path());
    // Past the end of the file too.
    fill(&mut journaled, "c");
    put(&mut journaled, "d");
    assert_eq!(all(&journaled).len(), 4);
    drop(journaled);
    let mut journaled = open(&base, temp.path()).expect("open on a full disk");
    assert_eq!(all(&journaled).len(), 4);
    journaled.check_room().expect_err("still full");
    base.is_full.store(false, Ordering::SeqCst);
    journaled.check_room().expect("there is room again");
    fill(&mut journaled, "e");
    fill(&mut journaled, "f");
    journaled.finish_turn_over().expect("turn over");
    assert_eq!(all(&journaled).len(), 6);
    drop(journaled);
    assert_eq!(all(&open(&base, temp.path()).expect("open")).len(), 6);
    assert_eq!(fs::metadata(temp.path().join("a")).expect("a").len(), SMALL);
}

#[test]
fn a_close_on_a_full_disk_leaves_everything_in_the_journal() {
    let temp = tempfile::tempdir().expect("tempdir");
    let base = Shared::default();
    crowded(&base, temp.path()).close().expect("close");
    assert!(text(base.scan(b"a", b"z", 99).expect("scan")).is_empty());
    assert_eq!(all(&open(&base, temp.path()).expect("open")).len(), 2);
}

#[test]
fn an_engine_that_fails_stops_the_journal_and_keeps_all_in_it() {
    let temp = tempfile::tempdir().expect("tempdir");
    let base = Shared::default();
    let mut journaled = open(&base, temp.path()).expect("open");
    base.is_broken.store(true, Ordering::SeqCst);
    fill(&mut journaled, "a");
    fill(&mut journaled, "b");
    let failed = journaled.finish_turn_over().expect_err("broken");
    assert_eq!(
        failed.kind(),
        ErrorKind::Storage,
        "not a full disk that passes"
    );
    journaled.abandon();
    base.is_broken.store(false, Ordering::SeqCst);
    assert_eq!(all(&open(&base, temp.path()).expect("open")).len(), 2);
}

/// A base on a disk of its own: what is not synced may be lost in a power cut, each key by itself.
#[derive(Clone, Debug, Default)]
struct OnDisk {
    durable: Arc<Mutex<Batch>>,
    unsynced: Arc<Mutex<Batch>>,
}

impl OnDisk {
    /// What a power cut leaves. Whoever had it before writes to what is gone.
    fn cut(&mut self, is_kept: impl Fn() -> bool) {
        let unsynced = self.unsynced.lock().expect("unsynced");
        let mut left = self.durable.lock().expect("durable").clone();
        left.extend(unsynced.clone().into_iter().filter(|_| is_kept()));
        drop(unsynced);
        self.durable = Arc::new(Mutex::new(left));
        self.unsynced = Arc::default();
    }
}

impl Base for OnDisk {
    fn has_room(&self, _bytes: u64) -> Result<bool> {
        Ok(true)
    }

    fn give_room(&self) -> Result<bool> {
        Ok(false)
    }

    fn write(&self, batch: Batch) -> Result<()> {
        self.unsynced.lock().expect("unsynced").extend(batch);
        Ok(())
    }

    /// One key after the other, in any order: a cut may come in between.
    fn sync(&self) -> Result<()> {
        loop {
            let mut unsynced = self.unsynced.lock().expect("unsynced");
            let at = rand::random_range(0..unsynced.len().max(1));
            let Some(key) = unsynced.keys().nth(at).cloned() else {
                return Ok(());
            };
            let value = unsynced.remove(&key).flatten();
            self.durable.lock().expect("durable").insert(key, value);
            drop(unsynced);
            std::thread::yield_now();
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let unsynced = self.unsynced.lock().expect("unsynced");
        let durable = self.durable.lock().expect("durable");
        let value = unsynced.get(key).or_else(|| durable.get(key));
        Ok(value.cloned().flatten())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Entries> {
        let mut engine = MemoryEngine::default();
        let unsynced = self.unsynced.lock().expect("unsynced");
        engine.apply(self.durable.lock().expect("durable").clone())?;
        engine.apply(unsynced.clone())?;
        engine.scan(from, to, limit)
    }

    fn close(self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn what_the_engine_had_not_synced_in_a_power_cut_is_in_the_journal() {
    let temp = tempfile::tempdir().expect("tempdir");
    let mut base = OnDisk::default();
    let mut want = BTreeMap::new();
    let (commits_of_a_run, runs) = (40, 100);
    for run in 0..runs {
        let mut journaled = Journaled::open(base.clone(), temp.path(), SMALL).expect("open");
        let found = text(journaled.scan(b"a", b"z", 999).expect("scan"));
        let wanted = want.iter().map(|(key, value)| format!("{key}={value}"));
        assert_eq!(found, wanted.collect::<Vec<_>>(), "run {run}");
        for commit in 0..rand::random_range(1..commits_of_a_run) {
            let key = format!("k{:02}", rand::random_range(0..50));
            let value = format!("{run}-{commit}-{}", "x".repeat(400));
            let entries = [(&*key, Some(&*value))];
            journaled.apply(batch(&entries)).expect("apply");
            want.insert(key, value);
        }
        // The thread that brings it down is somewhere, or done.
        std::thread::yield_now();
        base.cut(rand::random);
    }
}
