//! What the vault knows of its cache; nothing without the feature `cache`.

#[cfg(feature = "cache")]
mod book;
#[cfg(not(feature = "cache"))]
#[path = "cached/no_book.rs"]
mod book;

#[cfg(feature = "cache")]
pub(crate) use book::{Asking, CacheCounts, resource_of};
pub(crate) use book::{CacheBook, CacheSetting, CacheTerms};
#[cfg(feature = "cache")]
pub use book::{CacheOptions, WhenFresh};
