//! What the answer to a batch, or a refusal of it, makes of each item.

use futures_util::StreamExt;
use syncvault::testing::Reply;
use syncvault::{
    Cancellation, DeadLane, DeadReason, Draining, End, EventKind, Paging, Stopped, WhyPending,
};

use super::*;

fn status_of(end: &End) -> u16 {
    match end {
        End::Delivered(answer) => answer.status,
        other => panic!("not delivered: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_actions_of_a_lane_leave_in_one_request() {
    let shop = Shop::open();
    let vault = shop.vault().await;
    let tickets = orders(&vault, "orders", &["a", "b", "c", "d"]).await;
    drained(&vault).await;
    let batches = shop.batches();
    assert_eq!(batches.len(), 1, "{batches:?}");
    assert_eq!(batches[0].1, ["a", "b", "c", "d"]);
    assert_eq!(shop.singles(), [""; 0]);
    assert_eq!(shop.applied(), ["a", "b", "c", "d"]);
    for (ticket, key) in tickets.iter().zip(["a", "b", "c", "d"]) {
        let End::Delivered(answer) = end(ticket).await else {
            panic!("{key} is delivered");
        };
        assert_eq!(
            (answer.status, &answer.body[..]),
            (201, format!("said of {key}").as_bytes())
        );
        let events = ticket.events().await.expect("events");
        let kinds: Vec<_> = events.map(|event| event.kind).collect().await;
        assert!(
            matches!(kinds.last(), Some(EventKind::Succeeded { status: 201 })),
            "{kinds:?}"
        );
    }
    let stats = vault.stats().await.expect("stats");
    let attempts: u64 = stats
        .origins
        .iter()
        .map(|origin| origin.verdicts.attempts())
        .sum();
    assert_eq!(attempts, 1, "one attempt on the wire");
    assert_eq!(vault.ledger().await.expect("ledger").delivered, 4);
    shop.is_in_order(&vault).await;
}

#[tokio::test(start_paused = true)]
async fn a_pass_counts_items() {
    let shop = Shop::open();
    let builder = shop.builder().draining(Draining::OnRequest);
    let builder = builder.batcher("orders", Orders::default());
    let vault = builder.build().await.expect("vault");
    shop.says("b", 422);
    for key in ["a", "b", "c"] {
        order(&vault, "orders", key).await;
    }
    let report = vault.process_queue().await.expect("pass");
    assert_eq!((report.delivered, report.dead, report.remaining), (2, 1, 0));
    assert_eq!(report.stopped, Stopped::Drained);
    assert_eq!(shop.batches().len(), 1);
}

/// Goal: each fares by what was said of it, in its place. Method: one is retried, one is refused, the rest is taken.
#[tokio::test(start_paused = true)]
async fn each_item_fares_by_its_own_verdict() {
    let shop = Shop::open();
    let vault = shop.vault().await;
    shop.says("b", 503);
    shop.says("d", 422);
    let tickets = orders(&vault, "orders", &["a", "b", "c", "d", "e"]).await;
    for place in [0, 2, 4] {
        assert_eq!(status_of(&end(&tickets[place]).await), 201);
    }
    let dead = end(&tickets[3]).await;
    assert!(matches!(
        dead,
        End::Dead(DeadReason::Rejected { status: 422 })
    ));
    let letter = vault.dead_letters().get(tickets[3].id()).await;
    let letter = letter.expect("get").expect("a letter");
    assert_eq!(&letter.answer.expect("kept").body[..], b"said of d");
    let action = vault.action(tickets[1].id()).await.expect("action");
    let action = action.expect("known");
    assert_eq!(action.attempts_counted, 1);
    let behind = order(&vault, "orders", "f").await;
    let why = vault.why_pending(behind.id()).await.expect("why");
    assert_eq!(
        why,
        WhyPending::Behind {
            first: tickets[1].id()
        }
    );
    shop.says("b", 201);
    drained(&vault).await;
    let batches = shop.batches();
    assert_eq!(batches[1].1, ["b", "f"], "it may join another batch");
    assert_ne!(batches[0].0, batches[1].0, "which has a key of its own");
    assert_eq!(shop.applied(), ["a", "c", "e", "b", "f"]);
    shop.is_in_order(&vault).await;
}

#[tokio::test(start_paused = true)]
async fn items_that_are_retried_go_together_again() {
    let shop = Shop::open();
    let vault = shop.vault().await;
    for key in ["a", "b", "c"] {
        shop.says(key, 500);
    }
    let mut events = vault.events();
    let tickets = orders(&vault, "orders", &["a", "b", "c"]).await;
    failed(&mut events).await;
    for key in ["a", "b", "c"] {
        shop.says(key, 201);
    }
    drained(&vault).await;
    let batches = shop.batches();
    assert_eq!(batches.len(), 2);
    assert_eq!(batches[0].1, batches[1].1);
    assert_ne!(batches[0].0, batches[1].0, "the first one was answered");
    assert!(shop.singles().is_empty());
    for ticket in &tickets {
        let action = vault.action(ticket.id()).await.expect("action");
        assert_eq!(action.expect("known").attempts, 2);
    }
}

/// The server names a time for one of them: those behind it in the lane wait with it.
#[tokio::test(start_paused = true)]
async fn an_item_waits_as_long_as_its_verdict_says() {
    struct Later;
    impl Batcher for Later {
        fn fold(&self, items: &[BatchItem]) -> Folded {
            Orders::default().fold(items)
        }
        fn split(&self, _: &BatchAnswer, items: &[BatchItem]) -> Vec<ItemVerdict> {
            let after = Some(100 * SECOND);
            items.iter().map(|_| ItemVerdict::Retry { after }).collect()
        }
    }
    let shop = Shop::open();
    let vault = shop
        .builder()
        .batcher("*", Later)
        .build()
        .await
        .expect("vault");
    orders(&vault, "any lane", &["a", "b"]).await;
    tokio::time::sleep(99 * SECOND).await;
    assert_eq!(shop.batches().len(), 1);
    tokio::time::sleep(30 * SECOND).await;
    assert_eq!(shop.batches().len(), 2);
    assert_eq!(shop.batches()[1].1, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_item_blocks_its_lane_behind_the_batch() {
    let shop = Shop::open();
    let builder = shop.builder().dead_lane(DeadLane::Block);
    let builder = builder.batcher("orders", Orders::at_most(3));
    let vault = builder.build().await.expect("vault");
    shop.says("b", 404);
    let tickets = orders(&vault, "orders", &["a", "b", "c", "d"]).await;
    assert_eq!(status_of(&end(&tickets[2]).await), 201);
    let why = vault.why_pending(tickets[3].id()).await.expect("why");
    assert_eq!(
        why,
        WhyPending::LaneBlocked {
            by: tickets[1].id()
        }
    );
    shop.says("b", 200);
    vault
        .dead_letters()
        .requeue(tickets[1].id())
        .await
        .expect("requeue");
    drained(&vault).await;
    assert_eq!(shop.applied(), ["a", "c", "b", "d"]);
    shop.is_in_order(&vault).await;
}

/// Symptom: one bad item makes the server refuse the batch, and all that was in it dies.
#[tokio::test(start_paused = true)]
async fn a_batch_that_is_refused_as_a_whole_kills_nobody() {
    for status in [400, 401, 403, 404, 405, 413, 415, 422, 302] {
        let shop = Shop::open();
        let vault = shop.vault().await;
        shop.next(Mood::Answer(Reply::status(status)));
        shop.says("poison", 400);
        let tickets = orders(&vault, "orders", &["a", "poison", "c", "d"]).await;
        drained(&vault).await;
        assert_eq!(shop.batches().len(), 1, "after a {status} each goes alone");
        assert_eq!(shop.singles(), ["a", "poison", "c", "d"]);
        assert_eq!(shop.applied(), ["a", "c", "d"]);
        let letters = vault.dead_letters().list(Paging::default()).await;
        let letters = letters.expect("list").items;
        assert_eq!(letters.len(), 1, "only the poison dies of a {status}");
        assert_eq!(letters[0].action.id, tickets[1].id());
        for ticket in [&tickets[0], &tickets[2]] {
            let action = vault.action(ticket.id()).await.expect("action");
            assert_eq!(
                action.expect("known").attempts_counted,
                0,
                "the whole's refusal"
            );
        }
        shop.is_in_order(&vault).await;
    }
}

/// 500 again and again may be the doing of one of them: before any dies of it, each is tried alone.
#[tokio::test(start_paused = true)]
async fn a_batch_that_uses_up_its_retries_is_taken_apart() {
    let shop = Shop::open();
    let builder = shop.builder().max_retries(2);
    let builder = builder.batcher("orders", Orders::default());
    let vault = builder.build().await.expect("vault");
    for _ in 0..9 {
        shop.next(Mood::Answer(Reply::status(500)));
    }
    shop.says("poison", 500);
    let tickets = orders(&vault, "orders", &["a", "poison", "c"]).await;
    drained(&vault).await;
    let batches = shop.batches();
    assert_eq!(batches.len(), 3, "the first attempt and two retries");
    assert!(
        batches.iter().all(|batch| *batch == batches[0]),
        "{batches:?}"
    );
    assert_eq!(shop.singles(), ["a", "poison", "c"]);
    assert_eq!(shop.applied(), ["a", "c"]);
    let dead = end(&tickets[1]).await;
    let want = DeadReason::RetriesExhausted {
        attempts: 3,
        status: Some(500),
    };
    assert!(
        matches!(&dead, End::Dead(reason) if *reason == want),
        "{dead:?}"
    );
    shop.is_in_order(&vault).await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_finds_no_server_costs_nothing() {
    let answers = [
        Reply::status(503),
        Reply::status(429).header("retry-after", "5"),
        Reply::unreachable(),
        Reply::status(511),
    ];
    for answer in answers {
        let text = format!("{answer:?}");
        let shop = Shop::open();
        let vault = shop.vault().await;
        for _ in 0..20 {
            shop.next(Mood::Answer(answer.clone()));
        }
        let tickets = orders(&vault, "orders", &["a", "b", "c"]).await;
        drained(&vault).await;
        assert_eq!(shop.batches().len(), 21, "{text}");
        assert!(shop.singles().is_empty(), "{text}");
        for ticket in &tickets {
            let action = vault.action(ticket.id()).await.expect("action");
            let action = action.expect("known");
            assert_eq!(
                (action.attempts, action.attempts_counted),
                (21, 0),
                "{text}"
            );
        }
        shop.is_in_order(&vault).await;
    }
}

/// Goal: nothing counts that was not said of it. Method: an answer with too few, too many, and no verdicts.
#[tokio::test(start_paused = true)]
async fn a_wrong_number_of_verdicts_delivers_nothing() {
    struct Wrong(usize);
    impl Batcher for Wrong {
        fn fold(&self, items: &[BatchItem]) -> Folded {
            Orders::default().fold(items)
        }
        fn split(&self, _: &BatchAnswer, _: &[BatchItem]) -> Vec<ItemVerdict> {
            vec![ItemVerdict::of_status(200); self.0]
        }
    }
    for verdicts in [0, 2, 4] {
        let shop = Shop::open();
        let builder = shop.builder().batcher("orders", Wrong(verdicts));
        let vault = builder.build().await.expect("vault");
        let mut events = vault.events();
        orders(&vault, "orders", &["a", "b", "c"]).await;
        drained(&vault).await;
        let mut failed = Vec::new();
        while failed.len() < 3 {
            let event = events.next().await.expect("open");
            match event.kind {
                EventKind::Failed {
                    error, is_counted, ..
                } => failed.push((error, is_counted)),
                EventKind::Succeeded { .. } => panic!("delivered by a wrong answer"),
                _ => {}
            }
        }
        let want = format!("the answer to a batch of 3 gave {verdicts} verdicts");
        assert!(
            failed.iter().all(|one| *one == (want.clone(), false)),
            "{failed:?}"
        );
        assert_eq!(shop.batches().len(), 1);
        assert_eq!(shop.singles(), ["a", "b", "c"], "with their own keys");
        assert_eq!(
            shop.applied(),
            ["a", "b", "c"],
            "each once: the shop knows their keys"
        );
        shop.is_in_order(&vault).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_batcher_that_panics_harms_nobody() {
    struct Bad {
        in_fold: bool,
    }
    impl Batcher for Bad {
        fn fold(&self, items: &[BatchItem]) -> Folded {
            assert!(!self.in_fold, "a bug of the app");
            Orders::default().fold(items)
        }
        fn split(&self, _: &BatchAnswer, _: &[BatchItem]) -> Vec<ItemVerdict> {
            panic!("a bug of the app")
        }
    }
    for in_fold in [true, false] {
        let shop = Shop::open();
        let builder = shop.builder().batcher("orders", Bad { in_fold });
        let vault = builder.build().await.expect("vault");
        orders(&vault, "orders", &["a", "b"]).await;
        drained(&vault).await;
        assert_eq!(shop.batches().len(), usize::from(!in_fold));
        assert_eq!(shop.singles(), ["a", "b"]);
        shop.is_in_order(&vault).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_in_flight_cannot_be_cancelled() {
    let shop = Shop::open();
    let vault = shop.vault().await;
    shop.next(Mood::Answer(Reply::hangs()));
    let tickets = orders(&vault, "orders", &["a", "b"]).await;
    tokio::time::sleep(SECOND).await;
    let why = vault.why_pending(tickets[1].id()).await.expect("why");
    assert_eq!(why, WhyPending::InFlight { attempt: 1 });
    for ticket in &tickets {
        let cancelled = vault.cancel(ticket.id()).await.expect("cancel");
        assert_ne!(cancelled, Cancellation::Cancelled);
    }
    let later = order(&vault, "orders", "c").await;
    assert_eq!(
        vault.cancel(later.id()).await.expect("cancel"),
        Cancellation::Cancelled,
        "what waits behind it can be taken back"
    );
    shop.is_in_order(&vault).await;
}
