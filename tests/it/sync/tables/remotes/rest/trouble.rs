//! Bad days of the server: lost answers, overload, errors that say 200, tokens that are no good, rows of somebody else.

use std::time::Duration;

use serde_json::json;
use syncvault::DeadReason;
use syncvault::sync::{
    Operation, PullRequest, Pushed, RemoteErrorKind, RemoteStore, RestRemote, Version,
};

use super::super::reference::{Fault, Seen};
use super::super::rig::{Client, Rig, change, new, on, serve};
use crate::story::builder_at;

#[tokio::test]
async fn a_lost_answer_comes_again_and_the_change_happens_once() {
    let rig = Rig::start().await;
    let ann = rig.client("ann").await;
    let first = ann.accepted(&new("1", json!({"n": 1}))).await;
    rig.server.next([Fault::DropAnswer, Fault::DropAnswer]);
    let second = ann
        .accepted(&on(&first, change("1", Operation::Upsert, json!({"n": 2}))))
        .await;
    assert_eq!(second, Some(Version::from(2)), "one change, one version");
    let seen = rig.server.seen();
    let key = |seen: &Seen| (seen.method.clone(), seen.headers["idempotency-key"].clone());
    let keys: Vec<_> = seen.iter().map(key).collect();
    assert_eq!(keys.len(), 4);
    assert!(keys[1..].iter().all(|key| *key == keys[1]), "{keys:?}");
}

#[tokio::test]
async fn a_key_with_another_change_is_refused() {
    let rig = Rig::start().await;
    let (ann, again) = (rig.client("ann").await, rig.client("ann").await);
    let first = new("1", json!({"n": 1}));
    ann.accepted(&first).await;
    let mut other = new("2", json!({"n": 2}));
    other.idempotency_key.clone_from(&first.idempotency_key);
    let reason = again.try_push(&other).await.expect_err("refused");
    assert!(
        matches!(reason, DeadReason::Rejected { status: 422, .. }),
        "{reason:?}"
    );
}

#[tokio::test]
async fn overload_is_waited_for_and_no_record_is_given_up() {
    let rig = Rig::start().await;
    let ann = rig.client("ann").await;
    rig.server.next([
        Fault::Status(503, Some(0)),
        Fault::Status(429, Some(0)),
        Fault::Status(503, None),
    ]);
    ann.accepted(&new("1", json!({}))).await;
    assert_eq!(rig.server.seen().len(), 4);
}

#[tokio::test]
async fn a_pull_that_meets_overload_tells_the_wait_that_was_asked_for() {
    let rig = Rig::start().await;
    for (status, after) in [(429, Some(7)), (503, Some(9)), (503, None), (500, None)] {
        let ann = rig.client("ann").await;
        rig.server.next([Fault::Status(status, after)]);
        let error = ann
            .page(PullRequest::new("notes", 10))
            .await
            .expect_err("no page");
        let after = after.map(Duration::from_secs);
        assert_eq!(error.kind, RemoteErrorKind::Retry { after }, "{error}");
    }
}

#[tokio::test]
async fn a_200_with_an_error_in_it_or_with_nothing_is_rejected() {
    let rig = Rig::start().await;
    for fault in [Fault::ErrorPayload, Fault::EmptyBody] {
        let ann = rig.client("ann").await;
        rig.server
            .next([fault.clone(), fault.clone(), fault.clone()]);
        let pushed = ann
            .push(&change("1", Operation::Upsert, json!({"n": 1})))
            .await;
        let Pushed::Rejected { reason } = pushed else {
            panic!("{fault:?}: {pushed:?}");
        };
        let words = if fault == Fault::ErrorPayload {
            "on fire"
        } else {
            "empty"
        };
        assert!(reason.contains(words), "{reason}");
        let page = ann
            .page(PullRequest::new("notes", 10))
            .await
            .expect_err("no page");
        assert_eq!(page.kind, RemoteErrorKind::Rejected, "{page}");
        let row = ann.fetch("1").await.expect_err("no row");
        assert_eq!(row.kind, RemoteErrorKind::Rejected, "{row}");
    }
}

