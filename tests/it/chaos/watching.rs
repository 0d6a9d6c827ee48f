//! Events and status under load: in order, always with an end, never ahead of each other.

use super::watched::WatchedStore;
use crate::chaos_server::ChaosServer;
use crate::story::{bare_builder, enqueue, soon};
use syncvault::EventKind;

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
    soon(vault.shutdown(std::time::Duration::ZERO))
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
