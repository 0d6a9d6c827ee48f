//! Checks of options. Each error names the option.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;

use crate::decide::split_credentials;
use crate::error::{Error, Result};

pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host.parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}

/// Headers that cannot carry an idempotency key: they have a meaning of their own.
fn is_taken(name: &HeaderName) -> bool {
    let value = HeaderValue::from_static("x");
    let headers = HeaderMap::from_iter([(name.clone(), value)]);
    let (storable, _) = split_credentials(&headers);
    storable.is_empty() || *name == CONTENT_TYPE
}

pub(super) fn parse_url(text: &str) -> Result<Url> {
    Url::parse(text).map_err(|e| Error::invalid(format!("is not a URL ({e})")))
}

pub(super) fn option<T>(name: &str, checked: Result<T>) -> Result<T> {
    checked.map_err(|e| Error::new(e.kind(), format!("option {name}: {e}")))
}

pub(super) fn bad(name: &str, why: &str) -> Error {
    Error::invalid(format!("option {name} {why}"))
}

pub(super) fn within(name: &str, value: u64, min: u64, max: u64) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "option {name} must be from {min} to {max}, not {value}"
    )))
}

/// The header that carries idempotency keys.
pub(super) fn key_header(name: &str) -> Result<HeaderName> {
    let header = HeaderName::try_from(name)
        .map_err(|e| bad("idempotency_header", "is not a header name").with_source(e))?;
    match is_taken(&header) {
        true => Err(bad(
            "idempotency_header",
            "is a header that HTTP itself or credentials need",
        )),
        false => Ok(header),
    }
}
