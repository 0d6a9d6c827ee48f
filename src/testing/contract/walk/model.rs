//! The store as a list: slow, in memory, and simple enough to be seen to be right.
//! What the contract leaves open, it takes over from the store after checking it against the contract.

use bytes::Bytes;

use crate::action::{ActionId, Counts, Lane, Ledger, Record, State, WireState};
use crate::clock::Timestamp;
use crate::decide::{Counted, DeadLane, Gate, GateKey, Settlement};
use crate::store::{Append, Direct, Lease, Settle, Then, Totals};

/// One action.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) record: Record,
    pub(super) body: Bytes,
    pub(super) answer: Option<Bytes>,
    /// Its place in the order of the queue.
    pub(super) place: u64,
    /// True for a dead letter that its lane waits for.
    pub(super) blocks: bool,
    /// True for a direct send, as long as the lease it came in with lasts.
    pub(super) is_direct: bool,
}

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) kept: Vec<Kept>,
    pub(super) gates: Vec<Gate>,
    pub(super) ledger: Ledger,
    pub(super) epoch: u64,
    pub(super) is_paused: bool,
    places: u64,
}

/// What an append must give.
#[derive(Debug, PartialEq)]
pub(super) enum Want {
    Queued { superseded: Option<ActionId> },
    Leased { superseded: Option<ActionId> },
    Cancelled { waiting: ActionId },
    NotOver(Option<ActionId>),
    Known(ActionId),
    Conflict(ActionId),
}

/// Whose place a new action gets.
pub(super) enum Claim {
    Free,
    Takes(ActionId, Then),
    Refused(Option<ActionId>),
}

impl Kept {
    pub(super) fn is_queued(&self) -> bool {
        matches!(self.record.state, State::Queued { .. })
    }

    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.record.state, State::InFlight { .. })
    }

    pub(super) fn is_settled(&self) -> bool {
        !self.record.state.is_pending() && !self.record.state.is_dead()
    }

    pub(super) fn is_delivered(&self) -> bool {
        matches!(self.record.state, State::Delivered { .. })
    }

    /// When it came to its end.
    pub(super) fn ended(&self) -> Timestamp {
        match self.record.state {
            State::Delivered { at, .. }
            | State::Dead { at, .. }
            | State::Cancelled { at }
            | State::Expired { at }
            | State::Superseded { at } => at,
            State::Queued { .. } | State::InFlight { .. } => Timestamp::EPOCH,
        }
    }

    /// Does it still hold its key?
    fn holds_key(&self, append: &Append) -> bool {
        match self.record.state {
            State::Delivered { at, .. } => at.after(append.key_retention) > append.now,
            _ => self.record.state.is_pending() || self.record.state.is_dead(),
        }
    }

    fn end(&mut self, state: State) {
        self.record.state = state;
    }
}

impl Model {
    /// An empty store in its first run.
    pub(super) fn of_run(epoch: u64) -> Self {
        Self {
            epoch,
            ..Self::default()
        }
    }

