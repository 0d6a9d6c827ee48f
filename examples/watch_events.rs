//! What an app can see: the events of all requests, the events of one, and the status for a small icon.
//!
//! ```text
//! cargo run --example watch_events
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

mod support;

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use syncvault::{Event, EventKind, Events, Outcome, Status, StatusChanges, SyncVault};

use support::{Result, Server, impatient};

#[tokio::main]
async fn main() -> Result {
    let router = Router::new().route("/notes", post(async || StatusCode::CREATED));
    let mut server = Server::start(router).await?;
    let dir = tempfile::tempdir()?;
    let vault = SyncVault::builder(server.url())
        .storage_path(dir.path())
        .retry_policy(impatient())
        .build()
        .await?;

    let log = tokio::spawn(log_events(vault.events()));
    let icon = tokio::spawn(show_icon(vault.watch_status()));

    note(&vault, "note-1").await?;
    println!("        the server goes away");
    server.go_down().await?;
    note(&vault, "note-2").await?;
    note(&vault, "note-3").await?;

    // The events of one request: first what is known of it, then what happens, up to its end.
    let mut story = vault.events_for_key("note-3").await?;
    let story = tokio::spawn(async move {
        let mut kinds = Vec::new();
        while let Some(event) = story.next().await {
            kinds.push(event.kind);
        }
        kinds
    });

    tokio::time::sleep(Duration::from_millis(300)).await;
    println!("        the server is back");
    server.go_up().await?;
    vault.wait_idle().await?;

    let story = story.await?;
    println!("        all of note-3: {story:?}");
    assert_eq!(story.first(), Some(&EventKind::Queued));
    assert_eq!(story.last(), Some(&EventKind::Succeeded { status: 201 }));

    // Also when it has ended long ago, after a restart for example.
    let mut late = vault.events_for_key("note-2").await?;
    let event = late.next().await.ok_or("the end of note-2 is known")?;
    assert_eq!(event.kind, EventKind::Succeeded { status: 201 });
    assert!(late.next().await.is_none());

    // Streams end with the vault.
    vault.shutdown(Duration::from_secs(1)).await?;
    let (seen, last) = (log.await?, icon.await?);
    assert_eq!(last, Some("synced"));
    assert_eq!(
        seen.iter()
            .filter(|e| matches!(e.kind, EventKind::Succeeded { .. }))
            .count(),
        3
    );
    assert!(seen.is_sorted_by_key(|event| event.sequence));
    Ok(())
}

async fn note(vault: &SyncVault, key: &str) -> Result {
    match vault
        .post("/notes")
        .body("...")
        .idempotency_key(key)
        .send()
        .await?
    {
        Outcome::Sent(response) => println!("{key}  sent: {}", response.status()),
        Outcome::Queued(_) => println!("{key}  on disk"),
    }
    Ok(())
}

/// Every event from now on. A reader that is too slow loses some, and is told; delivery never waits for it.
async fn log_events(mut events: Events) -> Vec<Event> {
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        if event.missed_before > 0 {
            println!("        {} events were lost here", event.missed_before);
        }
        let what = match &event.kind {
            EventKind::Started { attempt } => format!("attempt {attempt}"),
            EventKind::Failed { error, .. } => format!("failed, still queued: {error}"),
            other => format!("{other:?}"),
        };
        println!("{}  event {}: {what}", event.key, event.sequence);
        seen.push(event);
    }
    seen
}

/// The status is a value, not a list: who looks late sees the newest one.
async fn show_icon(mut changes: StatusChanges) -> Option<&'static str> {
    let mut last = None;
    while let Some(status) = changes.next().await {
        let word = match status {
            Status::Synced(_) => "synced",
            Status::Pending(_) => "pending",
            Status::Syncing(_) => "syncing",
            _ => "needs you",
        };
        println!("        icon: {word}, {} pending", status.counts().pending);
        last = Some(word);
    }
    last
}
