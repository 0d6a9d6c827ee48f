//! The orchestrator: order, checkpoints, retries, cancelling, triggers. Time is paused, so waits cost nothing.

mod checkpoints;
mod control;
#[cfg(feature = "sqlite")]
mod killed;
mod order;
mod pages;
mod site;
#[cfg(feature = "test-util")]
mod tables;
mod triggers;
mod weaknesses;
