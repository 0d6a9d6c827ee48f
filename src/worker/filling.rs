//! Children whose parents are delivered: what they refer to is read and filled in, a page at a time, for the next step to write.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Worker;
use crate::action::{ActionId, Answer, DeadReason, Origin, Record, Slot, StoredRequest};
use crate::decide::{Answered, Filled, Unresolved, fill};
use crate::error::{Error, ErrorKind, Result};
use crate::parts::Parts;
use crate::payload::whole;
use crate::store::{Fill, Find};

/// How much of bodies one step fills in, and how much of answers is held meanwhile.
const BYTES_MAX: usize = 1024 * 1024;

/// Answers that were read, for as long as they are wanted by one child after the other.
#[derive(Default)]
struct Answers {
    read: BTreeMap<ActionId, Answered>,
    bytes: usize,
}

impl Answers {
    async fn want(&mut self, parts: &Parts, ids: &[ActionId]) -> Result<()> {
        if self.bytes > BYTES_MAX {
            *self = Self::default();
        }
        for id in ids {
            if !self.read.contains_key(id) {
                let answered = read(parts, *id).await?;
                let body = answered.answer.as_ref().map(|answer| answer.body.len());
                self.bytes += body.unwrap_or_default();
                self.read.insert(*id, answered);
            }
        }
        Ok(())
    }
}

async fn read(parts: &Parts, id: ActionId) -> Result<Answered> {
    let record = kept(parts.store.get(Find::Id(id)).await)?;
    let request = record.and_then(|record| StoredRequest::decode(&record.content).ok());
    let answer = kept(parts.store.answer(id).await)?;
    let answer = answer.and_then(|bytes| Answer::decode(bytes).ok());
    Ok(Answered::new(request.map(|request| request.url), answer))
}

/// What cannot be read for damage is not there.
fn kept<T>(read: Result<Option<T>>) -> Result<Option<T>> {
    match read {
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        read => read,
    }
}

impl Worker {
    /// Fills in what the store gave out. What is left comes again with the next step.
    pub(super) async fn fill(&mut self, unfilled: Vec<Record>) -> Result<()> {
        let (mut answers, mut bytes) = (Answers::default(), 0);
        for record in unfilled {
            if bytes > BYTES_MAX || self.stopping.is_some() {
                break;
            }
            answers.want(&self.parts, &record.needs).await?;
            let fill = filled(&self.parts, record, &answers.read).await?;
            bytes += fill.body.as_ref().map_or(0, body_len);
            self.fills.push(fill);
        }
        if !self.fills.is_empty() {
            self.is_hungry = true;
            self.parts.wake.notify_one();
        }
        Ok(())
    }
}

fn body_len(body: &crate::action::Body) -> usize {
    usize::try_from(body.len()).unwrap_or(usize::MAX)
}

async fn filled(
    parts: &Parts,
    record: Record,
    answers: &BTreeMap<ActionId, Answered>,
) -> Result<Fill> {
    match fill_in(parts, &record, answers).await {
        Ok(Made::Whole(fill)) => Ok(*fill),
        Ok(Made::Unresolved(unresolved)) => {
            let mut fill = Fill::new(record);
            fill.record.last_error = Some(unresolved.to_string());
            fill.dead = Some(DeadReason::Unresolved {
                parent: unresolved.parent,
                detail: unresolved.why.to_owned(),
            });
            Ok(fill)
        }
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(unusable(record, &error)),
        Err(error) => Err(error),
    }
}

enum Made {
    Whole(Box<Fill>),
    Unresolved(Unresolved),
}

async fn fill_in(
    parts: &Parts,
    record: &Record,
    answers: &BTreeMap<ActionId, Answered>,
) -> Result<Made> {
    let request = StoredRequest::decode(&record.content)?;
    let mut slots = request.references.iter().map(|reference| &reference.into);
    let is_body = slots.any(|slot| matches!(slot, Slot::Json(_)));
    let body = match is_body {
        true => body_of(parts, record.id).await?,
        false => Bytes::new(),
    };
    let Filled { request, body, .. } = match fill(&request, body, answers) {
        Ok(filled) => filled,
        Err(unresolved) => return Ok(Made::Unresolved(unresolved)),
    };
    let origin = Origin::of(&request.url).and_then(|origin| {
        parts.options.allows(&origin)?;
        Ok(origin)
    });
    let Ok(origin) = origin else {
        return Ok(Made::Unresolved(elsewhere(record, &request)));
    };
    let mut fill = Fill::new(record.clone());
    fill.record.content = request.encode()?.into();
    fill.record.origin = origin;
    if is_body {
        fill.record.body_bytes = body.len() as u64;
        fill.body = Some(body.into());
    }
    Ok(Made::Whole(Box::new(fill)))
}

async fn body_of(parts: &Parts, id: ActionId) -> Result<Bytes> {
    match parts.store.body(id).await? {
        Some(body) => whole(parts.store.clone(), body).await,
        None => Err(Error::new(ErrorKind::Corrupt, "its body is gone")),
    }
}

/// The request goes to no origin that the app did not allow, whatever a server says.
fn elsewhere(record: &Record, request: &StoredRequest) -> Unresolved {
    let parent = record.needs.first().copied().unwrap_or(record.id);
    let what = format!("the URL, of the host {:?}", request.url.host_str());
    let why = "the value leads to an origin that is not allowed";
    Unresolved::new(parent, why, what)
}

fn unusable(record: Record, error: &Error) -> Fill {
    tracing::error!(action = %record.id, %error, "an action cannot be filled in");
    let detail = error.to_string();
    let mut fill = Fill::new(record);
    fill.dead = Some(DeadReason::Unsendable { detail });
    fill
}
