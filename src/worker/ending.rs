//! How a worker ends: it lets attempts run until the deadline, cuts off the rest, and closes the store.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Worker;
use crate::error::{Error, Result};

pub(super) struct Stopping {
    pub(super) until: Instant,
    done: Vec<oneshot::Sender<Result<()>>>,
}

impl Worker {
    pub(super) fn stop(&mut self, deadline: Duration, done: Option<oneshot::Sender<Result<()>>>) {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        let until = Instant::now() + deadline.min(YEAR);
        match &mut self.stopping {
            Some(stopping) => {
                stopping.until = stopping.until.min(until);
                stopping.done.extend(done);
            }
            None => {
                self.stopping = Some(Stopping {
                    until,
                    done: done.into_iter().collect(),
                })
            }
        }
        self.parts.is_closing.store(true, Ordering::Release);
    }

    /// Cuts off what still runs: each attempt reports itself as interrupted.
    pub(super) fn abort_running(&mut self) {
        for running in self.running.values() {
            running.abort.abort();
        }
        if let Some(stopping) = &mut self.stopping {
            stopping.until = Instant::now() + Duration::from_secs(60 * 60);
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.stopping.is_some()
            && self.running.is_empty()
            && self.finished.is_empty()
            && self.mail.reports.is_empty()
    }

    pub(super) async fn close(mut self) {
        self.end_pass(None);
        // What was read to its end by now is kept yet.
        self.parts.cache.until_all_kept().await;
        let closed = self.parts.store.close().await;
        self.parts
            .is_closed
            .store(closed.is_ok(), Ordering::Release);
        if let Err(error) = &closed {
            tracing::error!(%error, "the store did not close well");
        }
        self.parts.hub.close();
        let failed = closed.err().map(|e| (e.kind(), e.to_string()));
        for done in self.stopping.into_iter().flat_map(|s| s.done) {
            let result = failed
                .clone()
                .map_or(Ok(()), |(kind, text)| Err(Error::new(kind, text)));
            // Whoever asked may have gone.
            drop(done.send(result));
        }
    }

    pub(super) async fn give_up(mut self, error: Error) {
        tracing::error!(%error, "the store takes nothing more, delivery stops; reopen the vault");
        self.parts.hub.store_failed();
        self.abort_running();
        self.passes.fail(&error);
        self.close().await;
    }
}
