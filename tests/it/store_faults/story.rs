//! The story: a few lanes, retries, a dead letter, direct sends, a cancel, a pause, on fakes and paused time. Its app
//! does what apps should: what was not acknowledged is tried again with the same key.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use syncvault::clock::Clock;
use syncvault::connectivity::AlwaysReachable;
use syncvault::decide::FailureKind;
use syncvault::store::MemoryStore;
use syncvault::testing::{FakeServer, Faults, FaultyStore, Reply, Seen, TestClock};
use syncvault::{
    Cancellation, Delivery, Error, ErrorKind, Outcome, Paging, RequestBuilder, Result, SyncVault,
    SyncVaultBuilder,
};

/// Longer than any backoff in the story, and than any pause of a worker whose store fails.
const LONG: Duration = Duration::from_secs(2 * 60 * 60);

/// The server says no: a direct send hears it, a queued one becomes a dead letter.
const REFUSED: &str = "/c/2";

pub(super) struct Story {
    pub(super) server: FakeServer,
    pub(super) faults: Faults,
    pub(super) clock: TestClock,
    pub(super) vault: Option<SyncVault>,
    memory: MemoryStore,
    is_sealed: bool,
    /// Acknowledged, and so owed to the server.
    pub(super) owed: BTreeSet<String>,
    /// Acknowledged as ended without an effect.
    spared: BTreeSet<String>,
}

impl Story {
    pub(super) async fn new() -> Self {
        let server = FakeServer::new();
        server.script(trouble());
        Self {
            server,
            faults: Faults::default(),
            clock: TestClock::new(),
            vault: None,
            memory: MemoryStore::new(),
            is_sealed: false,
            owed: BTreeSet::new(),
            spared: BTreeSet::new(),
        }
    }

    /// The same in a sealed vault.
    #[cfg(feature = "encrypt")]
    pub(super) async fn sealed() -> Self {
        let mut story = Self::new().await;
        story.is_sealed = true;
        story
    }

    /// The vault, opened if it is not: as after a start of the app.
    pub(super) async fn vault(&mut self) -> Result<SyncVault> {
        if let Some(vault) = &self.vault {
            return Ok(vault.clone());
        }
        let store = FaultyStore::with_faults(Arc::new(self.memory.restarted()), &self.faults);
        let vault = self
            .builder()
            .store(store)
            .transport(self.server.transport())
            .connectivity(AlwaysReachable::new())
            .clock(self.clock.clone())
            .seed(1)
            .build()
            .await?;
        self.vault = Some(vault.clone());
        Ok(vault)
    }

    #[cfg(feature = "encrypt")]
    fn builder(&self) -> SyncVaultBuilder {
        let builder = SyncVault::builder("http://fake.test");
        match self.is_sealed {
            true => builder.encryption(syncvault::store::crypt::Key::new([7; 32])),
            false => builder,
        }
    }

    #[cfg(not(feature = "encrypt"))]
    fn builder(&self) -> SyncVaultBuilder {
        assert!(!self.is_sealed, "this build cannot seal");
        SyncVault::builder("http://fake.test")
    }

    /// The app's answer to an error: repair the disk, and start again if the store says so.
    async fn repair(&mut self, error: &Error) {
        let is_injected = matches!(
            error.kind(),
            ErrorKind::Storage | ErrorKind::StorageFull | ErrorKind::Poisoned | ErrorKind::Closed
        );
        assert!(is_injected, "an error that no fault explains: {error:?}");
        if matches!(error.kind(), ErrorKind::Poisoned | ErrorKind::Closed) {
            self.crash().await;
        }
        self.faults.heal();
    }

    /// The process ends here; what it was doing ends with it.
    async fn crash(&mut self) {
        self.vault = None;
        tokio::time::sleep(Duration::from_secs(60)).await;
    }

    /// Does something until it is acknowledged.
    async fn insist<T>(&mut self, what: &str, act: impl AsyncFn(&SyncVault) -> Result<T>) -> T {
        for _ in 0..4 {
            let called = async {
                let vault = self.vault().await?;
                act(&vault).await
            };
            let Ok(done) = tokio::time::timeout(LONG, called).await else {
                panic!("{what}: it neither returns nor fails");
            };
            match done {
                Ok(done) => return done,
                Err(error) => self.repair(&error).await,
            }
        }
        panic!("{what}: one fault, and it fails again and again");
    }

    async fn enqueue(&mut self, path: &str) {
        self.insist(path, async |vault| {
            request(vault, path).enqueue().await.map(drop)
        })
        .await;
        self.owed.insert(path.to_owned());
    }

