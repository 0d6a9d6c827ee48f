//! The start of a run: a new epoch, leases of dead runs taken back, the ledger checked.

use std::collections::BTreeSet;

use super::Engine;
use super::ending::change_state;
use super::gates::each;
use super::keys::{self, Place};
use super::queue::Queue;
use super::records::Found;
use crate::action::{ActionId, Body, Change, Record, WireState};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::store::Opened;
use crate::store::bodies::{Bodies, FileKind};

impl<E: Engine> Queue<E> {
    pub(super) fn load_in_flight(&mut self) -> Result<()> {
        let mut entries = Vec::new();
        each(&self.txn, &[keys::IN_FLIGHT], |key, value| {
            let place = Place::decode(value.get(8..).unwrap_or_default())?;
            entries.push((keys::id_at(key, 1)?, keys::number_at(value, 0)?, place));
            Ok(())
        })?;
        for (id, seq, place) in entries {
            match self.read(id)? {
                Found::Record(record) => drop(self.in_flight.insert(id, record)),
                Found::Newer => {}
                Found::Missing | Found::Damaged => {
                    self.txn.delete(keys::in_flight(id));
                    let row = self.lane_mut(&place.lane)?;
                    row.in_flight = row.in_flight.saturating_sub(1);
                    let counts = &mut self.tally.counts;
                    counts.in_flight = counts.in_flight.saturating_sub(1);
                    self.evict_pending(&place, seq)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn open(&mut self, now: Timestamp) -> Result<Opened> {
        self.run.epoch += 1;
        self.put_row(keys::RUN.to_vec(), &self.run.clone())?;
        let mut cut_off: Vec<Record> = std::mem::take(&mut self.in_flight).into_values().collect();
        cut_off.sort_by_key(|record| record.seq);
        let reclaimed: Vec<ActionId> = cut_off.iter().map(|record| record.id).collect();
        for record in cut_off {
            self.reclaim(record, now)?;
        }
        self.arm(Timestamp::EPOCH)?;
        self.forget_unused_pairs()?;
        let totals = self.totals_now()?;
        let is_balanced =
            totals.ledger.is_balanced() && totals.ledger.pending == totals.counts.pending;
        if !is_balanced {
            tracing::error!(?totals, "the ledger of the store does not balance");
        }
        Ok(Opened {
            epoch: self.run.epoch,
            totals,
            is_paused: self.run.is_paused,
            gates: self.gates.all().cloned().collect(),
            reclaimed,
            forgetting: self.forgetting(),
            is_balanced,
        })
    }

    fn reclaim(&mut self, mut record: Record, now: Timestamp) -> Result<()> {
        self.end_attempt(&record)?;
        record.state = change_state(&record, Change::Return { due: now })?;
        record.wire = WireState::MaybeSent;
        self.rewrite(&mut record)?;
        self.index_queued(&record)
    }

    pub(super) fn forget_unused_pairs(&mut self) -> Result<()> {
        let mut used = BTreeSet::new();
        for group in self.ready.groups() {
            if self.ready.first(&self.txn, group)?.is_some() {
                used.insert(group.0);
            }
        }
        self.gates.retain(&mut self.txn, &used);
        Ok(())
    }

    /// Removes the files of earlier runs that no record refers to.
    pub(super) fn sweep(&mut self, bodies: &Bodies) -> Result<()> {
        for (id, kind, name) in bodies.of_earlier_runs()? {
            let (key, value) = match kind {
                FileKind::Body => (keys::birth(id), self.body_of(id)),
                FileKind::Answer => (keys::answer(id), self.answer_of(id)),
            };
            let is_live = match value {
                Ok(Some(Body::File(file))) => file.path.as_os_str() == name.as_str(),
                Ok(_) => self.txn.get(&keys::quarantine(&key))?.is_some(),
                // What cannot be read may still refer to it.
                Err(_) => true,
            };
            if !is_live {
                self.garbage.push(name);
            }
        }
        Ok(())
    }
}
