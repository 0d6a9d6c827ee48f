//! WHAT to do: pure functions, values in and values out. No clock, no I/O, no runtime.

mod gate;
mod settlement;

pub use gate::{Gate, GateKey, GateReason};
pub use settlement::{Counted, DeadLane, Settlement};
