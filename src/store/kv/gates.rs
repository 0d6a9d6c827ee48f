//! The gates in memory, and a small number for each pair of origin and principal: what heads are grouped by.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Engine;
use super::keys;
use super::queue::{parse, to_json};
use super::txn::Txn;
use crate::action::Origin;
use crate::clock::Timestamp;
use crate::decide::{Gate, GateKey};
use crate::error::Result;

/// How many rows are read at once.
const CHUNK: usize = 256;

/// What an action must pass.
pub(super) type Pair = (Origin, Option<String>);

#[derive(Debug, Default)]
pub(super) struct Gates {
    gates: BTreeMap<GateKey, Gate>,
    numbers: HashMap<Pair, u32>,
    pairs: BTreeMap<u32, Pair>,
}

impl Gates {
    pub(super) fn load<E: Engine>(txn: &Txn<E>) -> Result<Self> {
        let mut gates = Self::default();
        each(txn, &[keys::GATES], |_, value| {
            let gate: Gate = parse(value)?;
            gates.gates.insert(gate.key.clone(), gate);
            Ok(())
        })?;
        each(txn, keys::PAIRS, |key, value| {
            let mut number = [0; 4];
            number.copy_from_slice(&key[key.len() - 4..]);
            gates.remember(u32::from_be_bytes(number), parse(value)?);
            Ok(())
        })?;
        Ok(gates)
    }

    fn remember(&mut self, number: u32, pair: Pair) {
        self.numbers.insert(pair.clone(), number);
        self.pairs.insert(number, pair);
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Gate> {
        self.gates.values()
    }

    pub(super) fn put<E: Engine>(&mut self, txn: &mut Txn<E>, gate: Gate) -> Result<()> {
        txn.put(keys::gate(&gate.key), to_json(&gate)?);
        self.gates.insert(gate.key.clone(), gate);
        Ok(())
    }

    /// Lets no gate stay closed beyond `until`.
    pub(super) fn hasten<E: Engine>(&mut self, txn: &mut Txn<E>, until: Timestamp) -> Result<()> {
        for gate in self.gates.values_mut() {
            if gate.opens_at() > until {
                gate.hasten(until);
                txn.put(keys::gate(&gate.key), to_json(gate)?);
            }
        }
        Ok(())
    }

    /// The number of a pair; a new pair gets one.
    pub(super) fn number<E: Engine>(&mut self, txn: &mut Txn<E>, pair: Pair) -> Result<u32> {
        if let Some(number) = self.numbers.get(&pair) {
            return Ok(*number);
        }
        let number = self.pairs.last_key_value().map_or(0, |(last, _)| last + 1);
        txn.put(keys::pair(number), to_json(&pair)?);
        self.remember(number, pair);
        Ok(number)
    }

    pub(super) fn pair(&self, number: u32) -> Option<&Pair> {
        self.pairs.get(&number)
    }

    /// When everything that `pair` must pass is open; `forced` leaves the origin's gate out.
    pub(super) fn open_at(&self, pair: &Pair, forced: &[Origin]) -> Timestamp {
        let (origin, principal) = pair;
        let until = |key| self.gates.get(&key).map(Gate::opens_at);
        let by_origin = if forced.contains(origin) {
            None
        } else {
            until(GateKey::Origin(origin.clone()))
        };
        let by_principal = until(GateKey::Principal(principal.clone()));
        by_origin.max(by_principal).unwrap_or_default()
    }

    pub(super) fn remove<E: Engine>(&mut self, txn: &mut Txn<E>, key: &GateKey) {
        txn.delete(keys::gate(key));
        self.gates.remove(key);
    }

    /// Forgets the pairs that no ready head has.
    pub(super) fn retain<E: Engine>(&mut self, txn: &mut Txn<E>, used: &BTreeSet<u32>) {
        let unused: Vec<u32> = self
            .pairs
            .keys()
            .copied()
            .filter(|n| !used.contains(n))
            .collect();
        for number in unused {
            if let Some(pair) = self.pairs.remove(&number) {
                self.numbers.remove(&pair);
            }
            txn.delete(keys::pair(number));
        }
    }
}

/// Calls `with` for each entry whose key starts with `prefix`.
pub(super) fn each<E: Engine>(
    txn: &Txn<E>,
    prefix: &[u8],
    mut with: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let (mut from, end) = (prefix.to_vec(), keys::behind(prefix));
    loop {
        let chunk = txn.scan(&from, &end, CHUNK)?;
        for (key, value) in &chunk {
            with(key, value)?;
        }
        match chunk.last() {
            Some((last, _)) if chunk.len() == CHUNK => from = keys::after(last),
            _ => return Ok(()),
        }
    }
}
