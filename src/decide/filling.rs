//! References: a request and its body are made whole with parts of the answers to other actions. Bytes that nothing refers to stay as
//! they are; the same answers always give the same bytes.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use serde_json::value::RawValue;

use crate::action::{
    ActionId, Answer, Reference, ResponsePart, ResponseValue, Slot, StoredRequest,
};

/// The longest URL, in bytes. Records must stay small enough for every store.
pub const URL_BYTES_MAX: usize = 8 * 1024;
/// The most that all headers of a request may weigh, in bytes.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;

/// What is known of an action whose answer is referred to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Answered {
    /// Where it was sent; nothing when that is not kept.
    pub url: Option<Url>,
    /// What is kept of its answer; nothing when nothing is.
    pub answer: Option<Answer>,
}

impl Answered {
    /// With its URL and its answer, as far as they are kept.
    #[must_use]
    pub fn new(url: Option<Url>, answer: Option<Answer>) -> Self {
        Self { url, answer }
    }
}

/// A reference that cannot be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unresolved {
    /// The action whose answer it refers to.
    pub parent: ActionId,
    /// Why, without any content of request or answer.
    pub why: &'static str,
    /// Which reference, in the words of the request.
    pub what: String,
}

impl Unresolved {
    /// A reference to the answer of `parent`.
    #[must_use]
    pub fn new(parent: ActionId, why: &'static str, what: String) -> Self {
        Self { parent, why, what }
    }
}

/// A request that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filled {
    /// The request; it refers to nothing any more.
    pub request: StoredRequest,
    /// The body.
    pub body: Bytes,
}

/// Fills in all references of a request.
///
/// # Errors
///
/// [`Unresolved`] for the first one that leads to nothing, or to what does not fit.
pub fn fill(
    request: &StoredRequest,
    body: Bytes,
    answers: &BTreeMap<ActionId, Answered>,
) -> Result<Filled, Unresolved> {
    let mut filled = Filled {
        request: request.clone(),
        body,
    };
    let mut references = std::mem::take(&mut filled.request.references);
    // The URL first: the others are parts of it, or beside it.
    references.sort_by_key(|reference| reference.into != Slot::Url);
    for reference in references {
        let value = value_of(&reference.from, answers);
        let put = value.and_then(|value| filled.put(&reference, &value, answers));
        put.map_err(|why| Unresolved {
            parent: reference.from.of,
            why,
            what: reference_text(&reference),
        })?;
    }
    Ok(filled)
}

/// Is there `{name}` in the path of this URL?
#[must_use]
pub fn has_path_slot(url: &Url, name: &str) -> bool {
    url.path().contains(&path_slot(name))
}

/// As it stands in a URL.
fn path_slot(name: &str) -> String {
    format!("%7B{name}%7D")
}

/// Is there a value at this JSON pointer (RFC 6901)?
#[must_use]
pub fn has_json_slot(json: &[u8], pointer: &str) -> bool {
    let text = std::str::from_utf8(json).ok();
    text.is_some_and(|text| located(text, pointer).is_some())
}

type Put<T> = Result<T, &'static str>;

/// A value of an answer: the text of a JSON value, or of a header.
#[derive(Debug)]
enum Value {
    Json(String),
    Header(String),
}

fn value_of(from: &ResponseValue, answers: &BTreeMap<ActionId, Answered>) -> Put<Value> {
    let answered = answers.get(&from.of);
    let answer = answered.and_then(|answered| answered.answer.as_ref());
    let answer = answer.ok_or("nothing of its answer is kept")?;
    match &from.part {
        ResponsePart::Header(name) => match answer.header(name) {
            Some(value) => Ok(Value::Header(value.to_owned())),
            None => Err("its answer has no such header"),
        },
        ResponsePart::Json(_) if answer.is_truncated => {
            Err("its answer was longer than what is kept, or broke off")
        }
        ResponsePart::Json(pointer) => {
            let text = std::str::from_utf8(&answer.body).map_err(|_| "its answer is not JSON")?;
            serde_json::from_str::<&RawValue>(text).map_err(|_| "its answer is not JSON")?;
            let found = located(text, pointer).ok_or("its answer has no such value")?;
            Ok(Value::Json(found.to_owned()))
        }
    }
}

/// The text of the value at a pointer.
fn located<'t>(text: &'t str, pointer: &str) -> Option<&'t str> {
    let mut at = serde_json::from_str::<&RawValue>(text).ok()?.get();
    if pointer.is_empty() {
        return Some(at);
    }
    for token in pointer.strip_prefix('/')?.split('/') {
        let token = token.replace("~1", "/").replace("~0", "~");
        at = match at.as_bytes().first() {
            Some(b'{') => {
                let fields: BTreeMap<String, &RawValue> = serde_json::from_str(at).ok()?;
                fields.get(&token)?.get()
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(at).ok()?;
                items.get(index_of(&token)?)?.get()
            }
            _ => return None,
        };
    }
    Some(at)
}

