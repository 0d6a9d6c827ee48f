//! No wake-up is lost: what nothing holds back starts within the promised time, whatever came before it. DESIGN.md says what
//! is promised ("When does an attempt start?"). Random steps of an app, a network and a clock, on paused time; after each of
//! them, and at each time that the vault itself tells, the vault is asked what it could send and does not.

mod outside;
mod steps;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed};
use syncvault::clock::Clock;
use syncvault::connectivity::AlwaysReachable;
use syncvault::decide::OriginPolicy;
use syncvault::store::MemoryStore;
use syncvault::testing::{FakeServer, Faults, FaultyStore, TestClock};
use syncvault::{ActionId, ConnectivityMode, Delivery, Paging, RetryPolicy, SyncVault, WhyPending};

use outside::OutsideStore;
use steps::{How, Step, Target, Terms, steps};

/// Where requests go; the first is the base.
const ORIGINS: [&str; 2] = ["http://a.test", "http://b.test"];
/// The timer's grain, twice: it rounds up to a millisecond, and is set a millisecond ahead at least.
const GRAIN: Duration = Duration::from_millis(3);
/// After a failed step of its store, the vault waits up to this long.
const AFTER_FAULT: Duration = Duration::from_secs(40);
/// A wall clock that was set is noticed within this.
const AFTER_JUMP: Duration = Duration::from_secs(60 * 60 + 1);

/// An attempt takes no longer.
const SLOWEST: Duration = Duration::from_secs(30);
/// When all is well, everything is gone by then: waits of before may lie a day and more ahead.
const DRAINED_IN: Duration = Duration::from_secs(48 * 60 * 60);

/// A vault that is watched while the steps are made.
struct Watch {
    vault: SyncVault,
    server: FakeServer,
    clock: TestClock,
    /// The store, behind the vault's back.
    outside: OutsideStore,
    faults: Faults,
    /// How each origin answers now.
    how: Arc<Mutex<[How; 2]>>,
    max_in_flight: usize,
    /// In how much time what can go must go.
    promised: Duration,
    added: u64,
}

impl Watch {
    async fn new(terms: &Terms) -> Self {
        let (server, clock) = (FakeServer::new(), TestClock::new());
        let how = Arc::new(Mutex::new([How::Well; 2]));
        let answers = how.clone();
        server.script(move |seen| {
            let is_base = seen.url.host_str() == Some("a.test");
            answers.lock().expect("no panic")[usize::from(!is_base)].reply()
        });
        let outside = OutsideStore::new(MemoryStore::new());
        let store = FaultyStore::new(Arc::new(outside.clone()));
        let faults = store.faults();
        let mut policy = RetryPolicy::default();
        policy.max_retries = 1000;
        if terms.is_off {
            policy.origin = OriginPolicy::off();
        }
        let vault = SyncVault::builder(ORIGINS[0])
            .allow_origin(ORIGINS[1])
            .store(store)
            .transport(server.transport())
            .connectivity(AlwaysReachable::new())
            .clock(clock.clone())
            .retry_policy(policy)
            .max_in_flight(terms.max_in_flight)
            .principal("ann")
            .seed(terms.seed);
        let vault = vault.build().await.expect("vault");
        faults.slow_down(terms.pace);
        Self {
            vault,
            server,
            clock,
            outside,
            faults,
            how,
            max_in_flight: terms.max_in_flight,
            promised: GRAIN + 4 * terms.pace,
            added: 0,
        }
    }

    /// What could go now and does not, with the number of attempts so far. What holds an action back for good reason is
    /// a full house: no slot is free, or its origin is being tried, one attempt at a time.
    async fn idle(&self) -> (BTreeSet<ActionId>, usize) {
        let attempts = self.server.attempts().len();
        let page = self.vault.pending_actions(Paging::first(1000)).await;
        let stats = self.vault.stats().await.expect("stats");
        let is_full = stats.counts.in_flight >= self.max_in_flight as u64;
        let mut idle = BTreeSet::new();
        for action in page.expect("a page").items {
            let is_tried = stats
                .origins
                .iter()
                .any(|origin| origin.origin == action.origin && origin.in_flight > 0);
            if is_full || is_tried {
                continue;
            }
            let why = self.vault.why_pending(action.id).await.expect("why");
            let now = self.clock.now();
            if matches!(why, WhyPending::Ready) || why.next().is_some_and(|next| next <= now) {
                idle.insert(action.id);
            }
        }
        (idle, attempts)
    }

    /// Looks twice, the promised time apart.
    async fn check(&self, after: &str) {
        tokio::time::sleep(self.promised).await;
        let (before, attempts) = self.idle().await;
        if before.is_empty() {
            return;
        }
        tokio::time::sleep(self.promised).await;
        let (still, attempts_now) = self.idle().await;
        let lost: Vec<_> = before.intersection(&still).collect();
        if lost.is_empty() || attempts < attempts_now {
            return;
        }
        let mut why = Vec::new();
        for id in lost {
            why.push(self.vault.why_pending(*id).await.expect("why"));
        }
        let now = self.clock.now();
        panic!("after {after}, at {now:?}, nobody wakes: {why:?}");
    }

