//! One test for each weakness of fero_sync that is known to us, named after it. What the others of this folder prove in depth
//! is shown here once, as a user of that package would meet it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use syncvault::sync::{
    Applied, BackgroundSync, Checkpoint, Conflict, Cursor, End, FailureKind, Feature, InitialState,
    ItemId, LocalItem, MemoryCheckpoints, Page, PushResult, ServerItem, Step, StepError,
    SyncEventKind, Winner,
};
use tokio::time::Instant;

use super::site::{Site, Trouble, builder, rows, told, until};

#[tokio::test(start_paused = true)]
async fn fero_never_calls_push() {
    let site = Site::with_rows(1);
    let sync = rows(&site).build().expect("built");
    assert!(sync.run().await.expect("run").is_success());
    site.app_writes("r000", "ours");
    site.server_writes("other", Some("theirs"));
    let before = site.log().len();
    assert!(sync.run().await.expect("run").is_success());
    let log = site.log().split_off(before);
    assert_eq!(log[0], "push r000");
    assert!(log[1].starts_with("fetch"), "push before pull: {log:?}");
    assert_eq!(site.server_text("r000").as_deref(), Some("ours"));
}

/// Says what it was told to say, and counts.
#[derive(Default)]
struct Odd {
    /// Every batch is the same item, whatever was pushed.
    never_clears: bool,
    /// Every page has items and leads nowhere new.
    never_ends: bool,
    pushes: AtomicU32,
    fetches: AtomicU32,
}

impl BackgroundSync for Odd {
    type Item = ();

    async fn locally_modified(
        &self,
        _: Option<&ItemId>,
        _: usize,
    ) -> Result<Vec<LocalItem<()>>, StepError> {
        let items = self.never_clears.then(|| LocalItem::new("a", ()));
        Ok(items.into_iter().collect())
    }

    async fn push(&self, items: &[LocalItem<()>]) -> Result<Vec<PushResult>, StepError> {
        self.pushes.fetch_add(1, Ordering::Relaxed);
        Ok(items
            .iter()
            .map(|item| PushResult::success(&item.id))
            .collect())
    }

    async fn fetch_changes(&self, _: Option<&Cursor>, _: usize) -> Result<Page<()>, StepError> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let items = vec![ServerItem::new("a", ())];
        Ok(match self.never_ends {
            true => Page::more(items, "here"),
            false => Page::last(items),
        })
    }

    async fn apply(&self, _: &Page<()>, _: &Checkpoint) -> Result<Applied, StepError> {
        Ok(Applied::cleanly())
    }
}

async fn run_odd(odd: Odd) -> (Arc<Odd>, Option<FailureKind>) {
    let odd = Arc::new(odd);
    let sync = builder()
        .background(Feature::new("odd", odd.clone()))
        .build()
        .expect("built");
    let report = sync.run().await.expect("run");
    let kind = report.failure().map(|failure| failure.kind);
    (odd, kind)
}

#[tokio::test(start_paused = true)]
async fn fero_refetches_a_page_without_checkpoint_for_ever() {
    let (odd, kind) = run_odd(Odd::default()).await;
    assert_eq!((odd.fetches.load(Ordering::Relaxed), kind), (1, None));
    let never_ends = Odd {
        never_ends: true,
        ..Odd::default()
    };
    let (odd, kind) = run_odd(never_ends).await;
    assert_eq!(
        (odd.fetches.load(Ordering::Relaxed), kind),
        (2, Some(FailureKind::NotAdvancing))
    );
}

#[tokio::test(start_paused = true)]
async fn fero_pushes_for_ever_when_the_flag_is_not_cleared() {
    let never_clears = Odd {
        never_clears: true,
        ..Odd::default()
    };
    let (odd, kind) = run_odd(never_clears).await;
    assert_eq!(
        (odd.pushes.load(Ordering::Relaxed), kind),
        (1, Some(FailureKind::NotAdvancing))
    );
}

#[tokio::test(start_paused = true)]
async fn fero_does_not_retry_a_push() {
    let site = Site::with_rows(0);
    let sync = rows(&site).build().expect("built");
    assert!(sync.run().await.expect("run").is_success());
    site.app_writes("a", "ours");
    site.trouble_from(Step::Push, 2, Trouble::Before);
    let start = Instant::now();
    assert!(sync.run().await.expect("run").is_success());
    assert_eq!(site.server_text("a").as_deref(), Some("ours"));
    assert!(
        start.elapsed() >= Duration::from_millis(150),
        "with a backoff"
    );
}

#[tokio::test(start_paused = true)]
async fn fero_does_not_await_its_checkpoint() {
    // The run after a crash behind each page starts at that page: the checkpoint was saved before the next fetch.
    let site = Site::with_rows(23);
    let checkpoints = MemoryCheckpoints::new();
    for page in 1..5 {
        site.trouble(Step::Fetch, 2, Trouble::Permanent);
        let sync = rows(&site)
            .checkpoints(checkpoints.clone())
            .build()
            .expect("built");
        assert!(!sync.run().await.expect("run").is_success());
        assert_eq!(site.applied().len(), page * 5);
    }
}

