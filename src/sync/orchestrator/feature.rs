//! What the app writes: handlers, and the features made of them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::failure::{Failure, StepError};
use super::report::Tally;
use super::run::Run;
use super::{pull, push};
use crate::sync::{Applied, Checkpoint, Cursor, FeatureKey, ItemId, LocalItem, Page, PushResult};

/// The first sync of a feature: everything, page by page.
///
/// It is done once for each user. When it is cut off, the next run goes on with the page that was not saved yet.
/// `async fn` does for each method. A step that fails is tried again, as often as the orchestrator allows, unless its
/// [`StepError`] says otherwise.
pub trait InitialSync: Send + Sync + 'static {
    /// The content of an item.
    type Item: Send + Sync + 'static;

    /// Fetches the page that starts at the cursor, the first one without. It is cut off by a cancel.
    fn fetch_page(
        &self,
        cursor: Option<&Cursor>,
        batch_size: usize,
    ) -> impl Future<Output = Result<Page<Self::Item>, StepError>> + Send;

    /// Saves a page. It may come twice, after a crash or a failure: let that change nothing, or save the checkpoint in the same
    /// transaction (`SqliteCheckpoints::save_in`). Otherwise it is saved afterwards.
    ///
    /// A cancel waits for the end of it.
    fn save(
        &self,
        page: &Page<Self::Item>,
        checkpoint: &Checkpoint,
    ) -> impl Future<Output = Result<Applied, StepError>> + Send;
}

/// The syncs after the first one: what the app changed goes to the server, then the server's changes come in.
pub trait BackgroundSync: Send + Sync + 'static {
    /// The content of an item.
    type Item: Send + Sync + 'static;

    /// What the app changed and the server does not know, in an order of the app's own, from behind the item `after` (from the
    /// start without one), at most `batch_size` items. The push goes on until there are none, and asks for no item twice.
    ///
    /// By id, this is `WHERE modified AND id > ?after ORDER BY id LIMIT ?batch_size`.
    fn locally_modified(
        &self,
        after: Option<&ItemId>,
        batch_size: usize,
    ) -> impl Future<Output = Result<Vec<LocalItem<Self::Item>>, StepError>> + Send;

    /// Sends items, and remembers which ones the server took: those are no longer modified, unless the app changed them again
    /// meanwhile. Tells what became of each. It may be cut off, and come again: send it so that twice is once.
    fn push(
        &self,
        items: &[LocalItem<Self::Item>],
    ) -> impl Future<Output = Result<Vec<PushResult>, StepError>> + Send;

    /// Fetches the server's changes that start at the cursor. The first one is where the initial sync ended:
    /// [`Page::resume_at`] of its last page.
    fn fetch_changes(
        &self,
        cursor: Option<&Cursor>,
        batch_size: usize,
    ) -> impl Future<Output = Result<Page<Self::Item>, StepError>> + Send;

    /// Applies a page of changes, deletions among them, as [`InitialSync::save`] does. An item that the app changed since the
    /// push is not overwritten silently: ask [`highest_version`](crate::sync::highest_version), and hand conflicts back.
    fn apply(
        &self,
        page: &Page<Self::Item>,
        checkpoint: &Checkpoint,
    ) -> impl Future<Output = Result<Applied, StepError>> + Send;
}

impl<H: InitialSync> InitialSync for Arc<H> {
    type Item = H::Item;

    async fn fetch_page(
        &self,
        cursor: Option<&Cursor>,
        batch_size: usize,
    ) -> Result<Page<H::Item>, StepError> {
        H::fetch_page(self, cursor, batch_size).await
    }

    async fn save(
        &self,
        page: &Page<H::Item>,
        checkpoint: &Checkpoint,
    ) -> Result<Applied, StepError> {
        H::save(self, page, checkpoint).await
    }
}

impl<H: BackgroundSync> BackgroundSync for Arc<H> {
    type Item = H::Item;

    async fn locally_modified(
        &self,
        after: Option<&ItemId>,
        batch_size: usize,
    ) -> Result<Vec<LocalItem<H::Item>>, StepError> {
        H::locally_modified(self, after, batch_size).await
    }

    async fn push(&self, items: &[LocalItem<H::Item>]) -> Result<Vec<PushResult>, StepError> {
        H::push(self, items).await
    }

    async fn fetch_changes(
        &self,
        cursor: Option<&Cursor>,
        batch_size: usize,
    ) -> Result<Page<H::Item>, StepError> {
        H::fetch_changes(self, cursor, batch_size).await
    }

    async fn apply(
        &self,
        page: &Page<H::Item>,
        checkpoint: &Checkpoint,
    ) -> Result<Applied, StepError> {
        H::apply(self, page, checkpoint).await
    }
}

/// A feature: its name, its handler, and how it stands to others. One handler can do both syncs, in an [`Arc`].
pub struct Feature<H> {
    pub(super) key: FeatureKey,
    pub(super) handler: H,
    pub(super) priority: i32,
    pub(super) depends_on: Vec<FeatureKey>,
}

impl<H> Feature<H> {
    /// A feature with priority 0 that waits for nobody.
    #[must_use]
    pub fn new(key: impl Into<FeatureKey>, handler: H) -> Self {
        Self {
            key: key.into(),
            handler,
            priority: 0,
            depends_on: Vec::new(),
        }
    }

    /// Of the features that can start, the one with the higher priority does. Among equals, the one that was added first.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// It starts when these are in step, and not before: the same sync of theirs, or their initial one where they have no other.
    #[must_use]
    pub fn depends_on<K: Into<FeatureKey>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.depends_on.extend(keys.into_iter().map(Into::into));
        self
    }
}

impl<H> fmt::Debug for Feature<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feature")
            .field("key", &self.key)
            .field("priority", &self.priority)
            .field("depends_on", &self.depends_on)
            .finish_non_exhaustive()
    }
}

pub(super) type RunFuture = Pin<Box<dyn Future<Output = Result<Option<Tally>, Failure>> + Send>>;

/// A handler whose type is forgotten: one sync of one feature. Nothing = there was nothing to do.
pub(super) type Runner = Arc<dyn Fn(Run) -> RunFuture + Send + Sync>;

pub(super) fn initial_runner(handler: impl InitialSync) -> Runner {
    let handler = Arc::new(handler);
    Arc::new(move |run| {
        let handler = handler.clone();
        Box::pin(async move { pull::initial(&run, &*handler).await })
    })
}

pub(super) fn background_runner(handler: impl BackgroundSync) -> Runner {
    let handler = Arc::new(handler);
    Arc::new(move |run| {
        let handler = handler.clone();
        Box::pin(async move {
            let Some(checkpoint) = run.begin_background().await? else {
                return Ok(None);
            };
            let pushed = push::push(&run, &*handler).await?;
            let pulled = pull::changes(&run, &*handler, checkpoint).await?;
            Ok(Some(Tally {
                conflicts: pushed.conflicts + pulled.conflicts,
                pages: pulled.pages,
                items: pulled.items,
                ..pushed
            }))
        })
    })
}
