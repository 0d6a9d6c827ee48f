//! Actions put back as they were: only into a store that never held any. Until the last part is there, nothing else is
//! taken, so that a crash in the middle leaves no half of an import that looks like a whole one.

use super::append::settled_at;
use super::committer::Growth;
use super::keeper::{Keeper, Size};
use super::queue::Queue;
use super::records::{Found, Kept, frame};
use super::{Engine, KvStore, keys};
use crate::action::{Body, FrameKind, Ledger, Record, State, WireState};
use crate::clock::Timestamp;
use crate::decide::DeadLane;
use crate::error::{Error, ErrorKind, Result};
use crate::store::bodies::FileKind;
use crate::store::{Restore, RestoreEnd, Restored, StoreFuture, Urgency};

/// A part, its bodies and answers where they belong.
struct Part {
    of: String,
    actions: Vec<Kin>,
    end: Option<RestoreEnd>,
    now: Timestamp,
}

/// An action with what belongs to it.
struct Kin {
    record: Record,
    body: Option<Kept>,
    answer: Option<Kept>,
    dead_lane: DeadLane,
}

impl<E: Engine + Send + 'static> KvStore<E> {
    pub(super) fn put_back(&self, restore: Restore) -> StoreFuture<'_, ()> {
        let bodies = restore.actions.iter().filter_map(|one| one.body.as_ref());
        let answers = restore.actions.iter().filter_map(|one| one.answer.as_ref());
        let answers = answers.map(|answer| answer.len() as u64);
        let size = Size::of(bodies.map(Body::len).chain(answers), self.bodies.as_ref());
        let keep = |keeper: &mut Keeper| keep_part(keeper, restore);
        let order = (size, Urgency::Now, Growth::Grows);
        self.submit_kept(order, keep, Queue::restore)
    }
}

fn keep_part(keeper: &mut Keeper, restore: Restore) -> Result<Part> {
    let mut actions = Vec::with_capacity(restore.actions.len());
    for one in restore.actions {
        let Restored {
            record,
            body,
            answer,
            dead_lane,
        } = one;
        let body = body.map(|body| keeper.keep_body(record.id, body));
        let answer = answer.map(|answer| keeper.keep(record.id, FileKind::Answer, answer));
        actions.push(Kin {
            body: body.transpose()?,
            answer: answer.transpose()?,
            record,
            dead_lane,
        });
    }
    Ok(Part {
        of: restore.of,
        actions,
        end: restore.end,
        now: restore.now,
    })
}

impl<E: Engine> Queue<E> {
    fn restore(&mut self, part: Part) -> Result<()> {
        let checked = self.check_restoring(&part.of);
        let checked = checked.and_then(|()| part.actions.iter().try_for_each(check));
        if let Err(error) = checked {
            for kin in part.actions {
                self.refuse_kin(kin);
            }
            return Err(error);
        }
        self.run.restoring = Some(part.of);
        for kin in part.actions {
            self.restore_one(kin, part.now)?;
        }
        if let Some(end) = part.end {
            self.end_restoring(end)?;
        }
        self.put_row(keys::RUN.to_vec(), &self.run.clone())
    }

    fn check_restoring(&self, of: &str) -> Result<()> {
        match &self.run.restoring {
            Some(begun) if begun == of => Ok(()),
            Some(_) => Err(unfinished()),
            None if self.tally.ledger == Ledger::default() => Ok(()),
            None => Err(Error::new(
                ErrorKind::WrongState,
                "actions are put back into an empty store only; use a new directory",
            )),
        }
    }

    /// # Errors
    ///
    /// [`ErrorKind::WrongState`] while what was begun to be put back is not all there.
    pub(super) fn refuse_half_restored(&self) -> Result<()> {
        match self.run.restoring {
            Some(_) => Err(unfinished()),
            None => Ok(()),
        }
    }

