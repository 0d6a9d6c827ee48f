//! The sync engine: local data and a server in step, on the public face of the vault.
//!
//! Two layers, one on the other.
//!
//! 1. **The orchestrator**, [`SyncOrchestrator`]: it runs *features* ("contacts", "messages") through handlers that the app
//!    writes, [`InitialSync`] and [`BackgroundSync`]. It owns order, retries, checkpoints, cancelling, status and events;
//!    the handlers own the data and the requests.
//! 2. **The table engine**, [`SyncEngine`]: handlers that are ready to use. A table is a feature of the same name; its initial
//!    sync lists pages from a [`RemoteStore`] into a [`LocalStore`], its background sync drains the vault's queue (one lane
//!    for each record) in the place of a push, and then pulls.
//!
//! What both share stands in this module: names ([`FeatureKey`], [`ItemId`]), the opaque [`Cursor`], items with versions and
//! tombstones ([`LocalItem`], [`ServerItem`]), the [`Page`], and the [`Checkpoint`] with the stores that keep it.
//! [`SqliteCheckpoints::save_in`](crate::sync::SqliteCheckpoints) is what a table's rows and its cursor share a transaction by.
//!
//! # The five rules
//!
//! - **A checkpoint is saved after its page was applied, never before.** A crash anywhere goes on with the page that was not
//!   applied yet. So a page may be applied twice: apply it so that this changes nothing, or save the checkpoint in the same
//!   transaction.
//! - **Push before pull.** What the app changed reaches the server before the server's changes come in.
//! - **What failed holds what depends on it**, visibly: [`Blocked`](End::Blocked) names by whom.
//! - **One run of a feature at a time.** A second call joins it.
//! - **A page that does not advance is an error**, not a loop.

mod checkpoint;
mod item;
mod name;
mod orchestrator;
mod table;

#[cfg(feature = "sqlite")]
pub use checkpoint::SqliteCheckpoints;
pub use checkpoint::{
    Checkpoint, CheckpointFuture, CheckpointKey, CheckpointStore, MemoryCheckpoints,
    VaultCheckpoints,
};
pub use item::{
    Applied, Conflict, LocalItem, Page, PushResult, PushStatus, Resolution, ServerItem, Winner,
    highest_version,
};
pub use name::{Cursor, FeatureKey, ItemId};
pub use orchestrator::{
    BackgroundState, BackgroundSync, End, Failure, FailureKind, Feature, FeatureReport,
    FeatureStatus, FeatureStatuses, InitialState, InitialSync, Phase, Step, StepError, SyncEvent,
    SyncEventKind, SyncEvents, SyncOrchestrator, SyncOrchestratorBuilder, SyncReport, Tally,
};
pub use table::{BatchChange, BatchResult, Deletions, PostgrestRemote, PostgrestTable, RestRemote};
pub use table::{
    Change, ChangedBy, Collection, ConflictStrategy, DamagedRow, Decision, Drained, LocalFuture,
    LocalRecord, LocalStep, LocalStore, Logout, MemoryLocal, Operation, Outgoing, OutgoingState,
    PendingDelete, PullRequest, PushRequest, Pushed, Quarantined, QueueRequest, RecordKey,
    RecordMeta, RecordPage, RecordWrite, RemoteError, RemoteErrorKind, RemoteFuture, RemotePage,
    RemoteRow, RemoteStore, Resolver, Row, SyncEngine, SyncEngineBuilder, Table, TableConflict,
    TableEvent, TableEventKind, TableEvents, TableSpec, TableState, Touched, Unsynced, Version,
};
#[cfg(feature = "sqlite")]
pub use table::{QueuedInTransaction, SqliteLocal, SqliteTable};
