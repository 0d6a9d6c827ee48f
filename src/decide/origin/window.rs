//! The window: how many attempts of one origin may run side by side. It starts at one after an outage, grows by one for each
//! window of good answers, and is halved by a refusal. Open = no limit of its own.

use serde::{Deserialize, Serialize};

/// One attempt, in the thousandths that a window is kept in.
const ONE: u32 = 1000;

/// How many attempts may run side by side; nothing kept = open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Window(Option<u32>);

impl Window {
    /// The window after an outage: one.
    #[must_use]
    pub fn after_outage() -> Self {
        Self(Some(ONE))
    }

    /// After a good answer: one more when all of it was answered well; open when it reaches `max`.
    #[must_use]
    pub fn wider(self, max: usize) -> Self {
        let max = thousandths(max);
        let grown = self
            .0
            .map(|size| size.saturating_add((ONE * ONE).div_ceil(size.max(ONE))));
        Self(grown.filter(|size| *size < max))
    }

    /// After a refusal: half of it, at least one.
    #[must_use]
    pub fn narrower(self, max: usize) -> Self {
        let size = self.0.unwrap_or(thousandths(max)).min(thousandths(max));
        Self(Some((size / 2).max(ONE)))
    }

    /// How many may run; nothing = no limit.
    #[must_use]
    pub fn size(self) -> Option<usize> {
        self.0
            .map(|size| usize::try_from(size / ONE).unwrap_or(1).max(1))
    }
}

fn thousandths(attempts: usize) -> u32 {
    u32::try_from(attempts)
        .unwrap_or(u32::MAX)
        .saturating_mul(ONE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_grows_by_one_for_each_window_of_good_answers() {
        let mut window = Window::after_outage();
        let mut answers = Vec::new();
        while let Some(size) = window.size() {
            answers.push(size);
            window = window.wider(5);
        }
        let of = |size| answers.iter().filter(|s| **s == size).count();
        assert_eq!([of(1), of(2), of(3)], [1, 3, 3], "{answers:?}");
        assert!(answers.is_sorted());
        assert_eq!(window, Window::default(), "open at its maximum");
    }

    #[test]
    fn a_refusal_halves_it_and_never_closes_it() {
        let mut window = Window::default();
        let sizes = [8, 4, 2, 1, 1].map(|_| {
            window = window.narrower(16);
            window.size()
        });
        assert_eq!(sizes, [8, 4, 2, 1, 1].map(Some));
    }

    #[test]
    fn an_open_window_stays_open() {
        assert_eq!(Window::default().wider(1).size(), None);
    }

    proptest! {
        #[test]
        fn it_lets_at_least_one_and_at_most_its_maximum_run(steps: Vec<bool>, max in 1_usize..2000) {
            let mut window = Window::after_outage();
            for is_good in steps {
                window = if is_good { window.wider(max) } else { window.narrower(max) };
                if let Some(size) = window.size() {
                    prop_assert!((1..=max).contains(&size));
                }
            }
        }
    }
}
