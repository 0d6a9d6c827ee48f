//! Several users of one app: held, switched, kept apart, forgotten.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use syncvault::store::MemoryStore;
use syncvault::transport::CredentialRequest;
use syncvault::{
    Credentials, Delivery, ErrorKind, EventKind, Outcome, Paging, Refresh, Stopped, SyncVault,
    Ticket, WhyPending,
};
use tokio::sync::Semaphore;

use super::{assert_balanced, builder, enqueue, soon};
use crate::chaos_server::{Behaviour, ChaosServer};

/// Stamps on each request for whom it is.
fn named(builder: syncvault::SyncVaultBuilder) -> syncvault::SyncVaultBuilder {
    builder.credentials(|request: CredentialRequest| async move {
        Credentials::header("x-user", request.principal.unwrap_or("nobody".into()))
    })
}

async fn enqueue_as(vault: &SyncVault, principal: &str, key: &str) -> Ticket {
    let request = vault.post("/orders").body("same").lane("orders");
    let request = request.principal(principal).idempotency_key(key);
    request.enqueue().await.expect("enqueue")
}

/// Who sent what, in order.
fn sent(server: &ChaosServer) -> Vec<(String, String)> {
    let received = server.received();
    let of = |request: &crate::chaos_server::Received| {
        let user = request.header("x-user").unwrap_or_default().to_owned();
        (user, request.key().unwrap_or_default())
    };
    received.iter().map(of).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(user, key): &(&str, &str)| ((*user).to_owned(), (*key).to_owned());
    pairs.iter().map(owned).collect()
}

