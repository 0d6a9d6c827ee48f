//! What breaks on the wire: the same request again, and its effect once.

use std::time::Duration;

use syncvault::{Answer, End};

use crate::chaos_server::{Behaviour, Break, ChaosServer, noise};
use crate::story::{assert_balanced, builder, enqueue, soon, vault};

/// A POST of 300 bytes is about 500 long, head and body.
const REQUEST_BYTES: usize = 560;

#[tokio::test]
async fn a_request_that_is_cut_at_any_byte_arrives_once() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    let mut keys = Vec::new();
    for after in (0..REQUEST_BYTES).step_by(37) {
        server.next(Behaviour::cut_request(after));
        let key = format!("cut at {after}");
        let request = vault.post("/orders").idempotency_key(&key);
        let ticket = request.body(noise(300)).enqueue().await.expect("enqueue");
        let end = soon(ticket.wait()).await.expect("end");
        assert!(matches!(end, End::Delivered(_)), "{key}: {end:?}");
        keys.push(key);
    }
    assert_eq!(server.cut_requests(), keys.len() as u64);
    assert_eq!(server.effect_keys(), keys);
    assert_eq!(server.violations(), [""; 0]);
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn an_answer_that_is_cut_at_any_byte_does_nothing_twice() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    let mut keys = Vec::new();
    for after in (0..110).step_by(7) {
        server.next_on("/orders", Behaviour::cut_response(after, Break::Reset));
        let key = format!("cut at {after}");
        let ticket = enqueue(&vault, "default", &key).await;
        let end = soon(ticket.wait()).await.expect("end");
        assert!(matches!(end, End::Delivered(_)), "{key}: {end:?}");
        keys.push(key);
    }
    assert_eq!(server.effect_keys(), keys);
    assert_eq!(server.violations(), [""; 0]);
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn still_processing_after_a_lost_answer_is_waited_for() {
    let server = ChaosServer::start().await;
    server.next_on("/orders", Behaviour::drop_answer());
    for _ in 0..3 {
        server.next_on("/orders", Behaviour::status(409));
    }
    let vault = vault(&server).await;
    let first = enqueue(&vault, "a", "1").await;
    let second = enqueue(&vault, "a", "2").await;
    assert!(matches!(
        soon(first.wait()).await.expect("end"),
        End::Delivered(_)
    ));
    assert!(matches!(
        soon(second.wait()).await.expect("end"),
        End::Delivered(_)
    ));
    assert_eq!(server.effect_keys(), ["1", "2"]);
    let received = server.received();
    let keys: Vec<_> = received
        .iter()
        .filter_map(|request| request.key())
        .collect();
    assert_eq!(keys, ["1", "1", "1", "1", "1", "2"], "the lane waited");
    assert_eq!(vault.dead_letters().count().await.expect("count"), 0);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_a_delivery_all_the_same() {
    let server = ChaosServer::start().await;
    server.next(Behaviour::cut_response(500, Break::Close).body(noise(2000)));
    let vault = vault(&server).await;
    let ticket = enqueue(&vault, "a", "1").await;
    let End::Delivered(answer) = soon(ticket.wait()).await.expect("end") else {
        panic!("not delivered")
    };
    assert_eq!((answer.status, answer.is_truncated), (200, true));
    assert!(!answer.body.is_empty() && noise(2000).starts_with(&answer.body));
    assert_eq!(server.received().len(), 1, "not sent again");
}

#[tokio::test]
async fn an_answer_without_an_end_costs_little_and_stops_nobody() {
    let server = ChaosServer::start().await;
    let giant = Behaviour::status(200).body(noise(4 * 1024 * 1024));
    server
        .next_on("/orders", Behaviour::endless_body())
        .next_on("/orders", giant);
    let vault = vault(&server).await;
    for key in ["endless", "giant", "small"] {
        let ticket = enqueue(&vault, "a", key).await;
        let End::Delivered(answer) = soon(ticket.wait()).await.expect("end") else {
            panic!("not delivered")
        };
        assert_eq!(answer.is_truncated, key != "small");
        assert!(answer.body.len() <= Answer::BODY_BYTES_MAX);
    }
    assert_eq!(server.effect_keys(), ["endless", "giant", "small"]);
    let counts = *vault.status().counts();
    assert!(
        counts.retained_bytes <= 3 * (Answer::BODY_BYTES_MAX as u64 + 4096),
        "{counts:?}"
    );
}

#[tokio::test]
async fn a_login_page_of_the_network_is_no_answer_of_the_server() {
    let server = ChaosServer::start().await;
    for _ in 0..5 {
        server.next_on("/orders", Behaviour::status(511));
    }
    let vault = builder(&server)
        .max_retries(1)
        .build()
        .await
        .expect("vault");
    let ticket = enqueue(&vault, "a", "1").await;
    assert!(matches!(
        soon(ticket.wait()).await.expect("end"),
        End::Delivered(_)
    ));
    let action = vault
        .action(ticket.id())
        .await
        .expect("action")
        .expect("known");
    assert_eq!((action.attempts, action.attempts_counted), (6, 0));
}

#[tokio::test]
async fn a_server_that_hangs_costs_a_timeout_and_nothing_else() {
    let server = ChaosServer::start().await;
    server.next_on("/orders", Behaviour::hang());
    let vault = builder(&server)
        .connect_timeout(Duration::from_millis(100))
        .read_timeout(Duration::from_millis(100))
        .build()
        .await
        .expect("vault");
    let hung = enqueue(&vault, "a", "1").await;
    server.wait_received(1).await;
    let other = enqueue(&vault, "b", "2").await;
    assert!(matches!(
        soon(other.wait()).await.expect("end"),
        End::Delivered(_)
    ));
    assert!(matches!(
        soon(hung.wait()).await.expect("end"),
        End::Delivered(_)
    ));
    assert_eq!(server.violations(), [""; 0]);
}