    /// One that is there already came with an earlier part.
    fn restore_one(&mut self, mut kin: Kin, now: Timestamp) -> Result<()> {
        if !matches!(self.find(kin.record.id)?, Found::Missing) {
            self.refuse_kin(kin);
            return Ok(());
        }
        if matches!(kin.record.state, State::InFlight { .. }) {
            kin.record.state = State::Queued { due: now };
            kin.record.wire = WireState::MaybeSent;
        }
        let record = &kin.record;
        self.tally.seq_next = self.tally.seq_next.max(record.seq.saturating_add(1));
        self.tally.id_max = self.tally.id_max.max(Some(record.id));
        self.restore_key(record)?;
        self.write_restored(&kin)?;
        self.tally.ledger.enqueued += 1;
        match settled_at(record) {
            Some(at) => self.list_settled(record, at),
            None if record.state.is_dead() => self.list_dead(record, kin.dead_lane)?,
            None => {
                self.tally.counts.pending += 1;
                self.tally.ledger.pending += 1;
                self.tally.toggle(record.id, record.revision);
                self.place(record)?;
                self.index_queued(record)?;
            }
        }
        if !record.state.is_terminal() || record.state.is_dead() {
            self.tally.counts.bytes += record.weight();
            self.tie_anew(record)?;
        }
        Ok(())
    }

    /// Of several actions with one key, the one that was added last has it.
    fn restore_key(&mut self, record: &Record) -> Result<()> {
        let Some(key) = &record.key else {
            return Ok(());
        };
        let key = keys::idempotency(key);
        if let Some(other) = self.txn.get(&key)?
            && let Found::Record(other) = self.find(keys::id_at(&other, 0)?)?
            && (other.seq > record.seq || is_replaced(record, &other))
        {
            return Ok(());
        }
        self.txn.put(key, keys::id_value(record.id));
        Ok(())
    }

    fn write_restored(&mut self, kin: &Kin) -> Result<()> {
        let id = kin.record.id;
        let mut bytes = kin.record.encode()?;
        match &kin.body {
            Some(body) => {
                bytes.extend_from_slice(&frame(FrameKind::Body, id, body)?);
                self.txn.put(keys::birth(id), bytes);
            }
            None => self.txn.put(keys::record(id), bytes),
        }
        if let Some(answer) = &kin.answer {
            let answer = frame(FrameKind::Answer, id, answer)?;
            self.txn.put(keys::answer(id), answer);
        }
        Ok(())
    }

    /// Until the whole is there, the ledger counts what is.
    fn list_settled(&mut self, record: &Record, at: Timestamp) {
        self.put_retained(record, at);
        let counts = &mut self.tally.counts;
        counts.retained += 1;
        counts.retained_bytes += record.answer_bytes;
        let ledger = &mut self.tally.ledger;
        match record.state {
            State::Cancelled { .. } => ledger.cancelled += 1,
            State::Expired { .. } => ledger.expired += 1,
            State::Superseded { .. } => ledger.superseded += 1,
            _ => ledger.delivered += 1,
        }
    }

    fn end_restoring(&mut self, end: RestoreEnd) -> Result<()> {
        self.run.restoring = None;
        self.run.is_paused = end.is_paused;
        self.tally.ledger = end.ledger;
        for gate in end.gates {
            self.gates.put(&mut self.txn, gate)?;
        }
        Ok(())
    }

    fn refuse_kin(&mut self, kin: Kin) {
        let Kin {
            record,
            body,
            answer,
            ..
        } = kin;
        if let Some(body) = body {
            self.refuse_body(record.id, body);
        }
        if let Some(answer) = answer {
            self.refuse(answer);
        }
    }
}

fn unfinished() -> Error {
    let text = "an import into this store was not finished: run the same one again, or import into a new directory";
    Error::new(ErrorKind::WrongState, text)
}

/// What is put back must be whole.
fn check(kin: &Kin) -> Result<()> {
    let record = &kin.record;
    let wants_body = settled_at(record).is_none();
    let has_all = |kept: &Option<Kept>, bytes| match kept {
        // How long sealed pieces are in clear, only the key tells: longer, at least.
        Some(kept @ Kept::Pieces(_)) if record.head_bytes.is_some() => kept.len() > bytes,
        Some(kept) => record.unsealed_bytes(kept.len()) == bytes,
        None => bytes == 0,
    };
    let is_whole = match wants_body {
        true => kin.body.is_some() && has_all(&kin.body, record.body_bytes),
        false => kin.body.is_none(),
    };
    if is_whole && has_all(&kin.answer, record.answer_bytes) {
        return Ok(());
    }
    let text = format!(
        "action {} is not whole: its body or its answer is not as long as its record says",
        record.id
    );
    Err(Error::invalid(text))
}

/// Did `other`, or one after it, take the very place of `record`?
fn is_replaced(record: &Record, other: &Record) -> bool {
    other.seq == record.seq && record.superseded_by.is_some()
}
