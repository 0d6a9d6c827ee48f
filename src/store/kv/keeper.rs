//! Values on their way to and from files: what is large is brought there by the caller, so that the queue
//! never waits for it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::advance::Step;
use super::append::Incoming;
use super::records::Kept;
use crate::action::{ActionId, Body};
use crate::error::{Error, Result};
use crate::store::bodies::{Bodies, FileKind, INLINE_BYTES_MAX};
use crate::store::{Advance, Append};

/// Does a command carry a value that belongs into a file?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Small,
    Large,
}

impl Size {
    pub(super) fn of(mut lengths: impl Iterator<Item = u64>) -> Self {
        if lengths.any(|length| length > INLINE_BYTES_MAX) {
            Self::Large
        } else {
            Self::Small
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
            Some(bodies) if value.len() as u64 > INLINE_BYTES_MAX => {
                let file = bodies.write(id, kind, &value)?;
                self.written.push(file.name.clone());
                Ok(Kept::File(file))
            }
            _ => Ok(Kept::Inline(value)),
        }
    }

    pub(super) fn sync(&self) -> Result<()> {
        match &self.bodies {
            Some(bodies) if !self.written.is_empty() => bodies.sync(),
            _ => Ok(()),
        }
    }

    pub(super) fn undo(&self) {
        if let Some(bodies) = &self.bodies {
            self.written.iter().for_each(|name| bodies.remove(name));
        }
    }
}

pub(super) fn run_blocking(start: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(start)),
        Err(_) => drop(std::thread::spawn(start)),
    }
}

/// Brings a value from its file into memory. One that is damaged stays what it is: the check before it is sent
/// finds that, and the action becomes a dead letter with its reason.
pub(super) async fn fetch(bodies: Option<Arc<Bodies>>, body: Body) -> Result<Body> {
    let (Body::File(file), Some(bodies)) = (&body, bodies) else {
        return Ok(body);
    };
    let (reply, answer) = oneshot::channel();
    let name = file.clone();
    // The caller may be gone by then.
    run_blocking(move || drop(reply.send(bodies.read(&name))));
    answer.await.map_err(|_| Error::closed())?.map(Body::Bytes)
}

pub(super) fn keep_all(keeper: &mut Keeper, batch: Vec<Append>) -> Result<Vec<Incoming>> {
    let mut incoming = Vec::with_capacity(batch.len());
    for mut append in batch {
        let body = match std::mem::replace(&mut append.body, Body::Bytes(Bytes::new())) {
            Body::Bytes(bytes) => keeper.keep(append.record.id, FileKind::Body, bytes)?,
            Body::File(_) => Kept::Inline(Bytes::new()),
        };
        incoming.push(Incoming { append, body });
    }
    Ok(incoming)
}

pub(super) fn keep_answers(keeper: &mut Keeper, mut advance: Advance) -> Result<Step> {
    let mut answers = Vec::with_capacity(advance.settle.len());
    for settle in &mut advance.settle {
        let answer = settle.answer.take();
        let kept = answer.map(|answer| keeper.keep(settle.id, FileKind::Answer, answer));
        answers.push(kept.transpose()?);
    }
    Ok(Step { advance, answers })
}
