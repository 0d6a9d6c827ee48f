//! The table of verdicts as data, written apart from the code, against every status and everything known before.

use http::HeaderValue;
use http::header::RETRY_AFTER;

use super::*;

const MAX: Duration = Duration::from_secs(3600);

/// What a row of the table says.
#[derive(Clone, Copy, Debug)]
enum Row {
    Delivered,
    /// Read: delivered; write: redirected.
    NotModified,
    Redirected,
    Rejected,
    /// By the credentials that were sent.
    Unauthorized,
    /// Retry after an unanswered attempt, reject otherwise.
    Conflict,
    RetryAction,
    RetryOrigin,
    /// Counts when the origin is well otherwise and did not say when to come back.
    Gateway,
    Unreachable,
}

/// Every status, in order, without gaps.
const TABLE: [(u16, u16, Row); 37] = [
    (0, 199, Row::RetryAction),
    (200, 299, Row::Delivered),
    (300, 303, Row::Redirected),
    (304, 304, Row::NotModified),
    (305, 399, Row::Redirected),
    (400, 400, Row::Rejected),
    (401, 401, Row::Unauthorized),
    (402, 406, Row::Rejected),
    (407, 407, Row::Gateway),
    (408, 408, Row::RetryAction),
    (409, 409, Row::Conflict),
    (410, 422, Row::Rejected),
    (423, 423, Row::RetryAction),
    (424, 424, Row::Rejected),
    (425, 425, Row::RetryAction),
    (426, 428, Row::Rejected),
    (429, 429, Row::RetryOrigin),
    (430, 499, Row::Rejected),
    (500, 500, Row::RetryAction),
    (501, 501, Row::RetryAction),
    (502, 502, Row::Gateway),
    (503, 503, Row::Gateway),
    (504, 504, Row::Gateway),
    (505, 505, Row::RetryAction),
    (506, 510, Row::RetryAction),
    (511, 511, Row::Unreachable),
    (512, 519, Row::RetryAction),
    (520, 520, Row::Gateway),
    (521, 521, Row::Gateway),
    (522, 522, Row::Gateway),
    (523, 523, Row::Gateway),
    (524, 524, Row::Gateway),
    (525, 529, Row::Gateway),
    (530, 530, Row::Gateway),
    (531, 599, Row::RetryAction),
    (600, 999, Row::RetryAction),
    (1000, u16::MAX, Row::RetryAction),
];

struct Case {
    status: u16,
    row: Row,
    method: Method,
    wire: WireState,
    stamp: Stamp,
    well: OriginWell,
    after: Option<Duration>,
}

fn expected(case: &Case) -> Verdict {
    let status = case.status;
    let retry = |scope, counts| Verdict::Retry {
        scope,
        counts,
        after: case.after,
    };
    match case.row {
        Row::Delivered => Verdict::Delivered,
        Row::NotModified if case.method == Method::GET => Verdict::Delivered,
        Row::NotModified | Row::Redirected => Verdict::Reject(DeadReason::Redirected { status }),
        Row::Rejected => Verdict::Reject(DeadReason::Rejected { status }),
        Row::Unauthorized if case.stamp == Stamp::Current => Verdict::Hold,
        Row::Unauthorized => Verdict::Reject(DeadReason::Unauthorized { status }),
        Row::Conflict if case.wire == WireState::MaybeSent => {
            retry(RetryScope::Action, Counted::Yes)
        }
        Row::Conflict => Verdict::Reject(DeadReason::Rejected { status }),
        Row::RetryAction => retry(RetryScope::Action, Counted::Yes),
        Row::RetryOrigin => retry(RetryScope::Origin, Counted::No),
        Row::Gateway if case.well == OriginWell::Yes && case.after.is_none() => {
            retry(RetryScope::Action, Counted::Yes)
        }
        Row::Gateway => retry(RetryScope::Origin, Counted::No),
        Row::Unreachable => Verdict::Unreachable,
    }
}

fn judge(case: &Case, observed: Observed<'_>) -> Verdict {
    let origin = Origin::from_stored("https://a.example:443");
    let mut seen = Observation::new(&case.method, &origin, observed, Timestamp::EPOCH);
    seen.wire_before = case.wire;
    seen.credentials = case.stamp;
    seen.origin_well_since = case.well;
    verdict(&seen, MAX)
}

