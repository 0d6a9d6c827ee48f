//! What a run is like: drawn from its seed, so that each run has its own mix of troubles.

use std::collections::BTreeSet;

use super::dice::Dice;
use super::trouble::Trouble;
use crate::decide::DeadLane;

/// The lanes of the app; the default one has two callers.
pub(super) const LANES: [&str; 5] = ["default", "default", "a", "b", "c"];

/// Who uses the app, one after the other.
pub(super) const PRINCIPALS: [Option<&str>; 3] = [None, Some("ann"), Some("bob")];

/// Where requests go; the first is the base.
pub(super) const ORIGINS: [&str; 2] = ["http://a.test", "http://b.test"];

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) troubles: BTreeSet<Trouble>,
    /// How many times the vault is opened before the last one.
    pub(super) lives: u64,
    /// How many requests the app makes in all.
    pub(super) requests: u64,
    pub(super) has_credentials: bool,
    pub(super) has_principals: bool,
    /// The app tells answers of its server from those of others.
    pub(super) has_guard: bool,
    pub(super) dead_lane: DeadLane,
    pub(super) max_retries: u32,
    pub(super) max_in_flight: usize,
}

impl Plan {
    pub(super) fn draw(dice: &mut Dice, requests: u64) -> Self {
        let mut troubles = Trouble::ALL.to_vec();
        let share = dice.pick(&[0, 30, 60, 60, 90]);
        troubles.retain(|_| dice.percent(share));
        Self {
            troubles: troubles.into_iter().collect(),
            lives: 1 + dice.below(3),
            requests,
            has_credentials: dice.percent(40),
            has_principals: dice.percent(30),
            has_guard: dice.percent(50),
            dead_lane: dice.pick(&[DeadLane::Skip, DeadLane::Skip, DeadLane::Block]),
            max_retries: dice.pick(&[1, 3, 10]),
            max_in_flight: dice.pick(&[1, 2, 16]),
        }
    }

    pub(super) fn has(&self, trouble: Trouble) -> bool {
        self.troubles.contains(&trouble)
    }
}
