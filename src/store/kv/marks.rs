//! Keeps the mark beside a store up to date: after each commit, with what is durable then.

use std::time::{Duration, Instant};

use super::Engine;
use super::queue::Queue;
use crate::store::mark::MarkWriter;

/// How often the floor of the queue is looked for, at most.
const FLOOR_PAUSE: Duration = Duration::from_millis(100);

/// What keeps the mark up to date.
#[derive(Debug)]
pub(super) struct Marks {
    writer: MarkWriter,
    /// When the floor was looked for last.
    looked: Instant,
}

impl Marks {
    pub(super) fn new(writer: MarkWriter) -> Self {
        let looked = Instant::now();
        Self { writer, looked }
    }

    /// To be called after a commit. The floor is looked for now and then: it may lag behind.
    pub(super) fn note<E: Engine>(&mut self, queue: &mut Queue<E>) {
        if self.looked.elapsed() > FLOOR_PAUSE {
            if let Err(error) = queue.raise_floor() {
                tracing::warn!(%error, "the floor of the queue is not known");
            }
            self.looked = Instant::now();
        }
        self.writer.note(queue.mark());
    }

    /// The store failed: the next open looks closer.
    pub(super) fn suspect(&self) {
        self.writer.suspect();
    }
}
