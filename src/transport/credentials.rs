//! What proves who we are: credentials and the app's provider of them. They are put on a request when it
//! leaves and are never stored, shown or logged.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqwest::Url;

/// Headers that prove on whose behalf a request is sent. `Debug` shows their names only.
#[derive(Clone, Default)]
#[must_use]
pub struct Credentials {
    headers: HeaderMap,
    defect: Option<&'static str>,
}

/// `Authorization: Bearer <token>`: short for [`Credentials::bearer`].
pub fn bearer(token: impl AsRef<str>) -> Credentials {
    Credentials::bearer(token)
}

impl Credentials {
    /// No credentials: the request goes out as it is.
    pub fn none() -> Self {
        Self::default()
    }

    /// `Authorization: Bearer <token>`.
    pub fn bearer(token: impl AsRef<str>) -> Self {
        Self::header(AUTHORIZATION, format!("Bearer {}", token.as_ref()))
    }

    /// `Authorization: Basic <base64 of user:password>`.
    pub fn basic(user: impl AsRef<str>, password: impl AsRef<str>) -> Self {
        let pair = format!("{}:{}", user.as_ref(), password.as_ref());
        Self::header(AUTHORIZATION, format!("Basic {}", base64(pair.as_bytes())))
    }

    /// One header of any name, `x-api-key` for example.
    ///
    /// A name or a value that HTTP does not allow makes the attempt fail, with words that do not show it.
    pub fn header<N, V>(name: N, value: V) -> Self
    where
        HeaderName: TryFrom<N>,
        HeaderValue: TryFrom<V>,
    {
        Self::none().and(name, value)
    }

    /// Adds a header. It replaces one of the same name.
    pub fn and<N, V>(mut self, name: N, value: V) -> Self
    where
        HeaderName: TryFrom<N>,
        HeaderValue: TryFrom<V>,
    {
        let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
        else {
            self.defect = Some("a header name or value that HTTP does not allow");
            return self;
        };
        if [CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING].contains(&name) {
            self.defect = Some("a header that says where a message goes or ends");
            return self;
        }
        value.set_sensitive(true);
        self.headers.insert(name, value);
        self
    }

    /// Puts the headers on a request, or tells why they cannot be used.
    pub(super) fn stamp(self, request: &mut reqwest::Request) -> Result<(), &'static str> {
        if let Some(defect) = self.defect {
            return Err(defect);
        }
        request.headers_mut().extend(self.headers);
        Ok(())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// Whether the credentials that the provider gave last are still good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refresh {
    /// Nothing is known against them: a cached token will do.
    No,
    /// The server refused them: get new ones.
    Yes,
}

/// What a provider is asked for: the request that is about to leave. Signing it is possible.
#[derive(Clone)]
#[non_exhaustive]
pub struct CredentialRequest {
    /// The method.
    pub method: Method,
    /// The whole URL.
    pub url: Url,
    /// The headers so far.
    pub headers: HeaderMap,
    /// The body; empty when there is none, nothing when it is streamed from a file.
    pub body: Option<Bytes>,
    /// On whose behalf it is sent, if the action names somebody.
    pub principal: Option<String>,
    /// Whether a cached token will do.
    pub refresh: Refresh,
}

/// Method, host and path: principals, query strings, header values and bodies stay out of logs.
impl fmt::Debug for CredentialRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialRequest")
            .field("method", &self.method)
            .field("host", &self.url.host_str())
            .field("path", &self.url.path())
            .field("refresh", &self.refresh)
            .finish_non_exhaustive()
    }
}

/// An error of the app's own provider.
pub type CredentialError = Box<dyn StdError + Send + Sync>;

/// The future of one call of a provider.
pub type CredentialFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Credentials, CredentialError>> + Send + 'a>>;

/// Gives credentials for each attempt. Async closures that return [`Credentials`], or a `Result` of them, are providers.
///
/// It is called for every attempt, so that a request can be signed. Caching a token is the provider's business.
pub trait CredentialProvider: Send + Sync + 'static {
    /// The credentials for this request.
    fn credentials(&self, request: CredentialRequest) -> CredentialFuture<'_>;
}

impl<F, A, C> CredentialProvider for F
where
    F: Fn(CredentialRequest) -> A + Send + Sync + 'static,
    A: Future<Output = C> + Send + 'static,
    C: IntoCredentials,
{
    fn credentials(&self, request: CredentialRequest) -> CredentialFuture<'_> {
        let answer = self(request);
        Box::pin(async move { answer.await.into_credentials() })
    }
}

/// What a provider's closure may return.
pub trait IntoCredentials {
    /// The credentials, or why there are none.
    ///
    /// # Errors
    ///
    /// The provider's own.
    fn into_credentials(self) -> Result<Credentials, CredentialError>;
}

impl IntoCredentials for Credentials {
    fn into_credentials(self) -> Result<Credentials, CredentialError> {
        Ok(self)
    }
}

impl<E: Into<CredentialError>> IntoCredentials for Result<Credentials, E> {
    fn into_credentials(self) -> Result<Credentials, CredentialError> {
        self.map_err(Into::into)
    }
}

/// Standard base64 with padding (RFC 4648), for `Basic` only: not worth a dependency.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let letter = ALPHABET[(group >> (18 - 6 * place) & 63) as usize];
            out.push(if place > chunk.len() {
                '='
            } else {
                char::from(letter)
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_agrees_with_the_rfc() {
        let table = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in table {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xbf]), "+/+/");
    }

    #[test]
    fn debug_shows_no_value() {
        let all = Credentials::basic("ann", "SECRET").and("x-api-key", "SECRET");
        let text = format!("{all:?} {all:#?}");
        assert!(
            text.contains("x-api-key") && !text.contains("SECRET"),
            "{text}"
        );
    }

    #[test]
    fn a_header_that_cannot_be_is_refused_without_being_shown() {
        for bad in [
            Credentials::bearer("SECRET\r\nx: y"),
            Credentials::header("bad name", "SECRET"),
            Credentials::header("content-length", "5"),
        ] {
            let url = Url::parse("http://a.example").expect("url");
            let mut request = reqwest::Request::new(Method::GET, url);
            let defect = bad.stamp(&mut request).expect_err("refused");
            assert!(!defect.contains("SECRET"));
            assert!(request.headers().is_empty());
        }
    }
}
