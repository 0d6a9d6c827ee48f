//! The ladder at open: try; when the store is damaged, or behind its mark, move it to quarantine, carve what is intact out
//! of it, and go on with that. Nothing is deleted. A crash in between is taken up at the next open.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Engine;
use super::queue::Queue;
use super::salvage::{Salvage, Sink};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::store::dir::{
    QUARANTINE, VaultDir, create_dir, failed, refuse_links, replace_file, sync_dir,
};
use crate::store::mark::{self, Mark, MarkWriter};
use crate::store::{OpenReport, StoreRegressed};

/// Names the place in quarantine from which the store is being built anew.
const UNDER_WAY: &str = "salvage";

/// A database in the directory of a vault.
pub(in crate::store) trait Site {
    type Engine: Engine;

    fn dir(&self) -> &VaultDir;

    /// What in the directory is the database.
    fn names(&self) -> &'static [&'static str];

    /// Opens it, or makes it.
    fn open(&self) -> Result<Self::Engine>;

    /// Is all of it to be looked at, however large it is?
    fn is_doubted(&self) -> bool;

    /// Looks closely at an engine that opened.
    fn check(&self, _engine: &Self::Engine) -> Result<()> {
        Ok(())
    }

    /// Gives out everything intact in what was moved to `from`, the oldest first.
    fn carve(&self, from: &Path, sink: &mut dyn Sink) -> Result<()>;
}

/// A queue that can go on.
pub(in crate::store) struct Started<E> {
    pub(super) queue: Queue<E>,
    pub(super) marks: Option<MarkWriter>,
}

impl<E: Engine> Started<E> {
    /// Without a ladder.
    pub(super) fn plain(engine: E) -> Result<Self> {
        Ok(Self {
            queue: Queue::load_whole(engine)?,
            marks: None,
        })
    }

    /// # Errors
    ///
    /// [`ErrorKind::Invalid`], [`ErrorKind::Locked`], [`ErrorKind::Unsupported`] for a newer format, and storage errors of
    /// the system. Then nothing was changed.
    pub(in crate::store) fn open(site: &impl Site<Engine = E>) -> Result<Self> {
        let path = site.dir().path().join(mark::FILE);
        let mark = mark::read(&path)?;
        let mut queue = match under_way(site.dir())? {
            Some(from) => salvage(site, &from, mark, &Damage::cut_off())?,
            None => match attempt(site, mark.as_ref()) {
                Ok(queue) => queue,
                Err(damage) if damage.is_curable() => {
                    let from = new_place(site.dir())?;
                    salvage(site, &from, mark, &damage)?
                }
                Err(damage) => return Err(damage.error),
            },
        };
        let marks = MarkWriter::start(path)?;
        queue.raise_floor()?;
        marks.note(queue.mark());
        Ok(Self {
            queue,
            marks: Some(marks),
        })
    }
}

/// Why the store cannot be used as it is.
struct Damage {
    error: Error,
    regressed: Option<StoreRegressed>,
}

impl From<Error> for Damage {
    fn from(error: Error) -> Self {
        let regressed = None;
        Self { error, regressed }
    }
}

impl Damage {
    fn cut_off() -> Self {
        Error::new(ErrorKind::Corrupt, "a salvage was cut off").into()
    }

    fn is_curable(&self) -> bool {
        matches!(self.error.kind(), ErrorKind::Corrupt | ErrorKind::Poisoned)
    }
}

fn attempt<S: Site>(site: &S, mark: Option<&Mark>) -> Result<Queue<S::Engine>, Damage> {
    let tried = catch_unwind(AssertUnwindSafe(|| {
        let queue = Queue::load_whole(site.open()?)?;
        let expected = mark.map_or(0, |mark| mark.no);
        if queue.tally.no < expected {
            return Err(regressed(expected, queue.tally.no));
        }
        let is_suspect = site.is_doubted() || mark.is_some_and(|mark| mark.is_suspect);
        if is_suspect || queue.is_small() {
            site.check(queue.txn.engine())?;
            queue.verify()?;
        }
        Ok(queue)
    }));
    tried.unwrap_or_else(|_| {
        let text = "the storage engine panicked while it opened";
        Err(Error::new(ErrorKind::Corrupt, text).into())
    })
}

fn regressed(expected: u64, found: u64) -> Damage {
    let text = format!(
        "the store lost what it held last: it ends with version {found} of its counts, and had acknowledged {expected}"
    );
    Damage {
        error: Error::new(ErrorKind::Corrupt, text),
        regressed: Some(StoreRegressed { expected, found }),
    }
}

