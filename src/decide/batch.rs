//! Batches: what an app gives so that waiting actions of a lane leave in one request, and what it says of each when the
//! answer is there. The vault keeps order, keys and ledger; the app knows what its server takes.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Observation, Observed, Verdict, verdict};
use crate::action::{ActionId, Origin, StoredRequest};
use crate::clock::Timestamp;
use crate::error::{Error, Result};

/// Folds waiting actions of a lane into one request, and says what its answer means for each.
///
/// # What is kept, whatever it does
///
/// - **The same again.** What may have been sent in a batch goes again with the same members, in the same order, under the same
///   idempotency key: after a lost answer, a 503, a crash. So `fold` must give the same request for the same items, also in the
///   next version of the app.
/// - **Order.** Nothing of the lane starts before the whole batch is settled, in one commit.
/// - **No guess.** Only an answer that the verdict table takes as delivered (2xx) is given to `split`. One that refuses the
///   batch as a whole (400, 404, 413, ...) is no verdict on its items: each goes alone then, and the one that spoils the rest
///   is found. So it is when the last retry of a member is used up, when the number of verdicts is not the number of
///   items, and when something panics here.
///
/// # The keys of the items
///
/// Alone, an action carries its own [key](BatchItem::key). It may have been in a batch before whose answer could not be
/// read: so put the keys into the body, and let the server honour them. At a server that does not, such an action may happen twice.
///
/// ```
/// use syncvault::decide::{BatchAnswer, BatchItem, BatchRequest, Batcher, Folded, ItemVerdict};
///
/// struct Readings;
///
/// impl Batcher for Readings {
///     fn fold(&self, items: &[BatchItem]) -> Folded {
///         let body: Vec<_> = items
///             .iter()
///             .map(|item| serde_json::json!({ "key": item.key, "reading": item.text() }))
///             .collect();
///         BatchRequest::post("/readings/batch").json(&body).into()
///     }
///
///     fn split(&self, answer: &BatchAnswer, _items: &[BatchItem]) -> Vec<ItemVerdict> {
///         // `[200, 503, 422]`: a status for each.
///         let statuses: Vec<u16> = answer.json().unwrap_or_default();
///         statuses.into_iter().map(ItemVerdict::of_status).collect()
///     }
/// }
/// ```
pub trait Batcher: Send + Sync + 'static {
    /// How much goes into one batch. Asked once, when the vault is built.
    fn limits(&self) -> BatchLimits {
        BatchLimits::default()
    }

    /// The one request for all of them, in their order; or that they go one by one. There are two at least.
    fn fold(&self, items: &[BatchItem]) -> Folded;

    /// What the answer means for each, in the order of the items.
    fn split(&self, answer: &BatchAnswer, items: &[BatchItem]) -> Vec<ItemVerdict>;
}

/// How much goes into one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchLimits {
    /// How many actions, 2 to [`ACTIONS_LIMIT`](Self::ACTIONS_LIMIT). Default: 50.
    pub actions_max: usize,
    /// Bytes of their bodies together, up to [`BYTES_LIMIT`](Self::BYTES_LIMIT): a batch is in memory. Default: 1 MiB. A longer
    /// body goes alone.
    pub bytes_max: u64,
    /// How long the answer may be, up to [`BYTES_LIMIT`](Self::BYTES_LIMIT). Default: 4 MiB.
    pub answer_bytes_max: u64,
}

impl BatchLimits {
    /// The most actions that a batch may have.
    pub const ACTIONS_LIMIT: usize = 1000;

    /// The most bytes that a batch, or its answer, may have.
    pub const BYTES_LIMIT: u64 = 64 * 1024 * 1024;

    /// Other than the default number of actions.
    #[must_use]
    pub fn with_actions_max(mut self, actions_max: usize) -> Self {
        self.actions_max = actions_max;
        self
    }

    /// Other than the default number of bytes.
    #[must_use]
    pub fn with_bytes_max(mut self, bytes_max: u64) -> Self {
        self.bytes_max = bytes_max;
        self
    }

    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when a limit is out of its range.
    pub fn check(&self) -> Result<()> {
        if !(2..=Self::ACTIONS_LIMIT).contains(&self.actions_max) {
            let text = format!("actions_max must be 2 to {}", Self::ACTIONS_LIMIT);
            return Err(Error::invalid(text));
        }
        for (name, bytes) in [
            ("bytes_max", self.bytes_max),
            ("answer_bytes_max", self.answer_bytes_max),
        ] {
            if !(1..=Self::BYTES_LIMIT).contains(&bytes) {
                let text = format!("{name} must be 1 to {}", Self::BYTES_LIMIT);
                return Err(Error::invalid(text));
            }
        }
        Ok(())
    }
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            actions_max: 50,
            bytes_max: 1024 * 1024,
            answer_bytes_max: 4 * 1024 * 1024,
        }
    }
}

