//! Offline-first HTTP: requests are sent now, or kept durably on disk and delivered later, in order, once.

pub mod action;
mod attempt;
mod builder;
pub mod clock;
pub mod connectivity;
mod dead_letters;
pub mod decide;
mod dispatch;
mod error;
mod event;
mod listing;
mod parts;
mod request;
pub mod store;
#[cfg(feature = "test-util")]
pub mod testing;
mod ticket;
pub mod transport;
mod vault;
mod worker;

pub use action::{Action, ActionId, Answer, Counts, DeadReason, Ledger, State, WireState};
pub use builder::SyncVaultBuilder;
pub use dead_letters::DeadLetters;
pub use decide::{Backoff, RetryPolicy};
pub use dispatch::{Delivery, Outcome};
pub use error::{Error, ErrorKind, Result};
pub use event::{Event, EventKind, Events, Status, StatusChanges};
pub use listing::{Listing, Paging};
pub use parts::{Connection, ConnectivityMode, DeadLetter, Draining};
pub use request::RequestBuilder;
pub use reqwest;
pub use ticket::{End, Ticket};
pub use transport::{Credentials, bearer};
pub use vault::{Cancellation, Cleared, SyncVault, WhyPending};
pub use worker::{DrainReport, Stopped};
