//! What only a store on disk can show: restarts, files, modes, damage. Each such store runs them: see `disk_tests!`.
#![cfg(any(feature = "fjall", feature = "sled"))]

use std::fs;
use std::io;
use std::path::Path;

use bytes::Bytes;

use super::{
    Advance, Amend, Append, Appended, Find, Lease, Part, Query, Retention, Settle, Snapshot,
    Source, Store,
};
use crate::action::{ActionId, Body, BodyFile, Lane, Origin, Piece, Record, WireState};
use crate::clock::Timestamp;
use crate::decide::Settlement;
use crate::error::{ErrorKind, Result};

/// A store in a directory, as it is opened and harmed here.
pub(super) trait OnDisk: Store + Sized {
    /// Where the engine keeps its files.
    const DIR: &str;

    fn in_dir(path: &Path) -> Result<Self>;

    /// Takes away what holds the newest commits.
    fn lose_journal(path: &Path);

    /// Changes a value in the engine, behind the store's back.
    fn tamper(path: &Path, key: &[u8], change: impl FnOnce(&[u8]) -> String);
}

/// Expands to a test for each of the stories here, on one store.
macro_rules! disk_tests {
    ($store:ty) => {
        crate::store::disk_tests::disk_tests! { $store:
            what_was_acknowledged_is_there_after_a_restart
            a_large_body_has_a_file_as_long_as_it_is_wanted
            orphans_are_swept_at_open_and_live_files_stay
            a_second_handle_is_refused_until_the_first_is_closed
            a_lost_journal_is_told_and_what_is_left_goes_on
            a_form_owns_all_its_files_and_they_go_with_it
            a_failed_sync_of_bodies_poisons
            a_foreign_file_is_not_taken_for_a_snapshot
            orphans_are_set_aside_when_the_store_was_built_anew
            a_newer_format_is_refused_and_not_touched
        }
        #[cfg(unix)]
        crate::store::disk_tests::disk_tests! { $store:
            everything_in_the_directory_is_ours_alone
            a_directory_that_was_replaced_acknowledges_nothing
            a_symbolic_link_inside_is_refused
        }
    };
    ($store:ty: $($story:ident)*) => {$(
        #[tokio::test]
        async fn $story() {
            crate::store::disk_tests::$story::<$store>().await;
        }
    )*};
}
pub(super) use disk_tests;

pub(super) fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

pub(super) fn action(body: Vec<u8>) -> Append {
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

pub(super) fn lease(now: u64) -> Advance {
    let mut advance = Advance::new(at(now), Retention::default());
    advance.lease = Some(Lease {
        slots: 1,
        ..Lease::default()
    });
    advance
}

pub(super) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("list");
    let name = |entry: io::Result<fs::DirEntry>| entry.expect("entry").file_name();
    entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect()
}

