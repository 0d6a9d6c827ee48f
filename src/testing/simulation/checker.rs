//! Holds what the app was told against what the server saw, in the manner of Jepsen's total-queue: what went in must
//! come out, once, in order, or have a name for where it went.

use super::history::{Attempt, Call, History, Told};
use super::report::{Breach, Promise};
use crate::action::{DeadReason, Ledger, State};
use crate::dispatch::Delivery;

/// All attempts of each call, in their order.
type Attempts<'a> = Vec<Vec<&'a Attempt>>;

impl History {
    /// Everything that is wrong, when all is drained.
    pub(super) fn check(&self, ledger: &Ledger, dead: u64) -> Vec<Breach> {
        let mut attempts: Attempts<'_> = vec![Vec::new(); self.calls.len()];
        for attempt in &self.attempts {
            if let Some(of_call) = attempts.get_mut(attempt.call) {
                of_call.push(attempt);
            }
        }
        let mut found = Vec::new();
        for (nth, (call, attempts)) in self.calls.iter().zip(&attempts).enumerate() {
            let effects = self.effects.iter().filter(|call| **call == nth).count();
            found.extend(lost(nth, call, effects));
            found.extend(unexpected(nth, call, attempts));
            found.extend(doubled(nth, call, attempts, effects));
            found.extend(self.duplicated(nth, call, attempts));
        }
        found.extend(self.reordered(&attempts));
        found.extend(self.ledger_off(ledger, dead));
        found
    }

    /// What was told to be delivered is not sent again.
    fn duplicated(&self, nth: usize, call: &Call, attempts: &[&Attempt]) -> Option<Breach> {
        let delivered = self.delivered.get(&nth)?;
        // Who is forgotten has no keys any more.
        let must_know = call.is_ahead() && !call.is_forgotten;
        let again = must_know && attempts.iter().any(|attempt| attempt.began > *delivered);
        let text = || format!("{nth} is sent after it was told to be delivered");
        again.then(|| Breach::new(Promise::Duplicated, text()))
    }

    fn reordered(&self, attempts: &Attempts<'_>) -> Vec<Breach> {
        let mut found = Vec::new();
        for (nth, call) in self.calls.iter().enumerate() {
            let Some(told) = queued_at(call) else {
                continue;
            };
            let Some(last) = attempts[nth]
                .iter()
                .filter_map(|attempt| attempt.ended)
                .max()
            else {
                continue;
            };
            for (other, later) in self.calls.iter().enumerate() {
                let is_behind = is_same_lane(call, later)
                    && later.called.first().is_some_and(|called| *called > told);
                let first = attempts[other].first().filter(|_| is_behind);
                if first.is_some_and(|first| first.began < last) {
                    let text = format!("{other} was sent before {nth} was settled");
                    found.push(Breach::new(Promise::Reordered, text));
                }
            }
        }
        found.extend(self.at_once());
        found
    }

    /// Two attempts at the same time: of one request, or in a lane that the app named.
    fn at_once(&self) -> Vec<Breach> {
        let mut found = Vec::new();
        for (place, one) in self.attempts.iter().enumerate() {
            for two in self.attempts[place + 1..]
                .iter()
                .take_while(|two| two.life == one.life)
            {
                let is_over = one.ended.is_some_and(|ended| ended < two.began);
                if is_over || !self.must_not_meet(one, two) {
                    continue;
                }
                let text = format!("{} and {} are on the wire at once", one.call, two.call);
                found.push(Breach::new(Promise::Reordered, text));
            }
        }
        found
    }

    fn must_not_meet(&self, one: &Attempt, two: &Attempt) -> bool {
        let (first, second) = (&self.calls[one.call], &self.calls[two.call]);
        match one.call == two.call {
            true => first.called.len() == 1,
            false => {
                let are_ahead = first.is_ahead() && second.is_ahead();
                are_ahead && first.lane != "default" && is_same_lane(first, second)
            }
        }
    }

    fn ledger_off(&self, ledger: &Ledger, dead: u64) -> Vec<Breach> {
        let any = |is: fn(&Call) -> bool| self.calls.iter().any(is);
        let cancelled = self.calls.iter().filter(|call| call.is_cancelled).count() as u64;
        let facts = [
            (ledger.is_balanced(), "it does not balance"),
            (ledger.pending == 0, "something is pending"),
            (ledger.dead >= dead, "fewer dead than there are letters"),
            (
                ledger.dead == dead || any(|call| call.may_be_discarded),
                "more dead than there are letters",
            ),
            (
                ledger.cancelled >= cancelled,
                "fewer cancelled than were told",
            ),
            (
                ledger.cancelled == 0 || any(|call| call.may_be_cancelled),
                "something is cancelled that nobody cancelled",
            ),
            (
                ledger.evicted == 0 || any(|call| call.is_forgotten),
                "something is evicted that nobody forgot",
            ),
        ];
        let wrong = facts.into_iter().filter(|(is_right, _)| !is_right);
        wrong
            .map(|(_, text)| Breach::new(Promise::LedgerOff, format!("{text}: {ledger:?}")))
            .collect()
    }
}