/// A waiting action, as a [`Batcher`] sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BatchItem {
    /// The action.
    pub id: ActionId,
    /// Its own idempotency key, the same in a batch and alone: for the server.
    pub key: String,
    /// Its request: method, URL and headers. A `traceparent` among them is its own.
    pub request: StoredRequest,
    /// Its body, as kept: compressed when its headers say so.
    pub body: Bytes,
}

impl BatchItem {
    /// An item, for tests of a batcher.
    #[must_use]
    pub fn new(id: ActionId, key: impl Into<String>, request: StoredRequest, body: Bytes) -> Self {
        let key = key.into();
        Self {
            id,
            key,
            request,
            body,
        }
    }

    /// The body as text; what is not text is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when it is not JSON of this shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body)
            .map_err(|e| Error::invalid("a body is not JSON of the wanted shape").with_source(e))
    }
}

/// What [`Batcher::fold`] gives.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Folded {
    /// One request for all.
    Request(BatchRequest),
    /// These go one by one, each as the app made it.
    Singly,
}

impl From<BatchRequest> for Folded {
    fn from(request: BatchRequest) -> Self {
        Self::Request(request)
    }
}

/// What cannot be made into a batch goes one by one.
impl From<Result<BatchRequest>> for Folded {
    fn from(request: Result<BatchRequest>) -> Self {
        request.map_or_else(
            |error| {
                tracing::warn!(%error, "a batch could not be folded");
                Self::Singly
            },
            Self::Request,
        )
    }
}

/// The request of a batch. Idempotency key and credentials are put on it by the vault, once for the whole; the trace of its
/// first item goes on in it.
#[derive(Clone)]
#[non_exhaustive]
pub struct BatchRequest {
    /// The method.
    pub method: Method,
    /// Where it goes: a path that joins the base URL, or a URL. Of the origin of its items, always.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body. The vault does not compress it.
    pub body: Bytes,
    /// How long the attempt may take in all; nothing = as the vault says.
    pub timeout: Option<Duration>,
    /// An HTML page cannot be the answer: it is a sign of a login page of the network. [`json`](Self::json) sets it.
    pub expects_json: bool,
}

/// Without path and headers: they stay out of logs.
impl fmt::Debug for BatchRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchRequest")
            .field("method", &self.method)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl BatchRequest {
    /// A request without a body.
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            timeout: None,
            expects_json: false,
        }
    }

    /// A POST.
    #[must_use]
    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// A body as it is.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// A body of JSON, for an answer of JSON.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the value cannot be written as JSON.
    pub fn json(mut self, value: &(impl Serialize + ?Sized)) -> Result<Self> {
        let body = serde_json::to_vec(value)
            .map_err(|e| Error::invalid("a batch cannot be written as JSON").with_source(e))?;
        let json = || HeaderValue::from_static("application/json");
        self.headers.entry(CONTENT_TYPE).or_insert_with(json);
        self.headers.entry(ACCEPT).or_insert_with(json);
        self.body = body.into();
        self.expects_json = true;
        Ok(self)
    }
}

/// The answer to a batch, whole.
#[derive(Clone)]
#[non_exhaustive]
pub struct BatchAnswer {
    /// Its status, 2xx unless the app's [`Classifier`](super::Classifier) says that another one is a delivery.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Without headers and body: they stay out of logs.
impl fmt::Debug for BatchAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchAnswer")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl BatchAnswer {
    /// An answer.
    #[must_use]
    pub fn new(status: u16, headers: HeaderMap, body: Bytes) -> Self {
        Self {
            status,
            headers,
            body,
        }
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when it is not JSON of this shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|e| {
            Error::invalid("an answer to a batch is not JSON of the wanted shape").with_source(e)
        })
    }
}

