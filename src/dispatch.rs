//! What a send and an enqueue do: check, admit, try once, hand the rest to the worker.
//! The promises of the direct path live here: on disk before the first byte, never past its lane.

mod draft;
mod outcome;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};

use crate::action::{ActionId, Answer, Body, Lane, Record, State, WireState};
use crate::attempt::{self, Exchange, Outgoing, Reply, Report, Reporter};
use crate::clock::Timestamp;
use crate::decide::{Counted, Gate, Plan, Settlement};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::parts::{ConnectivityMode, Parts};
use crate::store::{Advance, Amend, Append, Appended, Direct};
use crate::ticket::Ticket;
use crate::transport::{Keep, keep, tee};
use crate::worker::Control;

pub(crate) use draft::Draft;
pub use outcome::{Delivery, Outcome};

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
    pub(crate) async fn send(&self, mut draft: Draft, delivery: Delivery) -> Result<Outcome> {
        let parts = &self.desk.parts;
        parts.check_open()?;
        if delivery != Delivery::Never {
            draft.drop_credentials(parts)?;
        }
        let is_later = draft.not_before.is_some_and(|time| time > parts.now());
        match delivery {
            Delivery::Queue => self.enqueue(draft).await.map(Outcome::Queued),
            Delivery::Never => self.desk.send_only(draft).await,
            _ if is_later => self.enqueue(draft).await.map(Outcome::Queued),
            Delivery::OnFailure => self.desk.send_first(draft).await,
            Delivery::WriteAhead => self.desk.write_ahead(draft).await,
        }
    }

    /// Keeps it and leaves it to the worker.
    pub(crate) async fn enqueue(&self, mut draft: Draft) -> Result<Ticket> {
        self.desk.parts.check_open()?;
        draft.drop_credentials(&self.desk.parts)?;
        let record = draft.record(self.desk.parts.now())?;
        self.desk.queue(record, draft.body).await
    }
}

impl Desk {
    /// Queues a record. In a task of its own: a dropped future must not lose the wake-up and the event.
    async fn queue(&self, record: Record, body: Bytes) -> Result<Ticket> {
        let desk = self.clone();
        let task = tokio::spawn(async move {
            match desk.append(record, body, Direct::No).await? {
                Admitted::Queued(ticket) => Ok(ticket),
                Admitted::Leased(_) => Err(Error::new(
                    ErrorKind::Storage,
                    "the store leased what it should queue",
                )),
            }
        });
        task.await.unwrap_or_else(|_| Err(Error::closed()))
    }

    async fn append(&self, record: Record, body: Bytes, direct: Direct) -> Result<Admitted> {
        let now = self.parts.now();
        let mut append = Append::new(record, Body::Bytes(body), now);
        append.direct = direct;
        append.limits = self.parts.options.limits;
        append.key_retention = self.parts.options.retention.age;
        let _coming = self.parts.hub.coming(append.record.id);
        let appended = self.parts.store.append(vec![append]).await?;
        // Counts first: who hears of an event may ask for them.
        self.parts.publish_totals().await;
        self.admit(appended.into_iter().next(), now)
    }

    fn admit(&self, appended: Option<Appended>, now: Timestamp) -> Result<Admitted> {
        let parts = &self.parts;
        match appended {
            Some(Appended::Queued { record, superseded }) => {
                if let Some(older) = superseded {
                    parts.hub.publish(&older, EventKind::Superseded, now);
                }
                parts.hub.publish(&record, EventKind::Queued, now);
                parts.wake_for(&record);
                Ok(Admitted::Queued(Ticket::of(parts.clone(), &record)))
            }
            Some(Appended::Leased { record }) => Ok(Admitted::Leased(Box::new(record))),
            Some(Appended::Known { record }) => {
                Ok(Admitted::Queued(Ticket::of(parts.clone(), &record)))
            }
            Some(Appended::Conflict { id }) => Err(Error::new(
                ErrorKind::IdempotencyConflict,
                format!(
                    "the idempotency key belongs to another request, action {id}: use a new key"
                ),
            )),
            Some(Appended::Full { limit }) => Err(Error::new(
                ErrorKind::Full,
                format!("the queue is full ({limit}): drain it, clear it, or raise the limit"),
            )),
            None => Err(Error::new(ErrorKind::Storage, "the store gave no result")),
        }
    }

    /// `WriteAhead`: on disk and leased in one commit, then tried. All in a task of its own: when the
    /// caller drops its future, the attempt goes on.
    async fn write_ahead(&self, draft: Draft) -> Result<Outcome> {
        let parts = &self.parts;
        let is_named = !draft.lane.is_default();
        let mut direct = if is_named {
            Direct::Alone
        } else {
            Direct::SideBySide
        };
        if !parts.may_try(&draft.origin, draft.principal.as_deref()) {
            direct = Direct::No;
        }
        let turn = if is_named {
            Some(parts.turn(&draft.lane).await)
        } else {
            None
        };
        let record = draft.record(parts.now())?;
        let outgoing = draft.outgoing(&record);
        let (reply, answer) = oneshot::channel();
        let desk = self.clone();
        let task = tokio::spawn(async move {
            match desk.append(record, outgoing.body.clone(), direct).await? {
                Admitted::Queued(ticket) => Ok(ticket),
                Admitted::Leased(record) => {
                    let ticket = Ticket::of(desk.parts.clone(), &record);
                    desk.start_direct(*record, outgoing, reply, turn);
                    Ok(ticket)
                }
            }
        });
        let ticket = task.await.unwrap_or_else(|_| Err(Error::closed()))?;
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
        // The worker is gone only when the vault is closed: the lease is then taken back at open.
        drop(self.reports.send(Report::Started { id, origin, abort }));
        let attempt = attempt_direct(self.parts.clone(), record, outgoing, reply, reporter);
        tokio::spawn(Abortable::new(attempt, registration).map(drop));
    }

