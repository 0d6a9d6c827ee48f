//! The one integration binary, so that linking stays cheap. What is where:
//!
//! - `store_contract`: the public contract suite, on every store of the crate.

#[cfg(feature = "test-util")]
mod store_contract;
