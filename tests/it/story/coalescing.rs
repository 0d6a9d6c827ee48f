//! Coalescing by the app's rule: two folded into one, two that cancel out, and what may not be touched any more.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use syncvault::store::LanePlace;
use syncvault::{
    Coalesced, Coalescing, End, ErrorKind, EventKind, Merge, RequestBuilder, SyncVault,
    SyncVaultBuilder, Ticket,
};

use super::{assert_balanced, builder, soon};
use crate::chaos_server::{Behaviour, ChaosServer};

/// Fields of both, the newer ones first.
fn folded(two: &Coalescing<'_>) -> Vec<u8> {
    let fields = |body: &[u8]| serde_json::from_slice::<Map<String, Value>>(body).expect("JSON");
    let mut all = fields(&two.waiting.body);
    all.extend(fields(&two.newer.body));
    serde_json::to_vec(&all).expect("JSON")
}

/// What a to-do list wants.
pub(super) fn rule(two: &Coalescing<'_>) -> Coalesced {
    let (waiting, newer) = (&two.waiting.request.method, &two.newer.request.method);
    match (waiting.as_str(), newer.as_str()) {
        ("POST", "DELETE") => Coalesced::CancelBoth,
        ("PATCH", "DELETE") => Coalesced::TakeNew,
        ("POST" | "PATCH", "PATCH") => Coalesced::Merge(Merge::into_waiting(folded(two))),
        _ => Coalesced::KeepBoth,
    }
}

pub(super) async fn paused(builder: SyncVaultBuilder) -> SyncVault {
    let vault = builder.build().await.expect("vault");
    vault.pause().await.expect("pause");
    vault
}

pub(super) fn patch(vault: &SyncVault, fields: &Value) -> RequestBuilder {
    vault.patch("/todos/1").json(fields).coalesce("todo-1")
}

fn post(vault: &SyncVault, fields: &Value) -> RequestBuilder {
    vault.post("/todos").json(fields).coalesce("todo-1")
}

pub(super) async fn kept(request: RequestBuilder) -> Ticket {
    request.enqueue().await.expect("enqueue")
}

/// Method, path and body of what the server saw, in order.
pub(super) fn seen(server: &ChaosServer) -> Vec<(String, String, String)> {
    let of = |request: crate::chaos_server::Received| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        (request.method, request.path, body)
    };
    server.received().into_iter().map(of).collect()
}

/// Pauses, and waits for the end of the attempt that may be running.
pub(super) async fn held(vault: &SyncVault, ticket: &Ticket) -> syncvault::Action {
    vault.pause().await.expect("pause");
    let is_over = async {
        loop {
            let action = vault.action(ticket.id()).await.expect("action");
            let action = action.expect("known");
            if matches!(action.state, syncvault::State::Queued { .. }) {
                return action;
            }
            tokio::task::yield_now().await;
        }
    };
    soon(is_over).await
}

fn one(method: &str, path: &str, body: &str) -> (String, String, String) {
    (method.to_owned(), path.to_owned(), body.to_owned())
}

pub(super) async fn drained(vault: &SyncVault) {
    vault.resume().await.expect("resume");
    soon(vault.wait_idle()).await.expect("idle");
    assert_balanced(vault).await;
}

#[tokio::test]
async fn changes_are_folded_into_what_waits() {
    let server = ChaosServer::start().await;
    let vault = paused(builder(&server).coalesce_by(rule)).await;
    let mut events = vault.events();
    let first = kept(patch(&vault, &json!({"a": 1, "b": 1})).idempotency_key("first")).await;
    let second = kept(patch(&vault, &json!({"b": 2, "c": 2}))).await;
    assert_eq!(first.end().await.expect("end"), Some(End::Superseded));
    let mut kinds = Vec::new();
    for _ in 0..3 {
        let event = soon(events.next()).await.expect("event");
        kinds.push((event.action_id, event.kind));
    }
    let by = Some(second.id());
    let want = [
        (first.id(), EventKind::Queued),
        (first.id(), EventKind::Superseded { by }),
        (second.id(), EventKind::Queued),
    ];
    assert_eq!(kinds, want);
    let known = soon(first.events().await.expect("events").next()).await;
    assert_eq!(known.expect("known").kind, EventKind::Superseded { by });
    drained(&vault).await;
    let body = r#"{"a":1,"b":2,"c":2}"#;
    assert_eq!(seen(&server), [one("PATCH", "/todos/1", body)]);
    let keys = server.effect_keys();
    assert_eq!(keys, [second.id().to_string()], "a key of its own");
    let ledger = vault.ledger().await.expect("ledger");
    assert_eq!(
        (ledger.enqueued, ledger.superseded, ledger.delivered),
        (2, 1, 1)
    );
}

