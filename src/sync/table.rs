//! Layer 2: the table engine. Records as JSON objects, kept in a [`LocalStore`], in step with a [`RemoteStore`]; what the app
//! writes goes out through the vault's queue, in one lane for each record.
//!
//! Two traits are to be implemented: [`LocalStore`], where records rest, and [`RemoteStore`], the dialect of a server. Neither
//! decides anything: conflicts, repair and order are the engine's.

mod change;
mod conflict;
mod instant;
mod local;
mod memory;
mod postgrest;
mod record;
mod remote;
mod rest;
mod version;
mod wire;

#[cfg(feature = "sqlite")]
pub use local::QueuedInTransaction;

pub use change::{Change, Operation, PushRequest, Pushed};
pub use conflict::{ConflictStrategy, Decision, PendingDelete, Resolver, TableConflict};
pub use local::{
    LocalFuture, LocalStep, LocalStore, Quarantined, QueueRequest, RecordPage, RecordWrite,
    TableSpec, TableState, Touched,
};
pub use memory::MemoryLocal;
pub use postgrest::{Deletions, PostgrestRemote, PostgrestTable};
pub use record::{LocalRecord, Outgoing, OutgoingState, RecordKey, RecordMeta, Row, Unsynced};
pub use remote::{
    DamagedRow, PullRequest, RemoteError, RemoteErrorKind, RemoteFuture, RemotePage, RemoteRow,
    RemoteStore,
};
pub use rest::{BatchChange, BatchResult, RestRemote};
pub use version::Version;
