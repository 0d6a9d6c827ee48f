//! What is known about gates, in memory: the stored gates, what else is remembered of each origin, and when it last answered well.

use std::collections::HashMap;

use crate::action::Origin;
use crate::clock::Timestamp;
use crate::decide::{Gate, GateKey, OriginState};

/// What is known about gates, in memory.
#[derive(Debug, Default)]
pub(crate) struct GateBook {
    gates: HashMap<GateKey, Gate>,
    states: HashMap<Origin, OriginState>,
    well: HashMap<Origin, Timestamp>,
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
