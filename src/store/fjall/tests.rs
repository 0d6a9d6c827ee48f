//! What is fjall's own: its journals, its background, and how to harm it.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use fjall::{Database, PersistMode};

use super::*;
use crate::error::ErrorKind;
use crate::store::Part;
use crate::store::disk_tests::{OnDisk, action, at, disk_tests, names};

impl OnDisk for FjallStore {
    const DIR: &str = "fjall";

    fn in_dir(path: &Path) -> Result<Self> {
        Self::open(path)
    }

    fn lose_journal(path: &Path) {
        fs::remove_file(journal(path)).expect("remove");
    }

    fn tamper(path: &Path, key: &[u8], change: impl FnOnce(&[u8]) -> String) {
        let db = Database::builder(path.join("fjall")).open().expect("open");
        let queue = db.keyspace("queue", Default::default).expect("the queue");
        let value = queue.get(key).expect("get").expect("there");
        queue.insert(key, change(&value)).expect("insert");
        db.persist(PersistMode::SyncAll).expect("sync");
    }
}

disk_tests!(FjallStore);

/// The one journal of a small vault.
fn journal(path: &Path) -> PathBuf {
    path.join("fjall/0.jnl")
}

/// A vault with some actions, one commit each, and its journal as it lies on disk.
async fn filled(path: &Path, count: u8) -> Vec<ActionId> {
    let store = FjallStore::open(path).expect("open");
    store.open(at(1)).await.expect("open");
    let mut ids = Vec::new();
    for n in 1..=count {
        let one = action(vec![n; 5000]);
        ids.push(one.record.id);
        store.append(vec![one]).await.expect("append");
    }
    store.close().await.expect("close");
    ids
}

/// Writes over the bytes from the place where `needle` stands last.
fn overwrite(path: &Path, needle: &[u8], with: &[u8]) {
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .open(path)
        .expect("a journal");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("read");
    let at = bytes
        .windows(needle.len())
        .rposition(|window| window == needle);
    let at = at.expect("the needle") as u64;
    file.seek(SeekFrom::Start(at)).expect("seek");
    file.write_all(with).expect("write");
}

async fn pending(store: &FjallStore) -> Vec<ActionId> {
    store.open(at(9)).await.expect("open");
    let page = store.page(Query::first(Part::Pending, 100)).await;
    let page = page.expect("page").records;
    page.into_iter().map(|record| record.id).collect()
}

/// Symptom: after a power cut fjall says `ChecksumMismatch`, and never opens again. Cause: pages reach the disk in any
/// order, so the end of a batch may be there and its middle not. Fix: the torn batch is cut off before.
#[tokio::test]
async fn a_batch_that_is_torn_in_its_middle_goes_and_all_before_it_stays() {
    let temp = tempfile::tempdir().expect("tempdir");
    let ids = filled(temp.path(), 4).await;
    overwrite(&journal(temp.path()), &[4; 4096], &[0; 4096]);
    // Nobody was told of the fourth: the mark knows nothing of it.
    fs::remove_file(temp.path().join("mark")).expect("remove");
    let store = FjallStore::open(temp.path()).expect("open");
    assert_eq!(pending(&store).await, ids[..3]);
    // What comes after is there too, after the next restart.
    let fifth = action(vec![5; 5000]);
    let expected = [&ids[..3], &[fifth.record.id]].concat();
    store.append(vec![fifth]).await.expect("append");
    store.close().await.expect("close");
    let store = FjallStore::open(temp.path()).expect("open");
    assert_eq!(pending(&store).await, expected);
}

/// fjall alone would cut the journal off there, and forget the rest.
#[tokio::test]
async fn damage_before_acknowledged_batches_costs_one_body_and_nothing_is_cut() {
    let temp = tempfile::tempdir().expect("tempdir");
    filled(temp.path(), 4).await;
    let journal = journal(temp.path());
    overwrite(&journal, &[2; 100], &[7; 1]);
    let before = fs::read(&journal).expect("read");
    let store = FjallStore::open(temp.path()).expect("open");
    let opened = store.open(at(2)).await.expect("built anew");
    let (report, counts) = (opened.report, opened.totals.counts);
    let damage = report.damage.expect("told");
    assert!(damage.contains("damaged at byte"), "{damage}");
    assert_eq!((report.recovered, report.without_body), (4, 1));
    assert_eq!((counts.pending, counts.dead), (3, 1));
    store.close().await.expect("close");
    let aside = report.quarantined.expect("moved aside");
    assert_eq!(fs::read(aside.join("fjall/0.jnl")).expect("read"), before);
}

/// fjall alone would take the rest for nothing, and remove it.
#[tokio::test]
async fn a_file_that_fjall_cannot_do_without_is_missed() {
    for name in ["version", "keyspaces/0/current", "keyspaces/1/current"] {
        let temp = tempfile::tempdir().expect("tempdir");
        filled(temp.path(), 2).await;
        fs::remove_file(temp.path().join("fjall").join(name)).expect("remove");
        let store = FjallStore::open(temp.path()).expect("open");
        let opened = store.open(at(2)).await.expect("built anew");
        assert_eq!(opened.totals.counts.pending, 2, "{name}");
        store.close().await.expect("close");
        let aside = opened.report.quarantined.expect("moved aside");
        assert!(journal(&aside).exists(), "{name}");
        assert!(aside.join("fjall/keyspaces/1").exists(), "{name}");
    }
}

#[tokio::test]
async fn a_creation_that_was_cut_off_is_moved_aside() {
    let temp = tempfile::tempdir().expect("tempdir");
    fs::create_dir(temp.path().join("fjall")).expect("create");
    fs::write(temp.path().join("fjall/0.jnl"), "half").expect("write");
    let store = FjallStore::open(temp.path()).expect("open");
    store.open(at(1)).await.expect("open");
    store.append(vec![action(vec![1])]).await.expect("append");
    assert_eq!(names(&temp.path().join("quarantine")).len(), 1);
}

/// Goal: what fjall does behind a commit stops the store when it fails. Method: no directory for its tables, and more
/// commits than stay in memory.
#[tokio::test]
async fn a_failure_in_the_background_poisons() {
    let temp = tempfile::tempdir().expect("tempdir");
    let store = FjallStore::open(temp.path()).expect("open");
    store.open(at(1)).await.expect("open");
    fs::remove_dir_all(temp.path().join("fjall/keyspaces/1/tables")).expect("remove");
    let mut failed = None;
    for _ in 0..500 {
        let batch = (0..64).map(|_| action(vec![1; 8000])).collect();
        if let Err(error) = store.append(batch).await {
            failed = Some(error);
            break;
        }
    }
    assert_eq!(failed.expect("a failure").kind(), ErrorKind::Storage);
    let next = store.append(vec![action(vec![1])]).await;
    assert_eq!(next.expect_err("poisoned").kind(), ErrorKind::Poisoned);
    store.close().await.expect("close");
}
