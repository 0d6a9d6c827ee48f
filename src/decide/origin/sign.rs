//! What one attempt says about its origin, whatever it means for the action.

use crate::decide::{FailureKind, Observed, RetryScope, Verdict, is_good_answer};

/// A sign of how an origin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sign {
    /// It answered, and is well: 2xx to 4xx, a rejection too.
    Good,
    /// It says: not now (429, 502, 503, 504).
    Refused,
    /// It answered that it failed (500).
    Failing,
    /// It was sent something and did not answer.
    Lost,
    /// It was not reached.
    Away,
    /// The attempt says nothing about it.
    Nothing,
}

impl Sign {
    /// The sign in a verdict and what it was made from.
    #[must_use]
    pub fn of(verdict: &Verdict, observed: &Observed<'_>) -> Self {
        match (verdict, observed) {
            (Verdict::Unreachable, _) => Self::Away,
            (
                Verdict::Retry {
                    scope: RetryScope::Origin,
                    ..
                },
                _,
            ) => Self::Refused,
            (Verdict::Delivered, Observed::Answer { .. }) => Self::Good,
            (_, Observed::Answer { status, .. }) if is_good_answer(*status) => Self::Good,
            (_, Observed::Answer { .. }) => Self::Failing,
            (
                _,
                Observed::Failure(
                    FailureKind::Timeout | FailureKind::Interrupted | FailureKind::Other,
                ),
            ) => Self::Lost,
            (_, Observed::Failure(_)) => Self::Nothing,
        }
    }

    /// True when the server, or what stands before it, had to do with the attempt.
    #[must_use]
    pub fn has_reached(self) -> bool {
        !matches!(self, Self::Away | Self::Nothing)
    }
}
