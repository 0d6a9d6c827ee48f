//! What went in and what came out, and the judge between the two. After Jepsen's total-queue checker: what was
//! acknowledged must come out, what comes out must have been tried; and, more than a queue owes there, once and in order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::chaos_server::{Effect, Received, digest};

/// What an action is, whatever its key: the how-many-th of its lane in its cycle. It is also its path and its body.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) lane: String,
    pub(crate) cycle: u32,
    pub(crate) n: u32,
    pub(crate) bytes: usize,
}

impl Place {
    /// The body, which no other place has.
    pub(crate) fn body(&self) -> Bytes {
        let mut body = self.to_string().into_bytes();
        body.push(b'\n');
        body.into_iter().cycle().take(self.bytes).collect()
    }

    fn turn(&self) -> (u32, u32) {
        (self.cycle, self.n)
    }

    /// Lanes whose name starts like this are sent side by side, and keep no order.
    pub(crate) const SIDE: &str = "side";

    fn has_order(&self) -> bool {
        !self.lane.starts_with(Self::SIDE)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            lane,
            cycle,
            n,
            bytes,
        } = self;
        write!(f, "/{lane}/{cycle}/{n}/{bytes}")
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(path: &str) -> Result<Self, String> {
        let read = || {
            let mut parts = path.strip_prefix('/')?.split('/');
            Some(Self {
                lane: parts.next()?.to_owned(),
                cycle: parts.next()?.parse().ok()?,
                n: parts.next()?.parse().ok()?,
                bytes: parts.next()?.parse().ok()?,
            })
        };
        read().ok_or_else(|| format!("{path} is no place"))
    }
}

/// What a child says, one line each, written in one piece after the fact.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Line {
    /// The vault is open, and holds this.
    Open(Holdings),
    /// The next call is for this place.
    Try(String),
    /// The call for this place returned, and the action is on disk.
    Kept(String),
    /// The call for this place returned an answer; the action never was on disk.
    Answered(String),
    /// This place is pending.
    Pending(String),
    /// Nothing more to do: what is left.
    Done(Holdings),
}

/// What a vault holds, as it counts and as one can count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holdings {
    pub(crate) is_balanced: bool,
    pub(crate) enqueued: u64,
    pub(crate) delivered: u64,
    pub(crate) dead: u64,
    pub(crate) pending: u64,
    /// Counted one by one, where nothing moved meanwhile.
    pub(crate) pending_listed: Option<u64>,
}

/// Everything the children said.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) tried: BTreeSet<Place>,
    pub(crate) acked: BTreeSet<Place>,
    /// How many acknowledged actions were on disk.
    pub(crate) kept: u64,
    pub(crate) opens: u64,
    complaints: Vec<String>,
}

impl History {
    pub(crate) fn hear(&mut self, line: &Line) {
        match line {
            Line::Try(place) => drop(self.tried.insert(read(place))),
            Line::Kept(place) => {
                self.kept += 1;
                self.acked.insert(read(place));
            }
            Line::Answered(place) => drop(self.acked.insert(read(place))),
            Line::Open(found) => {
                self.opens += 1;
                self.inspect(found);
            }
            Line::Done(found) => self.inspect(found),
            Line::Pending(_) => {}
        }
    }

    /// Takes in what another process said.
    #[cfg(feature = "sqlite")]
    pub(crate) fn join(&mut self, other: Self) {
        self.tried.extend(other.tried);
        self.acked.extend(other.acked);
        self.kept += other.kept;
        self.opens += other.opens;
        self.complaints.extend(other.complaints);
    }

    /// What is known to be lost is not looked for again.
    pub(crate) fn forget(&mut self, lost: &BTreeSet<Place>) {
        self.acked.retain(|place| !lost.contains(place));
        self.kept -= lost.len() as u64;
    }

    /// What must hold whenever a vault is opened, whatever happened before.
    fn inspect(&mut self, found: &Holdings) {
        let mut check = |is_well: bool, what: &str| {
            if !is_well {
                self.complaints.push(format!("{what}: {found:?}"));
            }
        };
        check(found.is_balanced, "the ledger is not balanced");
        check(found.dead == 0, "a dead letter that no answer explains");
        check(
            found
                .pending_listed
                .is_none_or(|listed| listed == found.pending),
            "the count is not what is there",
        );
        check(
            found.enqueued >= self.kept,
            &format!("{} were acknowledged as kept", self.kept),
        );
    }

    /// Compares what was said with what the server saw. Empty = valid.
    pub(crate) fn judge(&self, server: &Witness) -> Vec<String> {
        let mut found = self.complaints.clone();
        found.extend(server.complaints.iter().cloned());
        let lost = self.acked.difference(&server.done);
        found.extend(lost.map(|place| format!("lost: {place}")));
        let unexpected = server.done.difference(&self.tried);
        found.extend(unexpected.map(|place| format!("unexpected: {place}")));
        found
    }
}

/// What the server saw, judged on its own.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    pub(crate) done: BTreeSet<Place>,
    pub(crate) attempts: usize,
    complaints: Vec<String>,
}

