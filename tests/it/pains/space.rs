//! Pains 7, 9, 10, 11 and 19: damage, full queues, full disks, long queues, and what another version wrote.

use syncvault::ErrorKind;
use syncvault::action::FRAME_FORMAT;
use syncvault::testing::Reply;

use super::naive::Habit;
use super::world::{Client, HOUR, Order, SEEDS, World, Wrongs, pain, pass};

/// What a stored frame begins with.
const MAGIC: &[u8] = b"SVf\x01";

/// A record of the vault, or what a naive client keeps.
fn is_record(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC) || bytes.starts_with(b"{\"version")
}

/// Six requests, each in a lane of its own, that lie on the disk of a process that has ended.
async fn six_on_disk(world: &mut World) -> Vec<Order> {
    world.serve(|_, _| Reply::unreachable());
    let client = world.opened().await;
    let orders: Vec<Order> = (0..6)
        .map(|n| Order::new(format!("order-{n}")).lane(n.to_string()))
        .collect();
    client.post_all(&orders).await;
    pass(world.dice.millis(0, 60_000)).await;
    client.shutdown(HOUR).await;
    world.serve(|_, _| Reply::default());
    orders
}

/// Opens, lets it work, and looks whether everything but `hit` was delivered, and `hit` is not deleted.
async fn all_but(world: &mut World, orders: &[Order], hit: &str) -> Wrongs {
    let mut wrongs = Wrongs::default();
    match world.open().await {
        Ok(client) => {
            pass(HOUR).await;
            drop(client);
        }
        Err(error) => wrongs.unless(false, format!("it does not open: {error}")),
    }
    for order in orders.iter().filter(|order| order.name != hit) {
        wrongs.same(world.effects(&order.name), 1, &order.name);
    }
    wrongs
}

/// Symptom: a record is damaged, and the app does not start until its data is deleted by hand.
#[test]
fn pain_07_a_damaged_record_bricks_nothing() {
    let naive: [&[Habit]; 2] = [&[], &[Habit::StartsAnewWhenBroken]];
    pain(SEEDS, &naive, async |world| {
        let orders = six_on_disk(world).await;
        let hit = world.dice.pick(&orders).name;
        let blow = world.dice.below(3);
        world.disk.change(&hit, is_record, |bytes| match blow {
            0 => bytes[0] ^= 0x40,
            1 => bytes.truncate(bytes.len() / 2),
            _ => bytes.fill(0),
        });
        all_but(world, &orders, &hit).await
    });
}

/// Symptom: an update of the app, or a step back from one, and what was queued is gone, or the app is.
#[test]
fn pain_19_what_another_version_wrote_is_kept() {
    let naive: [&[Habit]; 2] = [&[], &[Habit::WipesOtherVersions]];
    pain(SEEDS, &naive, async |world| {
        let orders = six_on_disk(world).await;
        let hit = world.dice.pick(&orders).name;
        world.disk.change(&hit, is_record, make_newer);
        let mut wrongs = all_but(world, &orders, &hit).await;
        wrongs.unless(
            world.disk.holds(&hit),
            "what a newer version wrote is deleted",
        );
        wrongs
    });
}

/// As a version of next year would have written it.
fn make_newer(bytes: &mut Vec<u8>) {
    if !bytes.starts_with(MAGIC) {
        let text = String::from_utf8(std::mem::take(bytes)).expect("JSON");
        *bytes = text.replace("\"version\":1", "\"version\":2").into_bytes();
        return;
    }
    let end = bytes.len() - 4;
    bytes[4..6].copy_from_slice(&(FRAME_FORMAT + 1).to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
}

/// Symptom: a long outage, and its first hours are missing in the end. Nobody was told.
#[test]
fn pain_09_nothing_is_dropped_silently() {
    let naive: [&[Habit]; 2] = [&[Habit::DropsOldest], &[Habit::GivesUp]];
    pain(0..10, &naive, async |world| {
        world.tune(|builder| builder.pending_max(30));
        world.serve(|_, _| Reply::unreachable());
        let client = world.opened().await;
        let mut wrongs = Wrongs::default();
        let mut taken = Vec::new();
        for n in 0..45 {
            let order = Order::new(n.to_string()).lane(world.dice.pick(&["a", "b", "c"]));
            match client.post(&order).await {
                Ok(()) => taken.push(order),
                Err(kind) => wrongs.same(kind, ErrorKind::Full, "the refusal"),
            }
            pass(world.dice.millis(0, 100_000)).await;
        }
        world.serve(|_, _| Reply::default());
        pass(3 * HOUR).await;
        for order in &taken {
            wrongs.same(world.effects(&order.name), 1, &order.name);
        }
        if let Some(vault) = client.vault() {
            let ledger = vault.ledger().await.expect("ledger");
            wrongs.unless(ledger.is_balanced(), format!("{ledger:?}"));
            wrongs.same(ledger.delivered, taken.len() as u64, "delivered");
        }
        wrongs
    });
}

/// Symptom: the file grows and grows, also when all is delivered; a cap counts items, not bytes.
#[test]
fn pain_10_space_is_bounded_and_given_back() {
    const CAP: usize = 60_000;
    pain(0..3, &[&[], &[Habit::NeverReclaims]], async |world| {
        world.tune(|builder| {
            builder
                .bytes_max(CAP as u64)
                .key_retention(HOUR)
                .retention_limits(20, 10_000)
        });
        let client = world.opened().await;
        let (mut wrongs, mut peak) = (Wrongs::default(), 0);
        for round in 0..2 {
            world.serve(|_, _| Reply::unreachable());
            let size = 2500 + world.dice.place(2000);
            for n in 0..40 {
                let order = Order::new(format!("{round}-{n}")).body("x".repeat(size));
                // What is too much is refused.
                client.post(&order).await.ok();
            }
            peak = peak.max(world.disk.bytes());
            world.serve(|_, _| Reply::default());
            pass(3 * HOUR).await;
            wrongs.same(client.pending().await, vec![], "what waits");
        }
        wrongs.unless(2 * peak <= 3 * CAP, format!("{peak} bytes at the peak"));
        // The next write gives back what the last ones no longer need.
        client.post_all(&[Order::new("last")]).await;
        pass(2 * HOUR).await;
        let left = world.disk.bytes();
        wrongs.unless(
            left * 20 <= CAP * 3,
            format!("{left} bytes are left of {peak}"),
        );
        wrongs
    });
}

/// Symptom: the longer the queue, the longer the start, and all of it is in memory.
#[test]
fn pain_11_opening_reads_no_more_of_a_longer_queue() {
    async fn read_at_open(world: &mut World, depth: usize) -> u64 {
        world.serve(|_, _| Reply::unreachable());
        let client: Client = world.opened().await;
        for n in 0..depth {
            let order = Order::new(format!("{depth}-{n}")).body("x".repeat(200));
            client.post_all(&[order.lane((n % 7).to_string())]).await;
        }
        client.shutdown(HOUR).await;
        world.disk.take_bytes_read();
        let client = world.opened().await;
        pass(std::time::Duration::from_millis(5)).await;
        let read = world.disk.take_bytes_read();
        client.shutdown(HOUR).await;
        read
    }
    pain(0..3, &[&[]], async |world| {
        let depth = 20 + world.dice.place(20);
        let short = read_at_open(world, depth).await;
        let long = read_at_open(world, 10 * depth).await;
        let mut wrongs = Wrongs::default();
        wrongs.unless(
            long <= 2 * short,
            format!("{short} bytes are read at the start of a short queue, {long} of a long one"),
        );
        wrongs
    });
}
