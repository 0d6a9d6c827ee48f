//! Two calls of one request, and calls whose future was dropped: what one of them was told must hold.

use std::time::Duration;

use syncvault::{DeadReason, End};

use crate::chaos_server::{Behaviour, ChaosServer};
use crate::story::{assert_balanced, soon, vault};

/// Symptom: a ticket that `send` gave (`Queued`) was forgotten, without a dead letter, when the server refused the request.
/// Cause: the answer of a direct send goes to its caller and nothing is kept; this caller had dropped its future.
/// Fix: a refusal that nobody heard is a dead letter.
#[tokio::test]
async fn a_refusal_that_nobody_heard_is_a_dead_letter() {
    let server = ChaosServer::start().await;
    let refusal = Behaviour::status(422).body("no such shop");
    server.always(refusal.after(Duration::from_millis(200)));
    let vault = vault(&server).await;
    let request = || vault.post("/orders").idempotency_key("a").body("1");
    let first = tokio::spawn(request().send());
    server.wait_received(1).await;
    first.abort();
    assert!(first.await.is_err(), "dropped in flight");
    let ticket = soon(request().send()).await.expect("the same again");
    let ticket = ticket.ticket().expect("queued");
    let end = soon(ticket.wait()).await.expect("an end");
    assert_eq!(end, End::Dead(DeadReason::Rejected { status: 422 }));
    let letters = vault.dead_letters().list(Default::default()).await;
    let answer = letters.expect("letters").items[0].answer.clone();
    assert_eq!(answer.expect("kept").body, "no such shop");
    assert_balanced(&vault).await;
}

/// Symptom: a direct send overtook a request whose `send` had answered `Queued`.
/// Cause: that request was the second call of one that was on its way directly, and direct sends of the default lane
/// run side by side. Fix: once somebody was told that it is queued, it stands in the way like everything queued.
#[tokio::test]
async fn what_was_called_queued_is_not_overtaken() {
    let server = ChaosServer::start().await;
    server.next_on(
        "/orders",
        Behaviour::status(500).after(Duration::from_millis(200)),
    );
    let vault = vault(&server).await;
    let request = || vault.post("/orders").idempotency_key("a").body("1");
    let first = tokio::spawn(request().send());
    server.wait_received(1).await;
    let again = soon(request().send()).await.expect("the same again");
    assert!(again.is_queued());
    let second = vault.post("/orders").idempotency_key("b").send();
    assert!(
        soon(second).await.expect("send").is_queued(),
        "behind the first"
    );
    assert!(soon(first).await.expect("task").expect("send").is_queued());
    soon(vault.wait_idle()).await.expect("idle");
    assert_eq!(server.effect_keys(), ["a", "b"]);
}
