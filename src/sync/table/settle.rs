//! What became of a record's changes: answers are read, conflicts decided, and what is decided is stored **and** pushed. Done twice,
//! it changes nothing more: after a crash it is simply done again.

use std::fmt;

use super::change::Pushed;
use super::conflict::{ConflictStrategy, Decision, TableConflict};
use super::core::{Core, Desk};
use super::event::{ChangedBy, TableEventKind};
use super::local::{LocalStep, Touched};
use super::merge::decide;
use super::reconcile::{
    Met, accepted, after_push, again, change_of, conflict, decided, meet, moved_on,
};
use super::record::{LocalRecord, Outgoing, OutgoingState, RecordKey, Row};
use super::remote::{RemoteError, RemoteRow};
use super::same::{has_arrived, same_row};
use crate::action::{Answer, DeadReason};
use crate::error::{Error, Result};
use crate::sync::Winner;
use crate::{End, State};

/// Why a record could not be looked after. It stays as it is, and is looked after again.
#[derive(Debug)]
pub(super) enum Trouble {
    Local(Error),
    Remote(RemoteError),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(error) => error.fmt(f),
            Self::Remote(error) => error.fmt(f),
        }
    }
}

/// What is known beside the record, when it is looked at.
#[derive(Debug, Default)]
struct Known {
    /// The server's row, asked for by this look.
    fetched: Option<RemoteRow>,
    /// What the app's own rule said of a conflict.
    decision: Option<(TableConflict, Decision)>,
}

/// What is to be done after one step, outside of the record's turn.
enum Next {
    Done,
    /// Something was done; there may be more.
    Again,
    /// The server's row is needed.
    Fetch,
    /// The app's rule is asked.
    Ask(Box<TableConflict>),
}

/// Where a change is.
enum Fate {
    Open {
        is_tried: bool,
    },
    Answered(Answer),
    Dead(DeadReason),
    /// It will not be sent.
    Gone(&'static str),
    /// The vault does not know it.
    Unknown,
}

impl Core {
    /// Looks after a record until nothing more can be done now.
    pub(super) async fn settle(&self, desk: &Desk, key: &RecordKey) -> Result<(), Trouble> {
        let mut known = Known::default();
        loop {
            let turn = desk.turn(&key.id).await;
            let next = self.settle_once(desk, key, &mut known).await?;
            drop(turn);
            match next {
                Next::Done => return Ok(()),
                Next::Again => known = Known::default(),
                Next::Fetch => known.fetched = Some(self.fetch(key).await?),
                Next::Ask(conflict) => known.decision = self.ask(desk, *conflict).await,
            }
        }
    }

    async fn fetch(&self, key: &RecordKey) -> Result<RemoteRow, Trouble> {
        let answer = self.remote.fetch(key).await;
        self.note_answer(&answer);
        let row = answer.map_err(Trouble::Remote)?;
        Ok(row.unwrap_or_else(|| RemoteRow::deleted(&key.id)))
    }

    pub(super) async fn ask(
        &self,
        desk: &Desk,
        conflict: TableConflict,
    ) -> Option<(TableConflict, Decision)> {
        let ConflictStrategy::Custom(resolver) = &desk.table.conflicts else {
            return None;
        };
        let decision = resolver.resolve(conflict.clone()).await;
        Some((conflict, decision))
    }

    async fn settle_once(
        &self,
        desk: &Desk,
        key: &RecordKey,
        known: &mut Known,
    ) -> Result<Next, Trouble> {
        let record = self.read(key).await?;
        let changes = record
            .meta
            .unsynced
            .as_ref()
            .map(|unsynced| unsynced.changes.clone());
        let changes = changes.unwrap_or_default();
        let Some(first) = changes.first() else {
            return self.check_again(desk, record, known).await;
        };
        let is_newest = changes.len() == 1;
        match self.fate(first).await? {
            Fate::Open { is_tried: false } if record.meta.recheck => {
                self.check_again(desk, record, known).await
            }
            Fate::Open { .. } => {
                self.is_open_again(&record, first).await?;
                Ok(Next::Done)
            }
            Fate::Answered(answer) => self.answered(desk, record, answer, known).await,
            // A dead letter that was discarded, or an answer that is forgotten: it waits for the next write.
            Fate::Unknown if is_newest && first.state != OutgoingState::Queued => Ok(Next::Done),
            Fate::Unknown if is_newest => {
                self.request(&record)?.enqueue().await?;
                self.tally.count_queued();
                Ok(Next::Done)
            }
            Fate::Dead(reason) if is_newest => {
                self.refuse(&record, reason.to_string(), Refusal::DeadLetter)
                    .await?;
                Ok(Next::Done)
            }
            Fate::Gone(why) if is_newest => {
                self.refuse(&record, why.to_owned(), Refusal::DeadLetter)
                    .await?;
                Ok(Next::Done)
            }
            Fate::Unknown | Fate::Dead(_) | Fate::Gone(_) => {
                self.drop_first(record).await?;
                Ok(Next::Again)
            }
        }
    }

