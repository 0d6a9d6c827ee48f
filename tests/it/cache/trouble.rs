//! When the server gives no answer: which cached one is given in its place, and how old it is.

use syncvault::decide::FailureKind;
use syncvault::{ConnectivityMode, Delivery, ErrorKind};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_fresh_answer_is_given_when_the_network_is_gone() {
    let rig = Rig::new();
    rig.answers(&[("cache-control", "max-age=100")], "menu");
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    rig.goes_away();
    pass(60 * SECOND).await;
    assert_eq!(get(&vault, "/menu").await, cached("menu", 60));
    assert_eq!(rig.asked(), 2, "the server was asked first");
    // Its origin waits now: nothing is sent.
    assert_eq!(get(&vault, "/menu").await, cached("menu", 60));
    assert_eq!(rig.asked(), 2);
    assert_eq!(
        vault.pending_count().await.expect("count"),
        0,
        "and nothing is queued"
    );
    pass(60 * SECOND).await;
    assert_eq!(
        get(&vault, "/menu").await,
        Got::Queued,
        "it is stale by now"
    );
    let stats = vault.cache_stats().await.expect("stats");
    assert_eq!((stats.entries, stats.given, stats.kept), (1, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_given_to_who_allows_it() {
    let rig = Rig::new();
    rig.answers(&[], "menu");
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    rig.goes_away();
    pass(60 * SECOND).await;
    let stale = |seconds: u32| vault.get("/menu").max_stale(SECOND * seconds);
    assert_eq!(send(stale(60)).await, cached("menu", 60));
    pass(SECOND).await;
    assert_eq!(
        send(stale(Duration::MAX.as_secs().min(90) as u32)).await,
        cached("menu", 61)
    );
    assert_eq!(
        send(vault.get("/menu").max_stale(Duration::MAX)).await,
        cached("menu", 61)
    );
    assert_eq!(send(stale(60)).await, Got::Queued);
}

#[tokio::test(start_paused = true)]
async fn the_vault_may_allow_it_for_all() {
    let rig = Rig::new();
    rig.answers(&[], "menu");
    let mut options = CacheOptions::default();
    options.max_stale = HOUR;
    let vault = rig.open_with(options).await;
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    rig.goes_away();
    pass(HOUR).await;
    assert_eq!(get(&vault, "/menu").await, cached("menu", 3600));
    assert_eq!(
        send(vault.get("/menu").max_stale(SECOND)).await,
        Got::Queued
    );
}

#[tokio::test(start_paused = true)]
async fn stale_if_error_covers_errors_and_outages() {
    let rig = Rig::new();
    rig.answers(
        &[("cache-control", "max-age=10, stale-if-error=100")],
        "menu",
    );
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    pass(50 * SECOND).await;
    rig.server.answers_next(Reply::status(500));
    assert_eq!(get(&vault, "/menu").await, cached("menu", 50));
    rig.server.answers_next(Reply::fails(FailureKind::Timeout));
    assert_eq!(get(&vault, "/menu").await, cached("menu", 50));
    rig.server.answers_next(Reply::status(404));
    assert_eq!(
        get(&vault, "/menu").await,
        Got::Sent(404, String::new()),
        "an answer is an answer"
    );
    rig.answers(
        &[(
            "cache-control",
            "max-age=10, must-revalidate, stale-if-error=100",
        )],
        "menu",
    );
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    rig.goes_away();
    pass(5 * SECOND).await;
    assert_eq!(get(&vault, "/menu").await, cached("menu", 5));
    pass(10 * SECOND).await;
    let any = vault.get("/menu").max_stale(Duration::MAX);
    assert_eq!(send(any).await, Got::Queued, "must-revalidate forbids it");
}

/// The app's own word, a pause, a login page, and a request that may not be queued.
#[tokio::test(start_paused = true)]
async fn every_way_of_being_away_counts() {
    let rig = Rig::new();
    rig.answers(&[("cache-control", "max-age=10000")], "menu");
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    let asked = rig.asked();
    vault.set_connectivity(ConnectivityMode::Offline);
    assert_eq!(get(&vault, "/menu").await, cached("menu", 0));
    let never = |path: &str| vault.get(path).delivery(Delivery::Never);
    assert_eq!(send(never("/menu")).await, cached("menu", 0));
    let error = never("/other")
        .send()
        .await
        .expect_err("nothing is known of it");
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    vault.set_connectivity(ConnectivityMode::Auto);
    vault.pause().await.expect("pause");
    assert_eq!(get(&vault, "/menu").await, cached("menu", 0));
    vault.resume().await.expect("resume");
    assert_eq!(rig.asked(), asked);
    rig.server.answers_next(Reply::unreachable());
    assert_eq!(send(never("/menu")).await, cached("menu", 0));
    assert_eq!(rig.asked(), asked + 1);
    pass(HOUR / 2).await;
    rig.server.answers_next(Reply::status(511).body("log in"));
    assert_eq!(get(&vault, "/menu").await, cached("menu", 1800));
    assert_eq!(vault.pending_count().await.expect("count"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_read_behind_what_its_lane_holds_gets_what_is_cached() {
    let rig = Rig::new();
    rig.answers(&[("cache-control", "max-age=10000")], "menu");
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    rig.goes_away();
    let queued = vault.post("/orders").send().await.expect("send");
    assert!(queued.is_queued());
    assert_eq!(get(&vault, "/menu").await, cached("menu", 0));
    assert_eq!(get(&vault, "/other").await, Got::Queued);
}

#[tokio::test(start_paused = true)]
async fn a_head_is_answered_from_a_kept_get() {
    let rig = Rig::new();
    rig.answers(
        &[
            ("cache-control", "max-age=100"),
            ("content-length", "4"),
            ("x-a", "b"),
        ],
        "menu",
    );
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    rig.goes_away();
    let outcome = vault.head("/menu").send_or_cached().await.expect("send");
    let response = outcome.response().expect("cached");
    assert_eq!(response.headers()["content-length"], "4");
    assert_eq!(response.headers()["x-a"], "b");
    assert_eq!(response.url().path(), "/menu");
    assert_eq!(response.text().await.expect("body"), "");
    rig.answers(&[], "");
    pass(HOUR).await;
    assert_eq!(send(vault.head("/only-head")).await, sent(""));
    rig.goes_away();
    let any = vault.get("/only-head").max_stale(Duration::MAX);
    assert_eq!(send(any).await, Got::Queued, "answers to HEAD are not kept");
}

#[tokio::test(start_paused = true)]
async fn a_fresh_answer_saves_the_request_only_where_that_is_wanted() {
    let rig = Rig::new();
    rig.answers(&[("cache-control", "max-age=100")], "menu");
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    rig.answers(&[("cache-control", "max-age=100")], "new menu");
    let fast = || vault.get("/menu").when_fresh(syncvault::WhenFresh::Answer);
    pass(99 * SECOND).await;
    assert_eq!(send(fast()).await, cached("menu", 99));
    let no_cache = fast().header("cache-control", "no-cache");
    assert_eq!(rig.asked(), 1);
    assert_eq!(send(no_cache).await, sent("new menu"));
    pass(100 * SECOND).await;
    assert_eq!(send(fast()).await, sent("new menu"));
    assert_eq!(rig.asked(), 3);
}
