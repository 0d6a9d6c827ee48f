//! Finds pages that lead back to where they were, however long the loop: Brent's cycle detection, with one position kept.

use super::super::Cursor;

#[derive(Debug)]
pub(super) struct PageLoop {
    before: Option<Cursor>,
    mark: Option<Cursor>,
    steps: u64,
    limit: u64,
}

impl PageLoop {
    pub(super) fn from(start: Option<&Cursor>) -> Self {
        Self {
            before: start.cloned(),
            mark: start.cloned(),
            steps: 0,
            limit: 1,
        }
    }

    /// True when `next` leads on; false when it is known to lead back.
    pub(super) fn leads_on(&mut self, next: &Cursor) -> bool {
        if self.before.as_ref() == Some(next) || self.mark.as_ref() == Some(next) {
            return false;
        }
        self.before = Some(next.clone());
        self.steps += 1;
        if self.steps == self.limit {
            self.mark = Some(next.clone());
            self.steps = 0;
            self.limit = self.limit.saturating_mul(2);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps_until_found(start: Option<&str>, path: impl Iterator<Item = u64>) -> Option<usize> {
        let mut pages = PageLoop::from(start.map(Cursor::from).as_ref());
        path.map(|at| Cursor::new(at.to_string()))
            .position(|next| !pages.leads_on(&next))
    }

    #[test]
    fn a_page_that_stays_is_found_at_once() {
        assert_eq!(steps_until_found(Some("7"), [7].into_iter()), Some(0));
        assert_eq!(
            steps_until_found(None, [1, 2, 3, 4, 5, 5].into_iter()),
            Some(5)
        );
    }

    #[test]
    fn a_loop_of_any_length_is_found() {
        for length in 1..50_u64 {
            for tail in 0..20 {
                let path = (0..1000).map(|n| {
                    if n < tail {
                        n
                    } else {
                        tail + (n - tail) % length
                    }
                });
                let found = steps_until_found(None, path).expect("a loop");
                let bound = 4 * usize::try_from(length + tail).expect("small") + 4;
                assert!(found <= bound, "{length} {tail}: {found}");
            }
        }
    }

    #[test]
    fn what_leads_on_passes() {
        assert_eq!(steps_until_found(None, 0..100_000), None);
    }
}