/// The caller's keys stand for what the caller gave: an app that does not know whether it saved something asks again.
#[tokio::test]
async fn keys_of_folded_requests_stay_known() {
    let server = ChaosServer::start().await;
    let vault = paused(builder(&server).coalesce_by(rule)).await;
    let first = || patch(&vault, &json!({"a": 1})).idempotency_key("first");
    let second = || patch(&vault, &json!({"b": 2})).idempotency_key("second");
    let (one_id, two_id) = (kept(first()).await.id(), kept(second()).await.id());
    assert_eq!(kept(second()).await.id(), two_id);
    let again = kept(first()).await;
    assert_eq!(again.id(), one_id);
    assert_eq!(again.end().await.expect("end"), Some(End::Superseded));
    assert_eq!(vault.pending_count().await.expect("count"), 1);
    let other = patch(&vault, &json!({"x": 9})).idempotency_key("first");
    let error = other.enqueue().await.expect_err("another request");
    assert_eq!(error.kind(), ErrorKind::IdempotencyConflict);
    drained(&vault).await;
    assert_eq!(server.effect_keys(), ["second"]);
}

/// The first attempt found no server: nothing of it left, so creation and deletion still cancel out.
#[tokio::test]
async fn what_was_never_created_is_never_deleted() {
    let server = ChaosServer::start().await;
    let vault = builder(&server)
        .coalesce_by(rule)
        .build()
        .await
        .expect("vault");
    server.down().await;
    let created = post(&vault, &json!({"title": "milk"}))
        .send()
        .await
        .expect("send");
    let created = created.ticket().expect("queued");
    let action = held(&vault, &created).await;
    assert!(action.attempts > 0, "it was tried");
    let changed = kept(patch(&vault, &json!({"done": true}))).await;
    let delete = vault.delete("/todos/1").coalesce("todo-1");
    let deleted = delete
        .send()
        .await
        .expect("send")
        .ticket()
        .expect("no answer");
    assert_eq!(soon(created.wait()).await.expect("end"), End::Superseded);
    for ticket in [&changed, &deleted] {
        assert_eq!(soon(ticket.wait()).await.expect("end"), End::Cancelled);
    }
    let mut events = deleted.events().await.expect("events");
    let last = soon(events.next()).await.expect("known");
    assert_eq!(last.kind, EventKind::Cancelled);
    server.up().await;
    kept(vault.post("/other")).await;
    drained(&vault).await;
    assert_eq!(seen(&server), [one("POST", "/other", "")]);
    let ledger = vault.ledger().await.expect("ledger");
    assert_eq!(
        (ledger.cancelled, ledger.superseded, ledger.pending),
        (2, 1, 0)
    );
    assert_balanced(&vault).await;
}

