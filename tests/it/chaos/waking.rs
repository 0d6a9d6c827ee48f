//! Wake-ups: none too few, or something lies in the queue that could go; none too many, or offline costs battery.

use std::time::Duration;

use syncvault::{Backoff, Delivery, End, RetryPolicy};

use crate::chaos_server::{Behaviour, ChaosServer};
use crate::story::{builder, enqueue, soon};

/// Symptom: what was queued while an origin waited, and nothing else was queued, lay there for ever.
/// Cause: the worker had no timer, because nothing was queued when the gate closed; and nobody woke it, because the
/// gate was closed when the action came. Fix: who adds an action wakes the worker if it would sleep past the opening.
#[tokio::test]
async fn what_is_queued_behind_a_closed_gate_goes_when_it_opens() {
    let server = ChaosServer::start().await;
    server.next_on("/read", Behaviour::status(503));
    let mut policy = RetryPolicy::default();
    policy.origin_backoff = Backoff::fixed(Duration::from_millis(300));
    let vault = builder(&server)
        .retry_policy(policy)
        .connectivity(syncvault::connectivity::AlwaysReachable::new())
        .build()
        .await
        .expect("vault");
    let read = vault.get("/read").delivery(Delivery::Never).send();
    assert!(soon(read).await.expect("read").is_sent());
    // The worker has seen the gate, and nothing is queued.
    soon(vault.process_queue()).await.expect("pass");
    let ticket = enqueue(&vault, "a", "1").await;
    assert!(matches!(
        soon(ticket.wait()).await.expect("end"),
        End::Delivered(_)
    ));
}
