//! The record: what a store keeps of one action. Scheduling fields in clear, the request as opaque bytes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::batch::Batching;
use super::frame::{Frame, FrameKind};
use super::id::{ActionId, Lane, Origin, unscoped};
use super::portal::PortalSign;
use super::state::{State, WireState};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// What a store keeps of one action.
///
/// The scheduler needs the fields; a store never looks into [`content`](Record::content),
/// which may be sealed. Fields of newer versions are kept when a record is rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Record {
    /// The id. Stored in the frame's head.
    #[serde(skip, default = "nil")]
    pub id: ActionId,
    /// Grows by one with every rewrite; the store counts it. Stored in the frame's head.
    #[serde(skip)]
    pub revision: u64,
    /// The place in the queue, given by the store: lanes go by it.
    pub seq: u64,
    /// The idempotency key as the index knows it: the caller's key, or nothing when the id is the key. With a principal,
    /// the principal and U+001F stand before it: keys of different principals are apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The lane, [of its principal](Lane::of_principal).
    pub lane: Lane,
    /// The origin it goes to.
    pub origin: Origin,
    /// On whose behalf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Where it is in its life.
    pub state: State,
    /// What the server may have seen.
    #[serde(default)]
    pub wire: WireState,
    /// Attempts so far: the number of the newest lease.
    #[serde(default)]
    pub attempts: u32,
    /// Attempts that count against `attempts_max`.
    #[serde(default)]
    pub attempts_counted: u32,
    /// How many counted attempts it gets: one more than its retries.
    pub attempts_max: u32,
    /// When it was made.
    pub created: Timestamp,
    /// When it is no longer wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// When the first attempt started that may have reached the server: from then on it knows the key. As long as nothing
    /// ever left, the newest attempt is the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_attempt: Option<Timestamp>,
    /// When the newest attempt started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempt: Option<Timestamp>,
    /// When the attempt before the newest one started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_attempt: Option<Timestamp>,
    /// The wait that the newest failure set, in milliseconds.
    #[serde(default)]
    pub backoff_ms: u64,
    /// The status of the newest answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_status: Option<u16>,
    /// What went wrong last, in words without any content of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The sign of a login page, if that is what the newest attempt met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portal: Option<PortalSign>,
    /// What batches may make of it; nothing = as its wire state says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batching>,
    /// Higher goes first among lanes that are ready; lane order is never broken.
    #[serde(default)]
    pub priority: i8,
    /// A newer action with the same one, in the same lane, can take the place of this one as long as no byte of it has left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coalesce: Option<String>,
    /// The actions that it was queued after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ActionId>,
    /// Those of its parents that are not known to be delivered: it is not leased before there is none. The store sets it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<ActionId>,
    /// Those of its parents whose answers are to be [filled in](crate::store::Fill): it is not leased before that is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<ActionId>,
    /// A later action waits under its coalescing key, and this one does not any more. The store sets it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_passed: bool,
    /// The action that took the place of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<ActionId>,
    /// What it was to do is part of the action that took its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_merged: bool,
    /// Hash of method, URL and body: the same key with another hash is a conflict.
    pub fingerprint: String,
    /// Length of the body. The store counts it; of a sealed one, it keeps what it was given.
    pub body_bytes: u64,
    /// Length of the kept answer.
    #[serde(default)]
    pub answer_bytes: u64,
    /// Length of the encoded request before it was sealed; nothing when it is not. Then the store's lengths and weights are
    /// those before the sealing too: see [`unsealed_bytes`](Self::unsealed_bytes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_bytes: Option<u64>,
    /// The encoded request ([`StoredRequest`](super::StoredRequest)), opaque to the store.
    #[serde(skip)]
    pub content: Bytes,
    /// Fields this version does not know, kept as they are.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn nil() -> ActionId {
    ActionId::from_bytes([0; 16])
}

impl Record {
    /// What sealing adds to a value: version, key id, nonce and tag. Part of the format.
    pub const SEAL_BYTES: usize = 1 + 4 + 24 + 16;

