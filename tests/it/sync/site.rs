//! The other side of the tests: a server in memory that fails where the test says, and the app's rows beside it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use syncvault::clock::Timestamp;
use syncvault::sync::{
    Applied, BackgroundSync, Checkpoint, Cursor, Feature, InitialSync, ItemId, LocalItem,
    MemoryCheckpoints, Page, PushResult, Resolution, ServerItem, Step, StepError, SyncEvent,
    SyncEventKind, SyncEvents, SyncOrchestrator, SyncOrchestratorBuilder, highest_version,
};
use tokio::sync::Notify;

/// What a step does instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Fails before it did anything.
    Before,
    /// Does its work, and its answer is lost.
    After,
    Permanent,
    StartOver,
    Panic,
    /// Never ends.
    Hang,
}

/// A server with the rows of one feature, and the app's copy.
#[derive(Clone, Default)]
pub(super) struct Site(Arc<Inner>);

#[derive(Default)]
struct Inner {
    data: Mutex<Data>,
    /// Told when a step hangs.
    hangs: Notify,
    /// Steps wait here when there is a gate.
    gate: Notify,
}

#[derive(Default)]
struct Data {
    server: BTreeMap<String, (u64, Option<String>)>,
    newest: u64,
    local: BTreeMap<String, LocalItem<String>>,
    /// Which step, which call of it (from 1), and what then.
    troubles: Vec<(Step, u32, Trouble)>,
    calls: BTreeMap<&'static str, u32>,
    log: Vec<String>,
    applied: Vec<String>,
    is_gated: bool,
    refused: BTreeMap<String, PushResult>,
    /// What the app writes while the server answers a push.
    written_meanwhile: Option<(String, String)>,
}

fn name(step: Step) -> &'static str {
    match step {
        Step::LocallyModified => "modified",
        Step::Push => "push",
        Step::Fetch => "fetch",
        Step::Apply => "apply",
        _ => "checkpoint",
    }
}

fn failed() -> std::io::Error {
    std::io::Error::other("as the test says")
}

