//! The transport on real sockets: what each failure is called, what is kept of answers, where secrets go.

mod answers;
mod credentials;
mod failures;
mod probe;
mod redirects;
mod server;
#[cfg(feature = "rustls")]
mod tls;

use std::time::Duration;

use reqwest::{Client, ClientBuilder, Method, Request, Response, Url};
use syncvault::transport::{ReqwestTransport, Timeouts, Transport, TransportFailure};

/// Nothing here may take longer.
const TEST_MAX: Duration = Duration::from_secs(20);

/// A client that ignores the proxies of the machine the tests run on.
fn client() -> ClientBuilder {
    Client::builder().no_proxy()
}

fn transport() -> ReqwestTransport {
    transport_with(|_| {})
}

/// A transport that loses patience fast.
fn hasty() -> ReqwestTransport {
    transport_with(|timeouts| {
        timeouts.connect = Duration::from_millis(200);
        timeouts.read = Duration::from_millis(200);
    })
}

fn transport_with(change: impl FnOnce(&mut Timeouts)) -> ReqwestTransport {
    let mut timeouts = Timeouts::default();
    change(&mut timeouts);
    ReqwestTransport::from_builder(client(), timeouts).expect("a client")
}

fn get(url: Url) -> Request {
    Request::new(Method::GET, url)
}

fn post(url: Url, body: impl Into<reqwest::Body>) -> Request {
    let mut request = Request::new(Method::POST, url);
    *request.body_mut() = Some(body.into());
    request
}

async fn send(transport: &impl Transport, request: Request) -> Result<Response, TransportFailure> {
    in_time(transport.send(request)).await
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_MAX, future)
        .await
        .expect("in time")
}
