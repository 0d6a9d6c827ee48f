//! What is kept of which answers, for whom, and how it is renewed.

use http::HeaderValue;
use syncvault::bearer;

use super::*;

/// May the answer be given when the server is away?
async fn is_kept(rig: &Rig, vault: &SyncVault, request: impl Fn() -> RequestBuilder) -> bool {
    let before = vault.cache_stats().await.expect("stats").given;
    vault.set_connectivity(syncvault::ConnectivityMode::Offline);
    let got = send(
        request()
            .delivery(syncvault::Delivery::OnFailure)
            .max_stale(Duration::MAX),
    )
    .await;
    vault.clear_queue().await.expect("cleared");
    vault.set_connectivity(syncvault::ConnectivityMode::Auto);
    let given = vault.cache_stats().await.expect("stats").given;
    let is_kept = matches!(got, Got::Cached(..));
    assert_eq!(given - before, u64::from(is_kept));
    assert!(rig.asked() > 0);
    is_kept
}

#[tokio::test(start_paused = true)]
async fn only_what_may_be_kept_is_kept() {
    let rig = Rig::new();
    let vault = rig.open().await;
    type Headers = &'static [(&'static str, &'static str)];
    #[rustfmt::skip]
    let table: &[(Headers, Headers, bool)] = &[
        (&[], &[], true),
        (&[], &[("cache-control", "private")], true),
        (&[], &[("cache-control", "no-cache")], true),
        (&[], &[("cache-control", "no-store")], false),
        (&[], &[("vary", "*")], false),
        (&[("cache-control", "no-store")], &[], false),
        (&[("range", "bytes=0-1")], &[], false),
        (&[("if-none-match", "\"1\"")], &[], false),
    ];
    for (no, (asked, told, want)) in table.iter().enumerate() {
        rig.answers(told, "menu");
        let path = format!("/menu/{no}");
        let request = || {
            let request = vault.get(&path);
            asked.iter().fold(request, |request, (name, value)| {
                request.header(*name, *value)
            })
        };
        assert_eq!(send(request()).await, sent("menu"));
        let stats = vault.cache_stats().await.expect("stats");
        assert_eq!(stats.entries, u64::from(*want), "{asked:?} {told:?}");
        vault.clear_cache().await.expect("cleared");
    }
    let long = "x".repeat(5 * 1024 * 1024);
    rig.answers(&[], &long);
    assert_eq!(get(&vault, "/long").await, sent(&long));
    rig.answers(&[], "half");
    let outcome = vault.get("/half").send().await.expect("send");
    drop(outcome);
    assert_eq!(vault.cache_stats().await.expect("stats").entries, 0);
    assert_eq!(get(&vault, "/now").await, sent("half"));
    assert!(is_kept(&rig, &vault, || vault.get("/now")).await);
    rig.answers(&[("cache-control", "no-store")], "secret");
    assert_eq!(get(&vault, "/now").await, sent("secret"));
    tokio::task::yield_now().await;
    assert!(
        !is_kept(&rig, &vault, || vault.get("/now")).await,
        "what it said before is no longer said"
    );
}

#[tokio::test(start_paused = true)]
async fn each_language_is_kept_on_its_own() {
    let rig = Rig::new();
    let vault = rig.open().await;
    let asked = |language: &str| vault.get("/menu").header("accept-language", language);
    for language in ["de", "en", "fr"] {
        rig.answers(
            &[
                ("cache-control", "max-age=100"),
                ("vary", "Accept-Language"),
            ],
            language,
        );
        assert_eq!(send(asked(language)).await, sent(language));
    }
    rig.goes_away();
    for language in ["fr", "de", "en"] {
        assert_eq!(send(asked(language)).await, cached(language, 0));
    }
    assert_eq!(send(asked("it")).await, Got::Queued);
    let with_query = vault.get("/menu?day=1").header("accept-language", "de");
    assert_eq!(send(with_query).await, Got::Queued);
}

