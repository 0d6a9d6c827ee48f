//! What an app does with tables, and what others do at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use syncvault::ErrorKind;
use syncvault::sync::{
    ConflictStrategy, Decision, FailureKind, ItemId, Logout, PendingDelete, Table, TableConflict,
    TableEventKind, Winner,
};
use syncvault::testing::{Fate, Versions};

use super::town::{PATIENCE, Town, row, text};

#[tokio::test(start_paused = true)]
async fn a_write_arrives_and_is_in_step() {
    let town = Town::new();
    let mut device = town.device().await;
    device.write("1", text("a")).await;
    device
        .hears(|kind| matches!(kind, TableEventKind::Pushed { .. }))
        .await;
    assert_eq!(town.has("1"), Some(text("a")));
    assert!(!device.is_unsynced("1").await);
    device.sync().await;
    assert_eq!(device.conflicts().await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_others_wrote_comes_with_a_pull_page_by_page() {
    let town = Town::new();
    for n in 0..25 {
        town.put(&format!("{n:02}"), json!({ "n": n }));
    }
    let device = town
        .device_with(|b| b.tables(["notes"]).batch_size(4))
        .await;
    device.sync().await;
    for n in 0..25 {
        assert_eq!(
            device.get(&format!("{n:02}")).await,
            Some(json!({ "n": n }))
        );
    }
    town.put("03", Value::Null);
    town.put("07", json!({"n": "new"}));
    device.sync().await;
    assert_eq!(device.get("03").await, None);
    assert_eq!(device.get("07").await, Some(json!({"n": "new"})));
}

#[tokio::test(start_paused = true)]
async fn a_write_on_top_of_one_on_the_wire_is_no_conflict() {
    let town = Town::new();
    let mut device = town.device().await;
    device.write("1", text("old")).await;
    device.sync().await;
    town.server.route(|_| {
        Fate::Slow(
            Duration::from_secs(3),
            Duration::from_secs(3),
            Box::new(Fate::Answer),
        )
    });
    device.write("1", text("a")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    device.write("1", text("b")).await;
    device.write("1", text("c")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(town.has("1"), Some(text("c")));
    assert!(!device.is_unsynced("1").await);
    assert_eq!(device.conflicts().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_at_a_server_that_ignores_keys_is_no_conflict() {
    let town = Town::new();
    town.server.set_honours_keys(false);
    let mut device = town.device().await;
    device.write("1", text("a")).await;
    device.sync().await;
    let lost = AtomicUsize::new(0);
    town.server
        .route(move |_| match lost.fetch_add(1, Ordering::Relaxed) {
            0 => Fate::LoseAnswer,
            _ => Fate::Answer,
        });
    device.write("1", text("b")).await;
    device
        .hears(|kind| matches!(kind, TableEventKind::Pushed { .. }))
        .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(town.has("1"), Some(text("b")));
    assert!(!device.is_unsynced("1").await);
    assert_eq!(device.conflicts().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_412_is_merged_stored_and_pushed_and_told_once() {
    let town = Town::new();
    let mut device = town.device_merging(ConflictStrategy::Merge).await;
    device.write("1", json!({"a": 1, "b": 1})).await;
    device.sync().await;
    town.put("1", json!({"a": 1, "b": 2}));
    device.write("1", json!({"a": 3, "b": 1})).await;
    device.sync().await;
    let merged = json!({"a": 3, "b": 2});
    assert_eq!(
        (town.has("1"), device.get("1").await),
        (Some(merged.clone()), Some(merged))
    );
    assert!(!device.is_unsynced("1").await);
    let heard = device.heard().await;
    let conflicts = heard.iter().filter_map(|kind| match kind {
        TableEventKind::Conflict {
            conflict,
            winner,
            kept,
        } => Some((conflict, winner, kept)),
        _ => None,
    });
    let conflicts: Vec<_> = conflicts.collect();
    assert_eq!(conflicts.len(), 1, "{heard:?}");
    let (conflict, winner, kept) = conflicts[0];
    assert_eq!(*winner, Winner::Merged);
    assert_eq!(conflict.base, Some(row(json!({"a": 1, "b": 1}))));
    assert_eq!(conflict.local, Some(row(json!({"a": 3, "b": 1}))));
    assert_eq!(conflict.server, Some(row(json!({"a": 1, "b": 2}))));
    assert_eq!(*kept, Some(row(json!({"a": 3, "b": 2}))));
}

#[tokio::test(start_paused = true)]
async fn a_pull_meets_a_conflict_before_the_push_does() {
    let town = Town::new();
    let mut device = town.device_merging(ConflictStrategy::Merge).await;
    device.write("1", json!({"a": 1, "b": 1})).await;
    device.sync().await;
    town.cut(|asked| asked.method != "GET");
    device.write("1", json!({"a": 3, "b": 1})).await;
    town.put("1", json!({"a": 1, "b": 2}));
    let report = device.engine.pull("notes").await.expect("pull");
    assert!(report.is_success(), "{report:?}");
    town.server.heal();
    device.sync().await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    device.sync().await;
    assert_eq!(town.has("1"), Some(json!({"a": 3, "b": 2})));
    assert_eq!(device.get("1").await, Some(json!({"a": 3, "b": 2})));
    assert_eq!(device.conflicts().await, 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_custom_rule_returns_is_stored_and_pushed() {
    let town = Town::new();
    let rule = |conflict: TableConflict| async move {
        let both = [conflict.local, conflict.server].map(|side| side.map(Value::Object));
        Decision::Merged(row(json!({ "both": both })))
    };
    let device = town.device_merging(ConflictStrategy::custom(rule)).await;
    device.write("1", text("base")).await;
    device.sync().await;
    town.put("1", text("theirs"));
    device.write("1", text("ours")).await;
    device.sync().await;
    let both = json!({"both": [text("ours"), text("theirs")]});
    assert_eq!(
        (town.has("1"), device.get("1").await),
        (Some(both.clone()), Some(both))
    );
}

#[tokio::test(start_paused = true)]
async fn a_deletion_here_wins_by_rule_or_the_strategy_decides() {
    for (rule, want) in [
        (PendingDelete::Wins, None),
        (PendingDelete::ByStrategy, Some(text("theirs"))),
    ] {
        let town = Town::new();
        let table = Table::new("notes")
            .conflicts(ConflictStrategy::ServerWins)
            .pending_delete(rule);
        let device = town.device_with(|b| b.tables([table])).await;
        device.write("1", text("base")).await;
        device.sync().await;
        town.put("1", text("theirs"));
        device.engine.remove("notes", "1").await.expect("remove");
        device.sync().await;
        assert_eq!(
            (town.has("1"), device.get("1").await),
            (want.clone(), want),
            "{rule:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_what_was_deleted_elsewhere_goes_through_the_strategy() {
    let edited = Some(text("edited"));
    for (strategy, want) in [
        (ConflictStrategy::ClientWins, edited.clone()),
        (ConflictStrategy::ServerWins, None),
        (ConflictStrategy::Merge, edited),
    ] {
        let town = Town::new();
        let mut device = town.device_merging(strategy.clone()).await;
        device.write("1", text("base")).await;
        device.sync().await;
        town.put("1", Value::Null);
        device.write("1", text("edited")).await;
        device.sync().await;
        assert_eq!(
            (town.has("1"), device.get("1").await),
            (want.clone(), want),
            "{strategy:?}"
        );
        assert_eq!(device.conflicts().await, 1, "{strategy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_does_not_rise_again_from_a_late_page() {
    let town = Town::new();
    town.put("1", text("a"));
    let device = town.device().await;
    device.sync().await;
    town.server.route(|asked| match asked.method.as_str() {
        "GET" => Fate::Slow(
            Duration::ZERO,
            Duration::from_secs(20),
            Box::new(Fate::Answer),
        ),
        _ => Fate::Answer,
    });
    town.put("1", text("b"));
    let engine = device.engine.clone();
    let pull = tokio::spawn(async move { engine.pull("notes").await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    device.engine.remove("notes", "1").await.expect("remove");
    drop(pull.await.expect("no panic").expect("pull"));
    device.sync().await;
    assert_eq!((town.has("1"), device.get("1").await), (None, None));
}

#[tokio::test(start_paused = true)]
async fn tags_without_an_order_do_not_let_an_old_page_win() {
    let town = Town::new();
    town.server.set_versions(Versions::Tags);
    town.put("1", text("a"));
    let mut device = town.device().await;
    device.sync().await;
    town.put("1", text("b"));
    town.server
        .route(|asked| match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/notes") => Fate::Slow(
                Duration::ZERO,
                Duration::from_secs(20),
                Box::new(Fate::Answer),
            ),
            _ => Fate::Answer,
        });
    let engine = device.engine.clone();
    let pull = tokio::spawn(async move { engine.pull("notes").await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    device.write("1", text("c")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(pull.await.expect("no panic").expect("pull"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(device.get("1").await, town.has("1"));
    assert!(device.conflicts().await <= 1);
    assert!(!device.is_unsynced("1").await);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_cursor_starts_a_full_listing_and_keeps_what_is_unsent() {
    let town = Town::new();
    for id in ["1", "2"] {
        town.put(id, text("a"));
    }
    let mut device = town.device().await;
    device.sync().await;
    town.put("1", Value::Null);
    town.put("3", text("new"));
    town.server.forget_cursors();
    town.cut(|asked| asked.method != "GET");
    device.write("9", text("unsent")).await;
    let report = device.engine.pull("notes").await.expect("pull");
    assert!(report.is_success(), "{report:?}");
    assert!(
        device
            .heard()
            .await
            .iter()
            .any(|kind| matches!(kind, TableEventKind::FullResync))
    );
    let rows = [
        device.get("1").await,
        device.get("2").await,
        device.get("3").await,
        device.get("9").await,
    ];
    assert_eq!(
        rows,
        [
            None,
            Some(text("a")),
            Some(text("new")),
            Some(text("unsent"))
        ]
    );
    town.server.heal();
    tokio::time::sleep(Duration::from_secs(120)).await;
    device.sync().await;
    assert_eq!(town.has("9"), Some(text("unsent")));
}

#[tokio::test(start_paused = true)]
async fn a_401_holds_everything_asks_once_and_loses_nothing() {
    let town = Town::new();
    let mut device = town.device().await;
    device.sync().await;
    town.server.route(|_| Fate::Refuse(401, String::new()));
    for n in 0..5 {
        device.write(&n.to_string(), text("a")).await;
    }
    let report = device.engine.sync_all().await.expect("sync");
    assert_eq!(
        report.failure().map(|f| f.kind),
        Some(FailureKind::Permanent)
    );
    tokio::time::sleep(Duration::from_secs(600)).await;
    let heard = device.heard().await;
    let told = heard
        .iter()
        .filter(|kind| matches!(kind, TableEventKind::AuthRequired { .. }))
        .count();
    assert_eq!(told, 1, "{heard:?}");
    assert_eq!(device.vault.dead_letters().count().await.expect("count"), 0);
    town.server.heal();
    tokio::time::sleep(Duration::from_secs(120)).await;
    device.sync().await;
    assert_eq!(town.server.rows("notes").len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_403_is_the_dead_letter_of_its_record_only() {
    let town = Town::new();
    let mut device = town.device().await;
    town.server.route(|asked| match asked.path.as_str() {
        "/notes/2" => Fate::Refuse(403, String::new()),
        _ => Fate::Answer,
    });
    for id in ["1", "2", "3"] {
        device.write(id, text("a")).await;
    }
    let drained = device.engine.drain().await.expect("drain");
    assert_eq!((drained.remaining, town.server.rows("notes").len()), (1, 2));
    let refused = device
        .hears(|kind| matches!(kind, TableEventKind::Refused { .. }))
        .await;
    assert!(matches!(refused.kind, TableEventKind::Refused { id, .. } if id == ItemId::from("2")));
    let letters = device.vault.dead_letters().count().await.expect("count");
    assert_eq!(letters, 1);
    town.server.heal();
    device.engine.resend("notes", "2").await.expect("resend");
    device.sync().await;
    assert_eq!(town.has("2"), Some(text("a")));
}

#[tokio::test(start_paused = true)]
async fn a_200_that_is_none_is_told_as_rejected_and_the_change_stays() {
    let town = Town::new();
    let mut device = town.device().await;
    let bodies = Arc::new(AtomicUsize::new(0));
    town.server.route(move |asked| match asked.method.as_str() {
        "GET" => Fate::Answer,
        _ if bodies.fetch_add(1, Ordering::Relaxed) == 0 => Fate::Refuse(200, String::new()),
        _ => Fate::Refuse(200, r#"{"error": "no"}"#.to_owned()),
    });
    for id in ["1", "2"] {
        device.write(id, text("a")).await;
        device
            .hears(|kind| matches!(kind, TableEventKind::RemoteRejected { .. }))
            .await;
    }
    device.sync().await;
    assert_eq!(device.engine.pending().await.expect("pending"), 2);
    assert!(
        device
            .heard()
            .await
            .iter()
            .all(|kind| !matches!(kind, TableEventKind::RemoteRejected { .. }))
    );
    town.server.heal();
    device.write("1", text("b")).await;
    device.engine.revert("notes", "2").await.expect("revert");
    device.sync().await;
    assert_eq!(
        (town.has("1"), device.get("2").await),
        (Some(text("b")), None)
    );
}

#[tokio::test(start_paused = true)]
async fn guards_refuse_before_anything_is_kept() {
    let town = Town::new();
    let device = town
        .device_with(|b| b.tables(["notes"]).max_payload_bytes(100))
        .await;
    let write = |value: Value| device.engine.write("notes", "1", row(value));
    let error = write(json!({"user_id": "bob"})).await.expect_err("his");
    assert_eq!(error.kind(), ErrorKind::NotOwner);
    let error = write(json!({"a": "x".repeat(200)}))
        .await
        .expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let error = device
        .engine
        .patch("notes", "1", row(text("a")))
        .await
        .expect_err("not there");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(device.engine.pending().await.expect("pending"), 0);
    assert_eq!(device.get("1").await, None);
}

#[tokio::test(start_paused = true)]
async fn a_row_of_somebody_else_is_left_out_of_a_pull() {
    let town = Town::new();
    town.put("1", json!({"owner_id": "bob"}));
    town.put("2", json!({"owner_id": "ann"}));
    let mut device = town.device().await;
    device.sync().await;
    assert_eq!(
        (device.get("1").await, device.get("2").await.is_some()),
        (None, true)
    );
    let heard = device.heard().await;
    assert!(
        heard
            .iter()
            .any(|kind| matches!(kind, TableEventKind::Skipped { owner, .. } if owner == "bob"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_patch_touches_only_its_fields_here_and_there() {
    let town = Town::new();
    let device = town.device_merging(ConflictStrategy::ClientWins).await;
    device.write("1", json!({"a": 1, "b": 1})).await;
    device.sync().await;
    town.put("1", json!({"a": 1, "b": 9, "c": 9}));
    device
        .engine
        .patch("notes", "1", row(json!({"a": 2})))
        .await
        .expect("patch");
    device.sync().await;
    let want = Some(json!({"a": 2, "b": 9, "c": 9}));
    assert_eq!((town.has("1"), device.get("1").await), (want.clone(), want));
    let patches = town.server.pushes();
    let last = patches.last().expect("a patch");
    assert_eq!(
        (last.method.as_str(), &last.body),
        ("PATCH", &json!({"a": 2}))
    );
}

#[tokio::test(start_paused = true)]
async fn a_patch_of_a_record_that_was_never_sent_sends_the_whole_row() {
    let town = Town::new();
    let device = town.device().await;
    town.cut(|_| true);
    device.write("1", json!({"a": 1, "b": 1})).await;
    device
        .engine
        .patch("notes", "1", row(json!({"b": 2})))
        .await
        .expect("patch");
    town.server.heal();
    tokio::time::sleep(Duration::from_secs(120)).await;
    device.sync().await;
    assert_eq!(town.has("1"), Some(json!({"a": 1, "b": 2})));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_is_set_aside_and_comes_back_with_the_next_listing() {
    let town = Town::new();
    for id in ["1", "2"] {
        town.put(id, text("a"));
    }
    let mut device = town.device().await;
    device.sync().await;
    device
        .local
        .damage(&syncvault::sync::RecordKey::new("notes", "1"));
    town.put("1", text("b"));
    device.sync().await;
    assert_eq!(device.get("1").await, Some(text("b")));
    assert!(
        device
            .heard()
            .await
            .iter()
            .any(|kind| matches!(kind, TableEventKind::Quarantined { .. }))
    );
    assert_eq!(
        device
            .engine
            .quarantine("notes", 10)
            .await
            .expect("quarantine")
            .len(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn tables_come_and_go_while_others_are_synced() {
    let town = Town::new();
    town.put("1", text("a"));
    town.server.put("tasks", "1", Some(row(text("t"))));
    let device = town.device().await;
    assert!(device.engine.add_table("tasks").await.expect("add"));
    assert!(!device.engine.add_table("tasks").await.expect("add"));
    device.sync().await;
    assert_eq!(device.engine.tables(), ["notes", "tasks"]);
    assert!(
        device
            .engine
            .get("tasks", "1")
            .await
            .expect("get")
            .is_some()
    );
    device.engine.wait_initial().await.expect("initial");
    assert!(device.engine.remove_table("tasks").await.expect("remove"));
    assert_eq!(
        device
            .engine
            .get("tasks", "1")
            .await
            .expect_err("gone")
            .kind(),
        ErrorKind::NotFound
    );
    device.sync().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_unsent_at_a_logout_waits_for_its_user() {
    let town = Town::new();
    town.put("1", text("a"));
    let device = town.device().await;
    device.sync().await;
    town.cut(|_| true);
    device.write("9", text("unsent")).await;
    device
        .engine
        .logout(Logout::KeepUnsent, PATIENCE)
        .await
        .expect("logout");
    town.server.heal();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(town.has("9"), None, "nothing is sent of who is away");
    let device = device
        .restart_with(|b| b.tables(["notes"]).user("bob"))
        .await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    device.sync().await;
    assert_eq!((device.get("9").await, town.has("9")), (None, None));
    device
        .engine
        .logout(Logout::Wipe, PATIENCE)
        .await
        .expect("logout");
    let device = device.restart().await;
    assert_eq!(device.get("9").await, Some(text("unsent")));
    tokio::time::sleep(Duration::from_secs(120)).await;
    device.sync().await;
    assert_eq!(town.has("9"), Some(text("unsent")));
}

#[tokio::test(start_paused = true)]
async fn rows_of_another_user_are_not_opened() {
    let town = Town::new();
    let device = town.device().await;
    device.sync().await;
    let remote = syncvault::testing::TableRemote::new(&device.vault);
    let builder = syncvault::sync::SyncEngine::builder(device.local.clone(), remote, &device.vault);
    let error = builder
        .user("bob")
        .tables(["notes"])
        .build()
        .await
        .expect_err("ann's");
    assert_eq!(error.kind(), ErrorKind::WrongState);
}
