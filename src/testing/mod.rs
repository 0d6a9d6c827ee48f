//! Helps for tests, behind the feature `test-util`: the store contract suite, and a clock, a server and a faulty
//! store to put in the seams; and a simulation of whole vaults. Nothing here is part of a running vault.

mod clock;
pub mod contract;
mod faults;
#[cfg(feature = "sync")]
pub mod local_contract;
mod server;
pub mod simulation;
#[cfg(feature = "sync")]
mod tables;

pub use clock::TestClock;
pub use faults::{Fault, Faults, FaultyStore, Verb};
pub use server::{FakeServer, FakeTransport, Reply, Seen};
#[cfg(feature = "sync")]
pub use tables::{Asked, Fate, TableRemote, TableServer, TableTransport, Versions};
