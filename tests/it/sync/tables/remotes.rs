//! The dialects of servers, over real HTTP: the protocol of `RestRemote` against the reference server, and Supabase's.

mod postgrest;
#[path = "../../../../examples/support/reference/mod.rs"]
mod reference;
mod rest;
mod rig;
mod stories;
