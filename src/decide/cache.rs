//! What may be cached, and when a cached answer may be given (RFC 9111, RFC 5861), as a cache of one user sees it. Freshness and
//! storability are those of `http-cache-semantics`; what is kept of an answer, and what is said of it, is decided here.

mod control;
mod head;

use std::time::{Duration, SystemTime};

use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, COOKIE, DATE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
    PRAGMA, PROXY_AUTHORIZATION, RANGE, VARY,
};
use http::{Method, StatusCode};
use http_cache_semantics::{BeforeRequest, CacheOptions, CachePolicy};

use self::control::Directives;
pub(crate) use self::head::{AnswerHead, Given, Moments};
use super::is_credential;
use crate::clock::Timestamp;

/// Why the server gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It was not asked, or not reached.
    Away,
    /// It answered with this status, which is none to give to the caller.
    Answered(u16),
}

impl Trouble {
    /// An error in the sense of `stale-if-error` (RFC 5861, section 4).
    fn is_error(self) -> bool {
        match self {
            Self::Away => true,
            Self::Answered(status) => matches!(status, 500 | 502 | 503 | 504),
        }
    }
}

/// May a request be answered from a cache, and its answer be kept? Not one that asks for a part, that brings conditions of its own,
/// or that forbids it; and not one with credentials of its own: nothing here knows whose they are.
pub(crate) fn is_cacheable(method: &Method, headers: &HeaderMap) -> bool {
    const OWN: [HeaderName; 6] = [
        RANGE,
        IF_RANGE,
        IF_MATCH,
        IF_NONE_MATCH,
        IF_MODIFIED_SINCE,
        IF_UNMODIFIED_SINCE,
    ];
    matches!(*method, Method::GET | Method::HEAD)
        && !OWN.iter().any(|name| headers.contains_key(name))
        && !headers
            .iter()
            .any(|(name, value)| is_credential(name, value))
        && !Directives::of(headers).has("no-store")
}

/// May this answer to a GET be kept?
pub(crate) fn is_storable(request: &HeaderMap, status: u16, headers: &HeaderMap) -> bool {
    let Ok(status) = StatusCode::from_u16(status) else {
        return false;
    };
    let forbids = vary_of(headers).is_none() || Directives::of(headers).has("no-store");
    !forbids && policy(request, status, headers.clone(), SystemTime::UNIX_EPOCH).is_storable()
}

/// By which headers of the request the server chose; nothing = by something else too. The credentials that the vault stamps on are
/// left out: the principal stands for them.
fn vary_of(headers: &HeaderMap) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for value in headers.get_all(VARY) {
        for name in value.to_str().ok()?.split(',') {
            let name = name.trim().to_ascii_lowercase();
            match name.as_str() {
                "*" => return None,
                "" => {}
                _ => names.push(name),
            }
        }
    }
    let credentials = [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE];
    names.retain(|name| !credentials.iter().any(|one| one.as_str() == name));
    names.sort();
    names.dedup();
    Some(names)
}

/// What the request says in these headers, in one text.
fn choice(names: &[String], request: &HeaderMap) -> String {
    if names.is_empty() {
        return String::new();
    }
    let mut hash = blake3::Hasher::new();
    for name in names {
        hash.update(name.as_bytes());
        hash.update(&[0]);
        for value in request.get_all(name) {
            hash.update(value.as_bytes());
            hash.update(&[1]);
        }
        hash.update(&[2]);
    }
    hash.finalize().to_hex().as_str()[..32].to_owned()
}

fn policy(
    request: &HeaderMap,
    status: StatusCode,
    mut headers: HeaderMap,
    at: SystemTime,
) -> CachePolicy {
    // How old it was when it came is counted here.
    headers.remove(AGE);
    let mut asked = http::Request::new(());
    asked.headers_mut().clone_from(request);
    let mut answer = http::Response::new(());
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    // The header by which it was chosen was compared already.
    answer.headers_mut().remove(VARY);
    let options = CacheOptions {
        shared: false,
        ..CacheOptions::default()
    };
    CachePolicy::new_options(&asked, &answer, at, options)
}

/// What a caller allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    /// The headers of the request.
    pub(crate) request: &'a HeaderMap,
    /// How stale an answer may be when there is no other.
    pub(crate) max_stale: Duration,
    /// Since when something that was written makes it stale.
    pub(crate) stale_since: Option<Timestamp>,
}

