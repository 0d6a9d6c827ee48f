//! The server: one request after the other, a bounded queue, 503 past it.

/// What may wait, in work of so many milliseconds.
const QUEUE_MS: f64 = 2000.0;

/// The way there and back.
const ROUND_TRIP_MS: u64 = 50;

/// What a request gets, and when its sender hears of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Refused { at: u64 },
    Done { at: u64 },
}

#[derive(Debug)]
pub(crate) struct Server {
    work_ms: f64,
    /// When what is accepted is done.
    free_at: f64,
}

impl Server {
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            work_ms: 1000.0 / f64::from(capacity),
            free_at: 0.0,
        }
    }

    /// A request arrives.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of some hours")]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "milliseconds of some hours"
    )]
    pub(crate) fn take(&mut self, now: u64) -> Answer {
        let start = self.free_at.max(now as f64);
        if start - now as f64 > QUEUE_MS {
            return Answer::Refused {
                at: now + ROUND_TRIP_MS,
            };
        }
        self.free_at = start + self.work_ms;
        Answer::Done {
            at: self.free_at.ceil() as u64 + ROUND_TRIP_MS,
        }
    }
}
