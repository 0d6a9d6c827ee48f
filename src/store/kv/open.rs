//! The start of a run: a new epoch, leases of dead runs taken back, the ledger checked.

use std::collections::{BTreeSet, HashMap};

use super::Engine;
use super::ending::change_state;
use super::gates::each;
use super::keys::{self, Place};
use super::queue::Queue;
use super::records::Found;
use crate::action::{ActionId, Body, Change, Record, WireState};
use crate::clock::Timestamp;
use crate::error::{ErrorKind, Result};
use crate::store::Opened;
use crate::store::bodies::{Bodies, FileKind, Orphans, Stray};

impl<E: Engine> Queue<E> {
    pub(super) fn load_in_flight(&mut self) -> Result<()> {
        let mut entries = Vec::new();
        each(&self.txn, &[keys::IN_FLIGHT], |key, value| {
            let place = Place::decode(value.get(8..).unwrap_or_default())?;
            entries.push((keys::id_at(key, 1)?, keys::number_at(value, 0)?, place));
            Ok(())
        })?;
        for (id, seq, place) in entries {
            match self.read(id)?.0 {
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
        self.epoch = self.run.epoch;
        self.put_row(keys::RUN.to_vec(), &self.run.clone())?;
        if let Some(peers) = self.txn.peers() {
            peers.start(self.epoch)?;
        }
        let reclaimed = self.reclaim_dead(now)?;
        self.arm(Timestamp::EPOCH)?;
        self.forget_unused_pairs()?;
        let totals = self.totals_now()?;
        let is_balanced =
            totals.ledger.is_balanced() && totals.ledger.pending == totals.counts.pending;
        if !is_balanced {
            tracing::error!(?totals, "the ledger of the store does not balance");
        }
        Ok(Opened {
            epoch: self.epoch,
            totals,
            is_paused: self.run.is_paused,
            gates: self.gates.all().cloned().collect(),
            reclaimed,
            forgetting: self.forgetting(),
            report: std::mem::take(&mut self.report),
            is_balanced,
            is_half_restored: self.run.restoring.is_some(),
        })
    }

    /// Takes back what runs hold that are dead.
    pub(super) fn reclaim_dead(&mut self, now: Timestamp) -> Result<Vec<ActionId>> {
        let epochs = self.in_flight.values().map(|record| record.lease().1);
        let epochs: BTreeSet<u64> = epochs.filter(|epoch| *epoch != self.epoch).collect();
        let mut live = BTreeSet::from([self.epoch]);
        if let Some(peers) = self.txn.peers() {
            for epoch in epochs {
                if peers.is_live(epoch)? {
                    live.insert(epoch);
                }
            }
        }
        let is_cut_off = |record: &&Record| !live.contains(&record.lease().1);
        let cut_off = self.in_flight.values().filter(is_cut_off);
        let mut cut_off: Vec<Record> = cut_off.cloned().collect();
        cut_off.sort_by_key(|record| record.seq);
        let reclaimed = cut_off.iter().map(|record| record.id).collect();
        for record in cut_off {
            self.in_flight.remove(&record.id);
            self.reclaim(record, now)?;
        }
        Ok(reclaimed)
    }

    fn reclaim(&mut self, mut record: Record, now: Timestamp) -> Result<()> {
        self.end_attempt(&record)?;
        record.state = change_state(&record, Change::Return { due: now })?;
        record.wire = WireState::MaybeSent;
        self.rewrite(&mut record)?;
        self.index_queued(&record)
    }

    /// What this run holds: direct sends and actions of the queue, in flight.
    fn is_own(&self, record: &Record) -> bool {
        record.lease().1 == self.epoch
    }

    /// May this run lease from the queue, as far as other processes are concerned?
    pub(super) fn take_turn(&mut self) -> Result<bool> {
        match self.txn.peers() {
            None => Ok(true),
            Some(peers) => peers.take_turn(),
        }
    }

    /// Gives the turn back when nothing of the queue is in flight here. Tells whether others must be watched: their
    /// leases are ours when they die.
    pub(super) fn give_turn(&mut self) -> bool {
        if self.txn.peers().is_none() {
            return false;
        }
        let drains = |record: &Record| self.is_own(record) && !self.is_direct(record);
        if !self.in_flight.values().any(drains)
            && let Some(peers) = self.txn.peers()
        {
            peers.give_turn();
        }
        self.in_flight.values().any(|record| !self.is_own(record))
    }

    /// After others wrote: direct sends of this run stay what they are, unless another process told somebody of one,
    /// which it notes by a rewrite.
    pub(super) fn keep_direct(&mut self, before: &HashMap<ActionId, Record>) {
        let (epoch, in_flight) = (self.epoch, &self.in_flight);
        let is_untold = |id: &ActionId| match (before.get(id), in_flight.get(id)) {
            (Some(before), Some(now)) => now.lease().1 == epoch && now.revision == before.revision,
            _ => false,
        };
        for ids in self.direct.values_mut() {
            ids.retain(is_untold);
        }
        self.direct.retain(|_, ids| !ids.is_empty());
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

    /// Where others may be alive, the names of files tell which run wrote them.
    pub(super) fn name_run(&mut self, bodies: &Bodies) {
        if self.txn.peers().is_some() {
            bodies.name_run(self.epoch);
        }
    }

    /// What is to become of files that no record refers to. After a salvage they may be all that is left of an action.
    pub(super) fn orphans(&mut self, is_balanced: bool) -> Result<Orphans> {
        let is_salvaged = std::mem::take(&mut self.run.is_salvaged);
        if is_salvaged {
            self.put_row(keys::RUN.to_vec(), &self.run.clone())?;
        }
        Ok(match is_balanced && !is_salvaged {
            true => Orphans::Remove,
            false => Orphans::SetAside,
        })
    }

    /// Removes the files of dead runs that no record refers to, or moves them aside. What a live run wrote may be on its
    /// way into a record. No run starts meanwhile: this is a part of the commit that starts one.
    pub(super) fn sweep(&mut self, bodies: &Bodies, orphans: Orphans) -> Result<()> {
        for stray in bodies.of_other_runs()? {
            if let Some(peers) = self.txn.peers()
                && peers.is_live(u64::from(stray.run))?
            {
                continue;
            }
            let Stray { id, kind, name, .. } = stray;
            let (key, value) = match kind {
                FileKind::Body => (keys::birth(id), self.body_of(id)),
                FileKind::Answer => (keys::answer(id), self.answer_of(id)),
                FileKind::Cached => (keys::cached_body(id), self.cached_body_at(id)),
            };
            let is_named = match value {
                Ok(Some(body)) if body.files().next().is_some() => is_named(&body, &name),
                Ok(_) => self.txn.get(&keys::quarantine(&key))?.is_some(),
                // What cannot be read may still refer to it. A cache is not missed.
                Err(_) => kind != FileKind::Cached,
            };
            match orphans {
                _ if is_named => {}
                _ if kind == FileKind::Cached => self.garbage.push(name),
                Orphans::Remove => self.garbage.push(name),
                Orphans::SetAside => match bodies.set_aside(&name) {
                    // It waits where it is for an open with room.
                    Err(error) if error.kind() == ErrorKind::StorageFull => {
                        tracing::warn!(name, %error, "an orphan stays among the bodies");
                    }
                    set_aside => set_aside?,
                },
            }
        }
        Ok(())
    }
}

fn is_named(body: &Body, name: &str) -> bool {
    body.files().any(|file| file.path.as_os_str() == name)
}