    async fn fate(&self, change: &Outgoing) -> Result<Fate> {
        let Some(action) = self.action(change).await? else {
            return Ok(Fate::Unknown);
        };
        Ok(match action.state {
            State::Queued { .. } | State::InFlight { .. } => Fate::Open {
                is_tried: action.is_tried,
            },
            State::Dead { reason, .. } => Fate::Dead(reason),
            State::Cancelled { .. } => Fate::Gone("the app took it out of the queue"),
            State::Expired { .. } => Fate::Gone("its time was over"),
            State::Superseded { .. } => Fate::Unknown,
            _ => match action.ticket.end().await? {
                Some(End::Delivered(answer)) => Fate::Answered(answer),
                _ => Fate::Open { is_tried: true },
            },
        })
    }

    /// A change that was refused was sent back by a person.
    async fn is_open_again(&self, record: &LocalRecord, first: &Outgoing) -> Result<()> {
        if first.state == OutgoingState::Queued {
            return Ok(());
        }
        let mut record = record.clone();
        if let Some(unsynced) = &mut record.meta.unsynced {
            for change in &mut unsynced.changes {
                change.state = OutgoingState::Queued;
            }
        }
        self.commit(record, Touched::Nothing).await
    }

    /// A later change covers it.
    async fn drop_first(&self, mut record: LocalRecord) -> Result<()> {
        if let Some(unsynced) = &mut record.meta.unsynced {
            unsynced.changes.remove(0);
        }
        self.commit(record, Touched::Nothing).await
    }

    /// The server will not have the newest change. It stays, and is told once.
    async fn refuse(&self, record: &LocalRecord, reason: String, refusal: Refusal) -> Result<()> {
        let mut record = record.clone();
        let newest = record
            .meta
            .unsynced
            .as_mut()
            .and_then(|unsynced| unsynced.changes.last_mut());
        let Some(newest) = newest else {
            return Ok(());
        };
        let state = OutgoingState::Refused {
            reason: reason.clone(),
        };
        if newest.state == state {
            return Ok(());
        }
        newest.state = state;
        let key = record.key.clone();
        self.commit(record, Touched::Nothing).await?;
        let id = key.id.clone();
        let kind = match refusal {
            Refusal::DeadLetter => TableEventKind::Refused { id, reason },
            Refusal::InAnswer => TableEventKind::RemoteRejected { id, reason },
        };
        self.hub.tell(&key, kind);
        Ok(())
    }

    /// The first change of a record has its answer.
    async fn answered(
        &self,
        desk: &Desk,
        record: LocalRecord,
        answer: Answer,
        known: &mut Known,
    ) -> Result<Next, Trouble> {
        let changes = record
            .meta
            .unsynced
            .as_ref()
            .map_or(&[][..], |unsynced| &unsynced.changes);
        let [first, later @ ..] = changes else {
            return Ok(Next::Done);
        };
        match self.remote.read_push(&change_of(&record, first), &answer) {
            Pushed::Accepted {
                version,
                updated_at,
                row,
            } => {
                let server = after_push(&record, first, (version, updated_at, row));
                self.accept(desk, &record, &server).await?;
                Ok(Next::Again)
            }
            Pushed::Rejected { reason } if later.is_empty() => {
                self.refuse(&record, reason, Refusal::InAnswer).await?;
                Ok(Next::Done)
            }
            Pushed::Rejected { .. } => {
                self.drop_first(record).await?;
                Ok(Next::Again)
            }
            Pushed::Conflict { server } => match known.fetched.take().or(server) {
                Some(server) => self.collided(desk, record, server, known).await,
                None => Ok(Next::Fetch),
            },
        }
    }