    /// A queued record with the given content. The rest has its defaults; set what differs.
    #[must_use]
    pub fn new(
        id: ActionId,
        lane: Lane,
        origin: Origin,
        content: Bytes,
        created: Timestamp,
    ) -> Self {
        Self {
            id,
            revision: 0,
            seq: 0,
            key: None,
            lane,
            origin,
            principal: None,
            state: State::Queued { due: created },
            wire: WireState::NeverSent,
            attempts: 0,
            attempts_counted: 0,
            attempts_max: 11,
            created,
            expires: None,
            first_attempt: None,
            last_attempt: None,
            previous_attempt: None,
            backoff_ms: 0,
            last_status: None,
            last_error: None,
            portal: None,
            batch: None,
            priority: 0,
            coalesce: None,
            parents: Vec::new(),
            waits: Vec::new(),
            needs: Vec::new(),
            is_passed: false,
            superseded_by: None,
            is_merged: false,
            fingerprint: String::new(),
            body_bytes: 0,
            answer_bytes: 0,
            head_bytes: None,
            content,
            extra: Map::new(),
        }
    }

    /// What it weighs against the byte limit: body and encoded request.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let head_bytes = self.head_bytes.unwrap_or(self.content.len() as u64);
        self.body_bytes + head_bytes
    }

    /// The length of a body or an answer of it that takes `stored` bytes: what sealing adds does not count.
    #[must_use]
    pub fn unsealed_bytes(&self, stored: u64) -> u64 {
        stored.saturating_sub(self.seal_bytes())
    }

    /// The reverse: how many bytes are stored of a body or an answer of this length.
    #[must_use]
    pub fn stored_bytes(&self, unsealed: u64) -> u64 {
        unsealed + self.seal_bytes()
    }

    fn seal_bytes(&self) -> u64 {
        match self.head_bytes {
            Some(_) => Self::SEAL_BYTES as u64,
            None => 0,
        }
    }

    /// Attempt and epoch of its lease; zeros when it is not in flight, which no lease has.
    #[must_use]
    pub fn lease(&self) -> (u32, u64) {
        match self.state {
            State::InFlight { attempt, epoch } => (attempt, epoch),
            _ => (0, 0),
        }
    }

    /// May it join a new batch? Only if no server can have seen it under its own key alone, or in a batch without an answer
    /// for it.
    #[must_use]
    pub fn may_join_batch(&self) -> bool {
        match self.batch {
            None => self.wire == WireState::NeverSent,
            Some(Batching::Again) => true,
            Some(_) => false,
        }
    }

    /// The idempotency key: the caller's, or the id.
    #[must_use]
    pub fn effective_key(&self) -> String {
        self.caller_key()
            .map_or_else(|| self.id.to_string(), str::to_owned)
    }

    /// The key that the caller gave.
    #[must_use]
    pub fn caller_key(&self) -> Option<&str> {
        self.key.as_deref().map(unscoped)
    }

    /// The earliest time of the next attempt, for a queued action.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        match self.state {
            State::Queued { due } => Some(due),
            _ => None,
        }
    }

    /// True while it waits for its parents, or for what is to be filled in of their answers: it cannot be leased then.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.waits.is_empty() || !self.needs.is_empty()
    }

    /// The bytes on disk.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is over 4 GiB.
    pub fn encode(&self) -> Result<Vec<u8>> {
        Frame::encode(
            FrameKind::Action,
            self.id,
            self.revision,
            self,
            &self.content,
        )
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when it is damaged or newer than this version.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let frame = Frame::decode(bytes)?;
        if frame.kind != FrameKind::Action {
            return Err(Error::new(ErrorKind::Corrupt, "a record is not an action"));
        }
        let mut record: Self = frame.fields()?;
        record.id = frame.id;
        record.revision = frame.revision;
        record.content = frame.content;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let lane = Lane::default_lane();
        let origin = Origin::from_stored("http://a.example:80");
        Record::new(
            ActionId::new(),
            lane,
            origin,
            Bytes::from_static(b"{}"),
            Timestamp::from_millis(5),
        )
    }

    #[test]
    fn a_record_reads_back_as_written() {
        let mut record = record();
        record.key = Some("k".into());
        record.seq = 9;
        record.revision = 3;
        record.last_error = Some("timeout".into());
        assert_eq!(
            Record::decode(record.encode().expect("encode").into()).expect("decode"),
            record
        );
    }

    #[test]
    fn unknown_fields_survive_a_rewrite() {
        let mut record = record();
        record.extra.insert("of_tomorrow".into(), Value::from(42));
        let mut read = Record::decode(record.encode().expect("encode").into()).expect("decode");
        read.seq += 1;
        let again = Record::decode(read.encode().expect("encode").into()).expect("decode");
        assert_eq!(again.extra["of_tomorrow"], 42);
    }
}
