//! A read and the cache: what the cache can give in the place of an answer, what lets the server say "not modified", and what is
//! kept of an answer. The cache never stands in the way: when the store fails here, the request goes on without it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use reqwest::{Response, ResponseBuilderExt, Url};

use super::{Desk, Draft, Outcome};
use crate::action::{Record, StoredRequest};
use crate::attempt::{Exchange, Outgoing};
use crate::clock::Timestamp;
use crate::decide::{
    AnswerHead, Given, Moments, Plan, Settlement, Terms, Trouble, is_cacheable, is_storable,
};
use crate::error::Result;
use crate::parts::cached::{Asking, CacheCounts, CacheOptions, WhenFresh, resource_of};
use crate::parts::{Parts, metrics};
use crate::payload::KeptBody;
use crate::store::{CacheChange, CacheEntry, CacheKey, CacheTarget, Cached};
use crate::transport::copied;

/// What the cache is to one request; nothing to most.
pub(super) struct Cache(Option<Arc<Inquiry>>);

struct Inquiry {
    parts: Arc<Parts>,
    options: CacheOptions,
    request: StoredRequest,
    target: CacheTarget,
    max_stale: Duration,
    when_fresh: WhenFresh,
    /// Does the caller take a cached answer?
    is_taken: bool,
    asked: Timestamp,
    asking: Asking,
    found: Option<Found>,
}

/// The cached answer to it.
struct Found {
    head: AnswerHead,
    stale_since: Option<Timestamp>,
}

impl Cache {
    /// Looks for what is cached. Not for a principal that is not active, nor for a request that brings credentials of its own.
    pub(super) async fn of(parts: &Arc<Parts>, draft: &Draft, body: &KeptBody) -> Self {
        let Some(options) = parts.cache.options.clone() else {
            return Self(None);
        };
        let request = &draft.request;
        let is_for_cache = draft.own_credentials.is_empty()
            && body.body.is_empty()
            && is_cacheable(&request.method, &request.headers)
            && parts.is_active(draft.principal.as_deref());
        if !is_for_cache {
            return Self(None);
        }
        let query = request.url.query().unwrap_or_default().to_owned();
        let target = CacheTarget::new(draft.principal.clone(), resource_of(&request.url), query);
        let mut inquiry = Inquiry {
            parts: parts.clone(),
            max_stale: draft.cache.max_stale.unwrap_or(options.max_stale),
            when_fresh: draft.cache.when_fresh.unwrap_or(options.when_fresh),
            is_taken: draft.cache.is_taken,
            options,
            request: request.clone(),
            asked: parts.now(),
            asking: parts.cache.ask(&target),
            target,
            found: None,
        };
        parts.cache.until_kept(&inquiry.target).await;
        match inquiry.look().await {
            Ok(found) => inquiry.found = found,
            Err(error) => tracing::debug!(%error, "the cache cannot be read"),
        }
        Self(Some(Arc::new(inquiry)))
    }

    /// What is fresh, when that is enough for the caller.
    pub(super) async fn fresh(&self) -> Option<Outcome<Duration>> {
        let inquiry = self.0.as_ref()?;
        let found = inquiry.found.as_ref()?;
        let is_enough = inquiry.when_fresh == WhenFresh::Answer
            && found.head.is_fresh(&inquiry.terms(found), inquiry.asked);
        match is_enough {
            true => inquiry.give().await,
            false => None,
        }
    }

    /// What may be given when there is no answer of the server.
    pub(super) async fn instead(&self) -> Option<Outcome<Duration>> {
        self.in_trouble(Trouble::Away).await
    }

    /// What may be given in the place of what an attempt came to, when that is nothing to give.
    pub(super) async fn instead_of(
        &self,
        plan: &Plan,
        exchange: &Exchange,
    ) -> Option<Outcome<Duration>> {
        if !matches!(plan.settlement, Settlement::Retry { .. }) {
            return None;
        }
        match exchange.result.as_ref().map(Response::status) {
            Ok(_) if plan.portal.is_some() => self.instead().await,
            // A 401, say, is no trouble of the server's.
            Ok(status) if !is_trouble(status) => None,
            Ok(status) => self.in_trouble(Trouble::Answered(status.as_u16())).await,
            Err(_) => self.instead().await,
        }
    }

    async fn in_trouble(&self, trouble: Trouble) -> Option<Outcome<Duration>> {
        let inquiry = self.0.as_ref()?;
        let found = inquiry.found.as_ref()?;
        let (terms, now) = (inquiry.terms(found), inquiry.parts.now());
        match found.head.is_usable(&terms, trouble, now) {
            true => inquiry.give().await,
            false => None,
        }
    }

