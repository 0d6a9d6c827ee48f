//! A server in trouble: its whole origin waits, others go on, nobody pays with retries.

use std::time::{Duration, Instant};

use syncvault::decide::GateReason;
use syncvault::store::MemoryStore;
use syncvault::{
    Backoff, DeadReason, End, EventKind, Paging, RetryPolicy, SyncVault, SyncVaultBuilder, Ticket,
    WhyPending,
};

use super::watched::CountedTransport;
use crate::chaos_server::{Behaviour, ChaosServer};
use crate::story::{assert_balanced, bare_builder, builder, enqueue, soon};

fn posts(server: &ChaosServer) -> usize {
    let requests = server.received();
    requests.iter().filter(|r| r.method == "POST").count()
}

async fn delivered(ticket: &Ticket) {
    let end = soon(ticket.wait()).await.expect("end");
    assert!(matches!(end, End::Delivered(_)), "{end:?}");
}

/// Origins wait for so long, exactly.
fn patient(builder: SyncVaultBuilder, wait: Duration) -> SyncVaultBuilder {
    let mut policy = RetryPolicy::default();
    policy.origin = crate::story::short_origin();
    policy.backoff = Backoff::fixed(Duration::from_millis(2));
    policy.origin_backoff = Backoff::fixed(wait);
    builder.retry_policy(policy)
}

#[tokio::test]
async fn a_503_holds_its_whole_origin_as_told_over_a_restart_and_no_other() {
    let seconds = Behaviour::status(503).header("retry-after", "1");
    let date = Behaviour::status(503)
        .header("date", "Sun, 06 Nov 1994 08:49:37 GMT")
        .header("retry-after", "Sun, 06 Nov 1994 08:49:38 GMT");
    tokio::join!(hold_origin(seconds), hold_origin(date));
}

async fn hold_origin(answer: Behaviour) {
    let (troubled, well) = (ChaosServer::start().await, ChaosServer::start().await);
    troubled.next_on("/orders", answer);
    let store = MemoryStore::new();
    let open = async |store: MemoryStore| -> SyncVault {
        let builder = bare_builder(&troubled).allow_origin(well.url());
        builder.store(store).build().await.expect("vault")
    };
    let vault = open(store.restarted()).await;
    let begun = Instant::now();
    let first = enqueue(&vault, "a", "1").await;
    let mut events = first.events().await.expect("events");
    let is_failed = |kind: &EventKind| matches!(kind, EventKind::Failed { .. });
    while !is_failed(&soon(events.next()).await.expect("an event").kind) {}
    let other_lane = enqueue(&vault, "b", "2").await;
    let other_origin = vault.post(well.at("/orders")).lane("c").enqueue().await;
    delivered(&other_origin.expect("enqueue")).await;
    assert_eq!(posts(&troubled), 1);
    soon(vault.shutdown(Duration::from_secs(5)))
        .await
        .expect("shutdown");
    let vault = open(store.restarted()).await;
    let why = vault.why_pending(other_lane.id()).await.expect("why");
    let is_told = matches!(
        why,
        WhyPending::OriginWaits {
            reason: GateReason::Unavailable,
            ..
        }
    );
    assert!(
        is_told || begun.elapsed() >= Duration::from_secs(1),
        "{why:?}"
    );
    for id in [first.id(), other_lane.id()] {
        let ticket = vault.ticket(id).await.expect("ticket").expect("known");
        delivered(&ticket).await;
        assert!(begun.elapsed() >= Duration::from_secs(1));
    }
    assert_eq!(posts(&troubled), 3);
    let action = vault
        .action(first.id())
        .await
        .expect("action")
        .expect("known");
    assert_eq!(action.attempts_counted, 0);
}

