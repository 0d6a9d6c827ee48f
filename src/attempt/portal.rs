//! Login pages in the server's place: what an attempt saw of one, and what it tells of its origin.

use super::Outgoing;
use crate::action::Record;
use crate::clock::Timestamp;
use crate::decide::{Expects, Observation, Observed, Plan, PortalGuard, is_good_answer};
use crate::parts::{GateBook, Guards, Options, is_portal};

/// What the guard of the origin saw, put into the observation.
pub(super) fn look_for_portal(
    observation: &mut Observation<'_>,
    options: &Options,
    gates: &GateBook,
    record: &Record,
    outgoing: &Outgoing,
) {
    let Some(guard) = options.guards.of(&record.origin) else {
        return;
    };
    let request = &outgoing.request;
    let expects = Expects::of(request.expects_json, options.expects_json, &request.headers);
    observation.expects = expects;
    observation.portal = guard.sign(&request.url, &observation.observed, expects);
    if record.portal.is_some() {
        observation.portal_doubt = gates.portal_doubt(&record.origin, record.previous_attempt);
    }
}

/// What an attempt tells of its origin.
pub(super) struct Learned<'a> {
    pub(super) record: &'a Record,
    pub(super) outgoing: &'a Outgoing,
    pub(super) observed: &'a Observed<'a>,
    pub(super) plan: &'a Plan,
    pub(super) now: Timestamp,
}

impl Learned<'_> {
    pub(super) fn note(&self, guards: &Guards, gates: &mut GateBook) {
        let origin = &self.record.origin;
        let is_good = self.observed.status().is_some_and(is_good_answer);
        if is_good && self.plan.portal.is_none() {
            gates.answered_well(origin, self.now);
            if guards.of(origin).is_some_and(|guard| self.is_proof(guard)) {
                let asked = self.record.last_attempt.unwrap_or(self.now);
                gates.proved(origin, asked, self.now);
            }
        }
        if let Some(gate) = &self.plan.gate {
            let was_known = gates.origin(origin).is_some_and(is_portal);
            gates.set(gate.clone());
            if self.plan.portal.is_some() {
                gates.portal_met(gate, was_known, guards);
            }
        }
    }

    /// Would it be no sign of a login page even if JSON had been asked for?
    fn is_proof(&self, guard: &PortalGuard) -> bool {
        let url = &self.outgoing.request.url;
        let sign = guard.sign(url, self.observed, Expects::JsonByAccept);
        sign.is_none()
    }
}
