//! A table as a feature of the orchestrator: its initial sync lists everything, its background sync drains the queue and then pulls
//! what changed. A page, its conflicts and its checkpoint are one commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::conflict::{Decision, TableConflict};
use super::core::{Core, Desk};
use super::event::{ChangedBy, TableEventKind};
use super::local::{LocalStep, Quarantined, RecordWrite, Touched};
use super::reconcile::{Met, meet};
use super::record::{LocalRecord, RecordKey};
use super::remote::{DamagedRow, PullRequest, RemoteErrorKind, RemoteRow};
use super::settle::Resolved;
use super::version::Version;
use crate::error::Result;
use crate::parts::Connection;
use crate::sync::orchestrator::{BackgroundSync, InitialSync, StepError};
use crate::sync::{
    Applied, Checkpoint, Conflict, Cursor, ItemId, LocalItem, Page, PushResult, ServerItem,
};

/// The cursor of a server that has no feed of changes: the next pull lists everything again.
const LIST_AGAIN: &str = "\u{1}list again";

/// What a pull brings.
#[derive(Debug)]
pub(super) enum Pulled {
    Row(RemoteRow),
    Damaged(DamagedRow),
}

/// The handler of one table.
#[derive(Debug)]
pub(super) struct TableHandler {
    pub(super) core: Arc<Core>,
    pub(super) desk: Arc<Desk>,
}

impl InitialSync for TableHandler {
    type Item = Pulled;

    async fn fetch_page(
        &self,
        cursor: Option<&Cursor>,
        batch_size: usize,
    ) -> Result<Page<Pulled>, StepError> {
        self.fetch(cursor, batch_size, true).await
    }

    async fn save(
        &self,
        page: &Page<Pulled>,
        checkpoint: &Checkpoint,
    ) -> Result<Applied, StepError> {
        self.keep(page, checkpoint).await
    }
}

impl BackgroundSync for TableHandler {
    type Item = Pulled;

    async fn locally_modified(
        &self,
        after: Option<&ItemId>,
        batch_size: usize,
    ) -> Result<Vec<LocalItem<Pulled>>, StepError> {
        let page = self
            .core
            .local
            .unsynced(self.name(), after, batch_size)
            .await?;
        let ids = page.records.into_iter().map(|record| record.key.id);
        Ok(ids.map(LocalItem::deleted).collect())
    }

    async fn push(&self, items: &[LocalItem<Pulled>]) -> Result<Vec<PushResult>, StepError> {
        // Being offline is free: what cannot be sent waits for the vault's own probe.
        if self.core.vault.connection() == Connection::Online {
            self.core.drain_vault().await?;
        }
        let mut results = Vec::with_capacity(items.len());
        for item in items {
            let key = RecordKey::new(self.name(), &item.id);
            let looked = self.core.settle(&self.desk, &key).await;
            let record = self.core.read(&key).await?;
            results.push(match (looked, record.meta.is_unsynced()) {
                (Ok(_), false) => PushResult::success(&item.id),
                (Ok(_), true) => {
                    PushResult::failed(&item.id, "it is still in the queue, or was refused")
                }
                (Err(error), _) => PushResult::failed(&item.id, error.to_string()),
            });
        }
        Ok(results)
    }

    async fn fetch_changes(
        &self,
        cursor: Option<&Cursor>,
        batch_size: usize,
    ) -> Result<Page<Pulled>, StepError> {
        let cursor = cursor.filter(|cursor| cursor.as_str() != LIST_AGAIN);
        self.fetch(cursor, batch_size, false).await
    }

    async fn apply(
        &self,
        page: &Page<Pulled>,
        checkpoint: &Checkpoint,
    ) -> Result<Applied, StepError> {
        self.keep(page, checkpoint).await
    }
}

impl TableHandler {
    fn name(&self) -> &str {
        &self.desk.table.name
    }

