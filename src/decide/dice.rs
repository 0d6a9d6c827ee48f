//! Randomness as a value: seeded in tests, from the operating system otherwise.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The random source of jitter. The same seed gives the same waits.
///
/// ```
/// # use syncvault::decide::Dice;
/// # use std::time::Duration;
/// let bound = Duration::from_secs(1);
/// assert_eq!(Dice::seeded(7).below(bound), Dice::seeded(7).below(bound));
/// ```
pub struct Dice(StdRng);

impl Dice {
    /// Always the same sequence for the same seed (within one version of this crate).
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// A sequence that nobody can repeat, so that machines that failed together do not come back together.
    #[must_use]
    pub fn from_entropy() -> Self {
        Self(rand::make_rng())
    }

    /// Evenly from `[0, bound)`, in nanoseconds; zero for a bound of zero.
    pub fn below(&mut self, bound: Duration) -> Duration {
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        if nanos == 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.0.random_range(0..nanos))
    }

    /// True with the chance `part / whole`; never for a whole of zero.
    pub fn hits(&mut self, part: u64, whole: u64) -> bool {
        whole > 0 && self.0.random_range(0..whole) < part
    }
}

/// Without the inner state: whoever knows it knows every wait to come.
impl fmt::Debug for Dice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dice").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throw_is_below_its_bound_and_even() {
        let mut dice = Dice::seeded(1);
        let bound = Duration::from_secs(10);
        let mut tenths = [0_u32; 10];
        for _ in 0..100_000 {
            let throw = dice.below(bound);
            assert!(throw < bound);
            tenths[usize::try_from(throw.as_secs()).expect("small")] += 1;
        }
        // Ten thousand expected in each; five sigma of the binomial are 474.
        assert!(
            tenths.iter().all(|count| count.abs_diff(10_000) < 474),
            "{tenths:?}"
        );
    }

    #[test]
    fn the_ends_of_the_range_hold() {
        let mut dice = Dice::seeded(1);
        assert_eq!(dice.below(Duration::ZERO), Duration::ZERO);
        assert_eq!(dice.below(Duration::from_nanos(1)), Duration::ZERO);
        assert!(dice.below(Duration::MAX) < Duration::MAX);
    }

    #[test]
    fn only_a_seed_repeats() {
        let bound = Duration::from_secs(1_000_000);
        let throws = |mut dice: Dice| [(); 8].map(|()| dice.below(bound));
        assert_eq!(throws(Dice::seeded(9)), throws(Dice::seeded(9)));
        assert_ne!(throws(Dice::seeded(9)), throws(Dice::seeded(10)));
        assert_ne!(throws(Dice::from_entropy()), throws(Dice::from_entropy()));
    }
}
