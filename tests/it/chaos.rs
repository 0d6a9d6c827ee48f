//! Whole vaults in bad weather: seeded runs with a checker of what was promised, and one story for each fault that
//! has a fact of its own.

#[cfg(feature = "sled")]
pub(crate) mod canary;
mod history;
mod lives;
mod origin;
mod runs;
mod twins;
mod waking;
mod watched;
mod watching;
mod weather;
mod wire;
