//! Somebody changes the bytes below a sealed store, checksums included: it is found, and only what was changed is lost.

use bytes::Bytes;
use syncvault::action::{Frame, FrameKind, Record};
use syncvault::store::crypt::Key;
use syncvault::store::{Amend, Find, Part, Query, Store};
use syncvault::{ActionId, ErrorKind};

use super::{Place, add, lease};

/// What is stored of an action that was never tried: its record, and its sealed body.
struct Stored {
    record: Record,
    body: Bytes,
}

fn read(place: &Place, id: ActionId) -> Stored {
    let bytes = place.get(b'b', id).expect("a birth");
    let (_, length) = Frame::decode_prefix(&bytes).expect("a frame");
    let record = Record::decode(bytes.slice(..length)).expect("a record");
    let body = Frame::decode(bytes.slice(length..))
        .expect("a body")
        .content;
    Stored { record, body }
}

fn write(place: &Place, stored: &Stored) {
    let id = stored.record.id;
    let mut bytes = stored.record.encode().expect("encode");
    let body = Frame::encode(FrameKind::Body, id, 1, &serde_json::json!({}), &stored.body);
    bytes.extend(body.expect("encode"));
    place.put(b'b', id, bytes);
}

fn flipped(bytes: &Bytes, at: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes.into()
}

type Change = fn(&mut Stored, &mut Stored);

/// What somebody does to two stored actions.
const CHANGES: [(&str, Change); 14] = [
    ("contents swapped", |a, b| {
        std::mem::swap(&mut a.record.content, &mut b.record.content);
    }),
    ("bodies swapped", |a, b| {
        std::mem::swap(&mut a.body, &mut b.body)
    }),
    ("a body as the content", |a, b| {
        a.record.content = a.body.clone();
        b.record.content = b.body.clone();
    }),
    ("a content as the body", |a, b| {
        a.body = a.record.content.clone();
        b.body = b.record.content.clone();
    }),
    ("a flipped version", |a, b| {
        a.record.content = flipped(&a.record.content, 0);
        b.body = flipped(&b.body, 0);
    }),
    ("a flipped key id", |a, b| {
        a.record.content = flipped(&a.record.content, 1);
        b.body = flipped(&b.body, 1);
    }),
    ("a flipped nonce", |a, b| {
        a.record.content = flipped(&a.record.content, 10);
        b.body = flipped(&b.body, 10);
    }),
    ("a flipped text", |a, b| {
        a.record.content = flipped(&a.record.content, 40);
        b.body = flipped(&b.body, 30);
    }),
    ("a cut value", |a, b| {
        a.record.content.truncate(60);
        b.body.truncate(20);
    }),
    ("no value", |a, b| {
        a.record.content.clear();
        b.body.clear();
    }),
    ("another principal", |a, b| {
        std::mem::swap(&mut a.record.principal, &mut b.record.principal);
    }),
    ("another origin", |a, b| {
        a.record.origin = syncvault::action::Origin::from_stored("https://evil.example:443");
        b.record.origin = a.record.origin.clone();
    }),
    ("another request under the key", |a, b| {
        std::mem::swap(&mut a.record.fingerprint, &mut b.record.fingerprint);
    }),
    ("in clear", |a, b| {
        for stored in [a, b] {
            stored.record.content = Bytes::from_static(b"{\"method\":\"POST\"}");
            stored.record.head_bytes = None;
        }
    }),
];

/// Goal: no change of a stored value passes. Method: two actions are changed, a third is not; then all are leased.
#[tokio::test]
async fn what_was_changed_is_set_aside_and_nothing_else() {
    for (what, change) in CHANGES {
        let (place, key) = (Place::default(), Key::generate());
        let (store, _) = place.open(key.clone()).await.expect("open");
        let ids = [
            add(&store, "ann", "a").await,
            add(&store, "ben", "b").await,
            add(&store, "ann", "c").await,
        ];
        let (mut a, mut b) = (read(&place, ids[0]), read(&place, ids[1]));
        change(&mut a, &mut b);
        write(&place, &a);
        write(&place, &b);
        let (store, opened) = place.open(key).await.expect("open");
        assert!(opened.is_balanced, "{what}");
        let advanced = lease(&store).await;
        let leased: Vec<_> = advanced.leased.iter().map(|l| l.record.id).collect();
        assert_eq!(leased, [ids[2]], "{what}");
        let totals = store.totals().await.expect("totals");
        assert_eq!(
            (totals.ledger.evicted, totals.counts.pending),
            (2, 1),
            "{what}"
        );
        assert!(totals.ledger.is_balanced(), "{what}");
        assert!(
            place.get(b'q', ids[0]).is_none(),
            "keys of quarantine hold the old key"
        );
        let set_aside = place.all().into_iter().filter(|(key, _)| key[0] == b'q');
        assert!(set_aside.count() >= 2, "{what}: the bytes are kept");
    }
}

/// Reads do not brick either: a page leaves the damaged one out, a look at it alone is an error.
#[tokio::test]
async fn a_page_leaves_out_what_does_not_open() {
    let (place, key) = (Place::default(), Key::generate());
    let (store, _) = place.open(key.clone()).await.expect("open");
    let (bad, good) = (add(&store, "ann", "a").await, add(&store, "ann", "b").await);
    let mut stored = read(&place, bad);
    stored.record.content = flipped(&stored.record.content, 50);
    write(&place, &stored);
    let (store, _) = place.open(key).await.expect("open");
    let error = store.get(Find::Id(bad)).await.expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let page = store
        .page(Query::first(Part::Pending, 10))
        .await
        .expect("page");
    let ids: Vec<_> = page.records.iter().map(|record| record.id).collect();
    assert_eq!(ids, [good]);
    assert!(store.get(Find::Id(bad)).await.expect("gone").is_none());
}

#[tokio::test]
async fn an_answer_of_another_action_is_not_told() {
    let (place, key) = (Place::default(), Key::generate());
    let (store, _) = place.open(key.clone()).await.expect("open");
    let mut ids = Vec::new();
    for lane in ["a", "b"] {
        let id = add(&store, "ann", lane).await;
        let leased = lease(&store).await.leased.remove(0);
        let delivered = syncvault::decide::Settlement::Delivered { status: 200 };
        let wire = syncvault::WireState::Answered;
        let settle = syncvault::store::Settle::of(&leased.record, delivered, wire);
        let retention = syncvault::store::Retention::default();
        let mut step = syncvault::store::Advance::new(super::NOW, retention);
        step.settle.push(settle.expect("in flight"));
        store.advance(step).await.expect("advance");
        let answer = Bytes::from(format!("answer in {lane}"));
        store
            .amend(Amend::KeepAnswer { id, answer })
            .await
            .expect("kept");
        ids.push(id);
    }
    let other = Frame::decode(place.get(b'p', ids[1]).expect("an answer")).expect("a frame");
    let fields = serde_json::json!({});
    let moved = Frame::encode(FrameKind::Answer, ids[0], 1, &fields, &other.content);
    place.put(b'p', ids[0], moved.expect("encode"));
    let error = store.answer(ids[0]).await.expect_err("moved");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let own = store.answer(ids[1]).await.expect("own");
    assert_eq!(own.as_deref(), Some(&b"answer in b"[..]));
}
