//! What a stranger would try: a caller that asks for no cached answer, a clock that jumps, a principal that comes back, a store
//! that fails at the put.

use std::sync::Arc;

use syncvault::store::Store;
use syncvault::testing::{Fault, FaultyStore};
use syncvault::{ErrorKind, WhenFresh};

use super::*;

const HOUR_FRESH: &[(&str, &str)] = &[("cache-control", "max-age=3600"), ("etag", "\"1\"")];

/// The two arms of the first example are all there are, whatever the features and the options of the vault.
#[tokio::test(start_paused = true)]
async fn who_did_not_ask_for_a_cached_answer_gets_none() {
    let rig = Rig::new();
    rig.answers(HOUR_FRESH, "menu");
    let mut options = CacheOptions::default();
    options.when_fresh = WhenFresh::Answer;
    options.max_stale = Duration::MAX;
    let vault = rig.open_with(options).await;
    let plain = || async {
        match vault.get("/menu").send().await.expect("send") {
            Outcome::Sent(response) => Some(response.text().await.expect("body")),
            Outcome::Queued(_) => None,
        }
    };
    assert_eq!(plain().await.as_deref(), Some("menu"));
    rig.server.answers_next(Reply::status(304));
    assert_eq!(plain().await.as_deref(), Some("menu"), "the server said so");
    assert_eq!(rig.asked(), 2);
    assert_eq!(get(&vault, "/menu").await, cached("menu", 0));
    rig.goes_away();
    assert_eq!(plain().await, None);
    assert_eq!(rig.asked(), 3);
    assert_eq!(vault.pending_count().await.expect("count"), 1);
}

/// The store is not asked for anything, and what is written costs no more.
#[tokio::test(start_paused = true)]
async fn without_the_option_the_store_is_not_asked() {
    let rig = Rig::new();
    rig.answers(HOUR_FRESH, "menu");
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
    let faults = store.faults();
    let vault = rig.bare().shared_store(store).build().await.expect("vault");
    let before = faults.calls();
    assert_eq!(send(vault.get("/menu").max_stale(HOUR)).await, sent("menu"));
    assert_eq!(faults.calls(), before);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_makes_nothing_younger() {
    let rig = Rig::new();
    let start = Duration::from_secs(10 * 24 * 3600);
    rig.clock.set_forward(start);
    rig.answers(&[("cache-control", "max-age=100"), ("age", "7")], "menu");
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    vault.set_connectivity(syncvault::ConnectivityMode::Offline);
    rig.clock.set_forward(40 * SECOND);
    assert_eq!(get(&vault, "/menu").await, cached("menu", 47));
    rig.clock.set_back(70 * SECOND);
    assert_eq!(get(&vault, "/menu").await, cached("menu", 37));
    rig.clock.set_back(64 * SECOND);
    assert_eq!(get(&vault, "/menu").await, Got::Queued);
    rig.clock.set_forward(24 * HOUR);
    assert_eq!(get(&vault, "/menu").await, Got::Queued);
    let old = vault.get("/menu").max_stale(Duration::MAX);
    let age = 24 * 3600 - 94 + 7;
    assert_eq!(send(old).await, cached("menu", age));
}

/// Symptom: what was asked for before a principal was forgotten, and read to its end after it is back, is kept. Cause: only its
/// name was looked at.
#[tokio::test(start_paused = true)]
async fn what_was_asked_before_a_forgetting_is_not_kept_after_it() {
    let rig = Rig::new();
    rig.answers(HOUR_FRESH, "of ann");
    let builder = rig.builder().cache(CacheOptions::default());
    let vault = builder.principal("ann").build().await.expect("vault");
    for is_back in [false, true] {
        vault.principal("ann").expect("ann");
        let begun = vault.get("/me").send().await.expect("send");
        vault.forget("ann").await.expect("forgotten");
        if is_back {
            vault.principal("ann").expect("ann");
        }
        let response = begun.response().expect("sent");
        assert_eq!(response.text().await.expect("body"), "of ann");
        assert_eq!(vault.cache_stats().await.expect("stats").entries, 0);
    }
    assert_eq!(get(&vault, "/me").await, sent("of ann"));
    assert_eq!(vault.cache_stats().await.expect("stats").entries, 1);
}

/// Goal: an answer is whole or absent, and actions do not suffer. Method: the store fails at each of its calls, before and after
/// the effect, while an answer is replaced and an action is queued; then the process is gone.
#[tokio::test(start_paused = true)]
async fn a_store_that_fails_leaves_an_answer_whole_or_absent() {
    for fault in [
        Fault::PoisonedBefore,
        Fault::PoisonedAfter,
        Fault::Once(ErrorKind::Storage),
    ] {
        let mut nth = 0;
        loop {
            nth += 1;
            if !fails_at(nth, fault).await {
                break;
            }
        }
        assert!(nth > 5, "{nth}");
    }
}

async fn fails_at(nth: u64, fault: Fault) -> bool {
    let rig = Rig::new();
    let old = "old".repeat(4_000);
    let new = "new".repeat(5_000);
    rig.answers(HOUR_FRESH, &old);
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, sent(&old));
    assert_eq!(vault.cache_stats().await.expect("stats").entries, 1);
    drop(vault);
    let inner: Arc<dyn Store> = Arc::new(rig.store.restarted());
    let store = Arc::new(FaultyStore::new(inner));
    let faults = store.faults();
    let builder = rig
        .bare()
        .shared_store(store)
        .cache(CacheOptions::default());
    let vault = builder.build().await.expect("vault");
    faults.fail_at(nth, fault);
    rig.answers(HOUR_FRESH, &new);
    // Whatever the store does, a read gets its answer, or says why not.
    if let Ok(outcome) = vault.get("/menu").send_or_cached().await {
        let text = outcome.response().expect("an answer").text().await;
        assert_eq!(text.expect("body"), new);
    }
    rig.goes_away();
    let is_queued = vault.post("/orders").body("x").enqueue().await.is_ok();
    vault.cache_stats().await.ok();
    let has_fired = faults.fired().is_some();
    drop(vault);
    let vault = rig.open().await;
    let pending = vault.pending_count().await.expect("count");
    assert!(pending == 1 || !is_queued, "{nth} {fault:?}");
    vault.set_connectivity(syncvault::ConnectivityMode::Offline);
    let got = send(vault.get("/menu").lane("reads").max_stale(Duration::MAX)).await;
    let whole = [cached(&old, 0), cached(&new, 0), Got::Queued];
    assert!(whole.contains(&got), "{nth} {fault:?}: {got:?}");
    let stats = vault.cache_stats().await.expect("stats");
    assert_eq!(stats.entries, u64::from(got != Got::Queued), "{nth}");
    assert!(vault.ledger().await.expect("ledger").is_balanced());
    has_fired
}
