//! A server in memory, and the transport that leads to it. It answers by script, records every attempt, and
//! honours idempotency keys: a key that had its effect gets the same answer again and no second effect.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use http_body::Body as _;
use reqwest::{Response, ResponseBuilderExt, Url};

use crate::decide::{FailureKind, key_from_header};
use crate::transport::{Transport, TransportFailure, TransportFuture};

/// What the server does with one attempt. The default is a 200 at once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Reply {
    act: Act,
    headers: Vec<(String, String)>,
    body: Bytes,
    before: Duration,
    after: Duration,
    is_foreign: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Answers. A 2xx has its effect first.
    Answer(u16),
    /// The attempt does not reach the server, or breaks before it acts.
    Fail(FailureKind),
    /// The effect happens, and the answer is lost.
    ExecuteAndFail(FailureKind),
    /// Nothing comes, ever.
    Hang,
}

impl Reply {
    const fn of(act: Act) -> Self {
        Self {
            act,
            headers: Vec::new(),
            body: Bytes::new(),
            before: Duration::ZERO,
            after: Duration::ZERO,
            is_foreign: false,
        }
    }

    /// An answer with this status. A 2xx has its effect first, any other has none.
    pub const fn status(status: u16) -> Self {
        Self::of(Act::Answer(status))
    }

    /// The attempt fails before the server acts on it.
    pub const fn fails(kind: FailureKind) -> Self {
        Self::of(Act::Fail(kind))
    }

    /// The server is not there.
    pub const fn unreachable() -> Self {
        Self::fails(FailureKind::Connect)
    }

    /// The effect happens, and then the connection breaks before the answer.
    pub const fn lost() -> Self {
        Self::of(Act::ExecuteAndFail(FailureKind::Interrupted))
    }

    /// The attempt is swallowed: no effect and no answer, ever.
    pub const fn hangs() -> Self {
        Self::of(Act::Hang)
    }

    /// Adds a header to the answer.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The body of the answer.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Somebody answers in the server's place, a login page of a network, say: there is no effect, whatever the status.
    pub fn from_elsewhere(mut self) -> Self {
        self.is_foreign = true;
        self
    }

    /// The request is on its way for so long before the server acts.
    pub fn arrives_after(mut self, time: Duration) -> Self {
        self.before = time;
        self
    }

    /// The answer is on its way for so long after the server acted.
    pub fn answers_after(mut self, time: Duration) -> Self {
        self.after = time;
        self
    }
}

impl Default for Reply {
    fn default() -> Self {
        Self::status(200)
    }
}

/// One attempt, as the server saw it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// The whole URL.
    pub url: Url,
    /// The headers, as sent.
    pub headers: HeaderMap,
    /// The idempotency key, in either form.
    pub key: Option<String>,
    /// The body.
    pub body: Bytes,
    /// When it began: a tick of the server's own count of beginnings and endings.
    pub began: u64,
    /// When it ended, answered or not; nothing while it is under way.
    pub ended: Option<u64>,
}

impl Seen {
    /// The path of the URL.
    #[must_use]
    pub fn path(&self) -> &str {
        self.url.path()
    }
}

type Script = Box<dyn FnMut(&Seen) -> Reply + Send>;

#[derive(Default)]
struct Shop {
    usual: Reply,
    script: Option<Script>,
    next: VecDeque<Reply>,
    seen: Vec<Seen>,
    effects: Vec<usize>,
    by_key: HashMap<String, (usize, Reply)>,
    complaints: Vec<String>,
    ticks: u64,
}

/// A server in memory. Clones are the same server.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use syncvault::testing::{FakeServer, Reply};
/// use syncvault::transport::Transport;
///
/// let server = FakeServer::new();
/// server.answers_next(Reply::status(503).header("retry-after", "7"));
/// let request = reqwest::Request::new(reqwest::Method::POST, "http://fake.test/orders".parse()?);
/// let answer = server.transport().send(request).await?;
/// assert_eq!(answer.status(), 503);
/// assert_eq!((server.attempts().len(), server.effects().len()), (1, 0));
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct FakeServer {
    shop: Arc<Mutex<Shop>>,
}

