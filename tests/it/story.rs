//! Whole-vault stories over real HTTP: what a user sees of sending, queueing, order, dead letters and events.

mod coalescing;
mod control;
mod direct;
mod merge_races;
mod principals;
mod queue;
mod replacing;
mod watching;

use std::future::Future;
use std::time::Duration;

use syncvault::decide::OriginPolicy;
use syncvault::store::MemoryStore;
use syncvault::{Backoff, SyncVault, SyncVaultBuilder, Ticket};

use crate::chaos_server::ChaosServer;

/// No story waits longer for anything.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .expect("it did not happen in time")
}

/// A vault on a store in memory, with waits that tests can bear.
pub(crate) fn builder(server: &ChaosServer) -> SyncVaultBuilder {
    bare_builder(server).store(MemoryStore::new())
}

/// The same without a store.
pub(crate) fn bare_builder(server: &ChaosServer) -> SyncVaultBuilder {
    builder_at(server.url())
}

/// The same for any server.
pub(crate) fn builder_at(url: impl AsRef<str>) -> SyncVaultBuilder {
    let mut policy = syncvault::RetryPolicy::default();
    policy.origin = short_origin();
    policy.backoff = Backoff::exponential(Duration::from_millis(2), Duration::from_millis(20));
    policy.origin_backoff =
        Backoff::exponential(Duration::from_millis(2), Duration::from_millis(20));
    SyncVault::builder(url.as_ref())
        .retry_policy(policy)
        .connect_timeout(Duration::from_secs(2))
        .read_timeout(Duration::from_secs(2))
}

/// How origins are spared, with waits that tests can bear. A budget of retries and the throttle go by minutes: they have stories of
/// their own.
pub(crate) fn short_origin() -> OriginPolicy {
    let mut policy = OriginPolicy::default();
    policy.slow_start = Duration::from_millis(20);
    policy.reconnect_spread = Duration::from_millis(5);
    (policy.retry_budget, policy.throttle) = (None, None);
    policy
}

pub(crate) async fn vault(server: &ChaosServer) -> SyncVault {
    builder(server).build().await.expect("vault")
}

pub(crate) async fn enqueue(vault: &SyncVault, lane: &str, key: &str) -> Ticket {
    let request = vault
        .post("/orders")
        .body(key.to_owned())
        .idempotency_key(key)
        .lane(lane);
    request.enqueue().await.expect("enqueue")
}

/// Nothing is lost without a name.
pub(crate) async fn assert_balanced(vault: &SyncVault) {
    let ledger = vault.ledger().await.expect("ledger");
    assert!(ledger.is_balanced(), "{ledger:?}");
}
