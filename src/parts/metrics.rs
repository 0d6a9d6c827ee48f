//! The numbers of a vault, through the `metrics` facade. Names and labels are in docs/metrics.md; no label holds a path, a key
//! or a principal.

use metrics::{counter, gauge};

use super::stats::verdict_name;
use crate::action::{Counts, Origin};
use crate::clock::Timestamp;
use crate::decide::{Gate, GateKey, Verdict};

pub(crate) fn attempted(origin: &Origin, verdict: &Verdict) {
    let labels = [
        ("origin", origin.to_string()),
        ("verdict", verdict_name(verdict).to_owned()),
    ];
    counter!("syncvault_attempts_total", &labels).increment(1);
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
pub(crate) fn counted(counts: &Counts, now: Timestamp) {
    gauge!("syncvault_pending").set(counts.pending as f64);
    gauge!("syncvault_in_flight").set(counts.in_flight as f64);
    gauge!("syncvault_dead").set(counts.dead as f64);
    gauge!("syncvault_bytes").set(counts.bytes as f64);
    let age = counts.oldest.map(|oldest| now.since(oldest));
    gauge!("syncvault_oldest_age_seconds").set(age.unwrap_or_default().as_secs_f64());
}

/// An answer was given from the cache, was found unchanged, or was kept.
#[cfg(feature = "cache")]
pub(crate) fn cached(what: &'static str, body_bytes: u64) {
    counter!("syncvault_cache_answers_total", "what" => what).increment(1);
    counter!("syncvault_cache_bytes_total", "what" => what).increment(body_bytes);
}

/// Of a principal's gate nothing is told: its name is a user's.
pub(crate) fn gated(gate: &Gate, now: Timestamp) {
    let GateKey::Origin(origin) = &gate.key else {
        return;
    };
    let labels = [("origin", origin.to_string())];
    gauge!("syncvault_gate_closed", &labels).set(f64::from(u8::from(gate.is_closed(now))));
    gauge!("syncvault_gate_failures", &labels).set(f64::from(gate.failures));
}
