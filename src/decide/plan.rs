//! From a verdict to what is written: the settlement, the wire state and the gate, all at once.
//! The only place that turns waits into due times.

mod batch;

use std::time::Duration;

use super::closing::{later, told_wait, whole_millis};
use super::{
    Backoff, Closing, Counted, Dice, Ended, FailureKind, Gate, GateKey, GateReason, Observed,
    OriginState, RetryPolicy, RetryScope, Settlement, Sign, Trip, Verdict, is_good_answer,
    reset_gate,
};
use crate::action::{DeadReason, PortalSign, Record, WireState};
use crate::clock::Timestamp;

pub use batch::{Left, Member, Share, share_items, share_singly, share_whole};

/// The wait after a shortage of this machine: short, and never zero.
const LOCAL_BACKOFF: Backoff = Backoff::fixed(Duration::from_secs(1)).equal_jitter();

/// An attempt that ended, and what is known around it.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The action, in flight.
    pub record: &'a Record,
    /// What the server may have seen before this attempt.
    pub wire_before: WireState,
    /// The gate of its origin, as the store keeps it.
    pub gate: Option<&'a Gate>,
    /// What else is remembered of its origin.
    pub origin: &'a OriginState,
    /// How many attempts may run side by side in the whole vault.
    pub slots: usize,
    /// The gate of its principal, as the store keeps it.
    pub principal_gate: Option<&'a Gate>,
    /// What the attempt means.
    pub verdict: &'a Verdict,
    /// What came back.
    pub observed: &'a Observed<'a>,
    /// Now.
    pub now: Timestamp,
}

/// What is to be written, in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// What becomes of the action.
    pub settlement: Settlement,
    /// What the server may have seen now.
    pub wire: WireState,
    /// The gate to set, of the origin or of the principal; nothing = none changes.
    pub gate: Option<Gate>,
    /// The sign of a login page, if that is what was met.
    pub portal: Option<PortalSign>,
    /// What is remembered of the origin now.
    pub origin: OriginState,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// What went wrong, in words without any content of the request.
    pub error: Option<String>,
}

/// What follows from a verdict.
///
/// - **Waits.** What the origin or the principal waits for is in its gate. The action itself waits by
///   [`backoff`](RetryPolicy::backoff), and only after an attempt that counts or a retry of its own.
/// - **Retry-After.** Never earlier than told, and a little later, so that not everybody comes back at once.
/// - **Same trouble.** A gate that is still closed when an attempt ends was closed while that attempt was under way:
///   its failures do not rise again, and a good answer does not open what the server asked for.
/// - **The origin** learns from each attempt: see [`OriginState`]. Failures in a row trip its breaker, which closes the gate; a
///   retry that is over the budget waits for it.
/// - **Good answers** reset a gate with failures. At most one gate changes: a closing goes first, then the origin's
///   reset, then the principal's; a reset that found no place comes with the next good answer.
/// - **The wire** stays [`MaybeSent`](WireState::MaybeSent) through answers that only put off: they tell nothing of
///   the attempt that went unanswered, and a later 409 must still be read as "still processing".
#[must_use]
pub fn plan(situation: &Situation<'_>, policy: &RetryPolicy, dice: &mut Dice) -> Plan {
    let sign = Sign::of(situation.verdict, situation.observed);
    let mut origin = situation.origin.clone();
    let is_first_try = situation.record.attempts <= 1;
    let (trip, wait) = origin.judge(sign, is_first_try, situation.now, &policy.origin);
    let gate = gate_after(situation, trip, policy, dice);
    let ended = Ended {
        sign,
        is_closed: is_closed_after(situation, gate.as_ref()),
        slots: situation.slots,
        now: situation.now,
    };
    origin.ended(&ended, &policy.origin, dice);
    let budget = later(situation.now, whole_millis(wait));
    Plan {
        gate,
        origin,
        settlement: not_before(settlement(situation, policy, dice), budget),
        wire: wire_after(situation),
        portal: sign_of(situation),
        status: situation.observed.status(),
        error: error_text(situation),
    }
}

