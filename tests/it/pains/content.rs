//! Pains 15, 16, 17 and 18: files, temporary ids, what is taken back or changed, and what can be seen.

use std::time::Duration;

use syncvault::clock::Clock;
use syncvault::testing::Reply;

use super::naive::Habit;
use super::world::{HOUR, MINUTE, Order, SEEDS, Wrongs, pain, pass};

/// Symptom: the second attempt of an upload is empty, or has other bytes, because the file changed meanwhile.
#[test]
fn pain_15_a_file_arrives_as_it_was_at_each_attempt() {
    let naive: [&[Habit]; 2] = [&[Habit::KeepsPath], &[Habit::StreamsOnce]];
    pain(SEEDS, &naive, async |world| {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("film");
        let letters: String = (0..1000 + world.dice.place(20_000))
            .map(|_| world.dice.pick(&['a', 'b', 'c']))
            .collect();
        std::fs::write(&path, &letters).expect("write");
        let mut failures = vec![
            Reply::status(500),
            Reply::lost(),
            Reply::unreachable(),
            Reply::status(503),
        ];
        failures.rotate_left(world.dice.place(4));
        failures.truncate(1 + world.dice.place(3));
        world.serve(move |_, _| failures.pop().unwrap_or_default());
        let client = world.opened().await;
        let mut order = Order::new("film");
        order.file = Some(path.clone());
        client.post_all(&[order]).await;
        match world.dice.below(3) {
            0 => std::fs::write(&path, "cut").expect("write"),
            1 => std::fs::write(&path, letters.replace('a', "z")).expect("write"),
            _ => std::fs::remove_file(&path).expect("remove"),
        }
        pass(HOUR).await;
        let mut wrongs = Wrongs::default();
        for (nth, seen) in world.server.attempts().iter().enumerate() {
            wrongs.unless(
                seen.body == letters,
                format!(
                    "attempt {nth} has {} bytes of {}",
                    seen.body.len(),
                    letters.len()
                ),
            );
        }
        wrongs.same(world.effects("film"), 1, "the film");
        wrongs
    });
}

/// Symptom: what was created offline is changed offline too, and the change goes to an id that the server never heard of;
/// or it is sent although the creation was refused.
#[test]
fn pain_16_what_was_created_offline_can_be_changed_offline() {
    pain(SEEDS, &[&[]], async |world| {
        world.serve(|_, _| Reply::unreachable());
        let client = world.opened().await;
        for n in 0..4 {
            let create = Order::new(format!("item-{n}")).lane(format!("item-{n}"));
            client.post_all(&[create]).await;
            client
                .post_change(&format!("item-{n}"), &format!("change-{n}"))
                .await;
            pass(world.dice.millis(0, 20_000)).await;
        }
        // The process dies while all of it waits.
        let client = world.crash(client).await;
        let refused = format!("/item-{}", world.dice.below(4));
        let is_refused = refused.clone();
        world.serve(move |seen, _| match seen.path().strip_prefix("/item-") {
            _ if seen.path() == is_refused => Reply::status(422),
            Some(n) if !n.contains('/') => Reply::status(201).body(format!("{{\"id\": 10{n}}}")),
            // Of an item that the server does not know.
            Some(_) => Reply::status(404),
            None => Reply::status(200),
        });
        pass(HOUR).await;
        let mut wrongs = Wrongs::default();
        for n in 0..4 {
            let is_there = format!("/item-{n}") != refused;
            let name = format!("change-{n}");
            let arrivals = world.arrivals();
            let changes = arrivals
                .iter()
                .filter(|one| one.name.ends_with(&name))
                .count();
            wrongs.same(changes, usize::from(is_there), &name);
            let effects = world.effects(&format!("10{n}/{name}"));
            wrongs.same(effects, usize::from(is_there), "its effect");
        }
        wrongs.same(client.pending().await, vec![], "what waits");
        wrongs.same(
            client.dead().await.len(),
            2,
            "the refused one and its change",
        );
        wrongs
    });
}

