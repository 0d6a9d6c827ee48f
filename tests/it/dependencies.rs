//! Requests that wait for others, and refer to their answers: whole vaults, on fakes and paused time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use syncvault::action::{Lane, Origin, Record};
use syncvault::clock::Timestamp;
use syncvault::connectivity::AlwaysReachable;
use syncvault::decide::Settlement;
use syncvault::store::{Advance, Amend, Append, MemoryStore, Retention, Settle, Store};
use syncvault::testing::{FakeServer, Reply, Seen, TestClock};
use syncvault::{
    ActionId, Cancellation, ConnectivityMode, DeadLane, DeadReason, Delivery, End, ErrorKind,
    EventKind, Events, Outcome, SyncVault, SyncVaultBuilder, Ticket, WhyPending, WireState,
};

const WAIT: Duration = Duration::from_secs(3600);

fn builder(server: &FakeServer) -> SyncVaultBuilder {
    SyncVault::builder("http://fake.test/v1")
        .store(MemoryStore::new())
        .transport(server.transport())
        .connectivity(AlwaysReachable::new())
        .clock(TestClock::new())
        .lane_by(|request| Some(request.url.path().to_owned()))
}

/// It gives an id to each item, its place and its version.
fn shop() -> FakeServer {
    let server = FakeServer::new();
    server.script(|seen: &Seen| match (seen.method.as_str(), seen.path()) {
        ("POST", "/v1/items") => Reply::status(201)
            .header("etag", "\"v1\"")
            .header("location", "items/7?full=1")
            .body(r#"{"id":7,"tag":{"name":"a b"}}"#),
        _ => Reply::status(200),
    });
    server
}

/// Offline, so that everything is queued before anything is sent.
async fn offline(builder: SyncVaultBuilder) -> SyncVault {
    let vault = builder.build().await.expect("vault");
    vault.set_connectivity(ConnectivityMode::Offline);
    vault
}

async fn end(ticket: &Ticket) -> End {
    let end = tokio::time::timeout(WAIT, ticket.wait()).await;
    end.expect("it ends").expect("its end is told")
}

async fn delivered(ticket: &Ticket) {
    let end = end(ticket).await;
    assert!(matches!(end, End::Delivered(_)), "{end:?}");
}

async fn reason(ticket: &Ticket) -> DeadReason {
    match end(ticket).await {
        End::Dead(reason) => reason,
        other => panic!("it is no dead letter: {other:?}"),
    }
}

fn paths(server: &FakeServer) -> Vec<String> {
    let seen = server.attempts();
    seen.iter()
        .map(|seen| match seen.url.query() {
            Some(query) => format!("{} {}?{query}", seen.method, seen.path()),
            None => format!("{} {}", seen.method, seen.path()),
        })
        .collect()
}

/// The temporary-id problem: created, changed and tagged offline, before the server gave an id.
#[tokio::test(start_paused = true)]
async fn what_was_created_offline_is_changed_under_the_servers_id() {
    let server = shop();
    let vault = offline(builder(&server)).await;
    let created = vault.post("/items").json(&json!({"text": "milk"}));
    let created = created.enqueue().await.expect("enqueue");
    let answer = vault.response_of(&created);
    let change = vault
        .put("/items/{id}")
        .path_ref("id", answer.json("/id"))
        .query_ref("tag", answer.json("/tag/name"))
        .header_ref("if-match", answer.header("ETag"))
        .json_ref("/item", answer.json("/id"))
        .json(&json!({"text": "oat milk", "item": null}));
    let change = change.enqueue().await.expect("enqueue");
    let moved = vault.delete("").url_ref(answer.header("location"));
    let moved = moved.after(&change).enqueue().await.expect("enqueue");
    assert_eq!(change.parents(), [created.id()]);
    let why = vault.why_pending(change.id()).await.expect("why");
    assert_eq!(
        why,
        WhyPending::WaitsFor {
            parent: created.id()
        }
    );
    let action = vault
        .action(moved.id())
        .await
        .expect("read")
        .expect("known");
    assert_eq!(action.parents, [created.id(), change.id()]);
    assert_eq!(action.waits_for, action.parents);
    vault.set_connectivity(ConnectivityMode::Auto);
    delivered(&moved).await;
    let wanted = [
        "POST /v1/items",
        "PUT /v1/items/7?tag=a+b",
        "DELETE /v1/items/7?full=1",
    ];
    assert_eq!(paths(&server), wanted);
    let seen = &server.attempts()[1];
    assert_eq!(seen.headers["if-match"], "\"v1\"");
    assert_eq!(&seen.body[..], br#"{"item":7,"text":"oat milk"}"#);
    let action = vault
        .action(change.id())
        .await
        .expect("read")
        .expect("known");
    assert_eq!(
        (action.url.path(), action.waits_for.len()),
        ("/v1/items/7", 0)
    );
}

/// The same bytes and the same key at each attempt (P2), whatever becomes of the parent's answer.
#[tokio::test(start_paused = true)]
async fn a_filled_request_is_the_same_at_each_attempt() {
    let server = FakeServer::new();
    let vault = offline(builder(&server).max_retries(5)).await;
    let created = vault.post("/items").enqueue().await.expect("enqueue");
    let id = vault.response_of(&created).json("/id");
    let child = vault.put("/items/{id}").path_ref("id", id.clone());
    let child = child
        .json_ref("", id)
        .json(&())
        .enqueue()
        .await
        .expect("enqueue");
    server.answers_next(Reply::status(200).body(r#"{"id":"7/8"}"#));
    server.answers_next(Reply::status(500));
    server.answers_next(Reply::lost());
    vault.set_connectivity(ConnectivityMode::Auto);
    delivered(&child).await;
    let attempts = server.attempts();
    assert_eq!(attempts.len(), 4);
    for seen in &attempts[1..] {
        assert_eq!(
            (seen.path(), &seen.body[..]),
            ("/v1/items/7%2F8", &b"\"7/8\""[..])
        );
        assert_eq!(seen.key.as_deref(), Some(child.key()));
    }
    assert_eq!(server.complaints(), [] as [&str; 0]);
}

/// What is queued after a dead parent is dead, and no child goes back before its parent does.
async fn after_the_dead(vault: &SyncVault, parent: &Ticket, child: &Ticket) -> Ticket {
    let late = vault
        .put("/c")
        .after(parent)
        .enqueue()
        .await
        .expect("enqueue");
    assert_eq!(
        reason(&late).await,
        DeadReason::ParentDead {
            parent: parent.id()
        }
    );
    let refused = vault.dead_letters().requeue(child.id()).await;
    let refused = refused.expect_err("its parent goes first");
    assert_eq!(refused.kind(), ErrorKind::WrongState);
    assert!(
        refused.to_string().contains(&parent.id().to_string()),
        "{refused}"
    );
    late
}

/// What was told of each action, until so many were delivered.
async fn told_until_delivered(
    events: &mut Events,
    count: usize,
) -> BTreeMap<ActionId, Vec<EventKind>> {
    let mut told: BTreeMap<ActionId, Vec<EventKind>> = BTreeMap::new();
    let mut delivered = 0;
    while delivered < count {
        let event = events.next().await.expect("an event");
        delivered += usize::from(matches!(event.kind, EventKind::Succeeded { .. }));
        told.entry(event.action_id).or_default().push(event.kind);
    }
    told
}

#[tokio::test(start_paused = true)]
async fn a_dead_parent_takes_its_children_along_and_brings_them_back() {
    let server = FakeServer::new();
    let letters = Arc::new(Mutex::new(Vec::new()));
    let told = letters.clone();
    let hooked = builder(&server).on_dead_letter(move |letter| {
        let told = told.clone();
        async move { told.lock().expect("no panic").push(letter.action.id) }
    });
    let vault = offline(hooked).await;
    let mut events = vault.events();
    let parent = vault.post("/items").enqueue().await.expect("enqueue");
    let child = vault
        .put("/a")
        .after(&parent)
        .enqueue()
        .await
        .expect("enqueue");
    let grandchild = vault
        .put("/b")
        .after(child.id())
        .enqueue()
        .await
        .expect("enqueue");
    server.answers_next(Reply::status(422));
    vault.set_connectivity(ConnectivityMode::Auto);
    assert_eq!(
        reason(&grandchild).await,
        DeadReason::ParentDead { parent: child.id() }
    );
    assert_eq!(
        reason(&child).await,
        DeadReason::ParentDead {
            parent: parent.id()
        }
    );
    let all = [parent.id(), child.id(), grandchild.id()];
    while letters.lock().expect("no panic").len() < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(server.attempts().len(), 1, "no child was sent");
    let late = after_the_dead(&vault, &parent, &child).await;
    let counts = *vault.status().counts();
    assert_eq!((counts.pending, counts.dead), (0, 4));
    assert_eq!(
        vault.dead_letters().requeue_all().await.expect("requeue"),
        1
    );
    for ticket in [&parent, &child, &grandchild, &late] {
        delivered(ticket).await;
    }
    let ledger = vault.ledger().await.expect("ledger");
    assert_eq!((ledger.delivered, ledger.dead), (4, 0));
    let told = told_until_delivered(&mut events, 4).await;
    for id in all {
        let kinds = &told[&id];
        let dead = kinds
            .iter()
            .position(|kind| matches!(kind, EventKind::DeadLettered { .. }));
        let dead = dead.expect("its death is told");
        assert_eq!(kinds[0], EventKind::Queued);
        assert_eq!(kinds[dead + 1], EventKind::Queued, "{kinds:?}");
    }
}

/// Cancelled, expired, discarded: nothing comes of it, and the child says so.
#[tokio::test(start_paused = true)]
async fn a_parent_that_ends_otherwise_takes_its_children_along() {
    let server = FakeServer::new();
    let vault = offline(builder(&server)).await;
    let cancelled = vault.post("/a").enqueue().await.expect("enqueue");
    let expired = vault.post("/b").expires_in(Duration::from_secs(9));
    let expired = expired.enqueue().await.expect("enqueue");
    let mut children = Vec::new();
    for (n, parent) in [&cancelled, &expired].into_iter().enumerate() {
        let child = vault.post(format!("/c{n}")).after(parent);
        children.push((child.enqueue().await.expect("enqueue"), parent.id()));
    }
    let done = vault.cancel(cancelled.id()).await.expect("cancel");
    assert_eq!(done, Cancellation::Cancelled);
    for (child, parent) in &children {
        assert_eq!(
            reason(child).await,
            DeadReason::ParentDead { parent: *parent }
        );
    }
    let late = vault.post("/d").after(&cancelled).enqueue().await;
    assert_eq!(late.expect_err("refused").kind(), ErrorKind::WrongState);
    let unknown = vault.post("/d").after(ActionId::new()).enqueue().await;
    assert_eq!(unknown.expect_err("refused").kind(), ErrorKind::NotFound);
    assert_eq!(server.attempts().len(), 0);
    for (child, _) in &children {
        let refused = vault.dead_letters().requeue(child.id()).await;
        assert_eq!(refused.expect_err("for good").kind(), ErrorKind::WrongState);
        vault
            .dead_letters()
            .discard(child.id())
            .await
            .expect("discard");
    }
}

/// Each says what is wrong, was never sent, and looks again when it is sent back.
#[tokio::test(start_paused = true)]
async fn a_reference_that_leads_to_nothing_is_a_dead_letter() {
    let server = shop();
    let vault = offline(builder(&server)).await;
    let created = vault.post("/items").enqueue().await.expect("enqueue");
    let answer = vault.response_of(&created);
    let lost = vault.put("/a/{id}").path_ref("id", answer.json("/nothing"));
    let lost = lost.enqueue().await.expect("enqueue");
    let bare = vault.post("/bare").enqueue().await.expect("enqueue");
    let page = vault.response_of(&bare).json("/id");
    let page = vault
        .put("/b/{id}")
        .path_ref("id", page)
        .enqueue()
        .await
        .expect("enqueue");
    vault.set_connectivity(ConnectivityMode::Auto);
    for (ticket, parent, words) in [
        (&lost, &created, "its answer has no such value"),
        (&page, &bare, "its answer is not JSON"),
    ] {
        let detail = words.to_owned();
        let parent = parent.id();
        assert_eq!(
            reason(ticket).await,
            DeadReason::Unresolved { parent, detail }
        );
    }
    let letter = vault.dead_letters().get(lost.id()).await.expect("read");
    let words = letter.expect("there").action.last_error;
    let want = "{id} in the path, from \"/nothing\" of the answer: its answer has no such value";
    assert_eq!(words.as_deref(), Some(want));
    assert_eq!(server.attempts().len(), 2);
    let again = vault
        .dead_letters()
        .requeue(lost.id())
        .await
        .expect("requeue");
    assert!(matches!(
        reason(&again).await,
        DeadReason::Unresolved { .. }
    ));
    assert_eq!(server.attempts().len(), 2);
}

/// Whatever a server says.
#[tokio::test(start_paused = true)]
async fn a_url_of_another_origin_must_be_allowed() {
    for is_allowed in [false, true] {
        let server = FakeServer::new();
        let mut builder = builder(&server);
        if is_allowed {
            builder = builder.allow_origin("http://other.test");
        }
        let vault = offline(builder).await;
        let created = vault.post("/items").enqueue().await.expect("enqueue");
        let location = vault.response_of(&created).header("location");
        let child = vault
            .get("")
            .url_ref(location)
            .enqueue()
            .await
            .expect("enqueue");
        let away = Reply::status(201).header("location", "http://other.test/7");
        server.answers_next(away);
        vault.set_connectivity(ConnectivityMode::Auto);
        match is_allowed {
            true => delivered(&child).await,
            false => assert!(matches!(
                reason(&child).await,
                DeadReason::Unresolved { .. }
            )),
        }
        assert_eq!(server.attempts().len(), 1 + usize::from(is_allowed));
    }
}

/// A parent that is delivered by then: filled in at once from the kept answer.
#[tokio::test(start_paused = true)]
async fn a_late_child_finds_the_kept_answer() {
    let server = shop();
    let vault = builder(&server).build().await.expect("vault");
    let created = vault.post("/items").enqueue().await.expect("enqueue");
    delivered(&created).await;
    let id = vault.response_of(created.id()).json("/id");
    let child = vault
        .put("/items/{id}")
        .path_ref("id", id)
        .send()
        .await
        .expect("send");
    let Outcome::Queued(child) = child else {
        panic!("what refers to an answer is queued: {child:?}");
    };
    delivered(&child).await;
    assert_eq!(paths(&server)[1], "PUT /v1/items/7");
}

/// The key stands for the request as it is written, before and after it is filled in.
#[tokio::test(start_paused = true)]
async fn a_child_is_known_again_by_its_key() {
    let server = shop();
    let vault = offline(builder(&server)).await;
    let created = vault.post("/items").enqueue().await.expect("enqueue");
    let other = vault.post("/others").enqueue().await.expect("enqueue");
    let id = vault.response_of(&created).json("/id");
    let child = |parent: &Ticket| {
        let request = vault.put("/items/{id}").path_ref("id", id.clone());
        request.after(parent).idempotency_key("change").enqueue()
    };
    let first = child(&created).await.expect("enqueue");
    assert_eq!(child(&created).await.expect("known").id(), first.id());
    let conflict = child(&other).await.expect_err("another request");
    assert_eq!(conflict.kind(), ErrorKind::IdempotencyConflict);
    vault.set_connectivity(ConnectivityMode::Auto);
    delivered(&first).await;
    assert_eq!(child(&created).await.expect("known").id(), first.id());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_a_reference_is_refused() {
    let server = FakeServer::new();
    let vault = offline(builder(&server)).await;
    let parent = vault.post("/items").enqueue().await.expect("enqueue");
    let answer = vault.response_of(&parent);
    let id = || answer.json("/id");
    let json = &json!({"a": 1});
    for (what, request) in [
        (
            "the path has no {id}",
            vault.put("/items").path_ref("id", id()),
        ),
        ("letters", vault.put("/items/{i d}").path_ref("i d", id())),
        (
            "pointer",
            vault.put("/{id}").path_ref("id", answer.json("id")),
        ),
        (
            "not kept",
            vault.put("/{id}").path_ref("id", answer.header("x-other")),
        ),
        (
            "authorization",
            vault.put("/").header_ref("authorization", id()),
        ),
        (
            "idempotency-key",
            vault.put("/").header_ref("idempotency-key", id()),
        ),
        ("host", vault.put("/").header_ref("host", id())),
        (
            "put `null` there",
            vault.put("/").json(json).json_ref("/b", id()),
        ),
        (
            "put `null` there",
            vault.put("/").body("x").json_ref("", id()),
        ),
        (
            "in memory",
            vault.put("/").body_file("/dev/null").json_ref("/a", id()),
        ),
        (
            "places of its own",
            vault.put("/{id}").path_ref("id", id()).url_ref(id()),
        ),
    ] {
        let error = request.enqueue().await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
    let never = vault.post("/a").after(&parent).delivery(Delivery::Never);
    let error = never.send().await.expect_err("it would have to wait");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let anna = vault.post("/a").principal("anna").after(&parent);
    let error = anna.enqueue().await.expect_err("another principal's");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

/// Memory holds a page of children, never all: see the rules of the contract. This is about time and order.
#[tokio::test(start_paused = true)]
async fn a_chain_of_a_thousand_goes_link_by_link() {
    const COUNT: usize = 1_000;
    let server = FakeServer::new();
    server.script(|seen: &Seen| {
        let link: usize = seen
            .path()
            .rsplit('/')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("n");
        Reply::status(200).body(format!("{{\"next\":{}}}", link + 1))
    });
    let vault = offline(builder(&server)).await;
    let mut last = vault.post("/chain/0").enqueue().await.expect("enqueue");
    for _ in 1..COUNT {
        let next = vault.response_of(&last).json("/next");
        let link = vault.post("/chain/{n}").path_ref("n", next);
        last = link.enqueue().await.expect("enqueue");
    }
    vault.set_connectivity(ConnectivityMode::Auto);
    delivered(&last).await;
    let want: Vec<_> = (0..COUNT).map(|n| format!("POST /v1/chain/{n}")).collect();
    assert_eq!(paths(&server), want);
}

/// More than one page of children, in lanes of all lengths, each sent once.
#[tokio::test(start_paused = true)]
async fn a_crowd_refers_to_one_answer() {
    const COUNT: usize = 1_000;
    let server = shop();
    let vault = offline(builder(&server).lane_by(|request| {
        let name = request.url.path();
        Some(name[..name.len().min(7)].to_owned())
    }))
    .await;
    let created = vault.post("/items").enqueue().await.expect("enqueue");
    let id = vault.response_of(&created).json("/id");
    for n in 0..COUNT {
        let request = vault.post(format!("/c{n}/{{id}}"));
        let request = request.path_ref("id", id.clone());
        request.enqueue().await.expect("enqueue");
    }
    vault.set_connectivity(ConnectivityMode::Auto);
    let idle = tokio::time::timeout(WAIT, vault.wait_idle()).await;
    idle.expect("in time").expect("idle");
    let attempts = server.attempts();
    assert_eq!(attempts.len(), COUNT + 1);
    assert!(attempts[1..].iter().all(|seen| seen.path().ends_with("/7")));
}

/// A parent with so many children, in many lanes.
async fn family(store: &MemoryStore, count: usize, now: Timestamp) -> ActionId {
    store.open(now).await.expect("open");
    let record = |lane: usize| {
        let lane = Lane::new(format!("lane {lane}")).expect("a name");
        let origin = Origin::from_stored("http://fake.test:80");
        let content = Bytes::from_static(b"{}");
        Record::new(ActionId::new(), lane, origin, content, now)
    };
    let add = async |batch: Vec<Record>| {
        let batch = batch
            .into_iter()
            .map(|record| Append::new(record, Bytes::new(), now));
        store.append(batch.collect()).await.expect("append");
    };
    let parent = record(0);
    add(vec![parent.clone()]).await;
    for page in (0..count).step_by(1_000) {
        let children = (page..page + 1_000).map(|n| {
            let mut child = record(n % 4_000);
            child.parents.push(parent.id);
            child
        });
        add(children.collect()).await;
    }
    parent.id
}

/// The store alone, with ten thousand children: no step looks at more than a page of them, whatever happens to the parent.
#[tokio::test]
async fn ten_thousand_children_are_looked_at_page_by_page() {
    const COUNT: usize = 10_000;
    const PAGE: usize = 256;
    let (store, now) = (
        MemoryStore::new(),
        Timestamp::from_millis(1_700_000_000_000),
    );
    let id = family(&store, COUNT, now).await;
    let leasing = || {
        let mut step = Advance::new(now, Retention::default());
        let lease = step.lease.get_or_insert_default();
        lease.slots = COUNT;
        step
    };
    let leased = store.advance(leasing()).await.expect("advance").leased;
    assert_eq!(leased.len(), 1);
    let reason = DeadReason::Rejected { status: 404 };
    let dead = Settlement::Dead {
        reason,
        lane: DeadLane::Skip,
    };
    let mut step = Advance::new(now, Retention::default());
    step.settle
        .extend(Settle::of(&leased[0].record, dead, WireState::Answered));
    let mut buried = 0;
    loop {
        let done = store.advance(step).await.expect("advance");
        assert!(done.buried.len() <= PAGE);
        buried += done.buried.len();
        step = Advance::new(now, Retention::default());
        if !done.is_unfinished {
            break;
        }
    }
    assert_eq!(buried, COUNT);
    store
        .amend(Amend::Requeue { id, now })
        .await
        .expect("requeue");
    let (mut revived, mut sent) = (0, 0);
    let mut step = leasing();
    while sent <= COUNT {
        let done = store.advance(step).await.expect("advance");
        assert!(done.revived.len() <= PAGE);
        revived += done.revived.len();
        sent += done.leased.len();
        step = leasing();
        for leased in &done.leased {
            let delivered = Settlement::Delivered { status: 200 };
            step.settle
                .extend(Settle::of(&leased.record, delivered, WireState::Answered));
        }
    }
    assert_eq!((revived, sent), (COUNT, COUNT + 1));
}

/// A vault on disk that ends in the middle, and goes to another store.
#[cfg(feature = "sled")]
mod on_disk {
    use std::io::Cursor;

    use syncvault::doctor;
    use syncvault::store::SledStore;

    use super::*;

    #[tokio::test]
    async fn children_wait_over_a_restart_and_an_export() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (dir, server) = (temp.path().join("vault"), shop());
        let vault = offline(builder(&server).store(SledStore::open(&dir).expect("open"))).await;
        let created = vault.post("/items").enqueue().await.expect("enqueue");
        let id = vault.response_of(&created).json("/id");
        let child = vault.put("/items/{id}").path_ref("id", id);
        let child = child.enqueue().await.expect("enqueue").id();
        vault.shutdown(WAIT).await.expect("shutdown");
        drop(vault);
        let found = doctor::examine(&dir, |_| {}).await.expect("examine");
        assert!(found.findings.is_empty(), "{found:?}");
        let source = SledStore::open(&dir).expect("open");
        let out = temp.path().join("out");
        let file = std::fs::File::create(&out).expect("create");
        doctor::export(&source, file, |_| {}).await.expect("export");
        source.close().await.expect("close");
        let target = MemoryStore::new();
        let lines = Cursor::new(std::fs::read(&out).expect("read"));
        doctor::import(&target, lines, |_| {})
            .await
            .expect("import");
        let vault = offline(builder(&server).store(target)).await;
        let ticket = vault.ticket(child).await.expect("read").expect("known");
        assert_eq!(ticket.parents(), [created.id()]);
        vault.set_connectivity(ConnectivityMode::Auto);
        delivered(&ticket).await;
        assert_eq!(paths(&server), ["POST /v1/items", "PUT /v1/items/7"]);
    }
}

/// Nothing of the answer lies in clear in the store below.
#[cfg(feature = "encrypt")]
#[tokio::test(start_paused = true)]
async fn a_sealed_vault_fills_in_what_only_it_can_read() {
    use syncvault::store::MemoryEngine;
    use syncvault::store::crypt::Key;
    use syncvault::store::kv::{Engine, KvStore};

    let engine = MemoryEngine::default();
    let server = FakeServer::new();
    let sealed = builder(&server).store(KvStore::inline(engine.clone()));
    let vault = offline(sealed.encryption(Key::new([7; 32]))).await;
    let created = vault.post("/items").enqueue().await.expect("enqueue");
    let answer = vault.response_of(&created);
    let child = vault.put("/items/{id}").path_ref("id", answer.json("/id"));
    let child = child
        .json_ref("/of", answer.json("/id"))
        .json(&json!({"of": null}));
    let child = child.enqueue().await.expect("enqueue");
    let lost = vault
        .put("/x")
        .header_ref("if-match", answer.header("etag"));
    let lost = lost.enqueue().await.expect("enqueue");
    let behind = vault
        .put("/y")
        .after(&child)
        .enqueue()
        .await
        .expect("enqueue");
    server.answers_next(Reply::status(201).body(r#"{"id":"geheim"}"#));
    vault.set_connectivity(ConnectivityMode::Auto);
    delivered(&behind).await;
    assert!(matches!(reason(&lost).await, DeadReason::Unresolved { .. }));
    let seen = server.attempts();
    let filled = seen.iter().find(|seen| seen.path() == "/v1/items/geheim");
    assert_eq!(&filled.expect("sent").body[..], br#"{"of":"geheim"}"#);
    for (_, value) in engine.scan(&[], &[0xff], usize::MAX).expect("scan") {
        let holds = |word: &[u8]| value.windows(word.len()).any(|part| part == word);
        assert!(!holds(b"geheim") && !holds(b"if-match"));
    }
}

/// The app's transaction holds parent and child.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn the_outbox_takes_children() {
    use syncvault::rusqlite::{Connection, TransactionBehavior};
    use syncvault::store::{SqliteOptions, SqliteStore};

    let temp = tempfile::tempdir().expect("tempdir");
    let path = temp.path().join("app.db");
    let mut app = Connection::open(&path).expect("a database");
    app.execute_batch("PRAGMA journal_mode = WAL").expect("wal");
    SqliteStore::attach(&app).expect("tables");
    let (server, options) = (shop(), SqliteOptions::default());
    let store = SqliteStore::outbox_with(&path, options).expect("store");
    let vault = builder(&server).store(store).build().await.expect("vault");
    let immediate = TransactionBehavior::Immediate;
    let transaction = app.transaction_with_behavior(immediate).expect("begin");
    let created = vault
        .post("/items")
        .enqueue_in(&transaction)
        .expect("enqueue");
    let id = vault.response_of(&created).json("/id");
    let child = vault.put("/items/{id}").path_ref("id", id);
    let child = child.enqueue_in(&transaction).expect("enqueue");
    let unknown = vault
        .post("/x")
        .after(ActionId::new())
        .enqueue_in(&transaction);
    assert_eq!(unknown.expect_err("refused").kind(), ErrorKind::NotFound);
    transaction.commit().expect("commit");
    vault.notify_committed();
    let seen = async {
        while vault
            .action(child.id())
            .await
            .expect("read")
            .is_none_or(|one| !one.state.is_terminal())
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen)
        .await
        .expect("in time");
    assert_eq!(paths(&server), ["POST /v1/items", "PUT /v1/items/7"]);
}
