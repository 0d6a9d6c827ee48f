//! How a request gets to the server, and what `send` tells the caller.

#[cfg(feature = "cache")]
use std::time::Duration;

use crate::ticket::Ticket;

/// What [`send`](crate::RequestBuilder::send) tells the caller.
#[derive(Debug)]
#[must_use = "a request that was queued has no response yet"]
#[non_exhaustive]
pub enum Outcome {
    /// The server answered; the body streams as reqwest's does. Also a refusal (404, say) is `Sent`.
    Sent(reqwest::Response),
    /// It is on disk and will be delivered later.
    Queued(Ticket),
    /// The server gave no answer, and this one is cached, with its age. It has the headers `Age` and `Cache-Status`. Nothing was
    /// queued.
    #[cfg(feature = "cache")]
    Cached(reqwest::Response, Duration),
}

impl Outcome {
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
    #[cfg(feature = "cache")]
    #[must_use]
    pub fn is_cached(&self) -> bool {
        matches!(self, Self::Cached(..))
    }

    /// The response, if the server answered, or one was cached.
    #[must_use]
    pub fn response(self) -> Option<reqwest::Response> {
        match self {
            Self::Sent(response) => Some(response),
            #[cfg(feature = "cache")]
            Self::Cached(response, _) => Some(response),
            Self::Queued(_) => None,
        }
    }

    /// The ticket, if it is queued.
    #[must_use]
    pub fn ticket(self) -> Option<Ticket> {
        match self {
            Self::Queued(ticket) => Some(ticket),
            _ => None,
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
