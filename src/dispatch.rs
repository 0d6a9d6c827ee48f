//! What a send and an enqueue do: check, admit, try once, hand the rest to the worker.
//! The promises of the direct path live here: on disk before the first byte, never past its lane.

#[cfg(feature = "cache")]
mod cache;
#[cfg(not(feature = "cache"))]
#[path = "dispatch/no_cache.rs"]
mod cache;
mod coalesce;
mod detached;
mod draft;
#[cfg(feature = "sqlite")]
mod outbox;
mod outcome;
mod replace;

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};

use crate::action::{ActionId, Answer, Body, Lane, Origin, Record, State, WireState};
use crate::attempt::{self, Exchange, Outgoing, Reply, Report, Reporter};
use crate::clock::Timestamp;
use crate::decide::{Counted, Gate, Plan, Settlement};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{self, EventKind};
use crate::parts::{ConnectivityMode, Parts};
use crate::payload::{KeptBody, Payload};
use crate::store::{Amend, Append, Appended, Direct, Find, Unfit};
use crate::ticket::Ticket;
use crate::transport::{Arrived, Keep, arrived, keep, tee};
use crate::worker::Control;

use cache::Cache;
use detached::Detached;
pub(crate) use draft::Draft;
pub(crate) use outcome::Given;
pub use outcome::{Delivery, Outcome};
pub use replace::Replaced;

/// Admits requests. The handle and every request builder share it; when the last one is dropped, the
/// worker ends.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) desk: Desk,
    pub(crate) control: mpsc::UnboundedSender<Control>,
}

/// What a task of its own needs to admit a request and to try it.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    pub(crate) parts: Arc<Parts>,
    pub(crate) reports: mpsc::UnboundedSender<Report>,
}

impl Dispatch {
    /// Sends or queues, by `delivery`.
    pub(crate) async fn send(
        &self,
        mut draft: Draft,
        payload: Payload,
        delivery: Delivery,
    ) -> Result<Given> {
        let parts = &self.desk.parts;
        parts.check_open()?;
        if delivery != Delivery::Never {
            draft.drop_credentials(parts)?;
        }
        if !draft.parents.is_empty() && delivery == Delivery::Never {
            let text = "a request that waits for another one is queued: it cannot be sent at once or never";
            return Err(Error::invalid(text));
        }
        let is_later =
            !draft.parents.is_empty() || draft.not_before.is_some_and(|time| time > parts.now());
        if delivery == Delivery::Queue || (is_later && delivery != Delivery::Never) {
            return self.enqueue(draft, payload).await.map(Outcome::Queued);
        }
        let body = payload.keep(parts, &mut draft.request.headers).await?;
        match delivery {
            Delivery::Never => self.desk.send_only(draft, body).await,
            Delivery::OnFailure => self.desk.send_first(draft, body).await,
            _ => self.desk.write_ahead(draft, body).await,
        }
    }

    /// Keeps it and leaves it to the worker.
    pub(crate) async fn enqueue(&self, mut draft: Draft, payload: Payload) -> Result<Ticket> {
        let parts = &self.desk.parts;
        parts.check_open()?;
        draft.drop_credentials(parts)?;
        let body = payload.keep(parts, &mut draft.request.headers).await?;
        let record = draft.record(&body, parts.now())?;
        self.desk.queue(record, body).await
    }
}

impl Desk {
    /// Queues a record. Detached: a dropped future must not lose the wake-up and the event.
    async fn queue(&self, record: Record, body: KeptBody) -> Result<Ticket> {
        let desk = self.clone();
        Detached::new(async move {
            match desk.append(record, body, Direct::No).await? {
                Admitted::Queued(ticket) => Ok(ticket),
                Admitted::Leased(_) => Err(leased()),
            }
        })
        .await
    }

    fn to_append(&self, record: Record, body: Body, now: Timestamp) -> Result<Append> {
        let principal = record.principal.as_deref();
        if self.parts.principals().is_forgotten(principal) {
            let text = "its principal was forgotten meanwhile: nothing of the request is kept";
            return Err(Error::new(ErrorKind::WrongState, text));
        }
        let stale = self.parts.cache.queued(&record.content);
        let mut append = Append::new(record, body, now);
        append.stale = stale;
        append.limits = self.parts.options.limits;
        append.key_retention = self.parts.options.retention.age;
        Ok(append)
    }

