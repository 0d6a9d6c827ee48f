//! Who runs when: dependencies, priorities, how many side by side, and what a failure holds.

use std::sync::{Arc, Mutex};

use syncvault::ErrorKind;
use syncvault::sync::{
    BackgroundState, End, FailureKind, Feature, InitialState, MemoryCheckpoints, Step,
    SyncEventKind, SyncOrchestrator, SyncOrchestratorBuilder,
};

use super::site::{Site, Trouble, builder, told, until};

#[tokio::test(start_paused = true)]
async fn an_unknown_dependency_is_refused_at_build() {
    let feature = Feature::new("messages", Site::default()).depends_on(["contacts"]);
    let error = builder().background(feature).build().expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    assert!(text.contains("messages depends on contacts"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused_at_build() {
    let feature = || Feature::new("rows", Site::default());
    let refused: [SyncOrchestratorBuilder; 7] = [
        builder(),
        builder().background(feature()).batch_size(0),
        builder().background(feature()).batch_size(501),
        builder().background(feature()).max_concurrent(0),
        builder()
            .background(feature())
            .every(std::time::Duration::ZERO),
        SyncOrchestrator::builder()
            .user("ann")
            .background(feature()),
        SyncOrchestrator::builder()
            .checkpoints(MemoryCheckpoints::new())
            .background(feature()),
    ];
    for builder in refused {
        let error = builder.build().expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

/// Which sites fetched, in what order, is told by one list that they share.
async fn order_of(priorities: &[(&str, i32, &[&str])]) -> Vec<String> {
    let mut builder = builder().max_concurrent(1);
    for (name, priority, depends_on) in priorities {
        let feature = Feature::new(*name, Site::with_rows(1)).priority(*priority);
        builder = builder.background(feature.depends_on(depends_on.iter().copied()));
    }
    let sync = builder.build().expect("built");
    let mut events = sync.events();
    assert!(sync.run().await.expect("run").is_success());
    let started = told(&mut events).into_iter();
    let started = started.filter(|e| e.kind == SyncEventKind::BackgroundStarted);
    started
        .filter_map(|e| e.feature)
        .map(|f| f.to_string())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_higher_priority_goes_first_and_a_dependency_before_all() {
    let order = order_of(&[("a", 0, &[]), ("b", 5, &[]), ("c", 5, &[]), ("d", -1, &[])]).await;
    assert_eq!(order, ["b", "c", "a", "d"]);
    let order = order_of(&[("a", 90, &["z"]), ("b", 5, &[]), ("z", 0, &[])]).await;
    assert_eq!(order, ["b", "z", "a"]);
}

#[tokio::test(start_paused = true)]
async fn no_more_run_side_by_side_than_allowed() {
    for (allowed, want) in [(None, 2), (Some(3), 3), (Some(9), 4)] {
        let sites: Vec<Site> = (0..4).map(|_| Site::with_rows(1)).collect();
        let mut builder = builder();
        for (n, site) in sites.iter().enumerate() {
            site.close_gate();
            builder = builder.background(Feature::new(n.to_string(), site.clone()));
        }
        if let Some(allowed) = allowed {
            builder = builder.max_concurrent(allowed);
        }
        let sync = builder.build().expect("built");
        let run = tokio::spawn({
            let sync = sync.clone();
            async move { sync.run().await }
        });
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let fetching = sites
            .iter()
            .filter(|site| site.calls(Step::Fetch) > 0)
            .count();
        assert_eq!(fetching, want);
        sites.iter().for_each(Site::open_gate);
        assert!(run.await.expect("joined").expect("run").is_success());
    }
}

fn family(sites: [&Site; 3]) -> SyncOrchestrator {
    let [contacts, messages, alone] = sites;
    builder()
        .feature(Feature::new("contacts", contacts.clone()))
        .feature(Feature::new("messages", messages.clone()).depends_on(["contacts"]))
        .feature(Feature::new("drafts", Site::with_rows(1)).depends_on(["messages"]))
        .feature(Feature::new("alone", alone.clone()))
        .build()
        .expect("built")
}

#[tokio::test(start_paused = true)]
async fn a_failed_feature_holds_its_dependents_visibly_and_nobody_else() {
    let [contacts, messages, alone] = [12, 3, 3].map(Site::with_rows);
    contacts.trouble(Step::Fetch, 2, Trouble::Permanent);
    let sync = family([&contacts, &messages, &alone]);
    let mut events = sync.events();
    let report = sync.run().await.expect("run");

    let initial = |name: &str| {
        report
            .feature(name)
            .and_then(|f| f.initial.clone())
            .expect("an end")
    };
    assert!(matches!(initial("contacts"), End::Failed(f) if f.kind == FailureKind::Permanent));
    assert_eq!(
        initial("messages"),
        End::Blocked {
            by: "contacts".into()
        }
    );
    assert_eq!(
        initial("drafts"),
        End::Blocked {
            by: "messages".into()
        }
    );
    assert!(initial("alone").is_success());
    let by = InitialState::Blocked {
        by: "contacts".into(),
    };
    assert_eq!(sync.status("messages").expect("known").initial, Some(by));
    let own = BackgroundState::Blocked {
        by: "contacts".into(),
    };
    assert_eq!(
        sync.status("contacts").expect("known").background,
        Some(own)
    );
    let blocked = told(&mut events)
        .into_iter()
        .filter(|e| matches!(e.kind, SyncEventKind::Blocked { .. }));
    assert_eq!(blocked.count(), 5);
    assert_eq!(messages.calls(Step::Fetch), 0);
    alone.assert_in_step();

    // Time releases nothing; the next run does, where it stopped.
    tokio::time::sleep(std::time::Duration::from_secs(86_400)).await;
    assert_eq!(messages.calls(Step::Fetch), 0);
    assert!(sync.run().await.expect("run").is_success());
    contacts.assert_in_step();
    messages.assert_in_step();
    assert_eq!(contacts.applied().len(), 12);
}

#[tokio::test(start_paused = true)]
async fn a_background_sync_waits_for_its_own_initial_sync_only() {
    let [slow, quick] = [Site::with_rows(3), Site::with_rows(3)];
    slow.close_gate();
    let sync = builder()
        .feature(Feature::new("slow", slow.clone()))
        .feature(Feature::new("quick", quick.clone()))
        .build()
        .expect("built");
    let mut events = sync.events();
    let run = tokio::spawn({
        let sync = sync.clone();
        async move { sync.run().await }
    });
    let done = until(&mut events, |kind| {
        matches!(kind, SyncEventKind::BackgroundCompleted(_))
    })
    .await;
    assert_eq!(done.feature, Some("quick".into()));
    let status = sync.status("slow").expect("known");
    assert_eq!(status.initial, Some(InitialState::Running { page: 1 }));
    assert_eq!(status.background, Some(BackgroundState::NotStarted));
    slow.open_gate();
    assert!(run.await.expect("joined").expect("run").is_success());
}

#[tokio::test(start_paused = true)]
async fn a_feature_is_synced_with_what_it_depends_on() {
    let [contacts, messages, alone] = [1, 1, 1].map(Site::with_rows);
    let sync = family([&contacts, &messages, &alone]);
    let report = sync.sync_feature("messages").await.expect("run");
    let names: Vec<_> = report
        .features
        .iter()
        .map(|f| f.feature.to_string())
        .collect();
    assert_eq!(names, ["contacts", "messages"]);
    assert!(report.is_success());
    assert_eq!(alone.calls(Step::Fetch), 0);
    let error = sync.sync_feature("nobody").await.expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// Goal: a panic of a handler is that feature's failure. Method: one handler panics, its neighbour does not notice.
#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_fails_alone() {
    let [bad, good] = [Site::with_rows(1), Site::with_rows(1)];
    bad.trouble(Step::Apply, 1, Trouble::Panic);
    let sync = builder()
        .background(Feature::new("bad", bad.clone()))
        .background(Feature::new("good", good.clone()))
        .build()
        .expect("built");
    let report = sync.run().await.expect("run");
    let failure = report.failure().expect("a failure");
    assert_eq!(
        (failure.kind, failure.step),
        (FailureKind::Panicked, Some(Step::Apply))
    );
    assert!(
        failure.to_string().contains("as the test says"),
        "{failure}"
    );
    good.assert_in_step();
    assert!(sync.run().await.expect("run").is_success());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_all_initial_syncs_is_told_once() {
    let checkpoints = MemoryCheckpoints::new();
    let kinds = [
        SyncEventKind::AllInitialCompleted { features: 2 },
        SyncEventKind::AllInitialAlreadyCompleted,
    ];
    for want in kinds {
        let sync = builder()
            .checkpoints(checkpoints.clone())
            .initial(Feature::new("a", Site::with_rows(1)))
            .initial(Feature::new("b", Arc::new(Site::with_rows(1))))
            .build()
            .expect("built");
        let mut events = sync.events();
        let seen = Mutex::new(Vec::new());
        for _ in 0..2 {
            assert!(sync.run().await.expect("run").is_success());
            seen.lock().expect("whole").extend(told(&mut events));
        }
        let seen = seen.into_inner().expect("whole");
        let all: Vec<_> = seen
            .iter()
            .filter(|e| e.feature.is_none())
            .map(|e| e.kind.clone())
            .collect();
        assert_eq!(all, [want]);
        assert!(seen.is_sorted_by_key(|event| event.sequence));
    }
}
