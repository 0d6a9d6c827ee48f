//! One try of a batch on the wire: fold, send once, judge the answer as a whole or have it split, and report the end of every
//! member in one message.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;

use super::folding::{Folding, Unfolded};
use super::{Exchange, Finished, Report, conclude, exchange, finished, put_off};
use crate::action::{Answer, Batching, PortalSign, Record, WireState};
use crate::clock::Timestamp;
use crate::decide::{
    BatchAnswer, BatchItem, BatchProblem, Counted, ItemVerdict, Left, Member, OriginState, Plan,
    Settlement, Share, share_items, share_singly, share_whole,
};
use crate::parts::Parts;
use crate::store::{Leased, Settle};
use crate::transport::{NotWhole, read_whole};

/// Reports the end of a batch exactly once, also when its attempt is dropped or panics.
#[derive(Debug)]
pub(crate) struct BatchReporter {
    reports: UnboundedSender<Report>,
    interrupted: Vec<Finished>,
}

impl BatchReporter {
    /// For an attempt of these, which are in flight.
    pub(crate) fn new(reports: UnboundedSender<Report>, leased: &[Leased]) -> Self {
        let interrupted = leased
            .iter()
            .filter_map(|one| interrupted(&one.record))
            .collect();
        Self {
            reports,
            interrupted,
        }
    }

    fn finish(mut self, finished: Vec<Finished>) {
        self.interrupted.clear();
        self.send(finished);
    }

    fn send(&self, finished: Vec<Finished>) {
        // The worker is gone only when the vault is closed: the leases are then taken back at open.
        drop(self.reports.send(Report::Batch(finished)));
    }
}

impl Drop for BatchReporter {
    fn drop(&mut self) {
        let mut interrupted = std::mem::take(&mut self.interrupted);
        if interrupted.is_empty() {
            return;
        }
        if std::thread::panicking() {
            for one in &mut interrupted {
                one.settle.error = Some("the attempt panicked".to_owned());
                one.settle.batch = Some(Batching::Singly);
            }
        }
        self.send(interrupted);
    }
}

/// It may have left: the same batch again.
fn interrupted(record: &Record) -> Option<Finished> {
    let retry = Settlement::Retry {
        due: record.last_attempt.unwrap_or(record.created),
        counts: Counted::No,
        backoff_ms: record.backoff_ms,
    };
    let mut settle = Settle::of(record, retry, WireState::MaybeSent)?;
    settle.error = Some("the attempt was cut off".to_owned());
    Some(Finished::of(settle, record))
}

/// Runs the attempt of a leased batch and reports the end of all its members.
pub(crate) async fn run_batch(parts: Arc<Parts>, leased: Vec<Leased>, reporter: BatchReporter) {
    let members: Vec<Member<'_>> = leased.iter().map(member).collect();
    let finished = match Folding::of(&parts, &leased).await {
        Ok(folding) => tried(&parts, &folding, &members).await,
        Err(Unfolded::Apart(problem)) => {
            let shares = apart(&problem, None, &members, parts.now());
            all_finished(&members, shares, Vec::new())
        }
        Err(Unfolded::Later(error)) => {
            let request = put_off_whole(&members, &error.to_string());
            let shares = share_whole(&request, Left::Nothing, &members, parts.now());
            all_finished(&members, shares, Vec::new())
        }
    };
    reporter.finish(finished);
}

fn member(leased: &Leased) -> Member<'_> {
    Member::new(&leased.record, leased.wire_before)
}