    async fn append(&self, record: Record, body: KeptBody, direct: Direct) -> Result<Admitted> {
        let now = self.parts.now();
        let mut append = self.to_append(record, body.hand_over(), now)?;
        append.direct = direct;
        let _coming = self.parts.hub.coming(append.record.id);
        let appended = self.place(append).await?;
        // Counts first: who hears of an event may ask for them.
        self.parts.publish_totals().await;
        self.admit(appended, now)
    }

    fn admit(&self, appended: Option<Appended>, now: Timestamp) -> Result<Admitted> {
        let parts = &self.parts;
        match appended {
            Some(Appended::Queued { record, superseded }) => {
                if let Some(older) = superseded {
                    parts.hub.publish(&older, event::superseded(&older), now);
                    // What stood behind it may go now, wherever this one goes.
                    parts.wake.notify_one();
                }
                parts.hub.publish(&record, EventKind::Queued, now);
                parts.wake_for(&record);
                Ok(Admitted::Queued(Ticket::of(parts.clone(), &record)))
            }
            Some(Appended::Leased { record, superseded }) => {
                if let Some(older) = superseded {
                    parts.hub.publish(&older, event::superseded(&older), now);
                }
                Ok(Admitted::Leased(Box::new(record)))
            }
            Some(Appended::Known { record }) => {
                Ok(Admitted::Queued(Ticket::of(parts.clone(), &record)))
            }
            Some(Appended::Cancelled { record, waiting }) => {
                for cancelled in waiting.iter().chain([&record]) {
                    parts.hub.publish(cancelled, EventKind::Cancelled, now);
                }
                parts.wake.notify_one();
                Ok(Admitted::Queued(Ticket::of(parts.clone(), &record)))
            }
            Some(Appended::Conflict { id }) => Err(conflict(id)),
            Some(Appended::Full { limit }) => Err(full(&limit)),
            Some(Appended::Unfit { parent, why }) => Err(unfit(parent, why)),
            Some(Appended::NotOver { .. }) => Err(not_over()),
            None => Err(Error::new(ErrorKind::Storage, "the store gave no result")),
        }
    }

    /// `WriteAhead`: on disk and leased in one commit, then tried. Detached: when the caller drops its future, the
    /// attempt goes on.
    async fn write_ahead(&self, draft: Draft, body: KeptBody) -> Result<Given> {
        let parts = &self.parts;
        let turn = parts.turn(&draft.lane).await;
        let may_try = parts.may_try(&draft.origin, draft.principal.as_deref());
        let direct = match may_try && !parts.is_lane_held(&draft.lane) {
            false => Direct::No,
            true if draft.lane.is_default() => Direct::SideBySide,
            true => Direct::Alone,
        };
        let record = draft.record(&body, parts.now())?;
        let outgoing = draft.outgoing(&record, &body);
        let (reply, answer) = oneshot::channel();
        let desk = self.clone();
        let ticket = Detached::new(async move {
            match desk.append(record, body, direct).await? {
                Admitted::Queued(ticket) => Ok(ticket),
                Admitted::Leased(record) => {
                    let ticket = Ticket::of(desk.parts.clone(), &record);
                    desk.start_direct(*record, outgoing, reply, turn);
                    Ok(ticket)
                }
            }
        })
        .await?;
        match answer.await {
            Ok(Reply::Sent(response)) => Ok(Outcome::Sent(response)),
            // Queued at once, or after the attempt, or cut off: in each case it is on disk.
            Ok(Reply::Settled) | Err(_) => Ok(Outcome::Queued(ticket)),
        }
    }

    fn start_direct(
        &self,
        record: Record,
        outgoing: Outgoing,
        reply: oneshot::Sender<Reply>,
        turn: Option<OwnedMutexGuard<()>>,
    ) {
        let Some(mut reporter) = Reporter::new(self.reports.clone(), &record) else {
            return;
        };
        reporter.hold(turn);
        let kind = EventKind::Started {
            attempt: record.attempts,
        };
        self.parts.hub.publish(&record, kind, self.parts.now());
        let (abort, registration) = AbortHandle::new_pair();
        let (id, origin) = (record.id, record.origin.clone());
        self.note_start(&origin);
        // The worker is gone only when the vault is closed: the lease is then taken back at open.
        drop(self.reports.send(Report::Started { id, origin, abort }));
        let attempt = attempt_direct(self.parts.clone(), record, outgoing, reply, reporter);
        tokio::spawn(Abortable::new(attempt, registration).map(drop));
    }

