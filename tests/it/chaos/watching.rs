//! Events and status under load: in order, always with an end, never ahead of each other.

use std::time::Duration;

use syncvault::{Event, EventKind, Events};

use super::watched::WatchedStore;
use crate::chaos_server::{Behaviour, ChaosServer};
use crate::dice::Dice;
use crate::story::{bare_builder, enqueue, soon, vault};

/// Symptom: an action that was delivered quickly showed `Queued` after `Started`, or even after its end, in `events()`.
/// Cause: `Queued` is published by the task that added the action, when it hears from the store; a worker that looks for
/// another reason meanwhile leases the action first. Fix: whoever publishes the first event of an action that is being
/// added publishes its `Queued` before it.
#[tokio::test]
async fn queued_comes_first_even_if_the_worker_is_faster_than_the_caller() {
    let server = ChaosServer::start().await;
    let store = WatchedStore::new();
    let vault = bare_builder(&server)
        .store(store.clone())
        .build()
        .await
        .expect("vault");
    let mut events = vault.events();
    store.hold_answers();
    let adding = tokio::spawn({
        let vault = vault.clone();
        async move { enqueue(&vault, "a", "1").await }
    });
    store.wait_appended(1).await;
    let report = soon(vault.process_queue()).await.expect("pass");
    assert_eq!(report.delivered, 1);
    store.release();
    let ticket = soon(adding).await.expect("added");
    soon(vault.shutdown(Duration::ZERO))
        .await
        .expect("shutdown");
    let mut kinds = Vec::new();
    while let Some(event) = soon(events.next()).await {
        assert_eq!(event.action_id, ticket.id());
        kinds.push(event.kind);
    }
    let want = [
        EventKind::Queued,
        EventKind::Started { attempt: 1 },
        EventKind::Succeeded { status: 200 },
    ];
    assert_eq!(kinds, want);
}

async fn to_the_end(mut events: Events) -> Vec<Event> {
    let mut seen = Vec::new();
    while let Some(event) = soon(events.next()).await {
        seen.push(event);
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_races_with_the_end_still_tells_it() {
    let server = ChaosServer::start().await;
    server.script(|_, nth| Some(Behaviour::status(if nth % 3 == 0 { 500 } else { 200 })));
    let vault = vault(&server).await;
    let mut dice = Dice::new(4);
    for n in 0..150 {
        let ticket = enqueue(&vault, "a", &n.to_string()).await;
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let (mut dice, ticket, vault) = (dice.split(), ticket.clone(), vault.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_micros(dice.below(3000))).await;
                    let events = match dice.below(2) {
                        0 => ticket.events().await,
                        _ => vault.events_for_key(ticket.key()).await,
                    };
                    to_the_end(events.expect("events")).await
                })
            })
            .collect();
        for reader in readers {
            let seen = reader.await.expect("a reader");
            let kinds: Vec<_> = seen.iter().map(|event| &event.kind).collect();
            let ends = kinds.iter().filter(|kind| kind.is_terminal()).count();
            assert!(
                ends == 1 && kinds[kinds.len() - 1].is_terminal(),
                "{kinds:?}"
            );
            let starts: Vec<_> = kinds.iter().filter_map(|kind| attempt(kind)).collect();
            assert!(starts.is_sorted_by(|a, b| a < b), "{kinds:?}");
        }
    }
}

fn attempt(kind: &EventKind) -> Option<u32> {
    match kind {
        EventKind::Started { attempt } => Some(*attempt),
        _ => None,
    }
}

/// Symptom: who heard that an action is queued and then asked for the status could be told that nothing is pending.
/// Cause: the event was published before the counts. Fix: counts first; they are never older than an event.
#[tokio::test]
async fn the_status_is_never_behind_an_event() {
    let server = ChaosServer::start().await;
    let store = WatchedStore::new().with_slow_answers(Duration::from_millis(20));
    let vault = bare_builder(&server)
        .store(store)
        .build()
        .await
        .expect("vault");
    let mut events = vault.events();
    let mut pending = async |want: fn(&EventKind) -> bool| loop {
        let event = soon(events.next()).await.expect("an event");
        if want(&event.kind) {
            return vault.status().counts().pending;
        }
    };
    let adder = vault.clone();
    let adding = tokio::spawn(async move { enqueue(&adder, "a", "1").await });
    assert_eq!(pending(|kind| *kind == EventKind::Queued).await, 1);
    assert_eq!(pending(EventKind::is_terminal).await, 0);
    soon(adding).await.expect("added");
}