impl FakeServer {
    /// A server that answers 200 to everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A way to it, for [`SyncVaultBuilder::transport`](crate::SyncVaultBuilder::transport).
    #[must_use]
    pub fn transport(&self) -> FakeTransport {
        FakeTransport {
            server: self.clone(),
        }
    }

    /// What it does from now on with everything that nothing else was said for.
    pub fn answers(&self, reply: Reply) {
        self.shop().usual = reply;
    }

    /// What it does with the next attempt that no script takes; call it again for the one after that.
    pub fn answers_next(&self, reply: Reply) {
        self.shop().next.push_back(reply);
    }

    /// Asks `script` about every attempt, before anything else that was said. It must not use this server.
    pub fn script(&self, script: impl FnMut(&Seen) -> Reply + Send + 'static) {
        self.shop().script = Some(Box::new(script));
    }

    /// Ends a script.
    pub fn end_script(&self) {
        self.shop().script = None;
    }

    /// Every attempt that began, in order.
    #[must_use]
    pub fn attempts(&self) -> Vec<Seen> {
        self.shop().seen.clone()
    }

    /// The attempts that had an effect, in the order of the effects. Replays of a key have none.
    #[must_use]
    pub fn effects(&self) -> Vec<Seen> {
        let shop = self.shop();
        let effects = shop.effects.iter();
        effects
            .filter_map(|at| shop.seen.get(*at).cloned())
            .collect()
    }

    /// What no correct client does: a key that came with another request than before.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.shop().complaints.clone()
    }

    /// Forgets every key, as servers do after a while: what comes again is new to it.
    pub fn forget_keys(&self) {
        self.shop().by_key.clear();
    }

    fn shop(&self) -> MutexGuard<'_, Shop> {
        self.shop.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for FakeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shop = self.shop();
        f.debug_struct("FakeServer")
            .field("attempts", &shop.seen.len())
            .field("effects", &shop.effects.len())
            .finish_non_exhaustive()
    }
}

impl Shop {
    fn begin(&mut self, mut seen: Seen) -> (usize, Reply) {
        self.ticks += 1;
        seen.began = self.ticks;
        let reply = match &mut self.script {
            Some(script) => script(&seen),
            None => self.next.pop_front().unwrap_or_else(|| self.usual.clone()),
        };
        self.seen.push(seen);
        (self.seen.len() - 1, reply)
    }

    /// Does what `reply` says; the reply it returns may be that of an earlier attempt with the same key.
    fn act(&mut self, at: usize, reply: Reply) -> Reply {
        let has_effect = match reply.act {
            Act::Answer(status) => (200..300).contains(&status) && !reply.is_foreign,
            Act::ExecuteAndFail(_) => true,
            Act::Fail(_) | Act::Hang => false,
        };
        let Some(seen) = self.seen.get(at).filter(|_| has_effect) else {
            return reply;
        };
        let known = seen.key.as_ref().and_then(|key| self.by_key.get(key));
        let Some((first, known)) = known else {
            if let Some(key) = seen.key.clone() {
                self.by_key.insert(key, (at, reply.clone()));
            }
            self.effects.push(at);
            return reply;
        };
        let is_same = self.seen.get(*first).is_some_and(|first| {
            (&first.method, &first.url, &first.body) == (&seen.method, &seen.url, &seen.body)
        });
        if !is_same {
            let text = format!("{} {} came with a used key", seen.method, seen.path());
            self.complaints.push(text);
            return Reply::status(422);
        }
        match (reply.act, known.act) {
            (Act::ExecuteAndFail(_), _) => reply,
            (_, Act::ExecuteAndFail(_)) => Reply::status(200),
            _ => known.clone(),
        }
    }
}

/// The way to a [`FakeServer`].
#[derive(Clone, Debug)]
pub struct FakeTransport {
    server: FakeServer,
}