    /// `OnFailure`: tried at once, and queued only when there is no answer to give.
    async fn send_first(&self, draft: Draft, body: KeptBody) -> Result<Given> {
        let parts = &self.parts;
        if let Some(ticket) = self.known(&draft, &body).await? {
            return Ok(Outcome::Queued(ticket));
        }
        let cache = Cache::of(parts, &draft, &body).await;
        if let Some(outcome) = cache.fresh().await {
            return Ok(outcome);
        }
        let turn = parts.turn(&draft.lane).await;
        let may_try = parts.may_try(&draft.origin, draft.principal.as_deref());
        if !may_try || self.is_lane_busy(&draft.lane).await? {
            if let Some(outcome) = cache.instead().await {
                return Ok(outcome);
            }
            let record = draft.record(&body, parts.now())?;
            return self.queue(record, body).await.map(Outcome::Queued);
        }
        let record = draft.outline(&body, parts.now());
        let outgoing = draft.outgoing(&record, &body);
        let (record, plan, exchange) = self.try_with(record, &outgoing, &cache).await;
        if let Some(outcome) = cache.instead_of(&plan, &exchange).await {
            return Ok(outcome);
        }
        let outcome = match (plan.settlement, exchange.result) {
            (Settlement::Delivered { .. } | Settlement::Dead { .. }, Ok(response)) => {
                Ok(Outcome::Sent(cache.keep(response)))
            }
            (settlement, _) => {
                let mut record =
                    after_failure(record, settlement, plan.wire, plan.status, plan.error);
                draft.fill(&mut record, &body)?;
                record.portal = plan.portal;
                self.queue(record, body).await.map(Outcome::Queued)
            }
        };
        drop(turn);
        outcome
    }

    /// `Never`: an answer or an error.
    async fn send_only(&self, draft: Draft, body: KeptBody) -> Result<Given> {
        let parts = &self.parts;
        let cache = Cache::of(parts, &draft, &body).await;
        if let Some(outcome) = cache.fresh().await {
            return Ok(outcome);
        }
        let (turn, outgoing, record) = match self.admit_only(&draft, &body).await {
            Ok(admitted) => admitted,
            Err(refused) if refused.kind() == ErrorKind::Invalid => return Err(refused),
            Err(refused) => return cache.instead().await.ok_or(refused),
        };
        let (_, plan, exchange) = self.try_with(record, &outgoing, &cache).await;
        drop(turn);
        if let Some(outcome) = cache.instead_of(&plan, &exchange).await {
            return Ok(outcome);
        }
        if let Some(sign) = plan.portal {
            let text = format!(
                "a login page of the network seems to stand before the server ({sign}), and the request may not be queued"
            );
            return Err(Error::new(ErrorKind::Portal, text));
        }
        let sent = |response| Outcome::Sent(cache.keep(response));
        exchange.result.map(sent).map_err(|failure| {
            let text = format!(
                "the request got no answer ({}), and may not be queued",
                failure.kind()
            );
            Error::new(ErrorKind::Unreachable, text).with_source(failure)
        })
    }

    /// May a request that may not be queued be tried now?
    async fn admit_only(
        &self,
        draft: &Draft,
        body: &KeptBody,
    ) -> Result<(Option<OwnedMutexGuard<()>>, Outgoing, Record)> {
        let parts = &self.parts;
        let why_not = if *parts.mode.borrow() == ConnectivityMode::Offline {
            Some((ErrorKind::Unreachable, "the app set the vault offline"))
        } else if parts.is_paused() {
            Some((ErrorKind::WrongState, "the app paused the vault"))
        } else if !parts.is_active(draft.principal.as_deref()) {
            Some((ErrorKind::WrongState, "its principal is not the active one"))
        } else if draft.not_before.is_some_and(|time| time > parts.now()) {
            Some((ErrorKind::Invalid, "its `not_before` lies ahead"))
        } else {
            None
        };
        if let Some((kind, why)) = why_not {
            return Err(Error::new(
                kind,
                format!("{why}, and this request may not be queued"),
            ));
        }
        self.known(draft, body).await?;
        let turn = parts.turn(&draft.lane).await;
        self.check_origin(&draft.origin)?;
        if self.is_lane_busy(&draft.lane).await? {
            let text = format!(
                "the lane {:?} holds other actions, and this request may neither overtake them nor be queued behind them: name another lane, or allow queueing",
                draft.lane.bare().as_str()
            );
            return Err(Error::new(ErrorKind::WrongState, text));
        }
        let record = draft.outline(body, parts.now());
        let outgoing = draft.outgoing(&record, body);
        Ok((turn, outgoing, record))
    }

