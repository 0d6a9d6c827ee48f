//! What the app asked for, what it was told, and what the server saw: all that the checker knows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::action::{ActionId, State};
use crate::dispatch::Delivery;
use crate::error::ErrorKind;
use crate::event::{Event, EventKind};

/// What a call told the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is kept, under this id.
    Queued(ActionId),
    /// An answer, and whether it is the server's own.
    Sent { status: u16, is_own: bool },
    /// It was to take the place of another one, and that does not give way.
    NotKept,
    /// An error.
    Refused(ErrorKind),
    /// The app dropped the future.
    Dropped,
}

/// A request the app wants done. It may call for it several times when it has a key.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) lane: &'static str,
    pub(super) principal: Option<&'static str>,
    pub(super) origin: usize,
    pub(super) key: Option<String>,
    pub(super) method: Method,
    pub(super) body: Bytes,
    pub(super) delivery: Option<Delivery>,
    pub(super) expires_in: Option<Duration>,
    pub(super) not_before: Option<Duration>,
    pub(super) coalesce: Option<&'static str>,
    /// What the server answers to it until everything is healed.
    pub(super) poison: Option<u16>,
    /// When it was called for.
    pub(super) called: Vec<u64>,
    pub(super) told: Vec<(u64, Told)>,
    /// The actions that it was told to be.
    pub(super) ids: Vec<ActionId>,
    pub(super) is_cancelled: bool,
    /// The app was told that another one stands in its place, and that no byte of it was sent.
    pub(super) is_replaced: bool,
    pub(super) may_be_cancelled: bool,
    pub(super) may_be_requeued: bool,
    pub(super) may_be_discarded: bool,
    pub(super) is_forgotten: bool,
    /// The statuses that attempts of it were answered with.
    pub(super) statuses: BTreeSet<u16>,
    /// How many attempts ended so that they may count.
    pub(super) countable: u32,
    /// What became of the actions that it was told to be.
    pub(super) ends: BTreeMap<ActionId, Option<State>>,
}

/// One try on the wire.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) call: usize,
    pub(super) key: Option<String>,
    pub(super) life: u64,
    pub(super) began: u64,
    pub(super) ended: Option<u64>,
    /// No byte of it can have reached the server, and the vault can know.
    pub(super) never_arrives: bool,
}

/// What was told last of an action, and must be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Pending,
    Delivered,
    Dead,
    Cancelled,
    Expired,
    Superseded,
    Gone,
}

#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) calls: Vec<Call>,
    pub(super) attempts: Vec<Attempt>,
    /// Whose requests had an effect, in the order of the effects.
    pub(super) effects: Vec<usize>,
    /// What events told, and what calls returned.
    pub(super) known: BTreeMap<ActionId, Known>,
    /// When it was told that a request is delivered.
    pub(super) delivered: HashMap<usize, u64>,
    /// Requests by their keys.
    names: HashMap<String, usize>,
    tick: u64,
}

impl History {
    /// Now, as a number that grows.
    pub(super) fn tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    pub(super) fn add(&mut self, call: Call) -> usize {
        let nth = self.calls.len();
        if let Some(key) = &call.key {
            self.names.insert(key.clone(), nth);
        }
        self.calls.push(call);
        nth
    }

    pub(super) fn call_of(&self, key: &str) -> Option<usize> {
        self.names.get(key).copied()
    }

    /// The app calls for it.
    pub(super) fn called(&mut self, nth: usize) {
        let tick = self.tick();
        if let Some(call) = self.calls.get_mut(nth) {
            call.called.push(tick);
        }
    }

    pub(super) fn told(&mut self, nth: usize, told: Told) {
        let tick = self.tick();
        self.told_at(nth, tick, told);
    }

    /// It stands where `old` stood, and as long.
    pub(super) fn told_over(&mut self, nth: usize, old: usize, told: Told) {
        let of_old = self.calls.get(old).map(|call| call.told.clone());
        let is_queued = |(_, told): &&(u64, Told)| matches!(told, Told::Queued(_));
        let since = of_old.iter().flatten().find(is_queued);
        match since.map(|(tick, _)| *tick) {
            Some(tick) => self.told_at(nth, tick, told),
            None => self.told(nth, told),
        }
    }

    fn told_at(&mut self, nth: usize, tick: u64, told: Told) {
        let Some(call) = self.calls.get_mut(nth) else {
            return;
        };
        call.told.push((tick, told));
        if let Told::Queued(id) = told {
            if !call.ids.contains(&id) {
                call.ids.push(id);
            }
            self.names.insert(id.to_string(), nth);
            self.known.entry(id).or_insert(Known::Pending);
        }
    }

    /// An attempt begins. Returns its number.
    pub(super) fn attempt(&mut self, call: usize, key: Option<String>, life: u64) -> usize {
        if let Some(key) = &key {
            self.names.entry(key.clone()).or_insert(call);
        }
        let began = self.tick();
        self.attempts.push(Attempt {
            call,
            key,
            life,
            began,
            ended: None,
            never_arrives: false,
        });
        self.attempts.len() - 1
    }

    pub(super) fn attempt_ended(&mut self, nth: usize) {
        let tick = self.tick();
        if let Some(attempt) = self.attempts.get_mut(nth) {
            attempt.ended.get_or_insert(tick);
        }
    }

    /// Is an attempt of this life under way?
    pub(super) fn is_on_wire(&self, life: u64) -> bool {
        let mut of_life = self.attempts.iter().rev().take_while(|a| a.life == life);
        of_life.any(|attempt| attempt.ended.is_none())
    }

    pub(super) fn effect(&mut self, call: usize) {
        self.effects.push(call);
    }

    /// An event was published. Returns the request it is about, when that is known.
    pub(super) fn saw(&mut self, event: &Event) -> Option<usize> {
        let known = match event.kind {
            EventKind::Queued | EventKind::Started { .. } | EventKind::Failed { .. } => {
                Known::Pending
            }
            EventKind::Succeeded { .. } => Known::Delivered,
            EventKind::DeadLettered { .. } => Known::Dead,
            EventKind::Cancelled => Known::Cancelled,
            EventKind::Expired => Known::Expired,
            EventKind::Superseded { .. } => Known::Superseded,
            EventKind::Returned { .. } | EventKind::Evicted => Known::Gone,
            EventKind::Salvaged { .. } => return None,
        };
        self.known.insert(event.action_id, known);
        let call = self.call_of(&event.key);
        if let (Known::Delivered, Some(call)) = (known, call) {
            let tick = self.tick();
            self.delivered.entry(call).or_insert(tick);
        }
        call
    }
}

impl Call {
    /// It is on disk before it is tried, and stays there until it has an end.
    pub(super) fn is_ahead(&self) -> bool {
        matches!(
            self.delivery,
            None | Some(Delivery::Queue | Delivery::WriteAhead)
        )
    }

    /// Each call for it was refused, and nothing of it may be kept or leave.
    pub(super) fn is_refused(&self) -> bool {
        let is_whole = self.called.len() == self.told.len();
        let is_refused = |(_, told): &(u64, Told)| {
            use ErrorKind::{Full, IdempotencyConflict, Storage, StorageFull};
            let kinds = [Full, IdempotencyConflict, Storage, StorageFull];
            matches!(told, Told::Refused(kind) if kinds.contains(kind)) || *told == Told::NotKept
        };
        is_whole && self.is_ahead() && self.told.iter().all(is_refused)
    }
}
