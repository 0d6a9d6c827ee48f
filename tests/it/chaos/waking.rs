//! Wake-ups: none too few, or something lies in the queue that could go; none too many, or offline costs battery.

use std::time::Duration;

use syncvault::connectivity::AlwaysReachable;
use syncvault::{Backoff, ConnectivityMode, Delivery, End, RetryPolicy, SyncVault, Ticket};

use super::watched::{CountedTransport, WatchedStore};
use crate::chaos_server::{Behaviour, ChaosServer};
use crate::dice::Dice;
use crate::story::{bare_builder, builder, enqueue, soon};

/// Symptom: what was queued while an origin waited, and nothing else was queued, lay there for ever.
/// Cause: the worker had no timer, because nothing was queued when the gate closed; and nobody woke it, because the
/// gate was closed when the action came. Fix: who adds an action wakes the worker if it would sleep past the opening.
#[tokio::test]
async fn what_is_queued_behind_a_closed_gate_goes_when_it_opens() {
    let server = ChaosServer::start().await;
    server.next_on("/read", Behaviour::status(503));
    let mut policy = RetryPolicy::default();
    policy.origin = crate::story::short_origin();
    policy.origin_backoff = Backoff::fixed(Duration::from_millis(300));
    let vault = builder(&server)
        .retry_policy(policy)
        .connectivity(AlwaysReachable::new())
        .build()
        .await
        .expect("vault");
    let read = vault.get("/read").delivery(Delivery::Never).send();
    assert!(soon(read).await.expect("read").is_sent());
    // The worker has seen the gate, and nothing is queued.
    soon(vault.process_queue()).await.expect("pass");
    let ticket = enqueue(&vault, "a", "1").await;
    assert!(matches!(
        soon(ticket.wait()).await.expect("end"),
        End::Delivered(_)
    ));
}

/// Symptom: an action whose backoff was over waited until an attempt to another origin ended, that hung.
/// Cause: what is due and was not leased waits for a running attempt, so the timer was left out; with it the timers of
/// everything else. Fix: the timer is the next due time that can be met.
#[tokio::test]
async fn an_origin_that_hangs_does_not_stop_the_clock_of_another() {
    let hanging = ChaosServer::start().await;
    let well = ChaosServer::start().await;
    // In trouble: one attempt at a time. It hangs, and a second lane waits for it.
    hanging.next_on("/h", Behaviour::status(503));
    hanging.on("/h", Behaviour::hang());
    let vault = builder(&well)
        .read_timeout(Duration::from_secs(60))
        .allow_origin(hanging.url())
        .connectivity(AlwaysReachable::new())
        .build()
        .await
        .expect("vault");
    for lane in ["x", "y", "z"] {
        let request = vault.post(hanging.at("/h")).lane(lane);
        request.enqueue().await.expect("enqueue");
    }
    hanging.wait_received(2).await;
    well.next_on("/orders", Behaviour::status(500));
    let ticket = enqueue(&vault, "w", "1").await;
    assert!(matches!(
        soon(ticket.wait()).await.expect("end"),
        End::Delivered(_)
    ));
}

/// Symptom: an action whose backoff was over waited for an attempt of another lane to end, now and then.
/// Cause: its time came while the store wrote the step that queued it again. The worker took it for something that was
/// due and had found no slot, and left its timer out. Fix: due means due when the step looked.
#[tokio::test]
async fn what_becomes_due_while_the_store_writes_is_not_forgotten() {
    let server = ChaosServer::start().await;
    server.on("/hang", Behaviour::hang());
    server.next_on("/orders", Behaviour::status(500));
    let store = WatchedStore::new().with_slow_answers(Duration::from_millis(60));
    let vault = bare_builder(&server)
        .read_timeout(Duration::from_secs(60))
        .store(store)
        .build()
        .await
        .expect("vault");
    let hanging = vault.post("/hang").lane("h").enqueue().await;
    hanging.expect("enqueue");
    server.wait_received(1).await;
    delivered(&enqueue(&vault, "w", "1").await).await;
}

/// How many times each race is run.
const ROUNDS: usize = 150;

async fn delivered(ticket: &Ticket) {
    let end = soon(ticket.wait()).await.expect("end");
    assert!(matches!(end, End::Delivered(_)), "{end:?}");
}

/// Lets some other tasks go first: a few steps of them, or a good part.
async fn dawdle(dice: &mut Dice) {
    if dice.percent(40) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..dice.below(12) {
        tokio::task::yield_now().await;
    }
}

