//! What sled reads when it opens, as it was before. When sled meets a message that it cannot read, it fills the rest of that
//! segment and all segments behind it with zeros, and only then may say that it is damaged. So they are copied first, and
//! the copy stays among sled's files, where a salvage finds it, until the store went on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::SEGMENT_BYTES;
use crate::error::Result;
use crate::store::ballast::free_bytes;
use crate::store::dir::{failed, no_follow, paths_in, private_file};

const FILE: &str = "before";

/// How many segments are copied at most, the newest: 64 MiB.
const SEGMENTS_MAX: usize = 8;

/// At the start of a segment: its checksum, and where it stands in the log, disguised.
const HEAD_BYTES: usize = 12;
const DISGUISE: u64 = 0x7fff_ffff_ffff_ffff;

/// The copy.
#[derive(Debug)]
pub(super) struct Before {
    path: PathBuf,
    is_there: AtomicBool,
}

impl Before {
    /// Copies what sled will read. Where there is no room, nothing is copied.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`](crate::error::ErrorKind::Storage) when sled's files cannot be read.
    pub(super) fn of(sled: &Path) -> Result<Self> {
        let before = Self {
            path: sled.join(FILE),
            // Of an open that was cut off.
            is_there: AtomicBool::new(true),
        };
        before.remove();
        let db = sled.join("db");
        let wanted = segments(&db, newest_snapshot(sled)?).map_err(|e| failed("read", &db, e))?;
        let bytes = (wanted.len() * SEGMENT_BYTES) as u64;
        if bytes > 0 && free_bytes(&db)? > 2 * bytes {
            before.is_there.store(true, Ordering::Relaxed);
            if let Err(error) = before.copy(&db, &wanted) {
                tracing::debug!(%error, "what sled reads is not copied");
                before.remove();
            }
        }
        Ok(before)
    }

    fn copy(&self, db: &Path, starts: &[u64]) -> io::Result<()> {
        let mut from = File::open(db)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        private_file(&mut options);
        no_follow(&mut options);
        let mut to = options.open(&self.path)?;
        for start in starts {
            from.seek(SeekFrom::Start(*start))?;
            io::copy(&mut (&from).take(SEGMENT_BYTES as u64), &mut to)?;
        }
        to.flush()
    }

    pub(super) fn remove(&self) {
        if !self.is_there.swap(false, Ordering::Relaxed) {
            return;
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(%error, "the copy of what sled read stays");
            }
            _ => {}
        }
    }
}

/// How far sled's newest snapshot reaches: it says so in its name.
fn newest_snapshot(sled: &Path) -> Result<u64> {
    let reached = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix("snap.")?;
        u64::from_str_radix(name, 16).ok()
    };
    let all = paths_in(sled)?.into_iter();
    Ok(all.filter_map(reached).max().unwrap_or(0))
}

/// Where the segments start that reach behind `stable`, the newest ones, in the order of the file.
fn segments(db: &Path, stable: u64) -> io::Result<Vec<u64>> {
    let mut file = match File::open(db) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let length = file.metadata()?.len();
    let mut found = Vec::new();
    for start in (0..length).step_by(SEGMENT_BYTES) {
        let mut head = [0; HEAD_BYTES];
        file.seek(SeekFrom::Start(start))?;
        if file.read_exact(&mut head).is_err() {
            break;
        }
        let place = u64::from_le_bytes(std::array::from_fn(|at| head[4 + at])) ^ DISGUISE;
        if place.saturating_add(SEGMENT_BYTES as u64) > stable {
            found.push((place, start));
        }
    }
    found.sort_unstable();
    let newest = found.split_off(found.len().saturating_sub(SEGMENTS_MAX));
    let mut starts: Vec<u64> = newest.into_iter().map(|(_, start)| start).collect();
    starts.sort_unstable();
    Ok(starts)
}
