//! Records, bodies and answers of single actions: reading, rewriting, forgetting, and quarantine for what
//! cannot be read.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Engine;
use super::keys::{self, Place};
use super::queue::{Queue, Tally};
use crate::action::{ActionId, Body, BodyFile, Frame, FrameKind, Piece, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::store::bodies::{FileRef, INLINE_BYTES_MAX};

/// A value on its way in: small ones go into the engine, the others are in a file already.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    Inline(Bytes),
    File(FileRef),
    /// A body that came in files, or in pieces of both.
    Pieces(Vec<KeptPiece>),
}

#[derive(Clone, Debug)]
pub(super) enum KeptPiece {
    Inline(Bytes),
    File(FileRef),
}

impl KeptPiece {
    fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::File(file) => file.bytes,
        }
    }

    /// How much of it is for the engine.
    pub(super) fn inline(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::File(_) => 0,
        }
    }
}

impl Kept {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::File(file) => file.bytes,
            Self::Pieces(pieces) => pieces.iter().map(KeptPiece::len).sum(),
        }
    }

    pub(super) fn has_file(&self, name: &str) -> bool {
        match self {
            Self::Inline(_) => false,
            Self::File(file) => file.name == name,
            Self::Pieces(pieces) => pieces
                .iter()
                .any(|piece| matches!(piece, KeptPiece::File(file) if file.name == name)),
        }
    }

    fn files(self) -> Vec<FileRef> {
        match self {
            Self::Inline(_) => Vec::new(),
            Self::File(file) => vec![file],
            Self::Pieces(pieces) => {
                let files = pieces.into_iter().filter_map(|piece| match piece {
                    KeptPiece::Inline(_) => None,
                    KeptPiece::File(file) => Some(file),
                });
                files.collect()
            }
        }
    }
}

/// The named fields of a body's or an answer's frame.
#[derive(Default, Serialize, Deserialize)]
struct KeptFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<FileRef>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pieces: Vec<PieceRef>,
}

/// A piece of a body: so many bytes of the frame's content, or a file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PieceRef {
    Bytes(u64),
    File(FileRef),
}

/// A record that will be wanted soon.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) record: Record,
    /// What it was born with, its body behind it, if that was read.
    birth: Option<Bytes>,
}

impl From<Record> for Head {
    fn from(record: Record) -> Self {
        let birth = None;
        Self { record, birth }
    }
}

/// What is under an id.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly always the large one, and moved once"
)]
pub(super) enum Found {
    Record(Record),
    Missing,
    /// Written by a newer version: it is kept, and not touched.
    Newer,
    Damaged,
}

impl<E: Engine> Queue<E> {
    pub(super) fn find(&mut self, id: ActionId) -> Result<Found> {
        let head = || self.heads.get(&id).map(|head| &head.record);
        if let Some(record) = self.in_flight.get(&id).or_else(head) {
            return Ok(Found::Record(record.clone()));
        }
        let (found, birth) = self.read(id)?;
        if let Found::Record(record) = &found
            && record.state.is_pending()
        {
            let record = record.clone();
            self.heads.insert(id, Head { record, birth });
        }
        Ok(found)
    }

    /// From the engine, past what is kept in memory; with the bytes it was born with, if those were read.
    pub(super) fn read(&self, id: ActionId) -> Result<(Found, Option<Bytes>)> {
        if let Some(bytes) = self.txn.get(&keys::record(id))? {
            return Ok((decode(id, &bytes), None));
        }
        let Some(birth) = self.txn.get(&keys::birth(id))? else {
            return Ok((Found::Missing, None));
        };
        let bytes = match Frame::decode_prefix(&birth) {
            Ok((_, length)) => birth.slice(..length),
            Err(_) => birth.clone(),
        };
        Ok((decode(id, &bytes), Some(birth)))
    }

    /// For calls that name one action.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when it is damaged or newer than this version. Nothing was changed.
    pub(super) fn record(&mut self, id: ActionId) -> Result<Option<Record>> {
        match self.find(id)? {
            Found::Record(record) => Ok(Some(record)),
            Found::Missing => Ok(None),
            Found::Newer => Err(Error::new(
                ErrorKind::Corrupt,
                format!("action {id} was written by a newer version; use that one"),
            )),
            Found::Damaged => Err(Error::new(
                ErrorKind::Corrupt,
                format!("the record of action {id} is damaged"),
            )),
        }
    }

