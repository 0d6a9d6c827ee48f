//! What is sled's own: its snapshots, and how to harm it.

use std::fs;

use super::*;
use crate::store::disk_tests::{OnDisk, action, at, disk_tests, names};

impl OnDisk for SledStore {
    const DIR: &str = "sled";

    fn in_dir(path: &Path) -> Result<Self> {
        Self::open(path)
    }

    fn lose_journal(path: &Path) {
        for name in ["a", "b"] {
            fs::remove_file(path.join("journal").join(name)).expect("remove");
        }
    }

    fn tamper(path: &Path, key: &[u8], change: impl FnOnce(&[u8]) -> String) {
        let config = sled::Config::new()
            .path(path.join("sled"))
            .segment_size(SEGMENT_BYTES);
        let db = open_patiently(&config).expect("open");
        let value = db.get(key).expect("get").expect("there");
        db.insert(key, change(&value).as_bytes()).expect("insert");
        db.flush().expect("flush");
    }
}

disk_tests!(SledStore);

#[tokio::test]
async fn a_torn_snapshot_is_moved_aside() {
    let temp = tempfile::tempdir().expect("tempdir");
    let store = SledStore::open(temp.path()).expect("open");
    store.open(at(1)).await.expect("open");
    store.append(vec![action(vec![1])]).await.expect("append");
    store.close().await.expect("close");
    let torn = "snap.00000000000FFFFF.generating";
    fs::write(temp.path().join("sled").join(torn), b"junk").expect("write");
    let store = SledStore::open(temp.path()).expect("open");
    let opened = store.open(at(2)).await.expect("open");
    assert_eq!(opened.totals.counts.pending, 1);
    assert_eq!(names(&temp.path().join("quarantine")).len(), 1);
}
