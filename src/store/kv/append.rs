//! Adding actions: known keys, limits, and the direct lease.

use super::Engine;
use super::coalesce::{Claim, kept_place};
use super::keys;
use super::queue::Queue;
use super::records::{Found, Kept};
use crate::action::{Lane, Record, State};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::store::{Append, Appended, Direct, Limits, Then};

/// How long an encoded request may be: it is kept in the engine.
const CONTENT_BYTES_MAX: usize = 64 * 1024;

/// An action on its way in, its body where it belongs.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) append: Append,
    pub(super) body: Kept,
}

pub(super) fn check(batch: &[Append]) -> Result<()> {
    for append in batch {
        if append.record.content.len() > CONTENT_BYTES_MAX {
            let text = format!(
                "URL and headers of a request are limited to {CONTENT_BYTES_MAX} bytes, these have {}",
                append.record.content.len()
            );
            return Err(Error::invalid(text));
        }
    }
    Ok(())
}

impl<E: Engine> Queue<E> {
    pub(super) fn append(&mut self, batch: Vec<Incoming>) -> Result<Vec<Appended>> {
        if let Err(error) = self.refuse_half_restored() {
            batch.into_iter().for_each(|one| self.refuse(one.body));
            return Err(error);
        }
        batch.into_iter().map(|one| self.append_one(one)).collect()
    }

    fn append_one(&mut self, incoming: Incoming) -> Result<Appended> {
        let Incoming { append, body } = incoming;
        if let Some(known) = self.known(&append)? {
            self.refuse_body(append.record.id, body);
            return Ok(known);
        }
        let mut record = append.record;
        if record.head_bytes.is_none() {
            record.body_bytes = body.len();
        }
        if let Some((parent, why)) = self.adopt(&mut record)? {
            self.refuse_body(record.id, body);
            return Ok(Appended::Unfit { parent, why });
        }
        let replaced = match self.claim(&append.over, &record)? {
            Claim::Free => None,
            Claim::Takes(old, Then::CancelBoth) => {
                return self.cancel_both(old, record, &body, append.now);
            }
            Claim::Takes(old, then) => Some((old, then)),
            Claim::Refused(found) => {
                self.refuse_body(record.id, body);
                return Ok(Appended::NotOver { found });
            }
        };
        let old = replaced.as_ref().map(|(old, _)| old);
        if let Some(limit) = self.limit_reached(&append.limits, &record, old) {
            self.refuse_body(record.id, body);
            return Ok(Appended::Full { limit });
        }
        let place = match replaced.as_ref().and_then(kept_place) {
            Some(seq) if self.may_stand_at(&record, seq)? => Some(seq),
            _ => None,
        };
        let superseded = match replaced {
            Some((old, then)) => Some(self.supersede(old, then, record.id, append.now)?),
            None => None,
        };
        self.mark_stale(&append.stale, append.now)?;
        self.admit(&mut record, place, append.now);
        if self.may_go_now(&record, append.direct, append.now)? {
            self.lease_new(&mut record, &body, append.now)?;
            return Ok(Appended::Leased { record, superseded });
        }
        self.pass_key(&mut record)?;
        self.write_birth(&mut record, &body)?;
        self.place(&record)?;
        self.index_queued(&record)?;
        self.join(&record)?;
        if self
            .lane_row(&record.lane)?
            .is_some_and(|row| row.pending == 1)
        {
            self.heads.insert(record.id, record.clone().into());
        }
        Ok(Appended::Queued { record, superseded })
    }

    /// The answer when id or key are known already. What is remembered too long is forgotten here.
    fn known(&mut self, append: &Append) -> Result<Option<Appended>> {
        let new = &append.record;
        let mut ids = Vec::new();
        if self.tally.id_max.is_none_or(|max| new.id <= max) {
            ids.push(new.id);
        }
        if let Some(key) = &new.key {
            ids.extend(self.id_of_key(key)?);
        }
        for id in ids {
            let old = match self.find(id)? {
                Found::Missing => continue,
                Found::Record(old) => old,
                Found::Newer | Found::Damaged => return Ok(Some(Appended::Conflict { id })),
            };
            if id != new.id && is_key_free(&old) {
                continue;
            }
            if is_forgotten(&old, append) {
                // What children need of it stays until they have it.
                if !self.has_children(id)? {
                    self.unretain(&old)?;
                }
            } else if old.fingerprint == new.fingerprint {
                self.end_direct(&old)?;
                return Ok(Some(Appended::Known { record: old }));
            } else {
                return Ok(Some(Appended::Conflict { id }));
            }
        }
        Ok(None)
    }

    /// Does it still run in the lease it came in with, and nobody else was told of it?
    pub(super) fn is_direct(&self, record: &Record) -> bool {
        let direct = self.direct.get(&record.lane);
        direct.is_some_and(|ids| ids.contains(&record.id))
    }

