//! The layout of the keys: one tree, one prefix byte, numbers big-endian so that bytes sort as they do.
//!
//! ```text
//! a <id>                               record frame, once it was rewritten; wins over the one in `b`
//! b <id>                               record frame as appended, then the body frame
//! p <id>                               answer frame
//! n <lane name>                        lane row (JSON); gone when the lane is empty
//! l <lane no u64><seq u64>             Place: what is pending, lane by lane, in order
//! d <gate no u32><!priority><due><no>  lane name: ready heads only, one for each lane that can be leased
//! o <created of head><lane no>         nothing: for the age of the oldest
//! k <key>                              id: the caller's idempotency keys
//! c <lane no><coalescing key>          id: the last with it, queued, nothing of it left
//! x <expires><id>                      nothing: queued actions that expire
//! t <settled at><id>                   answer bytes: the retention ring
//! z <died at><id>                      weight, and the lane's name if it blocks it: dead letters
//! f <id>                               seq, then Place: in flight
//! g <gate key>                         gate (JSON)
//! h <parent id><child id>              nothing: the child waits for the parent, or needs its answer
//! i <parent id>                        the child looked at last, or nothing: the parent's children are to be looked at
//! j <id>                               nothing: freed, its references to be filled in
//! u <name>                             note: a value of what is built on the vault
//! r <resource><query><variant>         head of a cached answer, a frame; 8 bytes of a hash each
//! y <id>                               body of a cached answer, a frame; the id is a hash of the three
//! w <used><resource><query><variant>   weight: cached answers in the order of their use
//! e <resource>                         what was cached when something was written to it, and when
//! m <name>                             format, run, totals, pairs, keyring, cache
//! q <a|b|p><id>                        quarantine: bytes that could not be read
//! s <a|b|p><id>                        frame that was carved, only while a store is built anew
//! ```
//!
//! An append writes two keys (`b`, `l`) and what the caller's key, expiry and an empty lane add;
//! the lane row and the totals are written once for each commit.

mod cached;

use bytes::Bytes;

pub(super) use self::cached::{CacheSlot, cached_body};
use crate::action::{ActionId, Lane};
use crate::clock::Timestamp;
use crate::decide::GateKey;
use crate::error::{Error, ErrorKind, Result};

pub(super) type Key = Vec<u8>;

/// Longer texts are hashed, so that keys of the engine stay short.
const TEXT_MAX: usize = 255;

pub(super) const READY: u8 = b'd';
pub(super) const OLDEST: u8 = b'o';
pub(super) const EXPIRY: u8 = b'x';
pub(super) const SETTLED: u8 = b't';
pub(super) const DEAD: u8 = b'z';
pub(super) const PLACES: u8 = b'l';
pub(super) const IN_FLIGHT: u8 = b'f';
pub(super) const GATES: u8 = b'g';
pub(super) const LANES: u8 = b'n';
pub(super) const STAGED: u8 = b's';
pub(super) const CACHED: u8 = b'r';
pub(super) const CACHED_BODIES: u8 = b'y';
pub(super) const USED: u8 = b'w';
pub(super) const STALE: u8 = b'e';
pub(super) const TIES: u8 = b'h';
pub(super) const MARKS: u8 = b'i';
pub(super) const UNFILLED: u8 = b'j';

pub(super) const FORMAT: &[u8] = b"mformat";
pub(super) const RUN: &[u8] = b"mrun";
pub(super) const KEYRING: &[u8] = b"mkeyring";
pub(super) const TOTALS: &[u8] = b"mtotals";
pub(super) const PAIRS: &[u8] = b"mpairs/";
pub(super) const CACHE: &[u8] = b"mcache";

