//! Login pages of networks, over real HTTP: nothing is booked as delivered, nothing is used up, nothing is lost.

use std::time::Duration;

use syncvault::decide::PortalGuard;
use syncvault::{
    Backoff, Connection, DeadReason, Delivery, End, ErrorKind, Status, SyncVault, SyncVaultBuilder,
    Ticket, WhyPending,
};

use crate::chaos_server::{Behaviour, ChaosServer};
use crate::story::{assert_balanced, builder, soon};

const ELSEWHERE: &str = "http://login.portal.example/?from=you";

/// A vault that suspects its server, although it is on this machine.
fn guarded(server: &ChaosServer) -> SyncVaultBuilder {
    builder(server).portal_guard_for(server.url(), PortalGuard::all())
}

/// One whose gates, once closed, stay closed while the test looks.
fn slow(server: &ChaosServer) -> SyncVaultBuilder {
    guarded(server).origin_backoff(Backoff::fixed(Duration::from_secs(600)).equal_jitter())
}

async fn built(builder: SyncVaultBuilder) -> SyncVault {
    builder.build().await.expect("vault")
}

fn login_page() -> Behaviour {
    let page = Behaviour::status(200).without_effect();
    page.replace_header("content-type", "text/html")
        .body("<html>Welcome to the hotel</html>")
}

async fn post(vault: &SyncVault, key: &str) -> Ticket {
    let request = vault.post("/orders").body(key.to_owned());
    let request = request
        .idempotency_key(key)
        .header("accept", "application/json");
    let outcome = soon(request.send()).await.expect("send");
    outcome.ticket().expect("queued, not sent")
}

async fn wait_for_portal(vault: &SyncVault) {
    let mut changes = vault.watch_status();
    let portal =
        async { while !matches!(changes.next().await.expect("open"), Status::Portal(_)) {} };
    soon(portal).await;
}

fn heads_and_posts(server: &ChaosServer) -> (usize, usize) {
    let all = server.received();
    let heads = all
        .iter()
        .filter(|request| request.method == "HEAD")
        .count();
    (heads, all.len() - heads)
}

/// Goal: each kind of login page costs nothing. Method: a server that plays one, then itself.
#[tokio::test]
async fn a_login_page_takes_nothing() {
    let pages = [
        Behaviour::redirect(302, ELSEWHERE),
        Behaviour::redirect(307, ELSEWHERE),
        login_page(),
        Behaviour::status(511),
    ];
    for page in pages {
        let text = format!("{page:?}");
        let server = ChaosServer::start().await;
        server.always(page);
        let vault = built(guarded(&server)).await;
        let mut tickets = Vec::new();
        for key in ["1", "2", "3"] {
            tickets.push(post(&vault, key).await);
        }
        wait_for_portal(&vault).await;
        assert_eq!(vault.connection(), Connection::Portal, "{text}");
        server.wait_received(20).await;
        let ledger = vault.ledger().await.expect("ledger");
        assert_eq!(
            (ledger.delivered, ledger.dead, ledger.pending),
            (0, 0, 3),
            "{text}"
        );
        for ticket in &tickets {
            let action = vault
                .action(ticket.id())
                .await
                .expect("read")
                .expect("kept");
            assert_eq!(action.attempts_counted, 0, "{text}");
        }
        server.answers(200);
        soon(vault.wait_idle()).await.expect("idle");
        assert_eq!(server.effect_keys(), ["1", "2", "3"], "{text}");
        soon(vault.wait_online(Duration::from_secs(20)))
            .await
            .expect("online");
        assert!(matches!(vault.status(), Status::Synced(_)), "{text}");
        assert_balanced(&vault).await;
    }
}

/// Goal: writes do not go to a login page again and again to find out. Method: probes that see it count, attempts that meet it too.
#[tokio::test]
async fn probes_find_out_and_one_attempt_in_eight() {
    let server = ChaosServer::start().await;
    server.always(Behaviour::status(200).without_effect());
    let vault = built(guarded(&server).expect_header("x-ours")).await;
    let ticket = post(&vault, "1").await;
    server.wait_received(40).await;
    let (heads, posts) = heads_and_posts(&server);
    assert!(posts <= 2 + heads / 7, "{heads} probes, {posts} attempts");
    server.always(Behaviour::status(200).header("x-ours", "1"));
    assert!(matches!(soon(ticket.wait()).await, Ok(End::Delivered(_))));
    assert_eq!(server.effect_keys(), ["1"]);
}