    /// When the vault itself says that something happens next.
    async fn next(&self) -> Option<Duration> {
        let page = self.vault.pending_actions(Paging::first(1000)).await;
        let mut next = None;
        for action in page.expect("a page").items {
            let why = self.vault.why_pending(action.id).await.expect("why");
            next = why.next().into_iter().chain(next).min();
        }
        next.map(|next| next.since(self.clock.now()))
    }

    /// In the end everything is well: then all of it goes, and nobody calls for it.
    async fn ends_well(&self) {
        *self.how.lock().expect("no panic") = [How::Well; 2];
        self.faults.heal();
        self.vault.resume().await.expect("resume");
        self.vault.set_connectivity(ConnectivityMode::Auto);
        let begun = self.clock.now();
        for principal in ["ann", "bob"] {
            self.vault.principal(principal).expect("a name");
            loop {
                self.check("the end").await;
                let page = self.vault.pending_actions(Paging::first(1000)).await;
                let mut left = page.expect("a page").items;
                left.retain(|action| action.principal.as_deref().is_none_or(|p| p == principal));
                if left.is_empty() {
                    break;
                }
                let passed = self.clock.now().since(begun);
                assert!(passed < DRAINED_IN, "in the end there are left: {left:?}");
                let next = self.next().await.unwrap_or(SLOWEST);
                tokio::time::sleep(next.min(SLOWEST)).await;
            }
        }
    }
}

async fn run(terms: &Terms, steps: &[Step]) {
    let mut watch = Watch::new(terms).await;
    for step in steps {
        step.make(&mut watch).await;
        let after = format!("{step:?}");
        match step {
            Step::SetForward(_) | Step::SetBack(_) => tokio::time::sleep(AFTER_JUMP).await,
            Step::Fault => {
                tokio::time::sleep(AFTER_FAULT).await;
                // It may have hit nothing: then it must not hit who looks.
                watch.faults.heal();
            }
            _ => {}
        }
        watch.check(&after).await;
    }
    watch.ends_well().await;
}

async fn rested(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Symptom: what stood behind an action that was superseded waited until the gate of another origin opened. Cause: who
/// adds an action wakes the worker if that action can go; that it made way for another was not looked at.
#[tokio::test(start_paused = true)]
async fn what_stands_behind_one_that_is_superseded_goes_at_once() {
    let terms = Terms {
        seed: 1,
        max_in_flight: 4,
        is_off: true,
        pace: Duration::ZERO,
    };
    let watch = Watch::new(&terms).await;
    let (vault, hour) = (&watch.vault, Duration::from_secs(3600));
    let later = watch.clock.now().after(hour);
    let newest = |path: &str| {
        let request = vault.post(format!("{}/{path}", ORIGINS[1]));
        request.coalesce("newest").not_before(later.into())
    };
    newest("old").enqueue().await.expect("taken");
    vault.post("/behind").enqueue().await.expect("taken");
    // The other origin waits, and the worker has a timer for it.
    watch.how.lock().expect("no panic")[1] = How::Status(503, Some(100));
    let busy = vault.post(format!("{}/busy", ORIGINS[1])).lane("busy");
    busy.enqueue().await.expect("taken");
    rested(GRAIN).await;
    assert_eq!(watch.server.attempts().len(), 1);
    newest("new").enqueue().await.expect("taken");
    rested(GRAIN).await;
    let seen = watch.server.attempts();
    assert_eq!(seen.last().map(|seen| seen.path()), Some("/behind"));
}

/// Found by the property below. Symptom: `why_pending` told a time that came and went. Cause: with connectivity set to online
/// nothing probes a portal, and what else held the attempt back was left out of the next time.
#[test]
fn the_next_time_of_a_portal_counts_what_holds_attempts_back() {
    let target = |lane, origin, not_before| Target::new(lane, origin).not_before(not_before);
    let steps = [
        Step::Answers(1, How::Status(429, None)),
        Step::Enqueue(target(0, 1, 0)),
        Step::Mode(ConnectivityMode::Online),
        Step::Answers(1, How::Portal),
        Step::Wait(720),
        Step::Wait(44),
        Step::Send(target(1, 0, 6), Delivery::WriteAhead),
    ];
    let terms = Terms {
        seed: 0,
        max_in_flight: 1,
        is_off: false,
        pace: Duration::ZERO,
    };
    on_paused_time(run(&terms, &steps));
}

fn on_paused_time(run: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(run);
}

/// The same cases in each run, so that a test run says the same twice. `PROPTEST_RNG_SEED` and `PROPTEST_CASES` ask for others.
fn config() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(7);
    }
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 300;
    }
    config.max_shrink_iters = 2000;
    config.failure_persistence = Some(Box::new(FileFailurePersistence::Off));
    config
}

proptest! {
    #![proptest_config(config())]

    /// Goal: whenever something is due, its origin is open and the worker lives, an attempt starts within the promised time.
    /// Method: see the head of this file.
    #[test]
    fn no_wake_up_is_lost_whatever_comes_together(terms: Terms, steps in steps()) {
        on_paused_time(run(&terms, &steps));
    }
}
