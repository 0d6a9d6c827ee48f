//! The sixteen weaknesses of dynos_sync 0.1.6, each as a test that it does not happen here. The numbers are those of docs/parity.md.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use syncvault::sync::{ConflictStrategy, Logout, TableEventKind};
use syncvault::testing::Fate;

use super::town::{PATIENCE, Town, row, text};

const LONG: Duration = Duration::from_secs(1800);

/// A write made offline is never sent over one that was made online after it.
#[tokio::test(start_paused = true)]
async fn dynos_01_an_older_write_never_overwrites_a_newer_one_at_the_server() {
    let town = Town::new();
    let device = town.device().await;
    device.write("1", text("v0")).await;
    device.sync().await;
    town.cut(|_| true);
    device.write("1", text("v1, offline")).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    town.server.heal();
    device.write("1", text("v2, online")).await;
    tokio::time::sleep(LONG).await;
    device.sync().await;
    let bodies: Vec<Value> = town
        .server
        .pushes()
        .into_iter()
        .map(|push| push.body)
        .collect();
    let newest = bodies
        .iter()
        .rposition(|body| *body == text("v2, online"))
        .expect("it went out");
    assert!(
        bodies[newest..]
            .iter()
            .all(|body| *body != text("v1, offline")),
        "{bodies:?}"
    );
    assert_eq!(town.has("1"), Some(text("v2, online")));
    assert!(!device.is_unsynced("1").await);
}

#[tokio::test(start_paused = true)]
async fn dynos_02_operations_on_one_record_keep_their_order() {
    let town = Town::new();
    let device = town.device().await;
    device.write("1", text("a")).await;
    device.sync().await;
    town.server.route(|_| {
        Fate::Slow(
            Duration::from_secs(5),
            Duration::ZERO,
            Box::new(Fate::Answer),
        )
    });
    device.engine.remove("notes", "1").await.expect("remove");
    tokio::time::sleep(Duration::from_secs(1)).await;
    device.write("1", text("again")).await;
    device
        .engine
        .patch("notes", "1", row(json!({"more": 1})))
        .await
        .expect("patch");
    tokio::time::sleep(LONG).await;
    assert_eq!(town.has("1"), Some(json!({"text": "again", "more": 1})));
    assert_eq!(device.get("1").await, town.has("1"));
}

