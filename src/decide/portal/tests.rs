//! The signs of a login page against the statuses, headers and expectations they can come with; and when they are doubted.

use std::time::Duration;

use http::{HeaderValue, Method};

use super::*;
use crate::action::DeadReason;
use crate::clock::Timestamp;
use crate::decide::{Counted, Observation, PortalDoubt, RetryScope, Verdict, verdict};

const JSON: &str = "application/json; charset=utf-8";
const PAGE: &str = "Text/HTML; charset=utf-8";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pairs = pairs.iter().map(|(name, value)| {
        let value = HeaderValue::from_str(value).expect("value");
        (HeaderName::from_static(name), value)
    });
    pairs.collect()
}

fn asked() -> Url {
    "http://a.example/x/y".parse().expect("url")
}

fn sign(
    guard: &PortalGuard,
    status: u16,
    headers: &HeaderMap,
    expects: Expects,
) -> Option<PortalSign> {
    guard.sign(&asked(), &Observed::Answer { status, headers }, expects)
}

/// Every status, with and without a page, a way elsewhere and the declared header, for every expectation.
#[test]
fn each_sign_is_seen_where_it_is_one_and_nowhere_else() {
    let name = HeaderName::from_static("x-ours");
    let ours = PortalGuard::all().with_header(name);
    for status in 100..=999 {
        for bits in 0..8_u8 {
            let (is_page, is_away, is_ours) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
            let mut pairs = vec![("content-type", if is_page { PAGE } else { JSON })];
            pairs.extend(is_away.then_some(("location", "http://login.example/")));
            pairs.extend(is_ours.then_some(("x-ours", "1")));
            let headers = headers(&pairs);
            for expects in [Expects::Anything, Expects::JsonByAccept, Expects::Json] {
                let is_success = (200..300).contains(&status);
                let want = if status == 511 {
                    Some(PortalSign::Status)
                } else if !is_ours && is_good_answer(status) {
                    Some(PortalSign::MissingHeader)
                } else if is_away && matches!(status, 301..=303 | 307 | 308) {
                    Some(PortalSign::Redirect)
                } else if is_page && is_success && expects != Expects::Anything {
                    Some(PortalSign::Html)
                } else {
                    None
                };
                let got = sign(&ours, status, &headers, expects);
                assert_eq!(got, want, "{status} {pairs:?} {expects:?}");
                assert_eq!(sign(&PortalGuard::off(), status, &headers, expects), None);
                let deaf = want.map(|sign| PortalGuard::all().without(sign));
                if let Some(deaf) = deaf {
                    assert_ne!(sign(&deaf, status, &headers, expects), want);
                }
            }
        }
    }
}

#[test]
fn only_another_origin_is_away() {
    let table = [
        ("/login", false),
        ("http://a.example:80/z", false),
        ("//a.example/z", false),
        ("https://a.example/x/y", false),
        ("https://a.example:8443/", true),
        ("http://a.example:8080/", true),
        ("https://b.example/", true),
        ("//b.example", true),
        ("http://10.0.0.1/portal?u=a.example", true),
        ("http://[bad", false),
    ];
    for (to, is_away) in table {
        let got = sign(
            &PortalGuard::all(),
            302,
            &headers(&[("location", to)]),
            Expects::Json,
        );
        assert_eq!(got, is_away.then_some(PortalSign::Redirect), "{to}");
    }
    let https: Url = "https://a.example/".parse().expect("url");
    let headers = headers(&[("location", "http://a.example/")]);
    let seen = Observed::Answer {
        status: 302,
        headers: &headers,
    };
    let got = PortalGuard::all().sign(&https, &seen, Expects::Anything);
    assert_eq!(got, Some(PortalSign::Redirect), "down to http");
}

#[test]
fn what_a_request_expects_is_what_it_says() {
    use Expects::{Anything, Json, JsonByAccept};
    let table: [(&[&str], Expects, Expects); 9] = [
        (&[], Anything, Json),
        (&["*/*"], Anything, Json),
        (&["application/json"], JsonByAccept, Json),
        (&["Application/Problem+JSON;q=0.5"], JsonByAccept, Json),
        (&["text/plain, application/json"], JsonByAccept, Json),
        (&["text/plain", "application/json"], JsonByAccept, Json),
        (&["application/json, text/html;q=0.1"], Anything, Anything),
        (&["application/xhtml+xml"], Anything, Anything),
        (&["image/png"], Anything, Json),
    ];
    for (accept, usual, when_vault_says) in table {
        let pairs = accept.iter().map(|value| ("accept", *value));
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(Expects::of(false, false, &headers), usual, "{accept:?}");
        assert_eq!(
            Expects::of(false, true, &headers),
            when_vault_says,
            "{accept:?}"
        );
        assert_eq!(Expects::of(true, false, &headers), Json, "{accept:?}");
    }
}

