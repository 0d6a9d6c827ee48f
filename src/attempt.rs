//! One attempt: build the request, stamp credentials, send, judge what came back. It writes nothing:
//! it ends in a [`Finished`], which the worker settles. A dropped or panicked attempt still reports.

mod batch;
mod folding;
mod portal;
mod verify;
mod written;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use http::header::LOCATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::action::{
    ActionId, Answer, Body, DeadReason, Lane, Origin, Record, StoredRequest, WireState,
};
use crate::decide::{
    Counted, DeadLane, FailureKind, Gate, GateKey, Observation, Observed, OriginState, OriginWell,
    Plan, REDIRECTS_MAX, Redirect, Settlement, Situation, Stamp, TRACEPARENT, TraceParent, Verdict,
    as_wanted, follow, key_header_value, plan, verdict,
};
use crate::error::{Error, ErrorKind, Result};
use crate::parts::{GateBook, Parts, metrics};
use crate::payload::{Damage, check_files, load, streamed};
use crate::store::{Leased, Settle};
use crate::transport::{Keep, TransportFailure, keep};

pub(crate) use batch::{BatchReporter, run_batch};
use portal::{Learned, look_for_portal};
use verify::verified;

/// A request that can be put on the wire, again and again with the same bytes.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) request: StoredRequest,
    pub(crate) body: Body,
    /// The idempotency key to send, if any.
    pub(crate) key: Option<String>,
    /// Credentials that the caller put on this one request. They are never stored.
    pub(crate) own_credentials: HeaderMap,
    pub(crate) principal: Option<String>,
    pub(crate) origin: Origin,
}

/// What came back from the wire.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) result: Result<reqwest::Response, TransportFailure>,
    pub(crate) stamp: Stamp,
}

impl Exchange {
    /// Nothing left: another principal is the active one.
    fn not_active() -> Self {
        Self {
            result: Err(TransportFailure::new(FailureKind::NotActive)),
            stamp: Stamp::None,
        }
    }
}

/// The end of one attempt, to be settled.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) settle: Settle,
    pub(crate) lane: Lane,
    pub(crate) gate: Option<Gate>,
    /// Resources that it wrote to: what is cached of them is stale.
    pub(crate) stale: Vec<String>,
    /// What to tell the caller of a direct send once it is settled.
    pub(crate) reply: Option<(oneshot::Sender<Reply>, Reply)>,
    /// The turn of a named lane, given back after the settle.
    pub(crate) turn: Option<OwnedMutexGuard<()>>,
    /// Dropped with the rest, after the settle: tells who waits to keep the streamed answer.
    pub(crate) settled: Option<oneshot::Sender<()>>,
}

impl Finished {
    /// Nobody waits for it.
    fn of(settle: Settle, record: &Record) -> Self {
        Self {
            settle,
            lane: record.lane.clone(),
            gate: None,
            stale: Vec::new(),
            reply: None,
            turn: None,
            settled: None,
        }
    }

    /// Tells who waits, when there is nothing left to settle.
    pub(crate) fn tell(self) {
        if let Some((reply, told)) = self.reply {
            // The caller may have dropped its future.
            drop(reply.send(told));
        }
    }
}

/// What a direct send hears.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The server's answer, for the caller.
    Sent(reqwest::Response),
    /// The attempt is settled, and the action stays in the vault.
    Settled,
}

/// What attempts tell the worker.
#[derive(Debug)]
pub(crate) enum Report {
    /// A direct send runs.
    Started {
        id: ActionId,
        origin: Origin,
        abort: futures_util::future::AbortHandle,
    },
    /// An attempt ended.
    Finished(Box<Finished>),
    /// The attempt of a batch ended: every member, in their order.
    Batch(Vec<Finished>),
    /// A send that is not on disk learned something about an origin or a principal.
    Gate(Box<Gate>),
}

