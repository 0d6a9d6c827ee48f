//! The loop beside the engine: hears from the vault what became of changes, and looks after their records. At its start it looks
//! after all of them, which is the repair after a crash.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use super::core::Core;
use super::event::TableEventKind;
use super::guard::record_of;
use super::record::RecordKey;
use crate::decide::Dice;
use crate::error::Result;
use crate::event::{Event, EventKind, Events};

/// How many records are looked after side by side.
const AT_ONCE: usize = 8;
/// How many unsynced records are read at once.
const PAGE: usize = 200;

/// Runs until its task is stopped.
pub(super) struct Clerk {
    pub(super) core: Arc<Core>,
    pub(super) events: Events,
    /// True once the repair at the start is over.
    pub(super) is_repaired: watch::Sender<bool>,
    pub(super) due: BTreeSet<RecordKey>,
    pub(super) busy: BTreeSet<RecordKey>,
    pub(super) sweep: Sweep,
}

/// Whether all unsynced records are looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sweep {
    No,
    /// As soon as there is nothing under way.
    Due,
    Running,
    /// And once more after it.
    RunningAndDue,
}

/// What a task of the clerk ended with.
enum Looked {
    /// The record was looked after.
    Well(RecordKey),
    /// It could not be, so often in a row.
    Failed(RecordKey, u32),
    Swept,
}

type Looks = FuturesUnordered<BoxFuture<'static, Looked>>;

impl Clerk {
    /// Nothing but events is waited for here: a task that is not polled may hold the turn at a record.
    pub(super) async fn run(mut self) {
        let mut looks = Looks::new();
        loop {
            self.begin(&looks);
            tokio::select! {
                event = self.events.next() => match event {
                    Some(event) => self.hear(&event),
                    None => return,
                },
                () = self.core.sweep.notified() => self.want_sweep(),
                Some(looked) = looks.next(), if !looks.is_empty() => self.end(looked, &looks),
            }
        }
    }

    fn begin(&mut self, looks: &Looks) {
        if self.sweep == Sweep::Due {
            self.sweep = Sweep::Running;
            looks.push(sweep(self.core.clone()));
        }
        while self.busy.len() < AT_ONCE
            && let Some(key) = self.next_due()
        {
            looks.push(look(self.core.clone(), key, 0));
        }
    }

    fn end(&mut self, looked: Looked, looks: &Looks) {
        match looked {
            Looked::Well(key) => drop(self.busy.remove(&key)),
            Looked::Failed(key, failures) => looks.push(look(self.core.clone(), key, failures)),
            Looked::Swept => {
                self.is_repaired.send_replace(true);
                self.sweep = match self.sweep {
                    Sweep::RunningAndDue => Sweep::Due,
                    _ => Sweep::No,
                };
            }
        }
    }

    fn want_sweep(&mut self) {
        self.sweep = match self.sweep {
            Sweep::No | Sweep::Due => Sweep::Due,
            Sweep::Running | Sweep::RunningAndDue => Sweep::RunningAndDue,
        };
    }

    fn next_due(&mut self) -> Option<RecordKey> {
        let key = self
            .due
            .iter()
            .find(|key| !self.busy.contains(*key))
            .cloned()?;
        self.due.remove(&key);
        self.busy.insert(key.clone());
        Some(key)
    }

    fn hear(&mut self, event: &Event) {
        if event.missed_before > 0 {
            self.want_sweep();
        }
        let Some(key) =
            record_of(event.lane.as_str()).filter(|key| self.core.desk(&key.table).is_ok())
        else {
            return;
        };
        match &event.kind {
            EventKind::Failed {
                status: Some(401),
                error,
                ..
            } => self.core.tell_auth(error.clone()),
            EventKind::Failed { next, .. } => {
                let (id, next) = (key.id.clone(), *next);
                self.core
                    .hub
                    .tell(&key, TableEventKind::RetryScheduled { id, next });
            }
            // It was written over: who wrote knows.
            EventKind::Superseded { .. } => {}
            kind if kind.is_terminal() => drop(self.due.insert(key)),
            _ => {}
        }
    }
}

fn sweep(core: Arc<Core>) -> BoxFuture<'static, Looked> {
    Box::pin(async move {
        if let Err(error) = core.sweep_all().await {
            tracing::warn!(%error, "unsynced records cannot be looked after now");
        }
        Looked::Swept
    })
}

/// Looks after one record; after a failure it waits first.
fn look(core: Arc<Core>, key: RecordKey, failures: u32) -> BoxFuture<'static, Looked> {
    Box::pin(async move {
        if failures > 0 {
            let wait = core
                .backoff
                .delay(failures, Duration::ZERO, &mut Dice::from_entropy());
            tokio::time::sleep(wait).await;
        }
        let Ok(desk) = core.desk(&key.table) else {
            return Looked::Well(key);
        };
        match core.settle(&desk, &key).await {
            Ok(()) => Looked::Well(key),
            Err(error) => {
                tracing::warn!(record = %key, %error, "what became of a change cannot be seen now");
                match core.check_open() {
                    Ok(()) => Looked::Failed(key, failures.saturating_add(1)),
                    Err(_) => Looked::Well(key),
                }
            }
        }
    })
}

impl Core {
    /// Looks after every unsynced record of every table.
    pub(super) async fn sweep_all(&self) -> Result<()> {
        for desk in self.all_desks() {
            let mut after = None;
            loop {
                let page = self
                    .local
                    .unsynced(&desk.table.name, after.as_ref(), PAGE)
                    .await?;
                let Some(last) = page.last().cloned() else {
                    break;
                };
                for id in &page.damaged {
                    self.set_aside(&RecordKey::new(&desk.table.name, id))
                        .await?;
                }
                let keys = page.records.into_iter().map(|record| record.key);
                let looks = futures_util::stream::iter(keys.map(|key| {
                    let desk = desk.clone();
                    async move { (self.settle(&desk, &key).await, key) }
                }));
                let mut looks = looks.buffer_unordered(AT_ONCE);
                while let Some((look, key)) = looks.next().await {
                    if let Err(error) = look {
                        tracing::warn!(record = %key, %error, "what became of a change cannot be seen now");
                    }
                }
                after = Some(last);
            }
        }
        Ok(())
    }

    /// How many records of all tables are unsynced.
    pub(super) async fn unsynced_count(&self) -> Result<u64> {
        let mut count = 0;
        for desk in self.all_desks() {
            count += self.local.unsynced_count(&desk.table.name).await?;
        }
        Ok(count)
    }
}
