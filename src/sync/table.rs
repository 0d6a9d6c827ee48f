//! Layer 2: the table engine. Records as JSON objects, kept in a [`LocalStore`], in step with a [`RemoteStore`]; what the app
//! writes goes out through the vault's queue, in one lane for each record.
//!
//! Two traits are to be implemented: [`LocalStore`], where records rest, and [`RemoteStore`], the dialect of a server. Neither
//! decides anything: conflicts, repair and order are the engine's.

mod builder;
mod change;
mod clerk;
mod collection;
mod conflict;
mod core;
mod engine;
mod event;
mod guard;
mod handler;
mod local;
mod logout;
mod memory;
mod merge;
mod options;
mod reconcile;
mod record;
mod remote;
mod same;
mod settle;
#[cfg(feature = "sqlite")]
mod sqlite;
mod thread;
mod version;
mod write;

// The dialects.
mod instant;
mod postgrest;
mod rest;
mod wire;

pub use builder::SyncEngineBuilder;
pub use change::{Change, Operation, PushRequest, Pushed};
pub use collection::Collection;
pub use conflict::{ConflictStrategy, Decision, PendingDelete, Resolver, TableConflict};
pub use engine::{Drained, SyncEngine};
pub use event::{ChangedBy, TableEvent, TableEventKind, TableEvents};
#[cfg(feature = "sqlite")]
pub use local::QueuedInTransaction;
pub use local::{
    LocalFuture, LocalStep, LocalStore, Quarantined, QueueRequest, RecordPage, RecordWrite,
    TableSpec, TableState, Touched,
};
pub use logout::Logout;
pub use memory::MemoryLocal;
pub use options::Table;
pub use record::{LocalRecord, Outgoing, OutgoingState, RecordKey, RecordMeta, Row, Unsynced};
pub use remote::{
    DamagedRow, PullRequest, RemoteError, RemoteErrorKind, RemoteFuture, RemotePage, RemoteRow,
    RemoteStore,
};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteLocal, SqliteTable};
pub use version::Version;

pub use postgrest::{Deletions, PostgrestRemote, PostgrestTable};
pub use rest::{BatchChange, BatchResult, RestRemote};
