//! Answers that are there when the network is not: on a server in memory and paused time.

#[cfg(all(
    feature = "encrypt",
    feature = "fjall",
    feature = "sled",
    feature = "sqlite"
))]
mod disk;
mod hard;
mod kept;
#[cfg(feature = "encrypt")]
mod rows;
mod stale;
mod trouble;

use std::time::Duration;

use syncvault::connectivity::AlwaysReachable;
use syncvault::store::MemoryStore;
use syncvault::testing::{FakeServer, Reply, TestClock};
use syncvault::{CacheOptions, Outcome, RequestBuilder, SyncVault, SyncVaultBuilder};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

struct Rig {
    server: FakeServer,
    clock: TestClock,
    store: MemoryStore,
}

impl Rig {
    fn new() -> Self {
        Self {
            server: FakeServer::new(),
            clock: TestClock::new(),
            store: MemoryStore::new(),
        }
    }

    fn bare(&self) -> SyncVaultBuilder {
        SyncVault::builder("https://api.example.com")
            .transport(self.server.transport())
            .connectivity(AlwaysReachable::new())
            .clock(self.clock.clone())
            .retry_budget(None)
            .throttle(None)
            .seed(7)
    }

    fn builder(&self) -> SyncVaultBuilder {
        self.bare().store(self.store.restarted())
    }

    async fn open(&self) -> SyncVault {
        self.open_with(CacheOptions::default()).await
    }

    async fn open_with(&self, options: CacheOptions) -> SyncVault {
        let builder = self.builder().cache(options);
        builder.build().await.expect("vault")
    }

    /// What the server says to everything from now on.
    fn answers(&self, headers: &[(&str, &str)], body: &str) {
        self.server.answers(reply(headers, body));
    }

    fn goes_away(&self) {
        self.server.answers(Reply::unreachable());
    }

    /// How often the server was asked.
    fn asked(&self) -> usize {
        self.server.attempts().len()
    }
}

fn reply(headers: &[(&str, &str)], body: &str) -> Reply {
    let reply = Reply::status(200).body(body.to_owned());
    headers
        .iter()
        .fold(reply, |reply, (name, value)| reply.header(*name, *value))
}

/// What a caller got.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    Sent(u16, String),
    /// With its age, in seconds.
    Cached(String, u64),
    Queued,
}

fn sent(body: &str) -> Got {
    Got::Sent(200, body.to_owned())
}

fn cached(body: &str, age: u64) -> Got {
    Got::Cached(body.to_owned(), age)
}

async fn send(request: RequestBuilder) -> Got {
    match request.send_or_cached().await.expect("send") {
        Outcome::Sent(response) => {
            let status = response.status().as_u16();
            Got::Sent(status, response.text().await.expect("body"))
        }
        Outcome::Cached(response, age) => {
            let told = response.headers()["age"].to_str().expect("text").to_owned();
            assert_eq!(told, age.as_secs().to_string());
            let status = response.headers()["cache-status"].to_str();
            let status = status.expect("text").to_owned();
            assert!(status.starts_with("SyncVault; hit; ttl="), "{status}");
            Got::Cached(response.text().await.expect("body"), age.as_secs())
        }
        Outcome::Queued(_) => Got::Queued,
    }
}

async fn get(vault: &SyncVault, path: &str) -> Got {
    send(vault.get(path)).await
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Until what the worker does now is on disk.
async fn settled(vault: &SyncVault) {
    vault.wait_idle().await.expect("idle");
}

#[tokio::test(start_paused = true)]
async fn a_bad_option_is_named() {
    let rig = Rig::new();
    let mut bad = CacheOptions::default();
    bad.bytes_max = 5;
    let error = rig.builder().cache(bad).build().await.expect_err("bad");
    assert!(
        error.to_string().contains("option cache: `bytes_max`"),
        "{error}"
    );
    let mut bad = CacheOptions::default();
    bad.entry_bytes_max = Some(bad.bytes_max);
    let error = rig.builder().cache(bad).build().await.expect_err("bad");
    assert!(
        error
            .to_string()
            .contains("option cache: `entry_bytes_max`"),
        "{error}"
    );
}

/// A vault without a cache keeps nothing, asks the store nothing, and queues as ever.
#[tokio::test(start_paused = true)]
async fn without_the_option_nothing_is_kept() {
    let rig = Rig::new();
    rig.answers(&[("cache-control", "max-age=3600")], "menu");
    let vault = rig.builder().build().await.expect("vault");
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    rig.goes_away();
    assert_eq!(get(&vault, "/menu").await, Got::Queued);
    assert_eq!(vault.cache_stats().await.expect("stats").entries, 0);
}
