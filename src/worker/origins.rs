//! Origins in trouble, or just out of it: how much of them is leased, and who asks whether they are back.

use super::Worker;
use super::probing::Probed;
use crate::action::Origin;
use crate::connectivity::Reach;
use crate::decide::{Gate, GateKey, GateReason, open_gate};
use crate::parts::{ConnectivityMode, GateBook};
use crate::store::Leased;

impl Worker {
    /// An origin in trouble gets one attempt at a time, until it answers well; then as many as its window lets run.
    pub(super) fn origin_slots(&self) -> Vec<(Origin, usize)> {
        let (mut book, policy) = (self.parts.gates(), &self.parts.options.policy.origin);
        let origins = self.limited(&book);
        let slots = |origin: Origin| {
            let running = self.running.values().filter(|r| r.origin == origin);
            let running = running.count();
            let probe = book.is_troubled(&origin).then(|| usize::from(running == 0));
            let room = book.state(&origin).room(running, policy);
            let slots = [probe, room].into_iter().flatten().min()?;
            Some((origin, slots))
        };
        origins.into_iter().filter_map(slots).collect()
    }

    /// The gates of origins whose starts keep their distance, as they are after the next start.
    pub(super) fn gates_after(&self) -> Vec<Gate> {
        let (book, policy) = (self.parts.gates(), &self.parts.options.policy.origin);
        let now = self.parts.now();
        let origins = self.limited(&book).into_iter();
        let gates = origins.map(|origin| book.of(&origin, now));
        let paced = gates.filter(|gate| gate.origin.is_paced(policy));
        paced
            .map(|mut gate| {
                gate.origin.started(now, policy, &mut self.parts.dice());
                gate
            })
            .collect()
    }

    /// The origins that anything of this is about: none, in a vault that is well and has no rate limit.
    fn limited(&self, book: &GateBook) -> Vec<Origin> {
        let options = &self.parts.options;
        match options.policy.origin.rate_limit {
            None => book.limited().cloned().collect(),
            Some(_) => options.origins().cloned().collect(),
        }
    }

    /// What was leased has started. An origin that is paced may have room for another start at once.
    pub(super) fn note_starts(&mut self, leased: &[Leased], gates_after: Vec<Gate>) {
        let (parts, now) = (self.parts.clone(), self.parts.now());
        let mut book = parts.gates();
        for gate in gates_after {
            if let GateKey::Origin(origin) = &gate.key
                && leased.iter().any(|one| one.record.origin == *origin)
            {
                let state = book.state(origin);
                state.note_start(&gate.origin);
                self.is_hungry |= state.held(now).is_none();
            }
        }
    }

    pub(super) fn origins_closed_for(&self, reason: GateReason) -> Vec<Origin> {
        let gates = self.parts.gates();
        let origins = gates.troubled().filter_map(|gate| match &gate.key {
            GateKey::Origin(origin) if gate.reason == reason => Some(origin.clone()),
            _ => None,
        });
        origins.collect()
    }

    /// Asks each unreachable origin whether it is back. Only when something hinted at it.
    pub(super) fn probe(&mut self) {
        if *self.parts.mode.borrow() == ConnectivityMode::Auto {
            for origin in self.origins_closed_for(GateReason::Unreachable) {
                self.probing.start(&self.parts, origin);
            }
        }
    }

    pub(super) fn on_probed(&mut self, probed: Probed) {
        let Probed { origin, reach } = probed;
        tracing::debug!(%origin, ?reach, "probed");
        let (now, policy) = (self.parts.now(), &self.parts.options.policy.origin);
        let mut gates = self.parts.gates();
        if reach == Reach::Reachable {
            gates.answered_well(&origin, now);
        }
        if matches!(reach, Reach::Reachable | Reach::Troubled)
            && let Some(gate) = gates.origin(&origin).cloned()
        {
            let wait = match gate.reason {
                GateReason::Unreachable => {
                    let mut dice = self.parts.dice();
                    gates.state(&origin).reconnected(now, policy, &mut dice)
                }
                _ => std::time::Duration::ZERO,
            };
            let gate = open_gate(gate, now.after(wait));
            gates.set(gate.clone());
            self.gates.push(gate);
        }
        self.is_hungry = true;
    }
}