/// A 304 costs no body: the caller gets the kept one, with the status that it had, and it is fresh again, also after a restart.
#[tokio::test(start_paused = true)]
async fn a_kept_answer_is_revalidated() {
    let rig = Rig::new();
    rig.answers(
        &[
            ("cache-control", "max-age=10"),
            ("etag", "\"1\""),
            ("x-a", "old"),
        ],
        "menu",
    );
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    assert!(
        !rig.server.attempts()[0]
            .headers
            .contains_key("if-none-match")
    );
    pass(60 * SECOND).await;
    let unchanged = Reply::status(304)
        .header("etag", "\"1\"")
        .header("cache-control", "max-age=100")
        .header("x-a", "new");
    rig.server.answers_next(unchanged);
    let outcome = vault.get("/menu").send().await.expect("send");
    assert!(outcome.is_sent());
    let response = outcome.response().expect("sent");
    assert_eq!(
        (response.status(), &response.headers()["x-a"]),
        (
            200.try_into().expect("status"),
            &HeaderValue::from_static("new")
        )
    );
    assert_eq!(
        response.headers()["cache-status"],
        "SyncVault; fwd=stale; fwd-status=304; stored; ttl=100"
    );
    assert_eq!(response.text().await.expect("body"), "menu");
    assert_eq!(rig.server.attempts()[1].headers["if-none-match"], "\"1\"");
    vault.shutdown(SECOND).await.expect("shutdown");
    let vault = rig.open().await;
    rig.goes_away();
    pass(90 * SECOND).await;
    assert_eq!(get(&vault, "/menu").await, cached("menu", 90));
    assert_eq!(rig.server.attempts()[2].headers["if-none-match"], "\"1\"");
}

/// A 304 about something that is not kept any more is no answer: the server is asked again.
#[tokio::test(start_paused = true)]
async fn a_304_about_another_answer_is_asked_again() {
    let rig = Rig::new();
    rig.answers(&[("etag", "\"1\"")], "menu");
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    rig.server
        .answers_next(Reply::status(304).header("etag", "\"2\""));
    rig.server
        .answers_next(reply(&[("etag", "\"2\"")], "new menu"));
    assert_eq!(get(&vault, "/menu").await, sent("new menu"));
    let attempts = rig.server.attempts();
    assert!(attempts[1].headers.contains_key("if-none-match"));
    assert!(!attempts[2].headers.contains_key("if-none-match"));
}

/// Goal: head and body of two answers never come together. Method: while the server says that one has not changed, another takes
/// its place.
#[tokio::test(start_paused = true)]
async fn a_304_about_an_answer_that_was_replaced_meanwhile_is_asked_again() {
    let rig = Rig::new();
    rig.answers(&[("etag", "\"1\"")], "old");
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, sent("old"));
    let unchanged = Reply::status(304).header("etag", "\"1\"");
    rig.server
        .answers_next(unchanged.answers_after(10 * SECOND));
    let meanwhile = async {
        pass(SECOND).await;
        rig.answers(&[("etag", "\"2\"")], "new");
        assert_eq!(get(&vault, "/menu").await, sent("new"));
        vault.cache_stats().await.expect("stats");
        rig.answers(&[("etag", "\"3\"")], "newest");
    };
    let (got, ()) = tokio::join!(get(&vault, "/menu"), meanwhile);
    assert_eq!(got, sent("newest"));
    assert_eq!(rig.asked(), 4);
}

/// What the caller asks the server with is the caller's: it gets the 304.
#[tokio::test(start_paused = true)]
async fn own_conditions_are_left_alone() {
    let rig = Rig::new();
    rig.answers(&[("etag", "\"1\"")], "menu");
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    rig.server
        .answers_next(Reply::status(304).header("etag", "\"0\""));
    let own = vault.get("/menu").header("if-none-match", "\"0\"");
    assert_eq!(send(own).await, Got::Sent(304, String::new()));
    assert_eq!(rig.server.attempts()[1].headers["if-none-match"], "\"0\"");
}

