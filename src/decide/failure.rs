//! Attempts without an answer: the kinds of failure that a transport can tell apart.
//! Words only: no text of the request, of its URL or of an error behind it.

use std::fmt;

/// Why an attempt brought no answer.
///
/// What matters is whether the server may have seen the request: see [`never_left`](Self::never_left).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The name of the host was not found.
    Dns,
    /// No connection: refused, no route, network down.
    Connect,
    /// The TLS handshake failed. What breaks after the handshake is [`Interrupted`](Self::Interrupted).
    Tls,
    /// The TLS handshake failed: the certificate is for another name. Nothing of the request left.
    TlsName,
    /// The time ran out before there was a connection.
    ConnectTimeout,
    /// The time ran out later: bytes may have left.
    Timeout,
    /// The connection broke after bytes may have left.
    Interrupted,
    /// Redirects in a circle, or more than [`REDIRECTS_MAX`](super::REDIRECTS_MAX).
    Redirect,
    /// The request cannot be built or sent at all.
    Invalid,
    /// The kept body is damaged, which was seen while it was sent: it did not leave whole.
    Body,
    /// The app's provider of credentials failed.
    Credentials,
    /// It was not sent: another principal became the active one before it left.
    NotActive,
    /// This machine is short of something (file descriptors, memory): not the server's trouble, nor the action's.
    Local,
    /// Something else, and bytes may have left.
    Other,
}

impl FailureKind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::TlsName,
        Self::ConnectTimeout,
        Self::Timeout,
        Self::Interrupted,
        Self::Redirect,
        Self::Invalid,
        Self::Body,
        Self::Credentials,
        Self::NotActive,
        Self::Local,
        Self::Other,
    ];

    /// True when no byte of the request can have reached a server, so that trying again cannot double its effect.
    ///
    /// ```
    /// # use syncvault::decide::FailureKind;
    /// assert!(FailureKind::Dns.never_left());
    /// assert!(!FailureKind::Timeout.never_left());
    /// ```
    #[must_use]
    pub fn never_left(self) -> bool {
        match self {
            Self::Dns
            | Self::Connect
            | Self::Tls
            | Self::TlsName
            | Self::ConnectTimeout
            | Self::Invalid
            | Self::Credentials
            | Self::NotActive
            | Self::Local => true,
            Self::Timeout | Self::Interrupted | Self::Redirect | Self::Body | Self::Other => false,
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "host name not found",
            Self::Connect => "no connection",
            Self::Tls => "tls handshake failed",
            Self::TlsName => "tls handshake failed, certificate for another name",
            Self::ConnectTimeout => "timeout before there was a connection",
            Self::Timeout => "timeout after bytes may have left",
            Self::Interrupted => "connection broke after bytes may have left",
            Self::Redirect => "too many redirects",
            Self::Invalid => "request cannot be built",
            Self::Body => "kept body is damaged",
            Self::Credentials => "provider of credentials failed",
            Self::NotActive => "its principal is not the active one",
            Self::Local => "this machine is short of resources",
            Self::Other => "failed, bytes may have left",
        })
    }
}
