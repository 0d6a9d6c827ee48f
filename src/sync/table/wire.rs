//! What every dialect over HTTP shares: names in URLs, answers that are read to a limit, and what a status says of a question.

use std::error::Error as StdError;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use serde_json::Value;

use super::remote::{RemoteError, RemoteErrorKind};
use crate::action::Origin;
use crate::decide::{Observation, Observed, Verdict, retry_after, verdict};
use crate::request::RequestBuilder;
use crate::{Delivery, Outcome};

/// The longest wait that a server can ask of a pull.
const WAIT_MAX: Duration = Duration::from_secs(60 * 60);
/// How much of a server's words is shown to people.
const WORDS_MAX: usize = 300;
/// How much of the answer to a question that failed is read.
const TROUBLE_BYTES_MAX: usize = 16 * 1024;

/// Percent-encoded: everything but letters, digits, `-`, `_`, `.` and `~`.
pub(super) fn encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing into a String does not fail.
            write!(out, "%{byte:02X}").ok();
        }
    }
    out
}

/// No lane of a record: those have a slash behind the name of their table.
pub(super) fn lane(what: &str, table: &str) -> String {
    let table = table.replace('/', "|");
    format!("{what} {table}").chars().take(60).collect()
}

/// What came back, read to a limit.
pub(super) struct Told {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Bytes,
}

impl Told {
    /// What the server says of itself in an answer that is not what was asked for, for people.
    pub(super) fn words(&self) -> String {
        match said(&self.body) {
            Some(words) => format!("{}: {words}", self.status),
            None => self.status.to_string(),
        }
    }

    /// The error of a question that was not answered, by the table of verdicts.
    pub(super) fn trouble(&self) -> RemoteError {
        let now = SystemTime::now().into();
        let (method, origin) = (http::Method::GET, Origin::from_stored("asked"));
        let observed = Observed::Answer {
            status: self.status,
            headers: &self.headers,
        };
        let kind = match verdict(&Observation::new(&method, &origin, observed, now), WAIT_MAX) {
            _ if self.status == 401 => RemoteErrorKind::AuthRequired,
            Verdict::Delivered => RemoteErrorKind::Rejected,
            Verdict::Reject(_) => RemoteErrorKind::Refused,
            _ => RemoteErrorKind::Retry {
                after: retry_after(&self.headers, now, WAIT_MAX),
            },
        };
        RemoteError::new(kind, format!("the server answered {}", self.words()))
    }
}

/// Asks now, through the vault's transport and credentials, and reads at most `bytes_max` of a good answer.
pub(super) async fn ask(request: RequestBuilder, bytes_max: usize) -> Result<Told, RemoteError> {
    match request.delivery(Delivery::Never).send().await? {
        Outcome::Sent(response) => read(response, bytes_max).await,
        Outcome::Queued(_) => {
            let text = "the vault queued a question that may not wait";
            Err(RemoteError::new(
                RemoteErrorKind::Retry { after: None },
                text,
            ))
        }
    }
}

async fn read(mut response: Response, bytes_max: usize) -> Result<Told, RemoteError> {
    let is_good = response.status().is_success();
    let limit = if is_good {
        bytes_max
    } else {
        TROUBLE_BYTES_MAX
    };
    let mut told = Told {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: Bytes::new(),
    };
    let mut body = BytesMut::new();
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            // The status of a failure says enough.
            Err(_) if !is_good => break,
            Err(e) => return Err(broken(e)),
        };
        if body.len() + chunk.len() > limit {
            if is_good {
                return Err(too_long(bytes_max));
            }
            break;
        }
        body.extend_from_slice(&chunk);
    }
    told.body = body.freeze();
    Ok(told)
}

fn broken(e: reqwest::Error) -> RemoteError {
    let text = "the server's answer broke off";
    // Without its URL: ids are in it.
    RemoteError::new(RemoteErrorKind::Retry { after: None }, text).with_source(e.without_url())
}

fn too_long(bytes_max: usize) -> RemoteError {
    let text = format!(
        "the server's page is longer than {bytes_max} bytes: ask for fewer rows, or raise `page_bytes_max`"
    );
    RemoteError::new(RemoteErrorKind::Rejected, text)
}

/// An answer that says 200 and is none.
pub(super) fn rejected(
    text: impl Into<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
) -> RemoteError {
    let error = RemoteError::new(RemoteErrorKind::Rejected, text);
    match source {
        Some(source) => error.with_source(source),
        None => error,
    }
}

/// What a body in JSON says of an error: problem details (RFC 9457), `{"error": "..."}`, `{"message": "..."}` and the like.
pub(super) fn said(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    words_of(&value).map(|text| shown(&text))
}

fn words_of(value: &Value) -> Option<String> {
    const NAMES: [&str; 6] = [
        "detail",
        "message",
        "title",
        "error_description",
        "error",
        "code",
    ];
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(fields) => NAMES
            .iter()
            .filter_map(|name| fields.get(*name))
            .find_map(words_of),
        Value::Array(items) => items.first().and_then(words_of),
        _ => None,
    }
}

/// On one line, and not too long.
fn shown(text: &str) -> String {
    let line = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(WORDS_MAX);
    line.collect()
}

/// A number, or a text of what an entity tag may hold, in its one form for an ETag.
pub(super) fn is_tag(text: &str) -> bool {
    let is_etagc = |b: u8| b == 0x21 || (0x23..=0x7e).contains(&b);
    !text.is_empty() && text.len() <= 255 && text.bytes().all(is_etagc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leaves_its_place_in_a_url() {
        let table = [
            ("a-b_c.d~9", "a-b_c.d~9"),
            ("a/b?c#d", "a%2Fb%3Fc%23d"),
            ("100%", "100%25"),
            ("\0\r\n", "%00%0D%0A"),
            ("é✓", "%C3%A9%E2%9C%93"),
            ("a b+c&d=e;'\"", "a%20b%2Bc%26d%3De%3B%27%22"),
        ];
        for (text, want) in table {
            assert_eq!(encoded(text), want);
        }
    }

    #[test]
    fn the_words_of_a_server_fit_on_a_line() {
        let long = format!(
            "{{\"error\":{{\"message\":\"a\\nb{}\"}}}}",
            "x".repeat(1000)
        );
        let words = said(long.as_bytes()).expect("words");
        assert!(words.starts_with("a bxxx") && words.chars().count() == WORDS_MAX);
        assert_eq!(
            said(b"{\"title\":\"t\",\"detail\":\"d\"}"),
            Some("d".to_owned())
        );
        assert_eq!(said(b"<html>"), None);
    }

    fn kind(status: u16) -> RemoteErrorKind {
        let told = Told {
            status,
            headers: http::HeaderMap::new(),
            body: Bytes::new(),
        };
        told.trouble().kind
    }

    #[test]
    fn a_status_says_what_helps() {
        let retry = RemoteErrorKind::Retry { after: None };
        for status in [408, 425, 429, 500, 502, 503, 504, 511, 530, 700] {
            assert_eq!(kind(status), retry, "{status}");
        }
        for status in [302, 400, 403, 404, 405, 406, 410, 416] {
            assert_eq!(kind(status), RemoteErrorKind::Refused, "{status}");
        }
        assert_eq!(kind(401), RemoteErrorKind::AuthRequired);
    }
}
