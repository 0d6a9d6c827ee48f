//! Bodies that are taken from a reader: the same bytes come back, of files and of pieces, whatever becomes of the source.

use std::io::{self, Cursor, Read};

use bytes::Bytes;
use futures_util::TryStreamExt;

use super::StoreFactory;
use super::draft::Draft;
use super::rig::{Rig, rig};
use crate::action::{ActionId, Body, Piece, Record};
use crate::error::Result;
use crate::store::{Appended, Snapshot, Source, Store};

const LIMIT: u64 = 4 * 1024 * 1024;

/// Bytes that do not repeat in a simple way.
fn noise(bytes: usize) -> Vec<u8> {
    (0u32..).flat_map(u32::to_le_bytes).take(bytes).collect()
}

async fn snapshot<F: StoreFactory>(rig: &Rig<'_, F>, id: ActionId, content: &[u8]) -> Snapshot {
    let source = Source::reader(Cursor::new(content.to_vec()), LIMIT);
    let snapshot = rig.store.snapshot(id, source).await.expect("snapshot");
    assert_eq!(snapshot.body().len(), content.len() as u64);
    assert_eq!(snapshot.digest(), blake3::hash(content).as_bytes());
    snapshot
}

/// The draft with that snapshot for a body, handed over.
fn with(draft: Draft, snapshot: Snapshot) -> Draft {
    let body = snapshot.body().clone();
    snapshot.hand_over();
    draft.kept(body)
}

/// The bytes of a body, as an attempt reads them.
pub(super) async fn read(store: &dyn Store, body: Body) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    for piece in body.into_pieces() {
        match piece {
            Piece::Bytes(bytes) => whole.extend_from_slice(&bytes),
            Piece::File(file) => {
                let chunks: Vec<Bytes> = store.chunks(file.clone()).await?.try_collect().await?;
                let read = chunks.concat();
                assert_eq!(read.len() as u64, file.bytes);
                assert_eq!(crc32c::crc32c(&read), file.crc32c);
                whole.extend_from_slice(&read);
            }
        }
    }
    Ok(whole)
}

async fn kept<F: StoreFactory>(rig: &Rig<'_, F>, record: &Record) -> Vec<u8> {
    let body = rig.store.body(record.id).await.expect("body");
    let body = body.expect("a pending action has a body");
    read(&*rig.store, body).await.expect("a whole body")
}

/// Of every size: by `body`, and with the lease.
pub async fn a_snapshot_comes_back_byte_for_byte(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    for size in [0, 1, 8 * 1024, 8 * 1024 + 1, 1024 * 1024 + 7] {
        let draft = rig.draft("a");
        let snapshot = snapshot(&rig, draft.id(), &noise(size)).await;
        let record = rig.queue(with(draft, snapshot)).await;
        assert_eq!(record.body_bytes, size as u64);
        assert_eq!(kept(&rig, &record).await, noise(size));
        let leased = rig.lease(1).await.remove(0);
        let body = read(&*rig.store, leased.body).await.expect("a whole body");
        assert_eq!(body, noise(size));
        rig.deliver(&leased.record).await;
        assert!(rig.store.body(record.id).await.expect("body").is_none());
    }
}

/// What was acknowledged is there, whole.
pub async fn a_snapshot_survives_a_crash(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let draft = rig.draft("a");
    let snapshot = snapshot(&rig, draft.id(), &noise(200_000)).await;
    let record = rig.queue(with(draft, snapshot)).await;
    let rig = rig.crash().await;
    assert_eq!(kept(&rig, &record).await, noise(200_000));
    let rig = rig.restart().await;
    assert_eq!(kept(&rig, &record).await, noise(200_000));
}

/// A form: bytes and snapshots in any order, also with much between them.
pub async fn a_body_may_be_made_of_pieces(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let draft = rig.draft("a");
    let (mut pieces, mut whole) = (Vec::new(), Vec::new());
    for size in [100, 20_000, 6_000, 9_000, 50_000] {
        let (text, content) = (noise(size / 2), noise(size));
        let snapshot = snapshot(&rig, draft.id(), &content).await;
        pieces.push(Piece::Bytes(text.clone().into()));
        pieces.extend(snapshot.body().clone().into_pieces());
        snapshot.hand_over();
        whole.extend([text, content].concat());
    }
    // Whoever keeps no files is given no pieces: the vault joins what is in memory.
    let has_files = pieces.iter().any(|p| matches!(p, Piece::File(_)));
    let body = match has_files {
        true => Body::Pieces(pieces),
        false => Body::Bytes(whole.clone().into()),
    };
    let record = rig.queue(draft.kept(body)).await;
    assert_eq!(kept(&rig, &record).await, whole);
    let rig = rig.restart().await;
    assert_eq!(kept(&rig, &record).await, whole);
}

/// More than was allowed is not taken, and nothing of it stays.
pub async fn a_snapshot_over_its_limit_is_refused(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let id = ActionId::new();
    let just = Source::reader(io::repeat(1).take(50_000), 50_000);
    drop(
        rig.store
            .snapshot(id, just)
            .await
            .expect("as long as allowed"),
    );
    let endless = Source::reader(io::repeat(1), 50_000);
    rig.store.snapshot(id, endless).await.expect_err("too long");
    rig.queue(rig.draft("a")).await;
}

/// The next call is fine.
pub async fn a_snapshot_that_breaks_off_is_an_error_of_that_call(factory: &impl StoreFactory) {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the source broke"))
        }
    }
    let rig = rig(factory).await;
    let half = Cursor::new(noise(50_000)).chain(Broken);
    let broken = Source::reader(half, LIMIT);
    rig.store
        .snapshot(ActionId::new(), broken)
        .await
        .expect_err("broken");
    let draft = rig.draft("a");
    let snapshot = snapshot(&rig, draft.id(), &noise(50_000)).await;
    let record = rig.queue(with(draft, snapshot)).await;
    assert_eq!(kept(&rig, &record).await, noise(50_000));
}

/// A caller that goes away before the append.
pub async fn a_snapshot_that_no_action_owns_harms_nothing(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let draft = rig.draft("a");
    drop(snapshot(&rig, draft.id(), &noise(50_000)).await);
    snapshot(&rig, ActionId::new(), &noise(50_000))
        .await
        .hand_over();
    let own = snapshot(&rig, draft.id(), &noise(60_000)).await;
    let record = rig.queue(with(draft, own)).await;
    let rig = rig.crash().await;
    assert_eq!(kept(&rig, &record).await, noise(60_000));
}

/// The second of a key goes, with its files; so does the one that comes twice, but not its files.
pub async fn a_refused_snapshot_leaves_the_kept_one(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let draft = rig.draft("a").key("k").fingerprint("same");
    let own = snapshot(&rig, draft.id(), &noise(70_000)).await;
    let draft = with(draft, own);
    let record = rig.queue(draft.clone()).await;
    let second = rig.draft("a").key("k").fingerprint("same");
    let other = snapshot(&rig, second.id(), &noise(70_000)).await;
    for refused in [with(second, other), draft] {
        let appended = rig.append(refused).await;
        assert!(matches!(appended, Appended::Known { .. }), "{appended:?}");
    }
    let rig = rig.restart().await;
    assert_eq!(kept(&rig, &record).await, noise(70_000));
}
