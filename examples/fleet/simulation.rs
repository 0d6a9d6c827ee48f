//! The run: one queue of events on virtual time, one thread, one event for each client.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use syncvault::decide::Dice;

use crate::HORIZON_S;
use crate::policy::{Policy, Seen};
use crate::server::{Answer, Server};

/// What is simulated. All times are in milliseconds since the server went down.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) clients: u32,
    pub(crate) backlog: u32,
    pub(crate) outage_s: u32,
}

impl Fleet {
    pub(crate) fn of(clients: u32) -> Self {
        Self {
            clients,
            backlog: 10,
            outage_s: 600,
        }
    }

    /// Twice what comes on an ordinary day.
    pub(crate) fn capacity(&self) -> u32 {
        (self.clients * self.backlog * 2 / self.outage_s).max(1)
    }

    pub(crate) fn ideal_s(&self) -> f64 {
        self.first_tries() / f64::from(self.capacity())
    }

    fn first_tries(&self) -> f64 {
        f64::from(self.clients) * f64::from(self.backlog)
    }

    fn outage_ms(&self) -> u64 {
        u64::from(self.outage_s) * 1000
    }
}

/// What the server saw after it came back, second by second.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) arrivals: Vec<u32>,
    delivered: Vec<u32>,
}

impl Outcome {
    /// The busiest time of so many seconds, in capacities.
    pub(crate) fn peak(&self, fleet: &Fleet, seconds: u32) -> f64 {
        let width = usize::try_from(seconds).expect("a few");
        let sums = self
            .arrivals
            .windows(width)
            .map(|window| window.iter().sum());
        let peak: u32 = sums.max().unwrap_or(0);
        f64::from(peak) / f64::from(fleet.capacity()) / f64::from(seconds)
    }

    /// Arrivals beyond the first one of each request, in requests.
    pub(crate) fn retries(&self, fleet: &Fleet) -> f64 {
        let arrivals: f64 = self.arrivals.iter().copied().map(f64::from).sum();
        arrivals / fleet.first_tries() - 1.0
    }

    /// When so much of the backlog was gone, in ideal times.
    pub(crate) fn gone(&self, fleet: &Fleet, share: f64) -> Option<f64> {
        let mut sum = 0.0;
        let wanted = fleet.first_tries() * share;
        let second = self.delivered.iter().position(|count| {
            sum += f64::from(*count);
            sum >= wanted
        })?;
        let seconds = u32::try_from(second + 1).ok()?;
        Some(f64::from(seconds) / fleet.ideal_s())
    }
}

struct Client<C> {
    kept: C,
    left: u32,
    /// What the attempt under way ends in.
    coming: Option<Seen>,
    /// Which of its events counts: being told makes the one before void.
    wakes_at: u64,
}

/// Runs a fleet until its backlog is gone, or for an hour.
pub(crate) fn run<P: Policy>(fleet: &Fleet, mut policy: P, seed: u64) -> Outcome {
    let mut dice = Dice::seeded(seed);
    let mut events = BinaryHeap::new();
    let mut clients: Vec<Client<P::Client>> = Vec::new();
    for number in 0..fleet.clients {
        let within = Duration::from_secs(u64::from(fleet.outage_s / fleet.backlog));
        let wakes_at = u64::try_from(dice.below(within).as_millis()).unwrap_or(0);
        events.push(Reverse((wakes_at, number)));
        clients.push(Client {
            kept: P::Client::default(),
            left: fleet.backlog,
            coming: None,
            wakes_at,
        });
    }
    let mut world = World {
        up_at: fleet.outage_ms(),
        server: Server::new(fleet.capacity()),
        outcome: Outcome {
            name: policy.name(),
            arrivals: Vec::new(),
            delivered: Vec::new(),
        },
    };
    let mut is_told = false;
    while let Some(Reverse((now, number))) = events.pop() {
        if !is_told && now >= world.up_at {
            is_told = true;
            tell(
                &mut policy,
                &mut clients,
                world.up_at,
                &mut events,
                &mut dice,
            );
        }
        let client = &mut clients[usize::try_from(number).expect("a client")];
        if client.wakes_at != now || now > world.up_at + HORIZON_S * 1000 {
            continue;
        }
        if let Some(next) = world.step(&mut policy, client, now, &mut dice) {
            client.wakes_at = next;
            events.push(Reverse((next, number)));
        }
    }
    world.outcome
}

/// Everybody who waits hears that the server is there.
fn tell<P: Policy>(
    policy: &mut P,
    clients: &mut [Client<P::Client>],
    now: u64,
    events: &mut BinaryHeap<Reverse<(u64, u32)>>,
    dice: &mut Dice,
) {
    for (number, client) in (0..).zip(clients) {
        if client.coming.is_none()
            && let Some(next) = policy.told(&mut client.kept, now, dice)
        {
            client.wakes_at = next.max(now);
            events.push(Reverse((client.wakes_at, number)));
        }
    }
}

struct World {
    up_at: u64,
    server: Server,
    outcome: Outcome,
}

impl World {
    /// One event of a client, and the time of its next one; nothing when it is done.
    fn step<P: Policy>(
        &mut self,
        policy: &mut P,
        client: &mut Client<P::Client>,
        now: u64,
        dice: &mut Dice,
    ) -> Option<u64> {
        let Some(seen) = client.coming.take() else {
            policy.started(&mut client.kept, now, dice);
            let (seen, at) = self.attempt(now);
            client.coming = Some(seen);
            return Some(at);
        };
        if seen == Seen::Done {
            count(&mut self.outcome.delivered, now - self.up_at);
            client.left -= 1;
        }
        let next = policy.ended(&mut client.kept, seen, now, dice);
        (client.left > 0).then_some(next.max(now + 1))
    }

    fn attempt(&mut self, now: u64) -> (Seen, u64) {
        if now < self.up_at {
            return (Seen::NoConnection, now + 1);
        }
        count(&mut self.outcome.arrivals, now - self.up_at);
        match self.server.take(now) {
            Answer::Refused { at } => (Seen::Refused, at),
            Answer::Done { at } => (Seen::Done, at),
        }
    }
}

fn count(seconds: &mut Vec<u32>, at: u64) {
    let second = usize::try_from(at / 1000).expect("within hours");
    if seconds.len() <= second {
        seconds.resize(second + 1, 0);
    }
    seconds[second] += 1;
}
