//! A store with an action in each state: what is carried, kept as golden and examined.

use std::io::Cursor;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use syncvault::action::{Body, Lane, Origin, Piece, Record};
use syncvault::clock::Timestamp;
use syncvault::decide::{Counted, DeadLane, Gate, GateKey, GateReason, Settlement};
use syncvault::store::{
    Advance, Amend, Append, Appended, Lease, Leased, Opened, Part, Query, Retention, Settle,
    Source, Store,
};
use syncvault::{ActionId, Answer, DeadReason, StoredRequest, WireState};

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

/// Ids that are the same in every run.
pub(crate) fn id(number: u8) -> ActionId {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&NOW.as_millis().to_be_bytes()[2..]);
    bytes[6] = 0x70;
    bytes[8] = 0x80;
    bytes[15] = number;
    ActionId::from_bytes(bytes)
}

fn at(millis: u64) -> Timestamp {
    NOW.after(Duration::from_millis(millis))
}

fn append(number: u8, lane: &str, change: impl FnOnce(&mut Append)) -> Append {
    let url = format!("https://a.example/{lane}?no={number}");
    let url = syncvault::reqwest::Url::parse(&url).expect("url");
    let origin = Origin::of(&url).expect("origin");
    let mut request = StoredRequest::new(http::Method::POST, url);
    request.tag = Some(format!("tag-{number}"));
    let content = request.encode().expect("encode").into();
    let lane = Lane::new(lane).expect("lane");
    let mut record = Record::new(id(number), lane, origin, content, NOW);
    record.fingerprint = format!("fingerprint-{number}");
    record.key = Some(format!("key-{number}"));
    let body = Bytes::from(format!("body of {number}"));
    let mut append = Append::new(record, body, NOW);
    change(&mut append);
    append
}

async fn add(store: &dyn Store, append: Append) {
    let appended = store.append(vec![append]).await.expect("append").pop();
    assert!(
        matches!(appended, Some(Appended::Queued { .. })),
        "{appended:?}"
    );
}

fn slots(slots: usize) -> Lease {
    let mut lease = Lease::default();
    lease.slots = slots;
    lease
}

async fn lease(store: &dyn Store, now: Timestamp) -> Vec<Leased> {
    let mut step = Advance::new(now, Retention::default());
    step.lease = Some(slots(100));
    store.advance(step).await.expect("advance").leased
}

async fn settle(store: &dyn Store, result: Settlement, answer: Option<Answer>) {
    let leased = lease(store, NOW).await;
    assert_eq!(leased.len(), 1, "one at a time: {leased:?}");
    let record = &leased[0].record;
    let wire = match &answer {
        Some(_) => WireState::Answered,
        None => WireState::MaybeSent,
    };
    let mut settle = Settle::of(record, result, wire).expect("in flight");
    settle.status = answer.as_ref().map(|answer| answer.status);
    settle.error = answer
        .is_none()
        .then(|| "the answer did not come".to_owned());
    settle.answer = answer.map(|answer| answer.encode(record.id).expect("encode"));
    let mut step = Advance::new(at(10), Retention::default());
    step.settle.push(settle);
    let advanced = store.advance(step).await.expect("advance");
    assert!(advanced.settled[0].is_some());
}

fn answer(status: u16, bytes: usize) -> Answer {
    let mut answer = Answer::new(status, NOW);
    answer.headers = vec![("x-request".to_owned(), "7".to_owned())];
    answer.body = vec![b'a'; bytes].into();
    answer
}

/// A body that is a file where the store keeps files.
async fn snapshot(store: &dyn Store, number: u8, bytes: usize) -> Body {
    let content = Cursor::new(pattern(number, bytes));
    let source = Source::reader(content, 16 * 1024 * 1024);
    let snapshot = store.snapshot(id(number), source).await.expect("snapshot");
    let body = snapshot.body().clone();
    snapshot.hand_over();
    body
}

fn pattern(number: u8, bytes: usize) -> Vec<u8> {
    let text = format!("{number} ");
    text.bytes().cycle().take(bytes).collect()
}

/// An action with a body of so many bytes.
pub(crate) async fn add_bytes(store: &dyn Store, number: u8, bytes: usize) {
    let body = Bytes::from(pattern(number, bytes));
    add(store, append(number, "large", |one| one.body = body.into())).await;
}

/// An action with a body that is a file.
pub(crate) async fn add_file(store: &dyn Store, number: u8, bytes: usize) {
    let body = snapshot(store, number, bytes).await;
    add(store, append(number, "large", |one| one.body = body)).await;
}

/// Fills an empty store, which is open. The last action is in flight.
pub(crate) async fn fill(store: &dyn Store) {
    settled(store).await;
    dead(store).await;
    pending(store).await;
    let mut step = Advance::new(at(50), Retention::default());
    let origin = Origin::from_stored("https://b.example:443");
    let keys = [
        GateKey::Origin(origin),
        GateKey::Principal(Some("ann".to_owned())),
    ];
    for key in keys {
        let until = at(60_000);
        step.gates
            .push(Gate::new(key, GateReason::RateLimited, until, NOW));
    }
    step.lease = Some(slots(1));
    add(store, append(30, "flight", |one| one.record.priority = 100)).await;
    let leased = store.advance(step).await.expect("advance").leased;
    assert_eq!(leased[0].record.id, id(30));
    let pause = Amend::Pause { paused: true };
    store.amend(pause).await.expect("pause");
}

