//! `Retry-After` (RFC 9110, section 10.2.3): how long a server asks to be left alone.

use std::time::Duration;

use http::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};

use crate::clock::Timestamp;

/// The wait that an answer asks for, at most `max`; nothing when it asks for none that can be understood.
///
/// Seconds or an HTTP date. A date is measured against the answer's own `Date`, because the server's clock made both;
/// without one, against `received`. A date in the past is a wait of zero. Of several fields, the longest understood
/// wait counts: coming too late costs a moment, coming too early breaks what the server asked.
///
/// ```
/// # use syncvault::{clock::Timestamp, decide::retry_after};
/// # use std::time::Duration;
/// let mut headers = http::HeaderMap::new();
/// headers.insert("retry-after", "120".parse().unwrap());
/// let hour = Duration::from_secs(3600);
/// assert_eq!(retry_after(&headers, Timestamp::EPOCH, hour), Some(Duration::from_secs(120)));
/// ```
#[must_use]
pub fn retry_after(headers: &HeaderMap, received: Timestamp, max: Duration) -> Option<Duration> {
    let sent = headers.get(DATE).and_then(date).unwrap_or(received);
    headers
        .get_all(RETRY_AFTER)
        .iter()
        .filter_map(|value| seconds(value).or_else(|| Some(date(value)?.since(sent))))
        .max()
        .map(|wait| wait.min(max))
}

/// Digits only. More seconds than a number holds is still a wait: the longest one.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    let text = value.as_bytes().trim_ascii();
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = text.iter().fold(0_u64, |number, digit| {
        number
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    });
    Some(Duration::from_secs(number))
}

fn date(value: &HeaderValue) -> Option<Timestamp> {
    let date = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
    Some(date.into())
}
