//! One of the two files of a journal: filled ahead, so that a commit overwrites and its sync has no size to
//! write; started anew when the engine below holds all that was in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::frame::{self, Commit};
use crate::error::{Error, ErrorKind, Result};
use crate::store::dir::{check_still_there, failed, no_follow, private_file, sync_dir, unsynced};
use crate::store::kv::Batch;

#[derive(Debug)]
pub(super) struct JournalFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    turn: u64,
    at: u64,
}

/// What a file held.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The commits of its newest turn, in order, up to the first frame that is not whole.
    pub(super) commits: Vec<Commit>,
    /// The number of the newest whole frame behind that one.
    pub(super) newest_behind: Option<u64>,
}

impl JournalFile {
    /// Opens a file of `bytes` bytes, or makes it. It has its name only once it is filled.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when it is shorter than it was made, and storage errors.
    pub(super) fn open(path: PathBuf, bytes: u64) -> Result<(Self, Found)> {
        let is_there = path.try_exists().map_err(|e| failed("look at", &path, e))?;
        if !is_there {
            fill(&path, bytes)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        no_follow(&mut options);
        let mut content = Vec::new();
        let file = options
            .open(&path)
            .and_then(|mut file| file.read_to_end(&mut content).map(|_| file))
            .map_err(|e| failed("open", &path, e))?;
        if (content.len() as u64) < bytes {
            let text = format!(
                "the journal {} was cut to {} bytes",
                path.display(),
                content.len()
            );
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        let (found, end) = read(&content);
        let turn = found
            .commits
            .first()
            .map_or_else(rand::random, |commit| commit.turn);
        let opened = Self {
            path,
            file,
            bytes,
            turn,
            at: end as u64,
        };
        Ok((opened, found))
    }

    /// Nothing that is in the file is wanted any more.
    pub(super) fn start_anew(&mut self) -> Result<()> {
        self.turn = rand::random();
        self.at = 0;
        let is_grown = self.file.metadata().map(|found| found.len() > self.bytes);
        is_grown
            .and_then(|is_grown| match is_grown {
                true => self.file.set_len(self.bytes),
                false => Ok(()),
            })
            .map_err(|e| failed("start anew", &self.path, e))
    }

    pub(super) fn encode(&self, number: u64, batch: &Batch) -> Result<Vec<u8>> {
        frame::encode(self.turn, number, batch)
            .ok_or_else(|| Error::invalid("one commit cannot hold more than 4 GiB"))
    }

    /// An empty file takes every frame: it grows for one that is larger than the file.
    pub(super) fn has_room(&self, frame: &[u8]) -> bool {
        self.at == 0 || self.at + frame.len() as u64 <= self.bytes
    }

    /// Makes a frame durable. Behind the end the file grows, as far as the disk has room.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StorageFull`] when it has none: the next frame goes to the same place. Anything else is final.
    pub(super) fn append(&mut self, frame: &[u8]) -> Result<()> {
        self.file
            .seek(SeekFrom::Start(self.at))
            .and_then(|_| self.file.write_all(frame))
            .map_err(|e| failed("write", &self.path, e))?;
        self.file.sync_data().map_err(|e| unsynced(&self.path, e))?;
        self.at += frame.len() as u64;
        check_still_there(&self.path, &self.file)
    }
}

/// Every whole commit in a file, wherever it starts; none when it is not there.
pub(super) fn salvage(path: &Path) -> Result<Vec<Commit>> {
    match fs::read(path) {
        Ok(bytes) => Ok(frame::whole_in(&bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed("read", path, e)),
    }
}

fn fill(path: &Path, bytes: u64) -> Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    private_file(&mut options);
    options
        .open(&new)
        .and_then(|mut file| {
            io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&new, path))
        .map_err(|e| failed("make", path, e))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// What a file holds, and where the next frame goes.
fn read(bytes: &[u8]) -> (Found, usize) {
    let (mut found, mut at) = (Found::default(), 0);
    while let Some((commit, length)) = frame::decode(&bytes[at.min(bytes.len())..]) {
        let follows = |last: &Commit| last.turn == commit.turn && last.number + 1 == commit.number;
        if !found.commits.last().is_none_or(follows) {
            break;
        }
        found.commits.push(commit);
        at += length;
    }
    found.newest_behind = frame::newest_behind(bytes, at);
    (found, at)
}