fn sign_of(situation: &Situation<'_>) -> Option<PortalSign> {
    match situation.verdict {
        Verdict::Portal(sign) => Some(*sign),
        _ => None,
    }
}

fn is_closed_after(situation: &Situation<'_>, gate: Option<&Gate>) -> bool {
    let is_origin = |gate: &&Gate| matches!(gate.key, GateKey::Origin(_));
    let gate = gate.filter(is_origin).or(situation.gate);
    gate.is_some_and(|gate| gate.is_closed(situation.now))
}

fn not_before(settlement: Settlement, time: Timestamp) -> Settlement {
    match settlement {
        Settlement::Retry {
            due,
            counts,
            backoff_ms,
        } => Settlement::Retry {
            due: due.max(time),
            counts,
            backoff_ms,
        },
        other => other,
    }
}

fn settlement(situation: &Situation<'_>, policy: &RetryPolicy, dice: &mut Dice) -> Settlement {
    match situation.verdict {
        Verdict::Delivered => match situation.observed.status() {
            Some(status) => Settlement::Delivered { status },
            // Only an app's classifier can say this. Nothing is delivered without an answer.
            None => {
                let wait = own_wait(situation, policy, Counted::Yes, dice);
                put_off(situation, policy, Counted::Yes, wait)
            }
        },
        Verdict::Reject(reason) => Settlement::Dead {
            reason: reason.clone(),
            lane: policy.dead_lane,
        },
        Verdict::Retry {
            scope: RetryScope::Action,
            counts,
            after,
        } => {
            let told = told_wait(*after, dice);
            let wait = own_wait(situation, policy, *counts, dice).max(told);
            put_off(situation, policy, *counts, wait)
        }
        Verdict::Retry {
            scope: RetryScope::Origin,
            counts,
            ..
        } => behind_gate(situation, policy, *counts, dice),
        Verdict::Unreachable => behind_gate(situation, policy, policy.unreachable, dice),
        Verdict::Portal(_) => behind_gate(situation, policy, Counted::No, dice),
        Verdict::Hold => behind_gate(situation, policy, Counted::No, dice),
    }
}

/// The gate holds the action; an attempt that counts waits for its own backoff too, so that it cannot use up its
/// retries while the gate, reset by other actions' good answers, opens every second.
fn behind_gate(
    situation: &Situation<'_>,
    policy: &RetryPolicy,
    counts: Counted,
    dice: &mut Dice,
) -> Settlement {
    let wait = match counts {
        Counted::Yes => own_wait(situation, policy, counts, dice),
        Counted::No => Duration::ZERO,
    };
    put_off(situation, policy, counts, wait)
}

fn put_off(
    situation: &Situation<'_>,
    policy: &RetryPolicy,
    counts: Counted,
    wait: Duration,
) -> Settlement {
    let attempts = situation.record.attempts_counted.saturating_add(1);
    if counts == Counted::Yes && attempts >= situation.record.attempts_max {
        let status = situation.observed.status();
        return Settlement::Dead {
            reason: DeadReason::RetriesExhausted { attempts, status },
            lane: policy.dead_lane,
        };
    }
    let backoff_ms = whole_millis(wait);
    Settlement::Retry {
        due: later(situation.now, backoff_ms),
        counts,
        backoff_ms,
    }
}

fn own_wait(
    situation: &Situation<'_>,
    policy: &RetryPolicy,
    counts: Counted,
    dice: &mut Dice,
) -> Duration {
    let record = situation.record;
    match situation.observed {
        Observed::Failure(FailureKind::Local) => {
            return LOCAL_BACKOFF.delay(1, Duration::ZERO, dice);
        }
        // What it waits for is its principal, not time.
        Observed::Failure(FailureKind::NotActive) => return Duration::ZERO,
        _ => {}
    }
    let attempt = match counts {
        Counted::Yes => record.attempts_counted.saturating_add(1),
        Counted::No => record.attempts,
    };
    let previous = Duration::from_millis(record.backoff_ms);
    policy.backoff.delay(attempt, previous, dice)
}