impl Site {
    pub(super) fn with_rows(count: u64) -> Self {
        let site = Self::default();
        for n in 0..count {
            site.server_writes(&format!("r{n:03}"), Some("first"));
        }
        site
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.0.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn server_writes(&self, id: &str, text: Option<&str>) {
        let mut data = self.data();
        data.newest += 1;
        let row = (data.newest, text.map(str::to_owned));
        data.server.insert(id.to_owned(), row);
    }

    pub(super) fn app_writes(&self, id: &str, text: &str) {
        let mut data = self.data();
        let version = data.local.get(id).map_or(0, |item| item.version);
        let item = LocalItem::new(id, text.to_owned()).version(version);
        let item = item.modified(Timestamp::from_millis(1));
        data.local.insert(id.to_owned(), item);
    }

    pub(super) fn app_deletes(&self, id: &str) {
        let mut data = self.data();
        let item = data.local.get_mut(id).expect("a row");
        item.content = None;
        item.locally_modified = Some(Timestamp::from_millis(1));
    }

    pub(super) fn app_writes_during_push(&self, id: &str, text: &str) {
        self.data().written_meanwhile = Some((id.to_owned(), text.to_owned()));
    }

    pub(super) fn refuse(&self, result: PushResult) {
        self.data().refused.insert(result.id.to_string(), result);
    }

    /// The `nth` call of a step from now on, from 1.
    pub(super) fn trouble(&self, step: Step, nth: u32, trouble: Trouble) {
        let mut data = self.data();
        let calls = data.calls.get(name(step)).copied().unwrap_or(0);
        data.troubles.push((step, calls + nth, trouble));
    }

    pub(super) fn trouble_from(&self, step: Step, times: u32, trouble: Trouble) {
        (1..=times).for_each(|nth| self.trouble(step, nth, trouble));
    }

    pub(super) fn heal(&self) {
        self.data().troubles.clear();
    }

    /// Fetches wait until the gate is opened.
    pub(super) fn close_gate(&self) {
        self.data().is_gated = true;
    }

    pub(super) fn open_gate(&self) {
        self.data().is_gated = false;
        self.0.gate.notify_waiters();
    }

    /// Returns when a step hangs.
    pub(super) async fn hangs(&self) {
        self.0.hangs.notified().await;
    }

    pub(super) fn calls(&self, step: Step) -> u32 {
        self.data().calls.get(name(step)).copied().unwrap_or(0)
    }

    /// `push r001 r002`, `fetch 5`, `apply r003`, in their order.
    pub(super) fn log(&self) -> Vec<String> {
        self.data().log.clone()
    }

    /// The ids of all rows that were applied, again and again when pages came again.
    pub(super) fn applied(&self) -> Vec<String> {
        self.data().applied.clone()
    }

    pub(super) fn text(&self, id: &str) -> Option<String> {
        self.data().local.get(id)?.content.clone()
    }

    pub(super) fn server_text(&self, id: &str) -> Option<String> {
        self.data().server.get(id)?.1.clone()
    }

    pub(super) fn modified(&self) -> Vec<String> {
        let data = self.data();
        let modified = data.local.values().filter(|i| i.locally_modified.is_some());
        modified.map(|item| item.id.to_string()).collect()
    }

    pub(super) fn assert_in_step(&self) {
        let data = self.data();
        let there = data.server.iter().filter(|(_, row)| row.1.is_some());
        let there: Vec<_> = there.map(|(id, row)| (id.clone(), row.1.clone())).collect();
        let here = data.local.iter().filter(|(_, item)| item.content.is_some());
        let here: Vec<_> = here
            .map(|(id, i)| (id.clone(), i.content.clone()))
            .collect();
        assert_eq!(here, there);
    }

    /// Counts the call and does what the test wants. `true` = the answer is to be lost.
    async fn enter(&self, step: Step) -> Result<bool, StepError> {
        let trouble = {
            let mut data = self.data();
            let calls = data.calls.entry(name(step)).or_default();
            *calls += 1;
            let calls = *calls;
            let troubles = data.troubles.iter();
            let mut due = troubles.filter(|(at, nth, _)| *at == step && *nth == calls);
            due.next().map(|(_, _, trouble)| *trouble)
        };
        if step == Step::Fetch {
            self.pass_gate().await;
        }
        match trouble {
            None => Ok(false),
            Some(Trouble::After) => Ok(true),
            Some(Trouble::Before) => Err(failed().into()),
            Some(Trouble::Permanent) => Err(StepError::permanent(failed())),
            Some(Trouble::StartOver) => Err(StepError::start_over(failed())),
            Some(Trouble::Panic) => panic!("as the test says"),
            Some(Trouble::Hang) => {
                self.0.hangs.notify_one();
                std::future::pending().await
            }
        }
    }

    async fn pass_gate(&self) {
        loop {
            let opened = self.0.gate.notified();
            if !self.data().is_gated {
                return;
            }
            self.0.hangs.notify_one();
            opened.await;
        }
    }

    async fn fetch(
        &self,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<String>, StepError> {
        let is_lost = self.enter(Step::Fetch).await?;
        let after: u64 = cursor.map_or(Ok(0), |cursor| cursor.as_str().parse())?;
        let mut data = self.data();
        data.log.push(format!("fetch {after}"));
        let rows = data.server.iter().filter(|(_, row)| row.0 > after);
        let mut rows: Vec<_> = rows
            .map(|(id, row)| (row.0, id.clone(), row.1.clone()))
            .collect();
        rows.sort();
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let behind = rows.last().map_or(after, |row| row.0).to_string();
        let items = rows.into_iter().map(|(version, id, text)| {
            let item = match text {
                Some(text) => ServerItem::new(id, text),
                None => ServerItem::deleted(id),
            };
            item.version(version).sync_id(version)
        });
        let items = items.collect();
        match is_lost {
            true => Err(failed().into()),
            false if has_more => Ok(Page::more(items, behind)),
            false => Ok(Page::last(items).resume_at(behind)),
        }
    }

    async fn take(&self, page: &Page<String>) -> Result<Applied, StepError> {
        let is_lost = self.enter(Step::Apply).await?;
        let mut data = self.data();
        let mut applied = Applied::cleanly();
        let ids: Vec<&str> = page.items.iter().map(|item| item.id.as_str()).collect();
        data.log.push(format!("apply {}", ids.join(" ")));
        for item in &page.items {
            data.applied.push(item.id.to_string());
            match data
                .local
                .get(item.id.as_str())
                .map(|ours| highest_version(ours, item))
            {
                Some(Resolution::KeepLocal) => continue,
                Some(Resolution::Conflict(conflict)) => applied = applied.conflict(conflict),
                _ => {}
            }
            let mut ours = LocalItem::deleted(&item.id).version(item.version);
            ours.content = item.content.clone();
            data.local.insert(item.id.to_string(), ours);
        }
        match is_lost {
            true => Err(failed().into()),
            false => Ok(applied),
        }
    }
}

impl Data {
    fn take(&mut self, item: &LocalItem<String>) -> PushResult {
        if let Some(refused) = self.refused.get(item.id.as_str()) {
            return refused.clone();
        }
        let known = self.server.get(item.id.as_str()).map_or(0, |row| row.0);
        if item.version < known {
            return PushResult::conflict(&item.id, "there is a newer version");
        }
        self.newest += 1;
        let version = self.newest;
        self.server
            .insert(item.id.to_string(), (version, item.content.clone()));
        if let Some(ours) = self.local.get_mut(item.id.as_str()) {
            ours.version = version;
            if ours.content == item.content {
                ours.locally_modified = None;
            }
        }
        PushResult::success(&item.id)
    }
}

impl InitialSync for Site {
    type Item = String;

    async fn fetch_page(
        &self,
        cursor: Option<&Cursor>,
        batch_size: usize,
    ) -> Result<Page<String>, StepError> {
        self.fetch(cursor, batch_size).await
    }

    async fn save(&self, page: &Page<String>, _: &Checkpoint) -> Result<Applied, StepError> {
        self.take(page).await
    }
}

impl BackgroundSync for Site {
    type Item = String;

    async fn locally_modified(
        &self,
        after: Option<&ItemId>,
        batch_size: usize,
    ) -> Result<Vec<LocalItem<String>>, StepError> {
        let is_lost = self.enter(Step::LocallyModified).await?;
        let after = after.map_or("", ItemId::as_str);
        let data = self.data();
        let items = data
            .local
            .values()
            .filter(|i| i.locally_modified.is_some() && i.id.as_str() > after);
        match is_lost {
            true => Err(failed().into()),
            false => Ok(items.take(batch_size).cloned().collect()),
        }
    }

    async fn push(&self, items: &[LocalItem<String>]) -> Result<Vec<PushResult>, StepError> {
        let is_lost = self.enter(Step::Push).await?;
        let meanwhile = self.data().written_meanwhile.take();
        if let Some((id, text)) = meanwhile {
            self.app_writes(&id, &text);
        }
        let mut data = self.data();
        let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
        data.log.push(format!("push {}", ids.join(" ")));
        let results = items.iter().map(|item| data.take(item)).collect();
        match is_lost {
            true => Err(failed().into()),
            false => Ok(results),
        }
    }

    async fn fetch_changes(
        &self,
        cursor: Option<&Cursor>,
        batch_size: usize,
    ) -> Result<Page<String>, StepError> {
        self.fetch(cursor, batch_size).await
    }

    async fn apply(&self, page: &Page<String>, _: &Checkpoint) -> Result<Applied, StepError> {
        self.take(page).await
    }
}

/// Ann's, with checkpoints in memory and pages of five.
pub(super) fn builder() -> SyncOrchestratorBuilder {
    SyncOrchestrator::builder()
        .user("ann")
        .checkpoints(MemoryCheckpoints::new())
        .batch_size(5)
}

/// One feature, `rows`, of one site.
pub(super) fn rows(site: &Site) -> SyncOrchestratorBuilder {
    builder().feature(Feature::new("rows", site.clone()))
}

/// Reads events up to the first one that is wanted. An hour of paused time is enough for each.
pub(super) async fn until(
    events: &mut SyncEvents,
    is_wanted: impl Fn(&SyncEventKind) -> bool,
) -> SyncEvent {
    let wanted = async {
        loop {
            let event = events.next().await.expect("an event");
            if is_wanted(&event.kind) {
                return event;
            }
        }
    };
    let hour = Duration::from_secs(3600);
    tokio::time::timeout(hour, wanted).await.expect("in time")
}

/// Everything that is to be read now.
pub(super) fn told(events: &mut SyncEvents) -> Vec<SyncEvent> {
    use futures_util::{FutureExt, StreamExt};
    std::iter::from_fn(|| StreamExt::next(events).now_or_never().flatten()).collect()
}
