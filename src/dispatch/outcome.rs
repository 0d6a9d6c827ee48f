//! How a request gets to the server, and what `send` tells the caller.

use std::convert::Infallible;
#[cfg(feature = "cache")]
use std::time::Duration;

use crate::ticket::Ticket;

/// What [`send`](crate::RequestBuilder::send) tells the caller: `Sent` or `Queued`, and a `match` with these two arms is complete, in
/// every build.
///
/// Only who asks for a cached answer, with `send_or_cached` of the feature `cache`, can get one: that is an `Outcome<Duration>`,
/// and has three arms. After `send`, `Age` is a type without values, so that `Cached` cannot be.
#[derive(Debug)]
#[must_use = "a request that was queued has no response yet"]
pub enum Outcome<Age = Infallible> {
    /// The server answered; the body streams as reqwest's does. Also a refusal (404, say) is `Sent`.
    Sent(reqwest::Response),
    /// It is on disk and will be delivered later.
    Queued(Ticket),
    /// The server gave no answer, and this one is cached, with its age. It has the headers `Age` and `Cache-Status`. Nothing was
    /// queued.
    Cached(reqwest::Response, Age),
}

impl<Age> Outcome<Age> {
    /// True when the server answered.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        matches!(self, Self::Sent(_))
    }

    /// True when it is on disk and will be delivered later.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        matches!(self, Self::Queued(_))
    }

    /// True when a cached answer is given in the place of the server's.
    #[must_use]
    pub fn is_cached(&self) -> bool {
        matches!(self, Self::Cached(..))
    }

    /// The response, if the server answered, or one was cached.
    #[must_use]
    pub fn response(self) -> Option<reqwest::Response> {
        match self {
            Self::Sent(response) | Self::Cached(response, _) => Some(response),
            Self::Queued(_) => None,
        }
    }

    /// The ticket, if it is queued.
    #[must_use]
    pub fn ticket(self) -> Option<Ticket> {
        match self {
            Self::Queued(ticket) => Some(ticket),
            Self::Sent(_) | Self::Cached(..) => None,
        }
    }
}

/// As it is inside: with the age of what is cached, if anything can be.
#[cfg(feature = "cache")]
pub(crate) type Given = Outcome<Duration>;
#[cfg(not(feature = "cache"))]
pub(crate) type Given = Outcome;

impl Given {
    /// For a caller that did not ask for a cached answer. None was given to it then.
    pub(crate) fn not_cached(self) -> Outcome {
        match self {
            Self::Sent(response) => Outcome::Sent(response),
            Self::Queued(ticket) => Outcome::Queued(ticket),
            #[cfg(feature = "cache")]
            Self::Cached(response, _) => Outcome::Sent(response),
        }
    }
}

/// How a request gets to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// On disk before the first byte leaves, then tried at once. The default for methods that change something.
    WriteAhead,
    /// Tried at once, kept only when it could not be sent. The default for GET and HEAD.
    OnFailure,
    /// Tried at once, never kept: an error when there is no answer, or when its lane holds something.
    Never,
    /// Kept, and left to the worker.
    Queue,
}