/// Symptom: a draft is edited, and another message has its text.
#[test]
fn pain_17_an_edit_changes_what_was_meant_or_nothing() {
    pain(SEEDS, &[&[Habit::EditsByPlace]], async |world| {
        let one = Duration::from_secs(1);
        world.serve(move |_, _| {
            Reply::default()
                .arrives_after(one / 2)
                .answers_after(one / 2)
        });
        let client = world.opened().await;
        let orders: Vec<Order> = (0..6).map(|n| Order::new(n.to_string())).collect();
        client.post_all(&orders).await;
        // One is delivered, the next is on the wire.
        pass(one + world.dice.millis(100, 800)).await;
        let mut wanted: Vec<String> = orders.iter().map(|order| order.body.clone()).collect();
        for nth in [1, 2 + world.dice.place(3)] {
            let text = format!("{nth} once more");
            if client.edit(&nth.to_string(), &text).await {
                wanted[nth] = text;
            }
        }
        pass(HOUR).await;
        let mut wrongs = Wrongs::default();
        let effects = world.server.effects();
        let bodies: Vec<String> = effects
            .iter()
            .map(|seen| String::from_utf8_lossy(&seen.body).into_owned())
            .collect();
        wrongs.same(bodies, wanted, "what the server has");
        wrongs.unless(
            world.server.complaints().is_empty(),
            "a key came with another body",
        );
        wrongs
    });
}

/// Symptom: "cancelled", says the app, and the server has it.
#[test]
fn pain_17_cancelled_means_never_sent() {
    pain(SEEDS, &[&[]], async |world| {
        let mut dice = world.dice.split();
        world.serve(move |_, _| {
            Reply::default()
                .arrives_after(dice.millis(100, 1000))
                .answers_after(dice.millis(100, 1000))
        });
        let client = world.opened().await;
        let orders: Vec<Order> = (0..5)
            .map(|n| Order::new(n.to_string()).lane(["a", "b"][n % 2]))
            .collect();
        client.post_all(&orders).await;
        pass(world.dice.millis(1, 90)).await;
        // The first is on the wire.
        let mut cancelled = vec![(0, client.cancel("0").await)];
        for nth in 1..5 {
            pass(world.dice.millis(0, 1500)).await;
            cancelled.push((nth, client.cancel(&nth.to_string()).await));
        }
        pass(HOUR).await;
        let mut wrongs = Wrongs::default();
        let arrivals = world.arrivals();
        for (nth, is_cancelled) in cancelled {
            let name = nth.to_string();
            let seen = arrivals.iter().filter(|one| one.name == name).count();
            match is_cancelled {
                true => wrongs.same(seen, 0, "attempts of what is cancelled"),
                false => wrongs.same(world.effects(&name), 1, "what is not"),
            }
        }
        wrongs
    });
}

/// Symptom: something is pending, and nobody can say why, or until when.
#[test]
fn pain_18_it_can_be_seen_why_something_waits() {
    pain(SEEDS, &[&[]], async |world| {
        let reply = world.dice.pick(&[
            Reply::unreachable(),
            Reply::status(500),
            Reply::status(503),
            Reply::status(429).header("retry-after", "100"),
        ]);
        world.serve(move |_, _| reply.clone());
        let client = world.opened().await;
        let orders = ["head", "behind"].map(|name| Order::new(name).lane("a"));
        client.post_all(&orders).await;
        pass(world.dice.millis(1, 60_000)).await;
        let mut wrongs = Wrongs::default();
        let (head, behind) = (client.why("head").await, client.why("behind").await);
        let first = behind.and_then(|why| why.behind);
        wrongs.same(first.as_deref(), Some("head"), "who goes first");
        let (asked, next) = (world.clock.now(), head.as_ref().and_then(|why| why.next));
        wrongs.unless(next.is_some(), format!("no time is told: {head:?}"));
        let before = world.arrivals().len();
        pass(20 * MINUTE).await;
        let told = next.unwrap_or_default();
        let arrivals = world.arrivals();
        let came = arrivals.get(before).map(|next| next.at);
        let late = came.map_or(Duration::MAX, |came| came.since(told));
        wrongs.unless(
            came.is_some_and(|came| came >= told) && late < MINUTE,
            format!("asked at {asked:?}: {head:?}, and the next attempt was at {came:?}"),
        );
        wrongs
    });
}