impl AnswerHead {
    /// How old the answer is now (RFC 9111, section 4.2.3). A clock that was set back makes it no younger.
    pub(crate) fn age(&self, now: Timestamp) -> Duration {
        let headers = self.headers();
        let text = |name| headers.get(name)?.to_str().ok();
        let told = text(AGE).and_then(|age| age.parse().ok());
        let told = Duration::from_secs(told.unwrap_or(0));
        let date = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok());
        let apparent = date.map_or(Duration::ZERO, |date| self.at.since(date.into()));
        let initial = apparent.max(told.saturating_add(self.at.since(self.asked)));
        let resident = now.since(self.at).max(self.at.since(now));
        initial.saturating_add(resident)
    }

    fn lifetime(&self, request: &HeaderMap) -> Duration {
        let at = SystemTime::from(self.at);
        policy(request, self.status(), self.headers().clone(), at).time_to_live(at)
    }

    /// For how long it is fresh yet, in seconds; below zero: for how long it has not been.
    fn ttl(&self, request: &HeaderMap, now: Timestamp) -> i64 {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        seconds(self.lifetime(request)).saturating_sub(seconds(self.age(now)))
    }

    /// Is it fresh, for this request?
    pub(crate) fn is_fresh(&self, terms: &Terms<'_>, now: Timestamp) -> bool {
        if terms.stale_since.is_some() || Directives::of(self.headers()).has("no-cache") {
            return false;
        }
        let now = SystemTime::from(now);
        let Some(at) = now.checked_sub(self.age(now.into())) else {
            return false;
        };
        // `Expires` counts from the date of the answer, which is there, or is when it came.
        let mut headers = self.headers().clone();
        if let Ok(date) = HeaderValue::from_str(&self.at.to_string()) {
            headers.entry(DATE).or_insert(date);
        }
        let policy = policy(terms.request, self.status(), headers, at);
        let mut asked = http::Request::new(());
        asked.headers_mut().clone_from(terms.request);
        let answer = policy.before_request(&asked, now);
        matches!(answer, BeforeRequest::Fresh(_)) && !policy.is_stale(now)
    }

    /// May it be given when there is no other answer?
    pub(crate) fn is_usable(&self, terms: &Terms<'_>, trouble: Trouble, now: Timestamp) -> bool {
        let asked = Directives::of(terms.request);
        let is_pragma = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"no-cache");
        let forbids = asked.has("no-cache")
            || (!terms.request.contains_key(CACHE_CONTROL)
                && terms.request.get(PRAGMA).is_some_and(is_pragma));
        if forbids {
            return false;
        }
        if self.is_fresh(terms, now) {
            return true;
        }
        let told = Directives::of(self.headers());
        if told.has("no-cache") || told.has("must-revalidate") {
            return false;
        }
        let mut allowed = terms.max_stale.max(asked.seconds_or_any("max-stale"));
        if trouble.is_error() {
            let if_error = "stale-if-error";
            allowed = allowed
                .max(told.seconds(if_error).unwrap_or_default())
                .max(asked.seconds(if_error).unwrap_or_default());
        }
        !allowed.is_zero() && self.staleness(&asked, terms, now) <= allowed
    }

    fn staleness(&self, asked: &Directives, terms: &Terms<'_>, now: Timestamp) -> Duration {
        let wanted = asked.seconds("max-age").unwrap_or(Duration::MAX);
        let spare = asked.seconds("min-fresh").unwrap_or_default();
        let lifetime = self.lifetime(terms.request).min(wanted);
        let by_age = self.age(now).saturating_sub(lifetime.saturating_sub(spare));
        // As with the age: a clock that was set back makes it no less stale.
        let by_write = |since: Timestamp| now.since(since).max(since.since(now));
        let by_write = terms.stale_since.map(by_write);
        by_age.max(by_write.unwrap_or_default())
    }

    /// Lets the server say "not modified". False when the answer has nothing to tell it by.
    pub(crate) fn set_conditions(&self, request: &mut HeaderMap) -> bool {
        let conditions = [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)];
        let mut is_set = false;
        for (validator, condition) in conditions {
            if let Some(value) = self.headers().get(validator) {
                request.insert(condition, value.clone());
                is_set = true;
            }
        }
        is_set
    }
}

#[cfg(test)]
mod tests;