/// Reports the end of an attempt exactly once: also when the attempt is dropped or panics.
#[derive(Debug)]
pub(crate) struct Reporter {
    reports: UnboundedSender<Report>,
    interrupted: Option<Finished>,
    /// What to settle instead when the attempt panicked: it must not be tried again at once, nor for ever.
    panicked: Settlement,
}

impl Reporter {
    /// For an attempt of `record`, which is in flight. Nothing when it is not.
    pub(crate) fn new(reports: UnboundedSender<Report>, record: &Record) -> Option<Self> {
        let due = record.last_attempt.unwrap_or(record.created);
        let retry = Settlement::Retry {
            due,
            counts: Counted::No,
            backoff_ms: record.backoff_ms,
        };
        let mut settle = Settle::of(record, retry, WireState::MaybeSent)?;
        settle.error = Some("the attempt was cut off".to_owned());
        Some(Self {
            reports,
            interrupted: Some(Finished::of(settle, record)),
            panicked: after_panic(record),
        })
    }

    /// Hands the lane's turn over, to be given back after the settle.
    pub(crate) fn hold(&mut self, turn: Option<OwnedMutexGuard<()>>) {
        if let Some(interrupted) = &mut self.interrupted {
            interrupted.turn = turn;
        }
    }

    pub(crate) fn finish(mut self, mut finished: Finished) {
        if let Some(interrupted) = self.interrupted.take() {
            finished.turn = interrupted.turn;
            finished.stale = interrupted.stale;
            self.send(finished);
        }
    }

    fn send(&self, finished: Finished) {
        // The worker is gone only when the vault is closed: the lease is then taken back at open.
        drop(self.reports.send(Report::Finished(Box::new(finished))));
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(mut interrupted) = self.interrupted.take() {
            if std::thread::panicking() {
                interrupted.settle.result = self.panicked.clone();
                interrupted.settle.error = Some("the attempt panicked".to_owned());
            }
            self.send(interrupted);
        }
    }
}

fn after_panic(record: &Record) -> Settlement {
    if record.attempts_counted.saturating_add(1) >= record.attempts_max {
        let detail = "its attempts panic".to_owned();
        let reason = DeadReason::Unsendable { detail };
        return Settlement::Dead {
            reason,
            lane: DeadLane::Skip,
        };
    }
    put_off(record, Counted::Yes)
}

/// Back to the queue after a trouble of this machine, for a time that grows.
fn put_off(record: &Record, counts: Counted) -> Settlement {
    let pause = Duration::from_secs(1 << record.attempts.min(8));
    Settlement::Retry {
        due: record.last_attempt.unwrap_or(record.created).after(pause),
        counts,
        backoff_ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
    }
}

