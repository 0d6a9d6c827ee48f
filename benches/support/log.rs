//! The bare reference: an append log in segments that are filled with zeros ahead, so that a write changes no
//! size and `fdatasync` is all it costs. Frames with CRC32C; an acknowledgement is a tombstone.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

const SEGMENT_BYTES: usize = 64 * 1024 * 1024;

/// One writer's log.
#[derive(Debug)]
pub(crate) struct Log {
    dir: PathBuf,
    segment: File,
    room: usize,
    number: u64,
    ahead: Option<JoinHandle<io::Result<File>>>,
}

impl Log {
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (dir, room) = (dir.to_owned(), SEGMENT_BYTES);
        let segment = fill(&dir, 0)?;
        Ok(Self {
            dir,
            segment,
            room,
            number: 0,
            ahead: None,
        })
    }

    /// Writes frames and returns when they are on disk.
    pub(crate) fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        if self.room < frames.len() {
            self.roll()?;
        }
        self.segment.write_all(frames)?;
        self.segment.sync_data()?;
        self.room -= frames.len();
        if self.room < SEGMENT_BYTES / 2 && self.ahead.is_none() {
            let (dir, number) = (self.dir.clone(), self.number + 1);
            self.ahead = Some(std::thread::spawn(move || fill(&dir, number)));
        }
        Ok(())
    }

    fn roll(&mut self) -> io::Result<()> {
        self.number += 1;
        self.segment = match self.ahead.take() {
            Some(ahead) => ahead.join().map_err(|_| io::ErrorKind::Other)??,
            None => fill(&self.dir, self.number)?,
        };
        self.room = SEGMENT_BYTES;
        Ok(())
    }
}

fn fill(dir: &Path, number: u64) -> io::Result<File> {
    let path = dir.join(format!("{number:08}"));
    let mut file = File::create(&path)?;
    let zeros = vec![0; 1024 * 1024];
    for _ in 0..SEGMENT_BYTES / zeros.len() {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    File::options().write(true).open(path)
}

/// Length, checksum, kind, number, payload.
pub(crate) fn frame(kind: u8, number: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(17 + payload.len());
    frame.extend_from_slice(&(payload.len() as u64).to_le_bytes()[..4]);
    frame.extend_from_slice(&[0; 4]);
    frame.push(kind);
    frame.extend_from_slice(&number.to_le_bytes());
    frame.extend_from_slice(payload);
    let crc = crc32c::crc32c(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame
}
