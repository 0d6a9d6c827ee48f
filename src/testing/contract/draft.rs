//! An action that a rule is about to append: every field has a default, a rule sets what it is about.

use std::time::Duration;

use bytes::Bytes;

use super::rig::lane;
use crate::action::{ActionId, Body, Origin, Record};
use crate::clock::Timestamp;
use crate::store::{Append, Direct, Limits, Over};

/// An append in the making.
#[derive(Clone)]
pub(super) struct Draft {
    append: Append,
}

/// An origin by a short name.
pub(super) fn origin(name: &str) -> Origin {
    Origin::from_stored(&format!("https://{name}.example:443"))
}

impl Draft {
    pub(super) fn new(name: &str, now: Timestamp) -> Self {
        let id = ActionId::new();
        let content = Bytes::from(format!("{{\"request\":\"{id}\"}}"));
        let mut record = Record::new(id, lane(name), origin("a"), content, now);
        record.fingerprint = id.to_string();
        let append = Append::new(record, Bytes::new(), now);
        Self { append }.body(format!("body of {id}"))
    }

    pub(super) fn id(&self) -> ActionId {
        self.append.record.id
    }

    pub(super) fn with_id(mut self, id: ActionId) -> Self {
        self.append.record.id = id;
        self
    }

    pub(super) fn body(self, body: impl Into<Bytes>) -> Self {
        self.kept(Body::Bytes(body.into()))
    }

    /// With a body that the store gave.
    pub(super) fn kept(mut self, body: Body) -> Self {
        self.append.record.body_bytes = body.len();
        self.append.body = body;
        self
    }

    /// What it weighs against the byte limit.
    pub(super) fn weight(&self) -> u64 {
        self.append.record.weight()
    }

    pub(super) fn key(mut self, key: &str) -> Self {
        self.append.record.key = Some(key.into());
        self
    }

    /// What request it is: the same key with another fingerprint is another request.
    pub(super) fn fingerprint(mut self, fingerprint: &str) -> Self {
        self.append.record.fingerprint = fingerprint.into();
        self
    }

    pub(super) fn origin(mut self, name: &str) -> Self {
        self.append.record.origin = origin(name);
        self
    }

    pub(super) fn principal(mut self, name: &str) -> Self {
        self.append.record.principal = Some(name.into());
        self
    }

    pub(super) fn priority(mut self, priority: i8) -> Self {
        self.append.record.priority = priority;
        self
    }

    /// After another one.
    pub(super) fn after(mut self, parent: ActionId) -> Self {
        self.append.record.parents.push(parent);
        self
    }

    /// It needs the answer of this parent.
    pub(super) fn needs(mut self, parent: ActionId) -> Self {
        self.append.record.needs.push(parent);
        self
    }

    pub(super) fn coalesce(mut self, with: &str) -> Self {
        self.append.record.coalesce = Some(with.into());
        self
    }

    /// In the place of another one.
    pub(super) fn over(mut self, over: Over) -> Self {
        self.append.over = over;
        self
    }

    /// Not before this time.
    pub(super) fn due(mut self, due: Timestamp) -> Self {
        self.append.record.state = crate::action::State::Queued { due };
        self
    }

    pub(super) fn expires(mut self, expires: Timestamp) -> Self {
        self.append.record.expires = Some(expires);
        self
    }

    pub(super) fn direct(mut self, direct: Direct) -> Self {
        self.append.direct = direct;
        self
    }

    pub(super) fn limits(mut self, limits: Limits) -> Self {
        self.append.limits = limits;
        self
    }

    pub(super) fn actions_max(self, actions_max: u64) -> Self {
        self.limits(Limits {
            actions_max,
            ..Limits::default()
        })
    }

    pub(super) fn bytes_max(self, bytes_max: u64) -> Self {
        self.limits(Limits {
            bytes_max,
            ..Limits::default()
        })
    }

    pub(super) fn key_retention(mut self, key_retention: Duration) -> Self {
        self.append.key_retention = key_retention;
        self
    }

    /// Changes the record in any other way.
    pub(super) fn record(mut self, change: impl FnOnce(&mut Record)) -> Self {
        change(&mut self.append.record);
        self
    }

    /// The record as it is given to the store.
    pub(super) fn as_record(&self) -> &Record {
        &self.append.record
    }

    pub(super) fn into_append(self) -> Append {
        self.append
    }
}