    async fn fetch(
        &self,
        cursor: Option<&Cursor>,
        limit: usize,
        is_initial: bool,
    ) -> Result<Page<Pulled>, StepError> {
        self.core.check_open()?;
        if cursor.is_none() {
            self.begin_listing().await?;
        }
        let is_full = is_initial || self.core.local.state(self.name()).await?.is_listing;
        self.desk.forget_settled();
        let request = PullRequest {
            table: self.name(),
            cursor,
            limit,
            is_full,
        };
        let answer = self.core.remote.pull(request).await;
        self.core.note_answer(&answer);
        let page = match answer {
            Ok(page) => page,
            Err(error) => {
                let kind = error.kind;
                if kind == RemoteErrorKind::CursorGone {
                    self.core
                        .hub
                        .publish(Some(self.name()), TableEventKind::FullResync);
                }
                return Err(match kind {
                    RemoteErrorKind::Retry { after } => {
                        StepError::retry_after(error, after.unwrap_or_default())
                    }
                    RemoteErrorKind::CursorGone => StepError::start_over(error),
                    _ => StepError::permanent(error),
                });
            }
        };
        let rows = page
            .rows
            .into_iter()
            .map(|row| ServerItem::new(row.id.clone(), Pulled::Row(row)));
        let damaged = page.damaged.into_iter().map(|row| {
            let id = row.id.clone().unwrap_or_else(|| ItemId::new(""));
            ServerItem::new(id, Pulled::Damaged(row))
        });
        let items = rows.chain(damaged).collect();
        Ok(match page.next {
            Some(next) => Page::more(items, next),
            None => {
                Page::last(items).resume_at(page.resume.unwrap_or_else(|| Cursor::new(LIST_AGAIN)))
            }
        })
    }

    /// Everything is listed from here on: what is not in it by its end, the server does not have.
    async fn begin_listing(&self) -> Result<()> {
        let mut state = self.core.local.state(self.name()).await?;
        state.generation = self.desk.seen().max(state.generation) + 1;
        state.is_listing = true;
        state.user = Some(self.core.guards.user.clone());
        let mut step = LocalStep::new();
        step.state = Some((self.name().to_owned(), state.clone()));
        self.core.local.commit(step).await?;
        self.desk
            .generation
            .store(state.generation, Ordering::Release);
        Ok(())
    }

    /// Applies a page, and at the end of a listing what follows from it.
    async fn keep(
        &self,
        page: &Page<Pulled>,
        checkpoint: &Checkpoint,
    ) -> Result<Applied, StepError> {
        let state = self.core.local.state(self.name()).await?;
        let mut applied = Applied::cleanly();
        let is_end = page.next.is_none();
        let rows = self.rows_of(page).await?;
        // The checkpoint may not be there before the end of the listing is dealt with.
        let with_page = (!is_end || !state.is_listing).then(|| checkpoint.clone());
        let more = self.apply_rows(&rows, with_page).await?;
        applied.conflicts.extend(more);
        if is_end && state.is_listing {
            applied
                .conflicts
                .extend(self.end_listing(checkpoint).await?);
        }
        if is_end {
            self.core.forget_tombstones(&self.desk).await?;
        }
        Ok(applied)
    }

