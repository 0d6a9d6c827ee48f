//! Options, pause, connectivity, shutdown.

use std::time::Duration;

use syncvault::store::MemoryStore;
use syncvault::{Connection, ConnectivityMode, End, ErrorKind, Status, SyncVault, WhyPending};

use super::{assert_balanced, bare_builder, builder, enqueue, soon, vault};
use crate::chaos_server::{Behaviour, ChaosServer};

#[tokio::test]
async fn a_bad_option_is_an_error_that_names_it() {
    let with = |url: &str| SyncVault::builder(url).store(MemoryStore::new());
    let good = "http://127.0.0.1:1";
    let table = [
        ("base_url", with("not a url")),
        ("base_url", with("ftp://x")),
        ("base_url", with("http://user@x")),
        ("base_url", with("http://x/?q=1")),
        ("storage_path", SyncVault::builder(good)),
        ("max_in_flight", with(good).max_in_flight(0)),
        ("max_in_flight", with(good).max_in_flight(1025)),
        ("event_buffer", with(good).event_buffer(0)),
        ("pending_max", with(good).pending_max(0)),
        (
            "body_bytes_max",
            with(good).bytes_max(10).body_bytes_max(11),
        ),
        (
            "connect_timeout",
            with(good).connect_timeout(Duration::ZERO),
        ),
        ("read_timeout", with(good).read_timeout(Duration::ZERO)),
        ("key_retention", with(good).key_retention(Duration::ZERO)),
        ("allow_origin", with(good).allow_origin("nonsense")),
        (
            "idempotency_header",
            with(good).idempotency_header("bad name", Default::default()),
        ),
        (
            "retry_policy",
            with(good).backoff(syncvault::Backoff::fixed(Duration::MAX)),
        ),
        ("store", with(good).storage_path("/nowhere")),
    ];
    for (name, builder) in table {
        let error = builder.build().await.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(
            error.to_string().contains(&format!("option {name}")),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_single_rule_goes_over_the_policy_in_any_order() {
    let server = ChaosServer::start().await;
    server.answers(500);
    let mut policy = syncvault::RetryPolicy::default();
    policy.backoff = syncvault::Backoff::fixed(Duration::from_millis(1));
    let bare = || SyncVault::builder(server.url()).store(MemoryStore::new());
    for builder in [
        bare().max_retries(1).retry_policy(policy),
        bare().retry_policy(policy).max_retries(1),
    ] {
        let vault = builder.build().await.expect("vault");
        let ticket = enqueue(&vault, "a", "1").await;
        let want = syncvault::DeadReason::RetriesExhausted {
            attempts: 2,
            status: Some(500),
        };
        assert_eq!(soon(ticket.wait()).await.expect("end"), End::Dead(want));
    }
}

#[tokio::test]
async fn a_bad_request_is_refused_before_anything_is_kept() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    let long = "x".repeat(256);
    let table = [
        ("CR and LF", vault.post("/x").header("x-a", "a\r\nb: c")),
        ("NUL", vault.post("/x").header("x-a", "a\0b")),
        ("a bad name", vault.post("/x").header("x a", "b")),
        ("a long key", vault.post("/x").idempotency_key(long.clone())),
        ("an empty key", vault.post("/x").idempotency_key("")),
        (
            "a key with a newline",
            vault.post("/x").idempotency_key("a\nb"),
        ),
        ("a long lane", vault.post("/x").lane(long.clone())),
        ("an empty lane", vault.post("/x").lane("")),
        ("a long tag", vault.post("/x").tag(long.clone())),
        ("another origin", vault.post("http://other.example/x")),
        ("another port", vault.post("http://127.0.0.1:1/x")),
        ("another scheme", vault.post("file:///etc/passwd")),
        ("two slashes", vault.post("//other.example/x")),
        (
            "a user name",
            vault.post(server.url().replace("http://", "http://me@")),
        ),
        ("a control character", vault.post("/x\r\ny")),
        ("a huge URL", vault.post("/".to_owned() + &"x".repeat(9000))),
        (
            "huge headers",
            vault.post("/x").header("x-a", "x".repeat(20_000)),
        ),
        ("no time", vault.post("/x").timeout(Duration::ZERO)),
    ];
    for (what, request) in table {
        let error = request.send().await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{what}: {error}");
    }
    assert!(server.received().is_empty());
    assert_eq!(vault.ledger().await.expect("ledger").enqueued, 0);
}

#[tokio::test]
async fn paths_join_the_base_and_queries_join_the_path() {
    let server = ChaosServer::start().await;
    let base = format!("{}/v1", server.url());
    let vault = SyncVault::builder(base.clone()).store(MemoryStore::new());
    let vault = vault.build().await.expect("vault");
    let table = [
        ("orders", "/v1/orders"),
        ("/orders", "/v1/orders"),
        ("/orders?a=1", "/v1/orders?a=1&b=2"),
        ("", "/v1"),
    ];
    for (path, want) in table {
        let request = vault.get(path);
        let request = if want.contains("b=2") {
            request.query(&[("b", "2")])
        } else {
            request
        };
        assert!(soon(request.send()).await.expect("send").is_sent());
        assert_eq!(server.received().last().expect("received").path, want);
    }
    let absolute = vault.get(format!("{}/elsewhere", server.url()));
    assert!(
        soon(absolute.send())
            .await
            .expect("the base's origin")
            .is_sent()
    );
}

#[tokio::test]
async fn another_origin_is_allowed_by_name() {
    let (server, other) = (ChaosServer::start().await, ChaosServer::start().await);
    let vault = builder(&server)
        .allow_origin(other.url())
        .build()
        .await
        .expect("vault");
    let ticket = vault
        .post(format!("{}/x", other.url()))
        .enqueue()
        .await
        .expect("enqueue");
    soon(ticket.wait()).await.expect("end");
    assert_eq!((server.received().len(), other.received().len()), (0, 1));
}

#[tokio::test]
async fn an_origin_that_is_away_holds_only_its_own() {
    let (server, other) = (ChaosServer::start().await, ChaosServer::start().await);
    other.down().await;
    let vault = builder(&server)
        .allow_origin(other.url())
        .build()
        .await
        .expect("vault");
    let away = vault
        .post(format!("{}/x", other.url()))
        .lane("b")
        .enqueue()
        .await
        .expect("away");
    let here = enqueue(&vault, "a", "here").await;
    assert!(matches!(
        soon(here.wait()).await.expect("end"),
        End::Delivered(_)
    ));
    assert_eq!(away.end().await.expect("end"), None);
    assert_eq!(vault.connection(), Connection::Online, "the base is there");
    other.up().await;
    soon(away.wait()).await.expect("end");
}

#[tokio::test]
async fn a_pause_is_kept_over_a_restart() {
    let server = ChaosServer::start().await;
    let store = MemoryStore::new();
    let open = async || {
        bare_builder(&server)
            .store(store.restarted())
            .build()
            .await
            .expect("vault")
    };
    let first = open().await;
    first.pause().await.expect("pause");
    let ticket = first
        .post("/x")
        .send()
        .await
        .expect("send")
        .ticket()
        .expect("queued");
    let why = first.why_pending(ticket.id()).await.expect("why");
    assert_eq!(why, WhyPending::Paused);
    drop(first);
    let second = open().await;
    assert!(second.is_paused());
    assert!(server.received().is_empty());
    second.resume().await.expect("resume");
    let ticket = second
        .ticket(ticket.id())
        .await
        .expect("ticket")
        .expect("known");
    assert!(matches!(
        soon(ticket.wait()).await.expect("end"),
        End::Delivered(_)
    ));
}

#[tokio::test]
async fn offline_by_hand_tries_nothing_unless_asked() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    vault.set_connectivity(ConnectivityMode::Offline);
    assert_eq!(vault.connection(), Connection::Offline);
    let error = vault
        .wait_online(Duration::from_millis(10))
        .await
        .expect_err("offline");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let ticket = enqueue(&vault, "a", "1").await;
    let why = vault.why_pending(ticket.id()).await.expect("why");
    assert_eq!(why, WhyPending::Offline);
    assert!(server.received().is_empty());
    let report = soon(vault.process_queue()).await.expect("pass");
    assert_eq!(report.delivered, 1, "the caller may know better");
    vault.set_connectivity(ConnectivityMode::Auto);
    soon(vault.wait_online(Duration::from_secs(1)))
        .await
        .expect("online");
}

#[tokio::test]
async fn a_hint_that_the_network_is_back_is_enough() {
    let server = ChaosServer::start().await;
    server.down().await;
    let mut policy = syncvault::RetryPolicy::default();
    let hour = Duration::from_secs(3600);
    policy.origin_backoff = syncvault::Backoff::fixed(hour);
    let vault = builder(&server)
        .retry_policy(policy)
        .build()
        .await
        .expect("vault");
    let ticket = enqueue(&vault, "a", "1").await;
    soon(async {
        while vault.connection() == Connection::Online {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let why = vault.why_pending(ticket.id()).await.expect("why");
    assert!(matches!(why, WhyPending::OriginWaits { .. }), "{why:?}");
    server.up().await;
    vault.notify_network_changed();
    soon(vault.wait_online(Duration::from_secs(10)))
        .await
        .expect("online");
    assert!(matches!(
        soon(ticket.wait()).await.expect("end"),
        End::Delivered(_)
    ));
}

#[tokio::test]
async fn a_shutdown_waits_for_what_runs_and_then_takes_nothing() {
    let server = ChaosServer::start().await;
    server.always(Behaviour::status(200).after(Duration::from_millis(100)));
    let vault = vault(&server).await;
    let ticket = enqueue(&vault, "a", "1").await;
    server.wait_received(1).await;
    soon(vault.shutdown(Duration::from_secs(10)))
        .await
        .expect("shutdown");
    assert_eq!(server.effect_keys(), ["1"]);
    for error in [
        vault.post("/x").send().await.expect_err("closed"),
        vault.post("/x").enqueue().await.expect_err("closed"),
        vault.process_queue().await.expect_err("closed"),
        vault.pending_count().await.expect_err("closed"),
        ticket.end().await.expect_err("closed"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    }
    soon(vault.shutdown(Duration::ZERO))
        .await
        .expect("twice is fine");
    let mut events = vault.events();
    assert!(soon(events.next()).await.is_none(), "streams end");
}

#[tokio::test]
async fn a_shutdown_cuts_off_what_runs_too_long_and_loses_nothing() {
    let server = ChaosServer::start().await;
    server.next(Behaviour::hang());
    let store = MemoryStore::new();
    let open = async || {
        bare_builder(&server)
            .store(store.restarted())
            .build()
            .await
            .expect("vault")
    };
    let vault = open().await;
    let ticket = enqueue(&vault, "a", "1").await;
    server.wait_received(1).await;
    soon(vault.shutdown(Duration::from_millis(20)))
        .await
        .expect("shutdown");
    let vault = open().await;
    let action = vault
        .action(ticket.id())
        .await
        .expect("action")
        .expect("known");
    assert_eq!(action.wire_state, syncvault::WireState::MaybeSent);
    soon(vault.wait_idle()).await.expect("idle");
    assert_eq!(server.effect_keys(), ["1"]);
    assert!(matches!(vault.status(), Status::Synced(_)));
    assert_balanced(&vault).await;
}

/// Hints that end are no hints; a vault without its runtime is closed; no deadline is too long.
#[tokio::test]
async fn a_vault_whose_worker_is_gone_says_so() {
    let server = ChaosServer::start().await;
    let url = server.url();
    let (vault, ticket) = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("runtime").block_on(async {
            let vault = SyncVault::builder(url)
                .store(MemoryStore::new())
                .build()
                .await;
            let vault = vault.expect("vault");
            vault.pause().await.expect("pause");
            let ticket = enqueue(&vault, "a", "1").await;
            (vault, ticket)
        })
    })
    .await
    .expect("join");
    let error = vault.post("/x").enqueue().await.expect_err("no worker");
    assert_eq!(error.kind(), ErrorKind::Closed);
    let error = soon(ticket.wait()).await.expect_err("no worker");
    assert_eq!(error.kind(), ErrorKind::Closed);
    let error = soon(vault.shutdown(Duration::MAX))
        .await
        .expect_err("it ended before");
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn no_deadline_is_too_long() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    soon(vault.shutdown(Duration::MAX)).await.expect("shutdown");
}
