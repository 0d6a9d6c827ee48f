//! Cancel, pause, joining, the throttle, resync, shutdown.

use std::time::Duration;

use syncvault::sync::{
    BackgroundState, End, FailureKind, Feature, InitialState, MemoryCheckpoints, Step,
    SyncEventKind, SyncOrchestrator, SyncReport,
};
use syncvault::testing::TestClock;
use syncvault::{Backoff, ErrorKind};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::site::{Site, Trouble, builder, rows, told, until};

fn spawn_run(sync: &SyncOrchestrator) -> JoinHandle<SyncReport> {
    let sync = sync.clone();
    tokio::spawn(async move { sync.run().await.expect("run") })
}

#[tokio::test(start_paused = true)]
async fn a_cancel_cuts_a_request_off_at_once() {
    for step in [Step::Fetch, Step::Push] {
        let site = Site::with_rows(12);
        let sync = rows(&site).build().expect("built");
        assert!(sync.run().await.expect("run").is_success());
        site.server_writes("r001", Some("second"));
        site.app_writes("r002", "ours");
        site.trouble(step, 1, Trouble::Hang);
        let run = spawn_run(&sync);
        site.hangs().await;
        let start = Instant::now();
        sync.cancel().await.expect("cancelled");
        let report = run.await.expect("joined");
        assert_eq!(start.elapsed(), Duration::ZERO);
        let end = report.feature("rows").and_then(|f| f.background.clone());
        assert_eq!(end, Some(End::Cancelled));
        assert_eq!(
            sync.status("rows").expect("known").background,
            Some(BackgroundState::Cancelled)
        );
        assert!(sync.run().await.expect("run").is_success());
        site.assert_in_step();
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_cuts_a_wait_off_at_once() {
    let site = Site::with_rows(1);
    site.trouble(Step::Fetch, 1, Trouble::Before);
    let hour = Backoff::fixed(Duration::from_secs(3600));
    let sync = rows(&site).backoff(hour).build().expect("built");
    let mut events = sync.events();
    let run = spawn_run(&sync);
    until(&mut events, |kind| {
        matches!(kind, SyncEventKind::Retrying { .. })
    })
    .await;
    let start = Instant::now();
    sync.cancel().await.expect("cancelled");
    assert!(!run.await.expect("joined").is_success());
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(
        sync.status("rows").expect("known").initial,
        Some(InitialState::Cancelled)
    );
}

/// Goal: a cancel in the middle leaves a state that is gone on from. Method: cancel at each page of the initial sync.
#[tokio::test(start_paused = true)]
async fn a_cancelled_initial_sync_goes_on_where_it_stopped() {
    for nth in 1..=5 {
        let site = Site::with_rows(23);
        site.trouble(Step::Fetch, nth, Trouble::Hang);
        let sync = rows(&site).build().expect("built");
        let run = spawn_run(&sync);
        site.hangs().await;
        sync.cancel().await.expect("cancelled");
        assert!(!run.await.expect("joined").is_success());
        let mut events = sync.events();
        assert!(sync.run().await.expect("run").is_success());
        let pages = u64::from(nth - 1);
        let kinds: Vec<_> = told(&mut events).into_iter().map(|e| e.kind).collect();
        assert!(
            kinds.contains(&SyncEventKind::InitialStarted { pages }),
            "{kinds:?}"
        );
        assert_eq!(site.applied().len(), 23);
        site.assert_in_step();
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_what_waits_too_and_what_comes_after_runs() {
    let [first, second] = [Site::with_rows(1), Site::with_rows(1)];
    first.trouble(Step::Fetch, 1, Trouble::Hang);
    let sync = builder()
        .background(Feature::new("first", first.clone()))
        .background(Feature::new("second", second.clone()).depends_on(["first"]))
        .build()
        .expect("built");
    let run = spawn_run(&sync);
    first.hangs().await;
    let (cancelled, next) = tokio::join!(sync.cancel(), sync.run());
    cancelled.expect("cancelled");
    assert!(next.expect("run").is_success());
    let report = run.await.expect("joined");
    for feature in report.features {
        assert_eq!(feature.background, Some(End::Cancelled));
    }
    sync.cancel().await.expect("nothing to cancel");
}

#[tokio::test(start_paused = true)]
async fn one_run_of_a_feature_at_a_time_and_the_second_call_joins() {
    let site = Site::with_rows(3);
    site.close_gate();
    let sync = rows(&site).build().expect("built");
    let runs: Vec<_> = (0..5).map(|_| spawn_run(&sync)).collect();
    site.hangs().await;
    let one = tokio::spawn({
        let sync = sync.clone();
        async move { sync.sync_feature("rows").await.expect("run") }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    site.open_gate();
    for run in runs {
        assert!(run.await.expect("joined").is_success());
    }
    assert!(one.await.expect("joined").is_success());
    // One fetch of the initial sync, one of the background.
    assert_eq!(site.calls(Step::Fetch), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_stops_nothing() {
    let site = Site::with_rows(3);
    site.close_gate();
    let sync = rows(&site).build().expect("built");
    let mut events = sync.events();
    let run = spawn_run(&sync);
    site.hangs().await;
    run.abort();
    site.open_gate();
    until(&mut events, |kind| {
        matches!(kind, SyncEventKind::BackgroundCompleted(_))
    })
    .await;
    site.assert_in_step();
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_before_the_next_step() {
    let site = Site::with_rows(12);
    site.close_gate();
    let sync = rows(&site).build().expect("built");
    let mut events = sync.events();
    let run = spawn_run(&sync);
    site.hangs().await;
    sync.pause();
    sync.pause();
    assert!(sync.is_paused());
    site.open_gate();
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    assert_eq!((site.calls(Step::Fetch), site.applied().len()), (1, 0));
    sync.resume();
    assert!(run.await.expect("joined").is_success());
    let kinds: Vec<_> = told(&mut events).into_iter().map(|e| e.kind).collect();
    let count = |kind| kinds.iter().filter(|k| **k == kind).count();
    assert_eq!(
        (count(SyncEventKind::Paused), count(SyncEventKind::Resumed)),
        (1, 1)
    );
    // What is paused can be cancelled.
    sync.pause();
    let run = spawn_run(&sync);
    tokio::time::sleep(Duration::from_secs(1)).await;
    sync.cancel().await.expect("cancelled");
    assert!(!run.await.expect("joined").is_success());
}

#[tokio::test(start_paused = true)]
async fn run_if_needed_leaves_alone_what_is_younger_than_five_minutes() {
    let site = Site::with_rows(1);
    let checkpoints = MemoryCheckpoints::new();
    let clock = TestClock::new();
    let build = || {
        rows(&site)
            .checkpoints(checkpoints.clone())
            .clock(clock.clone())
            .build()
            .expect("built")
    };
    let fetches_of = async |sync: &SyncOrchestrator| {
        let before = site.calls(Step::Fetch);
        assert!(sync.run_if_needed().await.expect("run").is_success());
        site.calls(Step::Fetch) - before
    };
    let sync = build();
    assert_eq!(fetches_of(&sync).await, 2);
    tokio::time::sleep(Duration::from_secs(299)).await;
    assert_eq!(fetches_of(&sync).await, 0);
    // Neither does a restart make it due.
    assert_eq!(fetches_of(&build()).await, 0);
    // A call that wants it now gets it.
    assert!(sync.run().await.expect("run").is_success());
    assert_eq!(fetches_of(&sync).await, 0);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(fetches_of(&sync).await, 1);
    // A clock that was set back does not stop it for ever.
    clock.set_back(Duration::from_secs(86_400));
    assert_eq!(fetches_of(&sync).await, 1);
    let report = sync.run_if_needed().await.expect("run");
    let end = report.feature("rows").and_then(|f| f.background.clone());
    assert_eq!(end, Some(End::NotDue));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_wants_it_now_is_not_answered_by_one_that_was_not_due() {
    let site = Site::with_rows(1);
    let sync = rows(&site).build().expect("built");
    assert!(sync.run().await.expect("run").is_success());
    let before = site.calls(Step::Fetch);
    let (lazy, now) = tokio::join!(sync.run_if_needed(), sync.run());
    assert!(lazy.expect("run").is_success());
    let now = now.expect("run");
    let end = now.feature("rows").and_then(|f| f.background.clone());
    assert!(matches!(end, Some(End::Completed(_))), "{end:?}");
    assert_eq!(site.calls(Step::Fetch), before + 1);
}

#[tokio::test(start_paused = true)]
async fn resync_starts_from_the_beginning_and_keeps_what_waits_to_be_pushed() {
    let site = Site::with_rows(12);
    let sync = rows(&site).build().expect("built");
    assert!(sync.run().await.expect("run").is_success());
    site.app_writes("r003", "ours");
    let report = sync.resync("rows").await.expect("run");
    assert!(report.is_success());
    assert_eq!(site.applied().iter().filter(|id| *id == "r000").count(), 2);
    assert_eq!(site.server_text("r003").as_deref(), Some("ours"));
    site.assert_in_step();
}

#[tokio::test(start_paused = true)]
async fn wait_initial_returns_the_failure() {
    let site = Site::with_rows(12);
    site.trouble(Step::Fetch, 2, Trouble::Permanent);
    let sync = rows(&site).build().expect("built");
    let waiting = tokio::spawn({
        let sync = sync.clone();
        async move { sync.wait_initial().await }
    });
    assert!(!sync.run_initial().await.expect("run").is_success());
    let failure = waiting.await.expect("joined").expect_err("it failed");
    assert_eq!(
        (failure.kind, failure.step),
        (FailureKind::Permanent, Some(Step::Fetch))
    );
    assert_eq!(failure.feature.as_str(), "rows");

    site.trouble(Step::Fetch, 1, Trouble::Hang);
    let run = spawn_run(&sync);
    site.hangs().await;
    sync.cancel().await.expect("cancelled");
    assert!(!run.await.expect("joined").is_success());
    let failure = sync.wait_initial().await.expect_err("cancelled");
    assert_eq!(failure.kind, FailureKind::Cancelled);

    let run = spawn_run(&sync);
    assert!(run.await.expect("joined").is_success());
    sync.wait_initial().await.expect("done");
    assert_eq!(
        sync.status("rows").expect("known").initial,
        Some(InitialState::Completed)
    );
}

#[tokio::test(start_paused = true)]
async fn the_initial_sync_is_made_once_for_each_user() {
    let checkpoints = MemoryCheckpoints::new();
    for (user, want) in [("ann", 3), ("ann", 0), ("bob", 3)] {
        let site = Site::with_rows(12);
        let sync = rows(&site)
            .user(user)
            .checkpoints(checkpoints.clone())
            .build()
            .expect("built");
        assert!(sync.run_initial().await.expect("run").is_success());
        assert_eq!(site.calls(Step::Fetch), want, "{user}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_state_is_watched() {
    let site = Site::with_rows(12);
    let sync = rows(&site).build().expect("built");
    let mut states = sync.watch_status("rows").expect("known");
    let mut seen = Vec::new();
    let watching = async {
        while let Some(status) = states.next().await {
            seen.push(status.initial.clone().expect("it has one"));
            if matches!(status.background, Some(BackgroundState::Completed { .. })) {
                return;
            }
        }
    };
    let (report, ()) = tokio::join!(sync.run(), watching);
    assert!(report.expect("run").is_success());
    seen.dedup();
    assert_eq!(seen.first(), Some(&InitialState::NotStarted));
    assert_eq!(seen.last(), Some(&InitialState::Completed));
    assert_eq!(
        sync.watch_status("nobody").expect_err("unknown").kind(),
        ErrorKind::NotFound
    );
    drop(sync);
    while states.next().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_everything_in_order() {
    let site = Site::with_rows(12);
    site.trouble(Step::Fetch, 2, Trouble::Hang);
    let sync = rows(&site).build().expect("built");
    let mut events = sync.events();
    let run = spawn_run(&sync);
    let waiting = tokio::spawn({
        let sync = sync.clone();
        async move { sync.wait_initial().await }
    });
    site.hangs().await;
    sync.shutdown().await.expect("shut down");
    assert!(!run.await.expect("joined").is_success());
    assert_eq!(
        waiting.await.expect("joined").expect_err("gone").kind,
        FailureKind::Cancelled
    );
    while events.next().await.is_some() {}
    for closed in [
        sync.run().await.map(drop),
        sync.cancel().await,
        sync.shutdown().await,
    ] {
        assert_eq!(closed.expect_err("closed").kind(), ErrorKind::Closed);
    }
}
