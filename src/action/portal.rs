//! The signs by which a network's login page gives itself away.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A sign that an answer is not the server's, but that of a network which wants something of its user first: a login page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PortalSign {
    /// Status 511, which only such a network uses (RFC 6585).
    Status,
    /// A redirect to another origin. From `http` to `https` of the same host is none.
    Redirect,
    /// A 2xx answer that is an HTML page, where JSON was asked for.
    Html,
    /// A header is missing that every answer of the server has, as the app says.
    MissingHeader,
    /// The certificate is for another name.
    CertificateName,
}

impl PortalSign {
    /// Every sign.
    pub const ALL: [Self; 5] = [
        Self::Status,
        Self::Redirect,
        Self::Html,
        Self::MissingHeader,
        Self::CertificateName,
    ];

    /// True when a probe that meets it has met a portal: the server was to answer otherwise, whatever it is asked for.
    #[must_use]
    pub fn is_certain(self) -> bool {
        matches!(
            self,
            Self::Status | Self::MissingHeader | Self::CertificateName
        )
    }
}

impl fmt::Display for PortalSign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "the network asks for a login",
            Self::Redirect => "a redirect to another origin",
            Self::Html => "an html page where json was asked for",
            Self::MissingHeader => "a header is missing that the server always sends",
            Self::CertificateName => "the certificate is for another name",
        })
    }
}
