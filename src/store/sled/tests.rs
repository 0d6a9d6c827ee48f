//! What only a store on disk can show: restarts, files, modes, damage.

use super::*;
use crate::action::{Origin, Piece, WireState};
use crate::decide::Settlement;
use crate::store::{Lease, Part, Retention, Settle};

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn action(body: Vec<u8>) -> Append {
    let origin = Origin::from_stored("http://a.example:80");
    let content = Bytes::from_static(b"{}");
    let record = Record::new(
        ActionId::new(),
        Lane::default_lane(),
        origin,
        content,
        at(1),
    );
    Append::new(record, Bytes::from(body), at(1))
}

fn lease(now: u64) -> Advance {
    let mut advance = Advance::new(at(now), Retention::default());
    advance.lease = Some(Lease {
        slots: 1,
        ..Lease::default()
    });
    advance
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("list");
    let name = |entry: io::Result<fs::DirEntry>| entry.expect("entry").file_name();
    entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let temp = tempfile::tempdir().expect("tempdir");
    let store = SledStore::open(temp.path()).expect("open");
    assert_eq!(store.open(at(1)).await.expect("open").epoch, 1);
    let batch: Vec<Append> = (0..3).map(|n| action(vec![n; 1000])).collect();
    let ids: Vec<ActionId> = batch.iter().map(|one| one.record.id).collect();
    store.append(batch).await.expect("append");
    let leased = store.advance(lease(2)).await.expect("advance").leased;
    assert_eq!(leased[0].record.id, ids[0]);
    assert_eq!(leased[0].body, Body::Bytes(vec![0; 1000].into()));
    store.close().await.expect("close");

    let store = SledStore::open(temp.path()).expect("open again");
    let opened = store.open(at(3)).await.expect("open");
    assert_eq!((opened.epoch, opened.reclaimed), (2, vec![ids[0]]));
    assert!(opened.is_balanced);
    assert_eq!(opened.totals.counts.pending, 3);
    let again = store.advance(lease(4)).await.expect("advance").leased;
    assert_eq!(again[0].record.id, ids[0]);
    assert_eq!(again[0].wire_before, WireState::MaybeSent);
    let page = store
        .page(Query::first(Part::Pending, 10))
        .await
        .expect("page");
    let paged: Vec<ActionId> = page.records.iter().map(|r| r.id).collect();
    assert_eq!(paged, ids);
}

#[tokio::test]
async fn a_large_body_has_a_file_as_long_as_it_is_wanted() {
    let temp = tempfile::tempdir().expect("tempdir");
    let bodies = temp.path().join("bodies");
    let store = SledStore::open(temp.path()).expect("open");
    store.open(at(1)).await.expect("open");
    let large = action(vec![9; 300_000]);
    let again = large.clone();
    let mut full = action(vec![9; 300_000]);
    full.limits.actions_max = 1;
    let id = large.record.id;
    let done = store
        .append(vec![large, full, again])
        .await
        .expect("append");
    assert!(matches!(done[0], Appended::Queued { .. }));
    assert!(matches!(done[1], Appended::Full { .. }));
    assert!(matches!(done[2], Appended::Known { .. }));
    // Reading goes behind the removal of what was refused.
    let body = store.body(id).await.expect("body").expect("there");
    assert_eq!(body, Body::Bytes(vec![9; 300_000].into()));
    assert_eq!(names(&bodies).len(), 1);
    let leased = store
        .advance(lease(2))
        .await
        .expect("lease")
        .leased
        .remove(0);
    assert_eq!(leased.body.len(), 300_000);

    let delivered = Settlement::Delivered { status: 200 };
    let mut settle = Settle::of(&leased.record, delivered, WireState::Answered).expect("in flight");
    settle.answer = Some(vec![3; 20_000].into());
    let mut advance = Advance::new(at(3), Retention::default());
    advance.settle = vec![settle];
    store.advance(advance).await.expect("settle");
    let answer = store.answer(id).await.expect("answer");
    assert_eq!(answer.as_deref(), Some(&[3; 20_000][..]));
    let left = names(&bodies);
    assert!(left.len() == 1 && left[0].ends_with(".answer"), "{left:?}");
    let mut forget = Advance::new(at(3), Retention::default());
    forget.retention.count = 0;
    store.advance(forget).await.expect("trim");
    assert!(store.get(Find::Id(id)).await.expect("get").is_none());
    assert!(names(&bodies).is_empty());
}

