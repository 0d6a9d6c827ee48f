//! What follows from each verdict, on an attempt that ended at `NOW`: the story that both halves tell.

mod batch;
mod gates;
mod settling;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};

use super::*;
use crate::action::{ActionId, Lane, Origin, State};
use crate::decide::{DeadLane, Observation, OriginWell, Stamp, verdict};

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);
const BASE: Duration = Duration::from_secs(2);
const CAP: Duration = Duration::from_secs(40);
const UNKNOWN: u16 = 999;

/// An attempt that can be changed in parts before it is planned.
struct Story {
    record: Record,
    wire_before: WireState,
    gate: Option<Gate>,
    origin: OriginState,
    principal_gate: Option<Gate>,
    policy: RetryPolicy,
    well: OriginWell,
    stamp: Stamp,
    verdict: Option<Verdict>,
    dice: Dice,
}

fn story() -> Story {
    let origin = Origin::from_stored("https://a.example:443");
    let id = ActionId::from_bytes([7; 16]);
    let mut record = Record::new(id, Lane::default_lane(), origin, Bytes::new(), NOW);
    record.state = State::InFlight {
        attempt: 1,
        epoch: 1,
    };
    record.attempts = 1;
    record.principal = Some("ada".into());
    Story {
        record,
        wire_before: WireState::NeverSent,
        gate: None,
        origin: OriginState::default(),
        principal_gate: None,
        policy: RetryPolicy {
            backoff: Backoff::fixed(BASE),
            origin_backoff: Backoff::fixed(CAP),
            ..RetryPolicy::default()
        },
        well: OriginWell::No,
        stamp: Stamp::Current,
        verdict: None,
        dice: Dice::seeded(1),
    }
}

impl Story {
    fn answered(&mut self, status: u16) -> Plan {
        self.planned(Observed::Answer {
            status,
            headers: &HeaderMap::new(),
        })
    }

    fn told(&mut self, status: u16, seconds: u64) -> Plan {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from(seconds));
        self.planned(Observed::Answer {
            status,
            headers: &headers,
        })
    }

    fn failed(&mut self, kind: FailureKind) -> Plan {
        self.planned(Observed::Failure(kind))
    }

    fn planned(&mut self, observed: Observed<'_>) -> Plan {
        let mut seen = Observation::new(&Method::POST, &self.record.origin, observed, NOW);
        seen.wire_before = self.wire_before;
        seen.origin_well_since = self.well;
        seen.credentials = self.stamp;
        let table = verdict(&seen, self.policy.retry_after_max);
        let situation = Situation {
            record: &self.record,
            wire_before: self.wire_before,
            gate: self.gate.as_ref(),
            origin: &self.origin,
            slots: 16,
            principal_gate: self.principal_gate.as_ref(),
            verdict: self.verdict.as_ref().unwrap_or(&table),
            observed: &observed,
            now: NOW,
        };
        plan(&situation, &self.policy, &mut self.dice)
    }

    fn origin_key(&self) -> GateKey {
        GateKey::Origin(self.record.origin.clone())
    }

    fn principal_key(&self) -> GateKey {
        GateKey::Principal(self.record.principal.clone())
    }

    /// The origin's gate, closed for `wait` (zero: open, with its history).
    fn gate(&self, reason: GateReason, wait: Duration, failures: u32) -> Gate {
        let mut gate = Gate::new(self.origin_key(), reason, NOW.after(wait), NOW);
        gate.failures = failures;
        gate.extra.insert("of_tomorrow".into(), 42.into());
        gate
    }
}

fn retry(wait: Duration, counts: Counted) -> Settlement {
    Settlement::Retry {
        due: NOW.after(wait),
        counts,
        backoff_ms: u64::try_from(wait.as_millis()).expect("short"),
    }
}

fn exhausted(attempts: u32, status: Option<u16>) -> Settlement {
    Settlement::Dead {
        reason: DeadReason::RetriesExhausted { attempts, status },
        lane: DeadLane::Skip,
    }
}

fn wait_of(gate: &Gate) -> Duration {
    gate.closed_until.since(NOW)
}