fn is_same_lane(one: &Call, two: &Call) -> bool {
    (one.lane, one.principal) == (two.lane, two.principal)
}

/// When the app was told that it stands in its lane; nothing when its place is not certain.
pub(super) fn queued_at(call: &Call) -> Option<u64> {
    let is_certain = !call.may_be_requeued && !call.is_forgotten && call.ids.len() <= 1;
    let is_repeated = call.called.len() > 1;
    let is_returned = |(_, told): &(u64, Told)| matches!(told, Told::Sent { status, .. } if !(200..300).contains(status));
    let may_end_early =
        call.may_be_cancelled || call.expires_in.is_some() || call.coalesce.is_some();
    let was_gone =
        is_repeated && (!call.is_ahead() || may_end_early || call.told.iter().any(is_returned));
    if !is_certain || was_gone {
        return None;
    }
    let is_named = call.lane != "default" && call.is_ahead();
    let is_placed = |told: &Told| match told {
        Told::Queued(_) => true,
        Told::Sent { status, .. } => is_named && (200..300).contains(status),
        _ => false,
    };
    let told = call.told.iter().find(|(_, told)| is_placed(told));
    told.map(|(tick, _)| *tick)
}

fn lost(nth: usize, call: &Call, effects: usize) -> Vec<Breach> {
    let mut found = Vec::new();
    let mut lose = |text: String| found.push(Breach::new(Promise::Lost, format!("{nth} {text}")));
    let is_done = |(_, told): &(u64, Told)| matches!(told, Told::Sent { status, is_own: true } if (200..300).contains(status));
    if call.told.iter().any(is_done) && effects == 0 {
        lose("was answered and had no effect".to_owned());
    }
    for end in call.ends.values() {
        let may_be_gone = call.may_be_discarded || call.is_forgotten;
        match end {
            None if may_be_gone => {}
            None => lose("was acknowledged and is not known".to_owned()),
            Some(State::Delivered { .. }) if effects > 0 => {}
            Some(State::Delivered { .. }) => lose("was delivered and had no effect".to_owned()),
            Some(State::Dead { reason, .. }) if !is_reason(call, reason) => {
                lose(format!("was given up without a cause: {reason}"));
            }
            Some(State::Cancelled { .. }) if !call.may_be_cancelled => {
                lose("is cancelled, and nobody cancelled it".to_owned());
            }
            Some(State::Expired { .. }) if call.expires_in.is_none() => {
                lose("is expired, and was to wait for ever".to_owned());
            }
            Some(State::Superseded { .. }) if call.coalesce.is_none() && !call.may_be_cancelled => {
                lose("is superseded, and was to be sent".to_owned());
            }
            _ => {}
        }
    }
    found
}

/// Did the server, or the network, give this reason?
fn is_reason(call: &Call, reason: &DeadReason) -> bool {
    match reason {
        DeadReason::Rejected { status }
        | DeadReason::Unauthorized { status }
        | DeadReason::Redirected { status } => call.statuses.contains(status),
        DeadReason::RetriesExhausted { attempts, .. } => call.countable >= *attempts,
        // Keys are known for ever here, nothing is damaged, and all can be sent.
        DeadReason::Unsendable { .. }
        | DeadReason::Salvaged
        | DeadReason::Uncertain { .. }
        | DeadReason::ParentDead { .. }
        | DeadReason::Unresolved { .. } => false,
    }
}

fn unexpected(nth: usize, call: &Call, attempts: &[&Attempt]) -> Option<Breach> {
    let is_single = call.called.len() == 1;
    let is_superseded = |end: &Option<State>| matches!(end, Some(State::Superseded { .. }));
    let is_tried = !attempts.is_empty();
    let has_left = attempts.iter().any(|attempt| !attempt.never_arrives);
    let why = if call.is_refused() && is_tried {
        "was refused"
    } else if is_single && call.is_cancelled && has_left {
        "was cancelled"
    } else if is_single && call.is_replaced && has_left {
        "was replaced as one that was never sent"
    } else if is_single && call.ends.values().any(is_superseded) && has_left {
        "was superseded as one that was never sent"
    } else {
        return None;
    };
    let text = format!("{nth} {why}, and was sent");
    Some(Breach::new(Promise::Unexpected, text))
}

fn doubled(nth: usize, call: &Call, attempts: &[&Attempt], effects: usize) -> Option<Breach> {
    if call.method.is_safe() || call.delivery == Some(Delivery::Never) && call.key.is_none() {
        return None;
    }
    let first = attempts.first().map(|attempt| &attempt.key)?;
    let is_one_key = attempts.iter().all(|attempt| attempt.key == *first) && first.is_some();
    let text = match (is_one_key, effects) {
        (false, _) => "was sent with several keys, or none",
        (true, 0 | 1) => return None,
        (true, _) => "had its effect twice",
    };
    Some(Breach::new(Promise::DoubleEffect, format!("{nth} {text}")))
}
