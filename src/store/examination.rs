//! What an examination of a vault tells: findings, what was counted, and how far it is.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::action::{Counts, Ledger};

/// How far a run of the doctor is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// Actions that are done.
    pub done: u64,
    /// Actions that there are, as counted by the vault.
    pub total: u64,
}

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// Worth knowing. Nothing is wrong.
    Note,
    /// Not as it should be; nothing is lost by it.
    Warning,
    /// Something was lost, or would be sent wrongly.
    Damage,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Problem {
    /// The engine itself, or a row of it, cannot be read.
    Engine,
    /// A record fails its checksum, or is not what it should be.
    Record,
    /// A body is gone, cut, or fails its checksum.
    Body,
    /// An answer is gone, cut, or fails its checksum.
    Answer,
    /// A record was written by a newer version: this one leaves it alone.
    Newer,
    /// An index lacks an entry, or has one too many.
    Index,
    /// A lane is out of order with its places, its head or what blocks it.
    Lane,
    /// A count is not that of what is there.
    Count,
    /// The ledger does not add up.
    Ledger,
    /// A value or a file that no action owns.
    Orphan,
    /// An earlier run moved it aside.
    Quarantine,
    /// Something was begun and not ended: an import, the forgetting of a principal.
    Unfinished,
    /// A cached answer is damaged or out of place: it is dropped when it is met.
    Cache,
    /// A file that is none of the vault's.
    UnknownFile,
    /// Others may read it, or it is a symbolic link.
    Access,
}

impl Problem {
    /// How bad it is.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::Newer | Self::Quarantine | Self::Unfinished | Self::UnknownFile => Severity::Note,
            Self::Orphan | Self::Access | Self::Cache => Severity::Warning,
            _ => Severity::Damage,
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub what: Problem,
    /// With what: an action, a lane by its number, a file.
    #[serde(rename = "where")]
    pub place: String,
    /// In words, without any content of a request.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Damage => "DAMAGE",
        };
        write!(f, "{severity}: {}: {}", self.place, self.detail)
    }
}

/// What was found in a vault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Examination {
    /// The first [`Examination::FINDINGS_MAX`] of them.
    pub findings: Vec<Finding>,
    /// How many of them are damage.
    pub damage: u64,
    /// How many are warnings.
    pub warnings: u64,
    /// How many are notes.
    pub notes: u64,
    /// Records that were read.
    pub records: u64,
    /// Bodies that were read, and are whole.
    pub bodies: u64,
    /// Answers that were read, and are whole.
    pub answers: u64,
    /// Cached answers that were read, and are whole.
    #[serde(default)]
    pub cached: u64,
    /// What is there, counted anew.
    pub counts: Counts,
    /// The ledger that is kept.
    pub ledger: Ledger,
}

impl Examination {
    /// So many findings are kept; all are counted.
    pub const FINDINGS_MAX: usize = 1000;

    /// True when nothing is damaged and nothing is out of place.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.damage == 0 && self.warnings == 0
    }
}

impl fmt::Display for Examination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pending, dead) = (self.counts.pending, self.counts.dead);
        let settled = self.counts.retained;
        writeln!(
            f,
            "{pending} pending, {dead} dead letters, {settled} settled; {} bodies and {} answers are whole",
            self.bodies, self.answers
        )?;
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let all = self.damage + self.warnings + self.notes;
        if all > self.findings.len() as u64 {
            writeln!(f, "and {} more", all - self.findings.len() as u64)?;
        }
        match self.is_healthy() {
            true => write!(f, "the vault is healthy"),
            false => write!(f, "{} damaged, {} warnings", self.damage, self.warnings),
        }
    }
}

/// An examination that goes on.
pub(crate) struct Examiner {
    pub(crate) seen: Examination,
    progress: Box<dyn FnMut(Progress) + Send>,
    at: Progress,
}

impl fmt::Debug for Examiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Examiner").finish_non_exhaustive()
    }
}

impl Examiner {
    pub(crate) fn new(progress: impl FnMut(Progress) + Send + 'static) -> Self {
        Self {
            seen: Examination::default(),
            progress: Box::new(progress),
            at: Progress::default(),
        }
    }

    pub(crate) fn find(
        &mut self,
        what: Problem,
        place: impl fmt::Display,
        detail: impl Into<String>,
    ) {
        let severity = what.severity();
        match severity {
            Severity::Note => self.seen.notes += 1,
            Severity::Warning => self.seen.warnings += 1,
            Severity::Damage => self.seen.damage += 1,
        }
        if self.seen.findings.len() < Examination::FINDINGS_MAX {
            self.seen.findings.push(Finding {
                severity,
                what,
                place: place.to_string(),
                detail: detail.into(),
            });
        }
    }

    pub(crate) fn expect(&mut self, total: u64) {
        self.at.total = total;
        (self.progress)(self.at);
    }

    /// One action more is done. Told now and then.
    pub(crate) fn step(&mut self) {
        const EVERY: u64 = 256;
        self.at.done += 1;
        if self.at.done.is_multiple_of(EVERY) || self.at.done == self.at.total {
            (self.progress)(self.at);
        }
    }
}