/// Builds the store anew from what lies in `from`, or is moved there.
fn salvage<S: Site>(
    site: &S,
    from: &Path,
    mark: Option<Mark>,
    damage: &Damage,
) -> Result<Queue<S::Engine>> {
    let error = &damage.error;
    tracing::error!(%error, regressed = ?damage.regressed, quarantine = %from.display(), "the store is damaged: what is intact is carved out of it");
    let under_way = site.dir().path().join(UNDER_WAY);
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    replace_file(&under_way, name.as_bytes())?;
    move_aside(site, from)?;
    let mut queue = Queue::load_whole(site.open()?)?;
    let now = Timestamp::from(SystemTime::now());
    queue.txn.begin()?;
    let mut salvage = Salvage::new(&mut queue, mark);
    site.carve(from, &mut salvage)?;
    let mut report = salvage.rebuild(now)?;
    fs::remove_file(&under_way).map_err(|e| failed("remove", &under_way, e))?;
    sync_dir(site.dir().path())?;
    report.damage = Some(error.to_string());
    report.quarantined = Some(from.to_owned());
    report.regressed = damage.regressed;
    tracing::error!(?report, "the store was built anew");
    queue.report = OpenReport { ..report };
    Ok(queue)
}

/// For a store that is opened without the ladder: what is built anew must be finished first, or what is added meanwhile goes
/// aside with the unfinished.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] when a salvage was cut off, storage errors.
#[cfg(feature = "sqlite")]
pub(in crate::store) fn refuse_unfinished(dir: &VaultDir) -> Result<()> {
    match under_way(dir)? {
        None => Ok(()),
        Some(_) => {
            let text = format!(
                "a salvage of the vault {} was cut off; open it alone once, or call doctor::salvage",
                dir.path().display()
            );
            Err(Error::new(ErrorKind::Corrupt, text))
        }
    }
}

/// The place of a salvage that a crash cut off.
fn under_way(dir: &VaultDir) -> Result<Option<PathBuf>> {
    let path = dir.path().join(UNDER_WAY);
    refuse_links([path.clone()])?;
    match fs::read_to_string(&path) {
        Ok(name) if is_plain(name.trim()) => {
            Ok(Some(dir.path().join(QUARANTINE).join(name.trim())))
        }
        // It was never whole, so nothing was moved yet.
        Ok(_) => Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", &path, e)),
    }
}

fn is_plain(name: &str) -> bool {
    let is_known = |c: char| c.is_ascii_alphanumeric() || c == '-';
    !name.is_empty() && name.chars().all(is_known)
}

/// A directory in quarantine that is not there yet, by the time.
fn new_place(dir: &VaultDir) -> Result<PathBuf> {
    let quarantine = dir.subdir(QUARANTINE)?;
    let time = stamp(SystemTime::now());
    let mut place = quarantine.join(&time);
    let mut number = 1;
    while place.exists() {
        number += 1;
        place = quarantine.join(format!("{time}-{number}"));
    }
    Ok(place)
}

/// Moves the database there. What is there already was moved before a crash: then the one in its place is half built.
fn move_aside(site: &impl Site, place: &Path) -> Result<()> {
    let dir = site.dir().path();
    create_dir(place)?;
    let unfinished = place.join(format!("unfinished-{:08x}", rand::random::<u32>()));
    for name in site.names() {
        let (from, mut to) = (dir.join(name), place.join(name));
        if fs::symlink_metadata(&from).is_err() {
            continue;
        }
        if to.exists() {
            create_dir(&unfinished)?;
            to = unfinished.join(name);
        }
        fs::rename(&from, &to).map_err(|e| failed("move aside", &from, e))?;
    }
    sync_dir(place)?;
    place.parent().map_or(Ok(()), sync_dir)?;
    sync_dir(dir)
}

/// A time as the name of a directory: `20261120T174436Z`.
fn stamp(time: SystemTime) -> String {
    let seconds = Timestamp::from(time).as_millis() / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // The calendar repeats every 400 years; a year begins with March here, so that leap days end it.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months + 2) / 5 + 1;
    let month = if months < 10 { months + 3 } else { months - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_time_is_a_name() {
        let at = |seconds| stamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101T000000Z");
        assert_eq!(at(951_782_400), "20000229T000000Z");
        assert_eq!(at(1_795_196_676), "20261120T174436Z");
    }
}
