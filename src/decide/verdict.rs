//! What one attempt means: one pure function over the status, or the failure, and what was known before.
//! Unknown means retry: a wrong "permanent" costs a user's work, one retry too many costs a request.

use std::time::Duration;

use http::{HeaderMap, Method};

use super::portal::is_promise_broken;
use super::{Counted, Expects, FailureKind, retry_after};
use crate::action::{DeadReason, Origin, PortalSign, WireState};
use crate::clock::Timestamp;

/// What came of one attempt, and what was known before it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Observation<'a> {
    /// The method of the request.
    pub method: &'a Method,
    /// The origin it went to.
    pub origin: &'a Origin,
    /// What came back.
    pub observed: Observed<'a>,
    /// What the server may have seen before this attempt.
    pub wire_before: WireState,
    /// The credentials that it carried.
    pub credentials: Stamp,
    /// Whether the origin is well otherwise.
    pub origin_well_since: OriginWell,
    /// The sign of a login page that the [guard](super::PortalGuard) of the origin saw.
    pub portal: Option<PortalSign>,
    /// Whether that sign is this action's own.
    pub portal_doubt: PortalDoubt,
    /// What kind of answer the request expects.
    pub expects: Expects,
    /// When the answer, or the failure, came.
    pub received: Timestamp,
}

impl<'a> Observation<'a> {
    /// The observation of a first attempt without a credentials provider. The rest has its defaults; set what differs.
    #[must_use]
    pub fn new(
        method: &'a Method,
        origin: &'a Origin,
        observed: Observed<'a>,
        received: Timestamp,
    ) -> Self {
        Self {
            method,
            origin,
            observed,
            wire_before: WireState::NeverSent,
            credentials: Stamp::None,
            origin_well_since: OriginWell::No,
            portal: None,
            portal_doubt: PortalDoubt::No,
            expects: Expects::Anything,
            received,
        }
    }
}

/// What came back of an attempt.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Observed<'a> {
    /// An answer.
    Answer {
        /// Its status.
        status: u16,
        /// Its headers.
        headers: &'a HeaderMap,
    },
    /// No answer.
    Failure(FailureKind),
}

impl Observed<'_> {
    /// The status, if there was an answer.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answer { status, .. } => Some(*status),
            Self::Failure(_) => None,
        }
    }
}

/// Which credentials an attempt carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stamp {
    /// None: the vault has no provider.
    #[default]
    None,
    /// What the provider had.
    Current,
    /// What the provider gave after a refresh that this action's 401 asked for.
    Refreshed,
}

/// Has the origin answered something else well (2xx to 4xx) since this action's previous attempt?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OriginWell {
    /// Not that we know.
    #[default]
    No,
    /// It has: a gateway's 502 is then the action's own trouble.
    Yes,
}

/// Is the sign of a login page to be doubted?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortalDoubt {
    /// Not that we know.
    #[default]
    No,
    /// The action's previous attempt met a sign too, and since then the origin has answered something else that no login
    /// page answers: the sign is the action's own.
    Yes,
}

/// What waits before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryScope {
    /// This action, and with it its lane.
    Action,
    /// Everything that goes to the origin.
    Origin,
}

/// What one attempt means.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The server took it.
    Delivered,
    /// Try again later.
    Retry {
        /// What waits.
        scope: RetryScope,
        /// Whether the attempt counts against the action's retries.
        counts: Counted,
        /// The wait that the server asked for, clamped.
        after: Option<Duration>,
    },
    /// Another try will not change it: a dead letter.
    Reject(DeadReason),
    /// The credentials were not taken: the principal waits until they are refreshed.
    Hold,
    /// The server was not reached: the origin waits, connectivity is probed.
    Unreachable,
    /// A login page of the network stands in the server's place: the whole vault waits, and the network is probed.
    Portal(PortalSign),
}

/// An app's own reading of what came back, asked before the table.
///
/// A closure is one too. Here a server says with a 404 that a new record is not known everywhere yet:
///
/// ```
/// # use syncvault::decide::*;
/// let not_yet = |seen: &Observation<'_>| match seen.observed.status() {
///     Some(404) => Some(Verdict::Retry { scope: RetryScope::Action, counts: Counted::Yes, after: None }),
///     _ => None,
/// };
/// fn takes(_: impl Classifier) {}
/// takes(not_yet);
/// ```
pub trait Classifier: Send + Sync + 'static {
    /// The verdict, or nothing for that of the table ([`verdict`]).
    fn classify(&self, observation: &Observation<'_>) -> Option<Verdict>;
}

