//! Batches of the protocol: a result for each change, in order, and single requests where a batch does not go.

use http::HeaderMap;
use serde_json::json;
use syncvault::Outcome;
use syncvault::sync::{
    BatchChange, BatchResult, Change, Operation, PushRequest, Pushed, RemoteStore, RestRemote,
};

use super::super::reference::Fault;
use super::super::rig::{Client, Rig, change, new, on};

/// Sends changes in one request, and gives what the server made of each.
async fn send(client: &Client<RestRemote>, changes: &[Change], key: &str) -> Vec<BatchResult> {
    let singles: Vec<PushRequest> = changes
        .iter()
        .map(|change| client.remote.request(change).expect("a request"))
        .collect();
    let folded: Vec<_> = changes
        .iter()
        .zip(&singles)
        .map(|(change, single)| {
            BatchChange::new(&change.idempotency_key, &single.method, &single.path)
                .headers(&single.headers)
                .body(&single.body)
        })
        .collect();
    let batch = client.remote.batch(&folded).expect("a batch");
    let request = client.vault.request(batch.method, &batch.path);
    let request = request
        .headers(batch.headers)
        .body(batch.body)
        .idempotency_key(key);
    let Outcome::Sent(response) = request.lane(key).send().await.expect("sent") else {
        panic!("queued");
    };
    let body = response.bytes().await.expect("a body");
    RestRemote::read_batch(&body, changes.len()).expect("results")
}

fn read(client: &Client<RestRemote>, changes: &[Change], results: &[BatchResult]) -> Vec<Pushed> {
    let pairs = changes.iter().zip(results);
    pairs
        .map(|(change, result)| client.remote.read_push(change, &result.answer))
        .collect()
}

#[tokio::test]
async fn what_fails_in_a_batch_stops_nothing() {
    let rig = Rig::start().await;
    let (ann, bob) = (rig.client("ann").await, rig.client("bob").await);
    let old = ann.accepted(&new("old", json!({"n": 1}))).await;
    ann.accepted(&on(&old, change("old", Operation::Upsert, json!({"n": 2}))))
        .await;
    bob.accepted(&new("bob's", json!({}))).await;
    let changes = [
        new("1", json!({"n": 1})),
        on(&old, change("old", Operation::Upsert, json!({"n": 3}))),
        change("bob's", Operation::Patch, json!({"n": 1})),
        change("nobody's", Operation::Delete, json!(null)),
        new("a/\"b\0", json!({"n": 2})),
    ];
    let results = send(&ann, &changes, "batch-1").await;
    let statuses: Vec<_> = results.iter().map(|result| result.answer.status).collect();
    assert_eq!(statuses, [201, 412, 403, 404, 201]);
    let pushed = read(&ann, &changes, &results);
    assert!(matches!(
        &pushed[0],
        Pushed::Accepted {
            version: Some(_),
            row: Some(_),
            ..
        }
    ));
    assert!(
        matches!(&pushed[1], Pushed::Conflict { server: Some(server) } if server.row.is_some())
    );
    assert!(
        matches!(&pushed[3], Pushed::Accepted { .. }),
        "what is not there is deleted"
    );
    assert!(ann.fetch("a/\"b\0").await.expect("fetch").is_some());
}

/// dynos_sync's adapter sends upserts first and deletions then: a record that is deleted and made again ends deleted.
#[tokio::test]
async fn a_batch_never_reorders_operations_on_one_record() {
    let rig = Rig::start().await;
    let ann = rig.client("ann").await;
    ann.accepted(&new("1", json!({"n": 0}))).await;
    let changes = [
        change("1", Operation::Patch, json!({"n": 1})),
        change("1", Operation::Delete, json!(null)),
        new("1", json!({"n": 2})),
        change("1", Operation::Patch, json!({"m": 3})),
    ];
    let results = send(&ann, &changes, "batch-1").await;
    assert!(
        read(&ann, &changes, &results)
            .iter()
            .all(|pushed| matches!(pushed, Pushed::Accepted { .. }))
    );
    let row = ann.fetch("1").await.expect("fetch").expect("a row");
    assert_eq!(
        row.row.map(serde_json::Value::Object),
        Some(json!({"n": 2, "m": 3}))
    );
}

/// The keys of the changes are their own, in a batch and alone: so a batch whose answer is lost can be followed by single requests.
#[tokio::test]
async fn single_requests_after_a_batch_change_nothing_again() {
    let rig = Rig::start().await;
    let ann = rig.client("ann").await;
    let changes = [new("1", json!({"n": 1})), new("2", json!({"n": 2}))];
    let results = send(&ann, &changes, "batch-1").await;
    let (alone, batched) = (rig.client("ann").await, read(&ann, &changes, &results));
    for (change, batched) in changes.iter().zip(&batched) {
        assert_eq!(&alone.push(change).await, batched);
    }
    let (rows, _) = ann.pull(None, 10).await;
    assert_eq!(rows.len(), 2);
}

#[tokio::test]
async fn an_answer_without_a_result_for_each_tells_nothing_of_any() {
    for body in [
        "",
        "{}",
        "{\"error\":\"no\"}",
        "{\"results\":[]}",
        "{\"results\":[{\"status\":200},{\"status\":200},{\"status\":200}]}",
        "{\"results\":[{\"status\":200},{\"state\":200}]}",
    ] {
        RestRemote::read_batch(body.as_bytes(), 2).expect_err(body);
    }
    let body = "{\"results\":[{\"status\":503,\"retry_after\":7},{\"status\":204}]}";
    let results = RestRemote::read_batch(body.as_bytes(), 2).expect("results");
    assert_eq!(results[0].retry_after.map(|wait| wait.as_secs()), Some(7));
    assert!(results[1].answer.body.is_empty());
}

#[tokio::test]
async fn what_is_no_push_of_this_protocol_is_not_folded() {
    let rig = Rig::start().await;
    let ann = rig.client("ann").await;
    let (put, none) = (http::Method::PUT, HeaderMap::new());
    let mut bad = HeaderMap::new();
    bad.insert("if-match", http::HeaderValue::from_static("no tag"));
    for (path, headers, body) in [
        ("/", &none, &b"{}"[..]),
        ("notes", &none, b"{}"),
        ("/notes/1", &none, b"no json"),
        ("/notes/1", &bad, b"{}"),
    ] {
        let change = BatchChange::new("k", &put, path)
            .headers(headers)
            .body(body);
        ann.remote.batch(&[change]).expect_err(path);
    }
    let whole = BatchChange::new("k", &put, "http://h:1/v1/no%20tes/a%2Fb?x=y").body(b"{}");
    let batch = ann.remote.batch(&[whole]).expect("a batch");
    let body: serde_json::Value = serde_json::from_slice(&batch.body).expect("JSON");
    assert_eq!(
        body,
        json!({"changes": [{"key": "k", "method": "PUT", "table": "no tes", "id": "a/b", "row": {}}]})
    );
    assert!(rig.server.seen().is_empty());
    rig.server.next([Fault::None]);
}