    async fn accept(&self, desk: &Desk, record: &LocalRecord, server: &RemoteRow) -> Result<()> {
        let (key, now) = (record.key.clone(), self.hub.now());
        let operation = record
            .meta
            .unsynced
            .as_ref()
            .and_then(|u| u.changes.first())
            .map(|c| c.operation);
        let (mut after, touched) = accepted(record, 0, server, now);
        after.meta.seen = desk.seen();
        desk.note_settled(&key.id);
        self.tally.count_accepted();
        let is_changed = touched == Touched::Row;
        self.commit(after, touched).await?;
        self.auth_is_good();
        if let Some(operation) = operation {
            let (id, version) = (key.id.clone(), server.version.clone());
            self.hub.tell(
                &key,
                TableEventKind::Pushed {
                    id,
                    operation,
                    version,
                },
            );
        }
        if is_changed {
            self.tell_changed(&key);
        }
        Ok(())
    }

    fn tell_changed(&self, key: &RecordKey) {
        let (id, by) = (key.id.clone(), ChangedBy::Server);
        self.hub.tell(key, TableEventKind::Changed { id, by });
    }

    /// The server has another version than the first change was made on. It may be our own.
    async fn collided(
        &self,
        desk: &Desk,
        record: LocalRecord,
        server: RemoteRow,
        known: &mut Known,
    ) -> Result<Next, Trouble> {
        let fields = &desk.table.server_fields;
        let Some(unsynced) = &record.meta.unsynced else {
            return Ok(Next::Done);
        };
        let [first, later @ ..] = &unsynced.changes[..] else {
            return Ok(Next::Done);
        };
        if has_arrived(first, server.row.as_ref(), fields) {
            let is_alone = same_row(first.row.as_ref(), server.row.as_ref(), fields);
            if later.is_empty() || is_alone {
                self.accept(desk, &record, &server).await?;
                return Ok(Next::Again);
            }
            // It arrived, and somebody wrote over it since: what came later was not made on that.
            let first = after_push(&record, first, (None, None, None));
            self.accept(desk, &record, &first).await?;
            return Ok(Next::Again);
        }
        let is_own = record.meta.version.is_some() && record.meta.version == server.version;
        if is_own || same_row(unsynced.base.as_ref(), server.row.as_ref(), fields) {
            let moved = moved_on(&record, &server);
            if !later.is_empty() {
                self.drop_first(moved).await?;
                return Ok(Next::Again);
            }
            if let Some((record, touched)) = again(&moved, self.new_key()) {
                self.commit_and_queue(record, touched).await?;
                self.tally.count_queued();
            }
            return Ok(Next::Done);
        }
        let conflict = conflict(&record, unsynced, &server);
        self.resolve(desk, record, server, (conflict, known)).await
    }

    async fn resolve(
        &self,
        desk: &Desk,
        record: LocalRecord,
        server: RemoteRow,
        (conflict, known): (TableConflict, &mut Known),
    ) -> Result<Next, Trouble> {
        let Some(decision) = self.decide(desk, &conflict, known.decision.as_ref()) else {
            known.fetched = Some(server);
            return Ok(Next::Ask(Box::new(conflict)));
        };
        let resolved = self.resolved(desk, &record, &server, decision);
        match resolved.after.meta.newest() {
            Some(_) => {
                self.commit_and_queue(resolved.after.clone(), resolved.touched.clone())
                    .await?;
                self.tally.count_queued();
            }
            None => {
                self.commit(resolved.after.clone(), resolved.touched.clone())
                    .await?
            }
        }
        self.after_resolved(&record, conflict, resolved).await;
        Ok(Next::Done)
    }

    /// What the rule says; nothing = the app's own rule has not been asked about just this.
    pub(super) fn decide(
        &self,
        desk: &Desk,
        conflict: &TableConflict,
        asked: Option<&(TableConflict, Decision)>,
    ) -> Option<Decision> {
        let table = &desk.table;
        let decision = decide(
            &table.conflicts,
            table.pending_delete,
            conflict,
            &table.server_fields,
        );
        decision.or_else(|| {
            asked
                .filter(|(about, _)| about == conflict)
                .map(|(_, decision)| decision.clone())
        })
    }