#[tokio::test]
async fn without_a_good_token_a_pull_asks_for_a_login_and_a_push_waits() {
    let rig = Rig::start().await;
    let ann = rig.client("ann").await;
    rig.server.dismiss("ann-token").expect("dismiss");
    let error = ann
        .page(PullRequest::new("notes", 10))
        .await
        .expect_err("no page");
    assert_eq!(error.kind, RemoteErrorKind::AuthRequired, "{error}");
    assert_eq!(
        ann.fetch("1").await.expect_err("no row").kind,
        RemoteErrorKind::AuthRequired
    );
}

#[tokio::test]
async fn a_row_of_somebody_else_is_that_records_dead_letter_and_the_rest_goes_on() {
    let rig = Rig::start().await;
    let (ann, bob) = (rig.client("ann").await, rig.client("bob").await);
    ann.accepted(&new("1", json!({"text": "ann's"}))).await;
    let reason = bob
        .try_push(&change("1", Operation::Upsert, json!({"text": "bob's"})))
        .await;
    assert!(
        matches!(reason, Err(DeadReason::Rejected { status: 403, .. })),
        "{reason:?}"
    );
    assert_eq!(
        bob.fetch("1").await.expect_err("no row").kind,
        RemoteErrorKind::Refused
    );
    bob.accepted(&new("2", json!({"text": "bob's"}))).await;
    let row = ann.fetch("1").await.expect("fetch").expect("a row");
    assert_eq!(row.row.expect("a row")["text"], "ann's");
}

/// A proxy, a server at another path: their 404 says nothing of the record, and must not delete it on the device.
#[tokio::test]
async fn a_404_that_does_not_name_the_record_deletes_nothing() {
    let router = axum::Router::new();
    let (url, serving) = serve(router).await;
    let vault = builder_at(&url).store(syncvault::store::MemoryStore::new());
    let vault = vault.build().await.expect("vault");
    let lost = Client::new(RestRemote::new(vault.clone()), vault);
    assert_eq!(
        lost.fetch("1").await.expect_err("no row").kind,
        RemoteErrorKind::Refused
    );
    for operation in [Operation::Upsert, Operation::Patch, Operation::Delete] {
        let pushed = lost.push(&change("1", operation, json!({}))).await;
        assert!(
            matches!(pushed, Pushed::Rejected { .. }),
            "{operation:?}: {pushed:?}"
        );
    }
    serving.abort();
}

/// The vault keeps the start of an answer: then status and ETag tell that the change was taken.
#[tokio::test]
async fn a_long_answer_is_read_by_its_status_and_its_etag() {
    let rig = Rig::start().await;
    let ann = rig.client("ann").await;
    let long = json!({"text": "x".repeat(200_000)});
    let first = ann.accepted(&new("1", long.clone())).await;
    assert_eq!(first, Some(Version::from(1)));
    ann.accepted(&on(&first, change("1", Operation::Upsert, long)))
        .await;
    let pushed = ann
        .push(&on(&first, change("1", Operation::Upsert, json!({}))))
        .await;
    assert_eq!(pushed, Pushed::Conflict { server: None });
}

#[tokio::test]
async fn the_same_change_is_the_same_request() {
    let rig = Rig::start().await;
    let ann = rig.client("ann").await;
    let change = on(
        &Some(Version::from("a-b")),
        change("a/b", Operation::Patch, json!({"z": 1, "a": 2})),
    );
    let (one, two) = (ann.remote.request(&change), ann.remote.request(&change));
    let (one, two) = (one.expect("a request"), two.expect("a request"));
    assert_eq!(
        (&one.method, &one.path, &one.headers, &one.body),
        (&two.method, &two.path, &two.headers, &two.body)
    );
    assert_eq!(one.headers["if-match"], "\"a-b\"");
    assert_eq!(one.path, "/notes/a%2Fb");
    let bad = on(&Some(Version::from("a\"b")), change);
    ann.remote.request(&bad).expect_err("no entity tag");
}
