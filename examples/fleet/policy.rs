//! What a client does after an attempt: as this crate does, or as naive clients do.

use std::time::Duration;

use http::{HeaderMap, Method};
use syncvault::WireState;
use syncvault::action::{ActionId, Lane, Origin, Record, State};
use syncvault::clock::Timestamp;
use syncvault::decide::{
    Dice, FailureKind, Gate, GateKey, Observation, Observed, OriginState, OriginWell, RetryPolicy,
    Settlement, Situation, Verdict, open_gate, plan, verdict,
};

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nobody listened.
    NoConnection,
    /// 503.
    Refused,
    /// 200.
    Done,
}

/// When a client tries, on its own: it knows what it saw, and nothing of the others.
pub(crate) trait Policy {
    /// What one client remembers.
    type Client: Default;

    fn name(&self) -> &'static str;

    /// An attempt starts.
    fn started(&mut self, _client: &mut Self::Client, _now: u64, _dice: &mut Dice) {}

    /// The earliest time of the next one, after an attempt that ended.
    fn ended(&mut self, client: &mut Self::Client, seen: Seen, now: u64, dice: &mut Dice) -> u64;

    /// Everybody hears that the server is there: the time of the next attempt; nothing = nobody tells.
    fn told(&mut self, _client: &mut Self::Client, _now: u64, _dice: &mut Dice) -> Option<u64> {
        None
    }
}

/// This crate.
pub(crate) struct Citizen {
    policy: RetryPolicy,
    origin: Origin,
    record: Record,
    is_told: bool,
}

/// What the crate keeps of an origin.
#[derive(Default)]
pub(crate) struct Kept {
    gate: Option<Box<Gate>>,
    origin: OriginState,
    /// Attempts of the first action of the lane.
    attempts: u32,
    last: Option<Timestamp>,
    previous: Option<Timestamp>,
    well: Option<Timestamp>,
}

impl Default for Citizen {
    fn default() -> Self {
        let url = "https://api.example.com".parse().expect("a url");
        let origin = Origin::of(&url).expect("an origin");
        let id = ActionId::from_bytes([7; 16]);
        let lane = Lane::default_lane();
        let content = bytes::Bytes::new();
        Self {
            policy: RetryPolicy::default(),
            record: Record::new(id, lane, origin.clone(), content, Timestamp::EPOCH),
            origin,
            is_told: false,
        }
    }
}

impl Citizen {
    pub(crate) fn told_at_once(spread: Duration) -> Self {
        let mut citizen = Self {
            is_told: true,
            ..Self::default()
        };
        citizen.policy.origin.reconnect_spread = spread;
        citizen
    }

    fn judged(&self, client: &Kept, observed: &Observed<'_>, now: Timestamp) -> Verdict {
        let mut seen = Observation::new(&Method::POST, &self.origin, *observed, now);
        if client
            .well
            .is_some_and(|well| client.previous.is_some_and(|p| well > p))
        {
            seen.origin_well_since = OriginWell::Yes;
        }
        verdict(&seen, self.policy.retry_after_max)
    }
}

impl Policy for Citizen {
    type Client = Kept;

    fn name(&self) -> &'static str {
        match (self.is_told, self.policy.origin.reconnect_spread.as_secs()) {
            (false, _) => "this crate",
            (true, 5) => "this crate, told at once",
            (true, _) => "this crate, told at once, spread of 30 s",
        }
    }

    fn started(&mut self, client: &mut Kept, now: u64, dice: &mut Dice) {
        let now = Timestamp::from_millis(now);
        client.attempts += 1;
        client.previous = client.last.replace(now);
        client.origin.started(now, &self.policy.origin, dice);
    }

    fn ended(&mut self, client: &mut Kept, seen: Seen, now: u64, dice: &mut Dice) -> u64 {
        let now = Timestamp::from_millis(now);
        let headers = HeaderMap::new();
        let observed = match seen {
            Seen::NoConnection => Observed::Failure(FailureKind::Connect),
            Seen::Refused => Observed::Answer {
                status: 503,
                headers: &headers,
            },
            Seen::Done => Observed::Answer {
                status: 200,
                headers: &headers,
            },
        };
        self.record.attempts = client.attempts;
        self.record.state = State::InFlight {
            attempt: client.attempts,
            epoch: 1,
        };
        let situation = Situation {
            record: &self.record,
            wire_before: WireState::NeverSent,
            gate: client.gate.as_deref(),
            origin: &client.origin,
            slots: 16,
            principal_gate: None,
            verdict: &self.judged(client, &observed, now),
            observed: &observed,
            now,
        };
        let plan = plan(&situation, &self.policy, dice);
        client.origin = plan.origin;
        if let Some(gate) = plan.gate {
            client.gate = Some(Box::new(gate));
        }
        let due = match plan.settlement {
            Settlement::Retry { due, .. } => due,
            _ => {
                *client = Kept {
                    attempts: 0,
                    last: None,
                    previous: None,
                    well: Some(now),
                    gate: client.gate.take(),
                    origin: std::mem::take(&mut client.origin),
                };
                now
            }
        };
        opens_at(client).max(due).as_millis()
    }

    fn told(&mut self, client: &mut Kept, now: u64, dice: &mut Dice) -> Option<u64> {
        if !self.is_told {
            return None;
        }
        let now = Timestamp::from_millis(now);
        let wait = client.origin.reconnected(now, &self.policy.origin, dice);
        let gate = client.gate.take()?;
        client.gate = Some(Box::new(open_gate(*gate, now.after(wait))));
        Some(opens_at(client).max(now).as_millis())
    }
}

fn opens_at(client: &Kept) -> Timestamp {
    let key = GateKey::Principal(None);
    let mut gate = client
        .gate
        .as_deref()
        .cloned()
        .unwrap_or_else(|| Gate::open(key, Timestamp::EPOCH));
    gate.origin = client.origin.clone();
    gate.opens_at()
}

/// What is often written by hand.
#[derive(Clone, Copy)]
pub(crate) enum Naive {
    /// Five seconds after each failure.
    Fixed,
    /// A second, doubling to a minute, without jitter; a success sets it back.
    Exponential,
    /// The same with full jitter, but set back and tried at once when the network is back.
    ResetOnReconnect,
}

impl Policy for Naive {
    /// Failures in a row.
    type Client = u32;

    fn name(&self) -> &'static str {
        match self {
            Self::Fixed => "fixed delay, 5 s",
            Self::Exponential => "exponential, no jitter",
            Self::ResetOnReconnect => "full jitter, reset on reconnect",
        }
    }

    fn ended(&mut self, failures: &mut u32, seen: Seen, now: u64, dice: &mut Dice) -> u64 {
        if seen == Seen::Done {
            *failures = 0;
            return now;
        }
        let full = 1000_u64 << (*failures).min(6);
        *failures += 1;
        let wait = match self {
            Self::Fixed => 5000,
            Self::Exponential => full.min(60_000),
            Self::ResetOnReconnect => {
                let full = Duration::from_millis(full.min(60_000));
                u64::try_from(dice.below(full).as_millis()).unwrap_or(0)
            }
        };
        now + wait
    }

    fn told(&mut self, failures: &mut u32, now: u64, _dice: &mut Dice) -> Option<u64> {
        matches!(self, Self::ResetOnReconnect).then(|| {
            *failures = 0;
            now
        })
    }
}