impl Outgoing {
    /// The request of a leased action.
    pub(crate) async fn of(parts: &Parts, record: &Record, body: &Body) -> Result<Self> {
        let request = StoredRequest::decode(&record.content)?;
        if !request.references.is_empty() {
            let text = "what it refers to was not filled in";
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        let key = wire_key(&request, record);
        let body = load(&parts.store, body).await?;
        check_files(&parts.store, &body).await?;
        let principal = record.principal.clone();
        if body.len() != record.body_bytes {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the stored body has another length",
            ));
        }
        parts.options.allows(&record.origin)?;
        Ok(Self {
            request,
            body,
            key,
            own_credentials: HeaderMap::new(),
            principal,
            origin: record.origin.clone(),
        })
    }

    fn build(&self, parts: &Parts) -> Result<Built, TransportFailure> {
        let url = self.request.url.clone();
        let mut request = reqwest::Request::new(self.request.method.clone(), url);
        *request.headers_mut() = self.request.headers.clone();
        for (name, value) in &self.own_credentials {
            request.headers_mut().append(name.clone(), value.clone());
        }
        if let Some(key) = &self.key {
            let value = key_header_value(key, parts.options.key_form)
                .map_err(|e| TransportFailure::new(FailureKind::Invalid).with_source(e))?;
            request
                .headers_mut()
                .insert(parts.options.key_header.clone(), value);
        }
        self.continue_trace(request.headers_mut(), parts);
        *request.timeout_mut() = self.request.timeout;
        let damage = Damage::default();
        *request.body_mut() = self.body_of(parts, &damage);
        Ok(Built { request, damage })
    }

    /// Each attempt is a span of its own in the trace of its request.
    fn continue_trace(&self, headers: &mut HeaderMap, parts: &Parts) {
        let text = headers
            .get(TRACEPARENT)
            .and_then(|value| value.to_str().ok());
        let Some(trace) = text.and_then(TraceParent::parse) else {
            return;
        };
        let span = trace.with_span(parts.dice().number());
        if let Ok(value) = HeaderValue::try_from(span) {
            headers.insert(TRACEPARENT, value);
        }
    }

    fn body_of(&self, parts: &Parts, damage: &Damage) -> Option<reqwest::Body> {
        match &self.body {
            body if body.is_empty() => None,
            Body::Bytes(bytes) => Some(bytes.clone().into()),
            body => Some(streamed(parts.store.clone(), body, damage)),
        }
    }

    /// One exchange. A transport cannot send a streamed body again, so where its redirects may be followed is asked here.
    async fn send(
        &self,
        parts: &Parts,
        built: Built,
    ) -> Result<reqwest::Response, TransportFailure> {
        let Built {
            mut request,
            damage,
        } = built;
        let hops_max = match self.body {
            Body::Bytes(_) => 0,
            _ => REDIRECTS_MAX,
        };
        for _ in 0..hops_max {
            let mut next = head_of(&request);
            let answer = sent(parts, request, &damage).await?;
            let (status, location) = (answer.status(), answer.headers().get(LOCATION));
            if !status.is_redirection() {
                return Ok(answer);
            }
            match follow(next.method(), status.as_u16(), next.url(), location) {
                Redirect::Follow(url) => *next.url_mut() = url,
                _ => return Ok(answer),
            }
            *next.body_mut() = self.body_of(parts, &damage);
            request = next;
        }
        sent(parts, request, &damage).await
    }
}

/// A request, and what its body breaks on when it does.
struct Built {
    request: reqwest::Request,
    damage: Damage,
}

fn head_of(request: &reqwest::Request) -> reqwest::Request {
    let mut head = reqwest::Request::new(request.method().clone(), request.url().clone());
    *head.headers_mut() = request.headers().clone();
    *head.timeout_mut() = request.timeout().copied();
    head
}

/// What a damaged body got for an answer says nothing about the action.
async fn sent(
    parts: &Parts,
    request: reqwest::Request,
    damage: &Damage,
) -> Result<reqwest::Response, TransportFailure> {
    let answer = parts.transport.send(request).await;
    match damage.get() {
        Some(error) if error.kind() == ErrorKind::Corrupt => {
            Err(TransportFailure::new(FailureKind::Body).with_detail(error))
        }
        _ => answer,
    }
}

/// The key that goes on the wire: always for methods that change something, else only the caller's own.
pub(crate) fn wire_key(request: &StoredRequest, record: &Record) -> Option<String> {
    match (record.caller_key(), request.method.is_safe()) {
        (Some(key), _) => Some(key.to_owned()),
        (None, false) => Some(record.id.to_string()),
        (None, true) => None,
    }
}