/// Killed at every await of a write: the record and its push are both there, or neither.
#[tokio::test(start_paused = true)]
async fn dynos_03_a_write_that_is_cut_off_is_whole_or_was_never() {
    for polls in 0..40 {
        let town = Town::new();
        let device = town.device().await;
        town.cut(|_| true);
        {
            let mut write = Box::pin(device.engine.write("notes", "1", row(text("a"))));
            for _ in 0..polls {
                let waker = std::task::Waker::noop();
                if write
                    .as_mut()
                    .poll(&mut std::task::Context::from_waker(waker))
                    .is_ready()
                {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let device = device.restart().await;
        let is_here = device.get("1").await.is_some();
        town.server.heal();
        device.engine.drain().await.expect("drain");
        tokio::time::sleep(LONG).await;
        assert_eq!(
            town.has("1").is_some(),
            is_here,
            "cut off after {polls} polls"
        );
        assert!(
            !device.is_unsynced("1").await,
            "cut off after {polls} polls"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn dynos_04_a_write_does_not_wait_for_the_network() {
    let town = Town::new();
    let device = town.device().await;
    town.server
        .route(|_| Fate::Slow(LONG, LONG, Box::new(Fate::Answer)));
    let before = tokio::time::Instant::now();
    device.write("1", text("a")).await;
    device
        .engine
        .patch("notes", "1", row(text("b")))
        .await
        .expect("patch");
    device.engine.remove("notes", "1").await.expect("remove");
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn dynos_05_what_failed_goes_out_by_itself() {
    let town = Town::new();
    let mut device = town.device().await;
    town.server.route(|_| Fate::Refuse(500, String::new()));
    device.write("1", text("a")).await;
    device
        .hears(|kind| matches!(kind, TableEventKind::RetryScheduled { .. }))
        .await;
    town.server.heal();
    device
        .hears(|kind| matches!(kind, TableEventKind::Pushed { .. }))
        .await;
    assert_eq!(town.has("1"), Some(text("a")));
}

#[tokio::test(start_paused = true)]
async fn dynos_06_the_clock_of_the_device_decides_nothing_about_what_is_pulled() {
    let town = Town::new();
    let device = town.device().await;
    device.clock.set_forward(Duration::from_secs(24 * 60 * 60));
    device.sync().await;
    device.clock.set_back(Duration::from_secs(48 * 60 * 60));
    town.put("1", text("while the clock was wrong"));
    device.sync().await;
    town.put("2", text("after it"));
    device.sync().await;
    assert!(device.get("1").await.is_some() && device.get("2").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn dynos_07_deletions_travel_both_ways_and_pulls_have_pages() {
    let town = Town::new();
    for n in 0..10 {
        town.put(&n.to_string(), text("a"));
    }
    let device = town
        .device_with(|b| b.tables(["notes"]).batch_size(3))
        .await;
    device.sync().await;
    town.put("1", Value::Null);
    device.engine.remove("notes", "2").await.expect("remove");
    device.sync().await;
    assert_eq!((device.get("1").await, town.has("2")), (None, None));
    let pages = town
        .server
        .asked()
        .into_iter()
        .filter(|asked| asked.path == "/notes")
        .count();
    assert!(pages >= 5, "{pages} pages");
}

#[tokio::test(start_paused = true)]
async fn dynos_08_drains_while_offline_lose_nothing_and_refusals_are_kept() {
    let town = Town::new();
    let device = town.device().await;
    town.cut(|_| true);
    device.write("1", text("a")).await;
    for _ in 0..20 {
        let drained = device.engine.drain().await.expect("drain");
        assert_eq!((drained.delivered, drained.remaining), (0, 1));
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    town.server.route(|_| Fate::Refuse(400, String::new()));
    tokio::time::sleep(LONG).await;
    assert_eq!(device.vault.dead_letters().count().await.expect("count"), 1);
    town.server.heal();
    device.engine.resend("notes", "1").await.expect("resend");
    tokio::time::sleep(LONG).await;
    device.sync().await;
    assert_eq!(town.has("1"), Some(text("a")));
}

#[tokio::test(start_paused = true)]
async fn dynos_09_a_forbidden_record_stands_in_nobodys_way() {
    let town = Town::new();
    let device = town.device().await;
    town.server.route(|asked| match asked.path.as_str() {
        "/notes/401" => Fate::Refuse(403, String::new()),
        _ => Fate::Answer,
    });
    for id in ["401", "a", "b", "c"] {
        device.write(id, text(id)).await;
    }
    let drained = device.engine.drain().await.expect("drain");
    assert_eq!((drained.remaining, town.server.rows("notes").len()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn dynos_10_a_patch_that_wins_wipes_no_column_and_a_merge_is_what_is_pushed() {
    let town = Town::new();
    let device = town.device_merging(ConflictStrategy::ClientWins).await;
    device.write("1", json!({"a": 1, "b": 1, "c": 1})).await;
    device.sync().await;
    town.put("1", json!({"a": 1, "b": 2, "c": 1}));
    device
        .engine
        .patch("notes", "1", row(json!({"a": 9})))
        .await
        .expect("patch");
    device.sync().await;
    let want = json!({"a": 9, "b": 2, "c": 1});
    assert_eq!(
        (town.has("1"), device.get("1").await),
        (Some(want.clone()), Some(want))
    );
}

#[tokio::test(start_paused = true)]
async fn dynos_11_masking_hides_in_events_and_changes_no_data() {
    let town = Town::new();
    let mut device = town
        .device_with(|b| {
            let table =
                syncvault::sync::Table::new("notes").conflicts(ConflictStrategy::ClientWins);
            b.tables([table]).mask(["ssn"])
        })
        .await;
    let secret = |n: u32| json!({"ssn": "123", "deep": [{"ssn": {"n": n}}], "n": n});
    device.write("1", secret(1)).await;
    device.sync().await;
    town.put("1", secret(2));
    device.write("1", secret(3)).await;
    device.sync().await;
    assert_eq!(
        (town.has("1"), device.get("1").await),
        (Some(secret(3)), Some(secret(3)))
    );
    let heard = device.heard().await;
    let conflict = heard
        .iter()
        .find(|kind| matches!(kind, TableEventKind::Conflict { .. }));
    let Some(TableEventKind::Conflict { conflict, kept, .. }) = conflict else {
        panic!("no conflict: {heard:?}");
    };
    for side in [&conflict.base, &conflict.local, &conflict.server, kept] {
        let side = serde_json::to_string(side).expect("JSON");
        assert!(
            side.contains("masked") && !side.contains("123") && !side.contains("{\"ssn\":{"),
            "{side}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn dynos_12_each_change_has_a_key_and_keeps_it_over_its_attempts() {
    let town = Town::new();
    let device = town.device().await;
    let count = AtomicUsize::new(0);
    town.server.route(move |asked| match asked.method.as_str() {
        "GET" => Fate::Answer,
        _ if count.fetch_add(1, Ordering::Relaxed) < 2 => Fate::LoseAnswer,
        _ => Fate::Answer,
    });
    device.write("1", text("a")).await;
    tokio::time::sleep(LONG).await;
    device.write("2", text("b")).await;
    tokio::time::sleep(LONG).await;
    let keys: Vec<_> = town
        .server
        .pushes()
        .into_iter()
        .map(|push| push.key.expect("a key"))
        .collect();
    assert_eq!(keys.len(), 4);
    assert!(
        keys[0] == keys[1] && keys[1] == keys[2] && keys[2] != keys[3],
        "{keys:?}"
    );
}

/// A pull and a push are under way; so is a table that was removed before.
#[tokio::test(start_paused = true)]
async fn dynos_13_a_logout_stops_what_runs_and_clears_removed_tables_too() {
    let town = Town::new();
    town.put("1", text("a"));
    town.server.put("old", "1", Some(row(text("left over"))));
    let device = town.device_with(|b| b.tables(["notes", "old"])).await;
    device.sync().await;
    device.engine.remove_table("old").await.expect("remove");
    town.server.route(|_| {
        Fate::Slow(
            Duration::from_secs(3),
            Duration::from_secs(3),
            Box::new(Fate::Answer),
        )
    });
    town.put("2", text("b"));
    device.write("3", text("c")).await;
    let engine = device.engine.clone();
    let pull = tokio::spawn(async move { engine.pull("notes").await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    device
        .engine
        .logout(Logout::Wipe, PATIENCE)
        .await
        .expect("logout");
    drop(pull.await.expect("no panic"));
    tokio::time::sleep(LONG).await;
    let local: &dyn syncvault::sync::LocalStore = &device.local;
    assert_eq!(local.tables().await.expect("tables"), Vec::<String>::new());
    assert_eq!(device.vault.pending_count().await.expect("count"), 0);
    assert!(
        device
            .engine
            .write("notes", "9", row(text("late")))
            .await
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn dynos_14_two_drains_at_once_send_each_change_once() {
    let town = Town::new();
    town.server.set_honours_keys(false);
    let device = town.device().await;
    town.cut(|_| true);
    for n in 0..20 {
        device.write(&n.to_string(), text("a")).await;
    }
    town.server.heal();
    let drains = (0..4).map(|_| {
        let engine = device.engine.clone();
        tokio::spawn(async move { engine.sync_all().await })
    });
    for drain in drains.collect::<Vec<_>>() {
        drop(drain.await.expect("no panic").expect("sync"));
    }
    device.sync().await;
    let done = town.server.rows("notes").len();
    let mut keys: Vec<_> = town
        .server
        .pushes()
        .into_iter()
        .map(|push| push.path)
        .collect();
    keys.retain(|path| path.starts_with("/notes/"));
    assert_eq!(done, 20);
    assert_eq!(device.engine.pending().await.expect("pending"), 0);
}

#[tokio::test(start_paused = true)]
async fn dynos_15_a_drain_tells_what_remains_and_a_failed_start_is_told() {
    let town = Town::new();
    let mut device = town.device().await;
    town.cut(|_| true);
    device.write("1", text("a")).await;
    device.engine.drain().await.expect("drain");
    let drained = device
        .hears(|kind| matches!(kind, TableEventKind::Drained { .. }))
        .await;
    assert!(matches!(
        drained.kind,
        TableEventKind::Drained {
            delivered: 0,
            remaining: 1
        }
    ));
    let engine = device.engine.clone();
    let initial = tokio::spawn(async move { engine.wait_initial().await });
    let report = device.engine.pull_all().await.expect("report");
    assert!(!report.is_success());
    initial
        .await
        .expect("no panic")
        .expect_err("the failure is told");
}

/// A record of the queue that cannot be read stops nobody. (Theirs also named a licence in its FAQ that was not its own.)
#[tokio::test(start_paused = true)]
async fn dynos_16_one_unreadable_entry_does_not_stop_the_others() {
    let town = Town::new();
    let device = town.device().await;
    town.cut(|_| true);
    for id in ["1", "2", "3"] {
        device.write(id, text(id)).await;
    }
    device
        .local
        .damage(&syncvault::sync::RecordKey::new("notes", "2"));
    let device = device.restart().await;
    town.server.heal();
    device.engine.drain().await.expect("drain");
    tokio::time::sleep(LONG).await;
    device.sync().await;
    let rows = town.server.rows("notes");
    assert!(rows.contains_key("1") && rows.contains_key("3"), "{rows:?}");
    assert_eq!(
        device
            .engine
            .quarantine("notes", 9)
            .await
            .expect("quarantine")
            .len(),
        1
    );
}

/// Rules that are asked for may be slow: nothing else waits for them.
#[tokio::test(start_paused = true)]
async fn a_slow_rule_for_conflicts_holds_no_write() {
    let town = Town::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let rule = move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        async {
            tokio::time::sleep(LONG).await;
            syncvault::sync::Decision::Local
        }
    };
    let device = town.device_merging(ConflictStrategy::custom(rule)).await;
    device.write("1", text("base")).await;
    device.sync().await;
    town.put("1", text("theirs"));
    device.write("1", text("ours")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let before = tokio::time::Instant::now();
    device.write("1", text("ours again")).await;
    device.write("2", text("another")).await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    tokio::time::sleep(3 * LONG).await;
    device.sync().await;
    assert_eq!(town.has("1"), Some(text("ours again")));
}
