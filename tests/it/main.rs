//! The one integration test binary: linking once is cheap. One module per story.

/// A scripted HTTP server on raw TCP that does what servers and networks do on bad days.
mod chaos_server;
/// The direction between modules, and small files.
mod layout;
/// Whole-vault stories over real HTTP.
mod story;
/// The wire: every failure kind, redirects, answers that are kept, credentials.
mod transport;
