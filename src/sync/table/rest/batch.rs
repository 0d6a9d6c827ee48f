//! Many changes in one request, and an answer for each: the batch of the protocol. Values only; who sends it keeps the order.

use bytes::Bytes;
use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, Method};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::record::version_of_tag;
use crate::action::Answer;
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::sync::Version;

/// One change of a batch, as it would be sent alone: a request of [`RestRemote`](super::RestRemote) with its idempotency key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BatchChange<'a> {
    /// Its own key, the same alone.
    pub key: &'a str,
    /// Its method.
    pub method: &'a Method,
    /// Its URL, or its path: the last two segments are the table and the id.
    pub url: &'a str,
    /// Its headers, of which the preconditions count.
    pub headers: &'a HeaderMap,
    /// Its body.
    pub body: &'a [u8],
}

impl<'a> BatchChange<'a> {
    /// A change.
    pub fn new(key: &'a str, method: &'a Method, url: &'a str) -> Self {
        static NONE: std::sync::OnceLock<HeaderMap> = std::sync::OnceLock::new();
        Self {
            key,
            method,
            url,
            headers: NONE.get_or_init(HeaderMap::new),
            body: &[],
        }
    }

    /// With its headers.
    #[must_use]
    pub fn headers(mut self, headers: &'a HeaderMap) -> Self {
        self.headers = headers;
        self
    }

    /// With its body.
    #[must_use]
    pub fn body(mut self, body: &'a [u8]) -> Self {
        self.body = body;
        self
    }
}

/// What the server made of one change of a batch: what it would have answered to it alone.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BatchResult {
    /// Its status, and its body: for [`read_push`](crate::sync::RemoteStore::read_push) when the status is one of its
    /// [`answers`](crate::sync::PushRequest::answers) or a 2xx.
    pub answer: Answer,
    /// With 429 and 503: not before this time is over.
    pub retry_after: Option<std::time::Duration>,
}

#[derive(Serialize)]
struct Entry<'a> {
    key: &'a str,
    method: &'a str,
    table: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    if_match: Option<Version>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    if_none_match: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Body<'a> {
    changes: Vec<Entry<'a>>,
}

/// The body of a batch, in the order of its changes.
pub(super) fn fold(changes: &[BatchChange<'_>]) -> Result<Vec<u8>> {
    let changes = changes.iter().map(entry).collect::<Result<_>>()?;
    serde_json::to_vec(&Body { changes }).map_err(|e| unfit("it cannot be written").with_source(e))
}

fn entry<'a>(change: &BatchChange<'a>) -> Result<Entry<'a>> {
    let (table, id) = place(change.url)?;
    let row = match change.body {
        [] => None,
        body => Some(
            serde_json::from_slice(body).map_err(|e| unfit("a row is no JSON").with_source(e))?,
        ),
    };
    let header = |name| change.headers.get(name).map(http::HeaderValue::to_str);
    let if_match = match header(IF_MATCH) {
        None => None,
        Some(tag) => {
            let version = tag.ok().and_then(version_of_tag);
            Some(version.ok_or_else(|| unfit("an If-Match is no version"))?)
        }
    };
    Ok(Entry {
        key: change.key,
        method: change.method.as_str(),
        table,
        id,
        if_match,
        if_none_match: header(IF_NONE_MATCH).is_some(),
        row,
    })
}

/// Table and id, from the last two segments of a URL.
fn place(url: &str) -> Result<(String, String)> {
    let path = match Url::parse(url) {
        Ok(url) => url.path().to_owned(),
        Err(_) => url.split(['?', '#']).next().unwrap_or_default().to_owned(),
    };
    let mut segments = path.rsplit('/');
    let id = segments.next().and_then(super::named);
    let table = segments.next().and_then(super::named);
    table
        .zip(id)
        .ok_or_else(|| unfit("a path has no table and no id"))
}

fn unfit(why: &str) -> Error {
    Error::invalid(format!("a change does not fit into a batch: {why}"))
}

#[derive(Deserialize)]
struct Results<'a> {
    #[serde(borrow)]
    results: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    status: u16,
    #[serde(default)]
    retry_after: Option<u64>,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
}

/// The answers, in the order of the changes. Another number of them is an error: then each change is to be sent alone.
pub(super) fn split(body: &[u8], count: usize) -> Result<Vec<BatchResult>> {
    let read: Results<'_> = serde_json::from_slice(body).map_err(|e| {
        Error::invalid("the answer to a batch is no list of results").with_source(e)
    })?;
    if read.results.len() != count {
        let text = format!(
            "the answer to a batch of {count} has {} results",
            read.results.len()
        );
        return Err(Error::invalid(text));
    }
    Ok(read.results.into_iter().map(result).collect())
}

fn result(item: Item<'_>) -> BatchResult {
    let mut answer = Answer::new(item.status, Timestamp::EPOCH);
    let text = item.body.map(RawValue::get).unwrap_or_default();
    answer.is_truncated = text.len() > Answer::BODY_BYTES_MAX;
    answer.body =
        Bytes::copy_from_slice(&text.as_bytes()[..text.len().min(Answer::BODY_BYTES_MAX)]);
    BatchResult {
        answer,
        retry_after: item.retry_after.map(std::time::Duration::from_secs),
    }
}