impl<F> Classifier for F
where
    F: Fn(&Observation<'_>) -> Option<Verdict> + Send + Sync + 'static,
{
    fn classify(&self, observation: &Observation<'_>) -> Option<Verdict> {
        self(observation)
    }
}

/// The table: what an attempt means. Statuses as in RFC 9110, section 15, and RFC 6585.
///
/// | what came back | verdict | counts |
/// | --- | --- | --- |
/// | a sign of a login page, not to be doubted | portal | |
/// | 2xx that breaks what the app said of its server, in doubt | retry | yes |
/// | 2xx; 304 to a GET or HEAD | delivered | |
/// | 429 | retry, the origin waits | no |
/// | 407, 502, 503, 504, 520-530 | retry, the origin waits | if the origin is well otherwise, without `Retry-After` |
/// | 408, 423, 425, 500, 501, 505-599 | retry | yes |
/// | 1xx, and under 100 or over 599 | retry | yes |
/// | 409 after an unanswered attempt | retry | yes |
/// | 401 | hold; reject after a refresh and without a provider | no |
/// | other 4xx, other 3xx | reject | |
/// | 511; no name, no connection, no handshake | unreachable | |
/// | timeout or break after bytes may have left | retry | yes |
///
/// A `Retry-After` is honoured on every retry, at most `retry_after_max`.
///
/// ```
/// # use syncvault::{action::Origin, clock::Timestamp, decide::*};
/// # use std::time::Duration;
/// let origin = Origin::from_stored("https://api.example.com:443");
/// let lost = Observed::Failure(FailureKind::Dns);
/// let seen = Observation::new(&http::Method::POST, &origin, lost, Timestamp::EPOCH);
/// assert_eq!(verdict(&seen, Duration::from_secs(3600)), Verdict::Unreachable);
/// ```
#[must_use]
pub fn verdict(observation: &Observation<'_>, retry_after_max: Duration) -> Verdict {
    if let Some(verdict) = of_portal(observation) {
        return verdict;
    }
    match observation.observed {
        Observed::Failure(kind) => of_failure(kind),
        Observed::Answer { status, headers } => {
            let after = retry_after(headers, observation.received, retry_after_max);
            of_status(observation, status, after)
        }
    }
}

/// True when an answer with this status shows that its origin is well: 2xx to 4xx, except those by which a server, or a
/// proxy before it, says that it does not serve now (407, 408, 425, 429).
#[must_use]
pub fn is_good_answer(status: u16) -> bool {
    matches!(status, 200..=499) && !matches!(status, 407 | 408 | 425 | 429)
}

/// Nothing when there is no sign, or when it is the action's own: the rest of the table reads the answer then.
fn of_portal(observation: &Observation<'_>) -> Option<Verdict> {
    let sign = observation.portal?;
    match observation.portal_doubt {
        PortalDoubt::No => Some(Verdict::Portal(sign)),
        PortalDoubt::Yes => {
            let status = observation.observed.status();
            is_promise_broken(sign, status, observation.expects).then_some(Verdict::Retry {
                scope: RetryScope::Action,
                counts: Counted::Yes,
                after: None,
            })
        }
    }
}

fn of_status(observation: &Observation<'_>, status: u16, after: Option<Duration>) -> Verdict {
    use RetryScope::{Action, Origin};
    let retry = |scope, counts| Verdict::Retry {
        scope,
        counts,
        after,
    };
    match status {
        200..=299 => Verdict::Delivered,
        304 if is_read(observation.method) => Verdict::Delivered,
        300..=399 => Verdict::Reject(DeadReason::Redirected { status }),
        401 => of_unauthorized(observation.credentials),
        409 if observation.wire_before == WireState::MaybeSent => retry(Action, Counted::Yes),
        429 => retry(Origin, Counted::No),
        407 | 502 | 503 | 504 | 520..=530 => {
            let is_own_trouble = observation.origin_well_since == OriginWell::Yes;
            match (is_own_trouble, after) {
                (true, None) => retry(Action, Counted::Yes),
                _ => retry(Origin, Counted::No),
            }
        }
        511 => Verdict::Unreachable,
        408 | 423 | 425 => retry(Action, Counted::Yes),
        400..=499 => Verdict::Reject(DeadReason::Rejected { status }),
        _ => retry(Action, Counted::Yes),
    }
}

/// A read that is told "not modified" (RFC 9110, section 15.4.5) got what it asked for.
fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn of_unauthorized(credentials: Stamp) -> Verdict {
    match credentials {
        Stamp::Current => Verdict::Hold,
        Stamp::None | Stamp::Refreshed => Verdict::Reject(DeadReason::Unauthorized { status: 401 }),
    }
}

fn of_failure(kind: FailureKind) -> Verdict {
    let retry = |counts| Verdict::Retry {
        scope: RetryScope::Action,
        counts,
        after: None,
    };
    match kind {
        FailureKind::Dns
        | FailureKind::Connect
        | FailureKind::Tls
        | FailureKind::TlsName
        | FailureKind::ConnectTimeout => Verdict::Unreachable,
        FailureKind::Timeout | FailureKind::Interrupted | FailureKind::Other => retry(Counted::Yes),
        FailureKind::Redirect | FailureKind::Invalid | FailureKind::Body => {
            Verdict::Reject(DeadReason::Unsendable {
                detail: kind.to_string(),
            })
        }
        FailureKind::Credentials => Verdict::Hold,
        FailureKind::NotActive | FailureKind::Local => retry(Counted::No),
    }
}

#[cfg(test)]
mod tests;
