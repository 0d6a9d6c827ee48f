//! Runs: where a batch was asked for, the head of a lane is leased together with what stands right behind it; and a batch
//! that may have been sent is leased with the same members again.

use super::Engine;
use super::keys::{self, Place};
use super::queue::Queue;
use super::records::Found;
use crate::action::{ActionId, Batch, Batching, Body, Record};
use crate::clock::Timestamp;
use crate::decide::BatchLimits;
use crate::error::{ErrorKind, Result};
use crate::store::{Batches, Leased};

/// How many places are looked at in one scan.
const CHUNK: usize = 64;

/// An action that can be leased, with its body.
type Whole = (Record, Body);

impl<E: Engine> Queue<E> {
    /// Leases the head of a lane, and with it the run behind it if that is to be a batch.
    pub(super) fn take_run(
        &mut self,
        head: Whole,
        batches: Option<&Batches>,
        now: Timestamp,
    ) -> Result<Vec<Leased>> {
        let limits = batches.and_then(|batches| batches.limits(&head.0));
        let run = match (head.0.batch, limits) {
            (Some(Batching::Together(batch)), Some(_)) => self.same_run(head, batch, now)?,
            (Some(Batching::Singly), _) | (_, None) => vec![head],
            (_, Some(limits)) => self.new_run(head, &limits, now)?,
        };
        self.take_all(run, now)
    }

    fn take_all(&mut self, mut run: Vec<Whole>, now: Timestamp) -> Result<Vec<Leased>> {
        name_run(&mut run);
        let leased = run
            .into_iter()
            .map(|(record, body)| self.take_record(record, body, now));
        leased.collect()
    }

    /// The head and what may go with it for the first time.
    fn new_run(&mut self, head: Whole, limits: &BatchLimits, now: Timestamp) -> Result<Vec<Whole>> {
        let mut bytes = head.0.body_bytes;
        let mut run = vec![head];
        if !run[0].0.may_join_batch() || bytes > limits.bytes_max {
            return Ok(run);
        }
        let first = (run[0].0.lane.clone(), run[0].0.seq);
        self.behind(first, limits.actions_max - 1, |queue, id| {
            let head = &run[0].0;
            let Some((record, body)) = queue.whole(id, now)? else {
                return Ok(false);
            };
            bytes = bytes.saturating_add(record.body_bytes);
            let is_due = record.due().is_some_and(|due| due <= now);
            let is_alike = record.origin == head.origin && record.principal == head.principal;
            if !is_due || !is_alike || !record.may_join_batch() || bytes > limits.bytes_max {
                return Ok(false);
            }
            run.push((record, body));
            Ok(true)
        })?;
        Ok(run)
    }

    /// The members of a batch, all of them; else its head alone.
    fn same_run(&mut self, head: Whole, batch: Batch, now: Timestamp) -> Result<Vec<Whole>> {
        let first = (head.0.lane.clone(), head.0.seq);
        let mut run = vec![head];
        if batch.place != 0 || batch.of < 2 {
            return Ok(run);
        }
        let others = usize::try_from(batch.of - 1).unwrap_or(usize::MAX);
        self.behind(first, others, |queue, id| {
            let Some(member) = queue.whole(id, now)? else {
                return Ok(false);
            };
            let place = u32::try_from(run.len()).ok();
            let want = place.map(|place| Batching::Together(batch.at(place)));
            let is_next = member.0.batch == want;
            if is_next {
                run.push(member);
            }
            Ok(is_next)
        })?;
        if run.len() <= others {
            run.truncate(1);
        }
        Ok(run)
    }

    /// Visits what is pending behind a place of a lane, in order, at most `count`, as long as `visit` says.
    fn behind(
        &mut self,
        (lane, seq): (crate::action::Lane, u64),
        count: usize,
        mut visit: impl FnMut(&mut Self, ActionId) -> Result<bool>,
    ) -> Result<()> {
        let Some(no) = self.lane_row(&lane)?.map(|row| row.no) else {
            return Ok(());
        };
        let mut from = keys::after(&keys::place(no, seq));
        let end = keys::behind(&keys::places_of(no));
        let mut left = count;
        while left > 0 {
            let chunk = self.txn.scan(&from, &end, left.min(CHUNK))?;
            let Some((last, _)) = chunk.last() else { break };
            from = keys::after(last);
            left -= chunk.len();
            for (_, value) in chunk {
                let id = Place::decode(&value)?.id;
                if !visit(self, id)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// An action that can be sent as it is; nothing else joins a run. What is wrong with it is found when it is the head.
    fn whole(&mut self, id: ActionId, now: Timestamp) -> Result<Option<Whole>> {
        let Found::Record(record) = self.find(id)? else {
            return Ok(None);
        };
        let is_wanted = record.expires.is_none_or(|expires| expires > now);
        if record.due().is_none() || record.is_held() || !is_wanted {
            return Ok(None);
        }
        match self.body_of(id) {
            Ok(Some(body)) => Ok(Some((record, body))),
            Ok(None) => Ok(None),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Writes into each record which batch it is in. What goes alone belongs to none: from now on it has been sent under its own
/// key, or may have been.
fn name_run(run: &mut [Whole]) {
    if let [(alone, _)] = run {
        alone.batch = match alone.batch {
            Some(Batching::Together(_) | Batching::Singly) => Some(Batching::Singly),
            _ => None,
        };
        return;
    }
    let Some(((head, _), of)) = run.first().zip(u32::try_from(run.len()).ok()) else {
        return;
    };
    let batch = match head.batch {
        Some(Batching::Together(batch)) => batch,
        _ => Batch::new(head.id, head.attempts + 1, of),
    };
    for (place, (record, _)) in (0..).zip(run) {
        record.batch = Some(Batching::Together(batch.at(place)));
    }
}