fn judge_answer(case: &Case) -> Verdict {
    let mut headers = HeaderMap::new();
    if let Some(after) = case.after {
        headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
    }
    let status = case.status;
    judge(
        case,
        Observed::Answer {
            status,
            headers: &headers,
        },
    )
}

/// Everything that can be known before, for one status.
fn cases(status: u16, row: Row) -> Vec<Case> {
    let mut cases = Vec::new();
    for method in [Method::GET, Method::POST] {
        for wire in [
            WireState::NeverSent,
            WireState::MaybeSent,
            WireState::Answered,
        ] {
            for stamp in [Stamp::None, Stamp::Current, Stamp::Refreshed] {
                for well in [OriginWell::No, OriginWell::Yes] {
                    for after in [None, Some(Duration::ZERO), Some(Duration::from_secs(7))] {
                        let method = method.clone();
                        cases.push(Case {
                            status,
                            row,
                            method,
                            wire,
                            stamp,
                            well,
                            after,
                        });
                    }
                }
            }
        }
    }
    cases
}

#[test]
fn the_table_covers_every_status_once() {
    let mut next = 0_u32;
    for (first, last, _) in TABLE {
        assert_eq!(u32::from(first), next, "gap or overlap before {first}");
        next = u32::from(last) + 1;
    }
    assert_eq!(next, u32::from(u16::MAX) + 1);
}

#[test]
fn every_status_is_read_as_the_table_says() {
    for (first, last, row) in TABLE {
        for status in first..=last.min(1010) {
            for case in cases(status, row) {
                assert_eq!(
                    judge_answer(&case),
                    expected(&case),
                    "{} {status}, wire {:?}, stamp {:?}, well {:?}, after {:?}",
                    case.method,
                    case.wire,
                    case.stamp,
                    case.well,
                    case.after,
                );
            }
        }
    }
}

#[test]
fn a_wait_that_cannot_be_understood_is_no_wait() {
    let method = Method::POST;
    let origin = Origin::from_stored("https://a.example:443");
    let mut headers = HeaderMap::new();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("soon"));
    let answer = Observed::Answer {
        status: 503,
        headers: &headers,
    };
    let mut seen = Observation::new(&method, &origin, answer, Timestamp::EPOCH);
    seen.origin_well_since = OriginWell::Yes;
    let want = Verdict::Retry {
        scope: RetryScope::Action,
        counts: Counted::Yes,
        after: None,
    };
    assert_eq!(verdict(&seen, MAX), want);
}

#[test]
fn every_failure_is_read_as_the_table_says() {
    let retry = |counts| Verdict::Retry {
        scope: RetryScope::Action,
        counts,
        after: None,
    };
    let unsendable = |detail: &str| {
        Verdict::Reject(DeadReason::Unsendable {
            detail: detail.to_owned(),
        })
    };
    let table = [
        (FailureKind::Dns, true, Verdict::Unreachable),
        (FailureKind::Connect, true, Verdict::Unreachable),
        (FailureKind::Tls, true, Verdict::Unreachable),
        (FailureKind::TlsName, true, Verdict::Unreachable),
        (FailureKind::ConnectTimeout, true, Verdict::Unreachable),
        (FailureKind::Timeout, false, retry(Counted::Yes)),
        (FailureKind::Interrupted, false, retry(Counted::Yes)),
        (
            FailureKind::Redirect,
            false,
            unsendable("too many redirects"),
        ),
        (
            FailureKind::Invalid,
            true,
            unsendable("request cannot be built"),
        ),
        (FailureKind::Body, false, unsendable("kept body is damaged")),
        (FailureKind::Credentials, true, Verdict::Hold),
        (FailureKind::NotActive, true, retry(Counted::No)),
        (FailureKind::Local, true, retry(Counted::No)),
        (FailureKind::Other, false, retry(Counted::Yes)),
    ];
    assert_eq!(table.each_ref().map(|(kind, ..)| *kind), FailureKind::ALL);
    for (kind, never_left, want) in table {
        assert_eq!(kind.never_left(), never_left, "{kind:?}");
        for case in cases(0, Row::RetryAction) {
            assert_eq!(judge(&case, Observed::Failure(kind)), want, "{kind:?}");
        }
    }
}

#[test]
fn a_good_answer_comes_from_a_server_that_serves() {
    let bad = [407, 408, 425, 429];
    for status in 0..=1010 {
        let want = (200..500).contains(&status) && !bad.contains(&status);
        assert_eq!(is_good_answer(status), want, "{status}");
    }
}