    /// The answer as the caller gets it. What may be kept of it is, once it was read.
    pub(super) fn keep(self, response: Response) -> Response {
        match self.0 {
            Some(inquiry) if response.extensions().get::<FromCache>().is_none() => {
                inquiry.keep(response)
            }
            _ => response,
        }
    }
}

impl Inquiry {
    fn terms(&self, found: &Found) -> Terms<'_> {
        Terms {
            request: &self.request.headers,
            max_stale: self.max_stale,
            stale_since: found.stale_since,
        }
    }

    /// The newest of the answers that were chosen by what this request says.
    async fn look(&self) -> Result<Option<Found>> {
        let heads = self.parts.store.cached(self.target.clone()).await?;
        let found = heads.into_iter().filter_map(|cached| {
            let head = AnswerHead::decode(&cached.head)?;
            let stale_since = cached.stale_since;
            let is_own = head.variant == cached.variant && head.is_for(&self.request.headers);
            is_own.then_some(Found { head, stale_since })
        });
        Ok(found.max_by_key(|found| found.head.at()))
    }

    fn key_of(&self, head: &AnswerHead) -> CacheKey {
        CacheKey::new(self.target.clone(), head.variant.clone())
    }

    /// Not to a caller that did not ask for it, and not once its principal is no longer the active one.
    async fn give(&self) -> Option<Outcome<Duration>> {
        let found = self.found.as_ref()?;
        let principal = self.target.principal.as_deref();
        if !self.is_taken || !self.parts.is_active(principal) {
            return None;
        }
        let body = self.body_of(&found.head).await?;
        let bytes = body.len() as u64;
        let now = self.parts.now();
        let age = found.head.age(now);
        let response = self.response(&found.head, body, Given::Hit)?;
        CacheCounts::count(&self.parts.cache.counts.given);
        metrics::cached("given", bytes);
        Some(Outcome::Cached(response, age))
    }

    /// Nothing when it is gone, or was replaced meanwhile.
    async fn body_of(&self, head: &AnswerHead) -> Option<Bytes> {
        let key = self.key_of(head);
        let body = match self.parts.store.cached_body(key.clone()).await {
            Ok(body) => body?,
            Err(error) => {
                tracing::debug!(%error, "the cache cannot be read");
                return None;
            }
        };
        self.parts.cache.note_used(key, self.parts.now());
        head.has_body(&body).then_some(body)
    }

    fn response(&self, head: &AnswerHead, body: Bytes, how: Given) -> Option<Response> {
        let body = match self.request.method == Method::HEAD {
            true => Bytes::new(),
            false => body,
        };
        let url = self.request.url.clone();
        let response = http::Response::builder().status(head.status()).url(url);
        let mut response = response.body(body).ok()?;
        let headers = head.given(&self.request.headers, self.parts.now(), how);
        *response.headers_mut() = headers;
        response.extensions_mut().insert(FromCache);
        Some(response.into())
    }

    /// After a 304: what is cached, renewed. Nothing when that cannot be given.
    async fn revalidated(self: &Arc<Self>, told: &HeaderMap) -> Option<Response> {
        let found = self.found.as_ref()?;
        let moments = Moments {
            asked: self.asked,
            at: self.parts.now(),
        };
        let head = found.head.refreshed(told, moments)?;
        let body = self.body_of(&head).await?;
        let bytes = body.len() as u64;
        let response = self.response(&head, body, Given::Revalidated)?;
        CacheCounts::count(&self.parts.cache.counts.revalidated);
        metrics::cached("revalidated", bytes);
        let status = head.status().as_u16();
        let may_be_kept = is_storable(&self.request.headers, status, head.headers());
        let (inquiry, turn) = (self.clone(), self.parts.cache.begin_keeping(&self.target));
        in_task(async move {
            match may_be_kept {
                true => inquiry.write(&head, None).await,
                false => inquiry.drop_found().await,
            }
            drop(turn);
        });
        Some(response)
    }

    fn keep(self: Arc<Self>, response: Response) -> Response {
        let (status, headers) = (response.status(), response.headers());
        let request = &self.request.headers;
        let is_own = same_url(response.url(), &self.request.url);
        if self.request.method != Method::GET || !is_own {
            return response;
        }
        let moments = Moments {
            asked: self.asked,
            at: self.parts.now(),
        };
        let head = match is_storable(request, status.as_u16(), headers) {
            true => AnswerHead::new(request, status, headers, moments),
            false => None,
        };
        let Some(head) = head else {
            // What was kept before is not what the server says now.
            if status != StatusCode::NOT_MODIFIED && !status.is_server_error() {
                let turn = self.parts.cache.begin_keeping(&self.target);
                in_task(async move {
                    self.drop_found().await;
                    drop(turn);
                });
            }
            return response;
        };
        let bytes_max = self.options.body_bytes_max();
        copied(response, bytes_max, move |body| {
            let turn = self.parts.cache.begin_keeping(&self.target);
            in_task(async move {
                self.write(&head.with_body(&body), Some(body)).await;
                drop(turn);
            });
        })
    }

    async fn write(&self, head: &AnswerHead, body: Option<Bytes>) {
        let bytes = body.as_ref().map_or(0, Bytes::len) as u64;
        match self.try_write(head, body).await {
            Ok(true) => {
                CacheCounts::count(&self.parts.cache.counts.kept);
                metrics::cached("kept", bytes);
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "an answer is not cached"),
        }
    }

    async fn try_write(&self, head: &AnswerHead, body: Option<Bytes>) -> Result<bool> {
        let parts = &self.parts;
        let encoded = head.encode()?;
        if encoded.len() > CacheEntry::HEAD_BYTES_MAX || self.is_forgotten() {
            return Ok(false);
        }
        let mut entry = CacheEntry::new(self.key_of(head), encoded.into(), body, parts.now());
        entry.bytes_max = self.options.bytes_max;
        entry.used = parts.cache.take_used();
        // Once it is kept, what is written marks it in the store.
        let mut is_overtaken = self.asking.is_overtaken();
        entry.stale_since = is_overtaken.then_some(entry.now);
        let mut done = Cached::More;
        while done == Cached::More {
            let change = CacheChange::Keep(Box::new(entry.clone()));
            done = parts.store.cache(change).await?;
            entry.used.clear();
        }
        if !is_overtaken {
            is_overtaken = self.asking.is_overtaken();
            if is_overtaken {
                let (resources, now) = (vec![self.target.resource.clone()], parts.now());
                let mark = CacheChange::Stale { resources, now };
                parts.store.cache(mark).await?;
            }
        }
        if self.is_forgotten() {
            let drop = CacheChange::Drop(entry.key);
            parts.store.cache(drop).await?;
        }
        Ok(done == Cached::Done)
    }

    /// Was the principal forgotten since this was asked?
    fn is_forgotten(&self) -> bool {
        self.target.principal.is_some() && self.asking.is_forgotten()
    }

    async fn drop_found(&self) {
        let Some(found) = &self.found else {
            return;
        };
        let drop = CacheChange::Drop(self.key_of(&found.head));
        if let Err(error) = self.parts.store.cache(drop).await {
            tracing::debug!(%error, "a cached answer is not dropped");
        }
    }
}

