//! WHAT to do: pure functions, values in and values out. No clock, no I/O, no runtime.

mod backoff;
mod batch;
#[cfg(feature = "cache")]
mod cache;
mod closing;
mod dice;
mod failure;
mod filling;
mod gate;
mod jump;
mod key;
mod origin;
mod plan;
mod policy;
mod portal;
mod redirect;
mod retry_after;
mod settlement;
mod storable;
mod trace;
mod verdict;
mod wanted;
mod why;
mod window;

pub use crate::action::PortalSign;
pub use backoff::Backoff;
pub use batch::{
    BatchAnswer, BatchItem, BatchLimits, BatchProblem, BatchRequest, Batcher, Folded, ItemVerdict,
};
#[cfg(feature = "cache")]
pub(crate) use cache::{AnswerHead, Given, Moments, Terms, Trouble, is_cacheable, is_storable};
pub use closing::{Closing, reset_gate};
pub use dice::Dice;
pub use failure::FailureKind;
pub use filling::{
    Answered, Filled, HEADER_BYTES_MAX, URL_BYTES_MAX, Unresolved, fill, has_json_slot,
    has_path_slot, weight,
};
pub use gate::{Gate, GateKey, GateReason, merge_gates, open_gate};
pub use jump::{ClockWatch, Jump};
pub use key::{KEY_BYTES_MAX, KeyForm, check_key, key_from_header, key_header_value};
pub use origin::{
    Breaker, Budget, Ended, Hold, HoldReason, OriginPolicy, OriginState, Pace, Rate, RateLimit,
    Sign, Throttle, Trip, Window, spread,
};
pub use plan::{
    Left, Member, Plan, Share, Situation, plan, share_items, share_singly, share_whole,
};
pub use policy::RetryPolicy;
pub use portal::{Expects, PortalGuard, awaits_probe, gate_beside};
pub use redirect::{REDIRECTS_MAX, Redirect, follow};
pub use retry_after::retry_after;
pub use settlement::{Counted, DeadLane, Settlement};
pub use storable::{is_credential, split_credentials};
pub use trace::{TRACEPARENT, TraceParent};
pub use verdict::{
    Classifier, Observation, Observed, OriginWell, PortalDoubt, RetryScope, Stamp, Verdict,
    is_good_answer, verdict,
};
pub(crate) use wanted::as_wanted;
pub use why::{Holding, why};
pub use window::KeyUse;
