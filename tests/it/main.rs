//! The one integration test binary: linking once is cheap. One module per story.

/// The direction between modules, and small files.
mod layout;
