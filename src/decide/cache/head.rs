//! What is kept of an answer beside its body, and how it is given again.

use http::StatusCode;
use http::header::{AGE, CONNECTION, ETAG, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED};
use serde::{Deserialize, Serialize};

use super::{choice, vary_of};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Headers of one hop, and those that hold secrets or challenges: they are not kept.
const NOT_KEPT: [&str; 14] = [
    "authentication-info",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "set-cookie2",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
];

/// Headers that say what the body is: a 304 does not change them.
const OF_BODY: [&str; 4] = [
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
];

/// The head of a cached answer.
#[derive(Clone, Debug)]
pub(crate) struct AnswerHead {
    status: StatusCode,
    headers: HeaderMap,
    /// By which headers of the request it was chosen.
    vary: Vec<String>,
    /// What the request said in them.
    pub(crate) variant: String,
    /// When the request was made.
    pub(super) asked: Timestamp,
    /// When it came, or was found to be unchanged.
    pub(super) at: Timestamp,
    /// Of the body: one that was kept for another head is not taken for its own.
    digest: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct Encoded {
    status: u16,
    headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    vary: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    variant: String,
    asked: Timestamp,
    at: Timestamp,
    digest: [u8; 32],
}

/// When a request was made, and when its answer came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments {
    pub(crate) asked: Timestamp,
    pub(crate) at: Timestamp,
}

impl AnswerHead {
    /// Of an answer that may be kept. Nothing when it is not told by what the server chose it.
    pub(crate) fn new(
        request: &HeaderMap,
        status: StatusCode,
        headers: &HeaderMap,
        moments: Moments,
    ) -> Option<Self> {
        let vary = vary_of(headers)?;
        Some(Self {
            status,
            headers: kept(headers),
            variant: choice(&vary, request),
            vary,
            asked: moments.asked,
            at: moments.at,
            digest: [0; 32],
        })
    }

    pub(crate) fn with_body(mut self, body: &[u8]) -> Self {
        self.digest = blake3::hash(body).into();
        self
    }

    /// Is this its body?
    pub(crate) fn has_body(&self, body: &[u8]) -> bool {
        blake3::hash(body) == self.digest
    }

    /// Was it chosen by what this request says too?
    pub(crate) fn is_for(&self, request: &HeaderMap) -> bool {
        choice(&self.vary, request) == self.variant
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub(crate) fn at(&self) -> Timestamp {
        self.at
    }

    /// After a 304 (RFC 9111, section 4.3.4). Nothing when that is about another answer.
    pub(crate) fn refreshed(&self, told: &HeaderMap, moments: Moments) -> Option<Self> {
        let is_other = |name: HeaderName| match (self.headers.get(&name), told.get(&name)) {
            (kept, Some(told)) => kept.is_none_or(|kept| weak(kept) != weak(told)),
            (_, None) => false,
        };
        if is_other(ETAG) || (!told.contains_key(ETAG) && is_other(LAST_MODIFIED)) {
            return None;
        }
        let mut refreshed = self.clone();
        refreshed.headers.remove(AGE);
        let new = kept(told);
        for name in new.keys().filter(|name| !OF_BODY.contains(&name.as_str())) {
            refreshed.headers.remove(name);
            for value in new.get_all(name) {
                refreshed.headers.append(name, value.clone());
            }
        }
        (refreshed.asked, refreshed.at) = (moments.asked, moments.at);
        Some(refreshed)
    }

    /// The headers with which it is given: `Age` (RFC 9111, section 5.1) and `Cache-Status` (RFC 9211).
    pub(crate) fn given(&self, request: &HeaderMap, now: Timestamp, how: Given) -> HeaderMap {
        let mut headers = self.headers.clone();
        let age = self.age(now).as_secs();
        headers.insert(AGE, HeaderValue::from(age));
        let ttl = self.ttl(request, now);
        let text = match how {
            Given::Hit => format!("SyncVault; hit; ttl={ttl}"),
            Given::Revalidated => {
                format!("SyncVault; fwd=stale; fwd-status=304; stored; ttl={ttl}")
            }
        };
        if let Ok(status) = HeaderValue::from_str(&text) {
            headers.append(CACHE_STATUS, status);
        }
        headers
    }

    /// # Errors
    ///
    /// Never: all of it can be written.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| {
            let text = value.as_bytes().iter().map(|byte| char::from(*byte));
            (name.as_str().to_owned(), text.collect())
        });
        let encoded = Encoded {
            status: self.status.as_u16(),
            headers: headers.collect(),
            vary: self.vary.clone(),
            variant: self.variant.clone(),
            asked: self.asked,
            at: self.at,
            digest: self.digest,
        };
        let unwritten = |e| Error::new(ErrorKind::Storage, "no head of an answer").with_source(e);
        serde_json::to_vec(&encoded).map_err(unwritten)
    }

    /// Nothing when it is none of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let encoded: Encoded = serde_json::from_slice(bytes).ok()?;
        let mut headers = HeaderMap::new();
        for (name, text) in &encoded.headers {
            let bytes: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
            let value = HeaderValue::from_bytes(&bytes.ok()?).ok()?;
            headers.append(HeaderName::try_from(name).ok()?, value);
        }
        Some(Self {
            status: StatusCode::from_u16(encoded.status).ok()?,
            headers,
            vary: encoded.vary,
            variant: encoded.variant,
            asked: encoded.asked,
            at: encoded.at,
            digest: encoded.digest,
        })
    }
}

/// Why a kept answer is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// The server said nothing to it.
    Hit,
    /// The server said that it did not change.
    Revalidated,
}

/// An entity tag, strong or weak, is compared weakly (RFC 9110, section 8.8.3.2).
fn weak(value: &HeaderValue) -> &[u8] {
    let bytes = value.as_bytes().trim_ascii();
    bytes.strip_prefix(b"W/").unwrap_or(bytes)
}

fn kept(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let is_kept = |name: &HeaderName, value: &HeaderValue| {
        !NOT_KEPT.contains(&name.as_str())
            && !named.iter().any(|one| one == name.as_str())
            && !value.is_sensitive()
    };
    let mut kept = HeaderMap::new();
    for (name, value) in headers.iter().filter(|(name, value)| is_kept(name, value)) {
        kept.append(name, value.clone());
    }
    kept
}
