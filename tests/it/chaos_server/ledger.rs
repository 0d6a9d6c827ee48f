//! What the server saw and did. Effects are applied once per idempotency key, as a good server does.

use std::collections::HashMap;

use bytes::Bytes;

use super::behaviour::{Behaviour, Reply};

/// A test that makes more than this has lost its way.
const RECEIVED_MAX: usize = 1_000_000;

/// How much is remembered of each connection's raw bytes.
const HEARD_BYTES_MAX: usize = 256 * 1024;

/// And of all connections together.
const HEARD_ALL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// The connection it came on, from 1.
    pub(crate) connection: u64,
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    /// In order, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) key: Option<String>,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Bytes,
}

#[derive(Default)]
pub(super) struct Ledger {
    pub(super) received: Vec<Received>,
    pub(super) effects: Vec<Effect>,
    /// For each effect, the place in `received` of the request that had it.
    pub(super) effects_at: Vec<usize>,
    /// For each request received, the status that was planned for it.
    pub(super) statuses: Vec<u16>,
    pub(super) violations: Vec<String>,
    pub(super) connections: u64,
    pub(super) closed: usize,
    pub(super) cut_requests: u64,
    by_key: HashMap<String, Kept>,
    heard: HashMap<u64, Vec<u8>>,
    heard_bytes: usize,
}

/// A key that was used: for what, and what was answered.
struct Kept {
    effect: Effect,
    reply: Reply,
}

impl Received {
    /// The first value of a header; the name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The idempotency key, without the quotes of the IETF draft.
    pub(crate) fn key(&self) -> Option<String> {
        let value = self.header("idempotency-key")?;
        Some(value.trim_matches('"').to_owned())
    }

    fn effect(&self) -> Effect {
        Effect {
            key: self.key(),
            method: self.method.clone(),
            path: self.path.clone(),
            body: self.body.clone(),
        }
    }
}

impl Ledger {
    pub(super) fn connected(&mut self) -> u64 {
        self.connections += 1;
        self.connections
    }

    pub(super) fn heard(&mut self, connection: u64, bytes: &[u8]) {
        let heard = self.heard.entry(connection).or_default();
        let all = HEARD_ALL_BYTES_MAX - self.heard_bytes;
        let room = (HEARD_BYTES_MAX - heard.len()).min(all).min(bytes.len());
        heard.extend_from_slice(&bytes[..room]);
        self.heard_bytes += room;
    }

    pub(super) fn saw(&self, needle: &[u8]) -> bool {
        let has = |bytes: &Vec<u8>| bytes.windows(needle.len()).any(|window| window == needle);
        self.heard.values().any(has)
    }

    /// Notes a request and applies its effect, if it shall have one. A key that is known gets its first answer again.
    pub(super) fn enter(&mut self, received: Received, planned: Behaviour) -> Behaviour {
        let behaviour = self.judge(received, planned);
        self.statuses.push(behaviour.reply.status);
        behaviour
    }

    fn judge(&mut self, received: Received, mut planned: Behaviour) -> Behaviour {
        assert!(self.received.len() < RECEIVED_MAX, "too many requests");
        let effect = received.effect();
        let is_read = matches!(effect.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE");
        self.received.push(received);
        let kept = effect.key.as_ref().and_then(|key| self.by_key.get(key));
        match kept {
            Some(kept) if kept.effect != effect => {
                self.violations.push(misuse(&kept.effect, &effect));
                return Behaviour::status(422).without_effect();
            }
            Some(kept) if planned.takes_effect => {
                planned.reply = kept.reply.clone();
                return planned.header("idempotent-replayed", "true");
            }
            None if planned.takes_effect && !is_read => self.apply(effect, &planned.reply),
            _ => {}
        }
        planned
    }

    fn apply(&mut self, effect: Effect, reply: &Reply) {
        if let Some(key) = effect.key.clone() {
            let kept = Kept {
                effect: effect.clone(),
                reply: reply.clone(),
            };
            self.by_key.insert(key, kept);
        }
        self.effects.push(effect);
        self.effects_at.push(self.received.len() - 1);
    }
}

fn misuse(first: &Effect, second: &Effect) -> String {
    let line = |effect: &Effect| {
        format!(
            "{} {} ({} bytes)",
            effect.method,
            effect.path,
            effect.body.len()
        )
    };
    let key = first.key.as_deref().unwrap_or("-");
    format!(
        "key {key} first for {}, then for {}",
        line(first),
        line(second)
    )
}
