//! ARE we online: hints that something changed, and probes of an origin. Hints only make the vault look
//! sooner; what counts is whether a server can be reached.

#[cfg(feature = "net-watch")]
mod net_watch;
#[cfg(not(feature = "net-watch"))]
#[path = "no_watch.rs"]
mod net_watch;
mod probe;

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use futures_core::Stream;

use crate::action::Origin;

pub use probe::ProbeConnectivity;

/// Whether an origin can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reach {
    /// The origin itself answered, for certain, and is well.
    Reachable,
    /// Something answered that may be the origin, or a login page of the network in its place. An attempt is worth its while;
    /// what it gets is still looked at.
    Unproven,
    /// The origin answered, but with a 5xx status: it can be reached, and is in trouble.
    Troubled,
    /// No answer.
    Unreachable,
    /// Something answered in its place: a login page of the network.
    Portal,
}

/// A hint that the network may have changed: look now, do not wait for the timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetworkChange;

impl NetworkChange {
    /// A hint.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

/// The hints of one listener.
pub type NetworkChanges = Pin<Box<dyn Stream<Item = NetworkChange> + Send>>;

/// The future of one probe.
pub type ProbeFuture<'a> = Pin<Box<dyn Future<Output = Reach> + Send + 'a>>;

/// Knows about the network.
pub trait Connectivity: Debug + Send + Sync + 'static {
    /// Hints that something changed. May never yield, and may end: both mean "no hints".
    ///
    /// Must be called and polled inside a tokio runtime.
    fn changes(&self) -> NetworkChanges;

    /// Asks whether the origin can be reached now. Any HTTP answer of the origin counts.
    fn probe(&self, origin: Origin) -> ProbeFuture<'_>;
}

/// Never hints, and asks nobody: everything may be reachable. For tests, and for a vault that shall just try.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct AlwaysReachable;

impl AlwaysReachable {
    /// The one value.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Connectivity for AlwaysReachable {
    fn changes(&self) -> NetworkChanges {
        Box::pin(futures_util::stream::pending())
    }

    fn probe(&self, _origin: Origin) -> ProbeFuture<'_> {
        Box::pin(std::future::ready(Reach::Unproven))
    }
}
