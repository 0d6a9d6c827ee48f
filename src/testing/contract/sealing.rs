//! What a sealed vault asks of a store: it keeps a keyring, puts values in the place of others, and sets aside what does
//! not open.

use std::io::Cursor;

use bytes::Bytes;

use super::StoreFactory;
use super::rig::{bytes_of, rig};
use super::snapshots::read;
use crate::action::{ActionId, Body, Piece, Record};
use crate::decide::DeadLane;
use crate::error::{Error, ErrorKind};
use crate::store::{Amend, Amended, KeptKeyring, Part, Source};

/// None at first; the newest one is kept, also over a crash.
pub async fn a_keyring_is_kept(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    assert_eq!(rig.store.keyring().await.expect("keyring"), None);
    let mut revision = None;
    for number in 1..=3_u8 {
        let keyring = Bytes::from(vec![number; 100 * usize::from(4 - number)]);
        let set = rig.store.set_keyring(revision, keyring).await.expect("set");
        assert!(set.is_some() && set != revision, "{set:?}");
        revision = set;
    }
    let newest = revision.map(|revision| KeptKeyring::new(revision, vec![3; 100]));
    assert_eq!(rig.store.keyring().await.expect("keyring"), newest);
    let rig = rig.crash().await;
    assert_eq!(rig.store.keyring().await.expect("keyring"), newest);
    let rig = rig.restart().await;
    assert_eq!(rig.store.keyring().await.expect("keyring"), newest);
    assert_eq!(rig.totals().await.ledger.enqueued, 0);
}

/// Of several that change the same keyring one comes first, and the others hear of it.
pub async fn a_keyring_takes_the_place_of_the_one_that_was_read(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let set = |before, number| {
        let keyring = Bytes::from(vec![number; 100]);
        rig.store.set_keyring(before, keyring)
    };
    assert_eq!(set(Some(1), 1).await.expect("none is there"), None);
    let mut kept = None;
    for round in 0..5 {
        let sets = (0..4).map(|one| set(kept, 4 * round + one));
        let sets = futures_util::future::join_all(sets).await;
        let set: Vec<_> = (0..4)
            .zip(sets.into_iter().map(|set| set.expect("an answer")))
            .collect();
        let won: Vec<_> = set.iter().filter(|(_, set)| set.is_some()).collect();
        assert_eq!(won.len(), 1, "{set:?}");
        let keyring = rig.store.keyring().await.expect("keyring").expect("one");
        assert_eq!(keyring.bytes[0], 4 * round + won[0].0);
        kept = won[0].1;
        assert_eq!(kept, Some(keyring.revision));
    }
    assert_eq!(set(None, 99).await.expect("one is there"), None);
}

/// From the moment that a keyring is kept, nothing else is taken: no append, no answer, no lease, no requeue.
pub async fn what_is_sealed_under_another_keyring_is_refused(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let keyring = Bytes::from_static(b"keyring");
    let before = rig
        .store
        .set_keyring(None, keyring.clone())
        .await
        .expect("set");
    let sealed = |draft: super::draft::Draft, revision| {
        let mut append = draft.into_append();
        append.keyring = revision;
        append
    };
    let taken = vec![
        sealed(rig.draft("a"), before),
        sealed(rig.draft("b"), before),
    ];
    let ids = [taken[0].record.id, taken[1].record.id];
    rig.store.append(taken).await.expect("taken");
    let mut step = rig.leasing(1);
    step.keyring = before;
    let leased = rig.advance(step).await.leased.remove(0).record;
    rig.die(&leased, DeadLane::Skip).await;
    let now = rig.store.set_keyring(before, keyring).await.expect("set");
    let rig = rig.restart().await;
    let totals = rig.totals().await;
    let refused = |error: Error| assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
    for stale in [None, before] {
        let batch = vec![sealed(rig.draft("c"), now), sealed(rig.draft("c"), stale)];
        refused(rig.store.append(batch).await.expect_err("a stale append"));
    }
    let mut step = rig.leasing(1);
    step.keyring = before;
    refused(
        rig.store
            .advance(step.clone())
            .await
            .expect_err("a stale step"),
    );
    let id = leased.id;
    let answer = Bytes::from_static(b"answer");
    let changes = [
        Amend::Requeue { id, now: rig.now },
        Amend::KeepAnswer { id, answer },
        resealed(&rig.record(id).await, None, None),
    ];
    let under = |keyring: Option<u64>, change: &Amend| Amend::Under {
        keyring: keyring.expect("a revision"),
        change: Box::new(change.clone()),
    };
    for change in &changes {
        let amended = rig.store.amend(under(before, change)).await;
        refused(amended.expect_err("a stale change"));
    }
    assert_eq!(rig.totals().await, totals);
    assert!(rig.store.answer(id).await.expect("answer").is_none());
    rig.done(under(now, &changes[0])).await;
    step.keyring = now;
    step.lease.as_mut().expect("a lease").slots = 2;
    assert_eq!(rig.advance(step).await.leased.len(), 2);
    let taken = vec![sealed(rig.draft("c"), now)];
    rig.store.append(taken).await.expect("taken");
    assert!(ids.contains(&id));
}

