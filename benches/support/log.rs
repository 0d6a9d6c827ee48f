//! The bare reference: an append log in segments that are filled with zeros ahead, so that a write changes no
//! size and `fdatasync` is all it costs. Frames with CRC32C; an acknowledgement is a tombstone.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

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
        Ok(Self { dir, segment, room, number: 0, ahead: None })
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

/// A frame that waits to be written, and who waits for it.
struct Waiting {
    frame: Vec<u8>,
    writer: Thread,
    is_done: Arc<AtomicBool>,
}

/// A log for many writers: one thread writes what waits and syncs once for all of it.
#[derive(Debug)]
pub(crate) struct SharedLog {
    inbox: Sender<Waiting>,
    next: AtomicU64,
    ready: Mutex<VecDeque<u64>>,
    arrived: Condvar,
}

impl SharedLog {
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        let log = Log::create(dir)?;
        let (inbox, waiting) = channel();
        std::thread::spawn(move || commit(log, &waiting));
        let (next, ready, arrived) = (AtomicU64::new(0), Mutex::default(), Condvar::new());
        Ok(Self { inbox, next, ready, arrived })
    }

    /// Appends, durably, and offers it to `take`.
    pub(crate) fn append(&self, payload: &[u8]) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.write(frame(1, number, payload));
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).push_back(number);
        self.arrived.notify_one();
    }

    /// The next that nobody took; it waits for one.
    pub(crate) fn take(&self) -> u64 {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(number) = ready.pop_front() {
                return number;
            }
            ready = self.arrived.wait(ready).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Acknowledges, durably.
    pub(crate) fn acknowledge(&self, number: u64) {
        self.write(frame(2, number, &[]));
    }

    fn write(&self, frame: Vec<u8>) {
        let is_done = Arc::new(AtomicBool::new(false));
        let writer = std::thread::current();
        let waiting = Waiting { frame, writer, is_done: is_done.clone() };
        self.inbox.send(waiting).expect("the committer lives as long as the log");
        while !is_done.load(Ordering::Acquire) {
            std::thread::park();
        }
    }
}

fn commit(mut log: Log, inbox: &Receiver<Waiting>) {
    let mut frames = Vec::new();
    while let Ok(first) = inbox.recv() {
        let group: Vec<Waiting> = std::iter::once(first).chain(inbox.try_iter()).collect();
        frames.clear();
        for waiting in &group {
            frames.extend_from_slice(&waiting.frame);
        }
        log.write(&frames).expect("the disk takes what the measurement writes");
        for waiting in group {
            waiting.is_done.store(true, Ordering::Release);
            waiting.writer.unpark();
        }
    }
}
