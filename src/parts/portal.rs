//! What is known about login pages of the network: which origins are guarded, and what speaks for them.

use std::collections::HashMap;

use crate::action::Origin;
use crate::clock::Timestamp;
use crate::decide::{
    Gate, GateKey, GateReason, PortalDoubt, PortalGuard, awaits_probe, gate_beside,
};

use super::GateBook;

/// The guard of each origin that the vault may send to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guards(HashMap<Origin, PortalGuard>);

impl Guards {
    pub(crate) fn new(guards: impl IntoIterator<Item = (Origin, PortalGuard)>) -> Self {
        Self(guards.into_iter().collect())
    }

    /// Nothing for an origin whose guard is off: it is neither suspected nor held back.
    pub(crate) fn of(&self, origin: &Origin) -> Option<&PortalGuard> {
        self.0.get(origin).filter(|guard| guard.is_on())
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&Origin, &PortalGuard)> {
        self.0.iter()
    }

    fn guarded(&self) -> impl Iterator<Item = &Origin> {
        let on = self.0.iter().filter(|(_, guard)| guard.is_on());
        on.map(|(origin, _)| origin)
    }
}

/// What speaks for an origin, and against it. In memory only.
#[derive(Debug, Default)]
pub(super) struct Testimony {
    /// When it last gave an answer that no login page gives.
    proved: Option<Timestamp>,
    /// When a sign of a login page was last met in its place.
    suspected: Option<Timestamp>,
    /// It was met here, not only elsewhere.
    is_met: bool,
    /// A probe found no login page since.
    is_let_through: bool,
}

impl GateBook {
    /// The origin itself answered what was asked at `asked`. An answer that was under way when a sign was met proves nothing.
    pub(crate) fn proved(&mut self, origin: &Origin, asked: Timestamp, at: Timestamp) {
        let Some(testimony) = self.testimony.get_mut(origin) else {
            return;
        };
        let is_proof = testimony.suspected.is_some_and(|sign| asked > sign);
        if is_proof && testimony.proved.replace(at).is_none() {
            self.pass_portal(origin, at);
        }
    }

    /// The network lets something through: origins that only waited with another go on, the others are worth a probe.
    fn pass_portal(&mut self, proved: &Origin, at: Timestamp) {
        self.is_portal_passed = true;
        for gate in self.gates.values_mut() {
            let GateKey::Origin(origin) = &gate.key else {
                continue;
            };
            let is_met = self.testimony.get(origin).is_some_and(|one| one.is_met);
            if is_portal(gate) && !is_met && origin != proved {
                (gate.failures, gate.backoff_ms) = (0, 0);
                gate.closed_until = gate.closed_until.min(at);
                gate.changed = at;
                self.unsaved.push(gate.key.clone());
            }
        }
    }

    /// Did the network let something through since the last time this was asked?
    pub(crate) fn take_portal_passed(&mut self) -> bool {
        std::mem::take(&mut self.is_portal_passed)
    }

    /// Is a sign that an action met again, after `previous` was its attempt before, the action's own?
    pub(crate) fn portal_doubt(&self, origin: &Origin, previous: Option<Timestamp>) -> PortalDoubt {
        let proved = self.testimony.get(origin).and_then(|one| one.proved);
        match (proved, previous) {
            (Some(proved), Some(previous)) if proved > previous => PortalDoubt::Yes,
            _ => PortalDoubt::No,
        }
    }

    /// A login page was met at the origin of `portal`. When that is news, every guarded origin waits: the network is the same.
    pub(crate) fn portal_met(&mut self, portal: &Gate, was_known: bool, guards: &Guards) {
        let GateKey::Origin(met) = &portal.key else {
            return;
        };
        self.suspect(met, portal.changed, true);
        let others = guards.guarded().filter(|origin| *origin != met);
        for origin in others.filter(|_| !was_known) {
            self.suspect(origin, portal.changed, false);
            let gate = gate_beside(portal, origin, self.origin(origin));
            self.unsaved.push(gate.key.clone());
            self.set(gate);
        }
    }

    fn suspect(&mut self, origin: &Origin, at: Timestamp, is_met: bool) {
        let testimony = self.testimony.entry(origin.clone()).or_default();
        testimony.suspected = Some(at);
        testimony.proved = None;
        testimony.is_met = is_met;
        testimony.is_let_through = false;
    }

    /// A probe met no login page any more.
    pub(crate) fn let_through(&mut self, origin: &Origin) {
        let testimony = self.testimony.entry(origin.clone()).or_default();
        testimony.is_let_through = true;
    }

