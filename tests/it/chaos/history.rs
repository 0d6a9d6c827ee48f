//! What the app was told in a run, and the checker that holds it against what the server recorded, in the manner of
//! Jepsen's total-queue: lost, unexpected, reordered, doubled.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use syncvault::{ActionId, DeadReason, End, Event, EventKind};

use crate::chaos_server::ChaosServer;

/// One request of the app, known by its path.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) path: String,
    pub(super) lane: String,
    pub(super) method: String,
    pub(super) body: Bytes,
    pub(super) may_expire: bool,
    pub(super) may_be_superseded: bool,
    /// The vault writes it down before its first byte leaves.
    pub(super) is_kept_first: bool,
    /// When it was called first, by the history's own clock.
    pub(super) called: u64,
    /// When an answer came, and which; nothing for a future that was dropped.
    pub(super) told: Option<(u64, Told)>,
    pub(super) is_cancelled: bool,
    /// One of its futures was dropped: the vault may know the request twice, with and without its past.
    pub(super) was_dropped: bool,
    /// How it ended, for what was queued.
    pub(super) end: Option<End>,
}

/// What the app was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Queued(ActionId),
    Sent(u16),
    Refused,
}

/// Everything the app called, by path, and the events of each life of the vault.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    clock: u64,
    calls: HashMap<String, Call>,
    events: Vec<Vec<Event>>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (called, told, end) = (self.called, &self.told, &self.end);
        write!(f, "{} {} in {},", self.method, self.path, self.lane)?;
        write!(f, " called at {called}, told {told:?}, ended {end:?}")?;
        let (dropped, cancelled) = (self.was_dropped, self.is_cancelled);
        write!(f, ", dropped: {dropped}, cancelled: {cancelled}")
    }
}

impl Call {
    pub(super) fn id(&self) -> Option<ActionId> {
        match self.told {
            Some((_, Told::Queued(id))) => Some(id),
            _ => None,
        }
    }
}

impl History {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call, before it is made. A second call of the same request keeps the time of the first.
    pub(super) fn call(&self, mut call: Call) {
        let mut book = self.book();
        book.clock += 1;
        call.called = book.clock;
        book.calls.entry(call.path.clone()).or_insert(call);
    }

    /// Notes what came back.
    pub(super) fn told(&self, path: &str, told: Told) {
        let mut book = self.book();
        book.clock += 1;
        let now = book.clock;
        if let Some(call) = book.calls.get_mut(path) {
            call.told.get_or_insert((now, told));
        }
    }

    pub(super) fn dropped(&self, path: &str) {
        if let Some(call) = self.book().calls.get_mut(path) {
            call.was_dropped = true;
        }
    }

    pub(super) fn cancelled(&self, path: &str) {
        if let Some(call) = self.book().calls.get_mut(path) {
            call.is_cancelled = true;
        }
    }

    pub(super) fn ended(&self, path: &str, end: End) {
        if let Some(call) = self.book().calls.get_mut(path) {
            call.end = Some(end);
        }
    }

    /// Notes the events of one life of the vault.
    pub(super) fn saw(&self, events: Vec<Event>) {
        self.book().events.push(events);
    }

    /// What was called, in order.
    pub(super) fn calls(&self) -> Vec<Call> {
        let mut calls: Vec<_> = self.book().calls.values().cloned().collect();
        calls.sort_by_key(|call| call.called);
        calls
    }

    /// Everything that was promised and not kept, in words. Empty is good.
    pub(super) fn broken_promises(&self, server: &ChaosServer) -> Vec<String> {
        let record = ServerRecord::of(server);
        let calls = self.calls();
        let mut broken = server.violations();
        broken.extend(record.unexpected(&calls));
        broken.extend(calls.iter().flat_map(|call| record.lost(call)));
        broken.extend(record.reordered(&calls));
        broken.extend(
            self.book()
                .events
                .iter()
                .flat_map(|events| disorder(events)),
        );
        broken
    }
}

/// What the server recorded, by path. Places count received requests.
struct ServerRecord {
    received: HashMap<String, Vec<(usize, u16)>>,
    effects: HashMap<String, Vec<usize>>,
    bodies: Vec<(String, String, Bytes)>,
}

impl ServerRecord {
    fn of(server: &ChaosServer) -> Self {
        let requests = server.received();
        let mut record = Self {
            received: HashMap::new(),
            effects: HashMap::new(),
            bodies: Vec::new(),
        };
        for (place, (request, status)) in requests.iter().zip(server.statuses()).enumerate() {
            if request.method == "HEAD" {
                continue;
            }
            let path = request.path.clone();
            let entry = record.received.entry(path.clone()).or_default();
            entry.push((place, status));
            record
                .bodies
                .push((path, request.method.clone(), request.body.clone()));
        }
        for (effect, place) in server.effects().iter().zip(server.effects_at()) {
            let entry = record.effects.entry(effect.path.clone()).or_default();
            entry.push(place);
        }
        record
    }

