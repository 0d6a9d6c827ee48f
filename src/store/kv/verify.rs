//! What a look at the whole store must find: every index entry has its record, and the counts are what is there.

use super::Engine;
use super::gates::each;
use super::keys::{self, Place};
use super::lanes::LaneRow;
use super::queue::{Queue, digest, parse};
use super::records::Found;
use crate::error::{Error, ErrorKind, Result};
use crate::store::mark::Mark;

/// With so many actions, opening looks at the whole store.
const ACTIONS_MAX: u64 = 10_000;
/// With so many lanes, the floor is looked for.
const LANES_MAX: usize = 64;

impl<E: Engine> Queue<E> {
    /// True when a look at everything takes little time.
    pub(super) fn is_small(&self) -> bool {
        let counts = &self.tally.counts;
        counts.pending + counts.dead + counts.retained <= ACTIONS_MAX
    }

    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when the indexes and counts are not those of the records.
    pub(super) fn verify(&self) -> Result<()> {
        let counts = &self.tally.counts;
        let (mut live, mut is_readable) = (0, true);
        let pending = self.verify_each(keys::PLACES, |key, value| {
            let place = Place::decode(value)?;
            match self.read(place.id)?.0 {
                Found::Record(record) => {
                    let is_here = record.state.is_pending()
                        && record.seq == keys::number_at(key, 9)?
                        && (&record.lane, record.created) == (&place.lane, place.created)
                        && record.weight() == place.weight;
                    live ^= digest(record.id, record.revision);
                    is_here.then_some(()).ok_or_else(astray)
                }
                Found::Missing => Err(astray()),
                Found::Newer | Found::Damaged => {
                    is_readable = false;
                    Ok(())
                }
            }
        })?;
        let in_flight = self.verify_each(keys::IN_FLIGHT, |_, _| Ok(()))?;
        let dead = self.verify_ended(keys::DEAD)?;
        let retained = self.verify_ended(keys::SETTLED)?;
        let found = [pending, in_flight, dead, retained];
        let counted = [
            counts.pending,
            counts.in_flight,
            counts.dead,
            counts.retained,
        ];
        let is_live = self.tally.live.is_none_or(|known| known == live) || !is_readable;
        let ledger = &self.tally.ledger;
        if found != counted || !is_live || !ledger.is_balanced() {
            let text = format!("the store counts {counted:?} actions, but holds {found:?}");
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        if is_readable && self.actions()? != pending + dead + retained {
            return Err(astray());
        }
        if self.verify_each(keys::TIES, |_, _| Ok(()))? != self.tally.ties {
            return Err(astray());
        }
        for part in [
            b'c', b'd', b'g', b'i', b'j', b'k', b'm', b'n', b'o', b'p', b'x',
        ] {
            self.verify_each(part, |_, _| Ok(()))?;
        }
        Ok(())
    }

    /// How many actions there are, in whatever part.
    fn actions(&self) -> Result<u64> {
        let rewritten = self.verify_each(b'a', |_, _| Ok(()))?;
        let mut unwritten = 0;
        self.verify_each(b'b', |key, _| {
            let id = keys::id_at(key, 1)?;
            unwritten += u64::from(self.txn.get(&keys::record(id))?.is_none());
            Ok(())
        })?;
        Ok(rewritten + unwritten)
    }

    fn verify_ended(&self, part: u8) -> Result<u64> {
        self.verify_each(part, |key, _| match self.read(keys::id_at(key, 9)?)?.0 {
            Found::Missing => Err(astray()),
            Found::Record(record) if record.state.is_pending() => Err(astray()),
            _ => Ok(()),
        })
    }

    /// Reads a whole part; tells how many entries it has.
    fn verify_each(
        &self,
        part: u8,
        mut look: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<u64> {
        let mut count = 0;
        each(&self.txn, &[part], |key, value| {
            count += 1;
            look(key, value)
        })?;
        Ok(count)
    }

    /// What is known to be durable now.
    pub(super) fn mark(&self) -> Mark {
        Mark {
            no: self.tally.no,
            seq_next: self.tally.seq_next,
            floor: self.floor,
            epoch: self.run.epoch,
            is_paused: self.run.is_paused,
            restoring: self.run.restoring.clone(),
            live: self.tally.live,
            counts: self.tally.counts,
            ledger: self.tally.ledger,
            is_suspect: false,
        }
    }

    /// Looks for the lowest place that an unsettled action, or a dead letter that keeps its place, has. With many lanes
    /// it stays what it was.
    pub(super) fn raise_floor(&mut self) -> Result<()> {
        let lanes = [keys::LANES];
        let rows = self
            .txn
            .scan(&lanes, &keys::behind(&lanes), LANES_MAX + 1)?;
        if rows.len() > LANES_MAX {
            return Ok(());
        }
        let mut floor = self.tally.seq_next;
        for (_, row) in rows {
            match parse::<LaneRow>(&row)?.lowest() {
                Some(lowest) => floor = floor.min(lowest),
                None => return Ok(()),
            }
        }
        self.floor = floor;
        Ok(())
    }
}

fn astray() -> Error {
    let text = "an index of the store names an action that is not there";
    Error::new(ErrorKind::Corrupt, text)
}
