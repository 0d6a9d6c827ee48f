//! Offline-first HTTP: requests are sent now, or kept durably on disk and delivered later, in order, once.

pub mod action;
pub mod clock;
pub mod decide;
mod error;
pub mod store;
#[cfg(feature = "test-util")]
pub mod testing;

pub use error::{Error, ErrorKind, Result};
