//! A good citizen to the server: the circuit opens and half-opens, drains start slowly after an outage, and a restart loop
//! does not hammer. On fakes and paused time, with the default rules.

use std::cell::Cell;
use std::time::Duration;

use syncvault::clock::Clock;
use syncvault::connectivity::AlwaysReachable;
use syncvault::decide::{FailureKind, GateReason, HoldReason, OriginPolicy};
use syncvault::store::MemoryStore;
use syncvault::testing::{FakeServer, Reply, TestClock};
use syncvault::{Delivery, ErrorKind, Outcome, SyncVault, SyncVaultBuilder, Ticket, WhyPending};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

struct Rig {
    server: FakeServer,
    clock: TestClock,
    store: MemoryStore,
    /// Each start throws other dice.
    starts: Cell<u64>,
}

impl Rig {
    fn new() -> Self {
        Self {
            server: FakeServer::new(),
            clock: TestClock::new(),
            store: MemoryStore::new(),
            starts: Cell::new(0),
        }
    }

    fn builder(&self) -> SyncVaultBuilder {
        self.starts.set(self.starts.get() + 1);
        SyncVault::builder("https://api.example.com")
            .store(self.store.restarted())
            .transport(self.server.transport())
            .connectivity(AlwaysReachable::new())
            .clock(self.clock.clone())
            .seed(self.starts.get())
    }

    async fn open(&self) -> SyncVault {
        self.builder().build().await.expect("vault")
    }

    fn attempts(&self) -> usize {
        self.server.attempts().len()
    }
}

async fn enqueue(vault: &SyncVault, lane: usize) -> Ticket {
    let request = vault.post("/orders").body("x").lane(format!("lane {lane}"));
    request.enqueue().await.expect("enqueue")
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Symptom: a fleet's servers come back, and every device sends its whole backlog at once.
#[tokio::test(start_paused = true)]
async fn a_drain_after_an_outage_starts_slowly_and_ends_at_full_speed() {
    let rig = Rig::new();
    rig.server.answers(Reply::status(503));
    let vault = rig.open().await;
    for lane in 0..60 {
        enqueue(&vault, lane).await;
    }
    pass(10 * MINUTE).await;
    rig.server.answers(Reply::default());
    let before = rig.attempts();
    // The longest wait of an origin is a minute, its first distances half a minute.
    pass(2 * MINUTE).await;
    let slow = rig.attempts() - before;
    assert!(
        (1..25).contains(&slow),
        "{slow} attempts in the first two minutes"
    );
    pass(8 * MINUTE).await;
    assert_eq!(
        vault.pending_count().await.expect("count"),
        0,
        "then all of it"
    );
    let begun = rig.clock.now();
    for lane in 0..60 {
        enqueue(&vault, lane).await;
    }
    vault.wait_idle().await.expect("idle");
    assert!(
        rig.clock.now().since(begun) < SECOND,
        "and full speed again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_is_well_is_not_held_back() {
    let rig = Rig::new();
    rig.server
        .answers(Reply::default().answers_after(Duration::from_millis(5)));
    let vault = rig.open().await;
    let begun = rig.clock.now();
    for lane in 0..160 {
        enqueue(&vault, lane).await;
    }
    vault.wait_idle().await.expect("idle");
    // Sixteen side by side: ten rounds.
    assert!(rig.clock.now().since(begun) < Duration::from_millis(200));
}

/// Symptom: an app that crashes at each start sends a request at each start.
#[tokio::test(start_paused = true)]
async fn a_restart_loop_does_not_hammer() {
    let rig = Rig::new();
    rig.server.answers(Reply::status(503));
    let vault = rig.open().await;
    for lane in 0..20 {
        enqueue(&vault, lane).await;
    }
    pass(10 * MINUTE).await;
    vault.shutdown(SECOND).await.expect("shutdown");
    let before = rig.attempts();
    for _ in 0..300 {
        let vault = rig.open().await;
        pass(SECOND).await;
        vault.shutdown(SECOND).await.expect("shutdown");
    }
    let asked = rig.attempts() - before;
    assert!(
        asked <= 30,
        "{asked} attempts in 300 starts of one second each"
    );
    // Nor when the server is back: the distance between two starts is kept too.
    rig.server.answers(Reply::default());
    let before = rig.attempts();
    for _ in 0..120 {
        let vault = rig.open().await;
        pass(SECOND).await;
        vault.shutdown(SECOND).await.expect("shutdown");
    }
    let asked = rig.attempts() - before;
    assert!((1..20).contains(&asked), "{asked} attempts in 120 starts");
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_queues_a_direct_send_and_refuses_one_that_may_not_be() {
    let rig = Rig::new();
    rig.server.answers(Reply::fails(FailureKind::Timeout));
    let vault = rig.open().await;
    for lane in 0..5 {
        enqueue(&vault, lane).await;
    }
    while rig.attempts() < 5 {
        pass(Duration::from_millis(1)).await;
    }
    pass(Duration::from_millis(1)).await;
    let before = rig.attempts();
    let sent = vault
        .post("/orders")
        .lane("direct")
        .send()
        .await
        .expect("send");
    let Outcome::Queued(ticket) = sent else {
        panic!("the circuit is open");
    };
    let why = vault.why_pending(ticket.id()).await.expect("why");
    assert!(
        matches!(
            why,
            WhyPending::OriginWaits {
                reason: GateReason::Failing,
                ..
            }
        ),
        "{why:?}"
    );
    let read = vault.get("/orders").delivery(Delivery::Never).lane("reads");
    let error = read.send().await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::OriginWaits, "{error}");
    assert_eq!(rig.attempts(), before, "nothing was sent");
    rig.server.answers(Reply::default());
    pass(60 * MINUTE).await;
    assert_eq!(vault.pending_count().await.expect("count"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_holds_also_while_all_is_well() {
    let rig = Rig::new();
    let vault = rig
        .builder()
        .rate_limit(10, MINUTE)
        .build()
        .await
        .expect("vault");
    let mut last = None;
    for lane in 0..40 {
        last = Some(enqueue(&vault, lane).await);
    }
    pass(SECOND).await;
    assert_eq!(rig.attempts(), 10, "the burst");
    let last = last.expect("forty were queued").id();
    let why = vault.why_pending(last).await.expect("why");
    assert!(
        matches!(
            why,
            WhyPending::OriginHeld {
                by: HoldReason::RateLimit,
                ..
            }
        ),
        "{why:?}"
    );
    pass(MINUTE).await;
    assert_eq!(rig.attempts(), 20);
    vault.wait_idle().await.expect("idle");
}

#[tokio::test(start_paused = true)]
async fn everything_can_be_switched_off() {
    let rig = Rig::new();
    rig.server.answers(Reply::status(503));
    let off = || rig.builder().origin_policy(OriginPolicy::off());
    let vault = off().build().await.expect("vault");
    for lane in 0..60 {
        enqueue(&vault, lane).await;
    }
    pass(10 * MINUTE).await;
    rig.server.answers(Reply::default());
    pass(61 * SECOND).await;
    assert_eq!(vault.pending_count().await.expect("count"), 0);
}