    /// Writes a record that was there before.
    pub(super) fn rewrite(&mut self, record: &mut Record) -> Result<()> {
        self.heads.remove(&record.id);
        if record.state.is_pending() {
            self.tally.toggle(record.id, record.revision);
            self.tally.toggle(record.id, record.revision + 1);
        }
        record.revision += 1;
        self.txn.put(keys::record(record.id), record.encode()?);
        Ok(())
    }

    /// Writes a new record together with its body.
    pub(super) fn write_birth(&mut self, record: &mut Record, body: &Kept) -> Result<()> {
        record.revision = 1;
        self.tally.toggle(record.id, record.revision);
        let mut bytes = record.encode()?;
        bytes.extend_from_slice(&frame(FrameKind::Body, record.id, body)?);
        self.txn.put(keys::birth(record.id), bytes);
        Ok(())
    }

    /// The body of an action, unless it is gone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when it is damaged.
    pub(super) fn body_of(&self, id: ActionId) -> Result<Option<Body>> {
        let warm = self.heads.get(&id).and_then(|head| head.birth.clone());
        let stored = warm.map_or_else(|| self.txn.get(&keys::birth(id)), |birth| Ok(Some(birth)));
        let Some(bytes) = stored? else {
            return Ok(None);
        };
        let (_, length) = Frame::decode_prefix(&bytes)?;
        unframe(bytes.slice(length..), FrameKind::Body, id).map(Some)
    }

    pub(super) fn answer_of(&self, id: ActionId) -> Result<Option<Body>> {
        let bytes = self.txn.get(&keys::answer(id))?;
        bytes
            .map(|bytes| unframe(bytes, FrameKind::Answer, id))
            .transpose()
    }

    /// Keeps an answer in place of the one before. The record is not written here.
    pub(super) fn put_answer(&mut self, record: &mut Record, answer: &Kept) -> Result<()> {
        self.drop_answer_file(record);
        record.answer_bytes = record.unsealed_bytes(answer.len());
        let frame = frame(FrameKind::Answer, record.id, answer)?;
        self.txn.put(keys::answer(record.id), frame);
        Ok(())
    }

    pub(super) fn delete_body(&mut self, record: &Record) {
        if record.stored_bytes(record.body_bytes) > INLINE_BYTES_MAX {
            let body = self.body_of(record.id);
            self.drop_file(body);
        }
        self.txn.delete(keys::birth(record.id));
    }

    /// Removes everything of an action but its index entries.
    pub(super) fn forget(&mut self, record: &Record) -> Result<()> {
        self.delete_body(record);
        self.drop_answer_file(record);
        self.heads.remove(&record.id);
        self.txn.delete(keys::record(record.id));
        if record.answer_bytes > 0 {
            self.txn.delete(keys::answer(record.id));
        }
        self.forget_key(record)
    }

    fn forget_key(&mut self, record: &Record) -> Result<()> {
        let Some(key) = &record.key else {
            return Ok(());
        };
        let key = keys::idempotency(key);
        if self.txn.get(&key)?.as_deref() == Some(&record.id.as_bytes()[..]) {
            self.txn.delete(key);
        }
        Ok(())
    }

    fn drop_answer_file(&mut self, record: &Record) {
        if record.stored_bytes(record.answer_bytes) > INLINE_BYTES_MAX {
            let answer = self.answer_of(record.id);
            self.drop_file(answer);
        }
    }

    pub(super) fn drop_file(&mut self, value: Result<Option<Body>>) {
        // A frame that cannot be read names no file: the sweep at the next open finds it.
        if let Ok(Some(body)) = value {
            let names = body.files().map(|file| file.path.to_string_lossy());
            self.garbage.extend(names.map(Cow::into_owned));
        }
    }

    /// A value that was refused: its files go.
    pub(super) fn refuse(&mut self, value: Kept) {
        let names = value.files().into_iter().map(|file| file.name);
        self.garbage.extend(names);
    }

    /// As [`refuse`](Self::refuse), but for files that the action names already: the same append came twice.
    pub(super) fn refuse_body(&mut self, id: ActionId, value: Kept) {
        let mut files = value.files();
        if files.is_empty() {
            return;
        }
        if let Ok(Some(kept)) = self.body_of(id) {
            let is_kept =
                |new: &FileRef| kept.files().any(|old| old.path.as_os_str() == &*new.name);
            files.retain(|new| !is_kept(new));
        }
        let names = files.into_iter().map(|file| file.name);
        self.garbage.extend(names);
    }