/// What the answer to a batch means for one of its items.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ItemVerdict {
    /// The server took it.
    Success {
        /// The status that is kept as its own.
        status: u16,
        /// What is kept as its answer, up to [`Answer::BODY_BYTES_MAX`](crate::Answer::BODY_BYTES_MAX).
        body: Bytes,
    },
    /// The server did not take it, and may later: it goes again, in a batch if one is made then. The attempt counts.
    Retry {
        /// Not before this time is over; else by the action's own backoff.
        after: Option<Duration>,
    },
    /// The server will not take it: a dead letter.
    Reject {
        /// The status that is kept as its own.
        status: u16,
        /// What is kept as its answer, up to [`Answer::BODY_BYTES_MAX`](crate::Answer::BODY_BYTES_MAX).
        body: Bytes,
    },
}

impl ItemVerdict {
    /// By a status of its own, as the [verdict table](verdict()) reads it for a request that goes alone: 2xx is a success; 429, 503
    /// and 500 are retried; 404 and 422 are rejected.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        Self::of(status, Bytes::new())
    }

    /// As [`of_status`](Self::of_status), with what is kept as its answer.
    #[must_use]
    pub fn of(status: u16, body: impl Into<Bytes>) -> Self {
        let (headers, origin) = (HeaderMap::new(), Origin::from_stored("of an item"));
        let observed = Observed::Answer {
            status,
            headers: &headers,
        };
        let observation = Observation::new(&Method::POST, &origin, observed, Timestamp::EPOCH);
        let body = body.into();
        match verdict(&observation, Duration::ZERO) {
            Verdict::Delivered => Self::Success { status, body },
            Verdict::Reject(_) => Self::Reject { status, body },
            _ => Self::Retry { after: None },
        }
    }
}

/// Why a batch did not go as one, or its answer told nothing of its items. Its items go alone then, with keys of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchProblem {
    /// The batcher wants them one by one.
    Declined,
    /// The answer was split into another number of verdicts: none of them counts.
    WrongCount {
        /// How many items there are.
        items: usize,
        /// How many verdicts were given.
        verdicts: usize,
    },
    /// The batcher panicked.
    Panicked,
    /// The request of the batch cannot be sent: its URL is bad, or of another origin than its items.
    Unsendable {
        /// What is wrong, without any content of the request.
        detail: String,
    },
    /// An item cannot be read.
    Unreadable,
    /// The answer was longer than [`BatchLimits::answer_bytes_max`].
    AnswerTooLong,
    /// Not all members are there, or nobody folds their lane any more.
    Incomplete,
    /// It may have happened, and the server may have forgotten the keys by now.
    KeyForgotten,
}

impl fmt::Display for BatchProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Declined => f.write_str("the batcher wants them one by one"),
            Self::WrongCount { items, verdicts } => {
                write!(
                    f,
                    "the answer to a batch of {items} gave {verdicts} verdicts"
                )
            }
            Self::Panicked => f.write_str("the batcher panicked"),
            Self::Unsendable { detail } => write!(f, "the batch cannot be sent: {detail}"),
            Self::Unreadable => f.write_str("an item of the batch cannot be read"),
            Self::AnswerTooLong => f.write_str("the answer to the batch is too long"),
            Self::Incomplete => f.write_str("the batch is not whole any more"),
            Self::KeyForgotten => {
                f.write_str("the batch may have happened, and its key may be forgotten")
            }
        }
    }
}

impl std::error::Error for BatchProblem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_items_status_is_read_as_that_of_a_request_alone() {
        let success = |status| ItemVerdict::Success {
            status,
            body: Bytes::new(),
        };
        let reject = |status| ItemVerdict::Reject {
            status,
            body: Bytes::new(),
        };
        for status in [200, 201, 204] {
            assert_eq!(ItemVerdict::of_status(status), success(status));
        }
        for status in [400, 401, 404, 409, 413, 422] {
            assert_eq!(ItemVerdict::of_status(status), reject(status));
        }
        for status in [408, 425, 429, 500, 502, 503, 511, 0, 700] {
            assert_eq!(
                ItemVerdict::of_status(status),
                ItemVerdict::Retry { after: None }
            );
        }
    }

    #[test]
    fn limits_have_their_range() {
        let limits = BatchLimits::default();
        limits.check().expect("the default");
        for actions in [0, 1, 1001] {
            let error = limits.with_actions_max(actions).check().expect_err("range");
            assert!(error.to_string().contains("actions_max"), "{error}");
        }
        for bytes in [0, BatchLimits::BYTES_LIMIT + 1] {
            limits.with_bytes_max(bytes).check().expect_err("range");
        }
    }
}