async fn with_short_waits(server: &ChaosServer) -> SyncVault {
    let builder = builder(server).connectivity(AlwaysReachable::new());
    builder.build().await.expect("vault")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_as_a_drain_ends_is_not_left_behind() {
    let server = ChaosServer::start().await;
    let vault = with_short_waits(&server).await;
    let mut dice = Dice::new(1);
    for n in 0..ROUNDS {
        let first = enqueue(&vault, "a", &format!("first {n}")).await;
        server.wait_effects(2 * n + 1).await;
        dawdle(&mut dice).await;
        let second = enqueue(&vault, dice.pick(&["a", "b"]), &format!("second {n}")).await;
        delivered(&second).await;
        delivered(&first).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_as_a_pause_or_offline_ends_is_not_left_behind() {
    let server = ChaosServer::start().await;
    let vault = with_short_waits(&server).await;
    let mut dice = Dice::new(2);
    for n in 0..ROUNDS {
        let is_pause = n % 2 == 0;
        match is_pause {
            true => vault.pause().await.expect("pause"),
            false => vault.set_connectivity(ConnectivityMode::Offline),
        }
        let mut adding = dice.split();
        let adder = vault.clone();
        let added = tokio::spawn(async move {
            dawdle(&mut adding).await;
            enqueue(&adder, "a", &n.to_string()).await
        });
        dawdle(&mut dice).await;
        match is_pause {
            true => vault.resume().await.expect("resume"),
            false => vault.set_connectivity(ConnectivityMode::Auto),
        }
        delivered(&soon(added).await.expect("added")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_as_a_gate_opens_is_not_left_behind() {
    let server = ChaosServer::start().await;
    let vault = with_short_waits(&server).await;
    let mut dice = Dice::new(3);
    for n in 0..ROUNDS {
        server.next_on("/read", Behaviour::status(503));
        let read = vault.get("/read").delivery(Delivery::Never).lane("reads");
        assert!(soon(read.send()).await.expect("read").is_sent());
        // The gate is closed for up to a few milliseconds: come before, at and after its end.
        tokio::time::sleep(Duration::from_micros(dice.below(4000))).await;
        delivered(&enqueue(&vault, "a", &n.to_string()).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_beside_the_background_send_nothing_twice() {
    let server = ChaosServer::start().await;
    let vault = with_short_waits(&server).await;
    for n in 0..80 {
        enqueue(&vault, &format!("{}", n % 4), &n.to_string()).await;
        if n % 8 == 0 {
            let vault = vault.clone();
            tokio::spawn(async move {
                // What they report is another story.
                drop(tokio::join!(vault.process_queue(), vault.process_queue()));
            });
        }
    }
    soon(vault.wait_idle()).await.expect("idle");
    assert_eq!(server.received().len(), 80);
}

/// Goes over nothing but time: no call can be waited for that must not come.
const QUIET: Duration = Duration::from_millis(300);

#[tokio::test]
async fn an_idle_vault_and_one_that_is_set_offline_do_nothing_at_all() {
    let server = ChaosServer::start().await;
    let (store, transport) = (WatchedStore::new(), CountedTransport::new());
    let vault = bare_builder(&server)
        .store(store.clone())
        .transport(transport.clone())
        .build()
        .await
        .expect("vault");
    let calls = || (store.advances(), store.others(), transport.sends());
    delivered(&enqueue(&vault, "a", "1").await).await;
    soon(vault.wait_idle()).await.expect("idle");
    // The step after the last one, if any, has come and gone with this.
    soon(vault.process_queue()).await.expect("pass");
    let before = calls();
    tokio::time::sleep(QUIET).await;
    assert_eq!(calls(), before, "idle");
    vault.set_connectivity(ConnectivityMode::Offline);
    for n in 0..20 {
        enqueue(&vault, &format!("{}", n % 4), &format!("late {n}")).await;
    }
    assert_eq!(vault.pending_count().await.expect("count"), 20);
    tokio::task::yield_now().await;
    let before = calls();
    tokio::time::sleep(QUIET).await;
    assert_eq!(calls(), before, "offline");
}

#[tokio::test]
async fn without_a_server_only_the_timer_wakes_the_worker() {
    let server = ChaosServer::start().await;
    server.down().await;
    let wait = Duration::from_millis(50);
    let mut policy = RetryPolicy::default();
    policy.origin = crate::story::short_origin();
    policy.origin_backoff = Backoff::fixed(wait);
    let (store, transport) = (WatchedStore::new(), CountedTransport::new());
    let vault = bare_builder(&server)
        .retry_policy(policy)
        .store(store.clone())
        .transport(transport.clone())
        .build()
        .await
        .expect("vault");
    for n in 0..20 {
        enqueue(&vault, &format!("{}", n % 4), &n.to_string()).await;
    }
    transport.wait_sends(6).await;
    let (begun, before) = (
        std::time::Instant::now(),
        (store.advances(), transport.sends()),
    );
    transport.wait_sends(before.1 + 6).await;
    let timers = u64::try_from(begun.elapsed().as_millis() / wait.as_millis()).expect("few") + 2;
    let (advances, sends) = (store.advances() - before.0, transport.sends() - before.1);
    assert!(sends <= timers, "{sends} attempts in {timers} timers");
    assert!(
        advances <= 2 * timers + 2,
        "{advances} steps in {timers} timers"
    );
}
