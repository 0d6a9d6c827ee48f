//! The way to the server: links that fail, requests that are cut, doubled or late, and what stands in the server's
//! place. A request that is on its way reaches the server whether its sender still lives or not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use reqwest::{Response, ResponseBuilderExt, Url};

use super::history::Call;
use super::plan::ORIGINS;
use super::report::Promise;
use super::server::{OWN, Reply};
use super::trouble::Trouble;
use super::world::{State, World};
use crate::action::Origin;
use crate::connectivity::{Connectivity, NetworkChange, NetworkChanges, ProbeFuture, Reach};
use crate::decide::{FailureKind, key_from_header};
use crate::dispatch::Delivery;
use crate::transport::{Transport, TransportFailure, TransportFuture};

/// How long the client waits for an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A request that was let go before the server asked for a pause may arrive so much later.
const SLACK: Duration = Duration::from_secs(5);

/// The state of the way to an origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    #[default]
    Up,
    Refused,
    NoName,
    BlackHole,
    /// Somebody else answers.
    Portal(Portal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Portal {
    Page,
    Redirect,
    LoginNeeded,
}

/// An origin asked for a pause.
#[derive(Clone, Copy, Debug)]
struct Wait {
    since: Duration,
    until: Duration,
    call: usize,
    /// The vault told of it: it is on disk.
    is_kept: bool,
}

#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) links: [Link; ORIGINS.len()],
    waits: [Option<Wait>; ORIGINS.len()],
    /// Requests that nobody waits for any more.
    late: BTreeMap<(Duration, usize), Sent>,
    sent: usize,
}

/// A request on the wire.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) call: usize,
    pub(super) origin: usize,
    pub(super) key: Option<String>,
    pub(super) method: Method,
    pub(super) body: Bytes,
    pub(super) token: Option<String>,
}

/// What becomes of an attempt.
#[derive(Clone, Debug)]
struct Course {
    /// When the server gets it.
    acts_after: Option<Duration>,
    ends_after: Duration,
    ending: Ending,
    /// It goes on to the server when its sender lets go.
    goes_on: bool,
    is_cut: bool,
}

#[derive(Clone, Debug)]
enum Ending {
    Answered,
    Foreign(Portal),
    Fails(FailureKind),
}

impl Network {
    pub(super) fn forget_waits(&mut self) {
        for wait in &mut self.waits {
            wait.take_if(|wait| !wait.is_kept);
        }
    }

    pub(super) fn forget_all_waits(&mut self) {
        self.waits = Default::default();
    }

    /// The vault told that this request is put off: what the server asked for is on disk.
    pub(super) fn keep_waits_of(&mut self, call: usize) {
        for wait in self.waits.iter_mut().flatten() {
            wait.is_kept |= wait.call == call;
        }
    }

    fn keep_going(&mut self, at: Duration, sent: Sent) {
        self.sent += 1;
        self.late.insert((at, self.sent), sent);
    }

