//! What the app changed, to the server, in batches. What the server does not take stays modified, and stands in nobody's way.

use std::collections::HashMap;

use super::event::SyncEventKind;
use super::failure::{Failure, FailureKind};
use super::feature::BackgroundSync;
use super::page_loop::PageLoop;
use super::report::{Step, Tally};
use super::run::Run;
use crate::sync::{Cursor, ItemId, LocalItem, PushResult, PushStatus};

pub(super) async fn push<H: BackgroundSync>(run: &Run, handler: &H) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    let mut after: Option<ItemId> = None;
    let mut places = PageLoop::from(None);
    loop {
        run.is_at(Step::LocallyModified, 0);
        let batch_size = run.settings.batch_size;
        let modified = || handler.locally_modified(after.as_ref(), batch_size);
        let batch = run.step(Step::LocallyModified, modified).await?;
        run.check_size(Step::LocallyModified, batch.len())?;
        let Some(last) = batch.last().map(|item| item.id.clone()) else {
            return Ok(tally);
        };
        if !places.leads_on(&Cursor::new(last.as_str())) {
            let text =
                format!("`locally_modified` gave {last} again; it must go on behind `after`");
            let failure = run.failure(FailureKind::NotAdvancing, text);
            return Err(failure.at(Step::LocallyModified, 1));
        }
        run.is_at(Step::Push, 0);
        let results = run.step(Step::Push, || handler.push(&batch)).await?;
        tell(run, &batch, results, &mut tally);
        after = Some(last);
    }
}

fn tell<T>(run: &Run, batch: &[LocalItem<T>], results: Vec<PushResult>, tally: &mut Tally) {
    let told = results.into_iter().map(|result| (result.id, result.status));
    let mut told: HashMap<ItemId, PushStatus> = told.collect();
    let mut refused = 0;
    for LocalItem { id: item, .. } in batch {
        let item = item.clone();
        let silence = || PushStatus::Failed {
            reason: "the handler told no result".to_owned(),
        };
        match told.remove(&item).unwrap_or_else(silence) {
            PushStatus::Success => tally.pushed += 1,
            PushStatus::Conflict { reason } => {
                (tally.conflicts, refused) = (tally.conflicts + 1, refused + 1);
                run.publish(SyncEventKind::PushConflict { item, reason });
            }
            PushStatus::Failed { reason } => {
                (tally.push_failures, refused) = (tally.push_failures + 1, refused + 1);
                run.publish(SyncEventKind::PushFailed { item, reason });
            }
        }
    }
    for item in told.keys() {
        tracing::warn!(feature = %run.key.feature, %item, "a handler told the push of an item that it was not given");
    }
    run.publish(SyncEventKind::Pushed {
        taken: batch.len() - refused,
        refused,
    });
}
