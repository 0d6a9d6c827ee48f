//! The spread: jitter before the first attempt after a reconnect, so that a fleet that lost its network together does not
//! come back at one instant.

use std::time::Duration;

use crate::decide::Dice;

/// A twentieth of the time we were away, at most `max`, and of that a part by chance.
#[must_use]
pub fn spread(away: Duration, max: Duration, dice: &mut Dice) -> Duration {
    dice.below((away / 20).min(max))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_short_after_a_moment_and_never_long(away: Duration, max: Duration, seed: u64) {
            let wait = spread(away, max, &mut Dice::seeded(seed));
            prop_assert!(wait <= max && wait <= away / 20);
        }
    }

    /// Symptom: 450 clients came back in the same second, and the server went down again.
    #[test]
    fn a_fleet_comes_back_evenly() {
        let (hour, max) = (Duration::from_secs(3600), Duration::from_secs(10));
        let mut seconds = [0_u32; 10];
        for seed in 0..10_000 {
            let wait = spread(hour, max, &mut Dice::seeded(seed));
            seconds[usize::try_from(wait.as_secs()).expect("small")] += 1;
        }
        // A thousand expected in each; five sigma of the binomial are 150.
        assert!(
            seconds.iter().all(|n| n.abs_diff(1000) < 150),
            "{seconds:?}"
        );
    }
}
