//! Pages, from the server into the app: fetch, apply, and only then the checkpoint.

use std::future::Future;

use super::event::SyncEventKind;
use super::failure::{Failure, FailureKind, StepError};
use super::feature::{BackgroundSync, InitialSync};
use super::page_loop::PageLoop;
use super::report::{Phase, Step, Tally};
use super::run::Run;
use crate::sync::{Applied, Checkpoint, Cursor, Page};

/// What both kinds of handlers have in common.
trait Source {
    type Item;

    fn fetch(
        &self,
        cursor: Option<&Cursor>,
        batch_size: usize,
    ) -> impl Future<Output = Result<Page<Self::Item>, StepError>> + Send;

    fn apply(
        &self,
        page: &Page<Self::Item>,
        checkpoint: &Checkpoint,
    ) -> impl Future<Output = Result<Applied, StepError>> + Send;
}

struct Initial<'h, H>(&'h H);

impl<H: InitialSync> Source for Initial<'_, H> {
    type Item = H::Item;

    fn fetch(
        &self,
        cursor: Option<&Cursor>,
        batch_size: usize,
    ) -> impl Future<Output = Result<Page<H::Item>, StepError>> + Send {
        self.0.fetch_page(cursor, batch_size)
    }

    fn apply(
        &self,
        page: &Page<H::Item>,
        checkpoint: &Checkpoint,
    ) -> impl Future<Output = Result<Applied, StepError>> + Send {
        self.0.save(page, checkpoint)
    }
}

struct Changes<'h, H>(&'h H);

impl<H: BackgroundSync> Source for Changes<'_, H> {
    type Item = H::Item;

    fn fetch(
        &self,
        cursor: Option<&Cursor>,
        batch_size: usize,
    ) -> impl Future<Output = Result<Page<H::Item>, StepError>> + Send {
        self.0.fetch_changes(cursor, batch_size)
    }

    fn apply(
        &self,
        page: &Page<H::Item>,
        checkpoint: &Checkpoint,
    ) -> impl Future<Output = Result<Applied, StepError>> + Send {
        self.0.apply(page, checkpoint)
    }
}

/// The first sync; nothing when it was done before.
pub(super) async fn initial<H: InitialSync>(
    run: &Run,
    handler: &H,
) -> Result<Option<Tally>, Failure> {
    let checkpoint = run.checkpoint().await?;
    if checkpoint.initial_done.is_some() {
        return Ok(None);
    }
    let pages = checkpoint.pages;
    run.publish(SyncEventKind::InitialStarted { pages });
    pages_of(run, &Initial(handler), checkpoint).await.map(Some)
}

/// The changes since the checkpoint.
pub(super) async fn changes<H: BackgroundSync>(
    run: &Run,
    handler: &H,
    checkpoint: Checkpoint,
) -> Result<Tally, Failure> {
    pages_of(run, &Changes(handler), checkpoint).await
}

async fn pages_of<S: Source>(
    run: &Run,
    source: &S,
    mut checkpoint: Checkpoint,
) -> Result<Tally, Failure> {
    let mut pages = PageLoop::from(checkpoint.cursor.as_ref());
    let mut tally = Tally::default();
    let before = match run.phase {
        Phase::Initial => checkpoint.pages,
        Phase::Background => 0,
    };
    loop {
        let number = before + tally.pages + 1;
        run.is_at(Step::Fetch, number);
        let (cursor, batch_size) = (checkpoint.cursor.as_ref(), run.settings.batch_size);
        let fetch = || source.fetch(cursor, batch_size);
        let page = run.step(Step::Fetch, fetch).await?;
        run.check_size(Step::Fetch, page.items.len())?;
        check_advance(run, &mut pages, &page)?;

        let after = behind(run, &checkpoint, &page);
        run.is_at(Step::Apply, number);
        let apply = || source.apply(&page, &after);
        let applied = run.step(Step::Apply, apply).await?;
        run.keep(&after).await?;
        checkpoint = after;

        tally.pages += 1;
        tally.items += page.items.len() as u64;
        tally.conflicts += applied.conflicts.len() as u64;
        for conflict in applied.conflicts {
            run.publish(SyncEventKind::Conflict(conflict));
        }
        run.publish(SyncEventKind::PageApplied {
            page: number,
            items: page.items.len(),
        });
        if page.next.is_none() {
            return Ok(tally);
        }
    }
}

fn check_advance<T>(run: &Run, pages: &mut PageLoop, page: &Page<T>) -> Result<(), Failure> {
    match &page.next {
        Some(next) if !pages.leads_on(next) => {
            let text = "a page leads back to a cursor that was there before; \
                        the last page must say so: `Page::last`";
            let failure = run.failure(FailureKind::NotAdvancing, text);
            Err(failure.at(Step::Fetch, 1))
        }
        _ => Ok(()),
    }
}

/// The checkpoint that stands behind a page.
fn behind<T>(run: &Run, before: &Checkpoint, page: &Page<T>) -> Checkpoint {
    let mut after = before.clone();
    match (&page.next, run.phase) {
        (Some(next), _) => after.cursor = Some(next.clone()),
        (None, Phase::Initial) => {
            // A cursor of the initial sync means nothing to the background one, unless the server says so.
            after.cursor = page.resume.clone();
            after.initial_done = Some(run.hub.now());
        }
        (None, Phase::Background) => {
            after.cursor = page.resume.clone().or(after.cursor);
            after.synced_at = Some(run.hub.now());
        }
    }
    after.pages += u64::from(run.phase == Phase::Initial);
    after
}
