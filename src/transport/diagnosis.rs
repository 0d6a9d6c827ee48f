//! What a reqwest error means: its kind, found along the chain of causes, and words that are safe to log.
//! reqwest hides the types below it, so some causes are told apart by the texts of hyper and hyper-util.

use std::error::Error as StdError;
use std::io;

use super::TransportFailure;
use crate::decide::FailureKind;

/// The failure behind an error of reqwest.
pub(super) fn diagnose(error: reqwest::Error) -> TransportFailure {
    let error = error.without_url();
    let kind = kind_of(&error);
    let failure = TransportFailure::new(kind);
    let failure = match root(&error).filter(|_| may_be_shown(&error, kind)) {
        Some(cause) => failure.with_detail(cause),
        None => failure,
    };
    failure.with_source(error)
}

fn kind_of(error: &reqwest::Error) -> FailureKind {
    let is_before_connection = error.is_dns() || error.is_connect();
    if is_before_connection && any(error, is_out_of_resources) {
        FailureKind::Local
    } else if error.is_builder() || says(error, "scheme is not http") || says(error, "user sent") {
        FailureKind::Invalid
    } else if error.is_redirect() {
        FailureKind::Redirect
    } else if error.is_dns() || says(error, "dns error") {
        FailureKind::Dns
    } else if error.is_connect() {
        connect_kind(error)
    } else if error.is_timeout() {
        FailureKind::Timeout
    } else if says(error, APPS_BODY) {
        FailureKind::Interrupted
    } else if GARBAGE.iter().any(|text| says(error, text)) {
        FailureKind::Other
    } else if error.is_request() || error.is_body() || error.is_decode() {
        FailureKind::Interrupted
    } else {
        FailureKind::Other
    }
}

/// What hyper says when the stream of the request's body failed. Bytes have left by then.
const APPS_BODY: &str = "error from user's Body stream";

/// Texts of hyper about an answer that is not HTTP.
const GARBAGE: [&str; 3] = [
    "invalid ",
    "message head is too large",
    "received unexpected message",
];

/// Which step of connecting failed: TCP and proxies name themselves, what remains is TLS.
fn connect_kind(error: &reqwest::Error) -> FailureKind {
    if error.is_timeout() {
        FailureKind::ConnectTimeout
    } else if ["tcp ", "tunnel error", "SOCKS"]
        .iter()
        .any(|text| says(error, text))
    {
        FailureKind::Connect
    } else if any(error, is_for_another_name) {
        FailureKind::TlsName
    } else if any(error, |link| link.is::<io::Error>()) {
        FailureKind::Tls
    } else {
        FailureKind::Connect
    }
}

/// What rustls says of a certificate for another name, with and without the names.
fn is_for_another_name(link: &(dyn StdError + 'static)) -> bool {
    let text = link.to_string();
    text.contains("certificate not valid for name") || text.contains("NotValidForName")
}

/// No file descriptor, no memory, no local port: the server has nothing to do with it.
fn is_out_of_resources(link: &(dyn StdError + 'static)) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const WSAEMFILE: i32 = 10024;
    const WSAENOBUFS: i32 = 10055;
    let Some(error) = link.downcast_ref::<io::Error>() else {
        return false;
    };
    let code = error.raw_os_error();
    matches!(
        error.kind(),
        io::ErrorKind::OutOfMemory | io::ErrorKind::AddrNotAvailable
    ) || (cfg!(unix) && matches!(code, Some(EMFILE | ENFILE)))
        || (cfg!(windows) && matches!(code, Some(WSAEMFILE | WSAENOBUFS)))
}

/// Causes from the network stack may be shown. Others may quote the app, so they stay in the source.
fn may_be_shown(error: &reqwest::Error, kind: FailureKind) -> bool {
    let is_network = matches!(
        kind,
        FailureKind::Dns
            | FailureKind::Connect
            | FailureKind::Tls
            | FailureKind::TlsName
            | FailureKind::Interrupted
            | FailureKind::Other
    );
    is_network && !says(error, APPS_BODY)
}

fn links(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(error.source(), |link| (*link).source())
}

fn any(error: &reqwest::Error, is: impl Fn(&(dyn StdError + 'static)) -> bool) -> bool {
    links(error).any(is)
}

fn says(error: &reqwest::Error, text: &str) -> bool {
    any(error, |link| {
        link.to_string().starts_with(text) || link.to_string().ends_with(text)
    })
}

/// The innermost cause. An error of reqwest is none: it may show a URL.
fn root(error: &reqwest::Error) -> Option<&(dyn StdError + 'static)> {
    links(error)
        .last()
        .filter(|link| !link.is::<reqwest::Error>())
}