/// Without the fragment, which is not sent.
fn same_url(one: &Url, other: &Url) -> bool {
    let bare = |url: &Url| {
        let mut url = url.clone();
        url.set_fragment(None);
        url
    };
    bare(one) == bare(other)
}

/// Marks a response that is not to be kept: it was.
#[derive(Clone)]
struct FromCache;

/// Does the server, or something before it, not serve now?
fn is_trouble(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429)
}

/// For work that nobody waits for. Without a runtime nothing is done: a cache may be lost.
fn in_task(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(work);
    }
}

impl Desk {
    /// As [`try_once`](Self::try_once); the server may say that what is cached has not changed, and that is the answer then.
    pub(super) async fn try_with(
        &self,
        record: Record,
        outgoing: &Outgoing,
        cache: &Cache,
    ) -> (Record, Plan, Exchange) {
        let mut conditional = outgoing.clone();
        let inquiry = cache.0.as_ref();
        let found = inquiry.and_then(|inquiry| inquiry.found.as_ref());
        let is_set =
            found.is_some_and(|found| found.head.set_conditions(&mut conditional.request.headers));
        let Some(inquiry) = inquiry.filter(|_| is_set) else {
            return self.try_once(record, outgoing).await;
        };
        let (record, plan, mut exchange) = self.try_once(record, &conditional).await;
        let told = match &exchange.result {
            Ok(response) if response.status() == StatusCode::NOT_MODIFIED => response.headers(),
            _ => return (record, plan, exchange),
        };
        match inquiry.revalidated(told).await {
            Some(response) => {
                exchange.result = Ok(response);
                (record, plan, exchange)
            }
            None => self.try_once(record, outgoing).await,
        }
    }

    /// Something was sent that is on no disk: what is cached of it is stale.
    pub(super) async fn note_written(&self, outgoing: &Outgoing, plan: &Plan, exchange: &Exchange) {
        let resources = self
            .parts
            .cache
            .written(&outgoing.request, plan.wire, exchange.head());
        if resources.is_empty() {
            return;
        }
        let now = self.parts.now();
        let mark = CacheChange::Stale { resources, now };
        if let Err(error) = self.parts.store.cache(mark).await {
            tracing::warn!(%error, "what is cached of a changed resource may be given yet");
        }
    }
}
