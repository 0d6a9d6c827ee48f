//! A good citizen to the server: what is remembered of an origin beside its gate, and what follows for the next attempt.
//! One idea in each file; here they are put together. Kept with the gate, so that a restart forgets nothing.

mod breaker;
mod budget;
mod pace;
mod policy;
mod rate;
mod sign;
mod spread;
mod throttle;
mod window;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use breaker::{Breaker, Trip};
pub use budget::Budget;
pub use pace::Pace;
pub use policy::OriginPolicy;
pub use rate::{Rate, RateLimit};
pub use sign::Sign;
pub use spread::spread;
pub use throttle::Throttle;
pub use window::Window;

use super::Dice;
use crate::clock::Timestamp;

/// What is remembered of an origin. The default is one that was never in trouble.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct OriginState {
    /// Since when it is in trouble.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub troubled_since: Option<Timestamp>,
    /// Failures in a row.
    pub breaker: Breaker,
    /// How many attempts may run side by side.
    pub window: Window,
    /// How far apart they start.
    pub pace: Pace,
    /// The retry budget.
    pub budget: Budget,
    /// What the server made of the last two minutes.
    pub throttle: Throttle,
    /// How much of the rate limit is used.
    pub rate: Rate,
    /// Why nothing starts now though the gate is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Fields this version does not know, kept as they are.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Nothing starts before a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Hold {
    /// The time.
    pub until: Timestamp,
    /// Why.
    pub by: HoldReason,
}

impl Hold {
    /// Nothing starts before `until`.
    #[must_use]
    pub fn new(until: Timestamp, by: HoldReason) -> Self {
        Self { until, by }
    }
}

/// Why nothing starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HoldReason {
    /// Attempts are held apart after an outage.
    SlowStart,
    /// The server refused most of what was sent.
    Throttle,
    /// The app's rate limit.
    RateLimit,
    /// A reason of a newer version.
    #[serde(other)]
    Other,
}

/// An attempt that ended, as its origin sees it.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// What it says about the origin.
    pub sign: Sign,
    /// True while the gate of the origin is closed after it.
    pub is_closed: bool,
    /// How many attempts may run side by side in the whole vault.
    pub slots: usize,
    /// Now.
    pub now: Timestamp,
}

impl OriginState {
    /// Counts an attempt: the breaker's word, and how long a retry of the action must wait for its budget.
    pub fn judge(
        &mut self,
        sign: Sign,
        is_first_try: bool,
        now: Timestamp,
        policy: &OriginPolicy,
    ) -> (Trip, Duration) {
        let (breaker, trip) = self.breaker.after(sign, policy.circuit_breaker);
        self.breaker = breaker;
        let Some(percent) = policy.retry_budget else {
            return (trip, Duration::ZERO);
        };
        if is_first_try && sign.has_reached() {
            self.budget = self.budget.first_try(percent);
        }
        let wait = match sign {
            Sign::Refused | Sign::Failing | Sign::Lost => {
                let (budget, wait) = self.budget.retry(now);
                self.budget = budget;
                wait
            }
            Sign::Good | Sign::Away | Sign::Nothing => Duration::ZERO,
        };
        (trip, wait)
    }

    /// Learns from an attempt that ended, when its gate is known: window, pace and throttle.
    pub fn ended(&mut self, ended: &Ended, policy: &OriginPolicy, dice: &mut Dice) {
        let now = ended.now;
        self.throttle = match ended.sign {
            Sign::Good | Sign::Failing => self.throttle.accepted(now),
            Sign::Refused | Sign::Lost => self.throttle.refused(now),
            Sign::Away | Sign::Nothing => self.throttle,
        };
        match ended.sign {
            Sign::Good if !ended.is_closed => self.answered_well(ended, policy, dice),
            Sign::Refused => self.refused(ended, policy, dice),
            Sign::Lost if self.is_ramping() => self.refused(ended, policy, dice),
            _ => {}
        }
        if ended.is_closed && ended.sign != Sign::Good {
            self.troubled_since.get_or_insert(now);
        }
    }

    fn answered_well(&mut self, ended: &Ended, policy: &OriginPolicy, dice: &mut Dice) {
        let Some(since) = self.troubled_since.take() else {
            if self.is_ramping() {
                self.pace = self.pace.faster();
                self.window = self.window.wider(ended.slots);
                self.pull_in(ended.now, dice);
            }
            return;
        };
        let length = ended.now.since(since);
        let pace = Pace::after_outage(length, policy.slow_start);
        self.pace = self.pace.max(pace);
        if pace.is_on() {
            self.window = Window::after_outage();
        }
        self.space(ended.now, dice);
    }

