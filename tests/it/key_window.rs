//! Servers forget keys: what may have happened is not sent again blindly. On a clock that the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use syncvault::connectivity::AlwaysReachable;
use syncvault::store::MemoryStore;
use syncvault::testing::{FakeServer, Reply, TestClock};
use syncvault::{
    DeadReason, End, SyncVault, SyncVaultBuilder, Ticket, Unsure, Verified, WireState,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A server that is there, or is not.
struct Town {
    server: FakeServer,
    clock: TestClock,
}

impl Town {
    fn new() -> Self {
        Self {
            server: FakeServer::new(),
            clock: TestClock::new(),
        }
    }

    fn builder(&self) -> SyncVaultBuilder {
        SyncVault::builder("http://fake.test")
            .store(MemoryStore::new())
            .transport(self.server.transport())
            .connectivity(AlwaysReachable::new())
            .clock(self.clock.clone())
    }

    /// Sends something whose answer is lost, and lets time pass without a server.
    async fn lose(&self, vault: &SyncVault, key: &str, outage: Duration) -> Ticket {
        self.server.answers_next(Reply::lost());
        self.server.answers(Reply::unreachable());
        let request = vault.post("/pay").body("9.99").idempotency_key(key);
        let outcome = request.send().await.expect("send");
        let ticket = outcome.ticket().expect("queued");
        tokio::time::sleep(outage).await;
        self.server.answers(Reply::status(200));
        ticket
    }

    fn answered(&self) -> usize {
        self.server.effects().len()
    }
}

fn asked(
    verified: Verified,
) -> (
    Arc<AtomicUsize>,
    impl Fn(Unsure) -> std::future::Ready<Verified>,
) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let hook = move |_: Unsure| {
        counter.fetch_add(1, Ordering::SeqCst);
        std::future::ready(verified)
    };
    (count, hook)
}

#[tokio::test(start_paused = true)]
async fn within_the_window_it_is_sent_again() {
    let town = Town::new();
    let (count, hook) = asked(Verified::Unknown);
    let vault = town.builder().verify(hook).build().await.expect("vault");
    let ticket = town.lose(&vault, "a", DAY / 2).await;
    assert!(matches!(ticket.wait().await, Ok(End::Delivered(_))));
    assert_eq!((town.answered(), count.load(Ordering::SeqCst)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn past_the_window_it_is_a_dead_letter_that_only_a_person_sends_again() {
    let town = Town::new();
    let vault = town.builder().build().await.expect("vault");
    let ticket = town.lose(&vault, "a", DAY * 2).await;
    let end = ticket.wait().await.expect("end");
    assert!(
        matches!(end, End::Dead(DeadReason::Uncertain { .. })),
        "{end:?}"
    );
    let seen = town.server.attempts().len();
    let dead = vault.dead_letters();
    assert_eq!(dead.requeue_all().await.expect("requeue"), 0);
    tokio::time::sleep(DAY).await;
    assert_eq!(town.server.attempts().len(), seen, "nothing was sent");
    let again = dead.requeue(ticket.id()).await.expect("requeue");
    assert!(matches!(again.wait().await, Ok(End::Delivered(_))));
    assert_eq!(town.answered(), 1, "this server did remember");
}

#[tokio::test(start_paused = true)]
async fn what_happened_is_delivered_without_another_attempt() {
    let town = Town::new();
    let builder = town.builder().verify(|unsure: Unsure| async move {
        assert_eq!(unsure.action.wire_state, WireState::MaybeSent);
        let body = unsure.body().await?;
        assert_eq!(&body[..], b"9.99");
        Ok::<_, syncvault::Error>(Verified::Happened)
    });
    let vault = builder.build().await.expect("vault");
    let ticket = town.lose(&vault, "a", DAY * 2).await;
    let End::Delivered(answer) = ticket.wait().await.expect("end") else {
        panic!("it happened")
    };
    assert_eq!(answer.status, syncvault::Answer::NO_STATUS);
    assert!(
        town.server
            .attempts()
            .iter()
            .all(|seen| seen.key.as_deref() == Some("a"))
    );
    assert_eq!(
        (
            town.answered(),
            vault.ledger().await.expect("ledger").delivered
        ),
        (1, 1)
    );
}

/// It is sent with the same key, and its window starts anew: another lost answer is not asked about at once.
#[tokio::test(start_paused = true)]
async fn what_did_not_happen_is_sent_again_and_its_window_starts_anew() {
    let town = Town::new();
    let (count, hook) = asked(Verified::DidNot);
    let vault = town.builder().verify(hook).build().await.expect("vault");
    let ticket = town.lose(&vault, "a", DAY * 2).await;
    town.server.answers_next(Reply::lost());
    assert!(matches!(ticket.wait().await, Ok(End::Delivered(_))));
    assert_eq!((town.answered(), count.load(Ordering::SeqCst)), (1, 1));
    let keys = town.server.attempts();
    assert!(keys.iter().all(|seen| seen.key.as_deref() == Some("a")));
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_fails_or_panics_is_asked_again() {
    let town = Town::new();
    let count = AtomicUsize::new(0);
    let builder = town.builder().verify(move |_: Unsure| {
        let nth = count.fetch_add(1, Ordering::SeqCst);
        async move {
            match nth {
                0 => Err(std::io::Error::other("no network")),
                1 => panic!("a bug"),
                _ => Ok(Verified::Happened),
            }
        }
    });
    let vault = builder.build().await.expect("vault");
    let ticket = town.lose(&vault, "a", DAY * 2).await;
    assert!(matches!(ticket.wait().await, Ok(End::Delivered(_))));
    assert_eq!(vault.dead_letters().count().await.expect("count"), 0);
}

/// The window counts from the first attempt that can have arrived: days without a network are none of it.
#[tokio::test(start_paused = true)]
async fn what_never_left_has_no_window() {
    let town = Town::new();
    let vault = town.builder().build().await.expect("vault");
    town.server.answers(Reply::unreachable());
    let outcome = vault.post("/pay").body("1").send().await.expect("send");
    tokio::time::sleep(DAY * 3).await;
    town.server.answers_next(Reply::lost());
    town.server.answers(Reply::status(200));
    let ticket = outcome.ticket().expect("queued");
    assert!(matches!(ticket.wait().await, Ok(End::Delivered(_))));
}

#[tokio::test(start_paused = true)]
async fn a_read_and_a_request_without_a_window_are_sent_again() {
    let town = Town::new();
    let vault = town.builder().build().await.expect("vault");
    let own = vault.post("/pay").body("1").idempotency_window(None);
    let requests = [vault.get("/prices"), own];
    for request in requests {
        town.server.answers_next(Reply::lost());
        town.server.answers(Reply::unreachable());
        let outcome = request.send().await.expect("send");
        tokio::time::sleep(DAY * 2).await;
        town.server.answers(Reply::status(200));
        let ticket = outcome.ticket().expect("queued");
        assert!(matches!(ticket.wait().await, Ok(End::Delivered(_))));
    }
    let short = vault
        .post("/pay")
        .body("2")
        .idempotency_window(Duration::from_secs(60));
    town.server.answers_next(Reply::lost());
    town.server.answers(Reply::unreachable());
    let outcome = short.send().await.expect("send");
    tokio::time::sleep(Duration::from_secs(600)).await;
    let end = outcome.ticket().expect("queued").wait().await.expect("end");
    assert!(
        matches!(end, End::Dead(DeadReason::Uncertain { .. })),
        "{end:?}"
    );
}
