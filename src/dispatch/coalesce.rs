//! Two requests with one coalescing key: what waits is read, the app's rule is asked in the caller's task, and the store does
//! what it said only to what it saw. Whatever goes wrong here keeps both.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use http::header::CONTENT_ENCODING;

use super::Desk;
use crate::action::{Body, Origin, Record, State, StoredRequest};
use crate::error::{ErrorKind, Result};
use crate::parts::{Base, CoalesceRule, Coalesced, Coalescing, Merge, WholeRequest};
use crate::payload::whole;
use crate::store::{Append, Appended, Direct, Find, Over, Then};

/// How often the rule is asked about what changes meanwhile. Each time somebody else got further.
const TRIES: u32 = 16;

/// The longest body that the rule is asked about.
const BODY_BYTES_MAX: u64 = 1024 * 1024;

/// What is known of what waits under a coalescing key.
enum Waiting {
    Nothing,
    /// It ended while it was looked at.
    Gone,
    /// No rule is asked about it.
    Unasked,
    Asked(Box<(Record, WholeRequest)>),
}

impl Desk {
    /// Gives an action to the store; with a rule of the app, after that was asked about what waits under its coalescing key.
    pub(super) async fn place(&self, mut append: Append) -> Result<Option<Appended>> {
        let rule = self.parts.options.coalesce_by.clone();
        let Some(rule) = rule.filter(|_| append.record.coalesce.is_some()) else {
            return self.put(append).await;
        };
        if let Some(newer) = newer_of(&append) {
            for _ in 0..TRIES {
                let Some(asked) = self.asked(&rule, &append, &newer).await? else {
                    continue;
                };
                let over = asked.over;
                match self.put(asked).await? {
                    // As it was seen: then it is not the last of its lane.
                    Some(Appended::NotOver { found }) if is_seen(over, found.as_ref()) => break,
                    Some(Appended::NotOver { .. }) => {}
                    done => return Ok(done),
                }
            }
        }
        append.over = Over::Nothing;
        self.put(append).await
    }

    pub(super) async fn put(&self, append: Append) -> Result<Option<Appended>> {
        let appended = self.parts.store.append(vec![append]).await?;
        Ok(appended.into_iter().next())
    }

    /// The append as the rule wants it; nothing when what waits has just gone.
    async fn asked(
        &self,
        rule: &CoalesceRule,
        append: &Append,
        newer: &WholeRequest,
    ) -> Result<Option<Append>> {
        let mut append = append.clone();
        let (old, waiting) = match self.waiting(&append.record).await? {
            Waiting::Gone => return Ok(None),
            Waiting::Nothing => {
                append.over = Over::Vacant;
                return Ok(Some(append));
            }
            Waiting::Unasked => {
                append.over = Over::Nothing;
                return Ok(Some(append));
            }
            Waiting::Asked(seen) => *seen,
        };
        let lane = append.record.lane.bare();
        let coalescing = Coalescing {
            key: append.record.coalesce.as_deref().unwrap_or_default(),
            lane: &lane,
            waiting: &waiting,
            newer,
        };
        let exactly = |then| Over::Exactly {
            id: old.id,
            revision: Some(old.revision),
            then,
        };
        append.over = match ask(rule, &coalescing) {
            Coalesced::TakeNew => exactly(Then::Supersede(crate::store::LanePlace::End)),
            Coalesced::CancelBoth => exactly(Then::CancelBoth),
            Coalesced::Merge(merge) if self.may_merge(&merge) => {
                let base = match merge.base {
                    Base::Waiting => &waiting.request,
                    Base::Newer => &newer.request,
                };
                let then = Then::Merge(merge.place);
                put_in(&mut append, base, merge.body, &old)?;
                exactly(then)
            }
            Coalesced::Merge(_) | Coalesced::KeepBoth => Over::Nothing,
        };
        Ok(Some(append))
    }

    fn may_merge(&self, merge: &Merge) -> bool {
        merge.body.len() as u64 <= self.parts.options.body_bytes_max
    }

    async fn waiting(&self, newer: &Record) -> Result<Waiting> {
        let store = &self.parts.store;
        let find = Find::Coalescing {
            lane: newer.lane.clone(),
            key: newer.coalesce.clone().unwrap_or_default(),
        };
        let Some(old) = store.get(find).await? else {
            return Ok(Waiting::Nothing);
        };
        let request = match StoredRequest::decode(&old.content) {
            // What it waits for would not be waited for any more.
            Ok(request) if old.parents.is_empty() && is_plain(&request, old.body_bytes) => request,
            _ => return Ok(Waiting::Unasked),
        };
        let Some(body) = store.body(old.id).await? else {
            return Ok(Waiting::Gone);
        };
        Ok(match whole(store.clone(), body).await {
            Ok(body) => Waiting::Asked(Box::new((old, WholeRequest::new(request, body)))),
            // Damaged, or gone meanwhile: who sends it finds out.
            Err(error) if error.kind() == ErrorKind::Corrupt => Waiting::Unasked,
            Err(error) => return Err(error),
        })
    }
}

/// The newer request; nothing when no rule is asked about it.
fn newer_of(append: &Append) -> Option<WholeRequest> {
    let Body::Bytes(body) = &append.body else {
        return None;
    };
    let record = &append.record;
    let request = StoredRequest::decode(&record.content).ok()?;
    let is_asked =
        record.attempts == 0 && record.parents.is_empty() && is_plain(&request, record.body_bytes);
    is_asked.then(|| WholeRequest::new(request, body.clone()))
}

fn is_plain(request: &StoredRequest, body_bytes: u64) -> bool {
    body_bytes <= BODY_BYTES_MAX && !request.headers.contains_key(CONTENT_ENCODING)
}

fn is_seen(over: Over, found: Option<&Record>) -> bool {
    match over {
        Over::Exactly { id, revision, .. } => {
            found.is_some_and(|found| found.id == id && Some(found.revision) == revision)
        }
        _ => false,
    }
}

fn ask(rule: &CoalesceRule, coalescing: &Coalescing<'_>) -> Coalesced {
    catch_unwind(AssertUnwindSafe(|| rule(coalescing))).unwrap_or_else(|_| {
        tracing::error!("the rule for coalescing panicked: both are kept");
        Coalesced::KeepBoth
    })
}

/// Makes the append one of the merged request. Its fingerprint stays: the caller's key stands for what the caller gave.
fn put_in(append: &mut Append, base: &StoredRequest, body: Bytes, old: &Record) -> Result<()> {
    let record = &mut append.record;
    record.content = base.encode()?.into();
    record.origin = Origin::of(&base.url)?;
    record.body_bytes = body.len() as u64;
    record.priority = record.priority.max(old.priority);
    record.attempts_max = record.attempts_max.max(old.attempts_max);
    record.expires = record.expires.zip(old.expires).map(|(a, b)| a.max(b));
    // What was tried waits for its backoff, not for a time that the app set.
    let not_before = old.due().filter(|_| old.attempts == 0);
    if let Some(due) = record.due() {
        let due = not_before.map_or(due, |old| old.max(due));
        record.state = State::Queued { due };
    }
    append.body = body.into();
    // What the caller would send at once is the request as it was.
    append.direct = Direct::No;
    Ok(())
}