/// Digits without a zero in front.
fn index_of(token: &str) -> Option<usize> {
    let is_plain = token.bytes().all(|byte| byte.is_ascii_digit());
    let is_short = token.len() == 1 || !token.starts_with('0');
    token.parse().ok().filter(|_| is_plain && is_short)
}

impl Value {
    /// As one word: what stands in URLs and headers.
    fn text(&self) -> Put<String> {
        let json = match self {
            Self::Header(text) => return Ok(text.clone()),
            Self::Json(json) => json,
        };
        match json.as_bytes().first() {
            Some(b'"') => serde_json::from_str(json).map_err(|_| "its answer is not JSON"),
            // As the server wrote it, however long the number is.
            Some(b'-' | b'0'..=b'9' | b't' | b'f') => Ok(json.clone()),
            _ => Err("the value is no text, number or truth value"),
        }
    }

    fn json(&self) -> Put<String> {
        match self {
            Self::Json(json) => Ok(json.clone()),
            Self::Header(text) => {
                serde_json::to_string(text).map_err(|_| "the value does not fit into JSON")
            }
        }
    }
}

impl Filled {
    fn put(
        &mut self,
        reference: &Reference,
        value: &Value,
        answers: &BTreeMap<ActionId, Answered>,
    ) -> Put<()> {
        match &reference.into {
            Slot::Url => {
                let answered = answers.get(&reference.from.of);
                let base = answered.and_then(|answered| answered.url.as_ref());
                self.put_url(&value.text()?, base.cloned())
            }
            Slot::Path(name) => self.put_path(name, &value.text()?),
            Slot::Query(name) => {
                let text = value.text()?;
                self.request.url.query_pairs_mut().append_pair(name, &text);
                self.check_url()
            }
            Slot::Header(name) => self.put_header(name, &value.text()?),
            Slot::Json(pointer) => self.put_json(pointer, &value.json()?),
        }
    }

    /// A relative one is meant as the server meant it: relative to where the other request went.
    fn put_url(&mut self, text: &str, base: Option<Url>) -> Put<()> {
        let base = base.unwrap_or_else(|| self.request.url.clone());
        let mut url = base.join(text).map_err(|_| "the value is no URL")?;
        let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
        if !is_web || !url.username().is_empty() || url.password().is_some() {
            return Err("the value is no URL that a request can have");
        }
        url.set_fragment(None);
        self.request.url = url;
        self.check_url()
    }

    /// What a server gives stays one segment: it leads nowhere else.
    fn put_path(&mut self, name: &str, text: &str) -> Put<()> {
        if text.is_empty() {
            return Err("the value is empty");
        }
        let path = self.request.url.path();
        let path = path.replace(&path_slot(name), &segment(text));
        self.request.url.set_path(&path);
        if self.request.url.path() != path {
            return Err("the value does not fit into a path");
        }
        self.check_url()
    }

    fn check_url(&self) -> Put<()> {
        match self.request.url.as_str().len() <= URL_BYTES_MAX {
            true => Ok(()),
            false => Err("the URL gets too long"),
        }
    }

    fn put_header(&mut self, name: &str, text: &str) -> Put<()> {
        let unfit = "the value does not fit into a header";
        let name = HeaderName::try_from(name).map_err(|_| unfit)?;
        let value = HeaderValue::try_from(text).map_err(|_| unfit)?;
        self.request.headers.insert(name, value);
        match weight(&self.request.headers) <= HEADER_BYTES_MAX {
            true => Ok(()),
            false => Err("the headers get too long"),
        }
    }

    fn put_json(&mut self, pointer: &str, json: &str) -> Put<()> {
        let unfit = "the body has no such place";
        let body = std::str::from_utf8(&self.body).map_err(|_| unfit)?;
        let place = located(body, pointer).ok_or(unfit)?;
        // It is a part of the body.
        let from = place.as_ptr() as usize - body.as_ptr() as usize;
        let (head, tail) = (body.get(..from), body.get(from + place.len()..));
        let (head, tail) = (head.ok_or(unfit)?, tail.ok_or(unfit)?);
        self.body = [head, json, tail].concat().into();
        Ok(())
    }
}

/// What headers weigh against their limit.
#[must_use]
pub fn weight(headers: &HeaderMap) -> usize {
    let weigh = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    headers.iter().map(weigh).sum()
}

/// One segment of a path: all but the unreserved characters of RFC 3986 encoded.
fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn reference_text(reference: &Reference) -> String {
    let into = match &reference.into {
        Slot::Url => "the URL".to_owned(),
        Slot::Path(name) => format!("{{{name}}} in the path"),
        Slot::Query(name) => format!("{name} in the query"),
        Slot::Header(name) => format!("the header {name}"),
        Slot::Json(pointer) => format!("{pointer:?} in the body"),
    };
    match &reference.from.part {
        ResponsePart::Json(pointer) => format!("{into}, from {pointer:?} of the answer"),
        ResponsePart::Header(name) => format!("{into}, from the header {name} of the answer"),
    }
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

#[cfg(test)]
mod tests;