pub(super) async fn what_was_acknowledged_is_there_after_a_restart<S: OnDisk>() {
    let temp = tempfile::tempdir().expect("tempdir");
    let store = S::in_dir(temp.path()).expect("open");
    assert_eq!(store.open(at(1)).await.expect("open").epoch, 1);
    let batch: Vec<Append> = (0..3).map(|n| action(vec![n; 1000])).collect();
    let ids: Vec<ActionId> = batch.iter().map(|one| one.record.id).collect();
    store.append(batch).await.expect("append");
    let leased = store.advance(lease(2)).await.expect("advance").leased;
    assert_eq!(leased[0].record.id, ids[0]);
    assert_eq!(leased[0].body, Body::Bytes(vec![0; 1000].into()));
    store.close().await.expect("close");

    let store = S::in_dir(temp.path()).expect("open again");
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

pub(super) async fn a_large_body_has_a_file_as_long_as_it_is_wanted<S: OnDisk>() {
    let temp = tempfile::tempdir().expect("tempdir");
    let bodies = temp.path().join("bodies");
    let store = S::in_dir(temp.path()).expect("open");
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

pub(super) async fn orphans_are_swept_at_open_and_live_files_stay<S: OnDisk>() {
    let temp = tempfile::tempdir().expect("tempdir");
    let bodies = temp.path().join("bodies");
    let store = S::in_dir(temp.path()).expect("open");
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

    let store = S::in_dir(temp.path()).expect("open");
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

pub(super) async fn a_second_handle_is_refused_until_the_first_is_closed<S: OnDisk>() {
    let temp = tempfile::tempdir().expect("tempdir");
    let store = S::in_dir(temp.path()).expect("open");
    let error = S::in_dir(temp.path()).expect_err("locked");
    assert_eq!(error.kind(), ErrorKind::Locked);
    store.close().await.expect("close");
    store.close().await.expect("closing twice is fine");
    S::in_dir(temp.path()).expect("open");
}

pub(super) async fn a_lost_journal_is_told_and_what_is_left_goes_on<S: OnDisk>() {
    let temp = tempfile::tempdir().expect("tempdir");
    let store = S::in_dir(temp.path()).expect("open");
    store.open(at(1)).await.expect("open");
    store.append(vec![action(vec![1])]).await.expect("append");
    store.close().await.expect("close");
    S::lose_journal(temp.path());

    let store = S::in_dir(temp.path()).expect("open");
    let opened = store.open(at(2)).await.expect("built anew");
    let report = opened.report;
    assert!(report.damage.is_some() && opened.is_balanced, "{report:?}");
    assert_eq!(report.recovered + report.missing, 1, "{report:?}");
    assert_eq!(opened.totals.counts.pending, report.recovered);
    let quarantined = report.quarantined.expect("moved aside");
    assert!(quarantined.join(S::DIR).exists());
    store.append(vec![action(vec![2])]).await.expect("append");
    let opened = store.open(at(3)).await.expect("again");
    assert!(opened.report.is_clean(), "told once");
    store.close().await.expect("close");
    let store = S::in_dir(temp.path()).expect("open");
    let opened = store.open(at(4)).await.expect("open");
    assert!(opened.report.is_clean() && opened.is_balanced);
}

#[cfg(unix)]
pub(super) async fn everything_in_the_directory_is_ours_alone<S: OnDisk>() {
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
    let store = S::in_dir(temp.path()).expect("open");
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
pub(super) async fn a_directory_that_was_replaced_acknowledges_nothing<S: OnDisk>() {
    let temp = tempfile::tempdir().expect("tempdir");
    let path = temp.path().join("vault");
    let store = S::in_dir(&path).expect("open");
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

async fn snapshot_of(store: &impl Store, append: &Append, bytes: usize) -> Snapshot {
    let source = Source::reader(io::Cursor::new(noise(bytes)), u64::MAX);
    let snapshot = store.snapshot(append.record.id, source).await;
    snapshot.expect("snapshot")
}

async fn append_snapshot(store: &impl Store, bytes: usize) -> ActionId {
    let mut append = action(Vec::new());
    let snapshot = snapshot_of(store, &append, bytes).await;
    append.body = snapshot.body().clone();
    snapshot.hand_over();
    let id = append.record.id;
    store.append(vec![append]).await.expect("append");
    id
}

pub(super) async fn a_form_owns_all_its_files_and_they_go_with_it<S: OnDisk>() {
    let temp = tempfile::tempdir().expect("tempdir");
    let bodies = temp.path().join("bodies");
    let store = S::in_dir(temp.path()).expect("open");
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

    let store = S::in_dir(temp.path()).expect("open");
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
pub(super) async fn a_failed_sync_of_bodies_poisons<S: OnDisk>() {
    let temp = tempfile::tempdir().expect("tempdir");
    let store = S::in_dir(temp.path()).expect("open");
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

pub(super) async fn a_foreign_file_is_not_taken_for_a_snapshot<S: OnDisk>() {
    let temp = tempfile::tempdir().expect("tempdir");
    let foreign = temp.path().join("foreign");
    fs::write(&foreign, "mine").expect("write");
    let store = S::in_dir(&temp.path().join("vault")).expect("open");
    store.open(at(1)).await.expect("open");
    let mut append = action(Vec::new());
    append.body = Body::File(BodyFile::new(&foreign, 4, 0));
    let error = store.append(vec![append]).await.expect_err("foreign");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(foreign.exists());
}

pub(super) async fn orphans_are_set_aside_when_the_store_was_built_anew<S: OnDisk>() {
    let temp = tempfile::tempdir().expect("tempdir");
    let (bodies, aside) = (temp.path().join("bodies"), temp.path().join("quarantine"));
    let store = S::in_dir(temp.path()).expect("open");
    store.open(at(1)).await.expect("open");
    let id = append_snapshot(&store, 20_000).await;
    store.close().await.expect("close");
    let orphan = format!("{}.{}.body", ActionId::new(), "0".repeat(16));
    fs::write(bodies.join(&orphan), "lost").expect("write");
    S::tamper(temp.path(), b"mtotals", |totals| {
        let mut row: serde_json::Value = serde_json::from_slice(totals).expect("JSON");
        row["ledger"]["enqueued"] = 7.into();
        row.to_string()
    });

    let store = S::in_dir(temp.path()).expect("open");
    let opened = store.open(at(2)).await.expect("open");
    assert!(opened.is_balanced && !opened.report.is_clean());
    assert!(store.body(id).await.expect("body").is_some());
    store.close().await.expect("close");
    assert_eq!(names(&bodies).len(), 1);
    assert!(names(&aside).contains(&orphan), "beside what was moved");
}

pub(super) async fn a_newer_format_is_refused_and_not_touched<S: OnDisk>() {
    let temp = tempfile::tempdir().expect("tempdir");
    let store = S::in_dir(temp.path()).expect("open");
    store.open(at(1)).await.expect("open");
    let kept = action(vec![1]);
    let id = kept.record.id;
    store.append(vec![kept]).await.expect("append");
    store.close().await.expect("close");
    S::tamper(temp.path(), b"mformat", |_| "2".to_owned());
    let store = S::in_dir(temp.path()).expect("the directory is ours");
    for _ in 0..2 {
        let error = store.open(at(2)).await.expect_err("newer");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("newer version"), "{error}");
    }
    store.close().await.expect("close");

    S::tamper(temp.path(), b"mformat", |_| "1".to_owned());
    let store = S::in_dir(temp.path()).expect("open");
    let opened = store.open(at(3)).await.expect("open");
    assert_eq!((opened.epoch, opened.totals.counts.pending), (2, 1));
    assert!(store.body(id).await.expect("body").is_some());
}

#[cfg(unix)]
pub(super) async fn a_symbolic_link_inside_is_refused<S: OnDisk>() {
    let temp = tempfile::tempdir().expect("tempdir");
    let store = S::in_dir(temp.path()).expect("open");
    store.open(at(1)).await.expect("open");
    store.close().await.expect("close");
    let link = temp.path().join(S::DIR).join("link");
    std::os::unix::fs::symlink("/etc/hostname", link).expect("a link");
    let store = S::in_dir(temp.path()).expect("the directory is ours");
    let error = store.open(at(2)).await.expect_err("a link");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
