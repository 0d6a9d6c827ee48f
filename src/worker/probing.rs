//! Probes under way, at most one for each origin, and what follows from them.

use std::collections::HashSet;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Worker;
use crate::action::Origin;
use crate::clock::Timestamp;
use crate::connectivity::Reach;
use crate::decide::{Closing, Gate, GateKey, GateReason, open_gate};
use crate::parts::{ConnectivityMode, GateBook, Parts, is_portal};

/// The probes that run.
#[derive(Debug, Default)]
pub(super) struct Probing {
    tasks: JoinSet<Probed>,
    origins: HashSet<Origin>,
}

/// What a probe found.
#[derive(Debug)]
pub(super) struct Probed {
    origin: Origin,
    asked: Timestamp,
    reach: Reach,
}

impl Probing {
    /// Asks whether an origin can be reached, unless that is being asked already.
    pub(super) fn start(&mut self, parts: &std::sync::Arc<Parts>, origin: Origin) {
        if self.origins.insert(origin.clone()) {
            let parts = parts.clone();
            self.tasks.spawn(async move {
                let asked = parts.now();
                let reach = parts.connectivity.probe(origin.clone()).await;
                Probed {
                    origin,
                    asked,
                    reach,
                }
            });
        }
    }

    /// The next result; nothing at once when no probe runs. Safe to drop.
    pub(super) async fn next(&mut self) -> Option<Probed> {
        match self.tasks.join_next().await? {
            Ok(probed) => {
                self.origins.remove(&probed.origin);
                Some(probed)
            }
            Err(error) => {
                tracing::error!(%error, "a probe panicked");
                self.origins.clear();
                None
            }
        }
    }
}

impl Worker {
    /// What was learned about login pages beside the attempts' own results.
    pub(super) fn heed_portals(&mut self) {
        let (unsaved, is_passed) = {
            let mut gates = self.parts.gates();
            (gates.take_unsaved(), gates.take_portal_passed())
        };
        self.gates.extend(unsaved);
        if is_passed {
            self.probe();
        }
    }

    /// Behind a login page no attempt shows that it is gone: probes do, by the backoff of each gate. Sets the timer for the
    /// next one.
    pub(super) fn look_at_portals(&mut self) {
        if *self.parts.mode.borrow() != ConnectivityMode::Auto {
            return;
        }
        let now = self.parts.now();
        let (closed, due): (Vec<_>, Vec<_>) = {
            let gates = self.parts.gates();
            let portals = gates.portals();
            let portals = portals.map(|(origin, gate)| (origin.clone(), gate.closed_until));
            portals.partition(|(_, until)| *until > now)
        };
        for (origin, _) in due {
            self.probing.start(&self.parts, origin);
        }
        let next = closed.into_iter().map(|(_, until)| until).min();
        self.timer = [self.timer, next].into_iter().flatten().min();
    }

    pub(super) fn on_probed(&mut self, probed: Probed) {
        let Probed {
            origin,
            asked,
            reach,
        } = probed;
        tracing::debug!(%origin, ?reach, "probed");
        let now = self.parts.now();
        let parts = self.parts.clone();
        let mut gates = parts.gates();
        let was_portal = gates.origin(&origin).is_some_and(is_portal);
        match reach {
            Reach::Reachable => {
                gates.answered_well(&origin, now);
                gates.proved(&origin, asked, now);
                self.open_after_probe(&mut gates, &origin, now);
            }
            Reach::Unproven => {
                gates.answered_well(&origin, now);
                self.open_after_probe(&mut gates, &origin, now);
            }
            Reach::Troubled => self.open_after_probe(&mut gates, &origin, now),
            Reach::Portal => self.close_after_probe(&mut gates, &origin, GateReason::Portal),
            Reach::Unreachable if was_portal => {
                self.close_after_probe(&mut gates, &origin, GateReason::Unreachable);
            }
            Reach::Unreachable => {}
        }
        drop(gates);
        self.parts.refresh_connection();
        self.is_hungry = true;
    }

    fn open_after_probe(&mut self, gates: &mut GateBook, origin: &Origin, now: Timestamp) {
        gates.let_through(origin);
        let Some(gate) = gates.origin(origin).cloned() else {
            return;
        };
        let policy = &self.parts.options.policy.origin;
        let wait = match gate.reason.is_absence() {
            true => {
                let mut dice = self.parts.dice();
                gates.state(origin).reconnected(now, policy, &mut dice)
            }
            false => Duration::ZERO,
        };
        let gate = open_gate(gate, now.after(wait));
        gates.set(gate.clone());
        self.gates.push(gate);
    }

    /// Only an origin that is known to be away closes again for a probe: a probe alone is not enough to hold one back.
    fn close_after_probe(&mut self, gates: &mut GateBook, origin: &Origin, reason: GateReason) {
        let is_away = |gate: &&Gate| gate.failures > 0 && gate.reason.is_absence();
        let Some(old) = gates.origin(origin).filter(is_away).cloned() else {
            return;
        };
        let closing = Closing {
            key: GateKey::Origin(origin.clone()),
            reason,
            after: None,
            now: self.parts.now(),
        };
        let policy = &self.parts.options.policy;
        let gate = closing.gate(Some(&old), policy, &mut self.parts.dice());
        gates.set(gate.clone());
        if reason == GateReason::Portal {
            gates.portal_met(&gate, true, &self.parts.options.guards);
        }
        self.gates.push(gate);
    }
}
