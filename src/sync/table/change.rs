//! A change on its way to the server, the request that carries it, and what the server made of it.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};

use super::record::{RecordKey, Row};
use super::remote::RemoteRow;
use super::version::Version;
use crate::clock::Timestamp;
use crate::error::{Error, Result};

/// What is done to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// The whole row, in place of what is there or as a new one.
    Upsert,
    /// Some fields of a row that is there.
    Patch,
    /// The record goes.
    Delete,
}

/// A change of one record, for [`RemoteStore::request`](super::RemoteStore::request).
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Change {
    /// Of which record.
    pub key: RecordKey,
    /// What is done.
    pub operation: Operation,
    /// What is sent: the whole row of an upsert, the changed fields of a patch, nothing of a deletion.
    pub row: Row,
    /// The version that it was made on. The server must refuse the change with 409 or 412 when it has another one by now:
    /// `If-Match`. Nothing = the server told none.
    pub base_version: Option<Version>,
    /// The server has no such row, as far as the device knows: `If-None-Match: *`. The base version, if there is one, is then that of
    /// its tombstone.
    pub is_new: bool,
    /// When the app made it, by the clock of the device.
    pub changed_at: Timestamp,
    /// The idempotency key, which the vault sends.
    pub idempotency_key: String,
}

impl Change {
    /// A change of a record that the server has, as far as it tells no versions; for tests of a dialect.
    pub fn new(key: RecordKey, operation: Operation, idempotency_key: impl Into<String>) -> Self {
        Self {
            key,
            operation,
            row: Row::new(),
            base_version: None,
            is_new: false,
            changed_at: Timestamp::EPOCH,
            idempotency_key: idempotency_key.into(),
        }
    }
}

/// Without the row.
impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change")
            .field("key", &self.key)
            .field("operation", &self.operation)
            .field("base_version", &self.base_version)
            .field("is_new", &self.is_new)
            .finish_non_exhaustive()
    }
}

/// The request that carries a change.
#[derive(Clone)]
#[must_use]
#[non_exhaustive]
pub struct PushRequest {
    /// The method.
    pub method: Method,
    /// The path, which joins the vault's base URL. Ids in it are percent-encoded.
    pub path: String,
    /// The headers. No credentials: the vault stamps them on.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The statuses beside 2xx that are the server's answer to the change, and not a failure: the vault keeps the answer, and
    /// [`read_push`](super::RemoteStore::read_push) says what it means. Default: 404, 409, 410 and 412. Every other 4xx is a dead
    /// letter of this record, as for any request of the vault.
    pub answers: Vec<u16>,
}

impl PushRequest {
    /// A request without headers and body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            answers: vec![404, 409, 410, 412],
        }
    }

    /// With a header, in place of one of the same name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for what cannot be one.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self> {
        let bad =
            |e: http::Error| Error::invalid("a header of a push is not usable").with_source(e);
        let name = HeaderName::try_from(name).map_err(|e| bad(e.into()))?;
        let value = HeaderValue::try_from(value).map_err(|e| bad(e.into()))?;
        self.headers.insert(name, value);
        Ok(self)
    }

    /// With a JSON body and its `Content-Type`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for what is not JSON.
    pub fn json<T: Serialize + ?Sized>(mut self, body: &T) -> Result<Self> {
        let bad = |e| Error::invalid("the body of a push cannot be written as JSON").with_source(e);
        self.body = serde_json::to_vec(body).map_err(bad)?.into();
        self.header("content-type", "application/json")
    }
}

/// Method and path only.
impl fmt::Debug for PushRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushRequest")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// What the server made of a change.
#[derive(Clone, PartialEq)]
#[must_use]
#[non_exhaustive]
pub enum Pushed {
    /// It took it.
    Accepted {
        /// The version that the record has now; nothing when the server tells none. Without it and without `row`, changes that
        /// were made meanwhile may meet a conflict with this one: the engine finds out by [`fetch`](super::RemoteStore::fetch).
        version: Option<Version>,
        /// When the row changed, by the server's clock.
        updated_at: Option<Timestamp>,
        /// The row as the server has it now, where it tells: it may have set fields of its own.
        row: Option<Row>,
    },
    /// It has another version than the change was made on, or none of a record that was to be changed, or one of a record that was
    /// to be new.
    Conflict {
        /// What the server has: a row or a tombstone. Nothing when the answer does not say: the engine asks
        /// [`fetch`](super::RemoteStore::fetch).
        server: Option<RemoteRow>,
    },
    /// It did not take it, and will not: an error in an answer that says 200, an empty body where a row is due. Nothing is lost:
    /// the change stays with its record, [refused](super::OutgoingState::Refused).
    Rejected {
        /// What it said; shown to people, so without secrets.
        reason: String,
    },
}

impl Pushed {
    /// Taken, and nothing is told of the row.
    pub fn accepted(version: Option<Version>) -> Self {
        Self::Accepted {
            version,
            updated_at: None,
            row: None,
        }
    }

    /// Not taken.
    pub fn rejected(reason: impl Into<String>) -> Self {
        Self::Rejected {
            reason: reason.into(),
        }
    }
}

/// Without rows.
impl fmt::Debug for Pushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { version, .. } => write!(f, "Accepted({version:?})"),
            Self::Conflict { server } => write!(f, "Conflict({server:?})"),
            Self::Rejected { reason } => write!(f, "Rejected({reason})"),
        }
    }
}
