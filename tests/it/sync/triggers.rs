//! What starts a sync without a call: the network, hints, time.

use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use syncvault::sync::{FailureKind, Feature, FeatureKey, Step, SyncEventKind, SyncEvents};
use syncvault::{Backoff, Connection};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;

use super::site::{Site, Trouble, builder, rows, told, until};

fn stream<T: Send + 'static>(
    receiver: UnboundedReceiver<T>,
) -> impl Stream<Item = T> + Send + 'static {
    unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    })
}

async fn completed(events: &mut SyncEvents) {
    until(events, |kind| {
        matches!(kind, SyncEventKind::BackgroundCompleted(_))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pass_starts_when_the_network_comes_back_and_not_otherwise() {
    let (network, changes) = unbounded_channel();
    let site = Site::with_rows(3);
    let sync = rows(&site)
        .on_connectivity(stream(changes))
        .build()
        .expect("built");
    let mut events = sync.events();
    let minute = Duration::from_secs(60);
    for (change, is_run) in [
        (Connection::Online, false),
        (Connection::Offline, false),
        (Connection::Offline, false),
        (Connection::Online, true),
        (Connection::Online, false),
    ] {
        let before = site.calls(Step::Fetch);
        network.send(change).expect("listened to");
        tokio::time::sleep(minute).await;
        assert_eq!(site.calls(Step::Fetch) > before, is_run, "{change:?}");
    }
    completed(&mut events).await;
    site.assert_in_step();
}

#[tokio::test(start_paused = true)]
async fn offline_uses_up_no_retry() {
    let (network, changes) = unbounded_channel();
    let site = Site::with_rows(3);
    site.trouble_from(Step::Fetch, 1000, Trouble::Before);
    let sync = rows(&site)
        .on_connectivity(stream(changes))
        .every(Duration::from_secs(10))
        .build()
        .expect("built");
    network.send(Connection::Offline).expect("listened to");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(site.calls(Step::Fetch), 0);
    // A call is tried once: the caller may know better.
    let report = sync.run().await.expect("run");
    let failure = report.failure().expect("a failure");
    assert_eq!((failure.kind, failure.attempts), (FailureKind::Offline, 1));
    site.heal();
    let mut events = sync.events();
    network.send(Connection::Online).expect("listened to");
    completed(&mut events).await;
    site.assert_in_step();
}

#[tokio::test(start_paused = true)]
async fn a_network_that_comes_back_during_a_pass_is_not_missed() {
    let (network, changes) = unbounded_channel();
    let site = Site::with_rows(3);
    site.close_gate();
    let sync = rows(&site)
        .on_connectivity(stream(changes))
        .build()
        .expect("built");
    let go = |connection| network.send(connection).expect("listened to");
    go(Connection::Offline);
    go(Connection::Online);
    site.hangs().await;
    go(Connection::Offline);
    go(Connection::Online);
    tokio::time::sleep(Duration::from_secs(1)).await;
    site.open_gate();
    tokio::time::sleep(Duration::from_secs(60)).await;
    // The initial sync, its background sync, and that of the second pass.
    assert_eq!(site.calls(Step::Fetch), 3);
    drop(sync);
}

#[tokio::test(start_paused = true)]
async fn a_hint_syncs_its_feature_after_what_it_depends_on() {
    let (hinting, hints) = unbounded_channel::<FeatureKey>();
    let [contacts, messages, alone] = [1, 1, 1].map(Site::with_rows);
    let sync = builder()
        .background(Feature::new("contacts", contacts.clone()))
        .background(Feature::new("messages", messages.clone()).depends_on(["contacts"]))
        .background(Feature::new("alone", alone.clone()))
        .hints(stream(hints))
        .build()
        .expect("built");
    let mut events = sync.events();
    hinting.send("nobody".into()).expect("listened to");
    hinting.send("messages".into()).expect("listened to");
    completed(&mut events).await;
    completed(&mut events).await;
    messages.assert_in_step();
    contacts.assert_in_step();
    assert_eq!(alone.calls(Step::Fetch), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hint_during_a_run_is_not_lost_and_many_are_one() {
    let (hinting, hints) = unbounded_channel::<&str>();
    let site = Site::with_rows(1);
    let feature = Feature::new("rows", site.clone());
    let sync = builder()
        .background(feature)
        .hints(stream(hints))
        .build()
        .expect("built");
    let mut events = sync.events();
    site.close_gate();
    hinting.send("rows").expect("listened to");
    site.hangs().await;
    (0..1000).for_each(|_| hinting.send("rows").expect("listened to"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    site.open_gate();
    completed(&mut events).await;
    completed(&mut events).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(site.calls(Step::Fetch), 2);
}

#[tokio::test(start_paused = true)]
async fn periods_are_kept_with_jitter() {
    let site = Site::with_rows(1);
    let period = Duration::from_secs(100);
    let feature = Feature::new("rows", site.clone());
    let sync = builder()
        .background(feature)
        .every(period)
        .build()
        .expect("built");
    let mut events = sync.events();
    let mut waits = Vec::new();
    for _ in 0..50 {
        let start = Instant::now();
        completed(&mut events).await;
        waits.push(start.elapsed());
    }
    let bounds = period * 9 / 10..=period * 11 / 10 + Duration::from_millis(1);
    assert!(waits.iter().all(|wait| bounds.contains(wait)), "{waits:?}");
    waits.sort();
    waits.dedup();
    assert!(waits.len() > 10, "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_pass_is_not_followed_by_a_pile_of_others() {
    let site = Site::with_rows(1);
    site.close_gate();
    let feature = Feature::new("rows", site.clone());
    let sync = builder()
        .background(feature)
        .every(Duration::from_secs(1))
        .build()
        .expect("built");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(site.calls(Step::Fetch), 1);
    let mut events = sync.events();
    site.open_gate();
    tokio::time::sleep(Duration::from_millis(100)).await;
    sync.shutdown().await.expect("shut down");
    let done = told(&mut events)
        .into_iter()
        .filter(|e| matches!(e.kind, SyncEventKind::BackgroundCompleted(_)));
    assert!(done.count() <= 3);
}

#[tokio::test(start_paused = true)]
async fn triggers_end_with_the_last_handle() {
    let site = Site::with_rows(1);
    let hour = Backoff::fixed(Duration::from_secs(3600));
    site.trouble_from(Step::Fetch, 4, Trouble::Before);
    let sync = rows(&site)
        .every(Duration::from_secs(10))
        .backoff(hour)
        .build()
        .expect("built");
    let mut events = sync.events();
    until(&mut events, |kind| {
        matches!(kind, SyncEventKind::Retrying { .. })
    })
    .await;
    drop(sync);
    while events.next().await.is_some() {}
    let calls = site.calls(Step::Fetch);
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    assert_eq!(site.calls(Step::Fetch), calls);
}
