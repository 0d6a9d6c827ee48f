//! Helps for tests, behind the feature `test-util`: the store contract suite.
//! Nothing here is part of a running vault.

pub mod contract;