impl Witness {
    pub(crate) fn new(received: &[Received], effects: &[Effect], violations: &[String]) -> Self {
        let mut witness = Self::of_processes(received, effects, violations);
        let arrivals = received.iter().map(|received| read(&received.path));
        witness.check_order("arrived out of order", arrivals);
        witness
    }

    /// As [`new`](Self::new), where what a killed process had on the wire may arrive after what the next one sent: it is
    /// known by its key then, and has no effect.
    pub(crate) fn of_processes(
        received: &[Received],
        effects: &[Effect],
        violations: &[String],
    ) -> Self {
        let mut witness = Self {
            attempts: received.len(),
            complaints: violations.to_vec(),
            ..Self::default()
        };
        for effect in effects {
            let place = read(&effect.path);
            if !witness.done.insert(place.clone()) {
                witness.complain("double effect", &place);
            }
        }
        witness.check_bytes(received);
        let effects = effects.iter().map(|effect| read(&effect.path));
        witness.check_order("done out of order", effects);
        witness
    }

    fn complain(&mut self, what: &str, place: &Place) {
        self.complaints.push(format!("{what}: {place}"));
    }

    /// The same bytes and the same key in every attempt.
    fn check_bytes(&mut self, received: &[Received]) {
        let mut keys = HashMap::new();
        for received in received {
            let place = read(&received.path);
            if received.body != digest(&place.body()) {
                self.complain("other bytes", &place);
            }
            let key = received.key();
            let first = keys.entry(place.clone()).or_insert_with(|| key.clone());
            if *first != key || key.is_none() {
                self.complain("another key", &place);
            }
        }
    }

    /// In a lane, nothing comes after what was made later.
    fn check_order(&mut self, what: &str, places: impl Iterator<Item = Place>) {
        let mut newest = BTreeMap::new();
        for place in places.filter(Place::has_order) {
            let newest = newest.entry(place.lane.clone()).or_insert(place.turn());
            if place.turn() < *newest {
                let text = format!("{what}: {place} after {newest:?}");
                self.complaints.push(text);
            }
            *newest = place.turn().max(*newest);
        }
    }
}

fn read(place: &str) -> Place {
    place.parse().expect("a place")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(lane: &str, n: u32) -> String {
        format!("/{lane}/1/{n}/5")
    }

    fn received(path: &str, key: &str) -> Received {
        Received {
            connection: 1,
            method: "POST".into(),
            path: path.into(),
            headers: vec![("idempotency-key".into(), key.into())],
            body: digest(&read(path).body()),
        }
    }

    fn effect(path: &str, key: &str) -> Effect {
        Effect {
            key: Some(key.into()),
            method: "POST".into(),
            path: path.into(),
            body: digest(&read(path).body()),
        }
    }

    fn history(acked: &[&str]) -> History {
        let mut history = History::default();
        for path in acked {
            history.hear(&Line::Try((*path).into()));
            history.hear(&Line::Kept((*path).into()));
        }
        history
    }

    /// Goal: the judge can say no. Method: one good history, and one breach of it for each thing it looks for.
    #[test]
    fn each_breach_is_named() {
        let (a, b) = (place("q", 1), place("q", 2));
        let (a, b) = (a.as_str(), b.as_str());
        let both = [effect(a, "ka"), effect(b, "kb")];
        let came = [received(a, "ka"), received(b, "kb")];
        let judge = |acked: &[&str], came: &[Received], done: &[Effect]| {
            history(acked).judge(&Witness::new(came, done, &[]))
        };
        assert_eq!(judge(&[a, b], &came, &both), Vec::<String>::new());
        let mut other_bytes = came.to_vec();
        other_bytes[1].body = digest(b"x");
        let swapped = [both[1].clone(), both[0].clone()];
        let again = [came[0].clone(), came[1].clone(), came[0].clone()];
        let new_key = [came[0].clone(), received(a, "kc"), came[1].clone()];
        let twice = [both[0].clone(), effect(a, "kc"), both[1].clone()];
        let cases: [(&str, Vec<String>); 7] = [
            ("lost", judge(&[a, b], &came, &both[..1])),
            ("unexpected", judge(&[a], &came, &both)),
            ("double effect", judge(&[a, b], &came, &twice)),
            ("done out of order", judge(&[a, b], &came, &swapped)),
            ("arrived out of order", judge(&[a, b], &again, &both)),
            ("another key", judge(&[a, b], &new_key, &both)),
            ("other bytes", judge(&[a, b], &other_bytes, &both)),
        ];
        for (want, found) in cases {
            assert!(
                found.len() == 1 && found[0].starts_with(want),
                "{want}: {found:?}"
            );
        }
    }

    #[test]
    fn an_unbalanced_ledger_and_a_wrong_count_are_named() {
        let well = Holdings {
            is_balanced: true,
            ..Holdings::default()
        };
        let bad = [
            Holdings::default(),
            Holdings { dead: 1, ..well },
            Holdings {
                pending_listed: Some(1),
                ..well
            },
        ];
        for found in bad {
            let mut history = History::default();
            history.hear(&Line::Open(found));
            assert_eq!(history.judge(&Witness::default()).len(), 1, "{found:?}");
        }
        let mut regressed = history(&[&place("q", 1)]);
        regressed.hear(&Line::Open(well));
        assert_eq!(regressed.judge(&Witness::default()).len(), 2);
    }
}
