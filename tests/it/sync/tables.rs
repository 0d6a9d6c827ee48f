//! The table engine, on a server of tables in memory and paused time; and on real ones in `remotes`.

mod arrived;
mod dynos;
mod local_contract;
#[cfg(feature = "sqlite")]
mod remotes;
mod simulation;
mod stories;
mod thread;
mod town;
