//! An HTTP client for apps that cannot trust their network: every request is sent now, or kept on disk and delivered
//! later, in order, once.
//!
//! # A request that nobody takes yet
//!
//! ```
//! use syncvault::{Outcome, SyncVault};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #   if cfg!(not(feature = "sled")) { return Ok(()) }
//!     let dir = tempfile::tempdir()?;
//!     // Nobody listens there.
//!     let vault = SyncVault::open("http://127.0.0.1:9", dir.path()).await?;
//!     let order = serde_json::json!({ "coffee": 2 });
//!     match vault.post("/orders").json(&order).idempotency_key("order-4711").send().await? {
//!         Outcome::Sent(response) => println!("{}", response.status()),
//!         Outcome::Queued(ticket) => println!("saved offline as {}", ticket.id()),
//!     }
//!     // It goes out when the server is there: in the background, and also after a restart.
//!     assert_eq!(vault.pending_count().await?, 1);
//!     Ok(())
//! }
//! ```
//!
//! `cargo run --example quickstart` shows the rest: the server goes away, the app is ended by `kill -9`, both come back,
//! and each order is applied once, in order.
//!
//! # The nouns
//!
//! | | |
//! | --- | --- |
//! | [`SyncVault`] | the client and its queue. Cheap to clone, no global. [`SyncVault::builder`] has the options |
//! | [`RequestBuilder`] | a request, written as with reqwest, and what the queue must know: key, lane, expiry |
//! | [`Delivery`] | when it reaches the disk: before the first byte leaves, on failure, never, or always |
//! | [`Outcome`] | what `send()` tells: [`Sent`](Outcome::Sent) with the response, or [`Queued`](Outcome::Queued) with a ticket |
//! | [`Action`] | a request as kept in the queue, with its [`State`] |
//! | [`Ticket`] | the handle of an action: its id, its [`Events`], its [`End`] |
//! | coalescing key | of two actions that have it in common, only the newer one need be sent: [`RequestBuilder::coalesce`]. Or as the app says: [`coalesce_by`](SyncVaultBuilder::coalesce_by) |
//! | lane | actions that keep their order; lanes run side by side. By default there is one |
//! | [`Event`], [`Status`] | what happened to an action; how the whole vault is |
//! | [`DeadLetter`] | an action that is not tried again until somebody acts: [`SyncVault::dead_letters`] |
//! | [`Credentials`] | what proves who we are. Asked of the app for each attempt, never stored |
//! | batch | waiting actions of a lane that leave in one request: [`Batcher`](decide::Batcher) |
//! | principal | on whose behalf an action is sent. Only those of the active one are: [`SyncVault::principal`] |
//! | [`doctor`] | looks at a vault without changing it, and carries one from store to store |
//!
//! # The life of a request
//!
//! ```text
//! send ─► on disk ─► attempt ─► delivered
//!            ▲          │
//!            ├── retry ─┤   5xx, timeout: after a wait, at most `max_retries` times
//!            ├── wait ──┤   no network, 429, 503, 401: as long as it takes, no retry is used up
//!            │          └─► dead letter   another 4xx, or no retry is left
//!            └─ requeue ──────┘           somebody sends it back
//! ```
//!
//! It ends as one of: delivered, returned (a refusal that `send()` gave straight to the caller), dead, cancelled, expired,
//! superseded. What an attempt means is decided by [`decide::verdict`]; a [`Classifier`](decide::Classifier) of the app
//! comes first.
//!
//! # One request after another
//!
//! What was created offline can be changed offline: a request may wait for another one, and take a part of its answer.
//!
//! ```
//! # async fn example(vault: &syncvault::SyncVault) -> syncvault::Result<()> {
//! let created = vault.post("/todos").json(&["buy milk"]).enqueue().await?;
//! let id = vault.response_of(&created).json("/id");
//! vault.delete("/todos/{id}").path_ref("id", id).enqueue().await?;
//! # Ok(()) }
//! ```
//!
//! See [`RequestBuilder::after`] and [`RequestBuilder::path_ref`].
//!
//! # What it promises
//!
//! - **P1** Acknowledged means on disk: what has a [`Ticket`] survives `kill -9` and power loss.
//! - **P2** At least once, with the same bytes and the same idempotency key at each attempt. At a server that knows the
//!   key again, once.
//! - **P3** What is queued in a lane goes out strictly in order, and a direct send never overtakes it.
//! - **P4** Nothing is lost without a name: the [`Ledger`] counts where each action went, and is checked at open.
//! - **P5** Offline is free: no retry is used up, no loop runs.
//! - **P6** Opening never bricks: what is damaged is set aside and reported, the rest goes on.
//! - **P7** Credentials are never stored in clear.
//! - **P8** What an event tells is on disk already. A slow reader never slows delivery.
//!
//! # What it does not do
//!
//! - Exactly once at a server that ignores the key: when an answer is lost, the request is sent again.
//! - Help against a disk that says "synced" when it is not.
//! - Encrypt what is on disk, unless the app asks for it (feature `encrypt`). The directory is open to its user only.
//! - Run while the process does not: it wakes no app.
//! - Share a vault between processes, except with the SQLite store: the second one gets [`ErrorKind::Locked`].
//! - Send a body of unknown length: files and forms are copied into the vault first, and then streamed.
//! - Run in a browser: it needs tokio and a file system.
//!
//! # Features
//!
//! | feature | default | brings |
//! | --- | --- | --- |
//! | `sled` | yes | the store on disk: `storage_path` and [`SyncVault::open`] |
//! | `sqlite` | no | [`SqliteStore`](store::SqliteStore): one file that `sqlite3` can read, several processes, the outbox |
//! | `fjall` | no | [`FjallStore`](store::FjallStore): a log-structured engine, for many writers |
//! | `rustls` | yes | https; without it an https URL is refused before anything is kept |
//! | `http2` | yes | HTTP/2 where the server has it |
//! | `net-watch` | yes | network events of the operating system, as hints to look sooner |
//! | `gzip`, `zstd` | no | compressed request bodies, for servers that take them: [`RequestBuilder::compress`] |
//! | `encrypt` | no | encryption at rest on any store: `SyncVaultBuilder::encryption` |
//! | `cache` | no | answers to GETs are kept, and given when the network is not there: `SyncVaultBuilder::cache`, `RequestBuilder::send_or_cached` |
//! | `sync` | no | the [sync engine](sync): features with handlers, checkpoints, retries, order; tables in step with a server (docs/sync-protocol.md), or with Supabase |
//! | `metrics` | no | depth, ages, attempts and gates through the `metrics` facade: docs/metrics.md |
//! | `test-util` | no | fakes for clock, network, transport and store, the contract suite for stores, a simulation of whole vaults |

