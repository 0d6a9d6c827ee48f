//! A point in time as servers write it: RFC 3339, and what Postgres makes of it. Microseconds, because a cursor must not round.

use std::fmt;
use std::time::Duration;

use crate::clock::Timestamp;

/// Microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Instant(i64);

const DAY: i64 = 24 * 60 * 60;
const MICROS: i64 = 1_000_000;

impl Instant {
    /// `2026-11-28T09:48:31.123456+00:00`; also with a space for the `T`, an offset of hours only, or none at all, which is UTC.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut rest = text.as_bytes();
        let year = number(&mut rest, 4)?;
        let month = behind(&mut rest, b"-").and_then(|()| number(&mut rest, 2))?;
        let day = behind(&mut rest, b"-").and_then(|()| number(&mut rest, 2))?;
        behind(&mut rest, b"Tt ")?;
        let hour = number(&mut rest, 2)?;
        let minute = behind(&mut rest, b":").and_then(|()| number(&mut rest, 2))?;
        let second = behind(&mut rest, b":").and_then(|()| number(&mut rest, 2))?;
        let micros = fraction(&mut rest)?;
        let offset = offset(&mut rest)?;
        let is_real = (1..=12).contains(&month)
            && (1..=days_in(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            // A leap second is the next one.
            && second <= 60
            && rest.is_empty();
        let days = days_before(year, month, day);
        let seconds = days * DAY + hour * 3600 + minute * 60 + second - offset;
        is_real.then_some(Self(seconds * MICROS + micros))
    }

    /// Whole milliseconds; what was before 1970 is 1970.
    pub(super) fn timestamp(self) -> Timestamp {
        Timestamp::from_millis(u64::try_from(self.0 / 1000).unwrap_or_default())
    }

    pub(super) fn before(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros))
    }
}

impl From<Timestamp> for Instant {
    fn from(at: Timestamp) -> Self {
        Self(i64::try_from(at.as_millis().saturating_mul(1000)).unwrap_or(i64::MAX))
    }
}

/// RFC 3339 in UTC, with microseconds.
impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0.div_euclid(MICROS), self.0.rem_euclid(MICROS));
        let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00"
        )
    }
}

fn number(rest: &mut &[u8], digits: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(digits)?;
    let text = std::str::from_utf8(head).ok()?;
    if !head.iter().all(u8::is_ascii_digit) {
        return None;
    }
    *rest = tail;
    text.parse().ok()
}

fn behind(rest: &mut &[u8], one_of: &[u8]) -> Option<()> {
    let (head, tail) = rest.split_first()?;
    *rest = tail;
    one_of.contains(head).then_some(())
}

/// Microseconds; further digits are cut off.
fn fraction(rest: &mut &[u8]) -> Option<i64> {
    if rest.first() != Some(&b'.') {
        return Some(0);
    }
    let digits = rest[1..].iter().take_while(|b| b.is_ascii_digit()).count();
    let text = &rest[1..=digits];
    *rest = &rest[1 + digits..];
    let digit = |at: usize| text.get(at).map_or(0, |b| i64::from(b - b'0'));
    (digits > 0).then(|| (0..6).fold(0, |micros, at| micros * 10 + digit(at)))
}

/// Seconds east of UTC.
fn offset(rest: &mut &[u8]) -> Option<i64> {
    let sign = match rest.first() {
        None => return Some(0),
        Some(b'Z' | b'z') => {
            *rest = &rest[1..];
            return Some(0);
        }
        Some(b'+') => 1,
        Some(b'-') => -1,
        Some(_) => return None,
    };
    *rest = &rest[1..];
    let hours = number(rest, 2)?;
    let minutes = match rest.first() {
        None => 0,
        Some(_) => behind(rest, b":").and_then(|()| number(rest, 2))?,
    };
    Some(sign * (hours * 3600 + minutes * 60))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to this date (the calendar's years begin in March, so that a leap day is the last).
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date that is so many days after 1970-01-01.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_servers_write_is_read() {
        let table = [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00", 0),
            ("1970-01-01 00:00:01.5+00", 1_500_000),
            ("1994-11-06T08:49:37.000001+00:00", 784_111_777_000_001),
            ("1994-11-06T09:49:37.000001+01:00", 784_111_777_000_001),
            ("1994-11-06T03:19:37.0000019-05:30", 784_111_777_000_001),
            ("2038-01-19T03:14:08Z", 2_147_483_648_000_000),
            ("2024-02-29T00:00:00Z", 1_709_164_800_000_000),
            ("1969-12-31T23:59:59.25Z", -750_000),
        ];
        for (text, want) in table {
            assert_eq!(Instant::parse(text), Some(Instant(want)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "infinity",
            "2026-11-28",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-28T24:00:00Z",
            "2026-11-28T09:48:31.Z",
            "2026-11-28T09:48:31+",
            "2026-11-28T09:48:31Z ",
            "2026-11-28T09:48:3\u{0661}Z",
            "20261-11-28T09:48:31Z",
        ] {
            assert_eq!(Instant::parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn it_reads_back_as_written(micros in -2_000_000_000_000_000_i64..4_000_000_000_000_000) {
            let at = Instant(micros);
            prop_assert_eq!(Instant::parse(&at.to_string()), Some(at));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9TZ:. +-]{0,40}|\\PC{0,40}") {
            let _is_read = Instant::parse(&text);
        }
    }
}
