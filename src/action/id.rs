//! Names of things: action ids, lanes, origins. Newtypes, so that they do not mix.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use reqwest::Url;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};

/// The id of an action: a UUIDv7 (RFC 9562), made before the first write. Ids sort by the time they were made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActionId(Uuid);

impl ActionId {
    /// Makes a new id.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "a default id would be a new one each time"
    )]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The 16 bytes of the UUID.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// From the 16 bytes of a UUID.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for ActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ActionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ActionId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Uuid::parse_str(text)
            .map(Self)
            .map_err(|e| Error::invalid("an action id is a UUID in hexadecimal").with_source(e))
    }
}

/// The name of a lane: actions of one lane keep their order, different lanes run side by side.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lane(Arc<str>);

impl Lane {
    /// The longest name of a lane, in bytes.
    pub const BYTES_MAX: usize = 255;

    /// Takes a name of 1 to 255 bytes without control characters.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the name is empty, too long or has control characters.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        if name.is_empty() || name.len() > Self::BYTES_MAX {
            return Err(Error::invalid(format!(
                "a lane name has 1 to {} bytes, this one has {}",
                Self::BYTES_MAX,
                name.len()
            )));
        }
        if name.chars().any(char::is_control) {
            return Err(Error::invalid(
                "a lane name must not hold control characters",
            ));
        }
        Ok(Self(name.into()))
    }

    /// A lane as a store kept it.
    #[must_use]
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The lane of this name that belongs to a principal: lanes of different principals are apart.
    #[must_use]
    pub fn of_principal(&self, principal: Option<&str>) -> Self {
        match principal {
            Some(_) => Self(scoped(principal, &self.0).into()),
            None => self.clone(),
        }
    }

    /// The same without its principal: the name that the app gave.
    #[must_use]
    pub fn bare(&self) -> Self {
        match unscoped(&self.0) {
            name if name.len() == self.0.len() => self.clone(),
            name => Self(name.into()),
        }
    }

    /// The lane of requests that name none: `default`.
    #[must_use]
    pub fn default_lane() -> Self {
        Self("default".into())
    }

    /// True for the lane of requests that name none.
    #[must_use]
    pub fn is_default(&self) -> bool {
        unscoped(&self.0) == "default"
    }

    /// What the lane is known by: its name, and before it the principal that it belongs to, if any, and U+001F.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Between a principal and a name. No name holds a control character.
const SCOPE: char = '\u{1f}';

/// An idempotency key as a store knows it: keys of different principals are apart. A key that is an id stays one: it may
/// be that of an action that was given none.
pub(crate) fn scoped_key(principal: Option<&str>, key: &str) -> String {
    match key.parse::<ActionId>() {
        Ok(_) => key.to_owned(),
        Err(_) => scoped(principal, key),
    }
}

fn scoped(principal: Option<&str>, name: &str) -> String {
    match principal {
        Some(principal) => format!("{principal}{SCOPE}{name}"),
        None => name.to_owned(),
    }
}

/// The name without its principal.
pub(crate) fn unscoped(text: &str) -> &str {
    text.rsplit_once(SCOPE).map_or(text, |(_, name)| name)
}

/// Without the principal: names of users stay out of logs.
impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lane").field(&unscoped(&self.0)).finish()
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(unscoped(&self.0))
    }
}

/// Scheme, host and port: what can be down, rate limited or protected by a breaker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Origin(Arc<str>);

impl Origin {
    /// The origin of an `http` or `https` URL, always with its port: `https://api.example.com:443`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for other schemes and for URLs without a host.
    pub fn of(url: &Url) -> Result<Self> {
        let (scheme @ ("http" | "https"), Some(host), Some(port)) =
            (url.scheme(), url.host_str(), url.port_or_known_default())
        else {
            return Err(Error::invalid(
                "a URL needs the scheme http or https and a host",
            ));
        };
        Ok(Self(format!("{scheme}://{host}:{port}").into()))
    }

    /// An origin as a store kept it.
    #[must_use]
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