#[tokio::test]
async fn a_storm_of_429_counts_nothing_and_asks_little() {
    let server = ChaosServer::start().await;
    server.answers(429);
    let wait = Duration::from_millis(40);
    let vault = patient(builder(&server), wait).max_retries(0).build().await;
    let vault = vault.expect("vault");
    let begun = Instant::now();
    for n in 0..20 {
        enqueue(&vault, &format!("lane {n}"), &n.to_string()).await;
    }
    server.wait_received(24).await;
    let asked = u128::try_from(posts(&server)).expect("a number");
    let openings = begun.elapsed().as_millis() / wait.as_millis() + 1;
    assert!(
        asked <= 16 + openings,
        "{asked} requests in {openings} openings"
    );
    let listing = vault
        .pending_actions(Paging::default())
        .await
        .expect("page");
    assert_eq!(listing.items.len(), 20);
    assert!(
        listing
            .items
            .iter()
            .all(|action| action.attempts_counted == 0)
    );
    server.answers(200);
    soon(vault.wait_idle()).await.expect("idle");
    assert_eq!(server.effects().len(), 20);
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn a_retry_after_that_means_nothing_is_not_obeyed() {
    let server = ChaosServer::start().await;
    let vault = builder(&server).build().await.expect("vault");
    for value in [
        "soon",
        "-1",
        "1.5e9",
        "99999 s",
        "Sun, 99 Nov 2994 08:49:37 GMT",
        "",
    ] {
        let answer = Behaviour::status(429).header("retry-after", value);
        server.next_on("/orders", answer);
        let begun = Instant::now();
        let ticket = enqueue(&vault, "a", &format!("told {value:?}")).await;
        delivered(&ticket).await;
        assert!(begun.elapsed() < Duration::from_secs(15), "{value:?}");
    }
}

/// Hours for this policy: forty times its longest wait.
#[tokio::test]
async fn an_outage_of_hours_costs_no_retry_and_few_attempts() {
    let server = ChaosServer::start().await;
    server.down().await;
    let wait = Duration::from_millis(10);
    let transport = CountedTransport::new();
    let vault = patient(builder(&server), wait)
        .max_retries(0)
        .transport(transport.clone())
        .build()
        .await
        .expect("vault");
    let begun = Instant::now();
    for n in 0..30 {
        enqueue(&vault, &format!("lane {}", n % 10), &format!("{n:02}")).await;
    }
    transport.wait_sends(40).await;
    let openings = begun.elapsed().as_millis() / wait.as_millis() + 1;
    let sends = u128::from(transport.sends());
    assert!(
        sends <= 16 + openings,
        "{sends} attempts in {openings} openings"
    );
    let listing = vault
        .pending_actions(Paging::default())
        .await
        .expect("page");
    assert_eq!(listing.items.len(), 30, "nothing is dead");
    assert!(
        listing
            .items
            .iter()
            .all(|action| action.attempts_counted == 0)
    );
    server.up().await;
    soon(vault.wait_idle()).await.expect("idle");
    assert_eq!(server.effects().len(), 30);
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn a_poison_request_ends_and_lets_the_default_lane_go_on() {
    let server = ChaosServer::start().await;
    server.on("/poison", Behaviour::status(502));
    let vault = builder(&server)
        .max_retries(2)
        .build()
        .await
        .expect("vault");
    let poison = vault.post("/poison").enqueue().await.expect("enqueue");
    let behind = vault.post("/orders").enqueue().await.expect("enqueue");
    let (attempts, status) = (3, Some(502));
    let want = End::Dead(DeadReason::RetriesExhausted { attempts, status });
    assert_eq!(soon(poison.wait()).await.expect("end"), want);
    delivered(&behind).await;
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn a_hot_lane_does_not_starve_others() {
    let server = ChaosServer::start().await;
    let vault = builder(&server)
        .max_in_flight(1)
        .build()
        .await
        .expect("vault");
    vault.pause().await.expect("pause");
    for n in 0..10 {
        enqueue(&vault, "hot", &format!("before {n}")).await;
    }
    enqueue(&vault, "cold", "cold").await;
    for n in 0..30 {
        enqueue(&vault, "hot", &format!("behind {n:02}")).await;
    }
    vault.resume().await.expect("resume");
    soon(vault.wait_idle()).await.expect("idle");
    let keys = server.effect_keys();
    let place = keys
        .iter()
        .position(|key| key == "cold")
        .expect("delivered");
    assert!(place <= 11, "what came later went first: {keys:?}");
}