#[test]
fn of_failures_only_a_certificate_for_another_name_is_a_sign() {
    for kind in FailureKind::ALL {
        let got = PortalGuard::all().sign(&asked(), &Observed::Failure(kind), Expects::Json);
        let want = (kind == FailureKind::TlsName).then_some(PortalSign::CertificateName);
        assert_eq!(got, want, "{kind}");
    }
}

fn judged(status: u16, sign: Option<PortalSign>, doubt: PortalDoubt, expects: Expects) -> Verdict {
    let origin = Origin::from_stored("http://a.example:80");
    let headers = HeaderMap::new();
    let answer = Observed::Answer {
        status,
        headers: &headers,
    };
    let mut seen = Observation::new(&Method::POST, &origin, answer, Timestamp::EPOCH);
    (seen.portal, seen.portal_doubt, seen.expects) = (sign, doubt, expects);
    verdict(&seen, Duration::ZERO)
}

/// A sign is a portal until it is doubted; then the table reads the answer, and a broken promise is no delivery.
#[test]
fn a_doubted_sign_falls_through_to_the_table() {
    let again = Verdict::Retry {
        scope: RetryScope::Action,
        counts: Counted::Yes,
        after: None,
    };
    for status in 100..=999 {
        for expects in [Expects::Anything, Expects::JsonByAccept, Expects::Json] {
            for doubt in [PortalDoubt::No, PortalDoubt::Yes] {
                let table = judged(status, None, PortalDoubt::No, expects);
                assert_eq!(
                    judged(status, None, doubt, expects),
                    table,
                    "no sign, no doubt"
                );
                for sign in PortalSign::ALL {
                    let is_success = (200..300).contains(&status);
                    let is_broken = is_success
                        && (sign == PortalSign::MissingHeader
                            || (sign == PortalSign::Html && expects == Expects::Json));
                    let want = match doubt {
                        PortalDoubt::No => Verdict::Portal(sign),
                        PortalDoubt::Yes if is_broken => again.clone(),
                        PortalDoubt::Yes => table.clone(),
                    };
                    assert_eq!(judged(status, Some(sign), doubt, expects), want);
                }
            }
        }
    }
    let moved = judged(
        302,
        Some(PortalSign::Redirect),
        PortalDoubt::Yes,
        Expects::Json,
    );
    assert_eq!(
        moved,
        Verdict::Reject(DeadReason::Redirected { status: 302 })
    );
    let page = judged(
        200,
        Some(PortalSign::Html),
        PortalDoubt::Yes,
        Expects::JsonByAccept,
    );
    assert_eq!(page, Verdict::Delivered);
}

#[test]
fn a_portal_waits_for_a_probe_but_for_every_eighth_look() {
    let key = GateKey::Origin(Origin::from_stored("http://a.example:80"));
    let mut gate = Gate::new(key, GateReason::Portal, Timestamp::EPOCH, Timestamp::EPOCH);
    for failures in 0..100 {
        gate.failures = failures;
        assert_eq!(awaits_probe(&gate), failures % 8 != 0, "{failures}");
    }
    (gate.failures, gate.reason) = (1, GateReason::Unreachable);
    assert!(!awaits_probe(&gate));
}

/// What the server asked for stays, whatever the network does.
#[test]
fn a_gate_beside_a_portal_waits_as_long_and_not_for_less_than_it_was_told() {
    let (now, until) = (Timestamp::from_millis(1000), Timestamp::from_millis(5000));
    let other = Origin::from_stored("http://b.example:80");
    let key = GateKey::Origin(Origin::from_stored("http://a.example:80"));
    let portal = Gate::new(key, GateReason::Portal, until, now);
    let gate = gate_beside(&portal, &other, None);
    assert_eq!((gate.reason, gate.failures), (GateReason::Portal, 1));
    assert_eq!(
        (gate.closed_until, gate.key.clone()),
        (until, GateKey::Origin(other.clone()))
    );
    let late = Timestamp::from_millis(9000);
    let told = Gate::new(gate.key, GateReason::RateLimited, late, now);
    let gate = gate_beside(&portal, &other, Some(&told));
    assert_eq!(
        (gate.reason, gate.closed_until),
        (GateReason::RateLimited, late)
    );
}