/// Puts the request on the wire, once; twice when a 401 could be answered with fresh credentials.
///
/// Between a look at the active principal and the first byte nothing waits: once it was switched, nothing of the one
/// before leaves, and what a provider gave for it after the switch is not used.
pub(crate) async fn exchange(parts: &Parts, outgoing: &Outgoing) -> Exchange {
    let principal = outgoing.principal.as_deref();
    if !parts.is_active(principal) {
        return Exchange::not_active();
    }
    let _under_way = parts.tallies.begin(&outgoing.origin);
    let desk = parts
        .desk
        .as_ref()
        .filter(|_| outgoing.own_credentials.is_empty());
    let mut built = match outgoing.build(parts) {
        Ok(built) => built,
        Err(failure) => {
            return Exchange {
                result: Err(failure),
                stamp: Stamp::None,
            };
        }
    };
    let Some(desk) = desk else {
        let result = outgoing.send(parts, built).await;
        return Exchange {
            result,
            stamp: Stamp::None,
        };
    };
    let stamped = match desk.stamp(&mut built.request, principal).await {
        Ok(stamped) => stamped,
        Err(failure) => {
            return Exchange {
                result: Err(failure),
                stamp: Stamp::Current,
            };
        }
    };
    if !parts.is_active(principal) {
        return Exchange::not_active();
    }
    let first = outgoing.send(parts, built).await;
    let is_refused = |r: &reqwest::Response| r.status() == StatusCode::UNAUTHORIZED;
    if !first.as_ref().is_ok_and(is_refused) || !parts.is_active(principal) {
        return Exchange {
            result: first,
            stamp: Stamp::Current,
        };
    }
    let Ok(mut again) = outgoing.build(parts) else {
        return Exchange {
            result: first,
            stamp: Stamp::Current,
        };
    };
    match desk.refresh(stamped, &mut again.request).await {
        Ok(_) if parts.is_active(principal) => Exchange {
            result: outgoing.send(parts, again).await,
            stamp: Stamp::Refreshed,
        },
        _ => Exchange {
            result: first,
            stamp: Stamp::Current,
        },
    }
}

/// Judges an exchange and plans what to write. Remembers what it says about the origin.
pub(crate) fn conclude(
    parts: &Parts,
    record: &Record,
    wire_before: WireState,
    outgoing: &Outgoing,
    exchange: &Exchange,
) -> Plan {
    let now = parts.now();
    let observed = match &exchange.result {
        Ok(response) => Observed::Answer {
            status: response.status().as_u16(),
            headers: response.headers(),
        },
        Err(failure) => Observed::Failure(failure.kind()),
    };
    let mut gates = parts.gates();
    let method = &outgoing.request.method;
    let mut observation = Observation::new(method, &record.origin, observed, now);
    observation.wire_before = wire_before;
    observation.credentials = exchange.stamp;
    observation.origin_well_since = well_otherwise(&gates, record);
    look_for_portal(&mut observation, &parts.options, &gates, record, outgoing);
    let verdict = judged(parts, &observation, &outgoing.request);
    let gate = gates.origin(&record.origin).cloned();
    let principal_gate = gates
        .get(&GateKey::Principal(record.principal.clone()))
        .cloned();
    let origin = gates.state(&record.origin).clone();
    let situation = Situation {
        record,
        wire_before,
        gate: gate.as_ref(),
        origin: &origin,
        slots: parts.options.max_in_flight,
        principal_gate: principal_gate.as_ref(),
        verdict: &verdict,
        observed: &observation.observed,
        now,
    };
    let mut plan = plan(&situation, &parts.options.policy, &mut parts.dice());
    parts.tallies.count(&record.origin, &verdict);
    metrics::attempted(&record.origin, &verdict);
    // A principal that was forgotten meanwhile must not come back as a gate.
    plan.gate.take_if(|gate| match &gate.key {
        GateKey::Principal(principal) => !parts.is_active(principal.as_deref()),
        GateKey::Origin(_) => false,
    });
    let learned = Learned {
        record,
        outgoing,
        observed: &observation.observed,
        plan: &plan,
        now,
    };
    learned.note(&parts.options.guards, &mut gates);
    gates.set_state(&record.origin, plan.origin.clone());
    gates.end_probe(&record.origin);
    let is_kept = |state: &OriginState| state.is_worth_keeping(now);
    if plan.gate.is_none() && (is_kept(&origin) || is_kept(&plan.origin)) {
        plan.gate = Some(gates.of(&record.origin, now));
    }
    tracing::debug!(
        action = %record.id, attempt = record.attempts, status = plan.status, verdict = ?verdict,
        "attempt judged"
    );
    plan
}

