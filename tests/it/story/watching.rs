//! Events and status: what the app sees is what is on disk.

use futures_util::StreamExt;
use syncvault::{DeadReason, EventKind, Status};

use super::{builder, enqueue, soon, vault};
use crate::chaos_server::{Behaviour, ChaosServer};

#[tokio::test]
async fn the_events_of_an_action_tell_its_life_and_end() {
    let server = ChaosServer::start().await;
    server.next(Behaviour::status(500));
    let vault = vault(&server).await;
    vault.pause().await.expect("pause");
    let ticket = enqueue(&vault, "a", "k").await;
    let by_id = ticket.events().await.expect("events");
    let by_key = vault.events_for_key("k").await.expect("events");
    vault.resume().await.expect("resume");
    for events in [by_id, by_key] {
        let kinds: Vec<_> = soon(events.map(|event| event.kind).collect()).await;
        let [queued, first, failed, second, done] = &kinds[..] else {
            panic!("{kinds:?}")
        };
        assert_eq!(*queued, EventKind::Queued);
        assert_eq!(*first, EventKind::Started { attempt: 1 });
        assert!(
            matches!(
                failed,
                EventKind::Failed {
                    status: Some(500),
                    ..
                }
            ),
            "{failed:?}"
        );
        assert_eq!(*second, EventKind::Started { attempt: 2 });
        assert_eq!(*done, EventKind::Succeeded { status: 200 });
    }
    let late = vault.events_for(ticket.id()).await.expect("events");
    let kinds: Vec<_> = soon(late.map(|event| event.kind).collect()).await;
    assert_eq!(
        kinds,
        [EventKind::Succeeded { status: 200 }],
        "a late reader still gets the end"
    );
    let nobody = vault
        .events_for(syncvault::ActionId::new())
        .await
        .expect("events");
    assert_eq!(soon(nobody.count()).await, 0);
}

#[tokio::test]
async fn a_key_can_be_watched_before_it_is_known() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    let events = vault.events_for_key("later").await.expect("events");
    enqueue(&vault, "a", "other").await;
    enqueue(&vault, "a", "later").await;
    let events: Vec<_> = soon(events.collect()).await;
    assert!(events.iter().all(|event| event.key == "later"));
    assert_eq!(
        events.last().expect("end").kind,
        EventKind::Succeeded { status: 200 }
    );
}

#[tokio::test]
async fn a_reader_that_never_reads_is_told_how_much_it_lost_and_slows_nobody() {
    let server = ChaosServer::start().await;
    let vault = builder(&server)
        .event_buffer(8)
        .build()
        .await
        .expect("vault");
    let mut slow = vault.events();
    for n in 0..20 {
        enqueue(&vault, "a", &format!("{n}")).await;
    }
    soon(vault.wait_idle()).await.expect("idle");
    let event = soon(slow.next()).await.expect("event");
    assert_eq!(
        event.missed_before,
        60 - 8,
        "20 actions: queued, started, succeeded"
    );
    assert_eq!(event.sequence, 53);
    let event = soon(slow.next()).await.expect("event");
    assert_eq!((event.missed_before, event.sequence), (0, 54));
}

#[tokio::test]
async fn the_status_follows_the_queue() {
    let server = ChaosServer::start().await;
    server.always(Behaviour::status(200).after(std::time::Duration::from_millis(20)));
    let vault = vault(&server).await;
    let mut changes = vault.watch_status();
    assert!(matches!(
        soon(changes.next()).await,
        Some(Status::Synced(_))
    ));
    vault.pause().await.expect("pause");
    enqueue(&vault, "a", "1").await;
    let status = soon(changes.next()).await.expect("status");
    assert!(matches!(status, Status::Pending(_)), "{status:?}");
    assert_eq!(status.counts().pending, 1);
    assert!(status.counts().oldest.is_some());
    vault.resume().await.expect("resume");
    let mut seen = Vec::new();
    while !matches!(vault.status(), Status::Synced(_)) {
        seen.extend(soon(changes.next()).await);
    }
    assert!(
        seen.iter()
            .any(|status| matches!(status, Status::Syncing(_))),
        "{seen:?}"
    );
    server.next(Behaviour::status(400));
    let ticket = enqueue(&vault, "a", "2").await;
    let end = soon(ticket.wait()).await.expect("end");
    assert_eq!(
        end,
        syncvault::End::Dead(DeadReason::Rejected { status: 400 })
    );
    assert!(
        matches!(vault.status(), Status::Error(_)),
        "{:?}",
        vault.status()
    );
    vault
        .dead_letters()
        .discard(ticket.id())
        .await
        .expect("discard");
    assert!(matches!(vault.status(), Status::Synced(_)));
}

#[tokio::test]
async fn events_serialize_for_other_processes() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    let mut events = vault.events();
    enqueue(&vault, "a", "k").await;
    let event = soon(events.next()).await.expect("event");
    let json = serde_json::to_value(&event).expect("json");
    assert_eq!(json["kind"]["is"], "queued");
    assert_eq!(json["key"], "k");
}

/// Sends that are not on disk learn about their origin while actions expire: each expiry is told all the same.
#[tokio::test]
async fn every_expiry_is_told_while_direct_sends_fail() {
    let server = ChaosServer::start().await;
    server.down().await;
    let vault = builder(&server)
        .event_buffer(10_000)
        .build()
        .await
        .expect("vault");
    let mut events = vault.events();
    let mut waiting = 0;
    for n in 0..300 {
        let limit = std::time::Duration::from_millis(100 + n);
        let request = vault.post("/x").lane(format!("{n}")).expires_in(limit);
        request.enqueue().await.expect("enqueue");
        waiting += 1;
    }
    let looping = async {
        loop {
            let request = vault
                .get("/y")
                .lane("reads")
                .delivery(syncvault::Delivery::Never);
            request.send().await.expect_err("no server");
        }
    };
    let told = async {
        while waiting > 0 {
            let event = events.next().await.expect("event");
            waiting -= u64::from(event.kind == EventKind::Expired);
        }
    };
    tokio::select! {
        () = soon(told) => {}
        () = looping => {}
    }
    assert_eq!(vault.ledger().await.expect("ledger").expired, 300);
}
