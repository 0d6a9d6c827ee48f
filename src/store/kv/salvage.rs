//! A new store out of what was carved from a damaged one. What is found is staged in the new engine, the newest intact
//! revision of each action; then every action gets its place. See `docs/format.md`, "What is found again".

use bytes::Bytes;

use super::ending::change_state;
use super::keys::{self, Key};
use super::queue::{Queue, Run, Tally, digest, parse};
use super::records::{Found, Kept, frame, unframe};
use super::{Batch, Engine};
use crate::action::{
    ActionId, Body, Change, DeadReason, Frame, FrameKind, Ledger, Record, State, WireState,
};
use crate::clock::Timestamp;
use crate::decide::DeadLane;
use crate::error::Result;
use crate::store::OpenReport;
use crate::store::mark::Mark;

/// How many actions are looked at, or get their place, in one step.
const STEP: usize = 64;
/// How many frames are staged in one commit.
const STAGED: usize = 64;

/// Takes what is carved, the oldest first.
pub(in crate::store) trait Sink {
    /// An intact frame.
    fn frame(&mut self, bytes: &[u8]) -> Result<()>;

    /// A whole commit of the queue.
    fn commit(&mut self, batch: Batch) -> Result<()>;
}

/// Is the row of this key wanted, beside the frames?
#[cfg(feature = "sqlite")]
pub(in crate::store) fn is_row_of_queue(key: &[u8]) -> bool {
    [keys::TOTALS, keys::RUN, keys::KEYRING].contains(&key)
}

/// A store that is built anew.
pub(super) struct Salvage<'a, E> {
    queue: &'a mut Queue<E>,
    /// What the store is known to have held.
    known: Mark,
    /// The newest run that is known.
    run: Run,
    staged: usize,
}

/// What is found out before the first action gets its place.
struct Survey {
    /// What was found is what was pending, each in its newest revision.
    is_proved: bool,
    seq_next: u64,
    epoch: u64,
    id_max: Option<ActionId>,
}

/// A part of what is staged.
fn staged(part: u8, id: ActionId) -> Key {
    [&[keys::STAGED, part][..], id.as_bytes()].concat()
}

