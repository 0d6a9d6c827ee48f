//! What goes into a batch, what leaves with it, and what stands beside it.

use syncvault::testing::Reply;
use syncvault::{Credentials, Delivery, ErrorKind, Outcome, bearer};

use super::*;

/// Goal: order holds among batches and single actions. Method: a lane of two origins' worth, others beside it, a random
/// number of failures.
#[tokio::test(start_paused = true)]
async fn a_full_lane_keeps_its_order_in_batches() {
    let shop = Shop::open();
    let builder = shop.builder().batcher("orders*", Orders::at_most(7));
    let vault = builder.build().await.expect("vault");
    vault.pause().await.expect("pause");
    let mut want = Vec::new();
    for number in 0..100 {
        let key = format!("{number:03}");
        order(&vault, "orders", &key).await;
        order(&vault, "orders/2", &format!("two {key}")).await;
        order(&vault, "alone", &format!("alone {key}")).await;
        want.push(key);
    }
    for number in 0..20 {
        shop.next(match number % 4 {
            0 => Mood::Lose,
            1 => Mood::Answer(Reply::status(500)),
            2 => Mood::Answer(Reply::unreachable()),
            _ => Mood::Answer(Reply::status(503)),
        });
    }
    vault.resume().await.expect("resume");
    drained(&vault).await;
    for (beginning, lane) in [("", "0"), ("two ", "two"), ("alone ", "alone")] {
        let want: Vec<_> = want.iter().map(|key| format!("{beginning}{key}")).collect();
        let mut got = shop.applied();
        got.retain(|key| key.starts_with(lane));
        assert_eq!(got, want);
    }
    assert!(shop.batches().iter().all(|(_, texts)| texts.len() <= 7));
    assert_eq!(shop.singles().len(), 100, "only the lane without a batcher");
    shop.is_in_order(&vault).await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_takes_one_slot_and_nothing_overtakes_it() {
    let shop = Shop::open();
    let builder = shop.builder().max_in_flight(2);
    let builder = builder.batcher("orders*", Orders::default());
    let vault = builder.build().await.expect("vault");
    for _ in 0..2 {
        shop.next(Mood::Answer(Reply::status(500).answers_after(10 * SECOND)));
    }
    vault.pause().await.expect("pause");
    for lane in ["orders/1", "orders/2", "orders/3"] {
        for number in 0..5 {
            order(&vault, lane, &format!("{lane} {number}")).await;
        }
    }
    vault.resume().await.expect("resume");
    tokio::time::sleep(SECOND).await;
    assert_eq!(shop.batches().len(), 2, "two slots, two requests");
    let request = vault
        .post("/orders")
        .body("direct")
        .idempotency_key("direct");
    let sent = request.lane("orders/1").send().await.expect("send");
    assert!(matches!(sent, Outcome::Queued(_)), "the lane is at work");
    drained(&vault).await;
    let applied = shop.applied();
    let of_lane: Vec<_> = applied
        .iter()
        .filter(|key| key.starts_with("orders/1") || *key == "direct")
        .collect();
    assert_eq!(of_lane.last().expect("some"), &"direct");
    shop.is_in_order(&vault).await;
}

#[tokio::test(start_paused = true)]
async fn principals_do_not_share_a_batch() {
    let shop = Shop::open();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let told = asked.clone();
    let builder = shop.builder().all_principals();
    let builder = builder.batcher("orders", Orders::default());
    let builder = builder.credentials(move |request| {
        let who = request.principal.unwrap_or_default();
        told.lock().expect("told").push(who.clone());
        async move { bearer(who) }
    });
    let vault = builder.build().await.expect("vault");
    vault.pause().await.expect("pause");
    for (who, key) in [("ada", "1"), ("bob", "2"), ("ada", "3"), ("bob", "4")] {
        let request = vault.post("/orders").body(key).idempotency_key(key);
        let request = request.lane("orders").principal(who);
        request.enqueue().await.expect("enqueue");
    }
    vault.resume().await.expect("resume");
    drained(&vault).await;
    let seen = shop.server.attempts();
    let mut batches: Vec<_> = seen
        .iter()
        .map(|seen| {
            (
                seen.headers["authorization"].to_str().expect("text"),
                texts(seen),
            )
        })
        .collect();
    batches.sort();
    let own = |keys: [&str; 2]| keys.map(str::to_owned).to_vec();
    assert_eq!(
        batches,
        [
            ("Bearer ada", own(["1", "3"])),
            ("Bearer bob", own(["2", "4"]))
        ]
    );
    let mut asked = asked.lock().expect("asked").clone();
    asked.sort();
    assert_eq!(
        asked,
        ["ada", "bob"],
        "credentials are asked once for each batch"
    );
}

/// A refused token is renewed once, for the whole batch.
#[tokio::test(start_paused = true)]
async fn a_401_renews_credentials_and_sends_the_batch_again() {
    let shop = Shop::open();
    let builder = shop.builder().batcher("orders", Orders::default());
    let builder = builder.credentials(|_| async { Credentials::bearer("token") });
    let vault = builder.build().await.expect("vault");
    shop.next(Mood::Answer(Reply::status(401)));
    orders(&vault, "orders", &["a", "b"]).await;
    drained(&vault).await;
    let batches = shop.batches();
    assert_eq!(batches.len(), 2);
    assert_eq!(batches[0], batches[1]);
    assert!(shop.singles().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_trace_of_the_first_item_goes_on_in_the_batch() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let shop = Shop::open();
    let vault = shop.vault().await;
    vault.pause().await.expect("pause");
    for key in ["a", "b"] {
        let request = vault.post("/orders").body(key).idempotency_key(key);
        let request = request.lane("orders").header("traceparent", TRACE);
        request.enqueue().await.expect("enqueue");
    }
    vault.resume().await.expect("resume");
    drained(&vault).await;
    let seen = shop.server.attempts();
    let trace = seen[0].headers["traceparent"].to_str().expect("text");
    assert!(trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
    assert_ne!(trace, TRACE, "a span of its own");
    assert_eq!(seen[0].headers["content-type"], "application/json");
}

/// Nothing is sent where its items may not go, and nothing is lost by the mistake.
#[tokio::test(start_paused = true)]
async fn a_batch_goes_where_its_items_go_or_not_at_all() {
    struct Astray(&'static str);
    impl Batcher for Astray {
        fn fold(&self, _: &[BatchItem]) -> Folded {
            BatchRequest::post(self.0).into()
        }
        fn split(&self, _: &BatchAnswer, _: &[BatchItem]) -> Vec<ItemVerdict> {
            panic!("nothing is to be split")
        }
    }
    for path in [
        "https://elsewhere.example/batch",
        "http://shop.example/batch",
        "https://me:secret@shop.example/batch",
        "//elsewhere.example",
        "mailto:me",
    ] {
        let shop = Shop::open();
        let builder = shop.builder().allow_origin("https://elsewhere.example");
        let builder = builder.batcher("orders", Astray(path));
        let vault = builder.build().await.expect("vault");
        orders(&vault, "orders", &["a", "b"]).await;
        drained(&vault).await;
        assert_eq!(shop.server.attempts().len(), 2, "{path}");
        assert_eq!(shop.singles(), ["a", "b"], "{path}");
        shop.is_in_order(&vault).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_batcher_may_decline() {
    struct Declines;
    impl Batcher for Declines {
        fn fold(&self, _: &[BatchItem]) -> Folded {
            Folded::Singly
        }
        fn split(&self, _: &BatchAnswer, _: &[BatchItem]) -> Vec<ItemVerdict> {
            Vec::new()
        }
    }
    let shop = Shop::open();
    let builder = shop.builder().batcher("*", Declines);
    let vault = builder.build().await.expect("vault");
    let tickets = orders(&vault, "default", &["a", "b"]).await;
    drained(&vault).await;
    assert_eq!(shop.singles(), ["a", "b"]);
    let action = vault.action(tickets[0].id()).await.expect("action");
    assert_eq!(action.expect("known").attempts_counted, 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_long_is_not_read_to_its_end() {
    let mut limits = BatchLimits::default();
    limits.answer_bytes_max = 5;
    let shop = Shop::open();
    let builder = shop.builder().batcher("orders", Orders { limits });
    let vault = builder.build().await.expect("vault");
    shop.next(Mood::Say("[201, 201]"));
    orders(&vault, "orders", &["a", "b"]).await;
    drained(&vault).await;
    assert_eq!(shop.singles(), ["a", "b"]);
    assert_eq!(shop.applied(), ["a", "b"]);
    shop.is_in_order(&vault).await;
}

/// The longest part of an answer that is kept is kept of an item too.
#[tokio::test(start_paused = true)]
async fn what_is_kept_of_an_item_is_bounded() {
    struct Long;
    impl Batcher for Long {
        fn fold(&self, items: &[BatchItem]) -> Folded {
            Orders::default().fold(items)
        }
        fn split(&self, _: &BatchAnswer, items: &[BatchItem]) -> Vec<ItemVerdict> {
            let long = vec![b'x'; 100_000];
            let of = |_| ItemVerdict::of(200, long.clone());
            items.iter().map(of).collect()
        }
    }
    let shop = Shop::open();
    let builder = shop.builder().batcher("orders", Long);
    let vault = builder.build().await.expect("vault");
    let tickets = orders(&vault, "orders", &["a", "b"]).await;
    let End::Delivered(answer) = end(&tickets[1]).await else {
        panic!("delivered");
    };
    assert_eq!((answer.body.len(), answer.is_truncated), (64 * 1024, true));
}

/// A body on disk is read into the batch; one that is too long for it goes alone, in its place.
#[tokio::test(start_paused = true)]
async fn long_bodies_go_alone_in_their_place() {
    let limits = BatchLimits::default().with_bytes_max(30_000);
    let shop = Shop::open();
    let builder = shop.builder().batcher("orders", Orders { limits });
    let vault = builder.build().await.expect("vault");
    vault.pause().await.expect("pause");
    for (key, bytes) in [
        ("a", 10),
        ("b", 20_000),
        ("c", 40_000),
        ("d", 10),
        ("e", 10),
    ] {
        let request = vault.post("/orders").body(vec![b'x'; bytes]);
        let request = request.idempotency_key(key).lane("orders");
        request.enqueue().await.expect("enqueue");
    }
    vault.resume().await.expect("resume");
    drained(&vault).await;
    let lengths: Vec<Vec<usize>> = shop
        .batches()
        .into_iter()
        .map(|(_, texts)| texts.iter().map(String::len).collect())
        .collect();
    assert_eq!(lengths, [vec![10, 20_000], vec![10, 10]]);
    assert_eq!(shop.singles(), ["c"]);
    assert_eq!(shop.applied(), ["a", "b", "c", "d", "e"]);
}

/// What was tried alone goes on alone: the server knows its key.
#[tokio::test(start_paused = true)]
async fn a_direct_send_that_failed_joins_no_batch() {
    let shop = Shop::open();
    let vault = shop.vault().await;
    shop.says("first", 500);
    let request = vault.post("/orders").body("first").idempotency_key("first");
    let sent = request.lane("orders").send().await.expect("send");
    assert!(matches!(sent, Outcome::Queued(_)));
    let request = vault.post("/orders").body("never").lane("orders");
    let refused = request.delivery(Delivery::Never).send().await;
    assert_eq!(refused.expect_err("busy").kind(), ErrorKind::WrongState);
    orders(&vault, "orders", &["b", "c"]).await;
    shop.says("first", 201);
    drained(&vault).await;
    assert!(shop.singles().iter().all(|key| key == "first"));
    assert_eq!(shop.batches().len(), 1);
    assert_eq!(shop.applied(), ["first", "b", "c"]);
}

#[tokio::test]
async fn a_bad_batcher_is_refused_when_the_vault_is_built() {
    let shop = Shop::open();
    let refused = [
        ("", Orders::default()),
        ("a*b", Orders::default()),
        ("orders", Orders::at_most(1)),
        ("orders", Orders::at_most(1001)),
    ];
    for (lanes, batcher) in refused {
        let built = shop.builder().batcher(lanes, batcher).build().await;
        let error = built.expect_err(lanes);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("option batcher"), "{error}");
    }
}