/// What was written in clear once may lie in its files for long.
pub async fn a_store_that_held_actions_takes_no_first_keyring(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.delivered(rig.draft("a")).await;
    let set = rig.store.set_keyring(None, Bytes::from_static(b"k"));
    assert_eq!(
        set.await.expect_err("refused").kind(),
        ErrorKind::WrongState
    );
    assert_eq!(rig.store.keyring().await.expect("keyring"), None);
}

fn resealed(record: &Record, body: Option<Bytes>, answer: Option<Bytes>) -> Amend {
    Amend::Reseal {
        id: record.id,
        revision: record.revision,
        content: Bytes::from(vec![b'x'; record.content.len()]),
        last_error: Some("anew".to_owned()),
        body: body.map(Body::Bytes),
        answer,
    }
}

/// Content, body and answer are the new ones; everything else is as it was, and the action goes its way.
pub async fn values_are_replaced_in_their_place(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    for length in [10, 20_000] {
        let [old, new] = [1, 2].map(|byte| Bytes::from(vec![byte; length]));
        let id = rig.queue(rig.draft("a").key("k").body(old)).await.id;
        let before = rig.record(id).await;
        let totals = rig.totals().await;
        rig.done(resealed(&before, Some(new.clone()), None)).await;
        let mut after = rig.record(id).await;
        assert_eq!(after.content[0], b'x');
        assert!(after.revision > before.revision);
        assert_eq!(after.last_error.as_deref(), Some("anew"));
        after.content = before.content.clone();
        after.last_error = None;
        after.revision = before.revision;
        assert_eq!(after, before);
        assert_eq!(rig.totals().await, totals);
        let leased = rig.lease(1).await;
        assert_eq!(bytes_of(&leased[0].body), new);
        assert_eq!(leased[0].record.content[0], b'x');
        let delivered = rig.deliver(&leased[0].record).await;
        let answer = Amend::KeepAnswer {
            id,
            answer: Bytes::from(vec![3; length]),
        };
        rig.done(answer).await;
        let totals = rig.totals().await;
        let stored = rig.record(id).await;
        assert!(stored.revision > delivered.revision);
        let answer = Bytes::from(vec![4; length]);
        rig.done(resealed(&stored, None, Some(answer.clone())))
            .await;
        assert_eq!(rig.store.answer(id).await.expect("answer"), Some(answer));
        assert_eq!(rig.totals().await, totals);
        let forget = crate::store::Retention {
            count: 0,
            ..crate::store::Retention::default()
        };
        let mut step = rig.step();
        step.retention = forget;
        rig.advance(step).await;
        assert!(rig.find(id).await.is_none());
    }
}

