//! Why an attempt got no answer, in words that are safe to log: no query string, header value or body.

use std::error::Error as StdError;
use std::fmt;

use crate::decide::FailureKind;

/// An attempt without an answer.
///
/// Its text is safe for logs and for the disk: it holds no query string, no header value and no body.
/// The [`source`](StdError::source) is the error as it came, for a debugger; it may say more.
pub struct TransportFailure {
    kind: FailureKind,
    detail: Option<Box<str>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl TransportFailure {
    /// The longest detail that is kept, in bytes.
    pub const DETAIL_BYTES_MAX: usize = 256;

    /// A failure of a kind, without a cause.
    #[must_use]
    pub fn new(kind: FailureKind) -> Self {
        Self {
            kind,
            detail: None,
            source: None,
        }
    }

    /// Adds what went wrong, in words that are safe to log. Control characters are dropped, long text is cut.
    #[must_use]
    pub fn with_detail(mut self, detail: impl fmt::Display) -> Self {
        let mut text = String::new();
        for c in detail.to_string().chars().filter(|c| !c.is_control()) {
            if text.len() + c.len_utf8() > Self::DETAIL_BYTES_MAX {
                break;
            }
            text.push(c);
        }
        self.detail = Some(text.into_boxed_str());
        self
    }

    /// Adds the error as it came. Its text is never shown by this type.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What went wrong: what the verdict depends on.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        self.kind
    }
}

impl fmt::Display for TransportFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for TransportFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportFailure")
            .field("kind", &self.kind)
            .field("detail", &self.detail)
            .finish_non_exhaustive()
    }
}

impl StdError for TransportFailure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
