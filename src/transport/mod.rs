//! HOW a request leaves: the seam between the vault and the wire, and what can go wrong on it.
//! One call of [`Transport::send`] is one attempt. Nothing here decides about another one.

mod answer;
#[cfg(feature = "cache")]
mod copy;
mod credentials;
mod desk;
mod diagnosis;
mod failure;
mod reqwest;
mod whole;

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

pub(crate) use answer::{Arrived, arrived};
pub use answer::{Keep, keep, tee};
#[cfg(feature = "cache")]
pub(crate) use copy::copied;
pub use credentials::{
    CredentialError, CredentialFuture, CredentialProvider, CredentialRequest, Credentials,
    IntoCredentials, Refresh, bearer,
};
pub use desk::{CredentialDesk, Generation};
pub use failure::TransportFailure;
pub use reqwest::{ReqwestTransport, Timeouts};
pub(crate) use whole::{NotWhole, read_whole};

/// The future of one attempt.
pub type TransportFuture<'a> =
    Pin<Box<dyn Future<Output = Result<::reqwest::Response, TransportFailure>> + Send + 'a>>;

/// Sends requests. [`ReqwestTransport`] is the one the vault uses unless told otherwise.
///
/// A transport makes **one** attempt per call: it does not retry, because the vault writes down every
/// attempt. It may follow redirects that stay on the origin of the request. It never takes a credential
/// to another origin: a redirect that may not be followed is returned as the answer.
///
/// Every HTTP answer is `Ok`, whatever its status. The future may be dropped at any time.
pub trait Transport: Debug + Send + Sync + 'static {
    /// Makes one attempt.
    fn send(&self, request: ::reqwest::Request) -> TransportFuture<'_>;
}
