//! Whole vaults in bad weather: one story for each fault that has a fact of its own.

mod watched;
mod watching;