    fn take_late(&mut self, now: Duration) -> Option<Sent> {
        let first = self.late.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

impl State {
    /// The server gets what is late.
    pub(super) fn deliver_late(&mut self, now: Duration) {
        while let Some(sent) = self.network.take_late(now) {
            self.act(&sent);
        }
    }

    fn begin(&mut self, sent: &Sent, now: Duration) -> (usize, Course) {
        self.deliver_late(now);
        let life = self.life;
        let nth = self.history.attempt(sent.call, sent.key.clone(), life);
        let course = self.course(sent);
        let never_arrives = match &course.ending {
            Ending::Fails(kind) => kind.never_left(),
            Ending::Foreign(portal) => portal.reply().status == 511,
            Ending::Answered => false,
        };
        if let Some(attempt) = self.history.attempts.last_mut() {
            attempt.never_arrives = never_arrives;
        }
        if course.acts_after.is_some() && self.strikes(Trouble::Duplicate, 4) {
            let later = now + self.dice.millis(0, 20_000);
            self.network.keep_going(later, sent.clone());
        }
        (nth, course)
    }

    /// Does this kind of trouble come now?
    pub(super) fn strikes(&mut self, trouble: Trouble, chance: u64) -> bool {
        let is_it = !self.is_healed && self.plan.has(trouble) && self.dice.percent(chance);
        if is_it {
            self.injected.count(trouble);
        }
        is_it
    }

    fn course(&mut self, sent: &Sent) -> Course {
        let fails = |kind, after| Course {
            acts_after: None,
            ends_after: after,
            ending: Ending::Fails(kind),
            goes_on: false,
            is_cut: false,
        };
        let there = self.dice.millis(1, 120);
        let back = self.dice.millis(1, 120);
        match self.network.links[sent.origin] {
            Link::Refused => return fails(FailureKind::Connect, there),
            Link::NoName => return fails(FailureKind::Dns, there),
            Link::BlackHole => return fails(FailureKind::ConnectTimeout, CONNECT_TIMEOUT),
            Link::Portal(portal) => {
                return Course {
                    ending: Ending::Foreign(portal),
                    ..fails(FailureKind::Other, there)
                };
            }
            Link::Up => {}
        }
        if self.strikes(Trouble::Shortage, 3) {
            return fails(FailureKind::Local, Duration::from_millis(1));
        }
        if self.strikes(Trouble::RequestCut, 6) {
            return fails(FailureKind::Interrupted, there);
        }
        let mut course = Course {
            acts_after: Some(there),
            ends_after: there + back,
            ending: Ending::Answered,
            goes_on: self.dice.percent(50),
            is_cut: self.strikes(Trouble::AnswerCut, 4),
        };
        if self.strikes(Trouble::AnswerLost, 8) {
            course.ending = Ending::Fails(FailureKind::Interrupted);
        }
        if self.strikes(Trouble::Slow, 6) {
            let slow = self.dice.millis(500, 60_000);
            course.goes_on = true;
            if self.dice.percent(50) {
                course.acts_after = Some(there + slow);
            }
            course.ends_after = there + slow + back;
        }
        if course.ends_after > READ_TIMEOUT {
            course.ends_after = READ_TIMEOUT;
            course.ending = Ending::Fails(FailureKind::Timeout);
        }
        course
    }

    /// What the sender learns of it.
    fn learn(&mut self, sent: &Sent, now: Duration, reply: &Reply) {
        if let Some(call) = self.history.calls.get_mut(sent.call) {
            call.statuses.insert(reply.status);
            let is_countable = matches!(reply.status, 408 | 409 | 423 | 425 | 500..=599);
            call.countable += u32::from(is_countable && reply.status != 511);
        }
        if let (Some(seconds), 429 | 503) = (reply.retry_after, reply.status) {
            let until = now + Duration::from_secs(seconds);
            let wait = &mut self.network.waits[sent.origin];
            if wait.is_none_or(|wait| wait.until < until) {
                *wait = Some(Wait {
                    since: now,
                    until,
                    call: sent.call,
                    is_kept: false,
                });
            }
        }
    }

    fn learn_failure(&mut self, sent: &Sent, kind: FailureKind) {
        let counts = matches!(kind, FailureKind::Timeout | FailureKind::Interrupted);
        if let Some(call) = self.history.calls.get_mut(sent.call) {
            call.countable += u32::from(counts);
        }
    }
}

/// The way from the vault to the servers of a run.
#[derive(Clone, Debug)]
pub(super) struct WorldTransport(pub(super) Arc<World>);

impl Transport for WorldTransport {
    fn send(&self, request: reqwest::Request) -> TransportFuture<'_> {
        Box::pin(async move {
            let world = &self.0;
            world.stop_if_crashed().await;
            let url = request.url().clone();
            let sent = Sent::of(&request).ok_or_else(|| failure(FailureKind::Invalid))?;
            world.check_begin(&sent);
            let (nth, course) = world.state().begin(&sent, world.elapsed());
            world.note(format_args!("attempt {nth} of {} begins", sent.call));
            let began = world.elapsed();
            let mut flight = Flight {
                world,
                nth,
                acts_at: course.acts_after.map(|after| began + after),
                sent: &sent,
                goes_on: course.goes_on,
            };
            let acts_after = course.acts_after.filter(|at| *at <= course.ends_after);
            let reply = match acts_after {
                Some(after) => {
                    tokio::time::sleep(after).await;
                    world.stop_if_crashed().await;
                    flight.acts_at = None;
                    Some(world.state().act(&sent))
                }
                None => None,
            };
            tokio::time::sleep(course.ends_after.saturating_sub(world.elapsed() - began)).await;
            world.stop_if_crashed().await;
            flight.end(&course.ending, reply, url, course.is_cut)
        })
    }
}

impl World {
    /// What must hold when an attempt begins.
    fn check_begin(&self, sent: &Sent) {
        let now = self.elapsed();
        let state = self.state();
        let mut broken = Vec::new();
        let nth = sent.call;
        if let Some(call) = state.history.calls.get(nth) {
            if call.principal.is_some() && call.principal != state.active {
                let text = format!(
                    "{nth} of {:?} leaves while it is not active",
                    call.principal
                );
                broken.push((Promise::Unexpected, text));
            }
            let owner = sent
                .token
                .as_deref()
                .and_then(|token| token.split('-').next());
            if owner.is_some_and(|owner| owner != call.principal.unwrap_or("nobody")) {
                let text = format!("{nth} of {:?} leaves as {owner:?}", call.principal);
                broken.push((Promise::Unexpected, text));
            }
            if call.body != sent.body || call.method != sent.method {
                broken.push((
                    Promise::DoubleEffect,
                    format!("{nth} leaves with other bytes"),
                ));
            }
        }
        // The app may ask for one try now, whatever the server said.
        // And a 401 is answered inside one attempt, which the gate let out before.
        let is_demanded =
            |call: &Call| call.delivery == Some(Delivery::Never) || call.statuses.contains(&401);
        if let Some(wait) = state.network.waits[sent.origin]
            && !state.history.calls.get(nth).is_some_and(is_demanded)
            && wait.since + SLACK < now
            && now < wait.until
        {
            let text = format!(
                "{nth} leaves {:?} before its origin wants it",
                wait.until - now
            );
            broken.push((Promise::Early, text));
        }
        drop(state);
        for (promise, text) in broken {
            self.breach(promise, text);
        }
    }
}

/// An attempt on the wire. Its end is noted however it ends.
struct Flight<'a> {
    world: &'a World,
    nth: usize,
    sent: &'a Sent,
    /// When the server gets it, as long as it has not.
    acts_at: Option<Duration>,
    goes_on: bool,
}

