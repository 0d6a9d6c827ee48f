//! Pages: retries of each step, crashes at every step, ends that are said, loops that are found, pushes that are told.

use std::time::Duration;

use syncvault::Backoff;
use syncvault::sync::{
    Applied, Checkpoint, Cursor, End, FailureKind, Feature, InitialSync, MemoryCheckpoints, Page,
    PushResult, ServerItem, Step, StepError, SyncEventKind, SyncOrchestrator, Tally,
};
use tokio::time::Instant;

use super::site::{Site, Trouble, builder, rows, told};

fn end(report: &syncvault::sync::SyncReport) -> End {
    let rows = report.feature("rows").expect("rows");
    rows.background
        .clone()
        .or(rows.initial.clone())
        .expect("an end")
}

fn tally(report: &syncvault::sync::SyncReport) -> Tally {
    match end(report) {
        End::Completed(tally) => tally,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn everything_arrives_and_then_only_changes() {
    let site = Site::with_rows(12);
    let sync = rows(&site).build().expect("built");
    let report = sync.run().await.expect("run");
    let initial = report.feature("rows").and_then(|f| f.initial.clone());
    assert!(
        matches!(initial, Some(End::Completed(tally)) if (tally.pages, tally.items) == (3, 12))
    );
    assert_eq!((tally(&report).pages, tally(&report).items), (1, 0));
    site.assert_in_step();

    site.server_writes("r003", Some("second"));
    site.server_writes("r004", None);
    site.server_writes("new", Some("first"));
    site.app_writes("r005", "ours");
    site.app_deletes("r006");
    let report = sync.run().await.expect("run");
    assert_eq!(
        report.feature("rows").and_then(|f| f.initial.clone()),
        Some(End::AlreadyCompleted)
    );
    assert_eq!((tally(&report).pushed, tally(&report).items), (2, 5));
    site.assert_in_step();
    assert_eq!((site.text("r004"), site.text("r006")), (None, None));
    assert_eq!(site.server_text("r005").as_deref(), Some("ours"));
}

/// Goal: each step is tried again on its own, and the work of the others is not done twice. Method: every step fails three
/// times, before or after its effect, which is what the retries allow.
#[tokio::test(start_paused = true)]
async fn each_step_has_its_own_retries() {
    for trouble in [Trouble::Before, Trouble::After] {
        for step in [Step::LocallyModified, Step::Push, Step::Fetch, Step::Apply] {
            let site = Site::with_rows(12);
            let sync = rows(&site).build().expect("built");
            assert!(sync.run().await.expect("run").is_success());
            site.server_writes("r001", Some("second"));
            site.app_writes("r002", "ours");
            site.trouble_from(step, 3, trouble);
            let mut events = sync.events();
            assert!(
                sync.run().await.expect("run").is_success(),
                "{step} {trouble:?}"
            );
            site.assert_in_step();
            let again = told(&mut events).into_iter().filter(
                |e| matches!(e.kind, SyncEventKind::Retrying { step: at, .. } if at == step),
            );
            assert_eq!(again.count(), 3, "{step}");
            assert!(site.modified().is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_once_more_ends_the_run_with_its_error() {
    let site = Site::with_rows(12);
    site.trouble_from(Step::Fetch, 4, Trouble::Before);
    let sync = rows(&site)
        .backoff(Backoff::fixed(Duration::from_secs(2)))
        .build()
        .expect("built");
    let start = Instant::now();
    let report = sync.run().await.expect("run");
    let failure = report.failure().expect("a failure");
    assert_eq!(
        (failure.kind, failure.attempts),
        (FailureKind::RetriesUsedUp, 4)
    );
    assert_eq!(failure.step, Some(Step::Fetch));
    let source = std::error::Error::source(failure).expect("the handler's error");
    assert_eq!(source.to_string(), "as the test says");
    assert_eq!(start.elapsed(), Duration::from_secs(6));
}

#[tokio::test(start_paused = true)]
async fn what_is_permanent_is_not_tried_again() {
    let site = Site::with_rows(1);
    site.trouble(Step::Fetch, 1, Trouble::Permanent);
    let sync = rows(&site).build().expect("built");
    let report = sync.run().await.expect("run");
    assert_eq!(
        report.failure().map(|f| f.kind),
        Some(FailureKind::Permanent)
    );
    assert_eq!(site.calls(Step::Fetch), 1);
}

/// Goal: after a failure in any call of any step, the next run goes on exactly there. Method: fail at the first, second, ..
/// call, before and after its effect, until a run gets through; no page is skipped, and none is applied twice but the one
/// whose checkpoint was not saved.
#[tokio::test(start_paused = true)]
async fn a_failure_anywhere_resumes_exactly() {
    for step in [Step::Fetch, Step::Apply] {
        for trouble in [Trouble::Before, Trouble::After] {
            for nth in 1..=5 {
                let site = Site::with_rows(23);
                let checkpoints = MemoryCheckpoints::new();
                site.trouble(step, nth, trouble);
                let build = || {
                    rows(&site)
                        .checkpoints(checkpoints.clone())
                        .max_retries(0)
                        .build()
                };
                let report = build().expect("built").run().await.expect("run");
                assert!(!report.is_success(), "{step} {trouble:?} {nth}");
                let report = build().expect("built").run().await.expect("run");
                assert!(report.is_success(), "{step} {trouble:?} {nth}: {report:?}");
                site.assert_in_step();
                let repeats = usize::from((step, trouble) == (Step::Apply, Trouble::After));
                let most = 23 + 5 * repeats;
                let applied = site.applied().len();
                assert!(
                    (23..=most).contains(&applied),
                    "{step} {trouble:?} {nth}: {applied}"
                );
            }
        }
    }
}

/// Answers with pages of one item, to cursors that the test made up.
struct Scripted(Script);

type Script = fn(Option<&str>) -> Page<()>;

impl InitialSync for Scripted {
    type Item = ();

    async fn fetch_page(&self, cursor: Option<&Cursor>, _: usize) -> Result<Page<()>, StepError> {
        Ok((self.0)(cursor.map(Cursor::as_str)))
    }

    async fn save(&self, _: &Page<()>, _: &Checkpoint) -> Result<Applied, StepError> {
        Ok(Applied::cleanly())
    }
}

fn scripted(page: Script) -> SyncOrchestrator {
    let feature = Feature::new("rows", Scripted(page));
    builder().initial(feature).build().expect("built")
}

fn one() -> Vec<ServerItem<()>> {
    vec![ServerItem::new("a", ())]
}

#[tokio::test(start_paused = true)]
async fn a_page_that_does_not_advance_is_an_error() {
    let loops: [Script; 3] = [
        |_| Page::more(one(), "same"),
        |at| Page::more(one(), if at == Some("a") { "b" } else { "a" }),
        |at| {
            let n: u32 = at.map_or(0, |at| at.parse().expect("a number"));
            Page::more(one(), ((n + 1) % 7).to_string())
        },
    ];
    for page in loops {
        let report = scripted(page).run().await.expect("run");
        let failure = report.failure().expect("a failure");
        assert_eq!(
            (failure.kind, failure.step),
            (FailureKind::NotAdvancing, Some(Step::Fetch))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_page_in_the_middle_is_no_end() {
    let sync = scripted(|at| match at {
        None => Page::more(Vec::new(), "1"),
        Some("1") => Page::more(Vec::new(), "2"),
        Some(_) => Page::last(one()),
    });
    let report = sync.run().await.expect("run");
    assert_eq!((tally(&report).pages, tally(&report).items), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn the_background_starts_where_the_initial_sync_says_and_nowhere_else() {
    // Without a word of the server, a cursor of the initial sync means nothing to the background one.
    for (resume, want) in [(Some("77"), Some("77")), (None, None)] {
        struct Snapshot(Option<&'static str>);
        impl InitialSync for Snapshot {
            type Item = String;

            async fn fetch_page(
                &self,
                cursor: Option<&Cursor>,
                _: usize,
            ) -> Result<Page<String>, StepError> {
                let last = Page::last(Vec::new());
                Ok(match (cursor, self.0) {
                    (None, _) => Page::more(Vec::new(), "a page of the snapshot"),
                    (_, Some(resume)) => last.resume_at(resume),
                    (_, None) => last,
                })
            }

            async fn save(&self, _: &Page<String>, _: &Checkpoint) -> Result<Applied, StepError> {
                Ok(Applied::cleanly())
            }
        }
        let site = Site::default();
        let sync = builder()
            .initial(Feature::new("rows", Snapshot(resume)))
            .background(Feature::new("rows", site.clone()))
            .build()
            .expect("built");
        assert!(sync.run().await.expect("run").is_success());
        assert_eq!(
            site.log(),
            [
                format!("fetch {}", want.unwrap_or("0")),
                "apply ".to_owned()
            ]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn more_items_than_allowed_are_refused() {
    let site = Site::with_rows(1);
    (0..40).for_each(|n| site.app_writes(&format!("n{n:02}"), "new"));
    let feature = Feature::new("rows", Greedy(site.clone()));
    let sync = builder()
        .max_batch_size(39)
        .initial(feature)
        .build()
        .expect("built");
    let report = sync.run().await.expect("run");
    assert_eq!(
        report.failure().map(|f| f.kind),
        Some(FailureKind::TooLarge)
    );
}

/// Gives forty items, whatever it is asked for.
struct Greedy(Site);

impl InitialSync for Greedy {
    type Item = String;

    async fn fetch_page(&self, _: Option<&Cursor>, _: usize) -> Result<Page<String>, StepError> {
        let items = (0..40).map(|n| ServerItem::new(n.to_string(), String::new()));
        Ok(Page::last(items.collect()))
    }

    async fn save(
        &self,
        page: &Page<String>,
        checkpoint: &Checkpoint,
    ) -> Result<Applied, StepError> {
        self.0.save(page, checkpoint).await
    }
}

#[tokio::test(start_paused = true)]
async fn each_pushed_item_has_its_own_result() {
    let site = Site::with_rows(0);
    let sync = rows(&site).build().expect("built");
    assert!(sync.run().await.expect("run").is_success());
    (0..12).for_each(|n| site.app_writes(&format!("n{n:02}"), "new"));
    site.refuse(PushResult::failed("n00", "too long"));
    site.refuse(PushResult::conflict("n01", "newer"));
    let mut events = sync.events();
    let report = sync.run().await.expect("run");
    let tally = tally(&report);
    assert_eq!(
        (tally.pushed, tally.push_failures, tally.conflicts),
        (10, 1, 1)
    );
    let kinds: Vec<_> = told(&mut events).into_iter().map(|e| e.kind).collect();
    let failed = SyncEventKind::PushFailed {
        item: "n00".into(),
        reason: "too long".into(),
    };
    let conflict = SyncEventKind::PushConflict {
        item: "n01".into(),
        reason: "newer".into(),
    };
    assert!(
        kinds.contains(&failed) && kinds.contains(&conflict),
        "{kinds:?}"
    );
    // Those that were refused stay, and stood in nobody's way.
    assert_eq!(site.modified(), ["n00", "n01"]);
}

#[tokio::test(start_paused = true)]
async fn a_cursor_that_the_server_forgot_starts_over() {
    let site = Site::with_rows(12);
    let sync = rows(&site).build().expect("built");
    assert!(sync.run().await.expect("run").is_success());
    site.trouble(Step::Fetch, 1, Trouble::StartOver);
    let report = sync.run().await.expect("run");
    assert_eq!(
        report.failure().map(|f| f.kind),
        Some(FailureKind::StartOver)
    );
    site.app_writes("r001", "ours");
    let report = sync.run().await.expect("run");
    assert!(report.is_success());
    let initial = report.feature("rows").and_then(|f| f.initial.clone());
    assert!(matches!(initial, Some(End::Completed(tally)) if tally.items == 12));
    // A full resync does not overwrite what waits to be pushed.
    assert_eq!(site.server_text("r001").as_deref(), Some("ours"));
    site.assert_in_step();
}
