//! Whole vaults in bad weather: seeded runs with a checker of what was promised, and one story for each fault that
//! has a fact of its own.

mod dice;
mod history;
mod lives;
mod runs;
mod waking;
mod watched;
mod watching;
mod weather;
