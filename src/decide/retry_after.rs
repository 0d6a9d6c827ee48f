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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT, the example of the RFC.
    const RFC_DATE: u64 = 784_111_777;
    const HOUR: Duration = Duration::from_secs(3600);

    fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).expect("value"));
        }
        headers
    }

    fn asked(value: &str) -> Option<u64> {
        let received = Timestamp::from_millis(RFC_DATE * 1000);
        let wait = retry_after(&fields(&[("retry-after", value)]), received, HOUR)?;
        assert_eq!(wait.subsec_nanos(), 0);
        Some(wait.as_secs())
    }

    #[test]
    fn seconds_and_dates_are_understood() {
        let table = [
            ("0", 0),
            ("1", 1),
            ("00120", 120),
            (" 120 ", 120),
            ("3600", 3600),
            ("3601", 3600),
            ("9999999999", 3600),
            ("18446744073709551616", 3600),
            // Twice 2^64 and eight: a number that wraps would be eight seconds.
            ("36893488147419103240", 3600),
            ("99999999999999999999999999999999999999999999", 3600),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
            ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
            ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
            ("Sun Nov  6 08:50:37 1994", 60),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
            ("Sun, 06 Nov 1994 08:49:36 GMT", 0),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ];
        for (value, want) in table {
            assert_eq!(asked(value), Some(want), "{value:?}");
        }
    }

    #[test]
    fn garbage_is_no_wait() {
        let garbage = [
            "",
            " ",
            "-1",
            "+1",
            "1.5",
            "1e30",
            "soon",
            "0x10",
            "1 2",
            "120, 240",
            "12s",
            "1_000",
            "inf",
            "NaN",
            "Sun, 06 Nov 1994",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 25:00:00 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "1994-11-06T08:49:37Z",
            "2,5",
        ];
        for value in garbage {
            assert_eq!(asked(value), None, "{value:?}");
        }
        let mut bytes = HeaderMap::new();
        bytes.insert(
            RETRY_AFTER,
            HeaderValue::from_bytes(b"\xd9\xa1").expect("value"),
        );
        assert_eq!(retry_after(&bytes, Timestamp::EPOCH, HOUR), None);
        assert_eq!(retry_after(&HeaderMap::new(), Timestamp::EPOCH, HOUR), None);
    }

    /// Symptom: a device whose clock is wrong comes back too early, or a day late.
    #[test]
    fn a_date_is_measured_by_the_clock_of_the_server() {
        let headers = fields(&[
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("retry-after", "Sun, 06 Nov 1994 08:51:37 GMT"),
        ]);
        for clock in [0, 1, RFC_DATE * 1000, u64::MAX] {
            let received = Timestamp::from_millis(clock);
            assert_eq!(
                retry_after(&headers, received, HOUR),
                Some(Duration::from_secs(120))
            );
        }
        let broken = fields(&[
            ("date", "today"),
            ("retry-after", "Sun, 06 Nov 1994 08:51:37 GMT"),
        ]);
        let received = Timestamp::from_millis((RFC_DATE + 100) * 1000);
        assert_eq!(
            retry_after(&broken, received, HOUR),
            Some(Duration::from_secs(20))
        );
    }

    #[test]
    fn of_several_fields_the_longest_understood_wait_counts() {
        let headers = fields(&[
            ("retry-after", "5"),
            ("retry-after", "soon"),
            ("retry-after", "30"),
            ("retry-after", "7"),
        ]);
        assert_eq!(
            retry_after(&headers, Timestamp::EPOCH, HOUR),
            Some(Duration::from_secs(30))
        );
    }

    proptest! {
        #[test]
        fn no_field_makes_it_panic_or_pass_the_limit(
            values in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..40),
                    "[0-9]{1,40}".prop_map(String::into_bytes),
                    "(Sun|Sunday|Mon),? ?[0-9]{1,2}[ -](Nov|Feb)[ -][0-9]{2,4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
                        .prop_map(String::into_bytes),
                ],
                0..4,
            ),
            date in proptest::collection::vec(any::<u8>(), 0..40),
            received: u64,
            max_ms: u64,
        ) {
            let mut headers = HeaderMap::new();
            for value in values {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    headers.append(RETRY_AFTER, value);
                }
            }
            if let Ok(date) = HeaderValue::from_bytes(&date) {
                headers.insert(DATE, date);
            }
            let max = Duration::from_millis(max_ms);
            if let Some(wait) = retry_after(&headers, Timestamp::from_millis(received), max) {
                prop_assert!(wait <= max);
            }
        }

        #[test]
        fn every_number_of_seconds_is_that_wait(seconds: u32) {
            let headers = fields(&[("retry-after", &seconds.to_string())]);
            let want = Duration::from_secs(seconds.into());
            prop_assert_eq!(retry_after(&headers, Timestamp::EPOCH, Duration::MAX), Some(want));
        }

        #[test]
        fn every_date_is_the_wait_until_it(sent in 0_u64..4_000_000_000, wait in 0_u64..1_000_000) {
            let text = |secs| httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(secs));
            let headers = fields(&[("date", &text(sent)), ("retry-after", &text(sent + wait))]);
            let want = Duration::from_secs(wait);
            prop_assert_eq!(retry_after(&headers, Timestamp::EPOCH, Duration::MAX), Some(want));
        }
    }
}
