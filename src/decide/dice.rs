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
}

/// Without the inner state: whoever knows it knows every wait to come.
impl fmt::Debug for Dice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dice").finish_non_exhaustive()
    }
}
