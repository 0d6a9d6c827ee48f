//! The bare log for many writers: group commit, and a queue in memory of what can be taken.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::Thread;

use crate::log::{Log, frame};

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
        Ok(Self {
            inbox,
            next,
            ready,
            arrived,
        })
    }

    /// Appends, durably, and offers it to `take`.
    pub(crate) fn append(&self, payload: &[u8]) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.write(frame(1, number, payload));
        self.ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(number);
        self.arrived.notify_one();
    }

    /// The next that nobody took; it waits for one.
    pub(crate) fn take(&self) -> u64 {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(number) = ready.pop_front() {
                return number;
            }
            ready = self
                .arrived
                .wait(ready)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Acknowledges, durably.
    pub(crate) fn acknowledge(&self, number: u64) {
        self.write(frame(2, number, &[]));
    }

    fn write(&self, frame: Vec<u8>) {
        let is_done = Arc::new(AtomicBool::new(false));
        let writer = std::thread::current();
        let waiting = Waiting {
            frame,
            writer,
            is_done: is_done.clone(),
        };
        self.inbox
            .send(waiting)
            .expect("the committer lives as long as the log");
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
        log.write(&frames)
            .expect("the disk takes what the measurement writes");
        for waiting in group {
            waiting.is_done.store(true, Ordering::Release);
            waiting.writer.unpark();
        }
    }
}
