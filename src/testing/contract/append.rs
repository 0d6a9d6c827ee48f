//! Appending: order, results, what is kept of what was given.

use super::StoreFactory;
use super::draft::Draft;
use super::rig::{bytes_of, ids, rig};
use crate::action::{State, WireState};
use crate::store::{Appended, Find, Part};

/// The empty store tells nothing but zeros, so that every later number is the rule's own.
pub async fn a_fresh_place_is_empty(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    assert_eq!(rig.opened.totals, crate::store::Totals::default());
    assert_eq!(rig.totals().await, crate::store::Totals::default());
    assert!(rig.opened.gates.is_empty() && rig.opened.reclaimed.is_empty());
    assert!(rig.opened.is_balanced && !rig.opened.is_paused);
    assert_eq!(rig.lane("a").await, crate::store::LaneTotals::default());
    for part in [Part::Pending, Part::Dead, Part::Settled] {
        assert!(rig.all(part, 10).await.is_empty());
    }
    rig.leases_nothing().await;
}

/// The place in a lane grows with every append, also from one call to the next.
pub async fn seq_grows_in_the_order_of_appends(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let mut all = rig.queue_many("a", 5).await;
    all.push(rig.queue(rig.draft("a")).await);
    all.extend(rig.queue_many("a", 3).await);
    assert!(all.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    let lane = crate::action::Lane::new("a").expect("a valid name");
    assert_eq!(ids(&rig.all(Part::Lane(lane), 100).await), ids(&all));
}

/// Results come in the order of the batch, over any mix of lanes.
pub async fn each_append_gets_its_own_result(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let drafts: Vec<Draft> = ["a", "b", "a", "c", "b"].map(|lane| rig.draft(lane)).into();
    let want: Vec<_> = drafts.iter().map(Draft::id).collect();
    let got = rig
        .append_all(drafts)
        .await
        .into_iter()
        .map(|one| match one {
            Appended::Queued { record, superseded } => {
                assert!(superseded.is_none());
                record.id
            }
            other => panic!("expected Queued, got {other:?}"),
        });
    assert_eq!(got.collect::<Vec<_>>(), want);
}

/// Nothing comes of nothing.
pub async fn an_empty_batch_adds_nothing(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    assert!(rig.append_all([]).await.is_empty());
    assert_eq!(rig.totals().await, crate::store::Totals::default());
}

/// One batch with every kind of refusal in its middle: the ones around it are queued.
pub async fn a_refused_append_does_not_stop_the_others(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a").key("k").fingerprint("f")).await;
    let batch = [
        rig.draft("a"),
        rig.draft("a").key("k").fingerprint("f"),
        rig.draft("a").key("k").fingerprint("other"),
        rig.draft("a").actions_max(1),
        rig.draft("a").bytes_max(1),
        rig.draft("a"),
    ];
    let names = rig.append_all(batch).await;
    assert!(matches!(
        names.as_slice(),
        [
            Appended::Queued { .. },
            Appended::Known { .. },
            Appended::Conflict { .. },
            Appended::Full { .. },
            Appended::Full { .. },
            Appended::Queued { .. },
        ]
    ));
    assert_eq!(rig.ledger().await.enqueued, 3);
}

/// The store gives place and revision; everything else is kept as it came, unknown fields too.
pub async fn a_record_reads_back_as_given(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let draft = rig
        .draft("a lane: with / odd \u{e9} name")
        .key("key \u{1f511} / of ? the & caller")
        .origin("b")
        .principal("someone")
        .priority(-3)
        .coalesce("together")
        .due(rig.at(5_000))
        .expires(rig.at(60_000))
        .record(|record| {
            record.attempts_max = 9;
            record.extra.insert("of_tomorrow".into(), 42.into());
        });
    let mut want = draft.as_record().clone();
    let queued = rig.queue(draft).await;
    (want.seq, want.revision) = (queued.seq, queued.revision);
    assert_eq!(queued, want);
    let mut rig = rig.restart().await;
    assert_eq!(rig.record(want.id).await, want);
    rig.wait(5_000);
    let leased = rig.lease_only().await;
    assert_eq!(leased.extra, want.extra);
    assert_eq!(leased.content, want.content);
}

/// What `append` and `advance` tell is what `get` reads.
pub async fn the_told_record_is_the_kept_record(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue(rig.draft("a")).await;
    assert_eq!(rig.record(queued.id).await, queued);
    let leased = rig.lease_only().await;
    assert_eq!(rig.record(queued.id).await, leased);
    let retried = rig.retry(&leased, rig.now).await;
    assert_eq!(rig.record(queued.id).await, retried);
    let leased = rig.lease_only().await;
    let delivered = rig.deliver(&leased).await;
    assert_eq!(rig.record(queued.id).await, delivered);
}

/// The revision tells copies of a record apart: the newest has the highest.
pub async fn a_revision_grows_with_every_change(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let mut seen = vec![rig.queue(rig.draft("a")).await.revision];
    for _ in 0..3 {
        let leased = rig.lease_only().await;
        seen.push(leased.revision);
        seen.push(rig.retry(&leased, rig.now).await.revision);
    }
    let leased = rig.lease_only().await;
    seen.push(leased.revision);
    seen.push(rig.die(&leased, Default::default()).await.revision);
    let id = leased.id;
    rig.requeue(id).await;
    seen.push(rig.record(id).await.revision);
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
}

/// Empty, one byte, around 8 KiB where bodies may change their place on disk, and large.
pub async fn a_body_comes_back_byte_for_byte(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let sizes = [0, 1, 8 * 1024 - 1, 8 * 1024, 8 * 1024 + 1, 1024 * 1024];
    let mut kept = Vec::new();
    for (number, size) in (0u8..).zip(sizes) {
        let body: Vec<u8> = (0u8..=255).cycle().skip(number.into()).take(size).collect();
        let lane = format!("lane {number}");
        let record = rig.queue(rig.draft(&lane).body(body.clone())).await;
        kept.push((record.id, body));
    }
    let weight: usize = kept.iter().map(|(_, body)| body.len()).sum();
    assert!(rig.totals().await.counts.bytes > weight as u64);
    let rig = rig.restart().await;
    let leased = rig.lease(sizes.len()).await;
    assert_eq!(leased.len(), sizes.len());
    for (id, body) in kept {
        let read = rig.store.body(id).await.expect("body");
        assert_eq!(bytes_of(&read.expect("a pending action has a body")), body);
        let lease = leased.iter().find(|lease| lease.record.id == id);
        assert_eq!(bytes_of(&lease.expect("leased").body), body);
        assert_eq!(lease.expect("leased").record.body_bytes, body.len() as u64);
    }
}

/// What is not there is not there; it is not an error.
pub async fn an_unknown_action_is_nothing(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    rig.queue(rig.draft("a")).await;
    let id = crate::action::ActionId::new();
    assert!(rig.store.get(Find::Id(id)).await.expect("get").is_none());
    assert!(rig.find_key("nobody").await.is_none());
    assert!(rig.store.body(id).await.expect("body").is_none());
    assert!(rig.store.answer(id).await.expect("answer").is_none());
}

/// Through its whole life an action is found by its id and by its key.
pub async fn an_action_is_found_by_id_and_key_in_each_state(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let queued = rig.queue(rig.draft("a").key("k")).await;
    assert_eq!(rig.find_key("k").await.expect("queued"), queued);
    assert_eq!(queued.wire, WireState::NeverSent);
    let leased = rig.lease_only().await;
    assert_eq!(rig.find_key("k").await.expect("in flight"), leased);
    let dead = rig.die(&leased, Default::default()).await;
    assert_eq!(rig.find_key("k").await.expect("dead"), dead);
    assert_eq!(rig.record(dead.id).await, dead);
    rig.requeue(dead.id).await;
    let leased = rig.lease_only().await;
    let delivered = rig.deliver(&leased).await;
    assert_eq!(rig.find_key("k").await.expect("delivered"), delivered);
    assert_eq!(rig.record(dead.id).await, delivered);
    let at = rig.now;
    assert_eq!(delivered.state, State::Delivered { status: 200, at });
    let rig = rig.restart().await;
    assert_eq!(rig.find_key("k").await.expect("after a restart"), delivered);
}
