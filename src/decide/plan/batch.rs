//! What becomes of the members of a batch: from its answer as a whole, or from what the app said of each.

use std::time::Duration;

use super::Plan;
use crate::action::{Batching, DeadReason, Record, WireState};
use crate::clock::Timestamp;
use crate::decide::closing::{later, told_wait, whole_millis};
use crate::decide::{
    BatchProblem, Counted, Dice, ItemVerdict, OriginState, RetryPolicy, Settlement,
};

/// A member of a batch, as it was leased.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Member<'a> {
    /// The action, in flight.
    pub record: &'a Record,
    /// What the server may have seen before this attempt.
    pub wire_before: WireState,
}

impl<'a> Member<'a> {
    /// A member, and what was known of it before.
    #[must_use]
    pub fn new(record: &'a Record, wire_before: WireState) -> Self {
        Self {
            record,
            wire_before,
        }
    }
}

/// What becomes of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Share {
    /// What is to be written. Its gate is nothing: that of the request is for the whole.
    pub plan: Plan,
    /// What batches may make of it after a retry.
    pub batch: Option<Batching>,
}

/// Did anything of the batch's request reach its server?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Left {
    /// It may have.
    Maybe,
    /// Nothing left.
    Nothing,
}

/// From the plan of the batch's request, which was made for its first member and delivers nothing: all fare alike.
///
/// - **Retry**: the same batch again, all at the same time. What never left is free for another batch.
/// - **No retry left**, for any member, or **rejected as a whole**: each goes alone. That attempt does not count: none dies of
///   what was not said of it.
#[must_use]
pub fn share_whole(
    request: &Plan,
    left: Left,
    members: &[Member<'_>],
    now: Timestamp,
) -> Vec<Share> {
    let (due, counts, backoff_ms) = match request.settlement {
        Settlement::Retry {
            due,
            counts,
            backoff_ms,
        } => (due, counts, backoff_ms),
        _ => return all_singly(request, left, members, after_backoff(members, now)),
    };
    if counts == Counted::Yes && members.iter().any(is_last_try) {
        return all_singly(request, left, members, due);
    }
    let retry = Settlement::Retry {
        due,
        counts,
        backoff_ms,
    };
    let is_free = left == Left::Nothing && is_first_try(members);
    let shares = members.iter().map(|member| Share {
        plan: of_member(request, left, member, retry.clone()),
        batch: match is_free {
            true => freed(member),
            false => member.record.batch,
        },
    });
    shares.collect()
}

/// Every member goes alone from now on, as soon as it can.
#[must_use]
pub fn share_singly(
    problem: &BatchProblem,
    wire: Option<WireState>,
    members: &[Member<'_>],
    now: Timestamp,
) -> Vec<Share> {
    let shares = members.iter().map(|member| Share {
        plan: Plan {
            settlement: uncounted(now, member),
            wire: wire.unwrap_or(member.wire_before),
            gate: None,
            portal: None,
            origin: OriginState::default(),
            status: None,
            error: Some(problem.to_string()),
        },
        batch: Some(Batching::Singly),
    });
    shares.collect()
}

/// What the app said of each. Those that are to be tried again, as long as they were not told different times, wait for the
/// same time, so that they can go together.
#[must_use]
pub fn share_items(
    verdicts: &[ItemVerdict],
    members: &[Member<'_>],
    now: Timestamp,
    policy: &RetryPolicy,
    dice: &mut Dice,
) -> Vec<Share> {
    let mut waits = Waits::default();
    let shares = verdicts.iter().zip(members).map(|(item, member)| {
        let (settlement, status) = match item {
            ItemVerdict::Success { status, .. } => {
                let status = *status;
                (Settlement::Delivered { status }, Some(status))
            }
            ItemVerdict::Reject { status, .. } => {
                let (status, lane) = (*status, policy.dead_lane);
                let reason = DeadReason::Rejected { status };
                (Settlement::Dead { reason, lane }, Some(status))
            }
            ItemVerdict::Retry { after } => {
                let wait = waits.of(member.record, *after, policy, dice);
                (retried(member.record, wait, now, policy), None)
            }
        };
        item_share(settlement, status)
    });
    shares.collect()
}

/// The waits that were chosen for items of this answer already.
#[derive(Default)]
struct Waits {
    own: Option<Duration>,
    told: Option<(Duration, Duration)>,
}

impl Waits {
    fn of(
        &mut self,
        record: &Record,
        after: Option<Duration>,
        policy: &RetryPolicy,
        dice: &mut Dice,
    ) -> Duration {
        let own = *self.own.get_or_insert_with(|| {
            let attempt = record.attempts_counted.saturating_add(1);
            let previous = Duration::from_millis(record.backoff_ms);
            policy.backoff.delay(attempt, previous, dice)
        });
        let Some(after) = after.map(|after| after.min(policy.retry_after_max)) else {
            return own;
        };
        let told = match self.told {
            Some((before, told)) if before == after => told,
            _ => told_wait(Some(after), dice),
        };
        self.told = Some((after, told));
        own.max(told)
    }
}

fn retried(record: &Record, wait: Duration, now: Timestamp, policy: &RetryPolicy) -> Settlement {
    let attempts = record.attempts_counted.saturating_add(1);
    if attempts >= record.attempts_max {
        let status = None;
        return Settlement::Dead {
            reason: DeadReason::RetriesExhausted { attempts, status },
            lane: policy.dead_lane,
        };
    }
    let backoff_ms = whole_millis(wait);
    Settlement::Retry {
        due: later(now, backoff_ms),
        counts: Counted::Yes,
        backoff_ms,
    }
}

fn item_share(settlement: Settlement, status: Option<u16>) -> Share {
    let error = match (&settlement, status) {
        (Settlement::Delivered { .. }, _) => None,
        (_, Some(status)) => Some(format!("status {status}")),
        (_, None) => Some("the answer to its batch asked to try it again".to_owned()),
    };
    Share {
        plan: Plan {
            settlement,
            wire: WireState::Answered,
            gate: None,
            portal: None,
            origin: OriginState::default(),
            status,
            error,
        },
        batch: Some(Batching::Again),
    }
}

fn all_singly(request: &Plan, left: Left, members: &[Member<'_>], due: Timestamp) -> Vec<Share> {
    let shares = members.iter().map(|member| Share {
        plan: of_member(request, left, member, uncounted(due, member)),
        batch: Some(Batching::Singly),
    });
    shares.collect()
}

fn of_member(request: &Plan, left: Left, member: &Member<'_>, settlement: Settlement) -> Plan {
    Plan {
        settlement,
        wire: wire_of(request, left, member),
        gate: None,
        portal: request.portal,
        origin: OriginState::default(),
        status: request.status,
        error: request.error.clone(),
    }
}

/// An answer that refuses the batch says nothing of an attempt before it that went unanswered.
fn wire_of(request: &Plan, left: Left, member: &Member<'_>) -> WireState {
    match (left, member.wire_before) {
        (Left::Nothing, before) => before,
        (Left::Maybe, WireState::MaybeSent) => WireState::MaybeSent,
        (Left::Maybe, _) => request.wire,
    }
}

fn uncounted(due: Timestamp, member: &Member<'_>) -> Settlement {
    Settlement::Retry {
        due,
        counts: Counted::No,
        backoff_ms: member.record.backoff_ms,
    }
}

/// The wait of the attempt before, once more: what refused the whole may refuse each.
fn after_backoff(members: &[Member<'_>], now: Timestamp) -> Timestamp {
    let waits = members.iter().map(|member| member.record.backoff_ms);
    later(now, waits.max().unwrap_or_default())
}

fn is_last_try(member: &Member<'_>) -> bool {
    let record = member.record;
    record.attempts_counted.saturating_add(1) >= record.attempts_max
}

/// Is this the attempt with which the batch was formed?
fn is_first_try(members: &[Member<'_>]) -> bool {
    let head = members.first().map(|member| member.record);
    head.is_some_and(|head| {
        let batch = head.batch.as_ref().and_then(Batching::batch);
        batch.is_some_and(|batch| batch.no == head.attempts)
    })
}

/// A batch of which nothing ever left is none.
fn freed(member: &Member<'_>) -> Option<Batching> {
    match member.wire_before {
        WireState::NeverSent => None,
        _ => Some(Batching::Again),
    }
}