impl Flight<'_> {
    fn end(
        &self,
        ending: &Ending,
        reply: Option<Reply>,
        url: Url,
        is_cut: bool,
    ) -> Result<Response, TransportFailure> {
        let (world, nth, now) = (self.world, self.nth, self.world.elapsed());
        let (reply, is_cut) = match (ending, reply) {
            (Ending::Fails(kind), _) => {
                world.state().learn_failure(self.sent, *kind);
                world.note(format_args!("attempt {nth} fails: {kind}"));
                return Err(failure(*kind));
            }
            (Ending::Foreign(portal), _) => {
                world.state().injected.count(Trouble::Portal);
                (portal.reply(), false)
            }
            (Ending::Answered, reply) => (reply.unwrap_or_else(|| Reply::status(500)), is_cut),
        };
        world.state().learn(self.sent, now, &reply);
        let whose = if reply.is_own { "" } else { ", by a portal" };
        world.note(format_args!(
            "attempt {nth} is answered: {}{whose}",
            reply.status
        ));
        response(&reply, url, is_cut)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut state = self.world.state();
        state.history.attempt_ended(self.nth);
        if let Some(at) = self.acts_at.filter(|_| self.goes_on) {
            state.network.keep_going(at, self.sent.clone());
        }
    }
}

impl Portal {
    fn reply(self) -> Reply {
        let mut reply = match self {
            Self::Page => Reply::status(200),
            Self::Redirect => Reply::status(302),
            Self::LoginNeeded => Reply::status(511),
        };
        reply.is_own = false;
        reply
    }
}

impl Sent {
    fn of(request: &reqwest::Request) -> Option<Self> {
        let url = request.url();
        let origin = ORIGINS.iter().position(|origin| {
            Url::parse(origin).is_ok_and(|origin| origin.host_str() == url.host_str())
        })?;
        let header = |name| request.headers().get(name);
        let key = header("idempotency-key").and_then(|value| key_from_header(value).ok());
        let token = request.headers().get(AUTHORIZATION);
        let token = token.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let body = request.body().and_then(|body| body.as_bytes());
        Some(Self {
            call: url.path().strip_prefix('/')?.parse().ok()?,
            origin,
            key,
            method: request.method().clone(),
            body: body.map(Bytes::copy_from_slice).unwrap_or_default(),
            token: token.map(str::to_owned),
        })
    }
}

fn failure(kind: FailureKind) -> TransportFailure {
    TransportFailure::new(kind)
}

fn response(reply: &Reply, url: Url, is_cut: bool) -> Result<Response, TransportFailure> {
    let mut answer = http::Response::builder().status(reply.status).url(url);
    answer = match reply.is_own {
        true => answer.header(OWN, "yes"),
        false => answer
            .header(CONTENT_TYPE, "text/html")
            .header(LOCATION, "http://login.test/"),
    };
    if let Some(seconds) = reply.retry_after {
        answer = answer.header(RETRY_AFTER, seconds);
    }
    let body = match is_cut {
        true => {
            let cut = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            reqwest::Body::wrap_stream(stream::iter([Ok("half of"), Err(cut)]))
        }
        false => "an answer".into(),
    };
    let whole = answer.body(body);
    whole
        .map(Response::from)
        .map_err(|e| failure(FailureKind::Other).with_source(e))
}

/// What the system knows of the network of a run.
#[derive(Clone, Debug)]
pub(super) struct WorldConnectivity(pub(super) Arc<World>);

impl Connectivity for WorldConnectivity {
    fn changes(&self) -> NetworkChanges {
        let world = self.0.clone();
        Box::pin(stream::unfold(world, |world| async move {
            world.network_changed.notified().await;
            Some((NetworkChange::new(), world))
        }))
    }

    fn probe(&self, origin: Origin) -> ProbeFuture<'_> {
        Box::pin(async move {
            let of = |url: &str| {
                Url::parse(url).is_ok_and(|url| Origin::of(&url).is_ok_and(|o| o == origin))
            };
            let nth = ORIGINS.iter().position(|url| of(url)).unwrap_or_default();
            let pause = self.0.state().dice.millis(1, 200);
            tokio::time::sleep(pause).await;
            let state = self.0.state();
            match state.network.links[nth] {
                Link::Up if state.server.is_troubled(nth) => Reach::Troubled,
                Link::Up => Reach::Reachable,
                Link::Portal(_) => Reach::Portal,
                Link::Refused | Link::NoName | Link::BlackHole => Reach::Unreachable,
            }
        })
    }
}
