//! What a write makes stale: from the moment it is queued, and again when it was delivered.

use syncvault::Delivery;

use super::*;

/// A vault that has asked for these, with answers that are fresh for an hour.
async fn filled(rig: &Rig, paths: &[&str]) -> SyncVault {
    rig.answers(&[("cache-control", "max-age=3600")], "old");
    let vault = rig.open().await;
    for path in paths {
        assert_eq!(get(&vault, path).await, sent("old"));
    }
    // Until they are kept: what is written before that overtakes them.
    let stats = vault.cache_stats().await.expect("stats");
    assert_eq!(stats.entries, paths.len() as u64);
    vault
}

/// Those of them that are fresh, as far as the cache knows.
async fn fresh<'p>(vault: &SyncVault, paths: &[&'p str]) -> Vec<&'p str> {
    let mut fresh = Vec::new();
    for path in paths {
        let request = vault.get(*path).when_fresh(syncvault::WhenFresh::Answer);
        if let Outcome::Cached(..) = request.send_or_cached().await.expect("send") {
            fresh.push(*path);
        }
    }
    fresh
}

const PATHS: [&str; 4] = ["/orders", "/orders?page=2", "/orders/7", "/menu"];

#[tokio::test(start_paused = true)]
async fn a_queued_write_makes_its_resource_stale_at_once() {
    let rig = Rig::new();
    let vault = filled(&rig, &PATHS).await;
    rig.goes_away();
    let posted = vault
        .post("/orders?dry=1")
        .body("x")
        .send()
        .await
        .expect("send");
    assert!(posted.is_queued());
    pass(5 * SECOND).await;
    assert_eq!(get(&vault, "/orders").await, Got::Queued);
    assert_eq!(get(&vault, "/orders?page=2").await, Got::Queued);
    let stale = |seconds: u32| vault.get("/orders").max_stale(SECOND * seconds);
    assert_eq!(
        send(stale(4)).await,
        Got::Queued,
        "it has been stale for longer"
    );
    assert_eq!(send(stale(5)).await, cached("old", 5));
    assert_eq!(get(&vault, "/menu").await, cached("old", 5));
    assert_eq!(get(&vault, "/orders/7").await, cached("old", 5));
    drop(vault);
    let vault = rig.open().await;
    assert_eq!(
        get(&vault, "/orders").await,
        Got::Queued,
        "also after a crash"
    );
}

#[tokio::test(start_paused = true)]
async fn every_way_of_writing_makes_stale() {
    let rig = Rig::new();
    let vault = filled(&rig, &["/1", "/2", "/3", "/4", "/5", "/6"]).await;
    assert_eq!(send(vault.put("/1")).await, sent("old"));
    assert_eq!(
        send(vault.delete("/2").delivery(Delivery::Never)).await,
        sent("old")
    );
    assert_eq!(
        send(vault.patch("/3").delivery(Delivery::OnFailure)).await,
        sent("old")
    );
    let ticket = vault.post("/4").enqueue().await.expect("enqueue");
    ticket.wait().await.expect("end");
    rig.server.answers_next(Reply::status(409));
    let refused = vault.put("/5").delivery(Delivery::Never);
    assert_eq!(send(refused).await, Got::Sent(409, String::new()));
    settled(&vault).await;
    let all = ["/1", "/2", "/3", "/4", "/5", "/6"];
    assert_eq!(fresh(&vault, &all).await, ["/5", "/6"]);
}

/// RFC 9111, section 4.4: what the answer names on the same origin has changed too.
#[tokio::test(start_paused = true)]
async fn what_the_answer_names_is_stale_too() {
    let rig = Rig::new();
    let vault = filled(&rig, &["/orders/7", "/orders/8", "/menu"]).await;
    let created = Reply::status(201)
        .header("location", "/orders/7?from=post")
        .header("content-location", "https://api.example.com/orders/8");
    rig.server.answers_next(created);
    assert_eq!(
        send(vault.post("/orders")).await,
        Got::Sent(201, String::new())
    );
    settled(&vault).await;
    assert_eq!(
        fresh(&vault, &["/orders/7", "/orders/8", "/menu"]).await,
        ["/menu"]
    );
    let elsewhere = Reply::status(201).header("location", "https://other.example.com/menu");
    rig.server.answers_next(elsewhere);
    assert_eq!(
        send(vault.post("/orders")).await,
        Got::Sent(201, String::new())
    );
    settled(&vault).await;
    assert_eq!(fresh(&vault, &["/menu"]).await, ["/menu"]);
}

/// Symptom: a GET that was answered before a write, and read to its end after it, is taken for what the write made of it.
#[tokio::test(start_paused = true)]
async fn a_read_that_a_write_overtakes_is_kept_as_stale() {
    let rig = Rig::new();
    let vault = filled(&rig, &[]).await;
    let outcome = vault.get("/orders").send().await.expect("send");
    let response = outcome.response().expect("sent");
    assert_eq!(send(vault.post("/orders").lane("other")).await, sent("old"));
    settled(&vault).await;
    assert_eq!(response.text().await.expect("body"), "old");
    assert_eq!(fresh(&vault, &["/orders"]).await, [""; 0]);
    assert_eq!(vault.cache_stats().await.expect("stats").entries, 1);
}

/// What the server says after the write is fresh.
#[tokio::test(start_paused = true)]
async fn what_is_read_after_a_write_is_fresh_again() {
    let rig = Rig::new();
    let vault = filled(&rig, &["/orders", "/orders?page=2"]).await;
    assert_eq!(send(vault.post("/orders")).await, sent("old"));
    settled(&vault).await;
    rig.answers(&[("cache-control", "max-age=3600")], "new");
    assert_eq!(get(&vault, "/orders").await, sent("new"));
    rig.goes_away();
    assert_eq!(get(&vault, "/orders").await, cached("new", 0));
    assert_eq!(get(&vault, "/orders?page=2").await, Got::Queued);
}