    pub(super) fn get(&self, id: ActionId) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.record.id == id)
    }

    pub(super) fn get_mut(&mut self, id: ActionId) -> &mut Kept {
        let mut all = self.kept.iter_mut();
        all.find(|kept| kept.record.id == id)
            .expect("the model knows it")
    }

    pub(super) fn forget(&mut self, id: ActionId) {
        self.kept.retain(|kept| kept.record.id != id);
    }

    /// The pending actions of a lane, in order.
    pub(super) fn lane(&self, lane: &Lane) -> Vec<&Kept> {
        let pending = |kept: &&Kept| kept.record.lane == *lane && kept.record.state.is_pending();
        let mut all: Vec<_> = self.kept.iter().filter(pending).collect();
        all.sort_by_key(|kept| kept.place);
        all
    }

    /// The dead letters that block a lane.
    pub(super) fn blockers(&self, lane: &Lane) -> Vec<ActionId> {
        let blocking = self
            .kept
            .iter()
            .filter(|one| one.blocks && one.record.lane == *lane);
        blocking.map(|kept| kept.record.id).collect()
    }

    pub(super) fn lanes(&self) -> Vec<Lane> {
        let mut lanes: Vec<_> = self
            .kept
            .iter()
            .map(|kept| kept.record.lane.clone())
            .collect();
        lanes.sort();
        lanes.dedup();
        lanes
    }

    /// When the gates of a record are open; the past when they are.
    fn gates_open(&self, record: &Record, lease: &Lease) -> Timestamp {
        let holds = |gate: &&Gate| match &gate.key {
            GateKey::Origin(origin) => *origin == record.origin && !lease.forced.contains(origin),
            GateKey::Principal(principal) => *principal == record.principal,
        };
        let closed = self.gates.iter().filter(holds).map(Gate::opens_at);
        closed.max().unwrap_or_default()
    }

    /// The queued heads of lanes that wait for nothing but time, each with that time.
    pub(super) fn heads(&self, lease: &Lease) -> Vec<(&Kept, Timestamp)> {
        let mut heads = Vec::new();
        for lane in self.lanes() {
            let pending = self.lane(&lane);
            if pending.iter().any(|kept| kept.is_in_flight()) || !self.blockers(&lane).is_empty() {
                continue;
            }
            let Some(head) = pending.first() else {
                continue;
            };
            let due = head
                .record
                .due()
                .expect("a head that is not in flight is queued");
            heads.push((*head, due.max(self.gates_open(&head.record, lease))));
        }
        heads
    }

    /// The earliest time at which something can be leased or expires.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let nothing = Lease::default();
        let ready = self.heads(&nothing).into_iter().map(|(_, ready)| ready);
        let queued = self.kept.iter().filter(|kept| kept.is_queued());
        ready
            .chain(queued.filter_map(|kept| kept.record.expires))
            .min()
    }

    pub(super) fn append(&mut self, append: &Append) -> Want {
        let new = &append.record;
        let same_key = |kept: &&Kept| new.key.is_some() && kept.record.key == new.key;
        let holder = self
            .kept
            .iter()
            .filter(same_key)
            .find(|kept| kept.holds_key(append));
        if let Some(holder) = holder {
            let id = holder.record.id;
            let same = holder.record.fingerprint == new.fingerprint;
            return if same {
                Want::Known(id)
            } else {
                Want::Conflict(id)
            };
        }
        let (superseded, place) = match self.claim(append) {
            Claim::Free => (None, None),
            Claim::Takes(old, Then::CancelBoth) => return self.cancel_both(old, append),
            Claim::Takes(old, then) => (Some(old), self.supersede(old, then, append)),
            Claim::Refused(found) => return Want::NotOver(found),
        };
        let pending = self.lane(&new.lane);
        let only_direct = pending
            .iter()
            .all(|kept| kept.is_in_flight() && kept.is_direct);
        let free = match append.direct {
            _ if self.is_paused => false,
            Direct::No => false,
            Direct::Alone => pending.is_empty(),
            Direct::SideBySide => only_direct,
        };
        let open = self.gates_open(new, &Lease::default()) <= append.now;
        let leased = free && open && self.blockers(&new.lane).is_empty();
        self.add(append, place);
        if leased {
            self.lease(new.id);
            self.get_mut(new.id).is_direct = true;
            return Want::Leased { superseded };
        }
        self.wait(new.id);
        Want::Queued { superseded }
    }

    pub(super) fn add(&mut self, append: &Append, place: Option<u64>) {
        self.ledger.enqueued += 1;
        self.ledger.pending += 1;
        let place = place.unwrap_or_else(|| self.place());
        self.kept.push(Kept {
            record: append.record.clone(),
            body: super::super::rig::bytes_of(&append.body),
            answer: None,
            place,
            blocks: false,
            is_direct: false,
        });
    }

    fn place(&mut self) -> u64 {
        self.places += 1;
        self.places
    }

    pub(super) fn lease(&mut self, id: ActionId) {
        let epoch = self.epoch;
        let kept = self.get_mut(id);
        kept.is_direct = false;
        let record = &mut kept.record;
        record.attempts += 1;
        record.wire = WireState::MaybeSent;
        let attempt = record.attempts;
        record.state = State::InFlight { attempt, epoch };
    }

    /// True when the lease was valid.
    pub(super) fn settle(&mut self, settle: &Settle, at: Timestamp) -> bool {
        let (attempt, epoch) = (settle.attempt, settle.epoch);
        let state = State::InFlight { attempt, epoch };
        if self
            .get(settle.id)
            .is_none_or(|kept| kept.record.state != state)
        {
            return false;
        }
        let kept = self.get_mut(settle.id);
        kept.record.wire = settle.wire;
        kept.answer.clone_from(&settle.answer);
        match settle.result.clone() {
            Settlement::Delivered { status } => {
                kept.end(State::Delivered { status, at });
                self.ledger.delivered += 1;
                self.ledger.pending -= 1;
            }
            Settlement::Returned => {
                self.forget(settle.id);
                self.ledger.returned += 1;
                self.ledger.pending -= 1;
            }
            Settlement::Retry { due, counts, .. } => {
                kept.record.attempts_counted += u32::from(counts == Counted::Yes);
                kept.record.state = State::Queued { due };
                self.wait(settle.id);
            }
            Settlement::Dead { reason, lane } => {
                kept.blocks = lane == DeadLane::Block;
                kept.end(State::Dead { reason, at });
                self.ledger.dead += 1;
                self.ledger.pending -= 1;
            }
        }
        true
    }

    pub(super) fn set_gate(&mut self, gate: Gate) {
        self.gates.retain(|old| old.key != gate.key);
        self.gates.push(gate);
    }

    /// Everything whose time is over.
    pub(super) fn expire(&mut self, at: Timestamp) -> Vec<ActionId> {
        let mut expired = Vec::new();
        for kept in &mut self.kept {
            if kept.is_queued() && kept.record.expires.is_some_and(|expires| expires < at) {
                kept.end(State::Expired { at });
                expired.push(kept.record.id);
            }
        }
        self.ledger.expired += expired.len() as u64;
        self.ledger.pending -= expired.len() as u64;
        expired
    }

    pub(super) fn cancel(&mut self, id: ActionId, at: Timestamp) {
        self.get_mut(id).end(State::Cancelled { at });
        self.ledger.cancelled += 1;
        self.ledger.pending -= 1;
    }

    /// To the end of the lane, or to this place, due as the store says.
    pub(super) fn requeue(&mut self, id: ActionId, due: Timestamp, place: Option<u64>) {
        let place = place.unwrap_or_else(|| self.place());
        let kept = self.get_mut(id);
        (kept.place, kept.blocks) = (place, false);
        kept.record.attempts_counted = 0;
        kept.record.state = State::Queued { due };
        self.ledger.dead -= 1;
        self.ledger.pending += 1;
    }

    pub(super) fn totals(&self) -> Totals {
        let count = |of: &dyn Fn(&Kept) -> bool| self.kept.iter().filter(|k| of(k)).count() as u64;
        let pending = || {
            self.kept
                .iter()
                .filter(|kept| kept.record.state.is_pending())
        };
        let dead = || self.kept.iter().filter(|kept| kept.record.state.is_dead());
        let settled = self.kept.iter().filter(|kept| kept.is_settled());
        let answers = settled.filter_map(|kept| kept.answer.as_ref());
        let blocked = self
            .lanes()
            .into_iter()
            .filter(|lane| !self.blockers(lane).is_empty());
        let counts = Counts {
            pending: pending().count() as u64,
            in_flight: count(&Kept::is_in_flight),
            dead: dead().count() as u64,
            bytes: pending()
                .chain(dead())
                .map(|kept| kept.record.weight())
                .sum(),
            blocked_lanes: blocked.count() as u64,
            retained: count(&Kept::is_settled),
            retained_bytes: answers.map(|answer| answer.len() as u64).sum(),
            oldest: pending().map(|kept| kept.record.created).min(),
        };
        let ledger = self.ledger;
        Totals {
            commit: 0,
            counts,
            ledger,
        }
    }
}
