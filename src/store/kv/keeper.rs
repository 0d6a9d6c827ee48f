//! Values on their way to and from files: what is large is brought there by the caller, so that the queue
//! never waits for it.

use std::sync::Arc;

use bytes::Bytes;

use super::advance::Step;
use super::append::Incoming;
use super::records::{Kept, KeptPiece};
use crate::action::{ActionId, Body, Piece};
use crate::error::{Error, ErrorKind, Result};
use crate::store::bodies::{Bodies, FileKind};
use crate::store::snapshot::blocking;
use crate::store::{Advance, Append};

/// Does a command carry a value that belongs into a file?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Small,
    Large,
}

impl Size {
    pub(super) fn of(mut lengths: impl Iterator<Item = u64>, bodies: Option<&Arc<Bodies>>) -> Self {
        let max = bodies.map_or(u64::MAX, |bodies| bodies.inline_bytes_max());
        match lengths.any(|length| length > max) {
            true => Self::Large,
            false => Self::Small,
        }
    }

    /// Names of files are to be synced, however long they are.
    pub(super) fn of_bodies<'b>(
        bodies: impl Iterator<Item = &'b Body> + Clone,
        kept: Option<&Arc<Bodies>>,
    ) -> Self {
        match bodies.clone().any(|body| body.files().next().is_some()) {
            true => Self::Large,
            false => Self::of(bodies.map(Body::len), kept),
        }
    }
}

/// Decides where a value goes, and brings it there.
pub(super) struct Keeper {
    bodies: Option<Arc<Bodies>>,
    written: Vec<String>,
}

impl Keeper {
    pub(super) fn new(bodies: Option<Arc<Bodies>>) -> Self {
        let written = Vec::new();
        Self { bodies, written }
    }

    pub(super) fn keep(&mut self, id: ActionId, kind: FileKind, value: Bytes) -> Result<Kept> {
        match &self.bodies {
            Some(bodies) if value.len() as u64 > bodies.inline_bytes_max() => {
                let file = bodies.write(id, kind, &value)?;
                self.written.push(file.name.clone());
                Ok(Kept::File(file))
            }
            _ => Ok(Kept::Inline(value)),
        }
    }

    pub(super) fn keep_body(&mut self, id: ActionId, body: Body) -> Result<Kept> {
        match body {
            Body::Bytes(bytes) => self.keep(id, FileKind::Body, bytes),
            body => self.keep_pieces(id, body.into_pieces()),
        }
    }

