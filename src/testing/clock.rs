//! A wall clock that follows tokio's clock, so that paused time moves both, and that can be set.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{Clock, Timestamp};

/// A [`Clock`] that goes with tokio's: in a test with paused time, a wait of an hour passes at once on both.
///
/// Make it and read it inside the runtime. Clones show the same time.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use syncvault::{clock::Clock, testing::TestClock};
/// use std::time::Duration;
///
/// let clock = TestClock::new();
/// let before = clock.now();
/// clock.set_forward(Duration::from_secs(60));
/// assert!(clock.now() >= before.after(Duration::from_secs(60)));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TestClock {
    start: Timestamp,
    born: Instant,
    offset_ms: Arc<AtomicI64>,
}

impl TestClock {
    /// A clock that starts in the autumn of 2025.
    #[must_use]
    pub fn new() -> Self {
        Self::starting_at(Timestamp::from_millis(1_760_000_000_000))
    }

    /// A clock that starts at a time.
    #[must_use]
    pub fn starting_at(start: Timestamp) -> Self {
        Self {
            start,
            born: Instant::now(),
            offset_ms: Arc::default(),
        }
    }

    /// Sets the wall clock forward, as a person or the network would; tokio's clock does not notice.
    pub fn set_forward(&self, by: Duration) {
        self.offset_ms.fetch_add(millis(by), Ordering::AcqRel);
    }

    /// Sets the wall clock back.
    pub fn set_back(&self, by: Duration) {
        self.offset_ms.fetch_sub(millis(by), Ordering::AcqRel);
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let passed = self.start.after(self.born.elapsed()).as_millis();
        let offset = self.offset_ms.load(Ordering::Acquire);
        Timestamp::from_millis(passed.saturating_add_signed(offset))
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_moves_with_paused_time_and_can_be_set() {
        let clock = TestClock::new();
        let (start, hour) = (clock.now(), Duration::from_secs(3600));
        tokio::time::sleep(hour).await;
        assert_eq!(clock.now(), start.after(hour));
        clock.set_back(hour * 2);
        assert_eq!(clock.now().after(hour), start);
        clock.clone().set_forward(hour);
        assert_eq!(clock.now(), start);
    }
}