impl<E: Engine> Sink for Salvage<'_, E> {
    fn frame(&mut self, bytes: &[u8]) -> Result<()> {
        let bytes = Bytes::copy_from_slice(bytes);
        let Ok((frame, length)) = Frame::decode_prefix(&bytes) else {
            return Ok(());
        };
        let part = match frame.kind {
            FrameKind::Action => b'a',
            FrameKind::Body => b'b',
            FrameKind::Answer => b'p',
            // A cache is not missed.
            FrameKind::CachedHead | FrameKind::CachedBody => return Ok(()),
        };
        let key = staged(part, frame.id);
        let before = self.queue.txn.get(&key)?;
        let before = before.and_then(|bytes| Frame::decode_prefix(&bytes).ok());
        if before.is_some_and(|(before, _)| before.revision > frame.revision) {
            return Ok(());
        }
        self.queue.txn.put(key, bytes.slice(..length));
        self.staged += 1;
        if self.staged.is_multiple_of(STAGED) {
            self.queue.txn.commit()?;
            self.queue.txn.begin()?;
        }
        Ok(())
    }

    fn commit(&mut self, batch: Batch) -> Result<()> {
        for (key, value) in batch {
            match (&key[..], value) {
                (keys::TOTALS, Some(value)) => self.know_tally(&value),
                (keys::RUN, Some(value)) => self.know_run(&value),
                (keys::KEYRING, Some(value)) => self.queue.txn.put(key, value),
                ([b'a' | b'p', ..], Some(value)) => self.frame(&value)?,
                ([b'b', ..], Some(value)) => {
                    let Ok((_, length)) = Frame::decode_prefix(&value) else {
                        continue;
                    };
                    self.frame(&value[..length])?;
                    self.frame(&value[length..])?;
                }
                ([part @ (b'a' | b'b' | b'p'), ..], None) => {
                    let id = keys::id_at(&key, 1)?;
                    self.queue.txn.delete(staged(*part, id));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl<'a, E: Engine> Salvage<'a, E> {
    pub(super) fn new(queue: &'a mut Queue<E>, mark: Option<Mark>) -> Self {
        let known = mark.unwrap_or_default();
        let run = Run {
            epoch: known.epoch,
            is_paused: known.is_paused,
            restoring: known.restoring.clone(),
            ..Run::default()
        };
        Self {
            queue,
            known,
            run,
            staged: 0,
        }
    }

    fn know_tally(&mut self, row: &[u8]) {
        if let Ok(tally) = parse::<Tally>(row)
            && tally.no > self.known.no
        {
            let known = &mut self.known;
            known.no = tally.no;
            known.live = tally.live;
            known.seq_next = tally.seq_next;
            known.counts = tally.counts;
            known.ledger = tally.ledger;
        }
    }

    fn know_run(&mut self, row: &[u8]) {
        if let Ok(run) = parse::<Run>(row)
            && run.epoch >= self.run.epoch
        {
            self.run = run;
        }
    }

    /// Gives every action its place. What is said of it is for the report.
    pub(super) fn rebuild(mut self, now: Timestamp) -> Result<OpenReport> {
        self.queue.txn.commit()?;
        self.queue.txn.begin()?;
        let survey = self.survey()?;
        let mut report = OpenReport::default();
        let tally = &mut self.queue.tally;
        tally.live = Some(0);
        tally.no = self.known.no;
        tally.seq_next = survey.seq_next;
        tally.id_max = survey.id_max;
        self.queue.run = Run {
            epoch: survey.epoch,
            is_salvaged: true,
            ..self.run.clone()
        };
        let run = self.queue.run.clone();
        self.queue.put_row(keys::RUN.to_vec(), &run)?;
        self.each(|salvage, record| salvage.settle_in(record, &survey, now, &mut report))?;
        self.count_missing(&mut report);
        self.queue.commit()?;
        Ok(report)
    }

    /// Goes through what is staged, step by step.
    fn each(&mut self, mut act: impl FnMut(&mut Self, Record) -> Result<()>) -> Result<()> {
        let mut from = vec![keys::STAGED, b'a'];
        let end = keys::behind(&from);
        loop {
            let step = self.queue.txn.scan(&from, &end, STEP)?;
            let Some((last, _)) = step.last() else {
                return Ok(());
            };
            from = keys::after(last);
            for (_, bytes) in step {
                match Record::decode(bytes) {
                    Ok(record) => act(self, record)?,
                    Err(error) => tracing::error!(%error, "a carved action cannot be read"),
                }
            }
        }
    }

    fn survey(&mut self) -> Result<Survey> {
        let mut live = 0;
        let mut survey = Survey {
            is_proved: false,
            seq_next: self.known.seq_next,
            epoch: self.run.epoch,
            id_max: None,
        };
        let floor = self.known.floor;
        self.each(|_, record| {
            survey.seq_next = survey.seq_next.max(record.seq.saturating_add(1));
            survey.epoch = survey.epoch.max(record.lease().1);
            survey.id_max = survey.id_max.max(Some(record.id));
            if record.state.is_pending() && record.seq >= floor {
                live ^= digest(record.id, record.revision);
            }
            Ok(())
        })?;
        survey.is_proved = self.known.no > 0 && self.known.live == Some(live);
        Ok(survey)
    }

    fn settle_in(
        &mut self,
        mut record: Record,
        survey: &Survey,
        now: Timestamp,
        report: &mut OpenReport,
    ) -> Result<()> {
        let body = self.take(b'b', record.id)?;
        let answer = self.take(b'p', record.id)?;
        self.queue.txn.delete(staged(b'a', record.id));
        let is_pending = record.state.is_pending();
        if is_pending && record.seq < self.known.floor {
            return self.step_done();
        }
        report.recovered += 1;
        self.put_answer(&mut record, answer);
        let body = body_of(&record, body)?;
        let is_ended = !is_pending && !record.state.is_dead();
        if is_ended {
            self.put(&record, None)?;
            self.retain(&record);
            return self.step_done();
        }
        report.without_body += u64::from(body.is_none());
        if !is_pending {
            self.put(&record, body)?;
        } else if survey.is_proved && body.is_some() && self.knows_parents(&record)? {
            self.requeue(&mut record, body, now)?;
            return self.step_done();
        } else {
            report.salvaged += 1;
            die(&mut record, body.is_none(), now)?;
            self.put(&record, body)?;
        }
        self.bury(&mut record)?;
        self.queue.tie_anew(&record)?;
        self.step_done()
    }

    /// Is all there that it waits for, or needs an answer of?
    fn knows_parents(&mut self, record: &Record) -> Result<bool> {
        for parent in record.waits.iter().chain(&record.needs) {
            let is_staged = self.queue.txn.get(&staged(b'a', *parent))?.is_some();
            if !is_staged && matches!(self.queue.find(*parent)?, Found::Missing) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn step_done(&mut self) -> Result<()> {
        self.staged += 1;
        if self.staged.is_multiple_of(STAGED) {
            self.queue.commit()?;
            self.queue.txn.begin()?;
        }
        Ok(())
    }

    fn take(&mut self, part: u8, id: ActionId) -> Result<Option<Bytes>> {
        let key = staged(part, id);
        let value = self.queue.txn.get(&key)?;
        if value.is_some() {
            self.queue.txn.delete(key);
        }
        Ok(value)
    }

    /// An answer that is not the one that the record tells of is none.
    fn put_answer(&mut self, record: &mut Record, answer: Option<Bytes>) {
        let is_told = |answer: &Bytes| {
            let kept = unframe(answer.clone(), FrameKind::Answer, record.id);
            kept.is_ok_and(|kept| record.unsealed_bytes(kept.len()) == record.answer_bytes)
        };
        match answer.filter(|answer| record.answer_bytes > 0 && is_told(answer)) {
            Some(answer) => self.queue.txn.put(keys::answer(record.id), answer),
            None => record.answer_bytes = 0,
        }
    }

    fn put(&mut self, record: &Record, body: Option<Bytes>) -> Result<()> {
        let mut bytes = record.encode()?;
        let key = match body {
            None => keys::record(record.id),
            Some(body) => {
                bytes.extend_from_slice(&body);
                keys::birth(record.id)
            }
        };
        self.queue.txn.put(key, bytes);
        self.put_key(record)
    }

    /// Of several actions with one key, the newest has it.
    fn put_key(&mut self, record: &Record) -> Result<()> {
        let Some(key) = &record.key else {
            return Ok(());
        };
        let key = keys::idempotency(key);
        let before = self.queue.txn.get(&key)?;
        let before = before.map(|id| keys::id_at(&id, 0)).transpose()?;
        if before.is_none_or(|before| before < record.id) {
            self.queue.txn.put(key, keys::id_value(record.id));
        }
        Ok(())
    }

    fn retain(&mut self, record: &Record) {
        let Tally { ledger, counts, .. } = &mut self.queue.tally;
        ledger.enqueued += 1;
        counts.retained += 1;
        counts.retained_bytes += record.answer_bytes;
        let at = match record.state {
            State::Delivered { at, .. } => {
                ledger.delivered += 1;
                at
            }
            State::Cancelled { at } => {
                ledger.cancelled += 1;
                at
            }
            State::Expired { at } => {
                ledger.expired += 1;
                at
            }
            State::Superseded { at } => {
                ledger.superseded += 1;
                at
            }
            _ => return,
        };
        self.queue.put_retained(record, at);
    }

    fn requeue(&mut self, record: &mut Record, body: Option<Bytes>, now: Timestamp) -> Result<()> {
        if !matches!(record.state, State::Queued { .. }) {
            record.state = change_state(record, Change::Return { due: now })?;
            record.wire = WireState::MaybeSent;
            record.revision += 1;
        }
        self.put(record, body)?;
        let tally = &mut self.queue.tally;
        tally.ledger.enqueued += 1;
        tally.ledger.pending += 1;
        tally.counts.pending += 1;
        tally.counts.bytes += record.weight();
        tally.toggle(record.id, record.revision);
        self.queue.place(record)?;
        self.queue.index_queued(record)?;
        self.queue.tie_anew(record)
    }

    fn bury(&mut self, record: &mut Record) -> Result<()> {
        // A vault whose lanes wait for dead letters goes on waiting.
        let policy = match self.known.counts.blocked_lanes {
            0 => DeadLane::Skip,
            _ => DeadLane::Block,
        };
        let tally = &mut self.queue.tally;
        tally.ledger.enqueued += 1;
        tally.counts.bytes += record.weight();
        self.queue.bury(record, policy)
    }

    /// What is known to have been there and is not: in the ledger it has a name.
    fn count_missing(&mut self, report: &mut OpenReport) {
        let (known, found) = (&self.known.counts, &self.queue.tally.counts);
        let (known, found) = (known.pending + known.dead, found.pending + found.dead);
        report.missing = known.saturating_sub(found);
        let ledger: &mut Ledger = &mut self.queue.tally.ledger;
        ledger.enqueued += report.missing;
        ledger.evicted += report.missing;
    }
}

/// The frame of the body, when it is the one that the record tells of.
fn body_of(record: &Record, staged: Option<Bytes>) -> Result<Option<Bytes>> {
    let is_told = |body: &Bytes| match unframe(body.clone(), FrameKind::Body, record.id) {
        Ok(Body::Bytes(bytes)) => record.unsealed_bytes(bytes.len() as u64) == record.body_bytes,
        other => other.is_ok(),
    };
    let found = staged.filter(is_told);
    let has_none = record.body_bytes == 0 && record.head_bytes.is_none();
    if found.is_some() || !has_none {
        return Ok(found);
    }
    let empty = Kept::Inline(Bytes::new());
    frame(FrameKind::Body, record.id, &empty).map(|bytes| Some(bytes.into()))
}

fn die(record: &mut Record, is_bodiless: bool, at: Timestamp) -> Result<()> {
    let reason = DeadReason::Salvaged;
    record.state = change_state(record, Change::Die { reason, at })?;
    record.revision += 1;
    // A newer revision may be what was lost.
    if record.wire == WireState::NeverSent {
        record.wire = WireState::MaybeSent;
    }
    // Words in a sealed record are sealed: none are added to it.
    if is_bodiless && record.head_bytes.is_none() {
        record.last_error = Some("its body was not found in the damaged store".into());
    }
    Ok(())
}