    /// A request that may not be queued is refused while its origin is to be spared. While it is only unreachable, it may be what
    /// finds it again.
    fn check_origin(&self, origin: &Origin) -> Result<()> {
        let (parts, now) = (&self.parts, self.parts.now());
        let (until, is_held) = {
            let gates = parts.gates();
            let word = |gate: &&Gate| gate.reason.is_word_of_server() && gate.is_closed(now);
            let closed = gates.origin(origin).filter(word);
            let closed = closed.map(|gate| gate.closed_until);
            let held = gates.held(origin, now).map(|hold| hold.until);
            (closed.max(held), gates.is_probed(origin, now))
        };
        let why = match until {
            Some(until) => format!("until {until}"),
            None if is_held || !parts.lets_pass(origin, now) => "for a moment".to_owned(),
            None => return Ok(()),
        };
        let text = format!("{origin} is left alone {why}, and this request may not be queued");
        Err(Error::new(ErrorKind::OriginWaits, text))
    }

    /// The start of a direct send, where it holds the next one back, is written down by the worker.
    fn note_start(&self, origin: &Origin) {
        if let Some(gate) = self.parts.note_direct(origin) {
            // The worker is gone only when the vault is closed.
            drop(self.reports.send(Report::Gate(Box::new(gate))));
        }
    }

    /// Tries a request that is not on disk.
    async fn try_once(&self, mut record: Record, outgoing: &Outgoing) -> (Record, Plan, Exchange) {
        let now = self.parts.now();
        record.attempts = 1;
        record.first_attempt = Some(now);
        record.last_attempt = Some(now);
        record.state = State::InFlight {
            attempt: 1,
            epoch: 0,
        };
        self.note_start(&record.origin);
        let exchange = attempt::exchange(&self.parts, outgoing).await;
        let plan = attempt::conclude(
            &self.parts,
            &record,
            WireState::NeverSent,
            outgoing,
            &exchange,
        );
        self.note_written(outgoing, &plan, &exchange).await;
        if let Some(gate) = plan.gate.clone() {
            // In memory it is known already; the worker writes it down, and is gone only when the vault is closed.
            drop(self.reports.send(Report::Gate(Box::new(gate))));
        }
        self.parts.refresh_connection();
        (record, plan, exchange)
    }

    /// A direct send may pass only an empty lane. No store call while the whole vault is empty.
    async fn is_lane_busy(&self, lane: &Lane) -> Result<bool> {
        if self.parts.is_lane_held(lane) {
            return Ok(true);
        }
        if self.parts.hub.is_empty() {
            return Ok(false);
        }
        let totals = self.parts.store.lane(lane.clone()).await?;
        Ok(totals.pending > totals.direct || totals.blocked_by.is_some())
    }

    /// Is the key of an action that ended then still known?
    fn is_remembered(&self, at: Timestamp) -> bool {
        at.after(self.parts.options.retention.age) > self.parts.now()
    }

    /// What a caller's own key is known for: the ticket of the same request, or a conflict. For sends that are not
    /// appended before they are tried.
    async fn known(&self, draft: &Draft, body: &KeptBody) -> Result<Option<Ticket>> {
        let Some(key) = draft.scoped_key() else {
            return Ok(None);
        };
        let Some(record) = self.parts.store.get(Find::Key(key)).await? else {
            return Ok(None);
        };
        let is_remembered = match record.state {
            State::Delivered { at, .. } => self.is_remembered(at),
            State::Cancelled { .. } | State::Expired { .. } => false,
            State::Superseded { at } => record.is_merged && self.is_remembered(at),
            _ => true,
        };
        match is_remembered {
            false => Ok(None),
            true if record.fingerprint == draft.fingerprint(body) => {
                Ok(Some(Ticket::of(self.parts.clone(), &record)))
            }
            true => Err(conflict(record.id)),
        }
    }
}

pub(crate) fn unknown(id: ActionId) -> Error {
    let text = format!("action {id} is not known: it was never queued here, or is forgotten");
    Error::new(ErrorKind::NotFound, text)
}

fn leased() -> Error {
    Error::new(ErrorKind::Storage, "the store leased what it should queue")
}

fn not_over() -> Error {
    let text = "the store looked for the place of another action, and was asked for none";
    Error::new(ErrorKind::Storage, text)
}

fn full(limit: &str) -> Error {
    let text = format!("the queue is full ({limit}): drain it, clear it, or raise the limit");
    Error::new(ErrorKind::Full, text)
}

