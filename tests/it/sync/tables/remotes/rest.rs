//! `RestRemote` and the reference server: versions, conditions, cursors, tombstones, users, and the server's bad days.

mod batches;
mod pages;
mod trouble;

use serde_json::json;
use syncvault::sync::{Operation, Pushed, Version};

use super::rig::{Rig, change, fields, id, ids, new, on};

#[tokio::test]
async fn a_record_goes_there_and_comes_back() {
    let rig = Rig::start().await;
    let (ann, again) = (rig.client("ann").await, rig.client("ann").await);
    let row = json!({"text": "milk", "n": u64::MAX, "m": i64::MIN, "f": 0.1, "null": null, "deep": {"a": [1, {"b": "\u{0}é✓"}]}});
    let first = ann.accepted(&new("1", row.clone())).await;
    assert_eq!(first, Some(Version::from(1)));
    let (rows, resume) = again.pull(None, 10).await;
    assert_eq!(rows[0].row, Some(fields(row)));
    assert_eq!(rows[0].version, first);
    assert!(rows[0].updated_at.is_some());

    let patch = on(
        &first,
        change(
            "1",
            Operation::Patch,
            json!({"text": "oat milk", "f": null}),
        ),
    );
    let second = ann.accepted(&patch).await;
    let (rows, resume) = again.pull(resume.as_ref(), 10).await;
    let patched = rows[0].row.as_ref().expect("a row");
    assert_eq!(
        (patched["text"].as_str(), patched["n"].as_u64()),
        (Some("oat milk"), Some(u64::MAX))
    );
    assert!(patched["f"].is_null());

    let third = ann
        .accepted(&on(&second, change("1", Operation::Delete, json!(null))))
        .await;
    let (rows, resume) = again.pull(resume.as_ref(), 10).await;
    assert_eq!((rows[0].row.is_none(), &rows[0].version), (true, &third));
    assert_eq!(
        again.fetch("1").await.expect("fetch"),
        Some(rows[0].clone())
    );
    assert_eq!(again.fetch("2").await.expect("fetch"), None);
    assert!(again.pull(resume.as_ref(), 10).await.0.is_empty());
    assert!(
        again.pull(None, 10).await.0.is_empty(),
        "a full listing needs no tombstones"
    );
}

#[tokio::test]
async fn a_change_on_an_old_version_is_a_conflict_that_shows_the_servers_side() {
    let rig = Rig::start().await;
    let ann = rig.client("ann").await;
    let first = ann.accepted(&new("1", json!({"text": "a"}))).await;
    let second = ann
        .accepted(&on(
            &first,
            change("1", Operation::Upsert, json!({"text": "b"})),
        ))
        .await;
    for late in [
        on(&first, change("1", Operation::Upsert, json!({"text": "c"}))),
        on(&first, change("1", Operation::Patch, json!({"text": "c"}))),
        on(&first, change("1", Operation::Delete, json!(null))),
        new("1", json!({"text": "c"})),
    ] {
        let Pushed::Conflict {
            server: Some(server),
        } = ann.push(&late).await
        else {
            panic!("no conflict: {late:?}");
        };
        assert_eq!((server.version, server.id), (second.clone(), id("1")));
        assert_eq!(server.row.expect("a row")["text"], "b");
    }
    assert_eq!(
        ann.fetch("1").await.expect("fetch").expect("a row").version,
        second
    );
}

#[tokio::test]
async fn a_tombstone_is_a_conflict_for_changes_and_no_obstacle_for_deletions_and_new_records() {
    let rig = Rig::start().await;
    let ann = rig.client("ann").await;
    let first = ann.accepted(&new("1", json!({"text": "a"}))).await;
    let gone = ann
        .accepted(&on(&first, change("1", Operation::Delete, json!(null))))
        .await;
    for late in [
        on(&first, change("1", Operation::Upsert, json!({"text": "c"}))),
        on(&first, change("1", Operation::Patch, json!({"text": "c"}))),
        on(&gone, change("1", Operation::Patch, json!({"text": "c"}))),
        change("1", Operation::Patch, json!({"text": "c"})),
        change("2", Operation::Patch, json!({"text": "c"})),
    ] {
        let Pushed::Conflict {
            server: Some(server),
        } = ann.push(&late).await
        else {
            panic!("no conflict: {late:?}");
        };
        assert!(server.row.is_none());
    }
    // Whoever deleted it: it is gone.
    for delete in [
        on(&first, change("1", Operation::Delete, json!(null))),
        change("2", Operation::Delete, json!(null)),
    ] {
        ann.accepted(&delete).await;
    }
    let mut back = new("1", json!({"text": "back"}));
    back.base_version.clone_from(&gone);
    let back = ann.accepted(&back).await;
    assert!(
        back.as_ref()
            .and_then(|back| back.compare(gone.as_ref()?))
            .is_some_and(std::cmp::Ordering::is_gt)
    );
}

#[tokio::test]
async fn an_id_may_be_any_text() {
    let rig = Rig::start().await;
    let (ann, bob) = (rig.client("ann").await, rig.client("bob").await);
    let hostile = [
        "",
        ".",
        "..",
        "~",
        "~..",
        "%2e%2e",
        "a/b",
        "../notes/1",
        "a?b#c",
        "a b+c&d=e",
        "'; DROP TABLE records; --",
        "\"quoted\"",
        "\0",
        "\r\nX-Evil: 1",
        "<script>",
        "é✓\u{1F600}",
        "batch",
        "null",
        "-1",
        "\\",
        "%",
        "%00",
    ];
    for id in hostile {
        ann.accepted(&new(id, json!({"is": id}))).await;
    }
    let (rows, _) = ann.pull(None, 7).await;
    assert_eq!(ids(&rows), hostile);
    for id in hostile {
        let row = ann.fetch(id).await.expect("fetch").expect("a row");
        assert_eq!(row.row, Some(fields(json!({"is": id}))), "{id:?}");
        let change = on(
            &row.version,
            change(id, Operation::Patch, json!({"seen": true})),
        );
        ann.accepted(&change).await;
    }
    assert!(bob.pull(None, 10).await.0.is_empty());
}

#[tokio::test]
async fn a_table_may_have_any_name() {
    let rig = Rig::start().await;
    let ann = rig.client("ann").await;
    for table in ["..", "a/b", "~", "batch", "no'tes\""] {
        let mut change = new("1", json!({"of": table}));
        change.key.table = table.to_owned();
        ann.accepted(&change).await;
        let request = syncvault::sync::PullRequest::new(table, 10);
        let page = ann.page(request).await.expect("a page");
        assert_eq!(page.rows[0].row, Some(fields(json!({"of": table}))));
    }
}

#[tokio::test]
async fn the_tables_may_be_below_a_path() {
    let rig = Rig::start().await;
    let router = axum::Router::new().nest("/v1/sync", rig.server.router());
    let (url, serving) = super::rig::serve(router).await;
    let vault = crate::story::builder_at(&url).store(syncvault::store::MemoryStore::new());
    let vault = vault.credentials(|_| async { syncvault::bearer("ann-token") });
    let vault = vault.build().await.expect("vault");
    let remote = syncvault::sync::RestRemote::new(vault.clone()).path("/v1/sync/");
    let ann = super::rig::Client::new(remote, vault);
    ann.accepted(&new("1", json!({"text": "a"}))).await;
    assert_eq!(ids(&ann.pull(None, 10).await.0), ["1"]);
    serving.abort();
}
