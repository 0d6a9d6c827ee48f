//! What is known about gates, in memory: the stored gates, what else is remembered of each origin, and when it last answered well.

use std::collections::HashMap;
use std::time::Duration;

use crate::action::Origin;
use crate::clock::Timestamp;
use crate::decide::{Gate, GateKey, Hold, OriginState};

/// What is known about gates, in memory.
#[derive(Debug, Default)]
pub(crate) struct GateBook {
    gates: HashMap<GateKey, Gate>,
    states: HashMap<Origin, OriginState>,
    well: HashMap<Origin, Timestamp>,
    /// Direct sends that are the probe of their half-open origin, since when.
    probes: HashMap<Origin, Timestamp>,
}

impl GateBook {
    pub(crate) fn new(gates: Vec<Gate>) -> Self {
        let mut book = Self::default();
        for mut gate in gates {
            if let GateKey::Origin(origin) = &gate.key {
                let state = std::mem::take(&mut gate.origin);
                book.states.insert(origin.clone(), state);
            }
            book.set(gate);
        }
        book
    }

    pub(crate) fn state(&mut self, origin: &Origin) -> &mut OriginState {
        self.states.entry(origin.clone()).or_default()
    }

    /// Why nothing starts at an origin though its gate is open.
    pub(crate) fn held(&self, origin: &Origin, now: Timestamp) -> Option<Hold> {
        self.states.get(origin)?.held(now)
    }

    pub(crate) fn is_troubled(&self, origin: &Origin) -> bool {
        self.origin(origin).is_some_and(|gate| gate.failures > 0)
    }

    /// Origins that may not have as many attempts as the vault has slots.
    pub(crate) fn limited(&self) -> impl Iterator<Item = &Origin> {
        let ramping = self.states.iter().filter(|(_, state)| state.is_ramping());
        let troubled = self.troubled().filter_map(|gate| match &gate.key {
            GateKey::Origin(origin) => Some(origin),
            GateKey::Principal(_) => None,
        });
        let only_ramping = ramping
            .map(|(origin, _)| origin)
            .filter(|o| !self.is_troubled(o));
        troubled.chain(only_ramping)
    }

    /// A direct send starts: at a half-open origin it is the probe, and the others wait for what it finds.
    pub(crate) fn note_probe(&mut self, origin: &Origin, now: Timestamp) {
        if self.is_troubled(origin) {
            self.probes.insert(origin.clone(), now);
        }
    }

    /// Is a direct send finding out whether the origin is well? One that was dropped is not waited for longer than a minute.
    pub(crate) fn is_probed(&self, origin: &Origin, now: Timestamp) -> bool {
        const LONGEST: Duration = Duration::from_secs(60);
        let since = self.probes.get(origin);
        since.is_some_and(|since| now.since(*since) < LONGEST) && self.is_troubled(origin)
    }

    /// An attempt ended.
    pub(crate) fn end_probe(&mut self, origin: &Origin) {
        if !self.probes.is_empty() {
            self.probes.remove(origin);
        }
    }

    pub(crate) fn set_state(&mut self, origin: &Origin, state: OriginState) {
        *self.state(origin) = state;
    }

    /// The gate of an origin as it is to be kept: all that is remembered of the origin is in it.
    pub(crate) fn of(&self, origin: &Origin, now: Timestamp) -> Gate {
        let key = GateKey::Origin(origin.clone());
        let mut gate = match self.gates.get(&key) {
            Some(gate) => gate.clone(),
            None => Gate::open(key, now),
        };
        gate.origin = self.states.get(origin).cloned().unwrap_or_default();
        gate
    }

    pub(crate) fn get(&self, key: &GateKey) -> Option<&Gate> {
        self.gates.get(key)
    }

    pub(crate) fn set(&mut self, gate: Gate) {
        self.gates.insert(gate.key.clone(), gate);
    }

    pub(crate) fn remove(&mut self, key: &GateKey) {
        self.gates.remove(key);
    }

    pub(crate) fn origin(&self, origin: &Origin) -> Option<&Gate> {
        self.gates.get(&GateKey::Origin(origin.clone()))
    }

    /// Lets no gate stay closed beyond `until`.
    pub(crate) fn hasten(&mut self, until: Timestamp) {
        for gate in self.gates.values_mut() {
            gate.closed_until = gate.closed_until.min(until);
        }
        for state in self.states.values_mut() {
            state.hasten(until);
        }
    }

    pub(crate) fn well_since(&self, origin: &Origin) -> Option<Timestamp> {
        self.well.get(origin).copied()
    }

    pub(crate) fn answered_well(&mut self, origin: &Origin, at: Timestamp) {
        match self.well.get_mut(origin) {
            Some(seen) => *seen = at,
            None => drop(self.well.insert(origin.clone(), at)),
        }
    }

    /// Origins in trouble: one attempt at a time until they answer well.
    pub(crate) fn troubled(&self) -> impl Iterator<Item = &Gate> {
        self.gates
            .values()
            .filter(|gate| gate.failures > 0 && matches!(gate.key, GateKey::Origin(_)))
    }
}