fn join(prefix: u8, parts: &[&[u8]]) -> Key {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(prefix);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

fn text(prefix: u8, scope: &[u8], text: &str) -> Key {
    if text.len() <= TEXT_MAX {
        join(prefix, &[scope, &[0], text.as_bytes()])
    } else {
        let hash = blake3::hash(text.as_bytes());
        join(prefix, &[scope, &[1], hash.as_bytes()])
    }
}

fn timed(prefix: u8, at: Timestamp, rest: &[u8]) -> Key {
    join(prefix, &[&at.as_millis().to_be_bytes(), rest])
}

pub(super) fn record(id: ActionId) -> Key {
    join(b'a', &[id.as_bytes()])
}

pub(super) fn birth(id: ActionId) -> Key {
    join(b'b', &[id.as_bytes()])
}

pub(super) fn answer(id: ActionId) -> Key {
    join(b'p', &[id.as_bytes()])
}

pub(super) fn in_flight(id: ActionId) -> Key {
    join(IN_FLIGHT, &[id.as_bytes()])
}

/// Where the bytes of `key` go when they cannot be read.
pub(super) fn quarantine(key: &[u8]) -> Key {
    join(b'q', &[key])
}

pub(super) fn lane(lane: &Lane) -> Key {
    join(b'n', &[lane.as_str().as_bytes()])
}

pub(super) fn place(lane_no: u64, seq: u64) -> Key {
    join(PLACES, &[&lane_no.to_be_bytes(), &seq.to_be_bytes()])
}

pub(super) fn places_of(lane_no: u64) -> Key {
    join(PLACES, &[&lane_no.to_be_bytes()])
}

pub(super) fn idempotency(key: &str) -> Key {
    text(b'k', &[], key)
}

pub(super) fn coalesce(lane_no: u64, key: &str) -> Key {
    text(b'c', &lane_no.to_be_bytes(), key)
}

pub(super) fn oldest(created: Timestamp, lane_no: u64) -> Key {
    timed(OLDEST, created, &lane_no.to_be_bytes())
}

pub(super) fn expiry(expires: Timestamp, id: ActionId) -> Key {
    timed(EXPIRY, expires, id.as_bytes())
}

pub(super) fn settled(at: Timestamp, id: ActionId) -> Key {
    timed(SETTLED, at, id.as_bytes())
}

pub(super) fn dead(at: Timestamp, id: ActionId) -> Key {
    timed(DEAD, at, id.as_bytes())
}

pub(super) fn gate(key: &GateKey) -> Key {
    match key {
        GateKey::Origin(origin) => text(GATES, b"o", origin.as_str()),
        GateKey::Principal(Some(principal)) => text(GATES, b"p", principal),
        GateKey::Principal(None) => join(GATES, &[b"v"]),
    }
}

pub(super) fn note(name: &str) -> Key {
    text(b'u', &[], name)
}

pub(super) fn tie(parent: ActionId, child: ActionId) -> Key {
    join(TIES, &[parent.as_bytes(), child.as_bytes()])
}

pub(super) fn ties_of(parent: ActionId) -> Key {
    join(TIES, &[parent.as_bytes()])
}

pub(super) fn mark(parent: ActionId) -> Key {
    join(MARKS, &[parent.as_bytes()])
}

pub(super) fn unfilled(id: ActionId) -> Key {
    join(UNFILLED, &[id.as_bytes()])
}

pub(super) fn pair(gate_no: u32) -> Key {
    [PAIRS, &gate_no.to_be_bytes()].concat()
}

/// All ready heads behind one gate, of one priority.
pub(super) fn ready_group(gate_no: u32, rank: u8) -> Key {
    join(READY, &[&gate_no.to_be_bytes(), &[rank]])
}

/// A priority as a byte that sorts high before low.
pub(super) fn rank(priority: i8) -> u8 {
    !(priority.to_be_bytes()[0] ^ 0x80)
}

/// Where a ready head stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ready {
    pub(super) rank: u8,
    pub(super) due: Timestamp,
    pub(super) lane_no: u64,
    pub(super) gate_no: u32,
}

impl Ready {
    pub(super) fn key(&self) -> Key {
        let due = self.due.as_millis().to_be_bytes();
        let lane_no = self.lane_no.to_be_bytes();
        join(
            READY,
            &[&self.gate_no.to_be_bytes(), &[self.rank], &due, &lane_no],
        )
    }