    /// `OnFailure`: tried at once, and queued only when there is no answer to give.
    async fn send_first(&self, draft: Draft) -> Result<Outcome> {
        let parts = &self.parts;
        let record = draft.record(parts.now())?;
        let may_try = parts.may_try(&draft.origin, draft.principal.as_deref());
        let turn = if draft.lane.is_default() {
            None
        } else {
            Some(parts.turn(&draft.lane).await)
        };
        if !may_try || self.is_lane_busy(&draft.lane).await? {
            return self.queue(record, draft.body).await.map(Outcome::Queued);
        }
        let outgoing = draft.outgoing(&record);
        let (record, plan, exchange) = self.try_once(record, &outgoing).await;
        let outcome = match (plan.settlement, exchange.result) {
            (Settlement::Delivered { .. } | Settlement::Dead { .. }, Ok(response)) => {
                Ok(Outcome::Sent(response))
            }
            (settlement, _) => {
                let record = after_failure(record, settlement, plan.wire, plan.status, plan.error);
                self.queue(record, draft.body).await.map(Outcome::Queued)
            }
        };
        drop(turn);
        if let Some(gate) = plan.gate {
            self.keep_gate(gate).await;
        }
        outcome
    }

    /// `Never`: an answer or an error.
    async fn send_only(&self, draft: Draft) -> Result<Outcome> {
        let parts = &self.parts;
        if *parts.mode.borrow() == ConnectivityMode::Offline {
            let text = "the app set the vault offline, and this request may not be queued";
            return Err(Error::new(ErrorKind::Unreachable, text));
        }
        let turn = if draft.lane.is_default() {
            None
        } else {
            Some(parts.turn(&draft.lane).await)
        };
        if self.is_lane_busy(&draft.lane).await? {
            let text = format!(
                "the lane {:?} holds other actions, and this request may neither overtake them nor be queued behind them: name another lane, or allow queueing",
                draft.lane.as_str()
            );
            return Err(Error::new(ErrorKind::WrongState, text));
        }
        let record = draft.record(parts.now())?;
        let outgoing = draft.outgoing(&record);
        let (_, plan, exchange) = self.try_once(record, &outgoing).await;
        drop(turn);
        if let Some(gate) = plan.gate {
            self.keep_gate(gate).await;
        }
        exchange.result.map(Outcome::Sent).map_err(|failure| {
            let text = format!(
                "the request got no answer ({}), and may not be queued",
                failure.kind()
            );
            Error::new(ErrorKind::Unreachable, text).with_source(failure)
        })
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
        let exchange = attempt::exchange(&self.parts, outgoing).await;
        let plan = attempt::conclude(
            &self.parts,
            &record,
            WireState::NeverSent,
            outgoing,
            &exchange,
        );
        self.parts.refresh_connection();
        (record, plan, exchange)
    }

    /// A direct send may pass only an empty lane. No store call while the whole vault is empty.
    async fn is_lane_busy(&self, lane: &Lane) -> Result<bool> {
        if self.parts.hub.status().counts().pending == 0 {
            return Ok(false);
        }
        let totals = self.parts.store.lane(lane.clone()).await?;
        Ok(totals.pending > totals.direct || totals.blocked_by.is_some())
    }

    async fn keep_gate(&self, gate: Gate) {
        let mut step = Advance::new(self.parts.now(), self.parts.options.retention);
        step.gates.push(gate);
        if let Err(error) = self.parts.store.advance(step).await {
            tracing::warn!(%error, "what was learned about an origin is not kept");
        }
        self.parts.wake.notify_one();
    }
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
    reporter: Reporter,
) {
    let exchange = attempt::exchange(&parts, &outgoing).await;
    let mut plan = attempt::conclude(&parts, &record, WireState::NeverSent, &outgoing, &exchange);
    let is_refused = matches!(plan.settlement, Settlement::Dead { .. });
    let response = match (&plan.settlement, exchange.result) {
        (Settlement::Delivered { .. }, Ok(response)) => split(&parts, &record, response),
        (Settlement::Dead { .. }, Ok(response)) => response,
        _ => {
            let mut finished = attempt::finished(&record, plan, None);
            finished.reply = Some(reply);
            return reporter.finish(finished);
        }
    };
    let answer = match reply.send(Reply::Sent(response)) {
        Ok(()) if is_refused => {
            plan.settlement = Settlement::Returned;
            None
        }
        // The caller dropped its future: nobody heard of the refusal, so it is kept.
        Err(Reply::Sent(response)) if is_refused => {
            Some(keep(response, &Keep::default(), parts.now()).await)
        }
        _ => None,
    };
    reporter.finish(attempt::finished(&record, plan, answer));
}

/// What the caller gets. It streams as it comes; what passed by is kept when the body ended or was dropped.
fn split(parts: &Arc<Parts>, record: &Record, response: reqwest::Response) -> reqwest::Response {
    let (parts, id) = (parts.clone(), record.id);
    tee(response, &Keep::default(), parts.now(), move |answer| {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move { keep_later(&parts, id, &answer).await });
    })
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
