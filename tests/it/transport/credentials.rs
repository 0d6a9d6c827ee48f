//! Credentials: stamped per attempt, refreshed once for everybody, shown to nobody.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use reqwest::Request;
use syncvault::decide::FailureKind;
use syncvault::transport::{
    CredentialDesk, CredentialRequest, Credentials, Generation, Refresh, TransportFailure, bearer,
};

use super::{get, in_time, post, send, transport};
use crate::chaos_server::{Behaviour, ChaosServer};

/// An app's token cache: a refresh makes the next token.
#[derive(Clone, Default)]
struct Tokens {
    current: Arc<AtomicUsize>,
    refreshes: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
}

impl Tokens {
    fn desk(&self) -> CredentialDesk {
        let tokens = self.clone();
        CredentialDesk::new(move |request: CredentialRequest| {
            let tokens = tokens.clone();
            async move { bearer(tokens.give(request.refresh).await) }
        })
    }

    async fn give(&self, refresh: Refresh) -> String {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if refresh == Refresh::Yes {
            self.refreshes.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.current.fetch_add(1, Ordering::SeqCst);
        }
        format!("token-{}", self.current.load(Ordering::SeqCst))
    }

    fn refreshes(&self) -> usize {
        self.refreshes.load(Ordering::SeqCst)
    }
}

fn request() -> Request {
    get("http://a.example/path?QUERYSECRET".parse().expect("url"))
}

