//! Twenty pains that users of other queues report, as scenarios on fakes and paused time. Each runs with many seeds, on the
//! vault, which must have nothing wrong, and on naive clients that do what the peers do, which must have something
//! wrong each time: so a scenario that does not hurt fails. [`naive::Habit`] names the reports.

mod content;
mod crashes;
mod disk;
mod naive;
mod network;
mod order;
mod owners;
mod space;
mod world;