    /// The distance to the next start was thrown for the slower pace before.
    fn pull_in(&mut self, now: Timestamp, dice: &mut Dice) {
        if let Some(hold) = &mut self.hold
            && hold.by == HoldReason::SlowStart
        {
            hold.until = hold.until.min(now.after(self.pace.distance(dice)));
        }
    }

    fn refused(&mut self, ended: &Ended, policy: &OriginPolicy, dice: &mut Dice) {
        if !policy.slow_start.is_zero() {
            self.window = self.window.narrower(ended.slots);
            self.pace = self.pace.slower(policy.slow_start);
            self.space(ended.now, dice);
        }
        if let Some(k) = policy.throttle {
            let held = self.throttle.hold(ended.now, k, dice);
            self.hold_back(ended.now, held, HoldReason::Throttle);
        }
    }

    /// An attempt starts: the next one keeps its distance.
    pub fn started(&mut self, now: Timestamp, policy: &OriginPolicy, dice: &mut Dice) {
        self.space(now, dice);
        if let Some(limit) = policy.rate_limit {
            self.rate = limit.take(self.rate, now);
            let wait = limit.opens_at(self.rate, now).since(now);
            self.hold_back(now, wait, HoldReason::RateLimit);
        }
    }

    /// The state after the start that `started` is the state after: what came in meanwhile stays.
    pub fn note_start(&mut self, started: &Self) {
        if let Some(hold) = started.hold
            && self.hold.is_none_or(|own| own.until < hold.until)
        {
            self.hold = Some(hold);
        }
        self.rate = self.rate.max(started.rate);
    }

    /// Our own network was away, not the server: the outage counts as one that `reconnect_spread` is a twentieth of.
    /// Returns how long the first attempt waits.
    pub fn reconnected(
        &mut self,
        now: Timestamp,
        policy: &OriginPolicy,
        dice: &mut Dice,
    ) -> Duration {
        let Some(since) = self.troubled_since else {
            return Duration::ZERO;
        };
        let wait = spread(now.since(since), policy.reconnect_spread, dice);
        let longest = policy.reconnect_spread * 20;
        let counted = Timestamp::from_millis(now.as_millis().saturating_sub(millis(longest)));
        self.troubled_since = Some(since.max(counted));
        wait
    }

    fn space(&mut self, now: Timestamp, dice: &mut Dice) {
        if self.pace.is_on() {
            let distance = self.pace.distance(dice);
            self.hold_back(now, distance, HoldReason::SlowStart);
        }
    }

    fn hold_back(&mut self, now: Timestamp, wait: Duration, by: HoldReason) {
        let until = now.after(wait);
        if until > now && self.hold.is_none_or(|hold| hold.until < until) {
            self.hold = Some(Hold { until, by });
        }
    }

    /// The hold that is in force.
    #[must_use]
    pub fn held(&self, now: Timestamp) -> Option<Hold> {
        self.hold.filter(|hold| hold.until > now)
    }

    /// True between an outage and full speed.
    #[must_use]
    pub fn is_ramping(&self) -> bool {
        self.pace.is_on() || self.window.size().is_some()
    }

    /// True when each start keeps its distance from the one before.
    #[must_use]
    pub fn is_paced(&self, policy: &OriginPolicy) -> bool {
        self.pace.is_on() || policy.rate_limit.is_some()
    }

    /// How many more attempts may start when `running` run; nothing = no limit. One at a time while their starts are held apart.
    #[must_use]
    pub fn room(&self, running: usize, policy: &OriginPolicy) -> Option<usize> {
        let room = self.window.size().map(|size| size.saturating_sub(running));
        match self.is_paced(policy) {
            true => Some(room.map_or(1, |room| room.min(1))),
            false => room,
        }
    }

    /// True when a restart must know of it.
    #[must_use]
    pub fn is_worth_keeping(&self, now: Timestamp) -> bool {
        self.troubled_since.is_some() || self.is_ramping() || self.held(now).is_some()
    }

    /// True for one that was never in trouble.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Lets no hold last beyond `until`, after a clock was set back.
    pub fn hasten(&mut self, until: Timestamp) {
        if let Some(hold) = &mut self.hold {
            hold.until = hold.until.min(until);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
