//! Pains 1 and 2: what stands still though it could go.

use std::time::Duration;

use syncvault::RetryPolicy;
use syncvault::clock::Clock;
use syncvault::testing::Reply;

use super::naive::Habit;
use super::world::{HOUR, MINUTE, Order, SECOND, SEEDS, Wrongs, pain, pass};

/// Symptom: one request that the server refuses for good, and nothing behind it is ever sent.
#[test]
fn pain_01_one_bad_request_stops_nothing_else() {
    pain(SEEDS, &[&[Habit::RetriesRefusals]], async |world| {
        let status = world.dice.pick(&[400, 403, 404, 410, 413, 422]);
        let bad = world.dice.place(12).to_string();
        let refused = format!("/{bad}");
        world.serve(move |seen, _| match seen.path() == refused {
            true => Reply::status(status),
            false => Reply::default(),
        });
        let orders: Vec<Order> = (0..12)
            .map(|n| Order::new(n.to_string()).lane(world.dice.pick(&["a", "b", "c"])))
            .collect();
        let client = world.opened().await;
        client.post_all(&orders).await;
        pass(MINUTE).await;
        let mut wrongs = Wrongs::default();
        for order in orders.iter().filter(|order| order.name != bad) {
            wrongs.same(world.effects(&order.name), 1, &order.name);
        }
        wrongs.same(client.dead().await, vec![bad], "the dead letters");
        wrongs.same(client.pending().await, vec![], "what waits");
        wrongs
    });
}

/// Symptom: "will retry" is shown, and nothing happens until the user writes something else.
#[test]
fn pain_02_a_retry_needs_no_other_call() {
    pain(SEEDS, &[&[Habit::WaitsForTheNextWrite]], async |world| {
        let reply =
            world
                .dice
                .pick(&[Reply::unreachable(), Reply::status(503), Reply::status(502)]);
        world.serve(move |_, _| reply.clone());
        let client = world.opened().await;
        for n in 0..3 {
            client.post_all(&[Order::new(n.to_string())]).await;
            pass(world.dice.millis(0, 300_000)).await;
        }
        let healed = world.clock.now();
        world.serve(|_, _| Reply::default());
        // No call, no hint, no write.
        pass(HOUR).await;
        let mut wrongs = Wrongs::default();
        let first = world.arrivals().into_iter().find(|one| one.at > healed);
        let waited = first.map_or(Duration::MAX, |first| first.at.since(healed));
        let policy = RetryPolicy::default();
        let promised = policy.origin_backoff.cap().max(policy.origin.hold_max()) + SECOND;
        wrongs.unless(
            waited <= promised,
            format!("the first attempt came after {waited:?}"),
        );
        wrongs.same(client.pending().await, vec![], "what waits");
        wrongs
    });
}
