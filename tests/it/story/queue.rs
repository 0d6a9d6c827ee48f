//! The queue: order, retries, keys, limits, coalescing, dead letters.

use std::time::{Duration, SystemTime};

use syncvault::decide::DeadLane;
use syncvault::{
    Cancellation, ConnectivityMode, DeadReason, Draining, End, ErrorKind, Paging, Stopped,
    WhyPending,
};

use super::{assert_balanced, builder, enqueue, soon, vault};
use crate::chaos_server::{Behaviour, ChaosServer};

#[tokio::test]
async fn lanes_keep_their_order_and_run_side_by_side() {
    let server = ChaosServer::start().await;
    server.always(Behaviour::random(7));
    let vault = vault(&server).await;
    for n in 0..30 {
        enqueue(
            &vault,
            &format!("lane {}", n % 3),
            &format!("{}-{n:02}", n % 3),
        )
        .await;
    }
    soon(vault.wait_idle()).await.expect("idle");
    let keys = server.effect_keys();
    assert_eq!(keys.len(), 30, "each once: {keys:?}");
    for lane in ["0-", "1-", "2-"] {
        let in_lane: Vec<_> = keys.iter().filter(|key| key.starts_with(lane)).collect();
        assert!(in_lane.is_sorted(), "{in_lane:?}");
    }
    assert_eq!(server.violations(), [""; 0]);
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn every_attempt_carries_the_same_key_and_body() {
    let server = ChaosServer::start().await;
    // By path: a probe of the origin, which a 503 sets off, must not use them up.
    for status in [500, 503, 429, 408] {
        server.next_on("/orders", Behaviour::status(status));
    }
    server.next_on("/orders", Behaviour::drop_answer());
    let vault = vault(&server).await;
    let ticket = vault
        .post("/orders")
        .json(&serde_json::json!({"n": 1}))
        .enqueue()
        .await;
    let ticket = ticket.expect("enqueue");
    soon(ticket.wait()).await.expect("end");
    let mut received = server.received();
    received.retain(|request| request.method == "POST");
    assert_eq!(received.len(), 6);
    for request in &received {
        assert_eq!(request.key().as_deref(), Some(&*ticket.id().to_string()));
        assert_eq!(request.body, received[0].body);
    }
    let action = vault
        .action(ticket.id())
        .await
        .expect("action")
        .expect("known");
    assert_eq!(
        (action.attempts, action.attempts_counted),
        (6, 3),
        "429 and 503 do not count"
    );
}

#[tokio::test]
async fn the_same_key_is_the_same_ticket_and_another_request_is_a_conflict() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    vault.pause().await.expect("pause");
    let request = |body: &str| vault.post("/x").idempotency_key("k").body(body.to_owned());
    let first = request("a").enqueue().await.expect("enqueue");
    let same = request("a").enqueue().await.expect("the same");
    assert_eq!(first.id(), same.id());
    let error = request("b").enqueue().await.expect_err("another body");
    assert_eq!(error.kind(), ErrorKind::IdempotencyConflict);
    assert_eq!(vault.pending_count().await.expect("count"), 1);
    vault.resume().await.expect("resume");
    soon(first.wait()).await.expect("end");
    let late = request("a").enqueue().await.expect("known");
    assert_eq!(late.id(), first.id());
    assert!(matches!(
        late.end().await.expect("end"),
        Some(End::Delivered(_))
    ));
    let error = request("b")
        .enqueue()
        .await
        .expect_err("delivered, another body");
    assert_eq!(error.kind(), ErrorKind::IdempotencyConflict);
    assert_eq!(server.effect_keys(), ["k"]);
}