/// Nothing is replaced under a running attempt, in another revision, or where nothing is.
pub async fn values_are_not_replaced_at_the_wrong_time(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let body = || Some(Bytes::from(vec![9; 20_000]));
    let id = rig.queue(rig.draft("a")).await.id;
    let queued = rig.record(id).await;
    let leased = rig.lease_only().await;
    for stale in [&queued, &leased] {
        let amended = rig.amend(resealed(stale, body(), None)).await;
        assert!(matches!(amended, Amended::NotNow(_)), "{amended:?}");
    }
    rig.retry(&leased, rig.now).await;
    let amended = rig.amend(resealed(&queued, body(), None)).await;
    assert!(matches!(amended, Amended::NotNow(_)), "{amended:?}");
    let mut unknown = queued.clone();
    unknown.id = ActionId::new();
    let amended = rig.amend(resealed(&unknown, body(), None)).await;
    assert!(matches!(amended, Amended::Unknown), "{amended:?}");
    assert_eq!(rig.record(id).await.content, queued.content);
}

/// What does not open leaves its place, counted, and what stood behind it goes on.
pub async fn what_is_set_aside_is_counted_and_stands_in_no_way(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let settled = rig.delivered(rig.draft("a")).await;
    let dead = rig.dead_letter(rig.draft("a"), DeadLane::Block).await;
    let queued = rig.queue(rig.draft("b").key("k")).await;
    let next = rig.queue(rig.draft("b")).await;
    let blocked = rig.queue(rig.draft("a")).await;
    for id in [settled.id, dead.id, queued.id] {
        rig.done(Amend::Quarantine { id }).await;
        assert!(rig.find(id).await.is_none());
        let again = rig.amend(Amend::Quarantine { id }).await;
        assert!(matches!(again, Amended::Unknown), "{again:?}");
    }
    let ledger = rig.ledger().await;
    assert_eq!((ledger.evicted, ledger.dead, ledger.delivered), (2, 0, 1));
    assert!(rig.all(Part::Dead, 10).await.is_empty());
    assert_eq!(rig.totals().await.counts.blocked_lanes, 0);
    let rig = rig.restart().await;
    let mut leased: Vec<_> = rig.lease(10).await.into_iter().map(|l| l.record).collect();
    leased.sort_by_key(|record| record.seq);
    let ids: Vec<_> = leased.iter().map(|record| record.id).collect();
    assert_eq!(ids, [next.id, blocked.id]);
    rig.done(Amend::Quarantine { id: next.id }).await;
    assert_eq!(rig.totals().await.counts.in_flight, 1);
    assert!(
        rig.settle_with(super::rig::settle_of(
            &leased[0],
            crate::decide::Settlement::Delivered { status: 200 },
        ))
        .await
        .is_none()
    );
}

/// What stands in front of the files of a body is replaced, and the files stay.
pub async fn a_body_of_files_is_replaced_around_them(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let draft = rig.draft("a");
    let content = vec![7; 100_000];
    let source = Source::reader(Cursor::new(content.clone()), 1024 * 1024);
    let snapshot = rig.store.snapshot(draft.id(), source).await.expect("taken");
    let mut pieces = vec![Piece::Bytes(Bytes::from_static(b"old"))];
    pieces.extend(snapshot.body().clone().into_pieces());
    snapshot.hand_over();
    if pieces.iter().all(|piece| matches!(piece, Piece::Bytes(_))) {
        // It keeps no files.
        return;
    }
    let record = rig.queue(draft.kept(Body::Pieces(pieces))).await;
    // Small, and too large for most engines.
    for length in [3, 20_000] {
        let front = Bytes::from(vec![b'n'; length]);
        rig = rig.restart().await;
        let kept = rig.store.body(record.id).await.expect("body");
        let mut pieces = kept.expect("a body").into_pieces();
        pieces[0] = Piece::Bytes(front.clone());
        let mut stored = rig.record(record.id).await;
        for is_stale in [true, false] {
            let mut change = resealed(&stored, None, None);
            if let Amend::Reseal { body, revision, .. } = &mut change {
                *body = Some(Body::Pieces(pieces.clone()));
                *revision += u64::from(is_stale);
            }
            let amended = rig.amend(change).await;
            assert_eq!(matches!(amended, Amended::NotNow(_)), is_stale);
            stored = rig.record(record.id).await;
        }
        rig = rig.crash().await;
        let kept = rig.store.body(record.id).await.expect("body");
        let whole = read(&*rig.store, kept.expect("a body")).await;
        assert_eq!(whole.expect("whole"), [&front[..], &content].concat());
    }
}