fn gate_after(
    situation: &Situation<'_>,
    trip: Trip,
    policy: &RetryPolicy,
    dice: &mut Dice,
) -> Option<Gate> {
    let record = situation.record;
    let origin = || GateKey::Origin(record.origin.clone());
    let (key, old, reason, after) = match situation.verdict {
        Verdict::Retry {
            scope: RetryScope::Origin,
            after,
            ..
        } => (
            origin(),
            situation.gate,
            reason_of(situation.observed),
            *after,
        ),
        Verdict::Unreachable => (origin(), situation.gate, GateReason::Unreachable, None),
        Verdict::Portal(_) => (origin(), situation.gate, GateReason::Portal, None),
        Verdict::Hold => (
            GateKey::Principal(record.principal.clone()),
            situation.principal_gate,
            GateReason::Unauthorized,
            None,
        ),
        _ if trip == Trip::Yes => (origin(), situation.gate, GateReason::Failing, None),
        _ => return reset_after(situation),
    };
    let closing = Closing {
        key,
        reason,
        after,
        now: situation.now,
    };
    Some(closing.gate(old, policy, dice))
}

fn reset_after(situation: &Situation<'_>) -> Option<Gate> {
    let status = situation.observed.status()?;
    let is_good = is_good_answer(status) || *situation.verdict == Verdict::Delivered;
    // Whatever it answered: it was reached.
    let is_reset = |gate: &&Gate| is_good || gate.reason.is_absence();
    let gate = situation.gate.filter(is_reset);
    let principal_gate = situation
        .principal_gate
        .filter(|_| is_good && status != 401);
    [gate, principal_gate]
        .into_iter()
        .flatten()
        .find_map(|old| reset_gate(old, situation.now))
}

fn reason_of(observed: &Observed<'_>) -> GateReason {
    match observed.status() {
        Some(429) => GateReason::RateLimited,
        Some(_) => GateReason::Unavailable,
        None => GateReason::Unreachable,
    }
}

fn wire_after(situation: &Situation<'_>) -> WireState {
    let status = match situation.observed {
        Observed::Failure(kind) if kind.never_left() => return situation.wire_before,
        Observed::Failure(_) => return WireState::MaybeSent,
        Observed::Answer { status, .. } => *status,
    };
    match situation.verdict {
        Verdict::Delivered | Verdict::Reject(_) => WireState::Answered,
        // No server gives this status (RFC 6585, section 6). All other signs might still be the server's.
        Verdict::Portal(PortalSign::Status) => situation.wire_before,
        Verdict::Unreachable | Verdict::Portal(_) => WireState::MaybeSent,
        _ if situation.wire_before == WireState::MaybeSent => WireState::MaybeSent,
        _ if is_word_of_a_gateway(status) => WireState::MaybeSent,
        _ => WireState::Answered,
    }
}

/// Somebody between us and the server answered, because the server did not: it may have seen the request.
fn is_word_of_a_gateway(status: u16) -> bool {
    matches!(status, 407 | 502 | 504 | 520..=530)
}

fn error_text(situation: &Situation<'_>) -> Option<String> {
    match (situation.observed, situation.verdict) {
        (Observed::Answer { status, .. }, Verdict::Portal(sign)) => {
            Some(format!("status {status}, not from the server: {sign}"))
        }
        (Observed::Failure(kind), _) => Some(kind.to_string()),
        (Observed::Answer { .. }, Verdict::Delivered) => None,
        (Observed::Answer { status, .. }, Verdict::Unreachable) => {
            Some(format!("status {status}, not from the server"))
        }
        (Observed::Answer { status, .. }, _) => Some(format!("status {status}")),
    }
}

#[cfg(test)]
mod tests;
