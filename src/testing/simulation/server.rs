//! The servers of a run: they honour idempotency keys, want tokens that end, have bad hours, and record every effect.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use super::network::Sent;
use super::plan::ORIGINS;
use super::report::{Breach, Promise};
use super::trouble::Trouble;
use super::world::State;
use crate::transport::Refresh;

/// The header by which the app knows its own server.
pub(super) const OWN: &str = "x-simulated";

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// In seconds.
    pub(super) retry_after: Option<u64>,
    pub(super) is_own: bool,
}

impl Reply {
    pub(super) fn status(status: u16) -> Self {
        Self {
            status,
            retry_after: None,
            is_own: true,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Server {
    /// What an origin answers to everything.
    pub(super) storms: [Option<Reply>; ORIGINS.len()],
    by_key: HashMap<String, (usize, Bytes)>,
    /// The tokens that are valid, and those that the app has.
    valid: BTreeMap<String, u64>,
    held: BTreeMap<String, u64>,
    refreshing: BTreeSet<String>,
}

impl Server {
    pub(super) fn is_troubled(&self, origin: usize) -> bool {
        self.storms[origin].is_some_and(|storm| storm.status >= 500)
    }

    /// No token is valid any more; the app does not know.
    pub(super) fn expire_tokens(&mut self) {
        self.valid.values_mut().for_each(|token| *token += 1);
    }

    pub(super) fn end_refreshes(&mut self) {
        self.refreshing.clear();
    }

    fn token(&mut self, owner: &str) -> u64 {
        *self.valid.entry(owner.to_owned()).or_default()
    }
}

impl State {
    /// The app is asked for a token.
    pub(super) fn begin_token(&mut self, owner: &str, refresh: Refresh) {
        if refresh == Refresh::No {
            return;
        }
        let (valid, held) = (self.server.token(owner), self.server.held.get(owner));
        if held == Some(&valid) {
            let text = format!("a refresh for {owner}, whose token is good");
            self.breaches.push(Breach::new(Promise::Stampede, text));
        }
        if !self.server.refreshing.insert(owner.to_owned()) {
            let text = format!("two refreshes for {owner} at once");
            self.breaches.push(Breach::new(Promise::Stampede, text));
        }
    }

    /// The app gives it.
    pub(super) fn end_token(&mut self, owner: &str, refresh: Refresh) -> String {
        let valid = self.server.token(owner);
        let held = self.server.held.entry(owner.to_owned()).or_default();
        if refresh == Refresh::Yes {
            *held = valid;
            self.server.refreshing.remove(owner);
        }
        format!("{owner}-{held}")
    }

    /// The server gets a request.
    pub(super) fn act(&mut self, sent: &Sent) -> Reply {
        if let Some(storm) = self.server.storms[sent.origin] {
            return storm;
        }
        if self.plan.has_credentials && !self.is_token_valid(sent) {
            return Reply::status(401);
        }
        let is_safe = sent.method.is_safe();
        let call = self.history.calls.get(sent.call);
        if let Some(poison) = call
            .and_then(|call| call.poison)
            .filter(|_| !self.is_healed)
        {
            return Reply::status(poison);
        }
        let known = sent
            .key
            .as_ref()
            .and_then(|key| self.server.by_key.get(key));
        let (is_known, is_same) = match known {
            Some((call, body)) => (true, (*call, body) == (sent.call, &sent.body)),
            None => (false, true),
        };
        if !is_same {
            return Reply::status(422);
        }
        if self.strikes(Trouble::Hiccup, 5) {
            let status = match is_known {
                // It is still at work on the attempt before.
                true => 409,
                false => self.dice.pick(&[408, 425, 500, 503]),
            };
            return Reply::status(status);
        }
        if !is_known {
            self.history.effect(sent.call);
            if let Some(key) = sent.key.clone().filter(|_| !is_safe) {
                self.server
                    .by_key
                    .insert(key, (sent.call, sent.body.clone()));
            }
        }
        Reply::status(200)
    }

    fn is_token_valid(&mut self, sent: &Sent) -> bool {
        let Some((owner, number)) = sent.token.as_ref().and_then(|token| token.split_once('-'))
        else {
            return false;
        };
        number.parse() == Ok(self.server.token(owner))
    }
}
