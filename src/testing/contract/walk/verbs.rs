//! The steps of app and worker, append and advance: each is done by the store and by the model, and compared.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;

use super::super::StoreFactory;
use super::super::draft::{Draft, origin};
use super::super::rig::{bytes_of, ids, rejected, settle_of};
use super::Walk;
use super::model::{Kept, Want};
use crate::action::{ActionId, Record, State, WireState};
use crate::decide::{Counted, DeadLane, Gate, GateKey, GateReason, Settlement};
use crate::store::{Advanced, Appended, Direct, Lease, Settle};

const LANES: [&str; 4] = ["a", "b", "c", "d"];
const ORIGINS: [&str; 2] = ["x", "y"];

impl<F: StoreFactory> Walk<'_, F> {
    fn draft(&mut self) -> Draft {
        let lane = LANES[self.rng.random_range(0..LANES.len())];
        let to = ORIGINS[self.rng.random_range(0..ORIGINS.len())];
        let mut draft = self.rig.draft(lane).origin(to);
        draft = draft.priority(self.rng.random_range(-1..=1));
        draft = draft.key_retention(Duration::from_millis(20_001));
        if self.chance(40) {
            let key = format!("key {}", self.rng.random_range(0..20));
            let fingerprint = if self.chance(20) { "other" } else { "f" };
            // A key whose action ended without delivery has rules of its own.
            let ended = |kept: &Kept| kept.is_settled() && !kept.is_delivered();
            let ended = |kept: &Kept| ended(kept) && kept.record.key.as_ref() == Some(&key);
            if !self.model.kept.iter().any(ended) {
                draft = draft.key(&key).fingerprint(fingerprint);
            }
        }
        if self.chance(30) {
            draft = draft.principal("p");
        }
        if self.chance(20) {
            draft = draft.expires(self.later(6_000));
        }
        if self.chance(10) {
            let size = self.rng.random_range(0..20_000);
            draft = draft.body(vec![3; size]);
        }
        if self.chance(30) {
            let direct = [Direct::Alone, Direct::SideBySide];
            return draft.direct(direct[self.rng.random_range(0..2)]);
        }
        if draft.as_record().key.is_none() && self.chance(25) {
            draft = draft.coalesce("together");
        }
        if self.chance(20) {
            draft = draft.due(self.later(3_000));
        }
        draft
    }

    pub(super) async fn append(&mut self) {
        let count = self.rng.random_range(1..=3);
        let mut drafts = Vec::new();
        for _ in 0..count {
            let draft = self.draft();
            drafts.push(self.over(draft).await);
        }
        let appended = self.rig.append_all(drafts.clone()).await;
        for (draft, got) in drafts.into_iter().zip(appended) {
            let id = draft.id();
            let want = self.model.append(&draft.into_append());
            let (got, added) = match got {
                Appended::Queued { record, superseded } => {
                    let superseded = superseded.map(|record| record.id);
                    (Want::Queued { superseded }, Some(record))
                }
                Appended::Leased { record, superseded } => {
                    let superseded = superseded.map(|record| record.id);
                    (Want::Leased { superseded }, Some(record))
                }
                Appended::Known { record } => (Want::Known(record.id), None),
                Appended::Conflict { id } => (Want::Conflict(id), None),
                Appended::Cancelled { record, waiting } => {
                    let waiting = waiting.expect("the other one is told").id;
                    (Want::Cancelled { waiting }, Some(record))
                }
                Appended::NotOver { found } => (Want::NotOver(found.map(|record| record.id)), None),
                Appended::Full { limit } => panic!("nothing is full here: {limit}"),
                Appended::Unfit { why, .. } => panic!("nobody waits here: {why}"),
            };
            assert_eq!(got, want);
            if let Some(record) = added {
                self.model.get_mut(id).record.seq = record.seq;
                self.same_record(id, &record);
                self.may_forget_earlier_holders(id).await;
            }
        }
    }

    /// A settled action that lost its key to a new one may be forgotten before its time.
    async fn may_forget_earlier_holders(&mut self, new: ActionId) {
        let key = self.model.get_mut(new).record.key.clone();
        for old in self.of(|kept| kept.is_settled() && key.is_some() && kept.record.key == key) {
            if self.rig.find(old.id).await.is_none() {
                self.model.forget(old.id);
            }
        }
    }

    fn result(&mut self) -> (Settlement, WireState) {
        let due = if self.chance(50) {
            self.rig.ago(1)
        } else {
            self.later(4_000)
        };
        let counts = if self.chance(50) {
            Counted::Yes
        } else {
            Counted::No
        };
        let wires = [
            WireState::NeverSent,
            WireState::MaybeSent,
            WireState::Answered,
        ];
        let wire = wires[self.rng.random_range(0..3)];
        let reason = rejected();
        let retry = Settlement::Retry {
            due,
            counts,
            backoff_ms: 5,
        };
        match self.rng.random_range(0..10) {
            0..5 => (Settlement::Delivered { status: 200 }, WireState::Answered),
            5 => (Settlement::Returned, WireState::Answered),
            6 => {
                let lane = if self.chance(40) {
                    DeadLane::Block
                } else {
                    DeadLane::Skip
                };
                (Settlement::Dead { reason, lane }, WireState::Answered)
            }
            _ => (retry, wire),
        }
    }

    fn settles(&mut self) -> Vec<Settle> {
        let flying: Vec<Record> = self.of(Kept::is_in_flight);
        let mut settles = Vec::new();
        for mut record in flying {
            if self.chance(20) {
                continue;
            }
            let (result, wire) = self.result();
            let mut settle = settle_of(&record, result);
            settle.wire = wire;
            if matches!(settle.result, Settlement::Delivered { .. }) && self.chance(70) {
                let size = self.rng.random_range(1..400);
                settle.answer = Some(Bytes::from(vec![9; size]));
            }
            settles.push(settle.clone());
            if self.chance(10) {
                settles.push(settle);
            }
            if self.chance(10) {
                let (attempt, epoch) = if self.chance(50) {
                    (record.attempts, self.model.epoch - 1)
                } else {
                    (record.attempts - 1, self.model.epoch)
                };
                record.state = State::InFlight { attempt, epoch };
                settles.insert(0, settle_of(&record, Settlement::Returned));
            }
        }
        settles
    }

    /// The records that are so.
    pub(super) fn of(&self, so: impl Fn(&Kept) -> bool) -> Vec<Record> {
        let kept = self.model.kept.iter().filter(|kept| so(kept));
        kept.map(|kept| kept.record.clone()).collect()
    }

    fn gate(&mut self) -> Gate {
        let keys = [
            GateKey::Origin(origin("x")),
            GateKey::Origin(origin("y")),
            GateKey::Principal(Some("p".into())),
            GateKey::Principal(None),
        ];
        let key = keys[self.rng.random_range(0..keys.len())].clone();
        let until = if self.chance(40) {
            self.rig.ago(1)
        } else {
            self.later(2_000)
        };
        Gate::new(key, GateReason::Unreachable, until, self.rig.now)
    }

    pub(super) async fn advance(&mut self) {
        let slots = self.rng.random_range(0..5);
        let mut step = self.rig.leasing(slots);
        step.settle = self.settles();
        if self.chance(15) {
            step.gates.push(self.gate());
        }
        let mut lease = step.lease.take().expect("a lease");
        if self.chance(15) {
            lease
                .origin_slots
                .push((origin("x"), self.rng.random_range(0..2)));
        }
        if self.chance(10) {
            lease.forced.push(origin("y"));
        }
        step.lease = Some(lease.clone());
        let got = self.rig.advance(step.clone()).await;
        for (settle, got) in step.settle.iter().zip(&got.settled) {
            let accepted = self.model.settle(settle, step.now);
            assert_eq!(got.is_some(), accepted, "{settle:?}");
        }
        for gate in step.gates {
            self.model.set_gate(gate);
        }
        self.expired_are(ids(&got.expired));
        self.leases_are_right(&lease, &got);
        for lease in &got.leased {
            let kept = self.model.get(lease.record.id).expect("the model knows it");
            assert_eq!(lease.wire_before, kept.record.wire);
            assert_eq!(bytes_of(&lease.body), kept.body);
            self.model.lease(lease.record.id);
            self.same_record(lease.record.id, &lease.record);
        }
        if lease.forced.is_empty() && lease.origin_slots.is_empty() {
            self.timer_is_right(&got);
        }
    }

    /// Expires what is over in the model, which must be what the store told.
    pub(super) fn expired_are(&mut self, mut told: Vec<ActionId>) {
        let mut want = self.model.expire(self.rig.now);
        want.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, want, "what expired");
    }

    /// Only ready heads, as many as may be, none while one of a higher priority waits.
    fn leases_are_right(&self, lease: &Lease, got: &Advanced) {
        let now = self.rig.now;
        let ready: HashMap<ActionId, &Record> = self
            .model
            .heads(lease)
            .into_iter()
            .filter(|(_, ready)| *ready <= now)
            .map(|(kept, _)| (kept.record.id, &kept.record))
            .collect();
        let leased: HashSet<ActionId> = got.leased.iter().map(|one| one.record.id).collect();
        assert_eq!(leased.len(), got.leased.len(), "leased twice");
        let stranger = leased.iter().find(|id| !ready.contains_key(id));
        let stranger = stranger.map(|id| (self.model.get(*id), &self.model.gates));
        assert!(stranger.is_none(), "leased but not ready: {stranger:?}");
        let room = |name: &str| {
            let limit = lease
                .origin_slots
                .iter()
                .find(|(one, _)| *one == origin(name));
            limit.map_or(usize::MAX, |(_, slots)| *slots)
        };
        let of = |name: &str| {
            ready
                .values()
                .filter(|one| one.origin == origin(name))
                .count()
        };
        let most: usize = ORIGINS.iter().map(|name| room(name).min(of(name))).sum();
        assert_eq!(leased.len(), most.min(lease.slots), "of {ready:?}");
        for name in ORIGINS {
            let count = leased.iter().filter(|id| ready[id].origin == origin(name));
            assert!(count.count() <= room(name), "more than the slots of {name}");
        }
        if lease.origin_slots.is_empty() {
            let lowest = leased.iter().map(|id| ready[id].priority).min();
            let left = ready.iter().filter(|(id, _)| !leased.contains(id));
            let highest_left = left.map(|(_, record)| record.priority).max();
            assert!(
                lowest.is_none() || highest_left <= lowest,
                "a higher priority waits"
            );
        }
    }

    fn timer_is_right(&self, got: &Advanced) {
        match self.model.next_due() {
            Some(due) if due <= self.rig.now => {
                assert!(got.next_wake().is_some_and(|due| due <= self.rig.now));
            }
            due => assert_eq!(got.next_wake(), due),
        }
    }
}
