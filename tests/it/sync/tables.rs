//! The table engine, on a server of tables in memory and paused time.

mod arrived;
mod dynos;
mod local_contract;
mod simulation;
mod stories;
mod thread;
mod town;