async fn attempt(server: &ChaosServer, desk: &CredentialDesk) -> u16 {
    let mut first = get(server.at("/"));
    let generation = desk.stamp(&mut first, None).await.expect("stamped");
    let response = send(&transport(), first).await.expect("an answer");
    if response.status() != 401 {
        return response.status().as_u16();
    }
    let mut second = get(server.at("/"));
    desk.refresh(generation, &mut second)
        .await
        .map(drop)
        .expect("refreshed");
    send(&transport(), second)
        .await
        .expect("an answer")
        .status()
        .as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_401s_cause_one_refresh() {
    let server = ChaosServer::start().await;
    server.script(|request, _| match request.header("authorization") {
        Some("Bearer token-1") => None,
        _ => Some(Behaviour::status(401)),
    });
    let tokens = Tokens::default();
    let desk = Arc::new(tokens.desk());
    let server = Arc::new(server);
    let attempts = (0..50).map(|_| {
        let (server, desk) = (Arc::clone(&server), Arc::clone(&desk));
        tokio::spawn(async move { attempt(&server, &desk).await })
    });
    let attempts: Vec<_> = attempts.collect();
    for attempt in attempts {
        assert_eq!(in_time(attempt).await.expect("no panic"), 200);
    }
    assert_eq!(tokens.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_next_generation_can_be_refused_too() {
    let tokens = Tokens::default();
    let desk = tokens.desk();
    let mut generation = desk.stamp(&mut request(), None).await.expect("stamped");
    for round in 1..=3 {
        let mut request = request();
        generation = desk
            .refresh(generation, &mut request)
            .await
            .expect("refreshed");
        assert_eq!(
            request.headers()["authorization"],
            format!("Bearer token-{round}")
        );
    }
    assert_eq!(tokens.refreshes(), 3);
}

#[tokio::test(start_paused = true)]
async fn principals_do_not_wait_for_each_other_and_do_not_share() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let desk = CredentialDesk::new(move |request: CredentialRequest| {
        let line = (request.principal.clone(), request.refresh);
        note.lock().expect("lock").push(line);
        async move { Credentials::header("x-user", request.principal.unwrap_or_default()) }
    });
    let mut generations = Vec::new();
    for principal in ["ann", "bob"] {
        let mut request = request();
        generations.push(
            desk.stamp(&mut request, Some(principal))
                .await
                .expect("stamped"),
        );
        assert_eq!(request.headers()["x-user"], principal);
    }
    for generation in generations {
        desk.refresh(generation, &mut request())
            .await
            .map(drop)
            .expect("refreshed");
    }
    let seen = seen.lock().expect("lock");
    let refreshed = seen.iter().filter(|(_, refresh)| *refresh == Refresh::Yes);
    let refreshed: Vec<_> = refreshed
        .map(|(who, _)| who.as_deref().expect("a name"))
        .collect();
    assert_eq!(refreshed, ["ann", "bob"]);
}

async fn stamp(desk: &CredentialDesk) -> Result<Generation, TransportFailure> {
    desk.stamp(&mut request(), None).await
}

fn assert_credentials(result: Result<Generation, TransportFailure>) -> String {
    let failure = result.expect_err("no credentials");
    assert_eq!(failure.kind(), FailureKind::Credentials);
    let text = format!("{failure} {failure:?}");
    assert!(!text.contains("SECRET"), "{text}");
    text
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_fails_panics_hangs_or_talks_nonsense_fails_the_attempt_only() {
    let fails = CredentialDesk::new(|_: CredentialRequest| async {
        Err::<Credentials, _>(io::Error::other("SECRET url"))
    });
    assert!(assert_credentials(stamp(&fails).await).contains("failed"));
    let panics = CredentialDesk::new(|request: CredentialRequest| {
        assert!(request.principal.is_some(), "panics before the first await");
        async { Credentials::none() }
    });
    assert!(assert_credentials(stamp(&panics).await).contains("panicked"));
    let panics_late = CredentialDesk::new(|request: CredentialRequest| async move {
        tokio::task::yield_now().await;
        assert!(request.principal.is_some(), "panics after an await");
        Credentials::none()
    });
    assert!(assert_credentials(stamp(&panics_late).await).contains("panicked"));
    let hangs = CredentialDesk::new(|_: CredentialRequest| std::future::pending::<Credentials>());
    assert!(assert_credentials(stamp(&hangs).await).contains("too long"));
    let nonsense = CredentialDesk::new(|_: CredentialRequest| async { bearer("SECRET\r\nx: y") });
    assert!(assert_credentials(stamp(&nonsense).await).contains("does not allow"));
}

/// Goal: a refresh that fails or hangs is shared by all who waited for it, and the next one starts anew.
#[tokio::test(start_paused = true)]
async fn a_failed_refresh_fails_for_all_who_waited_and_can_be_tried_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let desk = CredentialDesk::new(move |request: CredentialRequest| {
        let count = Arc::clone(&count);
        async move {
            if request.refresh == Refresh::Yes && count.fetch_add(1, Ordering::SeqCst) == 0 {
                std::future::pending::<()>().await;
            }
            bearer("t")
        }
    });
    let stale = stamp(&desk).await.expect("stamped");
    let waiting = (0..20).map(|_| {
        let (stale, desk) = (stale.clone(), &desk);
        async move { desk.refresh(stale, &mut request()).await }
    });
    for result in futures_util::future::join_all(waiting).await {
        assert_credentials(result);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    desk.refresh(stale, &mut request())
        .await
        .map(drop)
        .expect("now it works");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

/// Goal: a token that the provider got once is not lost when the attempt that asked for it is dropped.
#[tokio::test(start_paused = true)]
async fn a_refresh_goes_on_when_its_caller_is_dropped() {
    let tokens = Tokens::default();
    let desk = tokens.desk();
    let stale = stamp(&desk).await.expect("stamped");
    let brief = Duration::from_millis(10);
    let mut dropped = request();
    let refresh = desk.refresh(stale.clone(), &mut dropped);
    assert!(tokio::time::timeout(brief, refresh).await.is_err());
    let mut second = request();
    desk.refresh(stale, &mut second)
        .await
        .map(drop)
        .expect("refreshed");
    assert_eq!(second.headers()["authorization"], "Bearer token-1");
    assert_eq!(tokens.refreshes(), 1);
}

#[tokio::test]
async fn a_provider_sees_the_whole_request_so_that_it_can_sign_it() {
    let desk = CredentialDesk::new(|request: CredentialRequest| async move {
        let body = request.body.expect("in memory");
        let text = format!("{} {} {}", request.method, request.url.path(), body.len());
        Credentials::header("x-signature", text)
    });
    let mut signed = post("http://a.example/p".parse().expect("url"), "12345");
    desk.stamp(&mut signed, None)
        .await
        .map(drop)
        .expect("stamped");
    assert_eq!(signed.headers()["x-signature"], "POST /p 5");
    assert_eq!(
        signed.body().and_then(reqwest::Body::as_bytes),
        Some(&b"12345"[..])
    );
    let mut empty = request();
    desk.stamp(&mut empty, None)
        .await
        .map(drop)
        .expect("stamped");
    assert_eq!(empty.headers()["x-signature"], "GET /path 0");
}

#[tokio::test]
async fn a_closure_without_types_is_a_provider() {
    let desk = CredentialDesk::new(|_| async { bearer("t") });
    let mut request = request();
    desk.stamp(&mut request, None)
        .await
        .map(drop)
        .expect("stamped");
    assert!(request.headers()["authorization"].is_sensitive());
}

/// Symptom it prevents: a provider that gets its token through its own vault waits for itself until the deadline.
#[tokio::test(start_paused = true)]
async fn a_provider_that_asks_its_own_desk_is_told_at_once() {
    let inner = Arc::new(OnceLock::<CredentialDesk>::new());
    let own = Arc::clone(&inner);
    let desk = CredentialDesk::new(move |_: CredentialRequest| {
        let own = Arc::clone(&own);
        async move {
            let own = own.get().expect("set");
            own.stamp(&mut request(), None)
                .await
                .map(|_| Credentials::none())
        }
    });
    assert!(inner.set(desk).is_ok());
    let start = tokio::time::Instant::now();
    assert_credentials(stamp(inner.get().expect("set")).await);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn twenty_thousand_principals_do_not_pile_up() {
    let desk = CredentialDesk::new(|_: CredentialRequest| async { Credentials::none() });
    let start = Instant::now();
    for user in 0..20_000 {
        desk.stamp(&mut request(), Some(&user.to_string()))
            .await
            .map(drop)
            .expect("stamped");
    }
    assert!(start.elapsed() < super::TEST_MAX);
}

#[tokio::test]
async fn nothing_shows_a_secret() {
    let shown = Arc::new(Mutex::new(String::new()));
    let text = Arc::clone(&shown);
    let desk = CredentialDesk::new(move |request: CredentialRequest| {
        *text.lock().expect("lock") = format!("{request:?} {request:#?}");
        async { bearer("TOKENSECRET") }
    });
    let mut request = post(
        "http://a.example/p?QUERYSECRET".parse().expect("url"),
        "BODYSECRET",
    );
    request
        .headers_mut()
        .insert("x-key", "HEADERSECRET".parse().expect("value"));
    let generation = desk
        .stamp(&mut request, Some("ann"))
        .await
        .expect("stamped");
    let shown = shown.lock().expect("lock");
    let text = format!(
        "{desk:?} {generation:?} {shown} {:?}",
        bearer("TOKENSECRET")
    );
    assert!(!text.contains("SECRET"), "{text}");
    assert!(!format!("{:?}", request.headers()).contains("TOKENSECRET"));
}
