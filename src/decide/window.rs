//! How long a server remembers an idempotency key, as far as we know. Past that, sending again may do the work twice.

use std::time::Duration;

use http::Method;

use crate::action::WireState;
use crate::clock::Timestamp;

/// What is known of an action before an attempt.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct KeyUse<'a> {
    /// The method of the request.
    pub method: &'a Method,
    /// What the server may have seen before this attempt.
    pub wire_before: WireState,
    /// When the first attempt started that may have reached the server.
    pub first_attempt: Option<Timestamp>,
}

impl<'a> KeyUse<'a> {
    /// The use of a key.
    #[must_use]
    pub fn new(
        method: &'a Method,
        wire_before: WireState,
        first_attempt: Option<Timestamp>,
    ) -> Self {
        Self {
            method,
            wire_before,
            first_attempt,
        }
    }

    /// Since when the server may have forgotten the key; nothing as long as sending again is safe. It is for what never left, for
    /// what was answered, for reads, and within the window.
    ///
    /// ```
    /// # use syncvault::{WireState, clock::Timestamp, decide::KeyUse};
    /// # use std::time::Duration;
    /// let day = Duration::from_secs(24 * 60 * 60);
    /// let first = Timestamp::from_millis(1_760_000_000_000);
    /// let used = KeyUse::new(&http::Method::POST, WireState::MaybeSent, Some(first));
    /// assert_eq!(used.forgotten_since(Some(day), first.after(day)), None);
    /// assert_eq!(used.forgotten_since(Some(day), first.after(day * 2)), Some(first.after(day)));
    /// ```
    #[must_use]
    pub fn forgotten_since(&self, window: Option<Duration>, now: Timestamp) -> Option<Timestamp> {
        let is_at_stake = self.wire_before == WireState::MaybeSent && !self.method.is_safe();
        let end = self.first_attempt?.after(window?);
        (is_at_stake && now > end).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Timestamp = Timestamp::from_millis(1_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    /// Every method, wire state and window, a moment before its end and after it.
    #[test]
    fn only_a_write_that_may_have_arrived_outlives_its_key() {
        use WireState::{Answered, MaybeSent, NeverSent};
        let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        let reads = [Method::GET, Method::HEAD, Method::OPTIONS];
        for method in writes.iter().chain(&reads) {
            for wire in [NeverSent, MaybeSent, Answered] {
                for first in [None, Some(FIRST)] {
                    for window in [None, Some(Duration::ZERO), Some(HOUR), Some(Duration::MAX)] {
                        for age in [
                            Duration::ZERO,
                            HOUR,
                            HOUR + Duration::from_millis(1),
                            HOUR * 999,
                        ] {
                            let used = KeyUse::new(method, wire, first);
                            let got = used.forgotten_since(window, FIRST.after(age));
                            let is_over = window.is_some_and(|window| age > window);
                            let want = writes.contains(method)
                                && wire == MaybeSent
                                && first.is_some()
                                && is_over;
                            let text = format!("{method} {wire:?} {first:?} {window:?} {age:?}");
                            assert_eq!(got.is_some(), want, "{text}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_back_forgets_nothing() {
        let used = KeyUse::new(&Method::POST, WireState::MaybeSent, Some(FIRST));
        assert_eq!(
            used.forgotten_since(Some(Duration::ZERO), Timestamp::EPOCH),
            None
        );
    }
}