#[tokio::test]
async fn orphans_are_swept_at_open_and_live_files_stay() {
    let temp = tempfile::tempdir().expect("tempdir");
    let bodies = temp.path().join("bodies");
    let store = SledStore::open(temp.path()).expect("open");
    store.open(at(1)).await.expect("open");
    let large = action(vec![9; 20_000]);
    let id = large.record.id;
    store.append(vec![large]).await.expect("append");
    store.close().await.expect("close");
    let live = names(&bodies).remove(0);
    let orphan = format!("{}.{}.body", ActionId::new(), "0".repeat(16));
    fs::copy(bodies.join(&live), bodies.join(&orphan)).expect("copy");
    let older = live.replace(&live[37..53], "00000000000000aa");
    fs::copy(bodies.join(&live), bodies.join(&older)).expect("copy");

    let store = SledStore::open(temp.path()).expect("open");
    store.open(at(2)).await.expect("open");
    assert!(store.body(id).await.expect("body").is_some());
    assert_eq!(names(&bodies), std::slice::from_ref(&live));

    fs::write(bodies.join(&live), b"damaged").expect("write");
    let error = store.body(id).await.expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let leased = store
        .advance(lease(3))
        .await
        .expect("lease")
        .leased
        .remove(0);
    let Body::File(file) = leased.body else {
        panic!("a damaged body is not given as bytes")
    };
    assert_eq!(file.path, bodies.join(&live));
}

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

#[tokio::test]
async fn a_second_handle_is_refused_until_the_first_is_closed() {
    let temp = tempfile::tempdir().expect("tempdir");
    let store = SledStore::open(temp.path()).expect("open");
    let error = SledStore::open(temp.path()).expect_err("locked");
    assert_eq!(error.kind(), ErrorKind::Locked);
    store.close().await.expect("close");
    store.close().await.expect("closing twice is fine");
    SledStore::open(temp.path()).expect("open");
}

#[tokio::test]
async fn a_lost_journal_is_told_and_what_sled_holds_goes_on() {
    let temp = tempfile::tempdir().expect("tempdir");
    let store = SledStore::open(temp.path()).expect("open");
    store.open(at(1)).await.expect("open");
    let kept = action(vec![1]);
    let id = kept.record.id;
    store.append(vec![kept]).await.expect("append");
    store.close().await.expect("close");
    for name in ["a", "b"] {
        fs::remove_file(temp.path().join("journal").join(name)).expect("remove");
    }
    let store = SledStore::open(temp.path()).expect("open");
    let opened = store.open(at(1)).await.expect("built anew");
    assert_eq!(opened.report.recovered, 1, "{opened:?}");
    assert_eq!(opened.report.salvaged, 0, "the mark proves it");
    assert_eq!(opened.totals.counts.pending, 1);
    let body = store.body(id).await.expect("body").expect("kept");
    assert_eq!(body, Body::Bytes(vec![1].into()));
    let opened = store.open(at(2)).await.expect("again");
    assert!(opened.report.is_clean(), "told once");
}

#[cfg(unix)]
#[tokio::test]
async fn everything_in_the_directory_is_ours_alone() {
    use std::os::unix::fs::PermissionsExt;
    fn check(dir: &Path) {
        for name in names(dir) {
            let path = dir.join(name);
            let found = fs::metadata(&path).expect("metadata");
            let mode = found.permissions().mode() & 0o777;
            assert_eq!(mode, if found.is_dir() { 0o700 } else { 0o600 }, "{path:?}");
            if found.is_dir() {
                check(&path);
            }
        }
    }
    let temp = tempfile::tempdir().expect("tempdir");
    let store = SledStore::open(temp.path()).expect("open");
    store.open(at(1)).await.expect("open");
    store
        .append(vec![action(vec![1; 20_000])])
        .await
        .expect("append");
    check(temp.path());
    store.close().await.expect("close");
    check(temp.path());
}

#[cfg(unix)]
#[tokio::test]
async fn a_directory_that_was_replaced_acknowledges_nothing() {
    let temp = tempfile::tempdir().expect("tempdir");
    let path = temp.path().join("vault");
    let store = SledStore::open(&path).expect("open");
    store.open(at(1)).await.expect("open");
    store.append(vec![action(vec![1])]).await.expect("append");
    fs::rename(&path, temp.path().join("moved")).expect("rename");
    let error = store.append(vec![action(vec![2])]).await;
    assert_eq!(error.expect_err("gone").kind(), ErrorKind::Storage);
    let error = store.append(vec![action(vec![3])]).await;
    assert_eq!(error.expect_err("poisoned").kind(), ErrorKind::Poisoned);
    store.close().await.expect("close");
}

fn noise(bytes: usize) -> Vec<u8> {
    (0u32..).flat_map(u32::to_le_bytes).take(bytes).collect()
}

async fn snapshot_of(store: &SledStore, append: &Append, bytes: usize) -> Snapshot {
    let source = Source::reader(io::Cursor::new(noise(bytes)), u64::MAX);
    let snapshot = store.snapshot(append.record.id, source).await;
    snapshot.expect("snapshot")
}

async fn append_snapshot(store: &SledStore, bytes: usize) -> ActionId {
    let mut append = action(Vec::new());
    let snapshot = snapshot_of(store, &append, bytes).await;
    append.body = snapshot.body().clone();
    snapshot.hand_over();
    let id = append.record.id;
    store.append(vec![append]).await.expect("append");
    id
}

