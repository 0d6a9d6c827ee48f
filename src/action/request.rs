//! The request as it is kept: method, URL, headers, timeout. The body lies apart.
//! A store treats the encoded form as opaque bytes, so that a vault can seal it.

use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::reference::Reference;
use crate::error::{Error, ErrorKind, Result};

/// A request without its body, as the queue keeps it. Credentials are part of it in a sealed vault only.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredRequest {
    /// The method.
    pub method: Method,
    /// The whole URL.
    pub url: Url,
    /// The headers that may be stored.
    pub headers: HeaderMap,
    /// The request's own total timeout, if it set one.
    pub timeout: Option<Duration>,
    /// A word of the app, for finding it again.
    pub tag: Option<String>,
    /// How long the server remembers its key; nothing = as the vault says, [`Duration::MAX`] = for ever.
    pub key_window: Option<Duration>,
    /// The app said that an HTML page cannot be the answer.
    pub expects_json: bool,
    /// What is to be filled in before it can be sent.
    pub references: Vec<Reference>,
    /// Statuses beside 2xx that are the answer, and not a failure.
    pub answers: Vec<u16>,
    /// A 401 holds it, and its principal, until there are credentials that are taken.
    pub waits_for_credentials: bool,
}

#[derive(Serialize, Deserialize)]
struct Encoded<'a> {
    method: std::borrow::Cow<'a, str>,
    url: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, HeaderText)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    /// Names of headers whose values are credentials: only in a sealed vault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sensitive: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    expects_json: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_window_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    references: Vec<Reference>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    answers: Vec<u16>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    waits_for_credentials: bool,
}

/// A header value: text where it is text, bytes where it is not.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum HeaderText {
    Text(String),
    Bytes(Vec<u8>),
}

impl StoredRequest {
    /// A request with nothing but a method and a URL.
    #[must_use]
    pub fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            timeout: None,
            tag: None,
            key_window: None,
            expects_json: false,
            references: Vec::new(),
            answers: Vec::new(),
            waits_for_credentials: false,
        }
    }

    /// The bytes a store keeps: JSON with named fields.
    ///
    /// # Errors
    ///
    /// Never for a request that was checked when it was built.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), HeaderText::of(value)));
        let encoded = Encoded {
            method: self.method.as_str().into(),
            url: self.url.as_str().into(),
            headers: headers.collect(),
            sensitive: self.sensitive(),
            timeout_ms: self.timeout.map(whole_millis),
            key_window_ms: self.key_window.map(whole_millis),
            tag: self.tag.clone(),
            expects_json: self.expects_json,
            references: self.references.clone(),
            answers: self.answers.clone(),
            waits_for_credentials: self.waits_for_credentials,
        };
        serde_json::to_vec(&encoded).map_err(|e| unusable("cannot be encoded").with_source(e))
    }

    /// The names of headers that hold a secret.
    fn sensitive(&self) -> Vec<String> {
        let is_secret = |name: &HeaderName, value: &HeaderValue| {
            value.is_sensitive() || [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE].contains(name)
        };
        let secret = self
            .headers
            .iter()
            .filter(|(name, value)| is_secret(name, value));
        secret.map(|(name, _)| name.as_str().to_owned()).collect()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when the bytes are not a request.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let encoded: Encoded<'_> = serde_json::from_slice(bytes)
            .map_err(|e| unusable("is not readable").with_source(e))?;
        let mut headers = HeaderMap::with_capacity(encoded.headers.len());
        for (name, value) in encoded.headers {
            let name = HeaderName::try_from(name)
                .map_err(|e| unusable("has a bad header name").with_source(e))?;
            let mut value = value.value()?;
            value.set_sensitive(encoded.sensitive.iter().any(|one| one == name.as_str()));
            headers.append(name, value);
        }
        Ok(Self {
            method: encoded
                .method
                .parse()
                .map_err(|_| unusable("has a bad method"))?,
            url: Url::parse(&encoded.url).map_err(|e| unusable("has a bad URL").with_source(e))?,
            headers,
            timeout: encoded.timeout_ms.map(Duration::from_millis),
            key_window: encoded.key_window_ms.map(Duration::from_millis),
            tag: encoded.tag,
            expects_json: encoded.expects_json,
            references: encoded.references,
            answers: encoded.answers,
            waits_for_credentials: encoded.waits_for_credentials,
        })
    }
}

/// Method, scheme, host and path only: query strings and header values stay out of logs.
impl std::fmt::Debug for StoredRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredRequest")
            .field("method", &self.method)
            .field("host", &self.url.host_str())
            .field("path", &self.url.path())
            .finish_non_exhaustive()
    }
}

impl HeaderText {
    fn of(value: &HeaderValue) -> Self {
        match value.to_str() {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(value.as_bytes().to_vec()),
        }
    }

    fn value(self) -> Result<HeaderValue> {
        let bytes = match self {
            Self::Text(text) => text.into_bytes(),
            Self::Bytes(bytes) => bytes,
        };
        HeaderValue::from_bytes(&bytes)
            .map_err(|e| unusable("has a bad header value").with_source(e))
    }
}

fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn unusable(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the stored request {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back_as_written() {
        let url = Url::parse("https://a.example/x?y=%20z").expect("url");
        let mut request = StoredRequest::new(Method::PATCH, url);
        request
            .headers
            .append("x-text", HeaderValue::from_static("a"));
        request
            .headers
            .append("x-text", HeaderValue::from_static("b"));
        request.headers.append(
            "x-bytes",
            HeaderValue::from_bytes(b"caf\xe9").expect("value"),
        );
        request.timeout = Some(Duration::from_millis(1500));
        request.tag = Some("t".into());
        request.expects_json = true;
        request.answers = vec![409, 412];
        request.waits_for_credentials = true;
        request.key_window = Some(Duration::from_secs(60));
        let parent = crate::action::ResponseOf::new(crate::action::ActionId::new());
        let path = crate::action::Slot::Path("id".into());
        let reference = Reference::new(path, parent.json("/id"));
        request.references.push(reference);
        let bytes = request.encode().expect("encode");
        assert_eq!(StoredRequest::decode(&bytes).expect("decode"), request);
    }

    #[test]
    fn debug_shows_no_query_and_no_header_value() {
        let mut request =
            StoredRequest::new(Method::GET, Url::parse("http://h/p?secret=1").expect("url"));
        request
            .headers
            .append("x-secret", HeaderValue::from_static("secret"));
        assert!(!format!("{request:?}").contains("secret"));
    }
}