async fn settled(store: &dyn Store) {
    let delivered = Settlement::Delivered { status: 201 };
    add(store, append(1, "a", |_| {})).await;
    settle(store, delivered.clone(), Some(answer(201, 10))).await;
    add(store, append(2, "a", |_| {})).await;
    settle(store, delivered, Some(answer(201, 9_000))).await;
    let cancelled = append(3, "a", |one| one.record.key = Some("again".to_owned()));
    add(store, cancelled).await;
    let (id, now) = (id(3), at(20));
    let cancel = Amend::Cancel { id, now };
    store.amend(cancel).await.expect("cancel");
    let coalesce = |one: &mut Append| one.record.coalesce = Some("x".to_owned());
    add(
        store,
        append(4, "c", |one| {
            coalesce(one);
            one.record.expires = Some(at(30));
        }),
    )
    .await;
    lease_nothing_expire(store).await;
    let later = |one: &mut Append| {
        coalesce(one);
        one.record.state = syncvault::State::Queued { due: at(900_000) };
    };
    add(store, append(5, "c", later)).await;
    add(store, append(6, "c", later)).await;
}

/// Lets expire what is past its time.
async fn lease_nothing_expire(store: &dyn Store) {
    let step = Advance::new(at(40), Retention::default());
    let expired = store.advance(step).await.expect("advance").expired;
    assert_eq!(expired.len(), 1);
}

async fn dead(store: &dyn Store) {
    let reasons = [
        (DeadReason::Rejected { status: 404 }, DeadLane::Block),
        (
            DeadReason::RetriesExhausted {
                attempts: 1,
                status: None,
            },
            DeadLane::Skip,
        ),
        (
            DeadReason::Unsendable {
                detail: "no URL".to_owned(),
            },
            DeadLane::Skip,
        ),
    ];
    for (number, (reason, lane)) in (10..).zip(reasons) {
        let bytes = 4_500 * usize::from(number - 10);
        let one = append(number, "dead", |one| {
            one.body = Bytes::from(pattern(number, bytes)).into();
            one.record.lane = Lane::new(format!("dead-{number}")).expect("lane");
        });
        add(store, one).await;
        settle(
            store,
            Settlement::Dead { reason, lane },
            Some(answer(404, 5)),
        )
        .await;
    }
}

async fn pending(store: &dyn Store) {
    let retry = Settlement::Retry {
        due: at(70_000),
        counts: Counted::Yes,
        backoff_ms: 1_000,
    };
    add(store, append(20, "retry", |_| {})).await;
    settle(store, retry, None).await;
    add(
        store,
        append(21, "retry", |one| {
            one.body = Bytes::new().into();
            one.record.key = None;
        }),
    )
    .await;
    let file = snapshot(store, 22, 12_000).await;
    add(store, append(22, "files", |one| one.body = file)).await;
    let mut pieces = vec![Piece::Bytes(Bytes::from_static(b"--boundary"))];
    pieces.extend(snapshot(store, 23, 9_000).await.into_pieces());
    pieces.push(Piece::Bytes(Bytes::from_static(b"boundary--")));
    let is_file = pieces.iter().any(|piece| matches!(piece, Piece::File(_)));
    let body = match is_file {
        true => Body::Pieces(pieces),
        false => Bytes::from(pattern(23, 9_000)).into(),
    };
    add(store, append(23, "files", |one| one.body = body)).await;
    add(store, append(24, "dead-10", |_| {})).await;
    let of_ann = |one: &mut Append| {
        one.record.key = Some("again".to_owned());
        one.record.principal = Some("ann".to_owned());
        one.record.lane = one.record.lane.of_principal(Some("ann"));
        one.record.expires = Some(at(100 * 365 * 24 * 60 * 60 * 1000));
        let extra = &mut one.record.extra;
        extra.insert("of_tomorrow".to_owned(), 42.into());
    };
    add(store, append(25, "own", of_ann)).await;
}

/// Everything that can be read of a store, in one order.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    records: Vec<Record>,
    bodies: Vec<Option<Bytes>>,
    answers: Vec<Option<Bytes>>,
    blocking: Vec<Vec<ActionId>>,
    totals: syncvault::store::Totals,
    gates: Vec<Gate>,
    is_paused: bool,
}