fn apart(
    problem: &BatchProblem,
    wire: Option<WireState>,
    members: &[Member<'_>],
    now: Timestamp,
) -> Vec<Share> {
    let head = members.first().map(|member| member.record.id);
    match problem {
        BatchProblem::Declined => tracing::debug!(?head, "a batch goes one by one"),
        problem => tracing::error!(?head, %problem, "a batch goes one by one"),
    }
    share_singly(problem, wire, members, now)
}

fn put_off_whole(members: &[Member<'_>], error: &str) -> Plan {
    let head = members.first();
    let settlement = head.map_or(Settlement::Returned, |head| {
        put_off(head.record, Counted::No)
    });
    Plan {
        settlement,
        wire: head.map_or(WireState::NeverSent, |head| head.wire_before),
        gate: None,
        portal: None,
        origin: OriginState::default(),
        status: None,
        error: Some(error.to_owned()),
    }
}

/// One exchange, and what follows for each member.
async fn tried(parts: &Parts, folding: &Folding<'_>, members: &[Member<'_>]) -> Vec<Finished> {
    let Some(head) = members.first() else {
        return Vec::new();
    };
    let mut exchange = exchange(parts, &folding.outgoing).await;
    let body = body_of(&mut exchange, folding.batched.limits.answer_bytes_max).await;
    let outgoing = &folding.outgoing;
    let plan = conclude(parts, head.record, head.wire_before, outgoing, &exchange);
    let now = parts.now();
    let (shares, answers) = match plan.settlement {
        Settlement::Delivered { status } => match split(folding, status, body, &exchange) {
            Ok(verdicts) => {
                let (policy, mut dice) = (&parts.options.policy, parts.dice());
                let shares = share_items(&verdicts, members, now, policy, &mut dice);
                let answers = verdicts.into_iter().map(|verdict| kept(verdict, now));
                (shares, answers.collect())
            }
            // The server took something, nobody knows what.
            Err(problem) => {
                let wire = Some(WireState::MaybeSent);
                (apart(&problem, wire, members, now), Vec::new())
            }
        },
        _ => {
            let left = left(&plan, &exchange);
            (share_whole(&plan, left, members, now), Vec::new())
        }
    };
    let mut finished = all_finished(members, shares, answers);
    // What the request taught about its origin, or its principal, is written once.
    if let Some(first) = finished.first_mut() {
        first.gate = plan.gate;
    }
    finished
}

/// The body of the answer. A delivery whose answer breaks off is one without an answer: what it said of each is lost.
async fn body_of(exchange: &mut Exchange, bytes_max: u64) -> Result<Bytes, BatchProblem> {
    let Ok(response) = &mut exchange.result else {
        return Ok(Bytes::new());
    };
    match read_whole(response, bytes_max).await {
        Ok(body) => Ok(body),
        Err(NotWhole::Lost(failure)) if response.status().is_success() => {
            exchange.result = Err(failure);
            Ok(Bytes::new())
        }
        Err(NotWhole::Lost(_)) => Ok(Bytes::new()),
        Err(NotWhole::TooLong) => Err(BatchProblem::AnswerTooLong),
    }
}

fn split(
    folding: &Folding<'_>,
    status: u16,
    body: Result<Bytes, BatchProblem>,
    exchange: &Exchange,
) -> Result<Vec<ItemVerdict>, BatchProblem> {
    let headers = match &exchange.result {
        Ok(response) => response.headers().clone(),
        Err(_) => http::HeaderMap::new(),
    };
    let answer = BatchAnswer::new(status, headers, body?);
    let items: &[BatchItem] = &folding.items;
    let batcher = &folding.batched.batcher;
    let split = AssertUnwindSafe(|| batcher.split(&answer, items));
    let verdicts = catch_unwind(split).map_err(|_| BatchProblem::Panicked)?;
    match verdicts.len() == items.len() {
        true => Ok(verdicts),
        false => Err(BatchProblem::WrongCount {
            items: items.len(),
            verdicts: verdicts.len(),
        }),
    }
}

fn left(plan: &Plan, exchange: &Exchange) -> Left {
    let failure = exchange.result.as_ref().err();
    let never_left = failure.is_some_and(|failure| failure.kind().never_left());
    match never_left || plan.portal == Some(PortalSign::Status) {
        true => Left::Nothing,
        false => Left::Maybe,
    }
}

/// What is kept as the answer of one item.
fn kept(verdict: ItemVerdict, now: Timestamp) -> Option<Answer> {
    let (ItemVerdict::Success { status, mut body } | ItemVerdict::Reject { status, mut body }) =
        verdict
    else {
        return None;
    };
    let mut answer = Answer::new(status, now);
    answer.is_truncated = body.len() > Answer::BODY_BYTES_MAX;
    body.truncate(Answer::BODY_BYTES_MAX);
    answer.body = body;
    Some(answer)
}

fn all_finished(
    members: &[Member<'_>],
    shares: Vec<Share>,
    answers: Vec<Option<Answer>>,
) -> Vec<Finished> {
    let answers = answers.into_iter().chain(std::iter::repeat(None));
    let all = members.iter().zip(shares).zip(answers);
    all.map(|((member, share), answer)| {
        let mut finished = finished(member.record, share.plan, answer);
        finished.settle.batch = share.batch;
        finished
    })
    .collect()
}
