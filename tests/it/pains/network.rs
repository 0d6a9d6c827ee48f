//! Pains 12, 13 and 14: "online" that is not, a herd that comes back, and a server that asks to be left alone.

use std::time::{Duration, SystemTime};

use syncvault::RetryPolicy;
use syncvault::clock::{Clock, Timestamp};
use syncvault::testing::Reply;

use super::disk::Disk;
use super::naive::Habit;
use super::world::{Client, HOUR, MINUTE, Order, SECOND, SEEDS, World, Wrongs, pain, pass};

/// Symptom: a hotel's login page counts as delivered; or nothing is sent, because a flag says "offline".
#[test]
fn pain_12_the_system_is_not_believed() {
    pain(SEEDS, &[&[], &[Habit::TrustsSystem]], async |world| {
        let page = |status| {
            let page = Reply::status(status).header("content-type", "text/html");
            page.body("<html>Welcome</html>").from_elsewhere()
        };
        let away = Reply::status(302).header("location", "http://login.hotel.example/");
        let mut pages = [page(200), away.from_elsewhere(), page(511)];
        pages.rotate_left(world.dice.place(3));
        let client = world.opened().await;
        let orders: Vec<Order> = (0..4).map(|n| Order::new(n.to_string())).collect();
        let mut wrongs = Wrongs::default();
        for (nth, page) in pages.into_iter().enumerate() {
            world.serve(move |_, _| page.clone());
            if nth == 0 {
                client.post_all(&orders).await;
            }
            pass(world.dice.millis(10_000, 600_000)).await;
            wrongs.same(client.pending().await.len(), 4, "what waits for the server");
        }
        world.serve(|_, _| Reply::default());
        pass(2 * HOUR).await;
        for order in &orders {
            wrongs.same(world.effects(&order.name), 1, &order.name);
        }
        world.town.says_offline(true);
        client.network_changed();
        client.post_all(&[Order::new("said-to-be-offline")]).await;
        pass(HOUR).await;
        wrongs.same(client.pending().await, vec![], "what waits for the system");
        wrongs
    });
}

/// Symptom: the network of a whole town is back, and all clients send their backlog in the same second.
#[test]
fn pain_13_a_herd_does_not_come_back_at_once() {
    const CLIENTS: usize = 24;
    pain(0..3, &[&[]], async |world| {
        world.serve(|_, _| Reply::unreachable());
        let mut clients: Vec<Client> = Vec::new();
        for client in 0..CLIENTS {
            let opened = world.open_on(Disk::default()).await.expect("opens");
            let orders = (0..6).map(|n| Order::new(format!("{client}-{n}")).lane(n.to_string()));
            opened.post_all(&orders.collect::<Vec<_>>()).await;
            clients.push(opened);
        }
        pass(10 * MINUTE + world.dice.millis(0, 60_000)).await;
        let healed = world.clock.now();
        world.serve(|_, _| Reply::default());
        for client in &clients {
            client.network_changed();
        }
        pass(2 * HOUR).await;
        let mut wrongs = Wrongs::default();
        let arrivals = world.arrivals().into_iter();
        let times: Vec<Timestamp> = arrivals
            .map(|one| one.at)
            .filter(|at| *at >= healed)
            .collect();
        let within = |from: Timestamp| {
            let second = from..from.after(SECOND);
            times.iter().filter(|at| second.contains(at)).count()
        };
        let peak = times.iter().map(|at| within(*at)).max().unwrap_or_default();
        wrongs.unless(
            peak * 6 <= times.len(),
            format!("{peak} of {} attempts in one second", times.len()),
        );
        for client in &clients {
            wrongs.same(client.pending().await, vec![], "what waits");
        }
        wrongs
    });
}

/// What a server asks for.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Seconds(u64),
    Date(u64),
    TooMuch,
    Past,
    Nonsense,
}

impl Asked {
    fn value(self, now: Timestamp) -> String {
        let date = |at: SystemTime| httpdate::fmt_http_date(at);
        let now = SystemTime::from(now);
        match self {
            Self::Seconds(seconds) => seconds.to_string(),
            Self::Date(seconds) => date(now + Duration::from_secs(seconds)),
            Self::TooMuch => "9999999999".to_owned(),
            Self::Past => date(now - HOUR),
            Self::Nonsense => "soon".to_owned(),
        }
    }

    /// Nothing comes before.
    fn wait(self) -> Duration {
        match self {
            Self::Seconds(seconds) => Duration::from_secs(seconds),
            // Dates are in whole seconds.
            Self::Date(seconds) => Duration::from_secs(seconds - 1),
            Self::TooMuch => RetryPolicy::default().retry_after_max,
            Self::Past | Self::Nonsense => Duration::ZERO,
        }
    }
}

/// Symptom: the server says when to come back, and is asked at once, or a thousand times in a second.
#[test]
fn pain_14_what_the_server_asks_for_is_kept() {
    pain(SEEDS, &[&[], &[Habit::ReadsCarelessly]], async |world| {
        let seconds = 10 + world.dice.below(3000);
        let mut all = [
            Asked::Seconds(seconds),
            Asked::Date(seconds),
            Asked::TooMuch,
            Asked::Past,
            Asked::Nonsense,
        ];
        all.rotate_left(world.dice.place(5));
        let client = world.opened().await;
        let mut wrongs = Wrongs::default();
        for (nth, asked) in all.into_iter().enumerate() {
            if !ask(world, &client, nth, asked, &mut wrongs).await {
                return wrongs;
            }
        }
        // It is no failure of the request, however often it is asked for.
        let mut left = 15;
        world.serve(move |_, now| {
            left -= 1;
            match left >= 0 {
                true => Reply::status(429).header("retry-after", Asked::Seconds(20).value(now)),
                false => Reply::default(),
            }
        });
        client.post_all(&[Order::new("put-off")]).await;
        pass(3 * HOUR).await;
        wrongs.same(client.dead().await, vec![], "the dead letters");
        wrongs.same(world.effects("put-off"), 1, "what was put off");
        wrongs
    });
}

/// One request is put off, and another one of another lane waits as well. False when that is broken: then there is an end.
async fn ask(
    world: &mut World,
    client: &Client,
    nth: usize,
    asked: Asked,
    wrongs: &mut Wrongs,
) -> bool {
    let status = world.dice.pick(&[429, 503]);
    let mut is_first = true;
    world.serve(move |_, now| match std::mem::take(&mut is_first) {
        true => Reply::status(status).header("retry-after", asked.value(now)),
        false => Reply::default(),
    });
    let before = world.arrivals().len();
    let order = Order::new(format!("{nth}-first")).lane("a");
    client.post_all(std::slice::from_ref(&order)).await;
    pass(Duration::from_millis(1)).await;
    client
        .post_all(&[Order::new(format!("{nth}-other")).lane("b")])
        .await;
    pass(10 * SECOND).await;
    let early = world.arrivals().len() - before;
    wrongs.unless(early <= 10, format!("{early} attempts in ten seconds"));
    if early > 10 {
        return false;
    }
    pass(asked.wait() + 30 * MINUTE).await;
    let arrivals = world.arrivals().split_off(before);
    let waited = arrivals[1..]
        .first()
        .map(|next| next.at.since(arrivals[0].at));
    wrongs.unless(
        waited.is_some_and(|waited| waited >= asked.wait()),
        format!("{asked:?}: the next attempt came after {waited:?}"),
    );
    wrongs.same(client.pending().await, vec![], "what waits");
    waited.is_some_and(|waited| waited >= asked.wait())
}
