//! Which headers of a request may be stored. Credentials may not; what belongs to one connection need not.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

/// True when a header is a credential: `Authorization`, `Proxy-Authorization`, `Cookie`, and every value that the app
/// marked as sensitive ([`HeaderValue::set_sensitive`]).
#[must_use]
pub fn is_credential(name: &HeaderName, value: &HeaderValue) -> bool {
    let names = [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE];
    value.is_sensitive() || names.contains(name)
}

/// The headers of a request in two parts: those that may be stored, and the credentials.
///
/// Left out of both is what every attempt makes anew from the URL, the body and the connection: `Host`,
/// `Content-Length`, and the fields of one hop (RFC 9110, section 7.6.1), those named in `Connection` included. Stored,
/// they would be wrong for another connection, or send a request elsewhere than its URL says. A credential that
/// `Connection` names is still a credential.
///
/// ```
/// # use syncvault::decide::split_credentials;
/// let mut headers = http::HeaderMap::new();
/// headers.insert("authorization", "Bearer x".parse().unwrap());
/// headers.insert("accept", "text/plain".parse().unwrap());
/// headers.insert("host", "other.example".parse().unwrap());
/// let (storable, credentials) = split_credentials(&headers);
/// assert!(storable.len() == 1 && storable.contains_key("accept"));
/// assert!(credentials.len() == 1 && credentials.contains_key("authorization"));
/// ```
#[must_use]
pub fn split_credentials(headers: &HeaderMap) -> (HeaderMap, HeaderMap) {
    let (mut storable, mut credentials) = (HeaderMap::new(), HeaderMap::new());
    for (name, value) in headers {
        if is_credential(name, value) {
            credentials.append(name, value.clone());
        } else if !is_made_anew(name) && !is_named_by_connection(headers, name) {
            storable.append(name, value.clone());
        }
    }
    (storable, credentials)
}

fn is_made_anew(name: &HeaderName) -> bool {
    let standard = [
        HOST,
        CONTENT_LENGTH,
        CONNECTION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    standard.contains(name) || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

fn is_named_by_connection(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        value.as_bytes().split(|byte| *byte == b',').any(|option| {
            option
                .trim_ascii()
                .eq_ignore_ascii_case(name.as_str().as_bytes())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn credentials_are_never_storable() {
        let mut headers = map(&[
            ("Authorization", "Bearer x"),
            ("Proxy-Authorization", "Basic x"),
            ("Cookie", "a=1"),
            ("Cookie", "b=2"),
            ("X-Api-Key", "secret"),
            ("X-Plain", "1"),
        ]);
        headers
            .get_mut("x-api-key")
            .expect("there")
            .set_sensitive(true);
        let (storable, credentials) = split_credentials(&headers);
        assert_eq!(storable, map(&[("X-Plain", "1")]));
        assert_eq!(credentials.len(), 5);
        assert_eq!(credentials.get_all("cookie").iter().count(), 2);
    }

    #[test]
    fn one_sensitive_value_among_others_is_enough() {
        let mut headers = map(&[("X-Token", "public")]);
        let mut secret = HeaderValue::from_static("secret");
        secret.set_sensitive(true);
        headers.append("X-Token", secret);
        let (storable, credentials) = split_credentials(&headers);
        assert_eq!(storable, map(&[("X-Token", "public")]));
        assert_eq!(credentials["x-token"], "secret");
    }

    #[test]
    fn what_belongs_to_one_connection_is_left_out() {
        let headers = map(&[
            ("Host", "h"),
            ("Content-Length", "3"),
            ("Transfer-Encoding", "chunked"),
            ("TE", "trailers"),
            ("Trailer", "x"),
            ("Upgrade", "h2c"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "close"),
            ("Connection", "close, X-Hop"),
            ("Connection", "x-other , authorization"),
            ("X-Hop", "1"),
            ("X-Other", "1"),
            ("Authorization", "Bearer x"),
            ("Content-Type", "text/plain"),
            ("Content-Encoding", "gzip"),
            ("Accept", "a"),
            ("Accept", "b"),
        ]);
        let (storable, credentials) = split_credentials(&headers);
        let want = map(&[
            ("Content-Type", "text/plain"),
            ("Content-Encoding", "gzip"),
            ("Accept", "a"),
            ("Accept", "b"),
        ]);
        assert_eq!(storable, want);
        assert_eq!(credentials, map(&[("Authorization", "Bearer x")]));
    }
}