fn well_otherwise(gates: &GateBook, record: &Record) -> OriginWell {
    match (gates.well_since(&record.origin), record.previous_attempt) {
        (Some(well), Some(previous)) if well > previous => OriginWell::Yes,
        _ => OriginWell::No,
    }
}

/// What an attempt means: the app's own reading goes before the table, and what the request itself says of it.
fn judged(parts: &Parts, observation: &Observation<'_>, request: &StoredRequest) -> Verdict {
    let own = parts.options.classifier.as_ref().and_then(|classifier| {
        let classify = AssertUnwindSafe(|| classifier.classify(observation));
        catch_unwind(classify).unwrap_or_else(|_| {
            tracing::error!("the classifier panicked: the verdict table decides");
            None
        })
    });
    let retry_after_max = parts.options.policy.retry_after_max;
    own.unwrap_or_else(|| {
        let verdict = verdict(observation, retry_after_max);
        as_wanted(verdict, observation.observed.status(), request)
    })
}

/// Runs the attempt of a leased action and reports its end.
pub(crate) async fn run(parts: Arc<Parts>, leased: Leased, mut reporter: Reporter) {
    let Leased {
        record,
        wire_before,
        body,
        ..
    } = leased;
    let outgoing = match Outgoing::of(&parts, &record, &body).await {
        Ok(outgoing) => outgoing,
        Err(error) => {
            return reporter.unsendable(
                &record,
                wire_before,
                parts.options.policy.dead_lane,
                &error,
            );
        }
    };
    if let Some(plan) = verified(&parts, &record, wire_before, &outgoing).await {
        return reporter.finish(finished(&record, plan, None));
    }
    let exchange = exchange(&parts, &outgoing).await;
    let plan = conclude(&parts, &record, wire_before, &outgoing, &exchange);
    reporter.wrote(
        parts
            .cache
            .written(&outgoing.request, plan.wire, exchange.head()),
    );
    let is_kept = matches!(
        plan.settlement,
        Settlement::Delivered { .. } | Settlement::Dead { .. }
    );
    let answer = match exchange.result {
        Ok(response) => Some(keep(response, &Keep::default(), parts.now()).await),
        Err(_) => None,
    };
    reporter.finish(finished(&record, plan, answer.filter(|_| is_kept)));
}

impl Reporter {
    fn unsendable(self, record: &Record, wire_before: WireState, lane: DeadLane, error: &Error) {
        tracing::error!(action = %record.id, %error, "an action cannot be sent");
        let settlement = match error.kind() {
            // Nothing of it is wrong: the disk, or the options of the vault, stand in its way.
            ErrorKind::Storage | ErrorKind::Invalid => put_off(record, Counted::No),
            _ => Settlement::Dead {
                reason: DeadReason::Unsendable {
                    detail: error.to_string(),
                },
                lane,
            },
        };
        let error = Some(error.to_string());
        let plan = Plan {
            settlement,
            wire: wire_before,
            gate: None,
            portal: None,
            origin: OriginState::default(),
            status: None,
            error,
        };
        self.finish(finished(record, plan, None));
    }
}

/// The result of `plan`, ready to be settled. `record` is in flight: the lease is read from it.
pub(crate) fn finished(record: &Record, plan: Plan, answer: Option<Answer>) -> Finished {
    let (attempt, epoch) = record.lease();
    let answer = answer.and_then(|answer| answer.encode(record.id).ok());
    let settle = Settle {
        id: record.id,
        attempt,
        epoch,
        result: plan.settlement,
        wire: plan.wire,
        portal: plan.portal,
        status: plan.status,
        error: plan.error,
        answer,
        batch: record.batch,
    };
    Finished {
        gate: plan.gate,
        ..Finished::of(settle, record)
    }
}
