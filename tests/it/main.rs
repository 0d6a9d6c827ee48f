//! The one integration test binary: linking once is cheap. One module per story.

/// Batches: waiting actions that leave in one request.
#[cfg(feature = "test-util")]
mod batches;
/// Bodies from files and forms, and compressed ones.
#[cfg(feature = "sled")]
mod bodies;
/// Answers that are there when the network is not.
#[cfg(all(feature = "cache", feature = "test-util"))]
mod cache;
/// Seeded chaos on whole vaults with a checker, and the stories of the fault catalogue.
mod chaos;
/// A scripted HTTP server on raw TCP that does what servers and networks do on bad days.
mod chaos_server;
/// A good citizen to the server, on fakes and paused time.
#[cfg(feature = "test-util")]
mod citizen;
/// kill -9 at random moments: nothing acknowledged is lost, doubled or reordered.
#[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
mod crash;
/// Flipped bits and cut files: a vault opens all the same, and tells no lies.
#[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
mod damage;
/// Requests that wait for others, and refer to their answers.
#[cfg(feature = "test-util")]
mod dependencies;
/// Chance, the same for the same seed.
#[path = "../../src/testing/simulation/dice.rs"]
mod dice;
/// Full disks and failing calls, with root and strace only.
#[cfg(all(feature = "sled", feature = "sqlite"))]
mod disk_trouble;
/// Export, import and examination.
#[cfg(all(feature = "sled", feature = "sqlite", feature = "encrypt"))]
mod doctor;
/// A store with an action in each state.
#[cfg(all(feature = "sled", feature = "sqlite", feature = "encrypt"))]
mod filled;
/// Vaults of every released version still open.
#[cfg(all(feature = "sled", feature = "sqlite", feature = "encrypt"))]
mod golden;
/// Servers that forget keys.
#[cfg(feature = "test-util")]
mod key_window;
/// The direction between modules, and small files.
mod layout;
/// The outbox: a request in the app's own transaction.
#[cfg(feature = "sqlite")]
mod outbox;
/// The pains that users of other queues report, each beside a naive client that has it.
#[cfg(feature = "test-util")]
mod pains;
/// Bugs that are put into a copy of the source, for the suites to find.
mod planted;
/// Login pages of networks.
mod portal;
/// Power cuts, with root and a loop device only.
#[cfg(any(feature = "fjall", feature = "sled", feature = "sqlite"))]
mod power_cut;
/// Several processes on one SQLite file, killed and relieved.
#[cfg(feature = "sqlite")]
mod processes;
/// Encryption at rest: keys, rotation, tampering, forgetting, and no secret left in clear.
#[cfg(feature = "encrypt")]
mod sealed;
/// Looking into a vault: reasons, numbers, traces, metrics.
mod seeing;
/// Whole vaults in a simulated world.
#[cfg(feature = "test-util")]
mod simulation;
/// Every rule of the public store contract, on each store of the crate.
#[cfg(feature = "test-util")]
mod store_contract;
/// Fail the Nth store call, drop the Nth await.
#[cfg(feature = "test-util")]
mod store_faults;
/// Whole-vault stories over real HTTP.
mod story;
/// The sync engine's orchestrator.
#[cfg(feature = "sync")]
mod sync;
/// The wire: every failure kind, redirects, answers that are kept, credentials.
mod transport;
/// What nothing holds back starts within the promised time.
#[cfg(feature = "test-util")]
mod wake_ups;
