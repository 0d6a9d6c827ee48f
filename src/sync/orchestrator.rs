//! Layer 1: runs the features that an app describes, in order, with retries and checkpoints. It knows neither what an item
//! is nor how it travels.

mod builder;
mod conductor;
mod event;
mod failure;
mod feature;
mod graph;
mod handle;
mod page_loop;
mod pass;
mod pull;
mod push;
mod report;
mod run;
mod status;
mod trigger;

pub use builder::SyncOrchestratorBuilder;
pub use event::{SyncEvent, SyncEventKind, SyncEvents};
pub use failure::{Failure, FailureKind, StepError};
pub use feature::{BackgroundSync, Feature, InitialSync};
pub use handle::SyncOrchestrator;
pub use report::{End, FeatureReport, Phase, Step, SyncReport, Tally};
pub use status::{BackgroundState, FeatureStatus, FeatureStatuses, InitialState};
