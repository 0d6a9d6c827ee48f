//! The portal guard: which answers are not the server's, but those of a login page that stands in its place.
//! A sign is not a proof. What it means is decided by [`verdict`](super::verdict()).

use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, LOCATION};
use reqwest::Url;

use super::{FailureKind, Gate, GateKey, GateReason, Observed, is_good_answer, merge_gates};
use crate::action::{Origin, PortalSign};

/// Each time that a probe, or an attempt, met a portal again counts as a failure of its gate. Every so many of them a real
/// attempt is made, whatever the probes say: they may be wrong for ever.
const FAILURES_PER_ATTEMPT: u32 = 8;

/// Which signs of a login page are heeded at an origin.
///
/// ```
/// use syncvault::decide::{PortalGuard, PortalSign};
///
/// // This server answers with redirects to another origin, and says so in its documents.
/// let guard = PortalGuard::all().without(PortalSign::Redirect);
/// assert!(guard.is_on() && !PortalGuard::off().is_on());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct PortalGuard {
    signs: Vec<PortalSign>,
    headers: Vec<HeaderName>,
}

impl PortalGuard {
    /// Every sign. The default.
    pub fn all() -> Self {
        Self {
            signs: PortalSign::ALL.to_vec(),
            headers: Vec::new(),
        }
    }

    /// None: nothing is suspected, and portals elsewhere hold nothing back.
    pub fn off() -> Self {
        Self {
            signs: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// Without this sign.
    pub fn without(mut self, sign: PortalSign) -> Self {
        self.signs.retain(|one| *one != sign);
        self
    }

    /// A header that every answer of the server has: one without it is not the server's. The sharpest sign, for probes too.
    pub fn with_header(mut self, name: HeaderName) -> Self {
        self.headers.push(name);
        self
    }

    /// True when there is a sign that is heeded.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.signs.is_empty()
    }

    /// The first sign that is heeded and seen.
    ///
    /// A missing header is one only where the server itself speaks: what a proxy answers for it (502, 429) may lack it.
    #[must_use]
    pub fn sign(
        &self,
        asked: &Url,
        observed: &Observed<'_>,
        expects: Expects,
    ) -> Option<PortalSign> {
        let sign = match *observed {
            Observed::Failure(FailureKind::TlsName) => PortalSign::CertificateName,
            Observed::Failure(_) => return None,
            Observed::Answer { status: 511, .. } => PortalSign::Status,
            Observed::Answer { status, headers } => {
                let seen = [
                    (
                        PortalSign::MissingHeader,
                        self.lacks_header(status, headers),
                    ),
                    (PortalSign::Redirect, leads_away(asked, status, headers)),
                    (PortalSign::Html, is_page(status, headers, expects)),
                ];
                let heeded = |(sign, is_seen): &(PortalSign, bool)| *is_seen && self.heeds(*sign);
                seen.into_iter().find(heeded)?.0
            }
        };
        self.heeds(sign).then_some(sign)
    }

    fn heeds(&self, sign: PortalSign) -> bool {
        self.signs.contains(&sign)
    }

    fn lacks_header(&self, status: u16, headers: &HeaderMap) -> bool {
        is_good_answer(status) && !self.headers.iter().all(|name| headers.contains_key(name))
    }
}

impl Default for PortalGuard {
    fn default() -> Self {
        Self::all()
    }
}

/// Whether an HTML page can be an answer to the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expects {
    /// It can.
    #[default]
    Anything,
    /// It should not: the request's `Accept` names JSON, and no HTML.
    JsonByAccept,
    /// It cannot: the app said that it expects JSON.
    Json,
}

impl Expects {
    /// What a request expects: what it says itself, then what its `Accept` says of HTML, then what its vault says.
    #[must_use]
    pub fn of(request_says_json: bool, vault_says_json: bool, headers: &HeaderMap) -> Self {
        let accept = headers.get_all(ACCEPT).iter();
        let accept: Vec<&str> = accept.filter_map(|value| value.to_str().ok()).collect();
        let ranges = || {
            accept
                .iter()
                .flat_map(|value| value.split(','))
                .map(essence)
        };
        if request_says_json {
            Self::Json
        } else if ranges().any(|range| is_html(&range)) {
            Self::Anything
        } else if vault_says_json {
            Self::Json
        } else if ranges().any(|range| is_json(&range)) {
            Self::JsonByAccept
        } else {
            Self::Anything
        }
    }
}

/// True when an answer with this sign breaks what the app promised of its server: it is no delivery, also when the sign
/// is not that of a portal.
pub(super) fn is_promise_broken(sign: PortalSign, status: Option<u16>, expects: Expects) -> bool {
    let is_success = status.is_some_and(|status| (200..300).contains(&status));
    let is_promised = match sign {
        PortalSign::Html => expects == Expects::Json,
        sign => sign == PortalSign::MissingHeader,
    };
    is_success && is_promised
}

fn leads_away(asked: &Url, status: u16, headers: &HeaderMap) -> bool {
    let location = || headers.get(LOCATION)?.to_str().ok();
    let is_redirect = matches!(status, 301 | 302 | 303 | 307 | 308);
    let Some(to) = location()
        .filter(|_| is_redirect)
        .and_then(|to| asked.join(to).ok())
    else {
        return false;
    };
    let is_upgrade = to.scheme() == "https"
        && asked.scheme() == "http"
        && to.host_str() == asked.host_str()
        && to.port().is_none();
    to.origin() != asked.origin() && !is_upgrade
}

fn is_page(status: u16, headers: &HeaderMap, expects: Expects) -> bool {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    expects != Expects::Anything
        && (200..300).contains(&status)
        && content_type.is_some_and(|text| is_html(&essence(text)))
}

/// A media type without its parameters, in lower case.
fn essence(media_type: &str) -> String {
    let essence = media_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

fn is_html(essence: &str) -> bool {
    matches!(essence, "text/html" | "application/xhtml+xml")
}

fn is_json(essence: &str) -> bool {
    essence == "application/json" || essence.ends_with("+json")
}

/// True for a gate that a probe must open: time alone does not, but for one real attempt now and then.
#[must_use]
pub fn awaits_probe(gate: &Gate) -> bool {
    gate.reason == GateReason::Portal
        && gate.failures > 0
        && !gate.failures.is_multiple_of(FAILURES_PER_ATTEMPT)
}

/// The gate of another origin when a portal was met at one: it waits as long.
#[must_use]
pub fn gate_beside(portal: &Gate, origin: &Origin, old: Option<&Gate>) -> Gate {
    let key = GateKey::Origin(origin.clone());
    let mut gate = Gate::new(key, GateReason::Portal, portal.closed_until, portal.changed);
    gate.backoff_ms = portal.backoff_ms;
    let Some(old) = old else { return gate };
    gate.failures = old.failures.max(1);
    gate.extra = old.extra.clone();
    merge_gates(old.clone(), gate)
}

#[cfg(test)]
mod tests;