    fn unexpected(&self, calls: &[Call]) -> Vec<String> {
        let calls: HashMap<_, _> = calls.iter().map(|call| (&call.path, call)).collect();
        let mut broken = Vec::new();
        for (path, method, body) in &self.bodies {
            match calls.get(path) {
                None => broken.push(format!("unexpected: {method} {path}")),
                Some(call) if call.method != *method || call.body != body => {
                    let (want, got) = (call.body.len(), body.len());
                    broken.push(format!(
                        "other bytes: {method} {path} with {got} bytes, not {want}"
                    ));
                }
                Some(_) => {}
            }
        }
        broken
    }

    /// What is wrong with one call on its own.
    fn lost(&self, call: &Call) -> Option<String> {
        let effects = self.effects.get(&call.path).map_or(0, Vec::len);
        let received = self.received.get(&call.path).map_or(0, Vec::len);
        let is_refused = self.refused_at(&call.path).is_some();
        // A future that was dropped while it tried what is not on disk: the vault queues it anew, as never sent.
        let is_unknown = call.was_dropped && !call.is_kept_first;
        if effects > 1 {
            return Some(format!("double effect: {effects} of {call:?}"));
        }
        let complaint = match (&call.told, &call.end) {
            (Some((_, Told::Sent(200..300))), _) if effects == 0 => "lost: sent without effect",
            (Some((_, Told::Queued(_))), None) => "stuck: queued and never ended",
            (Some((_, Told::Queued(_))), Some(end)) => match end {
                End::Delivered(_) if effects == 0 => "lost: delivered without effect",
                End::Dead(_) if !is_refused => "dead without a refusal",
                End::Dead(DeadReason::Rejected { status: 409 }) if !call.was_dropped => {
                    "dead while still processing"
                }
                End::Cancelled if !call.is_cancelled => "cancelled by nobody",
                End::Expired if !call.may_expire => "expired without a limit",
                End::Superseded if !call.may_be_superseded => "superseded without a key",
                End::Cancelled | End::Superseded if received > 0 && !is_unknown => "sent after all",
                _ => return None,
            },
            _ => return None,
        };
        Some(format!("{complaint}: {call:?}"))
    }

    /// The last place where the server refused it for good.
    fn refused_at(&self, path: &str) -> Option<usize> {
        let answers = self.received.get(path)?.iter().rev();
        let is_refusal =
            |(_, status): &&(usize, u16)| matches!(status, 400..=499) && *status != 429;
        answers.copied().find(|a| is_refusal(&a)).map(|(at, _)| at)
    }

    /// Of two requests of a lane, where the app was told of the first before it called the second: the second must
    /// not reach the server before the first is settled there.
    fn reordered(&self, calls: &[Call]) -> Vec<String> {
        let mut broken = Vec::new();
        for (nth, first) in calls.iter().enumerate() {
            let Some((told, _)) = first.told else {
                continue;
            };
            let Some(settled) = self.settled_at(first) else {
                continue;
            };
            for second in calls[nth + 1..].iter().filter(|c| c.lane == first.lane) {
                let start = self.received.get(&second.path).map(|r| r[0].0);
                if second.called > told && start.is_some_and(|start| start < settled) {
                    broken.push(format!(
                        "reordered: {second:?} came at {start:?}, settled at {settled}: {first:?}"
                    ));
                }
            }
        }
        broken
    }

    fn settled_at(&self, call: &Call) -> Option<usize> {
        let effect = || self.effects.get(&call.path).map(|places| places[0]);
        match &call.end {
            Some(End::Dead(_)) => self.refused_at(&call.path),
            Some(End::Delivered(_)) | None => effect(),
            Some(_) => None,
        }
    }
}

/// What is wrong with the order of the events of one life: of each action queued, then attempts in order, then the end.
fn disorder(events: &[Event]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut last: HashMap<ActionId, &EventKind> = HashMap::new();
    for event in events {
        if event.missed_before > 0 {
            broken.push(format!("{} events missed", event.missed_before));
        }
        let before = last.insert(event.action_id, &event.kind);
        let is_fine = match (before, &event.kind) {
            (None, _) => true,
            (Some(before), EventKind::Queued) => matches!(before, EventKind::DeadLettered { .. }),
            (Some(before), _) if before.is_terminal() => false,
            (Some(EventKind::Started { attempt: old }), EventKind::Started { attempt }) => {
                attempt > old
            }
            _ => true,
        };
        if !is_fine {
            let (kind, key) = (&event.kind, &event.key);
            broken.push(format!("events of {key}: {kind:?} after {before:?}"));
        }
    }
    broken
}
