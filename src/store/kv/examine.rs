//! Reads all that an engine holds and says what does not fit together. Writes nothing. Memory does not grow with the
//! number of actions: each is looked up from both sides, from its record and from the indexes.

mod cached;
mod indexes;

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;

use super::Engine;
use super::append::{is_key_free, settled_at};
use super::coalesce::is_waiting;
use super::keys::{self, Place};
use super::lanes::LaneRow;
use super::queue::{Run, Tally, parse};
use super::records::unframe;
use super::txn::Txn;
use crate::action::{ActionId, Body, Frame, FrameKind, Lane, Record, State};
use crate::error::{Error, ErrorKind, Result};
use crate::store::bodies::check_file;
use crate::store::examination::{Examiner, Problem};

/// Reads `engine`, and the files of its bodies, if it has a directory for them.
///
/// # Errors
///
/// When the engine cannot be read at all. What is wrong with single entries is a finding.
pub(in crate::store) fn examine<E: Engine>(
    engine: E,
    bodies: Option<&Path>,
    out: &mut Examiner,
) -> Result<()> {
    let mut examined = Examined {
        txn: Txn::new(engine),
        bodies,
        out,
        in_flight: HashMap::new(),
        lane: None,
    };
    let tally = examined.totals()?;
    examined.records()?;
    examined.indexes()?;
    examined.cache()?;
    if let Some(dir) = bodies {
        examined.files(dir)?;
    }
    examined.compare(&tally);
    examined.txn.into_engine().close()
}

struct Examined<'e, E> {
    txn: Txn<E>,
    bodies: Option<&'e Path>,
    out: &'e mut Examiner,
    /// How much of a lane is in flight: as many entries as there are leases at most.
    in_flight: HashMap<Lane, u64>,
    /// The row that was asked for last: places come lane by lane.
    lane: Option<(Lane, Option<LaneRow>)>,
}

/// The newest form of a record.
enum Kept {
    Record(Box<Record>),
    /// Written by a newer version.
    Newer,
    /// Missing, or it cannot be read.
    Nothing,
}

