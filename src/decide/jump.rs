//! Did the wall clock jump? Seen from two clocks, looked at only when something woke the vault anyway:
//! noticing a jump must not need a timer.

use std::time::Duration;

use crate::clock::Timestamp;

/// Compares the wall clock with one that stands still while the machine sleeps.
#[derive(Clone, Copy, Debug)]
pub struct ClockWatch {
    wall: Timestamp,
    ticked: Duration,
}

/// How the wall clock jumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Jump {
    /// The machine slept, or somebody set the clock forward. A good time to look at the network.
    Forward(Duration),
    /// Somebody set the clock back: due times lie too far ahead.
    Back(Duration),
}

impl ClockWatch {
    /// A difference below this is drift.
    pub const JUMP_MIN: Duration = Duration::from_secs(5);

    /// Starts from the wall clock and from the time that passed on the monotonic clock since any fixed point.
    #[must_use]
    pub fn new(wall: Timestamp, ticked: Duration) -> Self {
        Self { wall, ticked }
    }

    /// Looks again, and from here on.
    pub fn look(&mut self, wall: Timestamp, ticked: Duration) -> Option<Jump> {
        let expected = self.wall.after(ticked.saturating_sub(self.ticked));
        *self = Self { wall, ticked };
        let (forward, back) = (wall.since(expected), expected.since(wall));
        if forward >= Self::JUMP_MIN {
            Some(Jump::Forward(forward))
        } else if back >= Self::JUMP_MIN {
            Some(Jump::Back(back))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_other_clock_did_not_see_is_a_jump() {
        let second = Duration::from_secs;
        let start = Timestamp::from_millis(10_000_000);
        let mut watch = ClockWatch::new(start, second(0));
        assert_eq!(watch.look(start.after(second(60)), second(60)), None);
        let woke = start.after(second(3_660));
        assert_eq!(
            watch.look(woke, second(61)),
            Some(Jump::Forward(second(3_599)))
        );
        assert_eq!(watch.look(woke, second(62)), None, "told once");
        assert_eq!(
            watch.look(start, second(63)),
            Some(Jump::Back(second(3_661)))
        );
        assert_eq!(
            watch.look(start.after(second(4)), second(63)),
            None,
            "drift"
        );
    }
}