    async fn send(&mut self, path: &str, delivery: Delivery) {
        let sent = self
            .insist(path, async |vault| {
                request(vault, path).delivery(delivery).send().await
            })
            .await;
        if path != REFUSED {
            self.owed.insert(path.to_owned());
        }
        // The caller reads the whole answer, as callers do.
        if let Outcome::Sent(answer) = sent {
            answer.bytes().await.expect("a body");
        }
    }

    pub(super) async fn tell(&mut self) {
        self.queue_in_lanes().await;
        self.send_directly().await;
        self.hold_back().await;
        self.care_for_the_dead().await;
    }

    async fn queue_in_lanes(&mut self) {
        for path in ["/a/1", "/a/2", "/a/3", "/b/1", "/b/2", "/default/1"] {
            self.enqueue(path).await;
        }
        // Until the origin is well again: the direct sends shall be direct.
        tokio::time::sleep(Duration::from_secs(60)).await;
    }

    async fn send_directly(&mut self) {
        for path in ["/c/1", REFUSED, "/c/3", "/c/4"] {
            self.send(path, Delivery::WriteAhead).await;
        }
        self.doze().await;
        for path in ["/e/1", "/e/2", "/e/3"] {
            self.send(path, Delivery::OnFailure).await;
        }
        self.doze().await;
    }

    /// A pause, an action taken back, one too late, one replaced.
    async fn hold_back(&mut self) {
        self.insist("pause", async |vault| vault.pause().await)
            .await;
        self.enqueue("/p/1").await;
        let before = self.server.attempts().len();
        self.doze().await;
        assert_eq!(self.server.attempts().len(), before, "a pause holds");
        self.enqueue("/z/1").await;
        self.cancel("/z/1").await;
        self.insist("/k/1", async |vault| {
            let late = self_expiring(vault, "/k/1");
            late.enqueue().await.map(drop)
        })
        .await;
        self.spared.insert("/k/1".into());
        for path in ["/m/1", "/m/2"] {
            self.insist(path, async |vault| {
                request(vault, path).coalesce("m").enqueue().await.map(drop)
            })
            .await;
        }
        self.spared.insert("/m/1".into());
        self.owed.insert("/m/2".into());
        self.doze().await;
        self.insist("resume", async |vault| vault.resume().await)
            .await;
        self.insist("drain", async |vault| vault.process_queue().await.map(drop))
            .await;
    }

    async fn cancel(&mut self, path: &str) {
        let found = self
            .insist("cancel", async |vault| {
                let ticket = request(vault, path).enqueue().await?;
                Ok((vault.cancel(ticket.id()).await?, ticket.end().await?))
            })
            .await;
        // A cancel whose answer was lost is done all the same.
        let is_cancelled = matches!(
            found,
            (
                Cancellation::Cancelled | Cancellation::TooLate,
                Some(syncvault::End::Cancelled)
            )
        );
        assert!(is_cancelled, "{path}: {found:?}");
        self.owed.remove(path);
        self.spared.insert(path.to_owned());
    }

    /// Two dead letters: one is sent again, one is forgotten.
    async fn care_for_the_dead(&mut self) {
        self.enqueue("/d/1").await;
        self.look_after_letters().await;
        // Once more: a restart may have put the death off.
        self.look_after_letters().await;
        self.owed.remove("/d/1");
        self.spared.insert("/d/1".into());
    }

