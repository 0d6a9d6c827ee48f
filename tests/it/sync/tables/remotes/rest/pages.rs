//! Pages and cursors: nothing is missed, whoever writes meanwhile, and whatever the clock of the server says.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use syncvault::sync::{Cursor, Operation, PullRequest, RemoteErrorKind, RemoteRow, Row};

use super::super::rig::{Client, Rig, change, ids, new, on};
use syncvault::sync::RestRemote;

#[tokio::test]
async fn rows_with_the_same_time_are_not_missed_between_pages() {
    let rig = Rig::start().await;
    rig.server.freeze(1_700_000_000_000);
    let ann = rig.client("ann").await;
    for n in 0..25 {
        ann.accepted(&new(&format!("{n:02}"), json!({"n": n})))
            .await;
    }
    let (rows, resume) = ann.pull(None, 4).await;
    assert_eq!(rows.len(), 25);
    assert!(rows.iter().all(|row| row.updated_at == rows[0].updated_at));
    // The clock does not move, and a change is seen all the same.
    ann.accepted(&change("07", Operation::Upsert, json!({"n": -7})))
        .await;
    assert_eq!(ids(&ann.pull(resume.as_ref(), 4).await.0), ["07"]);
}

/// What a replica has after it applied rows in their order.
fn apply(replica: &mut BTreeMap<String, Row>, rows: &[RemoteRow]) {
    for row in rows {
        match &row.row {
            Some(fields) => drop(replica.insert(row.id.to_string(), fields.clone())),
            None => drop(replica.remove(row.id.as_str())),
        }
    }
}

async fn write_and_delete(client: &Client<RestRemote>, writer: u32) {
    for n in 0..60_u32 {
        let id = format!("{}", (n * 7 + writer) % 20);
        let operation = if (n + writer).is_multiple_of(5) {
            Operation::Delete
        } else {
            Operation::Upsert
        };
        let mut change = change(&id, operation, json!({"by": writer, "n": n}));
        if operation == Operation::Delete {
            change.row = Row::new();
        }
        client.accepted(&change).await;
    }
}

/// Goal: a cursor misses nothing. Method: three writers write and delete the same twenty records, at a clock that stands still, while
/// a reader pulls pages of three, full listings first and changes then; at the end the replica is what the server has.
#[tokio::test]
async fn with_concurrent_writers_nothing_is_missed() {
    let rig = Rig::start().await;
    rig.server.freeze(1_700_000_000_000);
    let writers = [
        rig.client("ann").await,
        rig.client("ann").await,
        rig.client("ann").await,
    ];
    let reader = rig.client("ann").await;
    let writing = async {
        let [a, b, c] = &writers;
        tokio::join!(
            write_and_delete(a, 0),
            write_and_delete(b, 1),
            write_and_delete(c, 2)
        );
    };
    let reading = async {
        let (mut replica, mut at) = (BTreeMap::new(), None);
        for _ in 0..40 {
            let (rows, resume) = reader.pull(at.as_ref(), 3).await;
            apply(&mut replica, &rows);
            at = resume;
        }
        (replica, at)
    };
    let ((), (mut replica, at)) = tokio::join!(writing, reading);
    apply(&mut replica, &reader.pull(at.as_ref(), 3).await.0);
    let mut server = BTreeMap::new();
    apply(&mut server, &reader.pull(None, 1000).await.0);
    assert_eq!(replica, server);
}

#[tokio::test]
async fn a_record_that_is_deleted_while_it_is_listed_comes_as_a_tombstone() {
    let rig = Rig::start().await;
    let ann = rig.client("ann").await;
    for id in ["1", "2", "3"] {
        ann.accepted(&new(id, json!({}))).await;
    }
    let first = ann
        .page(PullRequest::new("notes", 2))
        .await
        .expect("a page");
    assert_eq!(ids(&first.rows), ["1", "2"]);
    ann.accepted(&change("1", Operation::Delete, json!(null)))
        .await;
    let next = first.next.expect("more");
    let rest = ann
        .page(PullRequest::new("notes", 10).at(&next))
        .await
        .expect("a page");
    assert_eq!(ids(&rest.rows), ["3", "1"]);
    assert!(rest.rows[1].row.is_none());
}

async fn kind(client: &Client<RestRemote>, cursor: &Cursor) -> RemoteErrorKind {
    let request = PullRequest::new("notes", 10).at(cursor).changes();
    client.page(request).await.expect_err("no page").kind
}

#[tokio::test]
async fn a_cursor_from_before_forgotten_tombstones_is_gone() {
    let rig = Rig::start().await;
    let ann = rig.client("ann").await;
    let first = ann.accepted(&new("1", json!({}))).await;
    let (_, before) = ann.pull(None, 10).await;
    let before = before.expect("a cursor");
    ann.accepted(&on(&first, change("1", Operation::Delete, json!(null))))
        .await;
    let (_, after) = ann.pull(Some(&before), 10).await;
    rig.server
        .forget_tombstones(Duration::from_secs(60))
        .expect("forget");
    assert_eq!(
        ids(&ann.pull(Some(&before), 10).await.0),
        ["1"],
        "it is not old enough"
    );
    rig.server
        .forget_tombstones(Duration::ZERO)
        .expect("forget");
    assert_eq!(kind(&ann, &before).await, RemoteErrorKind::CursorGone);
    assert!(
        ann.pull(after.as_ref(), 10).await.0.is_empty(),
        "who saw the tombstone goes on"
    );
    // A listing that had begun by then may have brought the record.
    assert_eq!(ann.fetch("1").await.expect("fetch"), None);
}

#[tokio::test]
async fn a_cursor_of_another_database_is_gone() {
    let (rig, other) = (Rig::start().await, Rig::start().await);
    let (ann, elsewhere) = (rig.client("ann").await, other.client("ann").await);
    ann.accepted(&new("1", json!({}))).await;
    elsewhere.accepted(&new("1", json!({}))).await;
    let (_, cursor) = elsewhere.pull(None, 10).await;
    assert_eq!(
        kind(&ann, &cursor.expect("a cursor")).await,
        RemoteErrorKind::CursorGone
    );
    assert_eq!(
        kind(&ann, &Cursor::new("nonsense & more")).await,
        RemoteErrorKind::CursorGone
    );
}

#[tokio::test]
async fn a_page_longer_than_its_limit_is_refused_and_not_kept_in_memory() {
    let rig = Rig::start().await;
    let vault = rig.builder("ann").build().await.expect("vault");
    let remote = RestRemote::new(vault.clone()).page_bytes_max(64 * 1024);
    let ann = Client::new(remote, vault);
    for n in 0..4 {
        ann.accepted(&new(&n.to_string(), json!({"text": "x".repeat(30_000)})))
            .await;
    }
    let error = ann
        .page(PullRequest::new("notes", 10))
        .await
        .expect_err("too long");
    assert_eq!(error.kind, RemoteErrorKind::Rejected);
    assert!(error.to_string().contains("page_bytes_max"), "{error}");
    assert_eq!(
        ann.pull(None, 2).await.0.len(),
        4,
        "pages of two are short enough"
    );
}
