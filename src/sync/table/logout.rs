//! The end of a user: what runs is stopped and waited for, then everything goes, or unsent work is kept on hold. And coming back.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::core::{Core, Desk};
use super::engine::SyncEngine;
use super::event::{ChangedBy, TableEventKind};
use super::local::{LocalStep, Touched};
use super::record::{LocalRecord, RecordKey};
use crate::State;
use crate::error::{Error, ErrorKind, Result};

/// How many records are moved at once.
const PAGE: usize = 200;

/// What becomes of a user's work that the server does not have. There is no default: the one loses work, the other keeps it on a device
/// that somebody else may use next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Logout {
    /// Everything of this user goes: queue, dead letters, records, checkpoints.
    Wipe,
    /// Records that the server does not have are kept apart, and what is queued waits in the vault: nothing is sent. They are back
    /// when an engine is built for the same user. All other rows, and the checkpoints, go.
    KeepUnsent,
}

impl SyncEngine {
    /// Logs the user out. What runs is stopped and waited for; attempts on the wire go on to their end. Then everything that
    /// the device has of this user goes, of tables that were removed too, or unsent work is kept. The engine is closed after it.
    ///
    /// A crash in the middle leaves the rest: build the engine for the same user, and log out again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`] when it was logged out before; [`ErrorKind::Timeout`] when an attempt on the wire does not end within
    /// `patience`: nothing was cleared then, and the engine stays closed; storage errors.
    pub async fn logout(&self, logout: Logout, patience: Duration) -> Result<()> {
        let engine = self.clone();
        self.at_home(async move { engine.log_out(logout, patience).await })
            .await
    }

    async fn log_out(&self, logout: Logout, patience: Duration) -> Result<()> {
        let core = &self.shared.core;
        if core.is_closed.swap(true, Ordering::AcqRel) {
            return Err(Error::new(
                ErrorKind::Closed,
                "the user is logged out already",
            ));
        }
        let _one = self.shared.changing.lock().await;
        self.syncs().shutdown().await.ok();
        let tasks = std::mem::take(
            &mut *self
                .shared
                .tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for task in tasks {
            task.abort();
            // Aborted, or at its end.
            task.await.ok();
        }
        if core.vault.active_principal().as_ref() == Some(&core.guards.user) {
            core.vault.no_principal();
        }
        let waited = tokio::time::timeout(patience, core.wait_for_wire()).await;
        waited.map_err(|_| {
            let text = "an attempt on the wire did not end in time; nothing was cleared";
            Error::new(ErrorKind::Timeout, text)
        })??;
        match logout {
            Logout::Wipe => drop(core.vault.forget(&core.guards.user).await?),
            Logout::KeepUnsent => core.hold_unsynced().await?,
        }
        for table in core.local.tables().await? {
            core.local.clear(&table).await?;
        }
        core.hub.publish(None, TableEventKind::LoggedOut);
        core.hub.close();
        Ok(())
    }
}

impl Core {
    /// Returns when nothing of this user's tables is on the wire.
    async fn wait_for_wire(&self) -> Result<()> {
        loop {
            let mut events = self.vault.events();
            if !self.is_on_wire().await? {
                return Ok(());
            }
            if events.next().await.is_none() {
                return Ok(());
            }
        }
    }

    async fn is_on_wire(&self) -> Result<bool> {
        for table in self.local.tables().await? {
            let mut after = None;
            loop {
                let page = self.local.unsynced(&table, after.as_ref(), PAGE).await?;
                let Some(last) = page.last().cloned() else {
                    break;
                };
                let changes = page
                    .records
                    .iter()
                    .filter_map(|record| record.meta.unsynced.as_ref());
                for change in changes.flat_map(|unsynced| &unsynced.changes) {
                    let action = self.action(change).await?;
                    if action.is_some_and(|action| matches!(action.state, State::InFlight { .. })) {
                        return Ok(true);
                    }
                }
                after = Some(last);
            }
        }
        Ok(false)
    }

    /// Moves unsynced records out of the tables.
    async fn hold_unsynced(&self) -> Result<()> {
        for table in self.local.tables().await? {
            loop {
                let page = self.local.unsynced(&table, None, PAGE).await?;
                for id in &page.damaged {
                    self.set_aside(&RecordKey::new(&table, id)).await?;
                }
                let mut step = LocalStep::new();
                for record in page.records {
                    step.removes.push(record.key.clone());
                    step.hold.push((self.guards.user.clone(), record));
                }
                if step.is_empty() {
                    break;
                }
                self.local.commit(step).await?;
            }
        }
        Ok(())
    }

    /// The user is back: what was on hold is in its tables again. Tables that are not open keep theirs on hold.
    pub(super) async fn take_back_held(&self) -> Result<()> {
        let user = &self.guards.user;
        let held = self.local.held(user, usize::MAX).await?;
        let mine = held
            .into_iter()
            .filter(|record| self.desk(&record.key.table).is_ok());
        for record in mine {
            let known = self.read(&record.key).await?;
            if known.meta.is_unsynced() {
                continue;
            }
            let row = record.meta.newest().and_then(|newest| newest.row.clone());
            let back = LocalRecord {
                row,
                ..record.clone()
            };
            let mut step = LocalStep::new().write(back, Touched::Row);
            step.release.push((user.clone(), record.key));
            self.local.commit(step).await?;
        }
        Ok(())
    }

    /// A record as the server had it.
    pub(super) async fn revert(&self, desk: &Desk, key: &RecordKey) -> Result<()> {
        let _turn = desk.turn(&key.id).await;
        let mut record = self.read(key).await?;
        let Some(unsynced) = record.meta.unsynced.take() else {
            return Ok(());
        };
        record.row.clone_from(&unsynced.base);
        record.meta.deleted_at = None;
        let mut step = LocalStep::new();
        match &record.row {
            Some(_) => step = step.write(record, Touched::Row),
            None => step.removes.push(key.clone()),
        }
        self.local.commit(step).await?;
        for change in &unsynced.changes {
            self.drop_from_queue(change).await?;
        }
        let (id, by) = (key.id.clone(), ChangedBy::App);
        self.hub.tell(key, TableEventKind::Changed { id, by });
        Ok(())
    }
}