impl Transport for FakeTransport {
    fn send(&self, request: reqwest::Request) -> TransportFuture<'_> {
        Box::pin(async move {
            let url = request.url().clone();
            let seen = seen(request).await?;
            let (at, reply) = self.server.shop().begin(seen);
            let _end = End {
                server: &self.server,
                at,
            };
            pause(reply.before).await;
            let reply = self.server.shop().act(at, reply);
            pause(reply.after).await;
            match reply.act {
                Act::Answer(status) => answer(status, &reply, url),
                Act::Fail(kind) | Act::ExecuteAndFail(kind) => Err(TransportFailure::new(kind)),
                Act::Hang => std::future::pending().await,
            }
        })
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// Notes the end of an attempt, also when its future is dropped.
struct End<'a> {
    server: &'a FakeServer,
    at: usize,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut shop = self.server.shop();
        shop.ticks += 1;
        let now = shop.ticks;
        if let Some(seen) = shop.seen.get_mut(self.at) {
            seen.ended = Some(now);
        }
    }
}

/// A request as a server gets it.
pub(in crate::testing) async fn seen(
    mut request: reqwest::Request,
) -> Result<Seen, TransportFailure> {
    let body = match request.body_mut().take() {
        Some(body) => whole(body).await?,
        None => Bytes::new(),
    };
    let key = request.headers().get("idempotency-key");
    Ok(Seen {
        key: key.and_then(|value| key_from_header(value).ok()),
        method: request.method().clone(),
        url: request.url().clone(),
        headers: request.headers().clone(),
        body,
        began: 0,
        ended: None,
    })
}

/// All of a body; one that breaks off was not received.
async fn whole(mut body: reqwest::Body) -> Result<Bytes, TransportFailure> {
    let mut whole = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame =
            frame.map_err(|e| TransportFailure::new(FailureKind::Interrupted).with_source(e))?;
        whole.extend(frame.into_data());
    }
    Ok(whole.freeze())
}

fn answer(status: u16, reply: &Reply, url: Url) -> Result<Response, TransportFailure> {
    let mut answer = http::Response::builder().status(status).url(url);
    for (name, value) in &reply.headers {
        answer = answer.header(name, value);
    }
    let whole = answer.body(reply.body.clone());
    whole
        .map(Response::from)
        .map_err(|e| TransportFailure::new(FailureKind::Other).with_source(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(key: &str, body: &'static str) -> reqwest::Request {
        let url = "http://fake.test/x".parse().expect("url");
        let mut request = reqwest::Request::new(Method::POST, url);
        let value = key.parse().expect("value");
        request.headers_mut().insert("idempotency-key", value);
        *request.body_mut() = Some(body.into());
        request
    }

    #[tokio::test]
    async fn a_key_has_its_effect_once() {
        let server = FakeServer::new();
        let transport = server.transport();
        server.answers_next(Reply::lost());
        let lost = transport.send(post("k", "a")).await.expect_err("lost");
        assert_eq!(lost.kind(), FailureKind::Interrupted);
        let again = transport.send(post("k", "a")).await.expect("answer");
        assert_eq!(again.status(), 200);
        assert_eq!((server.attempts().len(), server.effects().len()), (2, 1));
        assert!(server.complaints().is_empty());
    }

    #[tokio::test]
    async fn a_used_key_with_another_body_is_a_complaint() {
        let server = FakeServer::new();
        let transport = server.transport();
        transport.send(post("k", "a")).await.expect("answer");
        let other = transport.send(post("k", "b")).await.expect("answer");
        assert_eq!(other.status(), 422);
        assert_eq!((server.effects().len(), server.complaints().len()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_attempt_has_an_end() {
        let server = FakeServer::new();
        server.answers(Reply::hangs());
        let transport = server.transport();
        let patience = Duration::from_secs(9);
        let sent = tokio::time::timeout(patience, transport.send(post("k", "a"))).await;
        assert!(sent.is_err());
        let seen = server.attempts();
        assert!(seen[0].ended > Some(seen[0].began));
    }
}