    pub(super) fn resolved(
        &self,
        desk: &Desk,
        record: &LocalRecord,
        server: &RemoteRow,
        decision: Decision,
    ) -> Resolved {
        let winner = match &decision {
            Decision::Local => Winner::Local,
            Decision::Server => Winner::Server,
            Decision::Merged(_) => Winner::Merged,
        };
        let (mut after, touched) =
            decided(record, server, decision, (self.new_key(), self.hub.now()));
        after.meta.seen = desk.seen();
        Resolved {
            after,
            touched,
            winner,
        }
    }

    /// Once it is committed: what is no longer wanted leaves the queue, and the conflict is told.
    pub(super) async fn after_resolved(
        &self,
        before: &LocalRecord,
        conflict: TableConflict,
        resolved: Resolved,
    ) {
        let Resolved {
            after,
            touched,
            winner,
        } = resolved;
        let changes = before
            .meta
            .unsynced
            .iter()
            .flat_map(|unsynced| &unsynced.changes);
        for change in changes {
            if let Err(error) = self.drop_from_queue(change).await {
                tracing::warn!(record = %before.key, %error, "a change that was given up stays in the queue");
            }
        }
        let shown = |row: &Option<Row>| row.as_ref().map(|row| self.guards.shown(row));
        let kept = shown(&after.row);
        let conflict = Box::new(TableConflict {
            base: shown(&conflict.base),
            local: shown(&conflict.local),
            server: shown(&conflict.server),
            ..conflict
        });
        self.hub.tell(
            &before.key,
            TableEventKind::Conflict {
                conflict,
                winner,
                kept,
            },
        );
        if touched == Touched::Row {
            self.tell_changed(&before.key);
        }
    }

    pub(super) async fn drop_from_queue(&self, change: &Outgoing) -> Result<()> {
        if let Some(action) = self.action(change).await?
            && action.state.is_pending()
        {
            // What is on the wire already names an old version, and the server refuses it.
            let _sent = self.vault.cancel(action.ticket.id()).await?;
        }
        Ok(())
    }

    /// The server is asked about a record that a pull could not judge.
    async fn check_again(
        &self,
        desk: &Desk,
        record: LocalRecord,
        known: &mut Known,
    ) -> Result<Next, Trouble> {
        if !record.meta.recheck {
            return Ok(Next::Done);
        }
        let Some(server) = known.fetched.take() else {
            return Ok(Next::Fetch);
        };
        let mut judged = record.clone();
        judged.meta.recheck = false;
        judged.meta.seen = desk.seen();
        match meet(&judged, &server, &desk.table.server_fields, self.hub.now()) {
            Met::Known => self.commit(judged, Touched::Nothing).await?,
            Met::Taken(after, touched) => {
                let key = after.key.clone();
                let is_changed = touched == Touched::Row;
                self.commit(*after, touched).await?;
                if is_changed {
                    self.tell_changed(&key);
                }
            }
            Met::Conflict(conflict) => {
                return self.resolve(desk, judged, server, (*conflict, known)).await;
            }
        }
        Ok(Next::Again)
    }

    /// Forgets tombstones whose retention is over.
    pub(super) async fn forget_tombstones(&self, desk: &Desk) -> Result<()> {
        const LIMIT: usize = 500;
        let now = self.hub.now().as_millis();
        let retention =
            u64::try_from(desk.table.tombstone_retention.as_millis()).unwrap_or(u64::MAX);
        let before = crate::clock::Timestamp::from_millis(now.saturating_sub(retention));
        loop {
            let _all = desk.gate.write().await;
            let old = self
                .local
                .tombstones(&desk.table.name, before, LIMIT)
                .await?;
            let mut step = LocalStep::new();
            step.removes = old.records.into_iter().map(|record| record.key).collect();
            let count = step.removes.len();
            if count > 0 {
                self.local.commit(step).await?;
            }
            if count < LIMIT {
                return Ok(());
            }
        }
    }
}

/// How the server refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    DeadLetter,
    InAnswer,
}

/// A conflict that was decided.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) after: LocalRecord,
    pub(super) touched: Touched,
    pub(super) winner: Winner,
}