    /// The gate that holds an origin back until a probe met no login page.
    pub(crate) fn portal_before(&self, origin: &Origin) -> Option<&Gate> {
        let is_let_through = |one: &Testimony| one.is_let_through;
        let gate = self.origin(origin).filter(|gate| awaits_probe(gate))?;
        match self.testimony.get(origin).is_some_and(is_let_through) {
            true => None,
            false => Some(gate),
        }
    }

    /// The gates that wait for a probe.
    pub(crate) fn portals(&self) -> impl Iterator<Item = (&Origin, &Gate)> {
        let gates = self.gates.keys();
        gates.filter_map(|key| match key {
            GateKey::Origin(origin) => Some((origin, self.portal_before(origin)?)),
            GateKey::Principal(_) => None,
        })
    }

    /// True while a login page is believed to stand before any origin.
    pub(crate) fn is_any_behind_portal(&self) -> bool {
        let is_let_through = |one: &Testimony| one.is_let_through;
        self.gates.values().any(|gate| match &gate.key {
            GateKey::Origin(origin) if is_portal(gate) => {
                !self.testimony.get(origin).is_some_and(is_let_through)
            }
            _ => false,
        })
    }

    /// The gates that changed with those of others, and are not written yet.
    pub(crate) fn take_unsaved(&mut self) -> Vec<Gate> {
        let keys = std::mem::take(&mut self.unsaved);
        keys.iter()
            .filter_map(|key| self.gates.get(key).cloned())
            .collect()
    }
}

/// A login page was met, and since then no good answer.
pub(crate) fn is_portal(gate: &Gate) -> bool {
    gate.failures > 0 && gate.reason == GateReason::Portal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(name: &str) -> Origin {
        Origin::from_stored(&format!("http://{name}.example:80"))
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// `a` and `b` are guarded, `c` is not; a login page was met at `a`, at 100.
    fn behind_portal() -> (GateBook, Guards) {
        let (on, off) = (PortalGuard::all(), PortalGuard::off());
        let all = [
            (origin("a"), on.clone()),
            (origin("b"), on),
            (origin("c"), off),
        ];
        let (mut book, guards) = (GateBook::default(), Guards::new(all));
        meet(&mut book, &guards, 100);
        (book, guards)
    }

    fn meet(book: &mut GateBook, guards: &Guards, when: u64) {
        let was_known = book.origin(&origin("a")).is_some_and(is_portal);
        let key = GateKey::Origin(origin("a"));
        let gate = Gate::new(key, GateReason::Portal, at(when + 50), at(when));
        book.set(gate.clone());
        book.portal_met(&gate, was_known, guards);
    }

    fn is_held(book: &GateBook, name: &str) -> bool {
        book.portal_before(&origin(name)).is_some()
    }

    #[test]
    fn news_of_a_login_page_holds_every_guarded_origin() {
        let (mut book, guards) = behind_portal();
        assert!(is_held(&book, "a") && is_held(&book, "b") && !is_held(&book, "c"));
        let unsaved = book.take_unsaved();
        assert_eq!(unsaved.len(), 1);
        assert_eq!(unsaved[0].key, GateKey::Origin(origin("b")));
        book.remove(&unsaved[0].key);
        meet(&mut book, &guards, 200);
        assert!(!is_held(&book, "b"), "no news: it holds only itself");
    }

    #[test]
    fn a_proof_frees_who_only_waited_with_another() {
        let (mut book, _) = behind_portal();
        book.proved(&origin("b"), at(100), at(120));
        assert!(is_held(&book, "b"), "asked before the sign was met");
        book.proved(&origin("a"), at(101), at(130));
        assert!(!is_held(&book, "b") && book.take_portal_passed());
        assert!(is_held(&book, "a"), "its own gate opens by its own answer");
        book.let_through(&origin("a"));
        assert!(!is_held(&book, "a") && !book.is_any_behind_portal());
    }

    #[test]
    fn a_sign_is_doubted_only_after_a_proof_that_is_newer_than_it() {
        let (mut book, guards) = behind_portal();
        let doubt = |book: &GateBook, previous| book.portal_doubt(&origin("a"), Some(at(previous)));
        book.proved(&origin("a"), at(110), at(120));
        assert_eq!(doubt(&book, 90), PortalDoubt::Yes);
        assert_eq!(doubt(&book, 120), PortalDoubt::No);
        assert_eq!(book.portal_doubt(&origin("a"), None), PortalDoubt::No);
        meet(&mut book, &guards, 200);
        assert_eq!(
            doubt(&book, 90),
            PortalDoubt::No,
            "met again: nothing is proved"
        );
    }
}
