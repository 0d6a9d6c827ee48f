//! The checked request on its way to the queue or to the wire.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use crate::action::{ActionId, Lane, Origin, Record, State, StoredRequest, scoped_key};
use crate::attempt::{self, Outgoing};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::parts::Parts;
use crate::parts::cached::CacheTerms;
use crate::payload::KeptBody;

/// A checked request with everything the queue has to know about it.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) request: StoredRequest,
    pub(crate) own_credentials: HeaderMap,
    pub(crate) key: Option<String>,
    /// Of its principal.
    pub(crate) lane: Lane,
    pub(crate) origin: Origin,
    pub(crate) principal: Option<String>,
    pub(crate) coalesce: Option<String>,
    /// What it waits for.
    pub(crate) parents: Vec<ActionId>,
    pub(crate) priority: i8,
    pub(crate) attempts_max: u32,
    pub(crate) expires_in: Option<Duration>,
    pub(crate) not_before: Option<Timestamp>,
    /// What it says about the cache.
    #[cfg_attr(
        not(feature = "cache"),
        allow(dead_code, reason = "it says nothing then")
    )]
    pub(crate) cache: CacheTerms,
}

impl Draft {
    /// What may be queued must not carry credentials: with a provider they are stamped on later. In a sealed vault without one
    /// they stay.
    pub(super) fn drop_credentials(&mut self, parts: &Parts) -> Result<()> {
        let Some(name) = self.own_credentials.keys().next() else {
            return Ok(());
        };
        if parts.desk.is_none() && parts.options.is_sealed {
            self.request
                .headers
                .extend(std::mem::take(&mut self.own_credentials));
            return Ok(());
        }
        if parts.desk.is_none() {
            let text = format!(
                "the header {name} is a credential, which is never stored: give the vault \
                 `credentials(..)` or `encryption(..)`, or send with `delivery(Delivery::Never)`"
            );
            return Err(Error::new(ErrorKind::CredentialsInRequest, text));
        }
        self.own_credentials.clear();
        Ok(())
    }

    pub(super) fn record(&self, body: &KeptBody, now: Timestamp) -> Result<Record> {
        let mut record = self.outline(body, now);
        self.fill(&mut record, body)?;
        Ok(record)
    }

    /// A record without what only a store needs: the encoded request, and its fingerprint.
    pub(super) fn outline(&self, body: &KeptBody, now: Timestamp) -> Record {
        let (lane, origin) = (self.lane.clone(), self.origin.clone());
        let mut record = Record::new(body.id, lane, origin, Bytes::new(), now);
        record.key = self.scoped_key();
        record.principal = self.principal.clone();
        record.coalesce = self.coalesce.clone();
        record.parents = self.parents.clone();
        for reference in &self.request.references {
            if !record.needs.contains(&reference.from.of) {
                record.needs.push(reference.from.of);
            }
        }
        record.priority = self.priority;
        record.attempts_max = self.attempts_max;
        record.expires = self.expires_in.map(|limit| now.after(limit));
        record.state = State::Queued {
            due: self.not_before.unwrap_or(now).max(now),
        };
        record.body_bytes = body.body.len();
        record
    }

    /// Makes an outline ready for the store.
    pub(super) fn fill(&self, record: &mut Record, body: &KeptBody) -> Result<()> {
        record.content = self.request.encode()?.into();
        record.fingerprint = self.fingerprint(body);
        Ok(())
    }

    /// Method, URL and body: what an idempotency key stands for.
    pub(super) fn fingerprint(&self, body: &KeptBody) -> String {
        let mut hash = blake3::Hasher::new();
        for part in [
            self.request.method.as_str().as_bytes(),
            self.request.url.as_str().as_bytes(),
        ] {
            hash.update(part);
            hash.update(&[0]);
        }
        body.print(&mut hash);
        self.print_references(&mut hash);
        hash.finalize().to_hex().as_str()[..32].to_owned()
    }

    /// What it waits for and refers to is a part of what it is, before anything is filled in.
    fn print_references(&self, hash: &mut blake3::Hasher) {
        let mut parents = self.parents.clone();
        parents.sort_unstable();
        for parent in parents {
            hash.update(&[1]);
            hash.update(parent.as_bytes());
        }
        for reference in &self.request.references {
            hash.update(&[2]);
            hash.update(format!("{reference:?}").as_bytes());
        }
    }

    /// The key as the store knows it: keys of different principals are apart.
    pub(super) fn scoped_key(&self) -> Option<String> {
        let key = self.key.as_deref()?;
        Some(scoped_key(self.principal.as_deref(), key))
    }

    pub(super) fn outgoing(&self, record: &Record, body: &KeptBody) -> Outgoing {
        Outgoing {
            request: self.request.clone(),
            body: body.body.clone(),
            key: attempt::wire_key(&self.request, record),
            own_credentials: self.own_credentials.clone(),
            principal: self.principal.clone(),
            origin: self.origin.clone(),
        }
    }
}