#[tokio::test]
async fn a_full_queue_is_an_error_and_drops_nothing() {
    let server = ChaosServer::start().await;
    let vault = builder(&server)
        .pending_max(2)
        .body_bytes_max(10)
        .build()
        .await
        .expect("vault");
    vault.pause().await.expect("pause");
    for key in ["1", "2"] {
        enqueue(&vault, "default", key).await;
    }
    let error = vault.post("/x").send().await.expect_err("full");
    assert_eq!(error.kind(), ErrorKind::Full);
    let error = vault
        .post("/x")
        .body("12345678901")
        .send()
        .await
        .expect_err("long body");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(vault.pending_count().await.expect("count"), 2);
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn a_rejected_action_becomes_a_dead_letter_and_its_lane_goes_on() {
    let server = ChaosServer::start().await;
    server.next(Behaviour::status(422).body("no such shop"));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let vault = builder(&server)
        .on_dead_letter(move |letter| {
            let tell = tell.clone();
            async move {
                tell.send(letter).expect("told");
                panic!("a callback's panic is caught");
            }
        })
        .build()
        .await
        .expect("vault");
    let dead = enqueue(&vault, "default", "dead").await;
    let next = enqueue(&vault, "default", "next").await;
    let end = soon(dead.wait()).await.expect("end");
    assert_eq!(end, End::Dead(DeadReason::Rejected { status: 422 }));
    assert!(matches!(
        soon(next.wait()).await.expect("end"),
        End::Delivered(_)
    ));
    assert_eq!(
        soon(told.recv()).await.expect("letter").action.id,
        dead.id()
    );
    let letters = vault.dead_letters();
    let listing = letters.list(Paging::default()).await.expect("list");
    let letter = &listing.items[0];
    assert_eq!(
        letters
            .get(dead.id())
            .await
            .expect("get")
            .expect("letter")
            .at,
        letter.at
    );
    assert!(
        letters.get(next.id()).await.expect("get").is_none(),
        "delivered, not dead"
    );
    assert_eq!(letter.reason, DeadReason::Rejected { status: 422 });
    assert_eq!(letter.answer.as_ref().expect("answer").body, "no such shop");
    let again = letters.requeue(dead.id()).await.expect("requeue");
    assert!(matches!(
        soon(again.wait()).await.expect("end"),
        End::Delivered(_)
    ));
    assert_eq!(letters.count().await.expect("count"), 0);
    assert_eq!(server.effect_keys(), ["next", "dead"]);
    let error = letters.discard(dead.id()).await.expect_err("delivered");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn a_blocking_lane_waits_for_its_dead_letter() {
    let server = ChaosServer::start().await;
    server.next(Behaviour::status(400));
    let vault = builder(&server)
        .dead_lane(DeadLane::Block)
        .build()
        .await
        .expect("vault");
    vault.pause().await.expect("pause");
    let dead = enqueue(&vault, "a", "1").await;
    let behind = enqueue(&vault, "a", "2").await;
    vault.resume().await.expect("resume");
    soon(dead.wait()).await.expect("dead");
    let report = soon(vault.process_queue()).await.expect("report");
    assert_eq!((report.stopped, report.remaining), (Stopped::Blocked, 1));
    let why = vault.why_pending(behind.id()).await.expect("why");
    assert_eq!(why, WhyPending::LaneBlocked { by: dead.id() });
    assert_eq!(vault.status().counts().blocked_lanes, 1);
    vault
        .dead_letters()
        .requeue(dead.id())
        .await
        .expect("requeue");
    soon(behind.wait()).await.expect("end");
    assert_eq!(server.effect_keys(), ["1", "2"]);
}

#[tokio::test]
async fn retries_end_in_a_dead_letter_that_says_so() {
    let server = ChaosServer::start().await;
    server.answers(500);
    let vault = builder(&server)
        .max_retries(2)
        .build()
        .await
        .expect("vault");
    let ticket = enqueue(&vault, "default", "a").await;
    let want = DeadReason::RetriesExhausted {
        attempts: 3,
        status: Some(500),
    };
    assert_eq!(soon(ticket.wait()).await.expect("end"), End::Dead(want));
    assert_eq!(server.received().len(), 3);
    server.answers(200);
    assert_eq!(
        vault.dead_letters().requeue_all().await.expect("requeue"),
        1
    );
    soon(vault.wait_idle()).await.expect("idle");
    assert_balanced(&vault).await;
}

/// A poison request makes the gateway answer 502 for ever. It must not hold the origin: the probe tells
/// that the origin is well, and the retries are used up.
#[tokio::test]
async fn a_poison_request_uses_up_its_own_retries() {
    let server = ChaosServer::start().await;
    server.on("/poison", Behaviour::status(502));
    let vault = builder(&server)
        .max_retries(3)
        .build()
        .await
        .expect("vault");
    let poison = vault
        .post("/poison")
        .lane("p")
        .enqueue()
        .await
        .expect("enqueue");
    let end = soon(poison.wait()).await.expect("end");
    assert_eq!(
        end,
        End::Dead(DeadReason::RetriesExhausted {
            attempts: 4,
            status: Some(502)
        })
    );
    let good = enqueue(&vault, "g", "good").await;
    assert!(matches!(
        soon(good.wait()).await.expect("end"),
        End::Delivered(_)
    ));
}

#[tokio::test]
async fn a_newer_action_supersedes_one_that_was_never_tried() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    vault.pause().await.expect("pause");
    let put = |n: u32| vault.put("/draft").json(&n).coalesce("draft");
    let old = put(1).enqueue().await.expect("enqueue");
    let new = put(2).enqueue().await.expect("enqueue");
    assert_eq!(old.end().await.expect("end"), Some(End::Superseded));
    vault.resume().await.expect("resume");
    soon(new.wait()).await.expect("end");
    assert_eq!(
        server
            .received()
            .iter()
            .map(|r| &*r.body)
            .collect::<Vec<_>>(),
        [b"2"]
    );
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn cancel_has_three_honest_ends() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    vault.pause().await.expect("pause");
    let queued = enqueue(&vault, "a", "queued").await;
    assert_eq!(
        vault.cancel(queued.id()).await.expect("cancel"),
        Cancellation::Cancelled
    );
    assert_eq!(
        vault.cancel(queued.id()).await.expect("cancel"),
        Cancellation::TooLate
    );
    assert_eq!(soon(queued.wait()).await.expect("end"), End::Cancelled);
    server.next(Behaviour::status(200).after(Duration::from_millis(200)));
    let running = enqueue(&vault, "a", "running").await;
    vault.resume().await.expect("resume");
    server.wait_received(1).await;
    let cancellation = vault.cancel(running.id()).await.expect("cancel");
    assert_eq!(cancellation, Cancellation::MayHaveBeenSent);
    soon(running.wait()).await.expect("end");
    assert_eq!(
        vault.cancel(running.id()).await.expect("cancel"),
        Cancellation::TooLate
    );
    assert_eq!(server.effect_keys(), ["running"]);
    let nobody = syncvault::ActionId::new();
    assert_eq!(
        vault.cancel(nobody).await.expect_err("unknown").kind(),
        ErrorKind::NotFound
    );
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn what_is_no_longer_wanted_expires_and_what_is_early_waits() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    vault.set_connectivity(ConnectivityMode::Offline);
    let late = vault
        .post("/x")
        .lane("a")
        .expires_in(Duration::from_millis(30))
        .enqueue();
    let late = late.await.expect("enqueue");
    assert_eq!(
        soon(late.wait()).await.expect("end"),
        End::Expired,
        "offline as well"
    );
    vault.set_connectivity(ConnectivityMode::Auto);
    let time = SystemTime::now() + Duration::from_millis(150);
    let early = vault
        .post("/x")
        .not_before(time)
        .send()
        .await
        .expect("send");
    let early = early.ticket().expect("queued");
    let why = vault.why_pending(early.id()).await.expect("why");
    assert!(matches!(why, WhyPending::Due { .. }), "{why:?}");
    soon(early.wait()).await.expect("end");
    assert!(SystemTime::now() >= time);
    assert_eq!(server.received().len(), 1);
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn a_cleared_queue_is_counted() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    vault.pause().await.expect("pause");
    for n in 0..25 {
        enqueue(&vault, &format!("{}", n % 4), &format!("{n}")).await;
    }
    let mut seen = Vec::new();
    let mut paging = Some(Paging::first(7));
    while let Some(page) = paging {
        let listing = vault.pending_actions(page).await.expect("page");
        assert!(listing.items.len() <= 7);
        seen.extend(listing.items.into_iter().map(|action| action.key));
        paging = listing.next;
    }
    seen.sort_by_key(|key| key.parse::<u32>().expect("number"));
    assert_eq!(seen, (0..25).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(vault.clear_queue().await.expect("clear").cancelled, 25);
    assert_eq!(vault.pending_count().await.expect("count"), 0);
    assert_eq!(vault.ledger().await.expect("ledger").cancelled, 25);
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn on_request_nothing_goes_until_asked_and_two_passes_send_nothing_twice() {
    let server = ChaosServer::start().await;
    let vault = builder(&server)
        .draining(Draining::OnRequest)
        .build()
        .await
        .expect("vault");
    for n in 0..20 {
        enqueue(&vault, &format!("{}", n % 4), &format!("{n:02}")).await;
    }
    assert!(server.received().is_empty());
    let (a, b) = soon(async { tokio::join!(vault.process_queue(), vault.process_queue()) }).await;
    let (a, b) = (a.expect("pass"), b.expect("pass"));
    assert_eq!(
        (a.delivered, a.remaining, a.stopped),
        (20, 0, Stopped::Drained)
    );
    assert_eq!(b.stopped, Stopped::Drained);
    assert_eq!(server.received().len(), 20);
}

#[tokio::test]
async fn a_pass_says_why_it_stopped() {
    let server = ChaosServer::start().await;
    let mut policy = syncvault::RetryPolicy::default();
    policy.origin = crate::story::short_origin();
    policy.backoff = syncvault::Backoff::fixed(Duration::from_secs(3600));
    let vault = builder(&server)
        .retry_policy(policy)
        .draining(Draining::OnRequest)
        .build()
        .await
        .expect("vault");
    let stopped = async || soon(vault.process_queue()).await.expect("pass").stopped;
    assert_eq!(stopped().await, Stopped::Drained);
    let ticket = enqueue(&vault, "default", "a").await;
    vault.pause().await.expect("pause");
    assert_eq!(stopped().await, Stopped::Paused);
    vault.resume().await.expect("resume");
    server.down().await;
    assert_eq!(stopped().await, Stopped::Offline);
    assert_eq!(
        stopped().await,
        Stopped::Offline,
        "asked by hand, it tries again"
    );
    let action = vault
        .action(ticket.id())
        .await
        .expect("action")
        .expect("known");
    assert_eq!((action.attempts, action.attempts_counted), (2, 0));
    server.up().await;
    server.next(Behaviour::status(500));
    let report = soon(vault.process_queue()).await.expect("pass");
    assert_eq!((report.retried, report.remaining), (1, 1));
    assert!(
        matches!(report.stopped, Stopped::Waiting { .. }),
        "{report:?}"
    );
}

/// Slow direct sends of other lanes take no slot of the queue, and no pass waits for them.
#[tokio::test]
async fn direct_sends_hold_up_neither_the_queue_nor_a_pass() {
    let server = ChaosServer::start().await;
    server.on("/slow", Behaviour::hang());
    let vault = builder(&server)
        .max_in_flight(1)
        .build()
        .await
        .expect("vault");
    let slow = tokio::spawn(vault.post("/slow").lane("slow").send());
    server.wait_received(1).await;
    let ticket = enqueue(&vault, "a", "1").await;
    let report = async {
        let end = ticket.wait().await.expect("end");
        assert!(matches!(end, End::Delivered(_)));
        vault.process_queue().await.expect("pass")
    };
    let in_time = tokio::time::timeout(Duration::from_millis(1500), report).await;
    assert_eq!(in_time.expect("held up").remaining, 1, "the slow one");
    slow.abort();
}

/// A vault that is opened for another server holds what was meant for the first one.
#[tokio::test]
async fn another_base_url_kills_nothing() {
    let (first, second) = (ChaosServer::start().await, ChaosServer::start().await);
    let store = syncvault::store::MemoryStore::new();
    let open = async |server: &ChaosServer| {
        let vault = super::bare_builder(server).store(store.restarted());
        vault.build().await.expect("vault")
    };
    let vault = open(&first).await;
    vault.pause().await.expect("pause");
    let id = enqueue(&vault, "a", "1").await.id();
    soon(vault.shutdown(Duration::ZERO))
        .await
        .expect("shutdown");
    let vault = open(&second).await;
    vault.resume().await.expect("resume");
    let held = async {
        loop {
            let action = vault.action(id).await.expect("action").expect("known");
            if action.last_error.is_some() {
                return action;
            }
            tokio::task::yield_now().await;
        }
    };
    let action = soon(held).await;
    assert!(action.state.is_pending(), "{action:?}");
    assert_eq!(action.attempts_counted, 0);
    assert_eq!((first.received().len(), second.received().len()), (0, 0));
}

/// A body whose file is gone is damage: a dead letter, not a lane that waits for ever.
#[cfg(feature = "sled")]
#[tokio::test]
async fn a_body_that_is_gone_becomes_a_dead_letter() {
    let server = ChaosServer::start().await;
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("vault");
    let vault = super::bare_builder(&server)
        .storage_path(&path)
        .build()
        .await
        .expect("vault");
    vault.pause().await.expect("pause");
    let big = vault
        .post("/orders")
        .body(vec![7; 20_000])
        .lane("a")
        .enqueue()
        .await
        .expect("big");
    let behind = enqueue(&vault, "a", "behind").await;
    for file in std::fs::read_dir(path.join("bodies")).expect("bodies") {
        std::fs::remove_file(file.expect("file").path()).expect("remove");
    }
    vault.resume().await.expect("resume");
    let end = soon(big.wait()).await.expect("end");
    assert!(
        matches!(end, End::Dead(DeadReason::Unsendable { .. })),
        "{end:?}"
    );
    assert!(matches!(
        soon(behind.wait()).await.expect("end"),
        End::Delivered(_)
    ));
    soon(vault.shutdown(Duration::from_secs(5)))
        .await
        .expect("shutdown");
}
