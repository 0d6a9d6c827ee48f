//! Stands in for the numbers in builds without the feature `metrics`: nothing is told.

use crate::action::{Counts, Origin};
use crate::clock::Timestamp;
use crate::decide::{Gate, Verdict};

pub(crate) fn attempted(_origin: &Origin, _verdict: &Verdict) {}

pub(crate) fn counted(_counts: &Counts, _now: Timestamp) {}

#[cfg(feature = "cache")]
pub(crate) fn cached(_what: &'static str, _body_bytes: u64) {}

pub(crate) fn gated(_gate: &Gate, _now: Timestamp) {}
