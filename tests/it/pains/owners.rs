//! Pains 5, 6 and 20: tokens that end, users that change, what lies on the disk in clear, and two processes on it.

use std::sync::{Arc, Mutex};

use syncvault::testing::Reply;

use super::naive::Habit;
use super::world::{HOUR, Order, SEEDS, Town, World, Wrongs, pain, pass};

/// A server that wants the token of the user that a request is named for. What came with another one is noted.
fn serve_owners(world: &World) -> Arc<Mutex<Vec<String>>> {
    let (town, strangers): (Town, Arc<Mutex<Vec<String>>>) = (world.town.clone(), Arc::default());
    let noted = strangers.clone();
    world.serve(move |seen, _| {
        let name = seen.path().trim_start_matches('/');
        let owner = name.split('-').next().unwrap_or_default();
        if town.is_good(seen, owner) {
            return Reply::default();
        }
        noted.lock().expect("no panic").push(name.to_owned());
        Reply::status(401)
    });
    strangers
}

fn orders_of(user: &str, count: usize) -> Vec<Order> {
    (0..count)
        .map(|n| Order::new(format!("{user}-{n}")))
        .collect()
}

/// Symptom: what was written while a token was good is refused when it is sent, for ever, and everything behind it too.
#[test]
fn pain_05_no_token_is_frozen_in_the_queue() {
    pain(SEEDS, &[&[Habit::FreezesToken]], async |world| {
        let client = world.opened().await;
        client.login("ann");
        world.serve(|_, _| Reply::unreachable());
        let orders: Vec<Order> = orders_of("ann", 8)
            .into_iter()
            .map(|order| order.lane(world.dice.pick(&["a", "b", "c"])))
            .collect();
        client.post_all(&orders).await;
        pass(world.dice.millis(60_000, 3_000_000)).await;
        world.town.expire_tokens();
        serve_owners(world);
        pass(HOUR).await;
        let mut wrongs = Wrongs::default();
        for order in &orders {
            wrongs.same(world.effects(&order.name), 1, &order.name);
        }
        wrongs.same(client.dead().await, vec![], "the dead letters");
        wrongs.unless(
            world.town.refreshes() <= 1,
            format!("{} refreshes of one token", world.town.refreshes()),
        );
        wrongs
    });
}

/// Symptom: Bob logs in, and Ann's messages are sent as his; or Ann's are thrown away.
#[test]
fn pain_06_nothing_is_sent_as_another_user() {
    pain(SEEDS, &[&[], &[Habit::ClearsOnSwitch]], async |world| {
        let client = world.opened().await;
        client.login("ann");
        world.serve(|_, _| Reply::unreachable());
        let (ann, bob) = (orders_of("ann", 4), orders_of("bob", 3));
        client.post_all(&ann).await;
        pass(world.dice.millis(0, 600_000)).await;
        client.login("bob");
        client.post_all(&bob).await;
        let strangers = serve_owners(world);
        pass(2 * HOUR).await;
        let mut wrongs = Wrongs::default();
        let is_anns = |name: &str| name.starts_with("ann");
        for order in &bob {
            wrongs.same(world.effects(&order.name), 1, &order.name);
        }
        for order in &ann {
            wrongs.same(world.effects(&order.name), 0, "while Bob uses the app");
        }
        wrongs.same(
            strangers.lock().expect("no panic").clone(),
            vec![],
            "sent as somebody else",
        );
        let kept = client.pending().await;
        wrongs.same(
            kept.iter().filter(|name| is_anns(name)).count(),
            4,
            "what waits for Ann",
        );
        client.login("ann");
        pass(2 * HOUR).await;
        for order in &ann {
            wrongs.same(world.effects(&order.name), 1, &order.name);
        }
        wrongs
    });
}

/// Symptom: the token of a request lies in the app's files.
#[test]
fn pain_20_no_secret_lies_on_the_disk() {
    pain(SEEDS, &[&[]], async |world| {
        let client = world.opened().await;
        client.login("ann");
        world.serve(|_, _| Reply::unreachable());
        let mut orders = orders_of("ann", 3);
        orders.iter_mut().for_each(|order| order.has_secret = true);
        client.post_all(&orders).await;
        pass(world.dice.millis(0, 600_000)).await;
        let mut wrongs = Wrongs::default();
        let secret = world.town.token();
        wrongs.unless(!world.disk.holds(&secret), "the token is on the disk");
        serve_owners(world);
        pass(2 * HOUR).await;
        for order in &orders {
            wrongs.same(world.effects(&order.name), 1, &order.name);
        }
        wrongs.unless(!world.disk.holds(&secret), "the token stays on the disk");
        wrongs
    });
}

/// Symptom: the app is started twice, and both send what lies in the one queue.
#[cfg(feature = "sled")]
#[test]
fn pain_20_two_processes_do_not_send_the_same_queue() {
    use super::world::MINUTE;

    pain(0..5, &[&[]], async |world| {
        let dir = tempfile::tempdir().expect("tempdir");
        world.lies_in(dir.path());
        world.serve(|_, _| Reply::unreachable());
        let client = world.opened().await;
        let orders: Vec<Order> = (0..6)
            .map(|n| Order::new(n.to_string()).lane(world.dice.pick(&["a", "b"])))
            .collect();
        client.post_all(&orders).await;
        let second = world.open().await;
        let before = world.arrivals().len();
        world.serve(|_, _| Reply::default());
        for _ in 0..100 {
            // Time is paused, the disk is not: each look waits for it.
            pass(MINUTE).await;
            if client.pending().await.is_empty() {
                break;
            }
        }
        let mut wrongs = Wrongs::default();
        let arrivals = world.arrivals().split_off(before);
        for order in &orders {
            let seen = arrivals.iter().filter(|one| one.name == order.name).count();
            wrongs.same(seen, 1, &order.name);
        }
        drop(second);
        client.die().await;
        wrongs
    });
}