impl<E: Engine> Examined<'_, E> {
    fn totals(&mut self) -> Result<Tally> {
        let format: u32 = self.row(keys::FORMAT)?.unwrap_or(1);
        if format > super::queue::FORMAT {
            let text = format!("the store has format {format}, which only a newer version reads");
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        for (key, name) in [(keys::FORMAT, "its format"), (keys::RUN, "its run")] {
            if self.txn.get(key)?.is_none() {
                let text = format!("{name} is not there");
                self.out.find(Problem::Engine, "the store", text);
            }
        }
        let run: Run = self.row(keys::RUN)?.unwrap_or_default();
        if run.restoring.is_some() {
            let text = "an import was not finished: run it again";
            self.out.find(Problem::Unfinished, "the store", text);
        }
        if !run.forgetting.is_empty() {
            let text = "a principal is being forgotten: the next open goes on with it";
            self.out.find(Problem::Unfinished, "the store", text);
        }
        let tally: Tally = self.row(keys::TOTALS)?.unwrap_or_default();
        let counts = &tally.counts;
        self.out
            .expect(counts.pending + counts.dead + counts.retained);
        Ok(tally)
    }

    fn row<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        self.txn.get(key)?.map(|bytes| parse(&bytes)).transpose()
    }

    /// Every record, with what belongs to it.
    fn records(&mut self) -> Result<()> {
        self.over(b"a", |this, key, value| {
            let id = keys::id_at(key, 1)?;
            let Kept::Record(record) = this.decode(id, value) else {
                return Ok(());
            };
            let birth = this.txn.get(&keys::birth(id))?;
            this.body(&record, birth.as_ref());
            this.record(&record)
        })?;
        self.over(b"b", |this, key, value| {
            let id = keys::id_at(key, 1)?;
            if this.txn.get(&keys::record(id))?.is_some() {
                return Ok(());
            }
            let length = Frame::decode_prefix(value).map_or(value.len(), |(_, length)| length);
            let Kept::Record(record) = this.decode(id, &value.slice(..length)) else {
                return Ok(());
            };
            this.body(&record, Some(value));
            this.record(&record)
        })
    }

    /// Calls `look` for each entry whose key starts with `prefix`. A row that cannot be read is a finding.
    fn over(
        &mut self,
        prefix: &[u8],
        mut look: impl FnMut(&mut Self, &[u8], &Bytes) -> Result<()>,
    ) -> Result<()> {
        const CHUNK: usize = 64;
        let (mut from, end) = (prefix.to_vec(), keys::behind(prefix));
        loop {
            let chunk = self.txn.scan(&from, &end, CHUNK)?;
            for (key, value) in &chunk {
                match look(self, key, value) {
                    Err(error) if error.kind() == ErrorKind::Storage => {
                        let place = format!("an entry of kind {}", char::from(key[0]));
                        self.out.find(Problem::Engine, place, error.to_string());
                    }
                    looked => looked?,
                }
            }
            match chunk.last() {
                Some((last, _)) => from = keys::after(last),
                None => return Ok(()),
            }
        }
    }

    /// Reads a record that lies under `id`, and says what is wrong with it.
    fn decode(&mut self, id: ActionId, bytes: &Bytes) -> Kept {
        let place = format!("action {id}");
        match Record::decode(bytes.clone()) {
            Ok(record) if record.id == id => return Kept::Record(Box::new(record)),
            Ok(_) => {
                let text = "the record under its id is that of another action";
                self.out.find(Problem::Record, place, text);
            }
            Err(_) if Frame::is_newer(bytes) => {
                let text = "it was written by a newer version, and stays for that";
                self.out.find(Problem::Newer, place, text);
                return Kept::Newer;
            }
            Err(error) => self.out.find(Problem::Record, place, error.to_string()),
        }
        Kept::Nothing
    }

    /// The newest form of a record, without a word.
    fn newest(&self, id: ActionId) -> Result<Kept> {
        let record = match self.txn.get(&keys::record(id))? {
            Some(bytes) => bytes,
            None => match self.txn.get(&keys::birth(id))? {
                Some(birth) => {
                    let length = Frame::decode_prefix(&birth).map_or(birth.len(), |(_, n)| n);
                    birth.slice(..length)
                }
                None => return Ok(Kept::Nothing),
            },
        };
        Ok(match Record::decode(record.clone()) {
            Ok(record) if record.id == id => Kept::Record(Box::new(record)),
            Err(_) if Frame::is_newer(&record) => Kept::Newer,
            _ => Kept::Nothing,
        })
    }

    fn body(&mut self, record: &Record, birth: Option<&Bytes>) {
        let place = format!("action {}", record.id);
        let is_wanted = settled_at(record).is_none();
        let Some(birth) = birth else {
            if is_wanted {
                self.out.find(Problem::Body, place, "its body is gone");
            }
            return;
        };
        if !is_wanted {
            let text = "it is settled and still has a body";
            return self.out.find(Problem::Orphan, place, text);
        }
        let read = Frame::decode_prefix(birth)
            .and_then(|(_, length)| self.value(record.id, birth.slice(length..), FrameKind::Body));
        match read {
            Ok(body) if has_length_of(record, &body) => {
                self.out.seen.bodies += 1;
            }
            Ok(_) => {
                let text = "its body is not as long as its record says";
                self.out.find(Problem::Body, place, text);
            }
            Err(error) => self
                .out
                .find(Problem::Body, place, format!("its body: {error}")),
        }
    }

    /// A body or an answer, its files read through.
    fn value(&self, id: ActionId, bytes: Bytes, kind: FrameKind) -> Result<Body> {
        let body = unframe(bytes, kind, id)?;
        if let Some(dir) = self.bodies {
            body.files().try_for_each(|file| check_file(dir, file))?;
        }
        Ok(body)
    }

    fn answer(&mut self, record: &Record) -> Result<()> {
        let place = format!("action {}", record.id);
        let stored = self.txn.get(&keys::answer(record.id))?;
        let read = stored.map(|bytes| self.value(record.id, bytes, FrameKind::Answer));
        match read {
            None if record.answer_bytes == 0 => {}
            None => self.out.find(Problem::Answer, place, "its answer is gone"),
            Some(Ok(answer)) if record.unsealed_bytes(answer.len()) == record.answer_bytes => {
                self.out.seen.answers += 1;
            }
            Some(Ok(_)) => {
                let text = "its answer is not as long as its record says";
                self.out.find(Problem::Answer, place, text);
            }
            Some(Err(error)) => {
                let text = format!("its answer: {error}");
                self.out.find(Problem::Answer, place, text);
            }
        }
        Ok(())
    }

    /// Counts a record, and looks for its entry in each index.
    fn record(&mut self, record: &Record) -> Result<()> {
        self.out.step();
        self.out.seen.records += 1;
        self.answer(record)?;
        if settled_at(record).is_none() {
            self.parents(record)?;
        }
        let counts = &mut self.out.seen.counts;
        match settled_at(record) {
            Some(at) => {
                counts.retained += 1;
                counts.retained_bytes += record.answer_bytes;
                self.must_have(record, &keys::settled(at, record.id), "what is settled")?;
            }
            None => {
                counts.bytes += record.weight();
                match record.state {
                    State::Dead { at, .. } => {
                        counts.dead += 1;
                        self.must_have(record, &keys::dead(at, record.id), "dead letters")?;
                    }
                    _ => self.pending(record)?,
                }
            }
        }
        match &record.key {
            Some(key) if !is_key_free(record) => {
                self.must_lead_to(record, &keys::idempotency(key), "keys")
            }
            _ => Ok(()),
        }
    }

    fn pending(&mut self, record: &Record) -> Result<()> {
        self.out.seen.counts.pending += 1;
        let Some(no) = self.lane(&record.lane)?.map(|row| row.no) else {
            let text = "it is pending, and its lane is not known";
            self.out
                .find(Problem::Lane, format!("action {}", record.id), text);
            return Ok(());
        };
        let place = self.txn.get(&keys::place(no, record.seq))?;
        let want = Place {
            id: record.id,
            created: record.created,
            weight: record.weight(),
            lane: record.lane.clone(),
        };
        if place.as_deref() != Some(&want.encode()[..]) {
            let text = "it has no place in its lane, or that of another";
            self.out
                .find(Problem::Lane, format!("action {}", record.id), text);
        }
        if matches!(record.state, State::InFlight { .. }) {
            self.out.seen.counts.in_flight += 1;
            *self.in_flight.entry(record.lane.clone()).or_default() += 1;
            return self.must_have(record, &keys::in_flight(record.id), "what is in flight");
        }
        if let Some(expires) = record.expires {
            self.must_have(record, &keys::expiry(expires, record.id), "what expires")?;
        }
        match &record.coalesce {
            Some(key) if is_waiting(record) => {
                self.must_lead_to(record, &keys::coalesce(no, key), "coalescing keys")
            }
            _ => Ok(()),
        }
    }

    /// Its ties to those that it waits for, or needs an answer of.
    fn parents(&mut self, record: &Record) -> Result<()> {
        for parent in record.waits.iter().chain(&record.needs) {
            self.must_have(record, &keys::tie(*parent, record.id), "children")?;
        }
        let is_free = record.waits.is_empty() && !record.needs.is_empty();
        if is_free && record.due().is_some() {
            self.must_have(
                record,
                &keys::unfilled(record.id),
                "what is to be filled in",
            )?;
        }
        Ok(())
    }

    fn must_have(&mut self, record: &Record, key: &[u8], index: &str) -> Result<()> {
        if self.txn.get(key)?.is_none() {
            let text = format!("it is missing in the index of {index}");
            self.out
                .find(Problem::Index, format!("action {}", record.id), text);
        }
        Ok(())
    }

    /// As [`must_have`](Self::must_have), to an action that is there: another may have the key by now.
    fn must_lead_to(&mut self, record: &Record, key: &[u8], index: &str) -> Result<()> {
        let other = self.txn.get(key)?;
        let is_there = match &other {
            Some(other) => !matches!(self.newest(keys::id_at(other, 0)?)?, Kept::Nothing),
            None => false,
        };
        let is_own = other.as_deref() == Some(&record.id.as_bytes()[..]);
        if !is_there || (!is_own && record.state.is_pending()) {
            let text = format!("it is missing in the index of {index}");
            self.out
                .find(Problem::Index, format!("action {}", record.id), text);
        }
        Ok(())
    }

    fn lane(&mut self, lane: &Lane) -> Result<Option<&LaneRow>> {
        if self.lane.as_ref().is_none_or(|(name, _)| name != lane) {
            let row = self.row(&keys::lane(lane))?;
            self.lane = Some((lane.clone(), row));
        }
        Ok(self.lane.as_ref().and_then(|(_, row)| row.as_ref()))
    }

    fn compare(&mut self, tally: &Tally) {
        let (kept, ledger) = (tally.counts, tally.ledger);
        let seen = self.out.seen.counts;
        self.out.seen.ledger = ledger;
        for (name, kept, seen) in [
            ("pending", kept.pending, seen.pending),
            ("in flight", kept.in_flight, seen.in_flight),
            ("dead", kept.dead, seen.dead),
            ("bytes", kept.bytes, seen.bytes),
            ("blocked lanes", kept.blocked_lanes, seen.blocked_lanes),
            ("retained", kept.retained, seen.retained),
            ("retained bytes", kept.retained_bytes, seen.retained_bytes),
        ] {
            if kept != seen {
                let text = format!("the store counts {kept}, and {seen} are there");
                self.out.find(Problem::Count, name, text);
            }
        }
        if !ledger.is_balanced() || ledger.pending != kept.pending {
            let text = "it does not add up: something was lost without a name";
            self.out.find(Problem::Ledger, "the ledger", text);
        }
    }
}

/// Is a body as long as its record says? How long sealed pieces are in clear, only the key tells: longer, at least.
fn has_length_of(record: &Record, body: &Body) -> bool {
    match body {
        Body::Pieces(_) if record.head_bytes.is_some() => body.len() > record.body_bytes,
        _ => record.unsealed_bytes(body.len()) == record.body_bytes,
    }
}