    /// Takes snapshots over, all before anything can fail: what is refused is removed.
    fn keep_pieces(&mut self, id: ActionId, pieces: Vec<Piece>) -> Result<Kept> {
        let Some(bodies) = self.bodies.clone() else {
            return Err(no_files());
        };
        let mut kept = Vec::with_capacity(pieces.len());
        let mut foreign = None;
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => kept.push(KeptPiece::Inline(bytes)),
                Piece::File(file) => match bodies.own(id, &file) {
                    Ok(file) => {
                        self.written.push(file.name.clone());
                        kept.push(KeptPiece::File(file));
                    }
                    Err(error) => foreign = Some(error),
                },
            }
        }
        match foreign {
            Some(error) => Err(error),
            None => self.spill(id, kept, &bodies),
        }
    }

    /// A body that takes the place of another one of the same action. Its files are there already, of whatever run.
    pub(super) fn keep_again(&mut self, id: ActionId, body: Body) -> Result<Kept> {
        let (pieces, bodies) = match (body, self.bodies.clone()) {
            (Body::Bytes(bytes), _) => return self.keep(id, FileKind::Body, bytes),
            (body, Some(bodies)) => (body.into_pieces(), bodies),
            (_, None) => return Err(no_files()),
        };
        let kept = pieces.into_iter().map(|piece| match piece {
            Piece::Bytes(bytes) => Ok(KeptPiece::Inline(bytes)),
            Piece::File(file) => bodies.known(id, &file).map(KeptPiece::File),
        });
        self.spill(id, kept.collect::<Result<_>>()?, &bodies)
    }

    /// Brings the largest pieces into files until the rest fits into the engine.
    fn spill(&mut self, id: ActionId, mut kept: Vec<KeptPiece>, bodies: &Bodies) -> Result<Kept> {
        let mut inline: Vec<_> = kept.iter_mut().filter(|piece| piece.inline() > 0).collect();
        inline.sort_by_key(|piece| piece.inline());
        let mut bytes: u64 = inline.iter().map(|piece| piece.inline()).sum();
        while bytes > bodies.inline_bytes_max()
            && let Some(piece) = inline.pop()
        {
            bytes -= piece.inline();
            if let KeptPiece::Inline(value) = piece {
                let file = bodies.write(id, FileKind::Body, value)?;
                self.written.push(file.name.clone());
                *piece = KeptPiece::File(file);
            }
        }
        Ok(Kept::Pieces(kept))
    }

    pub(super) fn sync(&self) -> Result<()> {
        match &self.bodies {
            Some(bodies) if !self.written.is_empty() => bodies.sync(),
            _ => Ok(()),
        }
    }

    /// The files that go again when the command comes to nothing.
    pub(super) fn into_written(self) -> Vec<String> {
        self.written
    }

    pub(super) fn undo(&self) {
        if let Some(bodies) = &self.bodies {
            self.written.iter().for_each(|name| bodies.remove(name));
        }
    }
}

fn no_files() -> Error {
    let text = "this store keeps no files; give the bytes of the body";
    Error::new(ErrorKind::Unsupported, text)
}

/// Brings a value from its file into memory; what was a file when it came stays one. One that is damaged stays what it
/// is: the check before it is sent finds that, and the action becomes a dead letter with its reason.
pub(super) async fn fetch(bodies: Option<Arc<Bodies>>, body: Body) -> Result<Body> {
    match (body, bodies) {
        (Body::File(file), Some(bodies)) => {
            let read = blocking(move || bodies.read(&file));
            read.await.map(Body::Bytes)
        }
        (body, Some(bodies)) => Ok(bodies.located(body)),
        (body, None) => Ok(body),
    }
}

pub(super) fn keep_all(keeper: &mut Keeper, batch: Vec<Append>) -> Result<Vec<Incoming>> {
    let mut incoming = Vec::with_capacity(batch.len());
    for mut append in batch {
        let body = std::mem::replace(&mut append.body, Body::Bytes(Bytes::new()));
        let body = keeper.keep_body(append.record.id, body)?;
        incoming.push(Incoming { append, body });
    }
    Ok(incoming)
}

pub(super) fn keep_answers(keeper: &mut Keeper, mut advance: Advance) -> Result<Step> {
    let mut answers = Vec::with_capacity(advance.settle.len());
    for settle in &mut advance.settle {
        let answer = settle.answer.take();
        answers.push(match answer {
            Some(answer) => keep_answer(keeper, settle.id, answer)?,
            None => None,
        });
    }
    let mut bodies = Vec::with_capacity(advance.fills.len());
    for fill in &mut advance.fills {
        let body = fill.body.take();
        let body = body.map(|body| keeper.keep_again(fill.record.id, body));
        bodies.push(body.transpose()?);
    }
    Ok(Step {
        advance,
        answers,
        bodies,
    })
}

/// On a full disk a result is worth more than its answer.
fn keep_answer(keeper: &mut Keeper, id: ActionId, answer: Bytes) -> Result<Option<Kept>> {
    match keeper.keep(id, FileKind::Answer, answer) {
        Err(error) if error.kind() == ErrorKind::StorageFull => {
            tracing::warn!(%id, %error, "an answer is not kept");
            Ok(None)
        }
        kept => kept.map(Some),
    }
}
