//! What attempts came to, origin by origin: numbers that are kept, never scanned. In memory, since the vault was opened. The
//! origins are those that requests may go to, so there is a bound.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::action::{Counts, Ledger, Origin};
use crate::clock::Timestamp;
use crate::decide::{GateReason, Verdict};

/// How the vault fares, in numbers.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// What is in the vault now.
    pub counts: Counts,
    /// Where everything went, since the vault was created.
    pub ledger: Ledger,
    /// How long the oldest pending action has waited.
    pub oldest_age: Option<Duration>,
    /// Attempts that ended, and what they meant, since the vault was opened.
    pub verdicts: VerdictCounts,
    /// The same for each origin that requests may go to, in the order of their names.
    pub origins: Vec<OriginStats>,
}

/// How one origin fares, in numbers.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct OriginStats {
    /// Which.
    pub origin: Origin,
    /// Attempts on the wire now, direct ones too.
    pub in_flight: u64,
    /// Attempts that ended, and what they meant, since the vault was opened.
    pub verdicts: VerdictCounts,
    /// Its gate, if it has been closed since its last good answer.
    pub gate: Option<GateStats>,
}

/// The gate of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GateStats {
    /// Why it closed.
    pub reason: GateReason,
    /// Closed until then; in the past: the next attempt tells.
    pub closed_until: Timestamp,
    /// How many times in a row.
    pub failures: u32,
}

/// How many attempts meant what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VerdictCounts {
    /// The server took it.
    pub delivered: u64,
    /// Tried again later.
    pub retried: u64,
    /// Another try will not change it.
    pub rejected: u64,
    /// Credentials were not taken.
    pub held: u64,
    /// The server was not reached.
    pub unreachable: u64,
    /// A login page stood in its place.
    pub portal: u64,
}

impl VerdictCounts {
    /// All of them: the attempts that ended.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.delivered + self.retried + self.rejected + self.held + self.unreachable + self.portal
    }

    fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.retried += other.retried;
        self.rejected += other.rejected;
        self.held += other.held;
        self.unreachable += other.unreachable;
        self.portal += other.portal;
    }
}

/// The word for a verdict in numbers that are shown.
#[cfg_attr(
    not(feature = "metrics"),
    allow(dead_code, reason = "a label of metrics")
)]
pub(super) fn verdict_name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Delivered => "delivered",
        Verdict::Retry { .. } => "retried",
        Verdict::Reject(_) => "rejected",
        Verdict::Hold => "held",
        Verdict::Unreachable => "unreachable",
        Verdict::Portal(_) => "portal",
    }
}

/// The numbers of one origin. Counting takes no lock.
#[derive(Debug, Default)]
struct Tally {
    in_flight: AtomicU64,
    delivered: AtomicU64,
    retried: AtomicU64,
    rejected: AtomicU64,
    held: AtomicU64,
    unreachable: AtomicU64,
    portal: AtomicU64,
}

impl Tally {
    fn of(&self, verdict: &Verdict) -> &AtomicU64 {
        match verdict {
            Verdict::Delivered => &self.delivered,
            Verdict::Retry { .. } => &self.retried,
            Verdict::Reject(_) => &self.rejected,
            Verdict::Hold => &self.held,
            Verdict::Unreachable => &self.unreachable,
            Verdict::Portal(_) => &self.portal,
        }
    }

    fn verdicts(&self) -> VerdictCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        VerdictCounts {
            delivered: read(&self.delivered),
            retried: read(&self.retried),
            rejected: read(&self.rejected),
            held: read(&self.held),
            unreachable: read(&self.unreachable),
            portal: read(&self.portal),
        }
    }
}

/// The numbers of all origins.
#[derive(Debug, Default)]
pub(crate) struct Tallies(HashMap<Origin, Tally>);

/// An attempt that is on the wire, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a>(Option<&'a Tally>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(tally) = self.0 {
            tally.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Tallies {
    pub(crate) fn new(origins: impl IntoIterator<Item = Origin>) -> Self {
        let tallies = origins.into_iter().map(|origin| (origin, Tally::default()));
        Self(tallies.collect())
    }

    /// An attempt goes on the wire.
    pub(crate) fn begin(&self, origin: &Origin) -> UnderWay<'_> {
        let tally = self.0.get(origin);
        if let Some(tally) = tally {
            tally.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        UnderWay(tally)
    }

    /// An attempt ended, and meant this.
    pub(crate) fn count(&self, origin: &Origin, verdict: &Verdict) {
        if let Some(tally) = self.0.get(origin) {
            tally.of(verdict).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All of them, in the order of their names.
    pub(crate) fn read(&self, gate: impl Fn(&Origin) -> Option<GateStats>) -> Vec<OriginStats> {
        let origins = self.0.iter().map(|(origin, tally)| OriginStats {
            origin: origin.clone(),
            in_flight: tally.in_flight.load(Ordering::Relaxed),
            verdicts: tally.verdicts(),
            gate: gate(origin),
        });
        let mut origins: Vec<_> = origins.collect();
        origins.sort_by(|a, b| a.origin.cmp(&b.origin));
        origins
    }
}

impl Stats {
    pub(crate) fn new(
        counts: Counts,
        ledger: Ledger,
        origins: Vec<OriginStats>,
        now: Timestamp,
    ) -> Self {
        let mut verdicts = VerdictCounts::default();
        for origin in &origins {
            verdicts.add(&origin.verdicts);
        }
        Self {
            counts,
            ledger,
            oldest_age: counts.oldest.map(|oldest| now.since(oldest)),
            verdicts,
            origins,
        }
    }
}