    pub(super) fn of(key: &[u8]) -> Result<Self> {
        let gate_no = key.get(1..5).and_then(|bytes| bytes.try_into().ok());
        let (Some(gate_no), Some(rank)) = (gate_no, key.get(5)) else {
            return Err(broken());
        };
        Ok(Self {
            gate_no: u32::from_be_bytes(gate_no),
            rank: *rank,
            due: Timestamp::from_millis(number_at(key, 6)?),
            lane_no: number_at(key, 14)?,
        })
    }
}

/// What is pending at a place of a lane: enough to take it out when its record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: ActionId,
    pub(super) created: Timestamp,
    pub(super) weight: u64,
    pub(super) lane: Lane,
}

impl Place {
    pub(super) fn encode(&self) -> Vec<u8> {
        let created = self.created.as_millis().to_be_bytes();
        let weight = self.weight.to_be_bytes();
        let lane = self.lane.as_str().as_bytes();
        [&self.id.as_bytes()[..], &created, &weight, lane].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        Ok(Self {
            id: id_at(bytes, 0)?,
            created: Timestamp::from_millis(number_at(bytes, 16)?),
            weight: number_at(bytes, 24)?,
            lane: lane_of(bytes.get(32..).unwrap_or_default())?,
        })
    }
}

pub(super) fn lane_of(name: &[u8]) -> Result<Lane> {
    match std::str::from_utf8(name) {
        Ok(name) if !name.is_empty() => Ok(Lane::from_stored(name)),
        _ => Err(broken()),
    }
}

/// The first key behind all keys that start with `prefix`.
pub(super) fn behind(prefix: &[u8]) -> Key {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// The key right behind `key`.
pub(super) fn after(key: &[u8]) -> Key {
    [key, &[0]].concat()
}

pub(super) fn number_at(bytes: &[u8], at: usize) -> Result<u64> {
    bytes
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_be_bytes)
        .ok_or_else(broken)
}

pub(super) fn id_at(bytes: &[u8], at: usize) -> Result<ActionId> {
    bytes
        .get(at..at + 16)
        .and_then(|bytes| bytes.try_into().ok())
        .map(ActionId::from_bytes)
        .ok_or_else(broken)
}

pub(super) fn id_value(id: ActionId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn broken() -> Error {
    Error::new(
        ErrorKind::Poisoned,
        "an index entry of the store is damaged",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_keys_sort_by_priority_then_due_then_lane() {
        let ready = |priority, due, lane_no| Ready {
            gate_no: 7,
            rank: rank(priority),
            due: Timestamp::from_millis(due),
            lane_no,
        };
        let order = [
            ready(127, 9, 1),
            ready(1, 5, 1),
            ready(0, 1, 2),
            ready(0, 2, 1),
            ready(0, 256, 1),
            ready(-1, 0, 1),
            ready(-128, 0, 0),
        ];
        for pair in order.windows(2) {
            assert!(pair[0].key() < pair[1].key(), "{pair:?}");
            assert!(pair[0] < pair[1], "{pair:?}");
        }
        for one in order {
            assert_eq!(Ready::of(&one.key()).expect("key"), one);
            assert!(one.key().starts_with(&ready_group(7, one.rank)));
        }
    }

    #[test]
    fn behind_is_past_every_key_with_the_prefix() {
        assert_eq!(behind(b"l"), b"m");
        assert_eq!(behind(&[1, 0xff, 0xff]), [2]);
        assert!(place(u64::MAX, u64::MAX) < behind(&places_of(u64::MAX)));
    }

    #[test]
    fn a_place_reads_back_as_written() {
        let place = Place {
            id: ActionId::new(),
            created: Timestamp::from_millis(5),
            weight: 1024,
            lane: Lane::new("orders/7").expect("lane"),
        };
        assert_eq!(Place::decode(&place.encode()).expect("decode"), place);
        assert!(Place::decode(&place.encode()[..20]).is_err());
    }

    #[test]
    fn long_keys_stay_short_and_apart() {
        let long = "k".repeat(5000);
        assert!(idempotency(&long).len() < 64);
        assert_ne!(idempotency(&long), idempotency(&long[1..]));
    }
}