fn unfit(parent: ActionId, why: Unfit) -> Error {
    let kind = match why {
        Unfit::Unknown => ErrorKind::NotFound,
        Unfit::Itself | Unfit::Foreign | Unfit::TooMany => ErrorKind::Invalid,
        Unfit::Ended | Unfit::NoAnswer => ErrorKind::WrongState,
    };
    Error::new(kind, format!("nothing can wait for action {parent}: {why}"))
}

fn conflict(id: ActionId) -> Error {
    let text =
        format!("the idempotency key belongs to another request, action {id}: use a new key");
    Error::new(ErrorKind::IdempotencyConflict, text)
}

/// What became of an admitted request.
enum Admitted {
    Queued(Ticket),
    Leased(Box<Record>),
}

/// Runs the attempt of a direct send that is on disk and leased.
async fn attempt_direct(
    parts: Arc<Parts>,
    record: Record,
    outgoing: Outgoing,
    reply: oneshot::Sender<Reply>,
    mut reporter: Reporter,
) {
    let exchange = attempt::exchange(&parts, &outgoing).await;
    let mut plan = attempt::conclude(&parts, &record, WireState::NeverSent, &outgoing, &exchange);
    let stale = parts
        .cache
        .written(&outgoing.request, plan.wire, exchange.head());
    reporter.wrote(stale);
    let response = match (&plan.settlement, exchange.result) {
        (Settlement::Delivered { .. }, Ok(response)) => {
            let (response, answer, settled) = split(&parts, &record, response);
            // The caller may have dropped its future.
            drop(reply.send(Reply::Sent(response)));
            let mut finished = attempt::finished(&record, plan, answer);
            finished.settled = settled;
            return reporter.finish(finished);
        }
        (Settlement::Dead { .. }, Ok(response)) => response,
        _ => {
            let mut finished = attempt::finished(&record, plan, None);
            finished.reply = Some((reply, Reply::Settled));
            return reporter.finish(finished);
        }
    };
    if reply.is_closed() {
        // The caller dropped its future: nobody hears of the refusal, so it is kept.
        let answer = keep(response, &Keep::default(), parts.now()).await;
        return reporter.finish(attempt::finished(&record, plan, Some(answer)));
    }
    // Told after the settle: the key is then free for the caller's next try.
    plan.settlement = Settlement::Returned;
    let mut finished = attempt::finished(&record, plan, None);
    finished.reply = Some((reply, Reply::Sent(response)));
    reporter.finish(finished);
}

/// What the caller gets, and what is kept of it if that is here by now. Else it streams as it comes, and what passed by
/// is kept when the body ended or was dropped: not before it is told that the attempt is settled.
fn split(
    parts: &Arc<Parts>,
    record: &Record,
    response: reqwest::Response,
) -> (
    reqwest::Response,
    Option<Answer>,
    Option<oneshot::Sender<()>>,
) {
    let (keep, now) = (Keep::default(), parts.now());
    let response = match arrived(response, &keep, now) {
        Arrived::Whole(response, answer) => return (response, Some(answer), None),
        Arrived::InPart(response) => response,
    };
    let (parts, id) = (parts.clone(), record.id);
    let (settled, is_settled) = oneshot::channel();
    let response = tee(response, &keep, now, move |answer| {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            // Nothing is ever sent: the other end goes when the attempt is settled.
            is_settled.await.ok();
            keep_later(&parts, id, &answer).await;
        });
    });
    (response, None, Some(settled))
}

async fn keep_later(parts: &Parts, id: ActionId, answer: &Answer) {
    let kept = match answer.encode(id) {
        Ok(answer) => parts.store.amend(Amend::KeepAnswer { id, answer }).await,
        Err(error) => Err(error),
    };
    if let Err(error) = kept {
        tracing::debug!(action = %id, %error, "a streamed answer is not kept");
    }
}

/// The record of a request that was tried before it was stored.
fn after_failure(
    mut record: Record,
    settlement: Settlement,
    wire: WireState,
    status: Option<u16>,
    error: Option<String>,
) -> Record {
    let now = record.last_attempt.unwrap_or(record.created);
    let (due, counts, backoff_ms) = match settlement {
        Settlement::Retry {
            due,
            counts,
            backoff_ms,
        } => (due, counts, backoff_ms),
        _ => (now, Counted::Yes, 0),
    };
    record.attempts_counted = u32::from(counts == Counted::Yes);
    record.attempts_max = record.attempts_max.max(record.attempts_counted + 1);
    record.backoff_ms = backoff_ms;
    record.wire = wire;
    record.last_status = status;
    record.last_error = error;
    record.state = State::Queued { due };
    record
}
