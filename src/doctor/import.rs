//! An export brought into an empty store of any kind, in constant memory.

use std::io::{Read, Seek};

use bytes::Bytes;

use super::lines::{ActionLine, Span, decode, unreadable};
use super::reader::{Batch, Frame, Reader, Value};
use super::{Contents, Progress};
use crate::action::{ActionId, Body, Piece};
use crate::clock::{Clock, SystemClock};
use crate::decide::Gate;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Opened, Restore, RestoreEnd, Restored, Snapshot, Source, Store, blocking};

/// Puts what [`export`](super::export()) wrote into `store`: with ids, keys, places, states, attempts, bodies, answers,
/// ledger, gates and the pause. What was in flight is queued, as after a crash.
///
/// The export is read to its end first: one that is cut or changed is refused, and nothing is written. After a crash in
/// the middle, the same import goes on where it was; until it has ended, a vault on this store is refused. The store is
/// opened by this and must be nobody else's at the time. It is not closed.
///
/// A sealed export, which has a keyring, goes into a plain store: that is a sealed one afterwards, for the same key. An export
/// in clear that goes into a [`Sealed`](crate::store::crypt::Sealed) store is sealed by it.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] when the export is not whole, or is of a newer format. [`ErrorKind::WrongState`] when the store
/// has held actions, or the import of another export is unfinished. [`ErrorKind::Unsupported`] by stores that cannot do
/// it. Storage errors.
pub async fn import(
    store: &dyn Store,
    source: impl Read + Seek + Send + 'static,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<Contents> {
    let reader = Reader::new(source);
    let check = reader.clone();
    let Frame { header, trailer } = blocking(move || check.check()).await?;
    let opened = store.open(SystemClock.now()).await?;
    if let Some(keyring) = header.keyring {
        // A vault in clear that got a keyring would not open any more.
        refuse_used(&opened)?;
        keep_keyring(store, decode(&keyring)?).await?;
    }
    let mut import = Import {
        store,
        reader,
        of: trailer.blake3.clone(),
        gates: Vec::new(),
    };
    let mut done = Progress {
        done: 0,
        total: trailer.contents.actions(),
    };
    while let Some(count) = import.next_part().await? {
        done.done += count;
        progress(done);
    }
    let mut end = RestoreEnd::new(trailer.ledger);
    end.is_paused = trailer.is_paused;
    import.end(end).await?;
    Ok(trailer.contents)
}

fn refuse_used(opened: &Opened) -> Result<()> {
    if opened.totals.ledger.enqueued == 0 || opened.is_half_restored {
        return Ok(());
    }
    let text = "the store has held actions; import into a new directory";
    Err(Error::new(ErrorKind::WrongState, text))
}

async fn keep_keyring(store: &dyn Store, keyring: Bytes) -> Result<()> {
    let kept = match store.keyring().await? {
        None if store.set_keyring(None, keyring.clone()).await?.is_some() => return Ok(()),
        kept => kept,
    };
    match kept {
        Some(kept) if kept.bytes == keyring => Ok(()),
        _ => Err(Error::new(
            ErrorKind::WrongState,
            "the store has a keyring of its own; import into a new directory",
        )),
    }
}

struct Import<'s, R> {
    store: &'s dyn Store,
    reader: Reader<R>,
    of: String,
    gates: Vec<Gate>,
}

impl<R: Read + Seek + Send + 'static> Import<'_, R> {
    fn part(&self) -> Restore {
        Restore::new(self.of.clone(), SystemClock.now())
    }

    /// How many actions there were; nothing at the end.
    async fn next_part(&mut self) -> Result<Option<u64>> {
        let reader = self.reader.clone();
        let Batch {
            gates,
            actions,
            is_end,
        } = blocking(move || reader.next_batch()).await?;
        self.gates.extend(gates);
        let count = actions.len() as u64;
        if count > 0 {
            let (mut part, mut snapshots) = (self.part(), Vec::new());
            for line in actions {
                part.actions.push(self.action(line, &mut snapshots).await?);
            }
            snapshots.into_iter().for_each(Snapshot::hand_over);
            self.store.restore(part).await?;
        }
        Ok((!is_end).then_some(count))
    }

    async fn action(
        &self,
        mut line: ActionLine,
        snapshots: &mut Vec<Snapshot>,
    ) -> Result<Restored> {
        let mut one = Restored::new(line.take_record()?);
        one.dead_lane = line.dead_lane();
        if let Some(spans) = line.body {
            let mut pieces = Vec::with_capacity(spans.len());
            for span in spans {
                pieces.push(self.piece(line.id, span, snapshots).await?);
            }
            one.body = Some(body_of(pieces));
        }
        one.answer = match line.answer {
            Some(span) => Some(self.bytes(span).await?),
            None => None,
        };
        Ok(one)
    }

    async fn piece(
        &self,
        id: ActionId,
        span: Span,
        snapshots: &mut Vec<Snapshot>,
    ) -> Result<Piece> {
        let Span::File(length) = span else {
            return self.bytes(span).await.map(Piece::Bytes);
        };
        let source = Source::reader(self.value(length), length);
        let snapshot = self.store.snapshot(id, source).await?;
        let body = snapshot.body().clone();
        if body.len() != length {
            return Err(unreadable(format!("the body of action {id} is not whole")));
        }
        snapshots.push(snapshot);
        match body {
            Body::Bytes(bytes) => Ok(Piece::Bytes(bytes)),
            Body::File(file) => Ok(Piece::File(file)),
            Body::Pieces(_) => Err(Error::new(
                ErrorKind::Unsupported,
                "the store made pieces of one file",
            )),
        }
    }

    async fn bytes(&self, span: Span) -> Result<Bytes> {
        let length = match span {
            Span::Bytes(text) => return decode(&text),
            Span::Chunks(length) | Span::File(length) => length,
        };
        let mut value = self.value(length);
        let read = blocking(move || {
            let mut bytes = Vec::new();
            let read = value.read_to_end(&mut bytes);
            read.map_err(|e| unreadable("a value is not whole").with_source(e))?;
            Ok(bytes)
        });
        read.await.map(Bytes::from)
    }

    fn value(&self, length: u64) -> Value<R> {
        Value {
            reader: self.reader.clone(),
            left: length,
            at: Bytes::new(),
        }
    }

    async fn end(&mut self, mut end: RestoreEnd) -> Result<()> {
        end.gates = std::mem::take(&mut self.gates);
        let mut part = self.part();
        part.end = Some(end);
        self.store.restore(part).await
    }
}

/// Without a file among them the pieces are one stretch of bytes: what a store without files takes.
fn body_of(pieces: Vec<Piece>) -> Body {
    match <[Piece; 1]>::try_from(pieces) {
        Ok([Piece::Bytes(bytes)]) => Body::Bytes(bytes),
        Ok([Piece::File(file)]) => Body::File(file),
        Err(pieces) => joined(&pieces).map_or(Body::Pieces(pieces), Body::Bytes),
    }
}

fn joined(pieces: &[Piece]) -> Option<Bytes> {
    let bytes = pieces.iter().map(|piece| match piece {
        Piece::Bytes(bytes) => Some(&bytes[..]),
        Piece::File(_) => None,
    });
    let bytes: Option<Vec<&[u8]>> = bytes.collect();
    bytes.map(|bytes| bytes.concat().into())
}