    async fn look_after_letters(&mut self) {
        tokio::time::sleep(LONG).await;
        let letters = self
            .insist("letters", async |vault| {
                vault.dead_letters().list(Paging::first(10)).await
            })
            .await;
        for letter in letters.items {
            let (id, path) = (letter.action.id, letter.action.url.path().to_owned());
            self.insist(&path, async |vault| {
                let done = match path.as_str() {
                    "/b/1" => vault.dead_letters().requeue(id).await.map(drop),
                    _ => vault.dead_letters().discard(id).await,
                };
                // The answer to the first call may be what was lost.
                let is_done =
                    |e: &Error| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::WrongState);
                done.or_else(|e| if is_done(&e) { Ok(()) } else { Err(e) })
            })
            .await;
        }
    }

    async fn doze(&self) {
        tokio::time::sleep(Duration::from_millis(700)).await;
    }

    /// Heals, waits without touching anything, restarts, and judges.
    pub(super) async fn end(mut self) -> Vec<String> {
        self.heal().await;
        tokio::time::sleep(LONG).await;
        let mut found = self.judge_store("without another call").await;
        self.crash().await;
        found.extend(self.judge_store("after a restart").await);
        found.extend(self.judge_server());
        found
    }

    /// What is broken is repaired; a poisoned vault is opened again, as the contract of the store says.
    async fn heal(&mut self) {
        let health = match self.vault().await {
            Ok(vault) => vault.pending_count().await,
            Err(error) => Err(error),
        };
        if let Err(error) = health {
            self.repair(&error).await;
        }
        self.faults.heal();
        self.vault().await.expect("a healed store opens");
    }

    async fn judge_store(&mut self, when: &str) -> Vec<String> {
        let vault = self.vault().await.expect("a healed store opens");
        let ledger = vault.ledger().await.expect("ledger");
        let counts = *vault.status().counts();
        let left = vault.pending_actions(Paging::first(100)).await;
        let left = left.expect("page").items;
        let mut found = Vec::new();
        if !ledger.is_balanced() {
            found.push(format!("unbalanced {when}: {ledger:?}"));
        }
        for action in &left {
            let (path, state) = (action.url.path(), &action.state);
            found.push(format!("stuck {when}: {path} {state:?}"));
        }
        if counts.pending > 0 || counts.in_flight > 0 || counts.dead > 0 {
            found.push(format!("left {when}: {counts:?}"));
        }
        found
    }

    pub(super) fn judge_server(&self) -> Vec<String> {
        let mut found = self.server.complaints();
        let effects = self.server.effects();
        let mut done = BTreeSet::new();
        for effect in &effects {
            if !done.insert(effect.path().to_owned()) {
                found.push(format!("double effect: {}", effect.path()));
            }
        }
        let lost = self.owed.difference(&done);
        found.extend(lost.map(|path| format!("lost: {path}")));
        let spared = self.spared.intersection(&done);
        found.extend(spared.map(|path| format!("done, though it was taken back: {path}")));
        found.extend(order(&self.server.attempts()));
        found
    }
}

/// In every lane: no attempt before what was enqueued earlier, none while another action's attempt runs, one key each.
fn order(attempts: &[Seen]) -> Vec<String> {
    let mut found = Vec::new();
    let mut newest = BTreeMap::<&str, (&str, u64)>::new();
    let mut keys = HashMap::new();
    for seen in attempts {
        let path = seen.path();
        if *keys.entry(path).or_insert(&seen.key) != &seen.key {
            found.push(format!("another key: {path}"));
        }
        let lane = lane_of(path);
        let ended = seen.ended.unwrap_or(u64::MAX);
        // A dead letter that is sent again goes to the end of its lane.
        if lane == "b" {
            continue;
        }
        if let Some((before, end)) = newest.get(lane).copied() {
            if path < before {
                found.push(format!("{path} after {before}"));
            } else if path != before && end > seen.began {
                found.push(format!("{path} while {before} runs"));
            }
        }
        newest.insert(lane, (path, ended));
    }
    found
}

/// A request in the lane that its path names, with a key of its own.
pub(super) fn request(vault: &SyncVault, path: &str) -> RequestBuilder {
    vault
        .post(path)
        .lane(lane_of(path))
        .idempotency_key(path)
        .body(path.repeat(3))
}

fn lane_of(path: &str) -> &str {
    path.split('/').nth(1).expect("a lane")
}

/// Not wanted any more before its time comes.
fn self_expiring(vault: &SyncVault, path: &str) -> RequestBuilder {
    let far = TestClock::new()
        .now()
        .after(Duration::from_secs(365 * 24 * 3600));
    request(vault, path)
        .not_before(far.into())
        .expires_in(Duration::from_secs(5))
}

/// What goes wrong on the wire, by path and attempt.
fn trouble() -> impl FnMut(&Seen) -> Reply + Send {
    let mut attempts = HashMap::<String, u32>::new();
    move |seen| {
        let attempt = attempts.entry(seen.path().to_owned()).or_default();
        *attempt += 1;
        let reply = match (seen.path(), *attempt) {
            ("/a/1", 1) | ("/c/3", 1) => Reply::status(500),
            ("/a/2", 1) => Reply::lost(),
            ("/b/1", 1) => Reply::status(422),
            ("/d/1", _) => Reply::status(400),
            ("/b/2" | "/e/2", 1) => Reply::unreachable(),
            ("/default/1", 1) => Reply::status(503).header("retry-after", "2"),
            (REFUSED, _) => Reply::status(404),
            ("/p/1", 1) => Reply::fails(FailureKind::Timeout),
            _ => Reply::status(200),
        };
        let on_the_way = Duration::from_millis(3);
        reply.arrives_after(on_the_way).answers_after(on_the_way)
    }
}
