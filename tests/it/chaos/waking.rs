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

/// Symptom: an action whose backoff was over waited until an attempt to another origin ended, that hung.
/// Cause: what is due and was not leased waits for a running attempt, so the timer was left out; with it the timers of
/// everything else. Fix: the timer is the next due time that can be met.
#[tokio::test]
async fn an_origin_that_hangs_does_not_stop_the_clock_of_another() {
    let hanging = ChaosServer::start().await;
    let well = ChaosServer::start().await;
    // In trouble: one attempt at a time. It hangs, and a second lane waits for it.
    hanging.next_on("/h", Behaviour::status(503));
    hanging.on("/h", Behaviour::hang());
    let vault = builder(&well)
        .read_timeout(Duration::from_secs(60))
        .allow_origin(hanging.url())
        .connectivity(syncvault::connectivity::AlwaysReachable::new())
        .build()
        .await
        .expect("vault");
    for lane in ["x", "y", "z"] {
        let request = vault.post(hanging.at("/h")).lane(lane);
        request.enqueue().await.expect("enqueue");
    }
    hanging.wait_received(2).await;
    well.next_on("/orders", Behaviour::status(500));
    let ticket = enqueue(&vault, "w", "1").await;
    assert!(matches!(
        soon(ticket.wait()).await.expect("end"),
        End::Delivered(_)
    ));
}
