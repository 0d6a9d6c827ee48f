//! The transport over reqwest: one attempt per call, redirects only within the origin, a deadline for the
//! head of the answer and for each pause in its body.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, LOCATION};
use http_body::{Body as _, Frame, SizeHint};
use reqwest::{Body, Client, ClientBuilder, Request, Response};
use tokio::time::{Instant, Sleep};

use super::answer::rebuild;
use super::diagnosis::diagnose;
use super::{Transport, TransportFailure, TransportFuture};
use crate::decide::{FailureKind, REDIRECTS_MAX, Redirect, follow};
use crate::error::{Error, Result};

/// How long an attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// Resolving, connecting and the TLS handshake together. Default: 10 seconds. Not used with a client of your own.
    pub connect: Duration,
    /// How long the server may be silent: until its answer begins, and between two pieces of its body. Default:
    /// 30 seconds. A big request gets more time to leave: a second for each [`UPLOAD_BYTES_PER_SECOND_MIN`](Self::UPLOAD_BYTES_PER_SECOND_MIN) bytes.
    pub read: Duration,
    /// The whole attempt, body included, for requests that set no timeout of their own. Default: none, so that a
    /// long download may take its time.
    pub total: Option<Duration>,
}

impl Timeouts {
    /// The slowest upload that is not taken for a dead one.
    pub const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 16 * 1024;
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            read: Duration::from_secs(30),
            total: None,
        }
    }
}

/// Sends with a [`reqwest::Client`].
#[derive(Clone, Debug)]
pub struct ReqwestTransport {
    client: Client,
    timeouts: Timeouts,
}

impl ReqwestTransport {
    /// A transport with a client of its own.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the client cannot be built.
    pub fn new(timeouts: Timeouts) -> Result<Self> {
        let agent = concat!("syncvault/", env!("CARGO_PKG_VERSION"));
        Self::from_builder(Client::builder().user_agent(agent), timeouts)
    }

    /// Builds the client from your settings (proxies, certificates, user agent), with what the vault needs on top:
    /// no retries and no redirects of its own, no unpacking of bodies, no referer, the connect timeout.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the client cannot be built.
    pub fn from_builder(builder: ClientBuilder, timeouts: Timeouts) -> Result<Self> {
        let client = builder
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .connect_timeout(timeouts.connect)
            .build()
            .map_err(|e| {
                Error::invalid("the HTTP client cannot be built").with_source(e.without_url())
            })?;
        Ok(Self::from_client(client, timeouts))
    }

    /// Takes a client as it is. It **must not** retry, follow redirects or keep cookies: the vault could then
    /// neither count its attempts nor keep credentials on their origin. [`from_builder`](Self::from_builder) sees to that.
    #[must_use]
    pub fn from_client(client: Client, timeouts: Timeouts) -> Self {
        Self { client, timeouts }
    }

    /// One request and its answer, whatever its status.
    async fn exchange(&self, request: Request) -> Result<Response, TransportFailure> {
        let patience = self.patience(&request);
        let response = tokio::time::timeout(patience, self.client.execute(request))
            .await
            .map_err(|_| TransportFailure::new(FailureKind::Timeout))?
            .map_err(diagnose)?;
        let read = self.timeouts.read;
        Ok(rebuild(response, |body| {
            Body::wrap(Patient::new(body, read))
        }))
    }

    /// How long to wait for the head of the answer.
    fn patience(&self, request: &Request) -> Duration {
        let bytes = body_bytes(request).unwrap_or(0);
        let upload = Duration::from_secs(bytes / Timeouts::UPLOAD_BYTES_PER_SECOND_MIN);
        self.timeouts.connect + self.timeouts.read + upload
    }

    /// Sends, and follows where the answer points to as long as that is allowed.
    async fn travel(&self, mut request: Request) -> Result<Response, TransportFailure> {
        let total = request.timeout().copied().or(self.timeouts.total);
        let start = Instant::now();
        let mut hops = 0;
        loop {
            *request.timeout_mut() = total.map(|total| total.saturating_sub(start.elapsed()));
            let again = request.try_clone();
            let method = request.method().clone();
            let response = self.exchange(request).await?;
            let (Some(mut next), true) = (again, response.status().is_redirection()) else {
                return Ok(response);
            };
            let status = response.status().as_u16();
            match follow(
                &method,
                status,
                next.url(),
                response.headers().get(LOCATION),
            ) {
                Redirect::Follow(url) if hops < REDIRECTS_MAX => *next.url_mut() = url,
                _ => return Ok(response),
            }
            hops += 1;
            request = next;
        }
    }
}

impl Transport for ReqwestTransport {
    fn send(&self, request: Request) -> TransportFuture<'_> {
        Box::pin(self.travel(request))
    }
}

fn body_bytes(request: &Request) -> Option<u64> {
    let named = || {
        request
            .headers()
            .get(CONTENT_LENGTH)?
            .to_str()
            .ok()?
            .parse()
            .ok()
    };
    request.body()?.size_hint().exact().or_else(named)
}

/// The body of an answer, given up when nothing comes for too long.
struct Patient {
    body: Body,
    read: Duration,
    silence: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(body: Body, read: Duration) -> Self {
        Self {
            body,
            read,
            silence: None,
        }
    }
}

impl http_body::Body for Patient {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.silence = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let read = self.read;
        let silence = self
            .silence
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(read)));
        ready!(silence.as_mut().poll(cx));
        Poll::Ready(Some(Err(std::io::Error::from(
            std::io::ErrorKind::TimedOut,
        )
        .into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
