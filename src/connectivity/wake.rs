//! Did this machine sleep? Seen from a jump between two clocks, looked at only when something woke the vault
//! anyway: noticing a wake must not need a timer.

use std::time::Duration;

use crate::clock::Timestamp;

/// Compares the wall clock with one that stands still while the machine sleeps.
///
/// A wall clock that a person or the network sets forward looks the same. The result is a hint, so that is fine.
#[derive(Clone, Copy, Debug)]
pub struct WakeWatch {
    wall: Timestamp,
    awake: Duration,
}

impl WakeWatch {
    /// A jump below this is drift, not sleep.
    pub const JUMP_MIN: Duration = Duration::from_secs(5);

    /// Starts from the wall clock and from the time that passed on the monotonic clock since any fixed point.
    #[must_use]
    pub fn new(wall: Timestamp, awake: Duration) -> Self {
        Self { wall, awake }
    }

    /// Looks again: how long the machine slept since the last look, if it did.
    pub fn look(&mut self, wall: Timestamp, awake: Duration) -> Option<Duration> {
        let passed = wall.since(self.wall);
        let ticked = awake.saturating_sub(self.awake);
        *self = Self { wall, awake };
        Some(passed.saturating_sub(ticked)).filter(|slept| *slept >= Self::JUMP_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_jump_of_the_wall_clock_is_a_wake() {
        let second = Duration::from_secs;
        let start = Timestamp::from_millis(1_000_000);
        let mut watch = WakeWatch::new(start, second(0));
        assert_eq!(watch.look(start.after(second(60)), second(60)), None);
        let woke = start.after(second(3_660));
        assert_eq!(watch.look(woke, second(61)), Some(second(3_599)));
        assert_eq!(watch.look(woke, second(61)), None);
        assert_eq!(watch.look(start, second(120)), None, "a clock set back");
    }
}