#[tokio::test(start_paused = true)]
async fn fero_cancels_only_the_initial_sync_and_no_wait() {
    let site = Site::with_rows(1);
    let sync = rows(&site).build().expect("built");
    assert!(sync.run().await.expect("run").is_success());
    site.trouble_from(Step::Fetch, 9, Trouble::Before);
    let mut events = sync.events();
    let run = tokio::spawn({
        let sync = sync.clone();
        async move { sync.run().await.expect("run") }
    });
    until(&mut events, |kind| {
        matches!(kind, SyncEventKind::Retrying { attempt: 3, .. })
    })
    .await;
    let start = Instant::now();
    sync.cancel().await.expect("cancelled");
    let report = run.await.expect("joined");
    assert_eq!(start.elapsed(), Duration::ZERO);
    let end = report.feature("rows").and_then(|f| f.background.clone());
    assert_eq!(end, Some(End::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn fero_waits_silently_in_a_cycle() {
    let feature = |name: &str, on: &'static [&'static str]| {
        Feature::new(name, Site::default()).depends_on(on.iter().copied())
    };
    let error = builder()
        .background(feature("contacts", &["messages"]))
        .background(feature("messages", &["threads"]))
        .background(feature("threads", &["contacts"]))
        .build()
        .expect_err("refused");
    let text = error.to_string();
    assert!(
        text.contains("contacts -> messages -> threads -> contacts"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn fero_releases_or_forgets_the_dependents_of_a_failed_feature() {
    let [contacts, messages] = [Site::with_rows(1), Site::with_rows(1)];
    contacts.trouble(Step::Fetch, 1, Trouble::Permanent);
    let sync = builder()
        .initial(Feature::new("contacts", contacts.clone()))
        .initial(Feature::new("messages", messages.clone()).depends_on(["contacts"]))
        .build()
        .expect("built");
    let mut events = sync.events();
    let report = sync.run().await.expect("the call returns");
    let end = report.feature("messages").and_then(|f| f.initial.clone());
    assert_eq!(
        end,
        Some(End::Blocked {
            by: "contacts".into()
        })
    );
    let by = "contacts".into();
    let status = sync.status("messages").expect("known");
    assert_eq!(status.initial, Some(InitialState::Blocked { by }));
    until(&mut events, |kind| {
        matches!(kind, SyncEventKind::Blocked { .. })
    })
    .await;
    assert_eq!(messages.calls(Step::Fetch), 0);
}

#[tokio::test(start_paused = true)]
async fn fero_says_completed_while_other_features_still_run() {
    let [quick, slow] = [Site::with_rows(1), Site::with_rows(1)];
    slow.close_gate();
    let sync = builder()
        .feature(Feature::new("quick", quick.clone()))
        .initial(Feature::new("slow", slow.clone()))
        .build()
        .expect("built");
    let run = tokio::spawn({
        let sync = sync.clone();
        async move { sync.run().await.expect("run") }
    });
    let waiting = tokio::spawn({
        let sync = sync.clone();
        async move { sync.wait_initial().await }
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    // Its own initial sync is done, so its background sync ran; the initial sync as a whole is not.
    let status = sync.status("quick").expect("known");
    assert_eq!(status.initial, Some(InitialState::Completed));
    assert!(!waiting.is_finished());
    slow.open_gate();
    assert!(run.await.expect("joined").is_success());
    waiting.await.expect("joined").expect("done");
}

#[tokio::test(start_paused = true)]
async fn fero_can_run_one_feature_twice_at_once() {
    let site = Site::with_rows(3);
    site.close_gate();
    let sync = rows(&site).build().expect("built");
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let sync = sync.clone();
            tokio::spawn(async move { sync.sync_feature("rows").await.expect("run") })
        })
        .collect();
    site.hangs().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(site.calls(Step::Fetch), 1);
    site.open_gate();
    for call in calls {
        assert!(call.await.expect("joined").is_success());
    }
}

#[tokio::test(start_paused = true)]
async fn fero_does_not_enforce_its_largest_batch() {
    let site = Site::with_rows(0);
    let sync = rows(&site)
        .batch_size(4)
        .max_batch_size(4)
        .build()
        .expect("built");
    assert!(sync.run().await.expect("run").is_success());
    let never_clears = Arc::new(Oversized);
    let sync = builder()
        .max_batch_size(100)
        .background(Feature::new("odd", never_clears))
        .build()
        .expect("built");
    let report = sync.run().await.expect("run");
    assert_eq!(
        report.failure().map(|f| f.kind),
        Some(FailureKind::TooLarge)
    );
}

/// Gives more than it is asked for.
struct Oversized;

impl BackgroundSync for Oversized {
    type Item = ();

    async fn locally_modified(
        &self,
        _: Option<&ItemId>,
        _: usize,
    ) -> Result<Vec<LocalItem<()>>, StepError> {
        Ok((0..101)
            .map(|n| LocalItem::new(n.to_string(), ()))
            .collect())
    }

    async fn push(&self, _: &[LocalItem<()>]) -> Result<Vec<PushResult>, StepError> {
        unreachable!("it was refused")
    }

    async fn fetch_changes(&self, _: Option<&Cursor>, _: usize) -> Result<Page<()>, StepError> {
        unreachable!("push before pull")
    }

    async fn apply(&self, _: &Page<()>, _: &Checkpoint) -> Result<Applied, StepError> {
        unreachable!("nothing was fetched")
    }
}

#[tokio::test(start_paused = true)]
async fn fero_loses_a_write_between_push_and_pull() {
    let site = Site::with_rows(2);
    let sync = rows(&site).build().expect("built");
    assert!(sync.run().await.expect("run").is_success());
    // While the push of one row is under way, the app writes another, which the pull brings in a newer version.
    site.app_writes("r000", "ours");
    site.server_writes("r001", Some("theirs"));
    site.app_writes_during_push("r001", "written meanwhile");
    let mut events = sync.events();
    assert!(sync.run().await.expect("run").is_success());
    let told: Vec<_> = told(&mut events).into_iter().map(|e| e.kind).collect();
    let is_told = told.iter().any(|kind| {
        matches!(kind, SyncEventKind::Conflict(c) if c.id.as_str() == "r001" && c.winner == Winner::Server)
    });
    assert!(is_told, "the side that lost is named: {told:?}");
    // The same row, written again while it is pushed, stays modified and goes next.
    site.app_writes("r000", "once");
    site.app_writes_during_push("r000", "twice");
    assert!(sync.run().await.expect("run").is_success());
    assert_eq!(site.text("r000").as_deref(), Some("twice"));
    assert!(sync.run().await.expect("run").is_success());
    assert_eq!(site.server_text("r000").as_deref(), Some("twice"));
    site.assert_in_step();
}

#[tokio::test(start_paused = true)]
async fn fero_cannot_see_concurrent_edits_of_one_version() {
    let site = Site::with_rows(1);
    let sync = rows(&site).build().expect("built");
    assert!(sync.run().await.expect("run").is_success());
    // Both change version 1.
    site.app_writes("r000", "ours");
    site.server_writes("r000", Some("theirs"));
    let mut events = sync.events();
    let report = sync.run().await.expect("run");
    assert!(report.is_success());
    let conflicts: Vec<Conflict> = told(&mut events)
        .into_iter()
        .filter_map(|e| match e.kind {
            SyncEventKind::Conflict(conflict) => Some(conflict),
            _ => None,
        })
        .collect();
    assert_eq!(conflicts.len(), 1);
    assert_eq!(
        (conflicts[0].local_version, conflicts[0].server_version),
        (1, 2)
    );
    site.assert_in_step();
}

#[tokio::test(start_paused = true)]
async fn fero_knows_no_deletes() {
    let site = Site::with_rows(3);
    let sync = rows(&site).build().expect("built");
    assert!(sync.run().await.expect("run").is_success());
    site.server_writes("r000", None);
    site.app_deletes("r001");
    assert!(sync.run().await.expect("run").is_success());
    assert_eq!((site.text("r000"), site.server_text("r001")), (None, None));
    site.assert_in_step();
}

#[tokio::test(start_paused = true)]
async fn fero_knows_no_users() {
    let checkpoints = MemoryCheckpoints::new();
    for user in ["ann", "bob"] {
        let site = Site::with_rows(12);
        let sync = rows(&site)
            .user(user)
            .checkpoints(checkpoints.clone())
            .build()
            .expect("built");
        assert!(sync.run().await.expect("run").is_success());
        site.assert_in_step();
    }
}

#[tokio::test(start_paused = true)]
async fn fero_loses_the_error_when_retries_are_used_up() {
    let site = Site::with_rows(1);
    site.trouble_from(Step::Fetch, 4, Trouble::Before);
    let sync = rows(&site).build().expect("built");
    let report = sync.run().await.expect("run");
    let failure = report.failure().expect("a failure");
    let text = failure.to_string();
    assert_eq!(
        text,
        "the initial sync of rows failed to fetch a page: as the test says"
    );
}

#[tokio::test(start_paused = true)]
async fn fero_ignores_the_priority_of_initial_syncs() {
    let sync = builder()
        .max_concurrent(1)
        .initial(Feature::new("low", Site::with_rows(1)).priority(1))
        .initial(Feature::new("high", Site::with_rows(1)).priority(9))
        .build()
        .expect("built");
    let mut events = sync.events();
    assert!(sync.run().await.expect("run").is_success());
    let first = told(&mut events)
        .into_iter()
        .next()
        .and_then(|event| event.feature);
    assert_eq!(first, Some("high".into()));
}