    /// Takes a pending action whose bytes cannot be read out of its lane and into quarantine.
    pub(super) fn evict_pending(&mut self, place: &Place, seq: u64) -> Result<()> {
        self.quarantine(place.id)?;
        self.look_at_children(place.id)?;
        self.displace(&place.lane, seq)?;
        let Tally {
            ledger,
            counts,
            live,
            ..
        } = &mut self.tally;
        // Which revision goes is not known.
        *live = None;
        counts.pending = counts.pending.saturating_sub(1);
        counts.bytes = counts.bytes.saturating_sub(place.weight);
        ledger.pending = ledger.pending.saturating_sub(1);
        ledger.evicted += 1;
        Ok(())
    }

    /// Moves the bytes of an action aside.
    pub(super) fn quarantine(&mut self, id: ActionId) -> Result<()> {
        tracing::error!(%id, "an action cannot be read: its bytes are in quarantine");
        self.heads.remove(&id);
        for key in [keys::record(id), keys::birth(id), keys::answer(id)] {
            if let Some(bytes) = self.txn.get(&key)? {
                self.txn.put(keys::quarantine(&key), bytes);
                self.txn.delete(key);
            }
        }
        Ok(())
    }
}

fn decode(id: ActionId, bytes: &Bytes) -> Found {
    match Record::decode(bytes.clone()) {
        Ok(record) if record.id == id => Found::Record(record),
        Ok(record) => {
            tracing::error!(%id, found = %record.id, "a stored action is that of another id");
            Found::Damaged
        }
        Err(_) if Frame::is_newer(bytes) => Found::Newer,
        Err(error) => {
            tracing::error!(%id, %error, "a stored action cannot be read");
            Found::Damaged
        }
    }
}

pub(super) fn frame(kind: FrameKind, id: ActionId, value: &Kept) -> Result<Vec<u8>> {
    match value {
        Kept::Inline(bytes) => Frame::encode(kind, id, 1, &KeptFields::default(), bytes),
        Kept::File(file) => {
            let fields = KeptFields {
                file: Some(file.clone()),
                ..KeptFields::default()
            };
            Frame::encode(kind, id, 1, &fields, &[])
        }
        Kept::Pieces(pieces) => {
            let (mut fields, mut content) = (KeptFields::default(), Vec::new());
            for piece in pieces {
                fields.pieces.push(match piece {
                    KeptPiece::Inline(bytes) => {
                        content.extend_from_slice(bytes);
                        PieceRef::Bytes(bytes.len() as u64)
                    }
                    KeptPiece::File(file) => PieceRef::File(file.clone()),
                });
            }
            Frame::encode(kind, id, 1, &fields, &content)
        }
    }
}

/// A file keeps its bare name here; who has the directory makes it a path.
pub(super) fn unframe(bytes: Bytes, kind: FrameKind, id: ActionId) -> Result<Body> {
    let frame = Frame::decode(bytes)?;
    if (frame.kind, frame.id) != (kind, id) {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "a stored value is of another kind or action",
        ));
    }
    let fields = frame.fields::<KeptFields>()?;
    match (fields.file, fields.pieces.is_empty()) {
        (Some(file), _) => Ok(Body::File(named(file))),
        (None, true) => Ok(Body::Bytes(frame.content)),
        (None, false) => pieces_of(fields.pieces, frame.content).map(Body::Pieces),
    }
}

fn named(file: FileRef) -> BodyFile {
    BodyFile::new(file.name, file.bytes, file.crc32c)
}

fn pieces_of(pieces: Vec<PieceRef>, mut content: Bytes) -> Result<Vec<Piece>> {
    let pieces = pieces.into_iter().map(|piece| match piece {
        PieceRef::File(file) => Ok(Piece::File(named(file))),
        PieceRef::Bytes(bytes) => match usize::try_from(bytes) {
            Ok(bytes) if bytes <= content.len() => Ok(Piece::Bytes(content.split_to(bytes))),
            _ => Err(Error::new(
                ErrorKind::Corrupt,
                "a stored body is shorter than its pieces",
            )),
        },
    });
    pieces.collect()
}
