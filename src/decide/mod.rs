//! WHAT to do: pure functions, values in and values out. No clock, no I/O, no runtime.

mod backoff;
mod dice;
mod failure;
mod gate;
mod plan;
mod policy;
mod retry_after;
mod settlement;
mod verdict;

pub use backoff::Backoff;
pub use dice::Dice;
pub use failure::FailureKind;
pub use gate::{Gate, GateKey, GateReason, merge_gates, open_gate};
pub use plan::{Plan, Situation, plan};
pub use policy::RetryPolicy;
pub use retry_after::retry_after;
pub use settlement::{Counted, DeadLane, Settlement};
pub use verdict::{
    Classifier, Observation, Observed, OriginWell, RetryScope, Stamp, Verdict, is_good_answer,
    verdict,
};