#[tokio::test]
async fn actions_wait_until_their_principal_is_active() {
    let server = ChaosServer::start().await;
    let vault = named(builder(&server)).build().await.expect("vault");
    let ann = enqueue_as(&vault, "ann", "1").await;
    let ben = enqueue_as(&vault, "ben", "1").await;
    let nobody = enqueue(&vault, "orders", "1").await;
    soon(nobody.wait()).await.expect("of nobody: sent");
    let report = soon(vault.process_queue()).await.expect("a pass");
    assert_eq!((report.remaining, report.stopped), (2, Stopped::NotActive));
    for ticket in [&ann, &ben] {
        let why = vault.why_pending(ticket.id()).await.expect("why");
        assert_eq!(why, WhyPending::PrincipalNotActive);
    }
    vault.principal("ben").expect("a name");
    soon(ben.wait()).await.expect("sent");
    assert_eq!(sent(&server), pairs(&[("nobody", "1"), ("ben", "1")]));
    vault.principal("ann").expect("a name");
    soon(ann.wait()).await.expect("sent");
    assert_eq!(sent(&server)[2..], pairs(&[("ann", "1")]));
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn the_active_principal_owns_new_requests() {
    let server = ChaosServer::start().await;
    let vault = named(builder(&server))
        .principal("ann")
        .build()
        .await
        .expect("vault");
    assert_eq!(vault.active_principal().as_deref(), Some("ann"));
    let begun = vault.post("/orders").idempotency_key("begun");
    vault.principal("ben").expect("a name");
    let direct = vault.post("/orders").idempotency_key("direct").send().await;
    assert!(direct.expect("sent").is_sent());
    // Begun by ann, sent while ben uses the app: it is hers.
    let Outcome::Queued(ticket) = begun.send().await.expect("queued") else {
        panic!("sent as somebody else");
    };
    let action = vault
        .action(ticket.id())
        .await
        .expect("read")
        .expect("there");
    assert_eq!(action.principal.as_deref(), Some("ann"));
    assert_eq!(
        (action.key.as_str(), action.lane.as_str()),
        ("begun", "default")
    );
    vault.no_principal();
    assert_eq!(vault.active_principal(), None);
    let read = vault
        .get("/orders")
        .principal("ben")
        .delivery(Delivery::Never);
    let error = read.send().await.expect_err("held");
    assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
    let read = vault.get("/orders").principal("ben").send().await;
    assert!(read.expect("kept").is_queued());
    assert_eq!(sent(&server), pairs(&[("ben", "direct")]));
    for name in ["", "a\u{1f}b", &"x".repeat(256)] {
        let error = vault.principal(name).expect_err("a bad name");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn a_restart_sends_as_nobody() {
    let server = ChaosServer::start().await;
    let store = Arc::new(MemoryStore::new());
    let open = async |store: Arc<MemoryStore>| {
        let builder = super::bare_builder(&server).shared_store(store);
        named(builder).build().await.expect("vault")
    };
    let vault = open(store.clone()).await;
    vault.principal("ann").expect("a name");
    vault.pause().await.expect("pause");
    enqueue(&vault, "a", "1").await;
    soon(vault.shutdown(Duration::ZERO))
        .await
        .expect("shutdown");
    let vault = open(Arc::new(store.restarted())).await;
    vault.resume().await.expect("resume");
    let report = soon(vault.process_queue()).await.expect("a pass");
    assert_eq!(report.remaining, 1);
    assert!(server.received().is_empty());
    vault.principal("ann").expect("a name");
    soon(vault.wait_idle()).await.expect("idle");
    assert_eq!(sent(&server), pairs(&[("ann", "1")]));
}

#[tokio::test]
async fn every_principal_is_sent_when_the_app_says_so() {
    let server = ChaosServer::start().await;
    let vault = named(builder(&server)).all_principals();
    let vault = vault.build().await.expect("vault");
    for principal in ["ann", "ben"] {
        let ticket = enqueue_as(&vault, principal, principal).await;
        soon(ticket.wait()).await.expect("sent");
    }
    assert_eq!(sent(&server), pairs(&[("ann", "ann"), ("ben", "ben")]));
}

/// A provider that gives whatever token the app has now, whoever is asked for; it lets through one call per permit.
fn naive(builder: syncvault::SyncVaultBuilder) -> (syncvault::SyncVaultBuilder, Arc<Naive>) {
    let app = Arc::new(Naive {
        token: Mutex::new("ann"),
        calls: Semaphore::new(0),
        asked: Semaphore::new(0),
    });
    let provider = app.clone();
    let builder = builder.credentials(move |_: CredentialRequest| {
        let app = provider.clone();
        async move {
            app.asked.add_permits(1);
            app.calls.acquire().await.expect("open").forget();
            Credentials::header("x-user", *app.token.lock().expect("lock"))
        }
    });
    (builder, app)
}

struct Naive {
    token: Mutex<&'static str>,
    calls: Semaphore,
    asked: Semaphore,
}

impl Naive {
    /// An attempt has asked for credentials, and waits.
    async fn is_asked(&self) {
        soon(self.asked.acquire()).await.expect("open").forget();
    }
}

/// Goal: not even a provider that ignores for whom it is asked makes an action of one go out as another. Method: the
/// switch comes while an attempt waits for its credentials.
#[tokio::test]
async fn what_was_stamped_after_a_switch_is_not_sent() {
    let server = ChaosServer::start().await;
    let (builder, app) = naive(builder(&server));
    let vault = builder.principal("ann").build().await.expect("vault");
    let queued = vault.post("/queued").enqueue().await.expect("enqueue");
    app.is_asked().await;
    vault.principal("ben").expect("a name");
    *app.token.lock().expect("lock") = "ben";
    app.calls.add_permits(1);
    let report = soon(vault.process_queue()).await.expect("a pass");
    assert_eq!((report.remaining, report.stopped), (1, Stopped::NotActive));
    assert!(server.received().is_empty(), "{:?}", sent(&server));
    let action = vault
        .action(queued.id())
        .await
        .expect("read")
        .expect("there");
    assert_eq!(action.wire_state, syncvault::WireState::NeverSent);
    assert_eq!(action.attempts_counted, 0);

    // The same for a direct send: it is queued.
    vault.principal("ann").expect("a name");
    *app.token.lock().expect("lock") = "ann";
    app.calls.add_permits(1);
    soon(vault.wait_idle()).await.expect("idle");
    let direct = tokio::spawn(vault.post("/direct").send());
    app.is_asked().await;
    app.is_asked().await;
    vault.principal("ben").expect("a name");
    *app.token.lock().expect("lock") = "ben";
    app.calls.add_permits(1);
    let outcome = soon(direct).await.expect("no panic").expect("kept");
    assert!(outcome.is_queued());
    assert_eq!(server.received().len(), 1);
    assert_eq!(server.received()[0].header("x-user"), Some("ann"));
}

/// An attempt on the wire goes on to its end; a 401 that comes back after the switch asks for no token of the next user.
#[tokio::test]
async fn an_attempt_on_the_wire_ends_as_its_own_principal() {
    let server = ChaosServer::start().await;
    server.next(Behaviour::status(201).after(Duration::from_millis(200)));
    server.next(Behaviour::status(401).after(Duration::from_millis(200)));
    let refreshed = Arc::new(Mutex::new(Vec::new()));
    let note = refreshed.clone();
    let vault = builder(&server).credentials(move |request: CredentialRequest| {
        if request.refresh == Refresh::Yes {
            note.lock().expect("lock").push(request.principal.clone());
        }
        async move { Credentials::header("x-user", request.principal.unwrap_or_default()) }
    });
    let vault = vault.principal("ann").build().await.expect("vault");
    let first = enqueue(&vault, "a", "1").await;
    wait_for_requests(&server, 1).await;
    vault.principal("ben").expect("a name");
    soon(first.wait()).await.expect("delivered for ann");
    vault.principal("ann").expect("a name");
    let second = enqueue(&vault, "a", "2").await;
    wait_for_requests(&server, 2).await;
    vault.principal("ben").expect("a name");
    let mut events = vault.events_for(second.id()).await.expect("events");
    while let Some(event) = soon(events.next()).await {
        if matches!(event.kind, EventKind::Failed { .. }) {
            break;
        }
    }
    assert!(refreshed.lock().expect("lock").is_empty());
    let why = vault.why_pending(second.id()).await.expect("why");
    assert_eq!(why, WhyPending::PrincipalNotActive);
    vault.principal("ann").expect("a name");
    soon(second.wait()).await.expect("delivered for ann");
    assert!(sent(&server).iter().all(|(user, _)| user == "ann"));
}

async fn wait_for_requests(server: &ChaosServer, count: usize) {
    let seen = async {
        while server.received().len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(seen).await;
}

#[tokio::test]
async fn a_forgotten_principal_leaves_a_count_and_an_event() {
    let server = ChaosServer::start().await;
    server.on("/bad", Behaviour::status(422));
    let vault = named(builder(&server))
        .principal("ann")
        .build()
        .await
        .expect("vault");
    soon(vault.post("/bad").enqueue().await.expect("enqueue").wait())
        .await
        .expect("dead");
    soon(enqueue(&vault, "a", "1").await.wait())
        .await
        .expect("delivered");
    vault.pause().await.expect("pause");
    let lost = enqueue(&vault, "a", "2").await;
    let kept = enqueue_as(&vault, "ben", "2").await;
    let mut events = vault.events_for(lost.id()).await.expect("events");
    assert_eq!(soon(vault.forget("ann")).await.expect("forget"), 2);
    assert_eq!(vault.active_principal(), None);
    let kinds = async {
        let mut kinds = Vec::new();
        while let Some(event) = events.next().await {
            kinds.push(event.kind);
        }
        kinds
    };
    assert_eq!(soon(kinds).await, [EventKind::Queued, EventKind::Evicted]);
    let error = soon(lost.wait()).await.expect_err("forgotten");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let pending = vault
        .pending_actions(Paging::default())
        .await
        .expect("list");
    assert_eq!(pending.items.len(), 1);
    assert_eq!(pending.items[0].id, kept.id());
    let ledger = vault.ledger().await.expect("ledger");
    assert_eq!((ledger.evicted, ledger.delivered, ledger.dead), (2, 1, 0));
    assert_balanced(&vault).await;
    // The same user may come again, and starts anew.
    vault.resume().await.expect("resume");
    vault.principal("ann").expect("a name");
    let again = enqueue(&vault, "a", "2").await;
    assert_ne!(again.id(), lost.id());
    soon(again.wait()).await.expect("delivered");
}

/// The direct send on the wire gets its answer; nothing of it is kept, not even as a gate.
#[tokio::test]
async fn a_direct_send_of_a_forgotten_principal_gets_its_answer() {
    let server = ChaosServer::start().await;
    for (status, is_refusal) in [(201, false), (422, true), (500, false)] {
        let vault = named(builder(&server))
            .principal("ann")
            .build()
            .await
            .expect("vault");
        let seen = server.received().len();
        server.next(Behaviour::status(status).after(Duration::from_millis(150)));
        let direct = tokio::spawn(vault.post("/orders").send());
        wait_for_requests(&server, seen + 1).await;
        assert_eq!(soon(vault.forget("ann")).await.expect("forget"), 1);
        let outcome = soon(direct).await.expect("no panic").expect("an outcome");
        match outcome {
            Outcome::Sent(response) => assert_eq!(response.status(), status),
            Outcome::Queued(ticket) => {
                assert!(!is_refusal && status == 500);
                let error = soon(ticket.wait()).await.expect_err("forgotten");
                assert_eq!(error.kind(), ErrorKind::NotFound);
            }
        }
        assert_eq!(vault.pending_count().await.expect("count"), 0);
        assert_eq!(vault.ledger().await.expect("ledger").evicted, 1);
        assert_balanced(&vault).await;
    }
}

/// One that is not on disk is not put there after its principal was forgotten.
#[tokio::test]
async fn a_read_that_failed_is_not_kept_for_a_forgotten_principal() {
    let server = ChaosServer::start().await;
    let vault = named(builder(&server))
        .principal("ann")
        .build()
        .await
        .expect("vault");
    server.next(Behaviour::status(500).after(Duration::from_millis(150)));
    let read = tokio::spawn(vault.get("/orders").send());
    wait_for_requests(&server, 1).await;
    assert_eq!(soon(vault.forget("ann")).await.expect("forget"), 0);
    let error = soon(read).await.expect("no panic").expect_err("not kept");
    assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
    assert_eq!(vault.ledger().await.expect("ledger").enqueued, 0);
}

/// The key of a ticket is the action's id: who sends again with it gets the same ticket, also as a principal.
#[tokio::test]
async fn a_ticket_is_found_again_by_its_key() {
    let server = ChaosServer::start().await;
    let vault = builder(&server)
        .principal("ann")
        .build()
        .await
        .expect("vault");
    vault.pause().await.expect("pause");
    let request = || vault.post("/orders").body("two coffees");
    let once = request().enqueue().await.expect("enqueue");
    let again = request().idempotency_key(once.key()).enqueue().await;
    assert_eq!(again.expect("known").id(), once.id());
    let named = request()
        .idempotency_key("order-1")
        .enqueue()
        .await
        .expect("enqueue");
    let again = request().idempotency_key("order-1").enqueue().await;
    assert_eq!(again.expect("known").id(), named.id());
    let mut events = vault.events_for_key("order-1").await.expect("events");
    let event = soon(events.next()).await.expect("what is known");
    assert_eq!(
        (event.action_id, event.key.as_str()),
        (named.id(), "order-1")
    );
    let as_other = request()
        .principal("ben")
        .idempotency_key("order-1")
        .enqueue()
        .await;
    assert_ne!(as_other.expect("a key of his own").id(), named.id());
}
