//! Which redirects are followed (RFC 9110, section 15.4): within the origin, and with the method unchanged.
//! Everything else is an answer: credentials never follow to another origin, and no POST becomes a GET.

use http::{HeaderValue, Method};
use reqwest::Url;

use crate::action::Origin;

/// How many redirects one attempt follows.
pub const REDIRECTS_MAX: usize = 5;

/// What to do with a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Redirect {
    /// Send the same request, with the same method and body, to this URL.
    Follow(Url),
    /// Take the redirect for the answer.
    Refuse,
}

/// Whether an answer with `status` to a request to `from` is followed.
///
/// 307 and 308 keep method and body, so they are followed for any method; 301, 302 and 303 for GET and HEAD only.
/// The target must have the scheme, host and port of `from`, and `Location` must not bring a user name or password.
///
/// ```
/// # use syncvault::decide::{Redirect, follow};
/// # use http::{HeaderValue, Method};
/// let from = "https://a.example/old".parse().unwrap();
/// let there = |location| follow(&Method::POST, 308, &from, Some(&HeaderValue::from_static(location)));
/// assert_eq!(there("/new"), Redirect::Follow("https://a.example/new".parse().unwrap()));
/// assert_eq!(there("https://b.example/new"), Redirect::Refuse);
/// ```
#[must_use]
pub fn follow(
    method: &Method,
    status: u16,
    from: &Url,
    location: Option<&HeaderValue>,
) -> Redirect {
    if !keeps_method(method, status) {
        return Redirect::Refuse;
    }
    location
        .and_then(|location| target(from, location))
        .map_or(Redirect::Refuse, Redirect::Follow)
}

fn keeps_method(method: &Method, status: u16) -> bool {
    match status {
        307 | 308 => true,
        301..=303 => matches!(*method, Method::GET | Method::HEAD),
        _ => false,
    }
}

fn target(from: &Url, location: &HeaderValue) -> Option<Url> {
    let location = std::str::from_utf8(location.as_bytes()).ok()?;
    let mut base = from.clone();
    base.set_username("").ok()?;
    base.set_password(None).ok()?;
    let mut url = base.join(location).ok()?;
    let brings_user = !url.username().is_empty() || url.password().is_some();
    if brings_user || Origin::of(&url).ok()? != Origin::of(from).ok()? {
        return None;
    }
    url.set_username(from.username()).ok()?;
    url.set_password(from.password()).ok()?;
    Some(url)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("url")
    }

    fn from_a(method: &Method, status: u16, location: &str) -> Redirect {
        let location = HeaderValue::from_str(location).expect("header");
        follow(
            method,
            status,
            &url("https://a.example/x/y?q=1"),
            Some(&location),
        )
    }

    #[test]
    fn only_a_kept_method_is_followed() {
        let reads = [Method::GET, Method::HEAD];
        let writes = [
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
        ];
        for status in 100..=999 {
            for method in reads.iter().chain(&writes) {
                let want = match status {
                    307 | 308 => true,
                    301..=303 => reads.contains(method),
                    _ => false,
                };
                let got = from_a(method, status, "/z") != Redirect::Refuse;
                assert_eq!(got, want, "{method} {status}");
            }
        }
    }

    #[test]
    fn a_redirect_stays_within_its_origin() {
        let followed = [
            ("/z", "https://a.example/z"),
            ("z?w=2", "https://a.example/x/z?w=2"),
            ("?only=query", "https://a.example/x/y?only=query"),
            ("", "https://a.example/x/y?q=1"),
            ("../../../..", "https://a.example/"),
            ("https://a.example:443/z", "https://a.example/z"),
            ("HTTPS://A.EXAMPLE/z", "https://a.example/z"),
            ("//a.example/z", "https://a.example/z"),
        ];
        for (location, want) in followed {
            let got = from_a(&Method::POST, 307, location);
            assert_eq!(got, Redirect::Follow(url(want)), "{location}");
        }
    }

    #[test]
    fn what_leaves_the_origin_is_refused() {
        let refused = [
            "http://a.example/z",
            "https://a.example:8443/z",
            "https://b.example/z",
            "https://a.example.evil.example/z",
            "https://sub.a.example/z",
            "//b.example/z",
            "\\\\b.example/z",
            "/\\b.example/z",
            "https://a.example@b.example/z",
            "https://user@a.example/z",
            "https://user:pass@a.example/z",
            "https://:pass@a.example/z",
            "ftp://a.example/z",
            "javascript:alert(1)",
            "data:,x",
            "https://",
            "https://[::1/z",
        ];
        for location in refused {
            assert_eq!(
                from_a(&Method::GET, 308, location),
                Redirect::Refuse,
                "{location}"
            );
        }
    }

    #[test]
    fn without_a_readable_location_it_is_an_answer() {
        let from = url("https://a.example/");
        assert_eq!(follow(&Method::GET, 307, &from, None), Redirect::Refuse);
        let bytes = HeaderValue::from_bytes(b"/caf\xe9").expect("header");
        assert_eq!(
            follow(&Method::GET, 307, &from, Some(&bytes)),
            Redirect::Refuse
        );
    }

    #[test]
    fn a_user_name_of_the_app_stays_on_its_own_origin() {
        let from = url("https://me:secret@a.example/x");
        let location = HeaderValue::from_static("/z");
        let want = url("https://me:secret@a.example/z");
        assert_eq!(
            follow(&Method::POST, 308, &from, Some(&location)),
            Redirect::Follow(want)
        );
    }

    proptest! {
        /// Goal: no chain of redirects, whatever its `Location`s, leaves the first origin or the first user.
        #[test]
        fn no_chain_leaves_the_origin(
            locations in proptest::collection::vec(
                prop_oneof![
                    "[ -~]{0,40}",
                    "(https?:)?[/\\\\]{0,3}(u(:p)?@)?(a|b|A)\\.example(:[0-9]{1,4})?/[a-z./\\\\@]{0,8}",
                    "[a-z./\\\\@:?#]{0,12}",
                ],
                1..8,
            ),
            status in 300_u16..=310,
        ) {
            let first = url("https://a.example/x");
            let mut at = first.clone();
            for location in &locations {
                let location = HeaderValue::from_str(location).expect("header");
                if let Redirect::Follow(next) = follow(&Method::GET, status, &at, Some(&location)) {
                    at = next;
                }
                prop_assert_eq!(at.scheme(), first.scheme());
                prop_assert_eq!(at.host_str(), first.host_str());
                prop_assert_eq!(at.port_or_known_default(), Some(443));
                prop_assert_eq!(at.username(), "");
                prop_assert_eq!(at.password(), None);
            }
        }
    }
}