    /// The rows that may be applied. What is damaged is set aside, what is somebody else's left out.
    async fn rows_of<'p>(&self, page: &'p Page<Pulled>) -> Result<Vec<&'p RemoteRow>> {
        let (mut rows, mut step, now) = (Vec::new(), LocalStep::new(), self.core.hub.now());
        for item in &page.items {
            match &item.content {
                Some(Pulled::Row(row)) => match row
                    .row
                    .as_ref()
                    .and_then(|r| self.core.guards.foreign_owner(r))
                {
                    None => rows.push(row),
                    Some(owner) => {
                        let id = row.id.clone();
                        self.tell(TableEventKind::Skipped { id, owner });
                    }
                },
                Some(Pulled::Damaged(row)) => {
                    let mut set_aside = Quarantined::new(self.name(), row.id.clone(), now);
                    set_aside.reason.clone_from(&row.reason);
                    set_aside.text.clone_from(&row.text);
                    step.quarantine.push(set_aside);
                }
                None => {}
            }
        }
        let told: Vec<_> = step
            .quarantine
            .iter()
            .map(|q| (q.id.clone(), q.reason.clone()))
            .collect();
        if !step.is_empty() {
            self.core.local.commit(step).await?;
        }
        for (id, reason) in told {
            self.tell(TableEventKind::Quarantined { id, reason });
        }
        Ok(rows)
    }

    fn tell(&self, kind: TableEventKind) {
        self.core.hub.publish(Some(self.name()), kind);
    }

    /// One commit: rows, what is decided of conflicts, the checkpoint. Then what was decided is queued and told.
    async fn apply_rows(
        &self,
        rows: &[&RemoteRow],
        checkpoint: Option<Checkpoint>,
    ) -> Result<Vec<Conflict>> {
        let mut asked: Vec<(TableConflict, Decision)> = Vec::new();
        loop {
            let all = self.desk.gate.write().await;
            let draft = self.draft(rows, &asked).await?;
            if draft.open.is_empty() {
                let mut step = LocalStep::new();
                step.writes = draft.writes;
                step.checkpoint = checkpoint;
                if !step.is_empty() {
                    self.core.local.commit(step).await?;
                }
                let told = self
                    .publish(draft.changed, draft.resolved, draft.rechecks)
                    .await;
                drop(all);
                return Ok(told);
            }
            drop(all);
            asked.clear();
            for conflict in draft.open {
                asked.extend(self.core.ask(&self.desk, conflict).await);
            }
        }
    }

    /// Nothing is changed yet: another rule may have to be asked first.
    async fn draft(
        &self,
        rows: &[&RemoteRow],
        asked: &[(TableConflict, Decision)],
    ) -> Result<Draft> {
        let mut newest: std::collections::BTreeMap<&ItemId, &RemoteRow> =
            std::collections::BTreeMap::new();
        for row in rows {
            // A page may name a record twice: the later one is the newer one.
            newest.insert(&row.id, row);
        }
        let ids: Vec<ItemId> = newest.keys().map(|id| (*id).clone()).collect();
        let known = self.core.local.read(self.name(), &ids).await?;
        for id in &known.damaged {
            self.core
                .set_aside(&RecordKey::new(self.name(), id))
                .await?;
        }
        let mut records: std::collections::BTreeMap<ItemId, LocalRecord> = known
            .records
            .into_iter()
            .map(|record| (record.key.id.clone(), record))
            .collect();
        let mut draft = Draft::default();
        for (id, server) in newest {
            let record = records.remove(id);
            let record =
                record.unwrap_or_else(|| LocalRecord::unknown(RecordKey::new(self.name(), id)));
            self.draft_one(record, server, asked, &mut draft).await?;
        }
        Ok(draft)
    }

    async fn draft_one(
        &self,
        record: LocalRecord,
        server: &RemoteRow,
        asked: &[(TableConflict, Decision)],
        draft: &mut Draft,
    ) -> Result<()> {
        let seen = self.desk.seen();
        let met = meet(
            &record,
            server,
            &self.desk.table.server_fields,
            self.core.hub.now(),
        );
        if met != Met::Known && self.is_in_doubt(&record, server).await? {
            let mut record = record;
            record.meta.recheck = true;
            record.meta.seen = seen;
            draft.rechecks = true;
            draft.write(record, Touched::Nothing);
            return Ok(());
        }
        match met {
            Met::Known if record.meta.seen == seen => {}
            Met::Known => {
                let mut record = record;
                record.meta.seen = seen;
                draft.write(record, Touched::Nothing);
            }
            Met::Taken(mut after, touched) => {
                after.meta.seen = seen;
                if touched == Touched::Row {
                    draft.changed.push(after.key.id.clone());
                }
                draft.write(*after, touched);
            }
            Met::Conflict(conflict) => {
                let of_this = asked.iter().find(|(about, _)| *about == *conflict);
                let Some(decision) = self.core.decide(&self.desk, &conflict, of_this) else {
                    draft.open.push(*conflict);
                    return Ok(());
                };
                let resolved = self.core.resolved(&self.desk, &record, server, decision);
                draft.write(resolved.after.clone(), resolved.touched.clone());
                draft.resolved.push((record, *conflict, resolved));
            }
        }
        Ok(())
    }

    /// True when a change of this record is on the wire, or was settled while the page was on its way: then nobody can say which
    /// is newer, unless versions do.
    async fn is_in_doubt(&self, record: &LocalRecord, server: &RemoteRow) -> Result<bool> {
        let versions = record.meta.version.as_ref().zip(server.version.as_ref());
        let has_order = versions.is_some_and(|(ours, theirs)| theirs.compare(ours).is_some());
        if self.desk.was_settled(&record.key.id) && !has_order {
            return Ok(true);
        }
        for change in record
            .meta
            .unsynced
            .iter()
            .flat_map(|unsynced| &unsynced.changes)
        {
            let action = self.core.action(change).await?;
            if action.is_some_and(|action| action.is_tried && !action.state.is_dead()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn publish(
        &self,
        changed: Vec<ItemId>,
        resolved: Vec<(LocalRecord, TableConflict, Resolved)>,
        has_rechecks: bool,
    ) -> Vec<Conflict> {
        for id in changed {
            let by = ChangedBy::Server;
            self.tell(TableEventKind::Changed { id, by });
        }
        let mut told = Vec::new();
        for (before, conflict, resolved) in resolved {
            told.push(Conflict {
                id: conflict.key.id.clone(),
                local_version: number(conflict.local_version.as_ref()),
                server_version: number(conflict.server_version.as_ref()),
                winner: resolved.winner,
            });
            if resolved.after.meta.newest().is_some()
                && let Err(error) = self.queue(&resolved.after).await
            {
                tracing::warn!(record = %before.key, %error, "what was decided is queued with the next look at the record");
                self.core.sweep.notify_one();
            }
            self.core.after_resolved(&before, conflict, resolved).await;
        }
        if has_rechecks {
            self.core.sweep.notify_one();
        }
        told
    }

    async fn queue(&self, record: &LocalRecord) -> Result<()> {
        self.core.request(record)?.enqueue().await
    }

    /// The listing is over: what it did not bring, the server does not have.
    async fn end_listing(&self, checkpoint: &Checkpoint) -> Result<Vec<Conflict>> {
        const LIMIT: usize = 200;
        let (mut after, mut told) = (None, Vec::new());
        let generation = self.desk.seen();
        loop {
            let page = self
                .core
                .local
                .unseen(self.name(), generation, after.as_ref(), LIMIT)
                .await?;
            let Some(last) = page.last().cloned() else {
                break;
            };
            let has_server =
                |record: &&LocalRecord| record.meta.seen > 0 || record.meta.version.is_some();
            let gone = page.records.iter().filter(has_server);
            let gone: Vec<RemoteRow> = gone
                .map(|record| RemoteRow::deleted(&record.key.id))
                .collect();
            let rows: Vec<&RemoteRow> = gone.iter().collect();
            told.extend(self.apply_rows(&rows, None).await?);
            after = Some(last);
        }
        let mut state = self.core.local.state(self.name()).await?;
        state.is_listing = false;
        let mut step = LocalStep::new();
        step.state = Some((self.name().to_owned(), state));
        step.checkpoint = Some(checkpoint.clone());
        self.core.local.commit(step).await?;
        Ok(told)
    }
}

/// Versions of the orchestrator are numbers; zero = the server has none.
fn number(version: Option<&Version>) -> u64 {
    match version {
        Some(Version::Number(number)) => *number,
        _ => 0,
    }
}

/// A page before it is committed.
#[derive(Default)]
struct Draft {
    writes: Vec<RecordWrite>,
    changed: Vec<ItemId>,
    resolved: Vec<(LocalRecord, TableConflict, Resolved)>,
    /// The app's own rule is to be asked about these.
    open: Vec<TableConflict>,
    rechecks: bool,
}

impl Draft {
    fn write(&mut self, record: LocalRecord, touched: Touched) {
        self.writes.push(RecordWrite { record, touched });
    }
}
