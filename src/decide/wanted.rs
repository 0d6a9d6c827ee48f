//! What a request itself says of the answers it may get, over the table of verdicts.

use super::{RetryScope, Verdict};
use crate::action::{DeadReason, StoredRequest};

/// The verdict on an answer of `status` to `request`, when the table says `verdict`.
///
/// A status that the request takes as an answer is one, where the table would refuse it or try it again for itself. What is said of
/// the origin, the network or the credentials stays.
pub(crate) fn as_wanted(verdict: Verdict, status: Option<u16>, request: &StoredRequest) -> Verdict {
    let is_answer = status.is_some_and(|status| request.answers.contains(&status));
    match verdict {
        Verdict::Reject(DeadReason::Unauthorized { .. }) if request.waits_for_credentials => {
            Verdict::Hold
        }
        Verdict::Reject(DeadReason::Rejected { .. })
        | Verdict::Retry {
            scope: RetryScope::Action,
            ..
        } if is_answer => Verdict::Delivered,
        verdict => verdict,
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use reqwest::Url;

    use super::*;
    use crate::decide::Counted;

    fn request() -> StoredRequest {
        let url = Url::parse("http://h/a").expect("a URL");
        StoredRequest::new(Method::PUT, url)
    }

    #[test]
    fn what_a_request_takes_as_an_answer_is_one() {
        let mut wants = request();
        wants.answers = vec![409, 412, 429];
        let retry = |scope| Verdict::Retry {
            scope,
            counts: Counted::Yes,
            after: None,
        };
        let rejected = |status| Verdict::Reject(DeadReason::Rejected { status });
        let table = [
            (412, rejected(412), Verdict::Delivered),
            (409, retry(RetryScope::Action), Verdict::Delivered),
            (422, rejected(422), rejected(422)),
            (429, retry(RetryScope::Origin), retry(RetryScope::Origin)),
            (412, Verdict::Unreachable, Verdict::Unreachable),
        ];
        for (status, verdict, want) in table {
            let plain = as_wanted(verdict.clone(), Some(status), &request());
            assert_eq!(plain, verdict, "{status}");
            assert_eq!(as_wanted(verdict, Some(status), &wants), want, "{status}");
        }
    }

    #[test]
    fn a_request_that_waits_for_credentials_is_not_refused_for_them() {
        let refused = Verdict::Reject(DeadReason::Unauthorized { status: 401 });
        let mut wants = request();
        assert_eq!(as_wanted(refused.clone(), Some(401), &wants), refused);
        wants.waits_for_credentials = true;
        assert_eq!(as_wanted(refused, Some(401), &wants), Verdict::Hold);
    }
}
