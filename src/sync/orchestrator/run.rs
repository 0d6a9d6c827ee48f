//! One run of one sync: its steps, each with retries of its own, its pause and its end by a cancel.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;

use super::event::{Hub, SyncEventKind};
use super::failure::{Failure, FailureKind, Remedy, StepError};
use super::report::{Phase, Step};
use crate::decide::{Backoff, Dice};
use crate::parts::Connection;
use crate::sync::{Checkpoint, CheckpointKey, CheckpointStore};

/// What is the same for every run of an orchestrator.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) user: String,
    pub(super) checkpoints: Arc<dyn CheckpointStore>,
    pub(super) batch_size: usize,
    pub(super) max_batch_size: usize,
    pub(super) backoff: Backoff,
    pub(super) max_retries: u32,
    pub(super) min_interval: Duration,
}

/// How much a caller wants a sync. What is wanted more is not answered by what was wanted less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    IfDue,
    Now,
    FromTheStart,
}

/// One run of one sync.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) key: CheckpointKey,
    pub(super) phase: Phase,
    pub(super) need: Need,
    pub(super) settings: Arc<Settings>,
    pub(super) hub: Arc<Hub>,
    pub(super) cancelled: watch::Receiver<bool>,
    pub(super) paused: watch::Receiver<bool>,
    pub(super) connection: watch::Receiver<Connection>,
}

impl Run {
    pub(super) fn publish(&self, kind: SyncEventKind) {
        self.hub.publish(Some(&self.key.feature), kind);
    }

    pub(super) fn is_at(&self, step: Step, page: u64) {
        let (feature, phase) = (&self.key.feature, self.phase);
        self.hub
            .change(feature, |status| status.is_running(phase, step, page));
    }

    pub(super) fn failure(&self, kind: FailureKind, text: impl Into<String>) -> Failure {
        Failure::new((&self.key.feature, self.phase), kind, text)
    }

    /// Does one step, again and again until it works or a retry is of no use.
    pub(super) async fn step<T, F>(&self, step: Step, attempt: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, StepError>>,
    {
        let (mut attempts, mut wait) = (0, Duration::ZERO);
        loop {
            self.wait_while_paused().await?;
            attempts += 1;
            let error = match self.attempt(step, attempt()).await? {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let not_before = match error.remedy {
                Remedy::Retry { not_before } if self.may_retry(step, attempts) => not_before,
                _ => return Err(self.give_up(step, attempts, error).await),
            };
            let mut dice = Dice::from_entropy();
            wait = self.settings.backoff.delay(attempts, wait, &mut dice);
            self.publish(SyncEventKind::Retrying {
                step,
                attempt: attempts,
                wait: wait.max(not_before),
                error: error.source.to_string(),
            });
            self.sleep(wait.max(not_before)).await?;
        }
    }

    /// What waits for a server is cut off by a cancel; what is local is done to its end.
    async fn attempt<T>(
        &self,
        step: Step,
        attempt: impl Future<Output = Result<T, StepError>>,
    ) -> Result<Result<T, StepError>, Failure> {
        let attempt = AssertUnwindSafe(attempt).catch_unwind();
        let done = match step.is_remote() {
            true => tokio::select! {
                biased;
                cancelled = self.cancelled() => return Err(cancelled),
                done = attempt => done,
            },
            false => attempt.await,
        };
        done.map_err(|panic| {
            let text = format!("the handler panicked: {}", text_of(&*panic));
            self.failure(FailureKind::Panicked, text).at(step, 1)
        })
    }

    fn may_retry(&self, step: Step, attempts: u32) -> bool {
        attempts <= self.settings.max_retries && !(step.is_remote() && self.is_offline())
    }

    fn is_offline(&self) -> bool {
        *self.connection.borrow() == Connection::Offline
    }

    async fn give_up(&self, step: Step, attempts: u32, error: StepError) -> Failure {
        let kind = match error.remedy {
            Remedy::StartOver => FailureKind::StartOver,
            Remedy::Nothing => FailureKind::Permanent,
            Remedy::Retry { .. } if step == Step::Checkpoint => FailureKind::Checkpoint,
            Remedy::Retry { .. } if attempts <= self.settings.max_retries => FailureKind::Offline,
            Remedy::Retry { .. } => FailureKind::RetriesUsedUp,
        };
        if kind == FailureKind::StartOver
            && let Err(failure) = Box::pin(self.forget_checkpoint()).await
        {
            return failure;
        }
        self.failure(kind, error.source.to_string())
            .at(step, attempts)
            .with_source(error.source)
    }

    async fn sleep(&self, wait: Duration) -> Result<(), Failure> {
        tokio::select! {
            biased;
            cancelled = self.cancelled() => Err(cancelled),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    async fn wait_while_paused(&self) -> Result<(), Failure> {
        let mut paused = self.paused.clone();
        tokio::select! {
            biased;
            cancelled = self.cancelled() => Err(cancelled),
            // The sender is gone with the orchestrator, which ends this run in another way.
            _ = paused.wait_for(|paused| !paused) => Ok(()),
        }
    }

    /// Ends when the run is cancelled.
    async fn cancelled(&self) -> Failure {
        // The sender is gone when nobody waits for this run any more.
        drop(
            self.cancelled
                .clone()
                .wait_for(|cancelled| *cancelled)
                .await,
        );
        self.failure(FailureKind::Cancelled, "the app cancelled it")
    }

    /// The checkpoint, or the start.
    pub(super) async fn checkpoint(&self) -> Result<Checkpoint, Failure> {
        if self.need == Need::FromTheStart {
            self.forget_checkpoint().await?;
        }
        let load = || async { Ok(self.settings.checkpoints.load(&self.key).await?) };
        let checkpoint = self.step(Step::Checkpoint, load).await?;
        Ok(checkpoint.unwrap_or_else(|| Checkpoint::start(self.key.clone())))
    }

    /// Saves it, unless the handler did already.
    pub(super) async fn keep(&self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let checkpoints = &self.settings.checkpoints;
        let keep = || async {
            if checkpoints.load(&self.key).await?.as_ref() != Some(checkpoint) {
                checkpoints.save(checkpoint).await?;
            }
            Ok(())
        };
        self.step(Step::Checkpoint, keep).await
    }

    async fn forget_checkpoint(&self) -> Result<(), Failure> {
        let forget = || async { Ok(self.settings.checkpoints.remove(&self.key).await?) };
        self.step(Step::Checkpoint, forget).await
    }

    /// The checkpoint of a background sync that is due; nothing when it is not.
    pub(super) async fn begin_background(&self) -> Result<Option<Checkpoint>, Failure> {
        let checkpoint = self.checkpoint().await?;
        let (now, interval) = (self.hub.now(), self.settings.min_interval);
        // A time that is still to come was told by a clock that was wrong.
        let is_fresh = |at| at <= now && now.since(at) < interval;
        if self.need == Need::IfDue && checkpoint.synced_at.is_some_and(is_fresh) {
            return Ok(None);
        }
        self.publish(SyncEventKind::BackgroundStarted);
        Ok(Some(checkpoint))
    }

    pub(super) fn check_size(&self, step: Step, items: usize) -> Result<(), Failure> {
        let max = self.settings.max_batch_size;
        if items <= max {
            return Ok(());
        }
        let text = format!("the handler gave {items} items, more than `max_batch_size`, {max}");
        Err(self.failure(FailureKind::TooLarge, text).at(step, 1))
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a text")
}