#[tokio::test(start_paused = true)]
async fn no_principal_gets_what_another_asked_for() {
    let rig = Rig::new();
    rig.answers(
        &[("cache-control", "max-age=1000"), ("vary", "Authorization")],
        "of ann",
    );
    let cache = CacheOptions::default();
    let builder = rig.builder().cache(cache).principal("ann");
    let builder = builder.credentials(|_| async { bearer("token") });
    let vault = builder.build().await.expect("vault");
    assert_eq!(get(&vault, "/me").await, sent("of ann"));
    vault.principal("bob").expect("bob");
    rig.goes_away();
    assert_eq!(get(&vault, "/me").await, Got::Queued);
    let in_her_name = vault.get("/me").principal("ann");
    assert_eq!(send(in_her_name).await, Got::Queued, "she is not there");
    vault.no_principal();
    assert_eq!(get(&vault, "/me").await, Got::Queued);
    vault.principal("ann").expect("ann");
    assert_eq!(get(&vault, "/me").await, cached("of ann", 0));
    vault.forget("ann").await.expect("forgotten");
    assert_eq!(vault.cache_stats().await.expect("stats").entries, 0);
    vault.principal("ann").expect("ann");
    assert_eq!(get(&vault, "/me").await, Got::Queued);
}

/// Nothing here knows whose credentials they are that a request brings along.
#[tokio::test(start_paused = true)]
async fn a_request_with_credentials_of_its_own_is_not_cached() {
    let rig = Rig::new();
    rig.answers(
        &[
            ("cache-control", "max-age=1000"),
            ("set-cookie", "canary-cookie"),
        ],
        "secret",
    );
    let vault = rig.open().await;
    let never = syncvault::Delivery::Never;
    let own = vault
        .get("/me")
        .header("authorization", "canary-token")
        .delivery(never);
    assert_eq!(send(own).await, sent("secret"));
    assert_eq!(vault.cache_stats().await.expect("stats").entries, 0);
    assert_eq!(get(&vault, "/me").await, sent("secret"));
    rig.goes_away();
    let outcome = vault.get("/me").send_or_cached().await.expect("send");
    let response = outcome.response().expect("cached");
    assert!(
        !response.headers().contains_key("set-cookie"),
        "cookies are not kept"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_survives_a_restart_and_a_crash() {
    let rig = Rig::new();
    rig.answers(&[("cache-control", "max-age=1000")], "menu");
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    assert_eq!(get(&vault, "/menu?day=2").await, sent("menu"));
    drop(vault);
    rig.goes_away();
    pass(10 * SECOND).await;
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, cached("menu", 10));
    assert_eq!(get(&vault, "/menu?day=2").await, cached("menu", 10));
}

/// The bytes are bounded, and what was read lately stays.
#[tokio::test(start_paused = true)]
async fn the_least_recently_used_answer_goes_first() {
    let rig = Rig::new();
    let body = "x".repeat(30_000);
    rig.answers(&[("cache-control", "max-age=100000")], &body);
    let mut options = CacheOptions::default();
    options.bytes_max = 100_000;
    options.entry_bytes_max = Some(40_000);
    let vault = rig.open_with(options).await;
    for path in ["/1", "/2", "/3"] {
        assert_eq!(get(&vault, path).await, sent(&body));
        pass(SECOND).await;
    }
    vault.set_connectivity(syncvault::ConnectivityMode::Offline);
    assert_eq!(get(&vault, "/1").await, cached(&body, 3));
    vault.set_connectivity(syncvault::ConnectivityMode::Auto);
    pass(SECOND).await;
    assert_eq!(get(&vault, "/4").await, sent(&body));
    let stats = vault.cache_stats().await.expect("stats");
    assert!(stats.bytes <= 100_000 && stats.entries == 3, "{stats:?}");
    rig.goes_away();
    for (path, is_there) in [("/1", true), ("/2", false), ("/3", true), ("/4", true)] {
        assert_eq!(get(&vault, path).await != Got::Queued, is_there, "{path}");
    }
}
