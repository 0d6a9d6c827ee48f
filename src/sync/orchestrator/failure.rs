//! What goes wrong: what a handler says of one step, and what ended a run.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::report::{Phase, Step};
use crate::sync::FeatureKey;

type Source = Box<dyn StdError + Send + Sync>;

/// Why a step of a handler failed, and what to do about it. Every error becomes one with `?`: then the step is tried again.
pub struct StepError {
    pub(super) source: Source,
    pub(super) remedy: Remedy,
}

/// What helps against a [`StepError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    Retry { not_before: Duration },
    Nothing,
    StartOver,
}

impl StepError {
    /// Trying again does not help: the run fails now.
    pub fn permanent(error: impl Into<Source>) -> Self {
        Self {
            source: error.into(),
            remedy: Remedy::Nothing,
        }
    }

    /// The server wants to be left alone for so long, by `Retry-After` say. More than an hour counts as an hour.
    pub fn retry_after(error: impl Into<Source>, wait: Duration) -> Self {
        let not_before = wait.min(Duration::from_secs(60 * 60));
        Self {
            source: error.into(),
            remedy: Remedy::Retry { not_before },
        }
    }

    /// The server does not know the cursor any more (`410 Gone`): the checkpoint is removed, the run fails, and the next one
    /// starts at the beginning.
    pub fn start_over(error: impl Into<Source>) -> Self {
        Self {
            source: error.into(),
            remedy: Remedy::StartOver,
        }
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for StepError {
    fn from(error: E) -> Self {
        Self::retry_after(error, Duration::ZERO)
    }
}

impl fmt::Debug for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepError")
            .field("source", &self.source)
            .field("remedy", &self.remedy)
            .finish()
    }
}

/// What ended a run of a feature. What was applied before it stays, and the next run goes on there.
#[derive(Clone)]
#[non_exhaustive]
pub struct Failure {
    /// The feature.
    pub feature: FeatureKey,
    /// Which sync of it.
    pub phase: Phase,
    /// In which step; nothing when it was in none.
    pub step: Option<Step>,
    /// How often that step was tried.
    pub attempts: u32,
    /// What the app can do.
    pub kind: FailureKind,
    pub(super) text: String,
    pub(super) source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What an app can do about a [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The step failed again and again. Try later; the error is the [source](StdError::source).
    RetriesUsedUp,
    /// The handler said that trying again does not help.
    Permanent,
    /// The step failed while the app is known to be offline: no retry was used up. Wait for the network.
    Offline,
    /// The checkpoint cannot be read or written. The source says why.
    Checkpoint,
    /// The handler gave a page, or a batch, that does not lead on. It is at fault, or its server is.
    NotAdvancing,
    /// The handler gave more items than `max_batch_size`.
    TooLarge,
    /// The server does not know the cursor any more. The next run starts at the beginning.
    StartOver,
    /// The handler panicked.
    Panicked,
    /// The app cancelled it.
    Cancelled,
}

impl Failure {
    pub(super) fn new(
        (feature, phase): (&FeatureKey, Phase),
        kind: FailureKind,
        text: impl Into<String>,
    ) -> Self {
        Self {
            feature: feature.clone(),
            phase,
            step: None,
            attempts: 0,
            kind,
            text: text.into(),
            source: None,
        }
    }

    pub(super) fn at(mut self, step: Step, attempts: u32) -> Self {
        self.step = Some(step);
        self.attempts = attempts;
        self
    }

    pub(super) fn with_source(mut self, source: Source) -> Self {
        self.source = Some(Arc::from(source));
        self
    }
}

impl PartialEq for Failure {
    fn eq(&self, other: &Self) -> bool {
        let of = |f: &Self| (f.phase, f.step, f.attempts, f.kind);
        of(self) == of(other) && self.feature == other.feature && self.text == other.text
    }
}

impl Eq for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} sync of {} ", self.phase, self.feature)?;
        match self.step {
            Some(step) => write!(f, "failed to {step}: {}", self.text),
            None => write!(f, "failed: {}", self.text),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("kind", &self.kind)
            .field("attempts", &self.attempts)
            .field("text", &self.to_string())
            .finish_non_exhaustive()
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