#[tokio::test]
async fn the_whole_vault_waits_but_for_origins_without_a_guard() {
    let (hotel, office, desk) = (
        ChaosServer::start().await,
        ChaosServer::start().await,
        ChaosServer::start().await,
    );
    hotel.always(Behaviour::status(511));
    let both = slow(&hotel)
        .portal_guard_for(office.url(), PortalGuard::all())
        .allow_origin(office.url())
        .allow_origin(desk.url());
    let vault = built(both).await;
    post(&vault, "1").await;
    wait_for_portal(&vault).await;
    let send = |server: &ChaosServer| {
        let request = vault.post(server.at("/x").as_str());
        soon(request.lane(server.address().to_string()).send())
    };
    let to_office = send(&office).await.expect("send").ticket().expect("queued");
    let why = vault.why_pending(to_office.id()).await.expect("why");
    assert!(
        matches!(why, WhyPending::Portal { sign: None, .. }),
        "{why:?}"
    );
    assert!(why.to_string().contains("login page"), "{why}");
    assert!(send(&desk).await.expect("send").is_sent());
    // The app knows better: one attempt each.
    let report = soon(vault.process_queue()).await.expect("pass");
    assert_eq!((report.delivered, report.remaining), (1, 1));
    assert_eq!((office.effects().len(), hotel.effects().len()), (1, 0));
}

#[tokio::test]
async fn what_is_the_actions_own_does_not_wait_for_ever() {
    let server = ChaosServer::start().await;
    server.on("/moved", Behaviour::redirect(302, ELSEWHERE));
    server.on("/page", login_page().with_effect());
    let vault = built(guarded(&server)).await;
    let json = |path: &str| vault.post(path).header("accept", "application/json");
    let moved = soon(json("/moved").enqueue()).await.expect("enqueue");
    let redirected = End::Dead(DeadReason::Redirected { status: 302 });
    assert_eq!(soon(moved.wait()).await.expect("end"), redirected);
    let page = soon(json("/page").enqueue()).await.expect("enqueue");
    assert!(matches!(soon(page.wait()).await, Ok(End::Delivered(_))));
    let strict = json("/page").expect_json().max_retries(2).enqueue();
    let strict = soon(strict).await.expect("enqueue");
    let End::Dead(DeadReason::RetriesExhausted { status, .. }) =
        soon(strict.wait()).await.expect("end")
    else {
        panic!("the app said that a page is no answer")
    };
    assert_eq!(status, Some(200));
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn what_may_not_be_queued_is_told_of_the_login_page() {
    let server = ChaosServer::start().await;
    server.always(login_page());
    let vault = built(slow(&server).expect_json(true)).await;
    let request = vault.get("/x").delivery(Delivery::Never);
    let error = soon(request.send()).await.expect_err("a page");
    assert_eq!(error.kind(), ErrorKind::Portal);
    assert_eq!(vault.pending_count().await.expect("count"), 0);
}

#[tokio::test]
async fn a_page_is_not_handed_to_the_app_unless_it_may_be_one() {
    let server = ChaosServer::start().await;
    server.always(login_page());
    let get = |vault: &SyncVault, accept| vault.get("/x").header("accept", accept).send();
    let vault = built(slow(&server)).await;
    assert!(
        soon(get(&vault, "text/html"))
            .await
            .expect("send")
            .is_sent()
    );
    assert!(
        soon(get(&vault, "application/json"))
            .await
            .expect("send")
            .is_queued()
    );
    let off = builder(&server)
        .portal_guard(PortalGuard::off())
        .expect_json(true);
    let vault = built(off).await;
    assert!(
        soon(get(&vault, "application/json"))
            .await
            .expect("send")
            .is_sent()
    );
    let unguarded = built(builder(&server)).await;
    assert!(
        soon(get(&unguarded, "application/json"))
            .await
            .expect("send")
            .is_sent()
    );
}

#[tokio::test]
async fn bad_options_are_named() {
    let server = ChaosServer::start().await;
    let elsewhere = guarded(&server).portal_guard_for("http://other.example", PortalGuard::off());
    let header = guarded(&server).expect_header("not a name");
    for (builder, name) in [(elsewhere, "portal_guard_for"), (header, "expect_header")] {
        let error = builder.build().await.expect_err(name);
        assert!(error.to_string().contains(name), "{error}");
    }
}
