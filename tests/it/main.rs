//! The one integration binary: linking it once keeps the test run short.

mod layout; // the direction between modules, and the shape of every file