/// Reads all, and looks each action up by its id and its key.
pub(crate) async fn see(store: &dyn Store, opened: &Opened) -> Seen {
    let mut seen = Seen {
        records: Vec::new(),
        bodies: Vec::new(),
        answers: Vec::new(),
        blocking: Vec::new(),
        totals: store.totals().await.expect("totals"),
        gates: opened.gates.clone(),
        is_paused: opened.is_paused,
    };
    seen.gates.sort_by_key(|gate| gate.key.clone());
    for part in [Part::Pending, Part::Dead, Part::Settled] {
        let page = store.page(Query::first(part, 1000)).await.expect("page");
        seen.records.extend(page.records);
    }
    for record in &seen.records {
        let lane = store.lane(record.lane.clone()).await.expect("lane");
        seen.blocking.push(lane.blocking);
        let body = store.body(record.id).await.expect("body");
        seen.bodies.push(match body {
            Some(body) => Some(whole(store, body).await),
            None => None,
        });
        let answer = store.answer(record.id).await.expect("answer");
        seen.answers.push(answer);
    }
    seen
}

async fn whole(store: &dyn Store, body: Body) -> Bytes {
    let mut bytes = BytesMut::new();
    for piece in body.into_pieces() {
        match piece {
            Piece::Bytes(piece) => bytes.extend_from_slice(&piece),
            Piece::File(file) => {
                let chunks = store.chunks(file).await.expect("a file of a body");
                let chunks: Vec<Bytes> = chunks.try_collect().await.expect("its bytes");
                bytes.extend_from_slice(&chunks.concat());
            }
            _ => panic!("an unknown piece"),
        }
    }
    bytes.freeze()
}

impl Seen {
    pub(crate) fn record_count(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn record(&self, number: u8) -> &Record {
        let mut records = self.records.iter();
        let found = records.find(|record| record.id == id(number));
        found.unwrap_or_else(|| panic!("no action {number}"))
    }

    pub(crate) fn body(&self, number: u8) -> Option<&Bytes> {
        let mut records = self.records.iter();
        let at = records.position(|record| record.id == id(number))?;
        self.bodies[at].as_ref()
    }

    pub(crate) fn answer(&self, number: u8) -> Option<Answer> {
        let mut records = self.records.iter();
        let at = records.position(|record| record.id == id(number))?;
        let answer = self.answers[at].clone()?;
        Some(Answer::decode(answer).expect("an answer"))
    }

    /// What [`fill`] put there, after its run was cut off and the store was opened again.
    pub(crate) fn assert_is_filled(&self) {
        let state = |number| self.record(number).state.name();
        for (number, want) in [
            (1, "delivered"),
            (2, "delivered"),
            (3, "cancelled"),
            (4, "expired"),
            (5, "superseded"),
            (6, "queued"),
            (10, "dead"),
            (11, "dead"),
            (12, "dead"),
        ] {
            assert_eq!(state(number), want, "{number}");
        }
        for number in (20..=25).chain([30]) {
            assert_eq!(state(number), "queued", "{number}");
        }
        assert_eq!(self.records.len(), 16);
        assert_eq!(self.record(30).wire, WireState::MaybeSent);
        assert_eq!(self.record(30).attempts, 1);
        let retried = self.record(20);
        assert_eq!(retried.wire, WireState::MaybeSent);
        let said = retried.last_error.as_deref();
        assert_eq!(said, Some("the answer did not come"));
        assert_eq!(self.record(25).principal.as_deref(), Some("ann"));
        assert_eq!(self.record(25).extra["of_tomorrow"], 42);
        self.assert_values();
    }

    fn assert_values(&self) {
        for (number, length) in [(1, 10), (2, 9_000), (10, 5)] {
            let answer = self.answer(number).expect("an answer");
            assert_eq!(answer.body.len(), length, "{number}");
            assert_eq!(answer.header("x-request"), Some("7"));
        }
        for number in [1, 2, 3, 4, 5] {
            assert_eq!(self.body(number), None, "{number}");
        }
        for number in [6, 20, 24, 25, 30] {
            let body = self.body(number).expect("a body");
            assert_eq!(body[..], *format!("body of {number}").as_bytes());
        }
        let patterns = [(10, 0), (11, 4_500), (12, 9_000), (21, 0), (22, 12_000)];
        for (number, bytes) in patterns {
            let body = self.body(number).expect("a body");
            assert_eq!(body[..], pattern(number, bytes), "{number}");
        }
        let form = self.body(23).expect("a body");
        let middle = pattern(23, 9_000);
        assert!(form.windows(middle.len()).any(|window| window == middle));
        let request = StoredRequest::decode(&self.record(24).content).expect("a request");
        assert_eq!(request.url.query(), Some("no=24"));
        assert_eq!(request.tag.as_deref(), Some("tag-24"));
        let ledger = self.totals.ledger;
        assert!(ledger.is_balanced(), "{ledger:?}");
        let ways = (ledger.delivered, ledger.cancelled, ledger.expired);
        assert_eq!(ways, (2, 1, 1));
        let kept = (ledger.superseded, ledger.dead, ledger.pending);
        assert_eq!(kept, (1, 3, 8));
        assert_eq!(self.totals.counts.blocked_lanes, 1);
        assert_eq!(self.gates.len(), 2);
        assert!(self.is_paused);
    }
}
