//! Looking into a vault: why something waits, numbers, traces, metrics.

use std::time::Duration;

use syncvault::{
    Backoff, ConnectivityMode, Draining, ErrorKind, State, WhyPending, decide::GateReason,
};

use crate::chaos_server::{Behaviour, ChaosServer};
use crate::story::{builder, enqueue, soon, vault};

#[tokio::test]
async fn why_names_what_holds_an_action() {
    let server = ChaosServer::start().await;
    server.answers(500);
    let slow = Backoff::fixed(Duration::from_secs(600)).equal_jitter();
    let vault = builder(&server).backoff(slow).build().await.expect("vault");
    let first = enqueue(&vault, "a", "1").await;
    let second = enqueue(&vault, "a", "2").await;
    server.wait_received(1).await;
    let why = loop {
        match vault.why_pending(first.id()).await.expect("why") {
            WhyPending::Backoff {
                attempts,
                until,
                error,
            } => break (attempts, until, error),
            other => assert!(matches!(
                other,
                WhyPending::InFlight { .. } | WhyPending::Ready
            )),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((why.0, why.2.as_deref()), (1, Some("status 500")));
    let behind = vault.why_pending(second.id()).await.expect("why");
    assert_eq!(behind, WhyPending::Behind { first: first.id() });
    assert_eq!(behind.next(), None);
    let text = vault
        .why_pending(first.id())
        .await
        .expect("why")
        .to_string();
    assert_eq!(text, "it waits after attempt 1: status 500");
}

#[tokio::test]
async fn why_tells_of_the_origin_and_of_a_vault_that_waits_for_a_call() {
    let server = ChaosServer::start().await;
    server.always(Behaviour::status(429).header("retry-after", "600"));
    let on_request = builder(&server).draining(Draining::OnRequest);
    let vault = on_request.build().await.expect("vault");
    let ticket = enqueue(&vault, "a", "1").await;
    let why = vault.why_pending(ticket.id()).await.expect("why");
    assert_eq!(why, WhyPending::OnRequest);
    soon(vault.process_queue()).await.expect("pass");
    let why = vault.why_pending(ticket.id()).await.expect("why");
    let WhyPending::OriginWaits { reason, until, .. } = &why else {
        panic!("{why:?}")
    };
    assert_eq!(*reason, GateReason::RateLimited);
    assert_eq!(why.next(), Some(*until));
    assert!(
        why.to_string().ends_with("asked for fewer requests"),
        "{why}"
    );
}

#[tokio::test]
async fn stats_count_what_attempts_came_to() {
    let server = ChaosServer::start().await;
    server.next_on("/orders", Behaviour::status(500));
    let vault = vault(&server).await;
    for key in ["1", "2"] {
        enqueue(&vault, "a", key).await;
    }
    soon(vault.wait_idle()).await.expect("idle");
    let stats = vault.stats().await.expect("stats");
    assert_eq!((stats.verdicts.delivered, stats.verdicts.retried), (2, 1));
    assert_eq!((stats.verdicts.attempts(), stats.ledger.delivered), (3, 2));
    assert_eq!((stats.counts.pending, stats.oldest_age), (0, None));
    let [origin] = &stats.origins[..] else {
        panic!("one origin: {stats:?}")
    };
    assert_eq!((origin.verdicts, origin.in_flight), (stats.verdicts, 0));
    assert_eq!(origin.gate, None);
    server.always(Behaviour::status(503).header("retry-after", "600"));
    enqueue(&vault, "a", "3").await;
    let gate = async {
        loop {
            let stats = vault.stats().await.expect("stats");
            if let Some(gate) = stats.origins[0].gate {
                return (gate, stats);
            }
            tokio::task::yield_now().await;
        }
    };
    let (gate, stats) = soon(gate).await;
    assert_eq!((gate.reason, gate.failures), (GateReason::Unavailable, 1));
    assert!(stats.oldest_age.is_some() && stats.counts.pending == 1);
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn traceparent(span: &str) -> String {
    format!("00-{TRACE}-{span}-01")
}

/// Goal: a trace goes on over the queue. Method: three attempts of one action; the header of each.
#[tokio::test]
async fn each_attempt_is_a_span_of_its_own_in_the_trace_of_its_request() {
    let server = ChaosServer::start().await;
    for _ in 0..2 {
        server.next(Behaviour::status(500));
    }
    let hook = || Some(traceparent("00f067aa0ba902b7"));
    let vault = builder(&server)
        .trace_context(hook)
        .build()
        .await
        .expect("vault");
    let request = vault.post("/x").header("tracestate", "vendor=1");
    let outcome = soon(request.send()).await.expect("send");
    soon(outcome.ticket().expect("queued").wait())
        .await
        .expect("end");
    let all = server.received();
    let mut spans: Vec<_> = all
        .iter()
        .map(|seen| {
            assert_eq!(seen.header("tracestate"), Some("vendor=1"));
            let header = seen.header("traceparent").expect("a trace");
            assert!(header.starts_with(&format!("00-{TRACE}-")) && header.ends_with("-01"));
            header[36..52].to_owned()
        })
        .collect();
    spans.push("00f067aa0ba902b7".to_owned());
    spans.sort();
    spans.dedup();
    assert_eq!(spans.len(), 4, "three attempts and the app's own span");
}

#[tokio::test]
async fn the_requests_own_trace_goes_first_and_must_be_valid() {
    let server = ChaosServer::start().await;
    let hook = || Some("not a trace".to_owned());
    let vault = builder(&server)
        .trace_context(hook)
        .build()
        .await
        .expect("vault");
    let without = soon(vault.post("/x").send()).await;
    assert!(without.expect("without a trace").is_sent());
    assert_eq!(server.received()[0].header("traceparent"), None);
    let own = vault
        .post("/x")
        .header("traceparent", traceparent("00f067aa0ba902b7"));
    assert!(soon(own.send()).await.expect("with its own").is_sent());
    let seen = server.received()[1]
        .header("traceparent")
        .map(str::to_owned);
    assert!(seen.expect("a trace").contains(TRACE));
    let error = vault.post("/x").header("traceparent", "00-abc").send();
    assert_eq!(
        soon(error).await.expect_err("refused").kind(),
        ErrorKind::Invalid
    );
}

#[tokio::test]
async fn an_offline_vault_says_so_in_words() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    vault.set_connectivity(ConnectivityMode::Offline);
    let ticket = enqueue(&vault, "a", "1").await;
    let why = vault.why_pending(ticket.id()).await.expect("why");
    assert_eq!(why.to_string(), "the app set the vault offline");
    assert!(
        matches!(vault.action(ticket.id()).await, Ok(Some(action)) if matches!(action.state, State::Queued { .. }))
    );
}

#[cfg(feature = "metrics")]
mod metrics_told {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use metrics::{
        Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };

    use super::*;

    /// Names with labels, and the newest value of each.
    #[derive(Clone, Default)]
    struct Board(Arc<Mutex<BTreeMap<String, f64>>>);

    struct Cell(Board, String);

    impl Cell {
        fn edit(&self, edit: impl FnOnce(&mut f64)) {
            let mut board = self.0.0.lock().expect("board");
            edit(board.entry(self.1.clone()).or_default());
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    impl metrics::CounterFn for Cell {
        fn increment(&self, value: u64) {
            self.edit(|sum| *sum += value as f64);
        }
        fn absolute(&self, value: u64) {
            self.edit(|sum| *sum = value as f64);
        }
    }

    impl metrics::GaugeFn for Cell {
        fn increment(&self, value: f64) {
            self.edit(|sum| *sum += value);
        }
        fn decrement(&self, value: f64) {
            self.edit(|sum| *sum -= value);
        }
        fn set(&self, value: f64) {
            self.edit(|sum| *sum = value);
        }
    }

    fn text(key: &Key) -> String {
        let labels = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()));
        format!("{} {}", key.name(), labels.collect::<Vec<_>>().join(" "))
            .trim()
            .to_owned()
    }

    impl Recorder for Board {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(Arc::new(Cell(self.clone(), text(key))))
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(Arc::new(Cell(self.clone(), text(key))))
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    /// Goal: what docs/metrics.md says is told, and nothing of a request. Method: a recorder of this thread, which runs the vault.
    #[tokio::test]
    async fn the_numbers_reach_a_recorder_without_anything_of_a_request() {
        let board = Board::default();
        let _guard = metrics::set_default_local_recorder(&board);
        let server = ChaosServer::start().await;
        server.next(Behaviour::status(503));
        let vault = vault(&server).await;
        enqueue(&vault, "SECRET-lane", "SECRET-key").await;
        soon(vault.wait_idle()).await.expect("idle");
        let told = board.0.lock().expect("board").clone();
        let origin = format!("origin=http://{}", server.address());
        let count = |verdict: &str| {
            let name = format!("syncvault_attempts_total {origin} verdict={verdict}");
            told.get(&name).copied()
        };
        assert_eq!(
            (count("retried"), count("delivered")),
            (Some(1.0), Some(1.0)),
            "{told:?}"
        );
        assert_eq!(told.get("syncvault_pending"), Some(&0.0));
        assert_eq!(told.get("syncvault_oldest_age_seconds"), Some(&0.0));
        assert_eq!(
            told.get(&format!("syncvault_gate_closed {origin}")),
            Some(&0.0)
        );
        let documented = include_str!("../../docs/metrics.md");
        for name in told.keys() {
            let bare = name.split(' ').next().expect("a name");
            assert!(
                documented.contains(&format!("`{bare}`")),
                "{bare} is not documented"
            );
            assert!(
                !name.contains("SECRET") && !name.contains("orders"),
                "{name}"
            );
        }
    }

    #[cfg(all(feature = "cache", feature = "test-util"))]
    #[tokio::test(start_paused = true)]
    async fn what_the_cache_does_is_told() {
        use syncvault::testing::{FakeServer, Reply};

        let board = Board::default();
        let _guard = metrics::set_default_local_recorder(&board);
        let server = FakeServer::new();
        server.answers_next(Reply::status(200).header("etag", "\"1\"").body("menu"));
        server.answers_next(Reply::status(304));
        server.answers(Reply::unreachable());
        let vault = syncvault::SyncVault::builder("https://api.example.com")
            .transport(server.transport())
            .connectivity(syncvault::connectivity::AlwaysReachable::new())
            .store(syncvault::store::MemoryStore::new())
            .cache(syncvault::CacheOptions::default());
        let vault = vault.build().await.expect("vault");
        for _ in 0..3 {
            let asked = vault.get("/SECRET").max_stale(Duration::MAX);
            let outcome = asked.send_or_cached().await.expect("send");
            let text = outcome.response().expect("an answer").text().await;
            assert_eq!(text.expect("body"), "menu");
            vault.cache_stats().await.expect("stats");
        }
        let told = board.0.lock().expect("board").clone();
        for (what, answers, bytes) in [
            ("kept", 2.0, 4.0),
            ("revalidated", 1.0, 4.0),
            ("given", 1.0, 4.0),
        ] {
            let name = format!("syncvault_cache_answers_total what={what}");
            assert_eq!(told.get(&name), Some(&answers), "{what}");
            let name = format!("syncvault_cache_bytes_total what={what}");
            assert_eq!(told.get(&name), Some(&bytes), "{what}");
        }
        assert!(!told.keys().any(|name| name.contains("SECRET")));
    }
}
