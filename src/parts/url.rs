//! Where a request may go, and goes: paths join the base URL.

use reqwest::Url;

use super::Options;
use crate::action::Origin;
use crate::error::{Error, Result};

impl Options {
    /// Every origin that requests may go to.
    pub(crate) fn origins(&self) -> impl Iterator<Item = &Origin> {
        std::iter::once(&self.base_origin).chain(&self.allowed_origins)
    }

    /// Requests go to the base origin and to the origins that were allowed, to no other.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for another origin.
    pub(crate) fn allows(&self, origin: &Origin) -> Result<()> {
        if *origin == self.base_origin || self.allowed_origins.contains(origin) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{origin} is not the origin of this vault ({}): allow it with `allow_origin(..)`",
            self.base_origin
        )))
    }

    /// A relative path joins the base, as a browser joins a link to a page in the folder `base`; a path with a leading
    /// slash joins it too, so that a base with a path (`https://api.example.com/v1`) keeps it. A URL stays as it is.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when that makes no URL.
    pub(crate) fn join(&self, path: &str) -> Result<Url> {
        if path.chars().any(char::is_control) {
            return Err(Error::invalid("a path must not hold control characters"));
        }
        match Url::parse(path) {
            Ok(url) => Ok(url),
            Err(_) if path.starts_with("//") => {
                Err(Error::invalid("a path must not start with two slashes"))
            }
            Err(_) => {
                let base = self.base.as_str().trim_end_matches('/');
                let joined = match path.trim_start_matches('/') {
                    rest if rest.starts_with(['?', '#']) => format!("{base}{rest}"),
                    "" if path.is_empty() => base.to_owned(),
                    rest => format!("{base}/{rest}"),
                };
                Url::parse(&joined).map_err(|e| {
                    let text = format!("the path does not make a URL: {e}");
                    Error::invalid(text).with_source(e)
                })
            }
        }
    }
}
