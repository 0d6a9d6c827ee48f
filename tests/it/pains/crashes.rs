//! Pains 3, 4 and 8: a request on the wire when the process dies, when the answer is lost, and when the app ends.

use std::collections::BTreeSet;
use std::time::Duration;

use syncvault::testing::Reply;

use super::disk::Cut;
use super::naive::Habit;
use super::world::{HOUR, Order, SEEDS, Wrongs, pain, pass};

/// Symptom: what was being sent when the app died is gone, or is never tried again.
#[test]
fn pain_03_a_crash_in_flight_loses_nothing_and_doubles_nothing() {
    let naive: [&[Habit]; 2] = [&[Habit::ShiftsBeforeSending], &[Habit::LeavesMarked]];
    pain(SEEDS, &naive, async |world| {
        let mut dice = world.dice.split();
        world.serve(move |_, _| {
            Reply::default()
                .arrives_after(dice.millis(60, 200))
                .answers_after(dice.millis(1, 100))
        });
        let mut client = world.opened().await;
        let mut taken = vec![Order::new("first")];
        client.post_all(&taken).await;
        // It is on its way, and has not arrived.
        pass(Duration::from_millis(50)).await;
        client = world.crash(client).await;
        for life in 0..5 {
            let cut = world.dice.pick(&[Cut::BeforeCommit, Cut::AfterCommit]);
            world.disk.cut_at(world.dice.below(12), cut);
            for n in 0..3 {
                let order = Order::new(format!("{life}-{n}")).lane(world.dice.pick(&["a", "b"]));
                if client.post(&order).await.is_ok() {
                    taken.push(order);
                }
            }
            let moment = pass(world.dice.millis(0, 2000));
            tokio::select! {
                () = world.disk.was_cut() => {}
                () = moment => {}
            }
            client = world.crash(client).await;
        }
        pass(HOUR).await;
        let mut wrongs = Wrongs::default();
        for order in &taken {
            wrongs.same(world.effects(&order.name), 1, &order.name);
        }
        let effects = world.server.effects();
        let once: BTreeSet<_> = effects.iter().map(|seen| seen.path()).collect();
        wrongs.same(effects.len(), once.len(), "effects in all");
        wrongs.same(client.pending().await, vec![], "what waits");
        wrongs
    });
}

/// Symptom: the answer is lost, the request is sent again, and the order is there twice. Also days later, when the server
/// does not know the key any more.
#[test]
fn pain_04_a_lost_answer_has_no_second_effect() {
    pain(0..10, &[&[Habit::NewKeyPerAttempt], &[]], async |world| {
        world.tune(|builder| builder.idempotency_window(HOUR));
        let (mut dice, mut attempts) = (world.dice.split(), 0);
        world.serve(move |_, _| {
            attempts += 1;
            match attempts == 1 || dice.percent(30) {
                true => Reply::lost(),
                false => Reply::default(),
            }
        });
        let client = world.opened().await;
        let orders: Vec<Order> = (0..6)
            .map(|n| Order::new(n.to_string()).lane(world.dice.pick(&["a", "b"])))
            .collect();
        client.post_all(&orders).await;
        pass(HOUR).await;
        let mut wrongs = Wrongs::default();
        for order in &orders {
            wrongs.same(world.effects(&order.name), 1, &order.name);
        }
        let mut attempts = 0;
        world.serve(move |_, _| {
            attempts += 1;
            match attempts {
                1 => Reply::lost(),
                _ => Reply::unreachable(),
            }
        });
        client.post_all(&[Order::new("late")]).await;
        pass(world.dice.millis(3_700_000, 9_000_000)).await;
        world.server.forget_keys();
        world.serve(|_, _| Reply::default());
        pass(2 * HOUR).await;
        wrongs.same(world.effects("late"), 1, "past the window of its key");
        wrongs.same(
            client.dead().await,
            vec!["late".to_owned()],
            "what a person must look at",
        );
        wrongs
    });
}

/// Symptom: the app is closed while it sends, and what it sent is dropped as failed.
#[test]
fn pain_08_a_shutdown_is_no_outcome() {
    pain(SEEDS, &[&[Habit::ShutdownIsFailure]], async |world| {
        let mut dice = world.dice.split();
        world.serve(move |_, _| Reply::default().arrives_after(dice.millis(100, 5000)));
        let mut taken = Vec::new();
        for life in 0..5 {
            let client = world.opened().await;
            for n in 0..2 {
                let order = Order::new(format!("{life}-{n}"));
                client.post_all(std::slice::from_ref(&order)).await;
                taken.push(order);
            }
            pass(world.dice.millis(1, 40)).await;
            client.shutdown(world.dice.millis(0, 40)).await;
        }
        let client = world.opened().await;
        pass(HOUR).await;
        let mut wrongs = Wrongs::default();
        for order in &taken {
            wrongs.same(world.effects(&order.name), 1, &order.name);
        }
        wrongs.same(client.pending().await, vec![], "what waits");
        wrongs.same(client.dead().await, vec![], "the dead letters");
        wrongs
    });
}