    /// Somebody is told that it is queued: from now on it stands in the way of others, as what is queued does.
    pub(super) fn end_direct(&mut self, record: &Record) -> Result<()> {
        if let Some(direct) = self.direct.get_mut(&record.lane) {
            direct.remove(&record.id);
        }
        let is_foreign = record.lease().1 != self.epoch;
        match self.in_flight.get(&record.id).filter(|_| is_foreign) {
            // The process that sends it hears of it by this.
            Some(held) => {
                let mut held = held.clone();
                self.rewrite(&mut held)?;
                self.in_flight.insert(held.id, held);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn limit_reached(
        &self,
        limits: &Limits,
        record: &Record,
        replaced: Option<&Record>,
    ) -> Option<String> {
        let counts = &self.tally.counts;
        let actions = counts.pending + counts.dead - u64::from(replaced.is_some());
        if actions >= limits.actions_max {
            return Some(format!("{} actions", limits.actions_max));
        }
        let freed = replaced.map_or(0, Record::weight);
        let bytes = counts.bytes.saturating_sub(freed) + record.weight();
        (bytes > limits.bytes_max).then(|| format!("{} bytes", limits.bytes_max))
    }

    /// Counts a record in and gives it its place in the queue: this one, or the next.
    pub(super) fn admit(&mut self, record: &mut Record, place: Option<u64>, now: Timestamp) {
        if !matches!(record.state, State::Queued { .. }) {
            record.state = State::Queued { due: now };
        }
        let tally = &mut self.tally;
        record.seq = place.unwrap_or(tally.seq_next);
        tally.seq_next += u64::from(place.is_none());
        tally.id_max = tally.id_max.max(Some(record.id));
        tally.ledger.enqueued += 1;
        tally.ledger.pending += 1;
        tally.counts.pending += 1;
        tally.counts.bytes += record.weight();
        if let Some(key) = &record.key {
            self.txn
                .put(keys::idempotency(key), keys::id_value(record.id));
        }
    }

    fn may_go_now(&mut self, record: &Record, direct: Direct, now: Timestamp) -> Result<bool> {
        let is_due = record.due().is_some_and(|due| due <= now);
        let is_wanted = record.expires.is_none_or(|expires| expires > now);
        let is_held = self.run.is_paused || self.is_forgetting(record.principal.as_deref());
        let is_held = is_held || record.is_held();
        if direct == Direct::No || is_held || !is_due || !is_wanted {
            return Ok(false);
        }
        let pair = (record.origin.clone(), record.principal.clone());
        if self.gates.open_at(&pair, &[]) > now {
            return Ok(false);
        }
        let side_by_side = self.direct_in(&record.lane);
        let Some(row) = self.lane_row(&record.lane)? else {
            return Ok(true);
        };
        let has_room = match direct {
            Direct::SideBySide => row.pending == side_by_side,
            _ => row.pending == 0,
        };
        Ok(has_room && row.blocked.is_empty())
    }

    fn lease_new(&mut self, record: &mut Record, body: &Kept, now: Timestamp) -> Result<()> {
        self.place(record)?;
        self.start_attempt(record, now)?;
        self.write_birth(record, body)?;
        self.in_flight.insert(record.id, record.clone());
        let direct = self.direct.entry(record.lane.clone()).or_default();
        direct.insert(record.id);
        Ok(())
    }

    /// How many direct sends of a lane are in flight.
    pub(super) fn direct_in(&self, lane: &Lane) -> u64 {
        self.direct.get(lane).map_or(0, |ids| ids.len() as u64)
    }

    /// Indexes what a queued action needs beside its place: its expiry, and its coalescing key until something left.
    pub(super) fn index_queued(&mut self, record: &Record) -> Result<()> {
        if let Some(expires) = record.expires {
            let key = keys::expiry(expires, record.id);
            self.expiry.put(&mut self.txn, key, Vec::new());
        }
        self.index_waiting(record)
    }

    /// Undoes [`index_queued`](Self::index_queued). `record` is as it was queued.
    pub(super) fn unindex_queued(&mut self, record: &Record) -> Result<()> {
        if let Some(expires) = record.expires {
            let key = keys::expiry(expires, record.id);
            self.expiry.delete(&mut self.txn, key);
        }
        self.unindex_waiting(record)
    }
}

/// What was taken back, came too late or was replaced never happened: its key may be used again.
pub(super) fn is_key_free(old: &Record) -> bool {
    match old.state {
        State::Cancelled { .. } | State::Expired { .. } => true,
        State::Superseded { .. } => !old.is_merged,
        _ => false,
    }
}

/// A settled action whose key is no longer remembered.
fn is_forgotten(old: &Record, append: &Append) -> bool {
    settled_at(old).is_some_and(|at| at.after(append.key_retention) <= append.now)
}

/// When an action was settled, for those that are kept in the retention ring.
pub(super) fn settled_at(record: &Record) -> Option<Timestamp> {
    match record.state {
        State::Delivered { at, .. }
        | State::Cancelled { at }
        | State::Expired { at }
        | State::Superseded { at } => Some(at),
        _ => None,
    }
}
