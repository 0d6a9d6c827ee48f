//! The one public error: what failed, on what, and what the caller can do now.
//! A failed request is not an `Error`: it is a verdict, stored with the action.

use std::error::Error as StdError;
use std::fmt;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call of the vault failed.
///
/// [`kind`](Error::kind) answers "what do I do now?"; the message says what was tried and what helps.
/// Messages never hold header values, bodies or query strings.
pub struct Error {
    kind: ErrorKind,
    message: Box<str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An option, a request or an argument is not usable as given. Nothing was kept. Correct it.
    Invalid,
    /// A limit of the queue (count, bytes or body size) is reached. Nothing was kept. Drain, clear or raise the limit.
    Full,
    /// The idempotency key is known for a different request. Nothing was kept. Use a new key for a new request.
    IdempotencyConflict,
    /// The request carries a credential that may not be stored. Nothing was sent. See `credentials(..)`, `encryption(..)`.
    CredentialsInRequest,
    /// The server could not be reached and the request may not be queued. Nothing was kept.
    Unreachable,
    /// A login page of the network answered in the server's place, and the request may not be queued. Nothing was kept. Log in
    /// to the network.
    Portal,
    /// The server asked to be left alone, failed too often, or is just coming back; and the request may not be queued. Nothing was
    /// sent or kept. Try again at the time in the message, or allow queueing.
    OriginWaits,
    /// The time given to the call ran out.
    Timeout,
    /// The id is not known (any more).
    NotFound,
    /// The row belongs to somebody else than the user of the sync engine. Nothing was kept.
    NotOwner,
    /// The row has more bytes than the sync engine may push. Nothing was kept. The message has both numbers.
    TooLarge,
    /// The action is not in a state that allows the call.
    WrongState,
    /// The vault is shut down. Open it again.
    Closed,
    /// Another process holds this vault. Its pid is in the message.
    Locked,
    /// The store failed; the call was not acknowledged.
    Storage,
    /// The disk is full; the call was not acknowledged. The vault goes on delivering what it holds, and takes more as soon
    /// as there is room again: free some space.
    StorageFull,
    /// The store failed in a way that makes its memory and its disk disagree: it takes nothing more. Reopen it.
    Poisoned,
    /// What is on disk was written by a newer version, or is damaged.
    Corrupt,
    /// The vault is sealed and the key given does not open it, or none was given. Nothing was changed. Give the right key.
    WrongKey,
    /// This build, platform or store cannot do it.
    Unsupported,
}

impl Error {
    /// Makes an error. Messages are lower case, without a full stop, and name what helps.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into().into_boxed_str(),
            source: None,
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed, "the vault is shut down; open it again")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.kind)
            .field("message", &self.message);
        if let Some(source) = &self.source {
            out.field("source", &source.to_string());
        }
        out.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