pub mod action;
mod attempt;
mod builder;
pub mod clock;
pub mod connectivity;
mod dead_letters;
pub mod decide;
mod dispatch;
pub mod doctor;
mod error;
mod event;
mod listing;
mod parts;
mod payload;
mod request;
pub mod store;
#[cfg(feature = "sync")]
pub mod sync;
#[cfg(feature = "test-util")]
pub mod testing;
mod ticket;
pub mod transport;
mod vault;
mod worker;

pub use action::{
    Action, ActionId, Answer, Counts, DeadReason, Ledger, ResponseOf, ResponseValue, State,
    StoredRequest, WireState,
};
pub use builder::SyncVaultBuilder;
pub use dead_letters::DeadLetters;
pub use decide::{Backoff, DeadLane, RetryPolicy};
pub use dispatch::{Delivery, Outcome, Replaced};
pub use error::{Error, ErrorKind, Result};
pub use event::{Event, EventKind, Events, Status, StatusChanges};
pub use listing::{Listing, Paging};
#[cfg(feature = "cache")]
pub use parts::cached::{CacheOptions, WhenFresh};
pub use parts::{
    Coalesced, Coalescing, Connection, ConnectivityMode, DeadLetter, Draining, GateStats,
    IntoVerified, Merge, OriginStats, Stats, Unsure, VerdictCounts, Verified, VerifyError,
    WholeRequest,
};
pub use payload::{Compression, Form, FormPart};
pub use request::RequestBuilder;
pub use reqwest;
#[cfg(feature = "sqlite")]
pub use rusqlite;
pub use ticket::{End, Ticket};
pub use transport::{CredentialRequest, Credentials, Refresh, bearer};
#[cfg(feature = "cache")]
pub use vault::CacheStats;
pub use vault::{Cancellation, Cleared, ConnectionChanges, SyncVault, WhyPending};
pub use worker::{DrainReport, Stopped};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
