//! The action as the app sees it: the record with its request decoded.

use std::time::Duration;

use http::{HeaderMap, Method};
use reqwest::Url;

use super::id::{ActionId, Lane, Origin};
use super::record::Record;
use super::request::StoredRequest;
use super::state::{State, WireState};
use crate::clock::Timestamp;
use crate::error::Result;

/// A request the app wants done, as kept in the queue.
#[derive(Clone)]
#[non_exhaustive]
pub struct Action {
    /// The id.
    pub id: ActionId,
    /// The idempotency key: the caller's, or the id.
    pub key: String,
    /// The lane.
    pub lane: Lane,
    /// Scheme, host and port it goes to.
    pub origin: Origin,
    /// On whose behalf it is sent.
    pub principal: Option<String>,
    /// The method.
    pub method: Method,
    /// The whole URL.
    pub url: Url,
    /// The headers that are kept. Credentials are among them in a sealed vault only.
    pub headers: HeaderMap,
    /// Its own total timeout, if it set one.
    pub timeout: Option<Duration>,
    /// The app's word for it.
    pub tag: Option<String>,
    /// Higher goes first among lanes that are ready.
    pub priority: i8,
    /// Where it is in its life.
    pub state: State,
    /// What the server may have seen of it.
    pub wire_state: WireState,
    /// Attempts so far.
    pub attempts: u32,
    /// Attempts that count against its retries.
    pub attempts_counted: u32,
    /// How many counted attempts it gets.
    pub attempts_max: u32,
    /// When it was made.
    pub created: Timestamp,
    /// When it is no longer wanted.
    pub expires: Option<Timestamp>,
    /// When the newest attempt started.
    pub last_attempt: Option<Timestamp>,
    /// The status of the newest answer.
    pub last_status: Option<u16>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Length of the body in bytes.
    pub body_bytes: u64,
    /// The actions that it was queued after.
    pub parents: Vec<ActionId>,
    /// Those of them that are not delivered yet: it is not sent before they are.
    pub waits_for: Vec<ActionId>,
    /// The action that took the place of this one.
    pub superseded_by: Option<ActionId>,
}

/// Without query string and header values: they stay out of logs.
impl std::fmt::Debug for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Action")
            .field("id", &self.id)
            .field("key", &self.key)
            .field("lane", &self.lane)
            .field("method", &self.method)
            .field("origin", &self.origin)
            .field("path", &self.url.path())
            .field("state", &self.state)
            .field("wire_state", &self.wire_state)
            .field("attempts", &self.attempts)
            .field("last_error", &self.last_error)
            .finish_non_exhaustive()
    }
}

impl Action {
    /// Reads the request out of a record.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) when the record's content is not a request.
    pub fn of(record: &Record) -> Result<Self> {
        let request = StoredRequest::decode(&record.content)?;
        Ok(Self {
            id: record.id,
            key: record.effective_key(),
            lane: record.lane.bare(),
            origin: record.origin.clone(),
            principal: record.principal.clone(),
            method: request.method,
            url: request.url,
            headers: request.headers,
            timeout: request.timeout,
            tag: request.tag,
            priority: record.priority,
            state: record.state.clone(),
            wire_state: record.wire,
            attempts: record.attempts,
            attempts_counted: record.attempts_counted,
            attempts_max: record.attempts_max,
            created: record.created,
            expires: record.expires,
            last_attempt: record.last_attempt,
            last_status: record.last_status,
            last_error: record.last_error.clone(),
            body_bytes: record.body_bytes,
            parents: record.parents.clone(),
            waits_for: record.waits.clone(),
            superseded_by: record.superseded_by,
        })
    }
}