/// What is on the wire, and what may have been, is neither merged nor cancelled: the rule is not even asked.
#[tokio::test]
async fn what_left_is_not_touched() {
    let server = ChaosServer::start().await;
    server.next(Behaviour::drop_answer().after(Duration::from_millis(200)));
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let counting = builder(&server).coalesce_by(move |_: &Coalescing<'_>| {
        count.fetch_add(1, Ordering::Relaxed);
        Coalesced::CancelBoth
    });
    let vault = counting.build().await.expect("vault");
    let created = kept(post(&vault, &json!({"title": "milk"}))).await;
    server.wait_received(1).await;
    let deleted = kept(vault.delete("/todos/1").coalesce("todo-1")).await;
    for ticket in [created, deleted] {
        let end = soon(ticket.wait()).await.expect("end");
        assert!(matches!(end, End::Delivered(_)), "{end:?}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    let effects = server.effects();
    let methods: Vec<_> = effects.iter().map(|effect| &*effect.method).collect();
    assert_eq!(methods, ["POST", "DELETE"]);
    assert_balanced(&vault).await;
}

/// What was tried before it was queued may have arrived with its body and its key: neither changes any more.
#[tokio::test]
async fn what_was_tried_before_it_was_queued_is_not_merged() {
    let server = ChaosServer::start().await;
    server.next(Behaviour::drop_answer().after(Duration::from_millis(300)));
    let vault = builder(&server).coalesce_by(rule).build().await;
    let vault = vault.expect("vault");
    let tried = patch(&vault, &json!({"a": 1})).idempotency_key("tried");
    let tried = tokio::spawn(tried.delivery(syncvault::Delivery::OnFailure).send());
    server.wait_received(1).await;
    vault.pause().await.expect("pause");
    let waiting = kept(patch(&vault, &json!({"b": 2}))).await;
    let sent = soon(tried).await.expect("no panic").expect("send");
    assert!(sent.is_queued());
    assert_eq!(waiting.end().await.expect("end"), None);
    drained(&vault).await;
    let bodies = server.received().into_iter();
    let bodies: Vec<_> = bodies.map(|request| request.body).collect();
    assert_eq!(bodies, [&br#"{"a":1}"#[..], br#"{"b":2}"#, br#"{"a":1}"#]);
    assert_eq!(server.violations(), [""; 0]);
}

/// With something queued between the two, a merge would let one overtake: both are kept, unless the app names a place.
#[tokio::test]
async fn a_merge_overtakes_nothing_by_itself() {
    for place in [None, Some(LanePlace::Old), Some(LanePlace::End)] {
        let server = ChaosServer::start().await;
        let vault = paused(builder(&server).coalesce_by(move |two: &Coalescing<'_>| {
            let merge = Merge::into_newer(folded(two));
            Coalesced::Merge(place.map_or(merge.clone(), |place| merge.place(place)))
        }));
        let vault = vault.await;
        kept(patch(&vault, &json!({"a": 1}))).await;
        kept(vault.post("/between")).await;
        kept(patch(&vault, &json!({"b": 2}))).await;
        drained(&vault).await;
        let between = one("POST", "/between", "");
        let change = |body| one("PATCH", "/todos/1", body);
        let want = match place {
            None => vec![change(r#"{"a":1}"#), between, change(r#"{"b":2}"#)],
            Some(LanePlace::Old) => vec![change(r#"{"a":1,"b":2}"#), between],
            _ => vec![between, change(r#"{"a":1,"b":2}"#)],
        };
        assert_eq!(seen(&server), want, "{place:?}");
    }
}

/// No time, no expiry and no priority that the app set for one of them is lost.
#[tokio::test]
async fn a_merged_request_keeps_the_promises_of_both() {
    let server = ChaosServer::start().await;
    let vault = paused(builder(&server).coalesce_by(rule)).await;
    let hour = Duration::from_secs(3600);
    let later = SystemTime::now() + hour;
    let first = patch(&vault, &json!({"a": 1}))
        .priority(5)
        .not_before(later);
    kept(first.tag("first")).await;
    let second = kept(patch(&vault, &json!({"b": 1})).expires_in(hour)).await;
    let merged = async |ticket: &Ticket| {
        let action = vault.action(ticket.id()).await.expect("action");
        action.expect("known")
    };
    let action = merged(&second).await;
    assert_eq!(action.state, syncvault::State::Queued { due: later.into() });
    assert_eq!((action.priority, action.tag.as_deref()), (5, Some("first")));
    assert_eq!(action.expires, None, "the first one waits for ever");
    assert_eq!(action.body_bytes, 13);
    let post = vault.post("/x").body("{}").coalesce("x").lane("x");
    kept(post.expires_in(hour * 2)).await;
    let change = vault.patch("/x").body("{}").coalesce("x").lane("x");
    let third = merged(&kept(change.expires_in(hour)).await).await;
    assert!(third.expires.expect("an expiry").since(third.created) > hour);
}

/// Both are kept when the rule panics, and when it is not asked: large, encoded.
#[tokio::test]
async fn what_cannot_be_merged_is_kept() {
    let server = ChaosServer::start().await;
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let vault = paused(builder(&server).coalesce_by(move |_: &Coalescing<'_>| {
        count.fetch_add(1, Ordering::Relaxed);
        panic!("the app's bug")
    }));
    let vault = vault.await;
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("large");
    std::fs::write(&path, vec![7; 1_100_000]).expect("write");
    let put = || vault.put("/x").coalesce("x");
    kept(put().body("1")).await;
    kept(put().body("2")).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    kept(put().body_file(&path)).await;
    kept(put().body("3")).await;
    kept(put().header("content-encoding", "x-own").body("4")).await;
    kept(put().body("5")).await;
    kept(put().body(vec![0; 1_048_577])).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(vault.pending_count().await.expect("count"), 7);
    drained(&vault).await;
    assert_eq!(server.received().len(), 7);
}

/// A store that fails at the append, and a crash there, leave what waits as it was.
#[cfg(feature = "test-util")]
#[tokio::test]
async fn a_merge_that_is_not_written_changes_nothing() {
    use syncvault::store::MemoryStore;
    use syncvault::testing::{Fault, FaultyStore};

    use crate::story::bare_builder;

    let server = ChaosServer::start().await;
    let memory = MemoryStore::new();
    let store = FaultyStore::new(Arc::new(memory.restarted()));
    let faults = store.faults();
    let in_rule = faults.clone();
    let vault = bare_builder(&server).store(store).coalesce_by(move |two| {
        // The next call is the append.
        in_rule.fail_at(1, Fault::PoisonedBefore);
        rule(two)
    });
    let vault = paused(vault).await;
    let first = kept(patch(&vault, &json!({"a": 1}))).await.id();
    let before = vault.action(first).await.expect("action").expect("known");
    let lost = patch(&vault, &json!({"b": 2})).enqueue().await;
    lost.expect_err("it was not written");
    drop(vault);
    let vault = bare_builder(&server).store(memory.restarted()).build();
    let vault = vault.await.expect("vault");
    let after = vault.action(first).await.expect("action").expect("known");
    assert_eq!(after.state, before.state);
    drained(&vault).await;
    assert_eq!(seen(&server), [one("PATCH", "/todos/1", r#"{"a":1}"#)]);
    assert_eq!(vault.ledger().await.expect("ledger").enqueued, 1);
}

/// What the rule is shown, and that its word is asked for again when the queue changed under it.
#[tokio::test]
async fn the_rule_is_asked_again_when_the_queue_changed() {
    let server = ChaosServer::start().await;
    let own: Arc<Mutex<Option<SyncVault>>> = Arc::default();
    let shown: Arc<Mutex<Vec<String>>> = Arc::default();
    let (in_rule, seen_by_rule) = (own.clone(), shown.clone());
    let runtime = tokio::runtime::Handle::current();
    let vault = paused(builder(&server).coalesce_by(move |two: &Coalescing<'_>| {
        assert_eq!((two.key, two.lane.as_str()), ("todo-1", "default"));
        let body = String::from_utf8_lossy(&two.waiting.body).into_owned();
        seen_by_rule.lock().expect("lock").push(body);
        // Somebody takes the waiting one back, behind the rule's back.
        if let Some(vault) = in_rule.lock().expect("lock").take() {
            let cancel = runtime.spawn(async move {
                let page = vault.pending_actions(syncvault::Paging::default());
                let id = page.await.expect("page").items[0].id;
                let cancelled = vault.cancel(id).await.expect("cancel");
                assert_eq!(cancelled, syncvault::Cancellation::Cancelled);
                vault
                    .patch("/todos/1")
                    .body(r#"{"z":0}"#)
                    .coalesce("todo-1")
                    .enqueue()
                    .await
            });
            while !cancel.is_finished() {
                std::thread::yield_now();
            }
        }
        rule(two)
    }));
    let vault = soon(vault).await;
    kept(patch(&vault, &json!({"a": 1}))).await;
    *own.lock().expect("lock") = Some(vault.clone());
    let change = patch(&vault, &json!({"b": 2}));
    let task = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("runtime").block_on(change.enqueue())
    });
    while !task.is_finished() {
        tokio::task::yield_now().await;
    }
    task.join().expect("no panic").expect("enqueue");
    let shown = shown.lock().expect("lock").clone();
    assert_eq!(shown, [r#"{"a":1}"#, r#"{"z":0}"#]);
    drained(&vault).await;
    assert_eq!(
        seen(&server),
        [one("PATCH", "/todos/1", r#"{"b":2,"z":0}"#)]
    );
}

/// In a transaction of the app nobody is asked: both are kept, and nothing is lost.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn in_a_transaction_both_are_kept() {
    use syncvault::rusqlite::Connection;
    use syncvault::store::SqliteStore;

    use crate::story::bare_builder;

    let (server, dir) = (ChaosServer::start().await, tempfile::tempdir());
    let dir = dir.expect("dir");
    let file = dir.path().join("app.db");
    let mut app = Connection::open(&file).expect("open");
    SqliteStore::attach(&app).expect("the tables of the outbox");
    let store = SqliteStore::outbox_with(&file, shared()).expect("store");
    let vault = paused(bare_builder(&server).store(store).coalesce_by(rule)).await;
    kept(patch(&vault, &json!({"a": 1}))).await;
    app.busy_timeout(Duration::from_secs(20)).expect("patience");
    let behavior = syncvault::rusqlite::TransactionBehavior::Immediate;
    let transaction = app.transaction_with_behavior(behavior).expect("begin");
    let second = patch(&vault, &json!({"b": 2}));
    second.enqueue_in(&transaction).expect("enqueue");
    transaction.commit().expect("commit");
    kept(patch(&vault, &json!({"c": 3}))).await;
    drained(&vault).await;
    let bodies: Vec<_> = seen(&server).into_iter().map(|(_, _, body)| body).collect();
    assert_eq!(bodies, [r#"{"a":1}"#, r#"{"b":2,"c":3}"#]);
}

#[cfg(feature = "sqlite")]
pub(super) fn shared() -> syncvault::store::SqliteOptions {
    let mut options = syncvault::store::SqliteOptions::default();
    options.access = syncvault::store::Access::Shared;
    options.poll = Duration::from_millis(10);
    options
}
