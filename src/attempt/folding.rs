//! A batch on its way out: its items read, folded by the app, and made into one request.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Outgoing;
use crate::action::{Batch, Body, Origin, Record, StoredRequest};
use crate::decide::{BatchItem, BatchProblem, BatchRequest, Batcher, Folded, KeyUse, TRACEPARENT};
use crate::error::{Error, ErrorKind, Result};
use crate::parts::{Batched, Parts};
use crate::payload::whole;
use crate::store::Leased;

/// Why a batch does not leave.
#[derive(Debug)]
pub(super) enum Unfolded {
    /// Its members go alone.
    Apart(BatchProblem),
    /// Nothing of it is wrong: the disk stands in its way.
    Later(Error),
}

impl From<BatchProblem> for Unfolded {
    fn from(problem: BatchProblem) -> Self {
        Self::Apart(problem)
    }
}

/// A batch that can be put on the wire.
pub(super) struct Folding<'a> {
    pub(super) batched: &'a Batched,
    pub(super) items: Vec<BatchItem>,
    pub(super) outgoing: Outgoing,
}

impl<'a> Folding<'a> {
    pub(super) async fn of(parts: &'a Parts, leased: &[Leased]) -> Result<Self, Unfolded> {
        let head = leased.first().ok_or(BatchProblem::Incomplete)?;
        let batch = head.batch().ok_or(BatchProblem::Incomplete)?;
        let is_whole = usize::try_from(batch.of).is_ok_and(|of| of == leased.len());
        let batched = parts.options.batchers.of(&head.record.lane);
        let batched = batched.filter(|_| is_whole);
        let batched = batched.ok_or(BatchProblem::Incomplete)?;
        let mut items = Vec::with_capacity(leased.len());
        for one in leased {
            let item = item(parts, one).await.map_err(unreadable)?;
            check_window(parts, one, &item)?;
            items.push(item);
        }
        let request = folded(&*batched.batcher, &items)?;
        let outgoing = outgoing(parts, &head.record, batch, request, &items)?;
        Ok(Self {
            batched,
            items,
            outgoing,
        })
    }
}

async fn item(parts: &Parts, leased: &Leased) -> Result<BatchItem> {
    let record = &leased.record;
    let request = StoredRequest::decode(&record.content)?;
    let body = whole(parts.store.clone(), leased.body.clone()).await?;
    if body.len() as u64 != record.body_bytes {
        let text = "the stored body has another length";
        return Err(Error::new(ErrorKind::Corrupt, text));
    }
    let key = record.effective_key();
    Ok(BatchItem::new(record.id, key, request, body))
}

fn unreadable(error: Error) -> Unfolded {
    match error.kind() {
        ErrorKind::Corrupt => BatchProblem::Unreadable.into(),
        _ => Unfolded::Later(error),
    }
}

/// Each may have happened, and is asked about alone.
fn check_window(parts: &Parts, leased: &Leased, item: &BatchItem) -> Result<(), BatchProblem> {
    let window = item.request.key_window.or(parts.options.key_window);
    let first = leased.record.first_attempt;
    let used = KeyUse::new(&item.request.method, leased.wire_before, first);
    match used.forgotten_since(window, parts.now()) {
        Some(_) => Err(BatchProblem::KeyForgotten),
        None => Ok(()),
    }
}

fn folded(batcher: &dyn Batcher, items: &[BatchItem]) -> Result<BatchRequest, BatchProblem> {
    match catch_unwind(AssertUnwindSafe(|| batcher.fold(items))) {
        Ok(Folded::Request(request)) => Ok(request),
        Ok(Folded::Singly) => Err(BatchProblem::Declined),
        Err(_) => Err(BatchProblem::Panicked),
    }
}

fn outgoing(
    parts: &Parts,
    head: &Record,
    batch: &Batch,
    folded: BatchRequest,
    items: &[BatchItem],
) -> Result<Outgoing, BatchProblem> {
    let BatchRequest {
        method,
        path,
        headers,
        body,
        timeout,
        expects_json,
        ..
    } = folded;
    let url = parts.options.join(&path).map_err(|e| unsendable(&e))?;
    let origin = Origin::of(&url).map_err(|e| unsendable(&e))?;
    let is_bare = url.username().is_empty() && url.password().is_none();
    if origin != head.origin || !is_bare {
        let detail = format!("it must go to {}, where its items go", head.origin);
        return Err(BatchProblem::Unsendable { detail });
    }
    let mut request = StoredRequest::new(method, url);
    request.headers = headers;
    request.timeout = timeout;
    request.expects_json = expects_json;
    continue_trace(&mut request, items);
    Ok(Outgoing {
        key: (!request.method.is_safe()).then(|| batch.key()),
        request,
        body: Body::Bytes(body),
        own_credentials: http::HeaderMap::new(),
        principal: head.principal.clone(),
        origin,
    })
}

/// The trace of the first item goes on in the batch, unless the app set one.
fn continue_trace(request: &mut StoredRequest, items: &[BatchItem]) {
    let first = items.first();
    let trace = first.and_then(|item| item.request.headers.get(TRACEPARENT));
    if let Some(trace) = trace {
        let trace = trace.clone();
        request.headers.entry(TRACEPARENT).or_insert(trace);
    }
}

fn unsendable(error: &Error) -> BatchProblem {
    let detail = error.to_string();
    BatchProblem::Unsendable { detail }
}
