//! Direct sends: answered at once when they can be, on disk when they cannot.

use std::time::Duration;

use syncvault::{ConnectivityMode, Delivery, End, ErrorKind, Outcome, State};

use super::{assert_balanced, builder, enqueue, soon, vault};
use crate::chaos_server::{Behaviour, ChaosServer};

#[tokio::test]
async fn a_post_is_answered_directly_and_its_answer_is_kept() {
    let server = ChaosServer::start().await;
    server.always(Behaviour::status(201).body(r#"{"id":7}"#));
    let vault = vault(&server).await;
    let outcome = soon(vault.post("/orders").json(&1).idempotency_key("a").send()).await;
    let Outcome::Sent(response) = outcome.expect("send") else {
        panic!("queued")
    };
    assert_eq!(response.status(), 201);
    assert_eq!(response.text().await.expect("body"), r#"{"id":7}"#);
    soon(vault.wait_idle()).await.expect("idle");
    let again = vault
        .post("/orders")
        .json(&1)
        .idempotency_key("a")
        .send()
        .await
        .expect("send");
    let ticket = again.ticket().expect("the same ticket again");
    let End::Delivered(answer) = soon(ticket.wait()).await.expect("end") else {
        panic!()
    };
    assert_eq!(answer.status, 201);
    assert_eq!(server.effect_keys(), ["a"]);
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn the_body_of_a_direct_answer_is_kept_once_it_was_read() {
    let server = ChaosServer::start().await;
    server.always(Behaviour::status(201).body(r#"{"id":7}"#));
    let vault = vault(&server).await;
    let sent = vault
        .post("/orders")
        .idempotency_key("a")
        .send()
        .await
        .expect("send");
    let response = sent.response().expect("sent");
    assert_eq!(response.bytes().await.expect("body"), r#"{"id":7}"#);
    let ticket = vault
        .post("/orders")
        .idempotency_key("a")
        .send()
        .await
        .expect("send");
    let ticket = ticket.ticket().expect("known");
    let kept = async {
        loop {
            if let Some(End::Delivered(answer)) = ticket.end().await.expect("end")
                && !answer.body.is_empty()
            {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    let answer = soon(kept).await;
    assert_eq!(answer.json::<serde_json::Value>().expect("json")["id"], 7);
    assert!(!answer.is_truncated);
}

#[tokio::test]
async fn a_refusal_goes_to_the_caller_and_nothing_is_kept() {
    let server = ChaosServer::start().await;
    server.answers(404);
    let vault = vault(&server).await;
    let outcome = soon(vault.post("/orders").idempotency_key("a").send())
        .await
        .expect("send");
    assert_eq!(outcome.response().expect("sent").status(), 404);
    soon(vault.wait_idle()).await.expect("idle");
    assert_eq!(vault.dead_letters().count().await.expect("count"), 0);
    let ledger = vault.ledger().await.expect("ledger");
    assert_eq!((ledger.enqueued, ledger.returned), (1, 1));
    server.answers(200);
    let again = soon(vault.post("/orders").idempotency_key("a").send())
        .await
        .expect("send");
    assert!(again.is_sent(), "the key is free again");
}

#[tokio::test]
async fn a_post_to_a_server_that_is_away_is_queued_and_arrives_later() {
    let server = ChaosServer::start().await;
    server.down().await;
    let vault = vault(&server).await;
    let outcome = soon(vault.post("/orders").idempotency_key("a").send())
        .await
        .expect("send");
    let ticket = outcome.ticket().expect("queued");
    let action = vault
        .action(ticket.id())
        .await
        .expect("action")
        .expect("known");
    assert_eq!(action.attempts_counted, 0, "being offline burns no attempt");
    server.up().await;
    assert!(matches!(
        soon(ticket.wait()).await.expect("end"),
        End::Delivered(_)
    ));
    assert_eq!(server.effect_keys(), ["a"]);
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn a_get_is_queued_only_when_it_got_no_answer() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    assert!(
        soon(vault.get("/orders").send())
            .await
            .expect("send")
            .is_sent()
    );
    assert_eq!(vault.ledger().await.expect("ledger").enqueued, 0);
    server.next(Behaviour::status(500));
    let outcome = soon(vault.get("/orders").send()).await.expect("send");
    let ticket = outcome.ticket().expect("queued");
    assert!(matches!(
        soon(ticket.wait()).await.expect("end"),
        End::Delivered(_)
    ));
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn what_may_never_be_queued_is_an_answer_or_an_error() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    let never = || vault.get("/x").delivery(Delivery::Never);
    assert!(soon(never().send()).await.expect("send").is_sent());
    server.down().await;
    let error = soon(never().send()).await.expect_err("no server");
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert_eq!(vault.pending_count().await.expect("count"), 0);
}

#[tokio::test]
async fn a_direct_send_never_overtakes_its_lane() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    vault.set_connectivity(ConnectivityMode::Offline);
    let first = enqueue(&vault, "default", "1").await;
    let second = soon(vault.post("/orders").idempotency_key("2").send())
        .await
        .expect("send");
    assert!(second.is_queued(), "offline, and behind the first");
    let error = vault
        .get("/x")
        .delivery(Delivery::Never)
        .send()
        .await
        .expect_err("offline");
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    server.always(Behaviour::status(200).after(Duration::from_millis(50)));
    vault.set_connectivity(ConnectivityMode::Auto);
    let third = soon(vault.post("/orders").idempotency_key("3").send())
        .await
        .expect("send");
    assert!(third.is_queued(), "behind what the lane holds");
    let error = vault
        .get("/x")
        .delivery(Delivery::Never)
        .send()
        .await
        .expect_err("busy lane");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    let past = vault
        .get("/x")
        .delivery(Delivery::Never)
        .lane("reads")
        .send()
        .await;
    assert!(past.expect("another lane").is_sent());
    soon(first.wait()).await.expect("first");
    soon(vault.wait_idle()).await.expect("idle");
    assert_eq!(server.effect_keys(), ["1", "2", "3"]);
}

#[tokio::test]
async fn direct_sends_run_side_by_side_in_the_default_lane_and_one_by_one_in_a_named_one() {
    let server = ChaosServer::start().await;
    server.always(Behaviour::status(200).after(Duration::from_millis(100)));
    let vault = vault(&server).await;
    for (lane, at_once) in [(None, true), (Some("named"), false)] {
        let started = std::time::Instant::now();
        let sends = (0..5).map(|_| {
            let request = vault.post("/orders");
            match lane {
                Some(lane) => request.lane(lane).send(),
                None => request.lane("default").send(),
            }
        });
        let outcomes = soon(futures_util::future::join_all(sends)).await;
        assert!(
            outcomes.iter().all(|o| o.as_ref().expect("send").is_sent()),
            "{lane:?}"
        );
        let took = started.elapsed();
        assert_eq!(
            took < Duration::from_millis(400),
            at_once,
            "{lane:?} took {took:?}"
        );
    }
}

#[tokio::test]
async fn dropping_a_send_loses_nothing() {
    let server = ChaosServer::start().await;
    server.next(Behaviour::status(200).after(Duration::from_millis(200)));
    let vault = vault(&server).await;
    let send = vault.post("/orders").idempotency_key("a").send();
    tokio::time::timeout(Duration::from_millis(50), send)
        .await
        .expect_err("dropped in flight");
    soon(vault.wait_idle()).await.expect("idle");
    assert_eq!(server.effect_keys(), ["a"]);
    assert_eq!(server.received().len(), 1, "the attempt went on");
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn a_write_ahead_is_on_disk_before_the_first_byte_leaves() {
    let server = ChaosServer::start().await;
    let store = std::sync::Arc::new(syncvault::store::MemoryStore::new());
    let seen = store.clone();
    server.script(move |_, _| {
        let ready = futures_util::FutureExt::now_or_never(syncvault::store::Store::totals(&*seen));
        let counts = ready.expect("ready").expect("totals").counts;
        assert_eq!((counts.pending, counts.in_flight), (1, 1));
        Some(Behaviour::status(200))
    });
    let vault = super::bare_builder(&server)
        .shared_store(store)
        .build()
        .await
        .expect("vault");
    assert!(
        soon(vault.post("/orders").send())
            .await
            .expect("send")
            .is_sent()
    );
}

#[tokio::test]
async fn credentials_in_a_request_are_refused_before_anything_is_sent() {
    let server = ChaosServer::start().await;
    let plain = vault(&server).await;
    let request = || plain.post("/x").header("authorization", "Bearer s3cret");
    let error = request().send().await.expect_err("cannot be stored");
    assert_eq!(error.kind(), ErrorKind::CredentialsInRequest);
    assert!(!format!("{error:?}").contains("s3cret"));
    assert!(server.received().is_empty());
    assert!(
        request()
            .delivery(Delivery::Never)
            .send()
            .await
            .expect("direct")
            .is_sent()
    );
    assert!(server.saw("Bearer s3cret"));
    let stamped = builder(&server)
        .credentials(|_| async { syncvault::bearer("fresh") })
        .build()
        .await
        .expect("vault");
    let request = stamped.post("/x").header("authorization", "Bearer stale");
    assert!(request.send().await.expect("stamped").is_sent());
    assert!(server.saw("Bearer fresh") && !server.saw("Bearer stale"));
}

#[tokio::test]
async fn a_401_is_answered_with_one_refresh_and_no_attempt_is_burnt() {
    let server = ChaosServer::start().await;
    server.script(|request, _| {
        let is_fresh = request.header("authorization") == Some("Bearer fresh");
        Some(Behaviour::status(if is_fresh { 200 } else { 401 }))
    });
    let token = std::sync::Arc::new(std::sync::Mutex::new("stale"));
    let vault = builder(&server)
        .credentials(move |request: syncvault::transport::CredentialRequest| {
            let token = token.clone();
            async move {
                let mut token = token.lock().expect("token");
                if request.refresh == syncvault::transport::Refresh::Yes {
                    *token = "fresh";
                }
                syncvault::bearer(*token)
            }
        })
        .build()
        .await
        .expect("vault");
    let ticket = enqueue(&vault, "default", "a").await;
    assert!(matches!(
        soon(ticket.wait()).await.expect("end"),
        End::Delivered(_)
    ));
    let action = vault
        .action(ticket.id())
        .await
        .expect("action")
        .expect("known");
    assert_eq!((action.attempts, action.attempts_counted), (1, 0));
    assert!(matches!(action.state, State::Delivered { status: 200, .. }));
}

/// Two callers, one key: the server refuses, and the second caller, who was told "queued", must find out.
#[tokio::test]
async fn a_refusal_that_somebody_else_waits_for_is_a_dead_letter() {
    let server = ChaosServer::start().await;
    server.always(Behaviour::status(404).after(Duration::from_millis(100)));
    let vault = vault(&server).await;
    let request = || vault.post("/p").idempotency_key("k");
    let first = tokio::spawn(request().send());
    server.wait_received(1).await;
    let second = request().enqueue().await.expect("known");
    let first = soon(first).await.expect("join").expect("send");
    assert_eq!(first.response().expect("sent").status(), 404);
    let want = syncvault::DeadReason::Rejected { status: 404 };
    assert_eq!(soon(second.wait()).await.expect("end"), End::Dead(want));
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn a_refused_key_is_free_once_the_refusal_was_told() {
    let server = ChaosServer::start().await;
    server.answers(404);
    let vault = vault(&server).await;
    for _ in 0..20 {
        let sent = soon(vault.post("/p").idempotency_key("k").send())
            .await
            .expect("send");
        assert_eq!(sent.response().expect("sent").status(), 404);
    }
    assert_eq!(server.received().len(), 20);
}

#[tokio::test]
async fn a_key_is_checked_before_a_request_that_is_not_written_ahead() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    let request = |body: &'static str| vault.post("/p").idempotency_key("k").body(body);
    assert!(soon(request("a").send()).await.expect("send").is_sent());
    soon(vault.wait_idle()).await.expect("idle");
    for delivery in [Delivery::OnFailure, Delivery::Never] {
        let error = request("b")
            .delivery(delivery)
            .send()
            .await
            .expect_err("another body");
        assert_eq!(error.kind(), ErrorKind::IdempotencyConflict);
    }
    let known = request("a")
        .delivery(Delivery::OnFailure)
        .send()
        .await
        .expect("known");
    let end = known.ticket().expect("a ticket").end().await.expect("end");
    assert!(matches!(end, Some(End::Delivered(_))));
    assert_eq!(server.received().len(), 1);
}

#[tokio::test]
async fn a_direct_send_does_not_pass_a_blocked_lane() {
    let server = ChaosServer::start().await;
    server.next(Behaviour::status(400));
    let dead_lane = syncvault::DeadLane::Block;
    let vault = builder(&server)
        .dead_lane(dead_lane)
        .build()
        .await
        .expect("vault");
    let dead = enqueue(&vault, "a", "1").await;
    soon(dead.wait()).await.expect("dead");
    for delivery in [Delivery::OnFailure, Delivery::WriteAhead] {
        let sent = vault
            .put("/2")
            .lane("a")
            .delivery(delivery)
            .send()
            .await
            .expect("send");
        assert!(sent.is_queued(), "{delivery:?}");
    }
    assert_eq!(server.received().len(), 1);
}

#[tokio::test]
async fn a_direct_send_that_supersedes_says_so() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    let put = || vault.put("/d").coalesce("d").lane("a");
    let later = std::time::SystemTime::now() + Duration::from_secs(3600);
    let old = put().not_before(later).enqueue().await.expect("enqueue");
    assert!(soon(put().send()).await.is_ok());
    assert_eq!(soon(old.wait()).await.expect("end"), End::Superseded);
}

#[tokio::test]
async fn a_panic_in_an_attempt_neither_loops_nor_stops_the_vault() {
    let server = ChaosServer::start().await;
    let vault = builder(&server)
        .classifier(|_: &syncvault::decide::Observation<'_>| panic!("the app's bug"))
        .build()
        .await
        .expect("vault");
    let ticket = enqueue(&vault, "a", "1").await;
    assert!(matches!(
        soon(ticket.wait()).await.expect("end"),
        End::Delivered(_)
    ));
    assert_eq!(server.received().len(), 1, "the table decided");
}

/// A transport that panics: the attempt is put off and counted, and ends in a dead letter.
#[derive(Debug)]
struct Panicking(std::sync::atomic::AtomicU32);

impl syncvault::transport::Transport for Panicking {
    fn send(&self, _: syncvault::reqwest::Request) -> syncvault::transport::TransportFuture<'_> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Box::pin(async { panic!("a bug of the transport") })
    }
}

#[tokio::test]
async fn a_transport_that_panics_is_not_hammered() {
    let server = ChaosServer::start().await;
    let panicking = || Panicking(std::sync::atomic::AtomicU32::new(0));
    let vault = builder(&server)
        .transport(panicking())
        .max_retries(0)
        .build()
        .await;
    let vault = vault.expect("vault");
    let ticket = enqueue(&vault, "a", "1").await;
    let end = soon(ticket.wait()).await.expect("end");
    assert!(
        matches!(end, End::Dead(syncvault::DeadReason::Unsendable { .. })),
        "{end:?}"
    );
    let vault = builder(&server)
        .transport(panicking())
        .build()
        .await
        .expect("vault");
    let ticket = enqueue(&vault, "a", "1").await;
    let report = soon(vault.process_queue()).await.expect("pass");
    assert!(
        matches!(report.stopped, syncvault::Stopped::Waiting { .. }),
        "{report:?}"
    );
    let action = vault
        .action(ticket.id())
        .await
        .expect("action")
        .expect("known");
    assert_eq!((action.attempts, action.attempts_counted), (1, 1));
}