#[tokio::test]
async fn a_form_owns_all_its_files_and_they_go_with_it() {
    let temp = tempfile::tempdir().expect("tempdir");
    let bodies = temp.path().join("bodies");
    let store = SledStore::open(temp.path()).expect("open");
    store.open(at(1)).await.expect("open");
    let mut form = action(Vec::new());
    let one = snapshot_of(&store, &form, 20_000).await;
    let two = snapshot_of(&store, &form, 30_000).await;
    let mut pieces = vec![Piece::Bytes(vec![1; 6_000].into())];
    pieces.extend(one.body().clone().into_pieces());
    pieces.push(Piece::Bytes(vec![2; 7_000].into()));
    pieces.extend(two.body().clone().into_pieces());
    form.body = Body::Pieces(pieces);
    [one, two].into_iter().for_each(Snapshot::hand_over);
    let (id, again) = (form.record.id, form.clone());
    store.append(vec![form]).await.expect("append");
    // Two files, and a piece that the engine is too small for.
    assert_eq!(names(&bodies).len(), 3);
    let known = store.append(vec![again]).await.expect("append").remove(0);
    assert!(matches!(known, Appended::Known { .. }), "{known:?}");
    store.close().await.expect("close");

    let store = SledStore::open(temp.path()).expect("open");
    store.open(at(2)).await.expect("open");
    let body = store.body(id).await.expect("body").expect("pending");
    assert_eq!(body.len(), 63_000);
    for file in body.files() {
        assert_eq!(
            fs::metadata(&file.path).expect("there").len(),
            file.bytes,
            "{file:?}"
        );
    }
    store
        .amend(Amend::Cancel { id, now: at(3) })
        .await
        .expect("cancel");
    store.close().await.expect("close");
    assert_eq!(names(&bodies), [""; 0]);
}

/// Whoever asks after a failed sync could be told a lie, so nobody is told anything.
#[tokio::test]
async fn a_failed_sync_of_bodies_poisons() {
    let temp = tempfile::tempdir().expect("tempdir");
    let store = SledStore::open(temp.path()).expect("open");
    store.open(at(1)).await.expect("open");
    let mut append = action(Vec::new());
    let snapshot = snapshot_of(&store, &append, 20_000).await;
    append.body = snapshot.body().clone();
    snapshot.hand_over();
    fs::remove_dir_all(temp.path().join("bodies")).expect("remove");
    let error = store.append(vec![append]).await.expect_err("no directory");
    assert_eq!(error.kind(), ErrorKind::Storage);
    let small = store.append(vec![action(vec![1])]).await;
    assert_eq!(small.expect_err("poisoned").kind(), ErrorKind::Poisoned);
    let idle = store.advance(lease(2)).await.expect_err("poisoned");
    assert_eq!(idle.kind(), ErrorKind::Poisoned);
}

#[tokio::test]
async fn a_foreign_file_is_not_taken_for_a_snapshot() {
    let temp = tempfile::tempdir().expect("tempdir");
    let foreign = temp.path().join("foreign");
    fs::write(&foreign, "mine").expect("write");
    let store = SledStore::open(temp.path().join("vault")).expect("open");
    store.open(at(1)).await.expect("open");
    let mut append = action(Vec::new());
    append.body = Body::File(BodyFile {
        path: foreign.clone(),
        bytes: 4,
        crc32c: 0,
    });
    let error = store.append(vec![append]).await.expect_err("foreign");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(foreign.exists());
}

#[tokio::test]
async fn orphans_are_set_aside_when_the_store_was_built_anew() {
    let temp = tempfile::tempdir().expect("tempdir");
    let (bodies, aside) = (temp.path().join("bodies"), temp.path().join("quarantine"));
    let store = SledStore::open(temp.path()).expect("open");
    store.open(at(1)).await.expect("open");
    let id = append_snapshot(&store, 20_000).await;
    store.close().await.expect("close");
    let orphan = format!("{}.{}.body", ActionId::new(), "0".repeat(16));
    fs::write(bodies.join(&orphan), "lost").expect("write");
    unbalance(temp.path());

    let store = SledStore::open(temp.path()).expect("open");
    let opened = store.open(at(2)).await.expect("open");
    assert!(
        opened.is_balanced && !opened.report.is_clean(),
        "{opened:?}"
    );
    assert!(store.body(id).await.expect("body").is_some());
    store.close().await.expect("close");
    assert_eq!(names(&bodies).len(), 1);
    assert!(names(&aside).contains(&orphan), "beside what was moved");
}

/// Takes an action away from the ledger, behind the store's back.
fn unbalance(path: &Path) {
    let config = sled::Config::new()
        .path(path.join("sled"))
        .segment_size(SEGMENT_BYTES);
    let db = open_patiently(&config).expect("open");
    let totals = db.get(b"mtotals").expect("get").expect("totals");
    let mut row: serde_json::Value = serde_json::from_slice(&totals).expect("JSON");
    row["ledger"]["enqueued"] = 7.into();
    db.insert(b"mtotals", row.to_string().as_bytes())
        .expect("insert");
    db.flush().expect("flush");
}
