//! What the examples share: an HTTP server on loopback that can go away and come back, in this process.

use std::future::IntoFuture;
use std::time::Duration;

use axum::Router;
use syncvault::{Backoff, RetryPolicy};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> =
    std::result::Result<T, E>;

/// A server on a port of its own.
pub(crate) struct Server {
    router: Router,
    port: u16,
    up: Option<(oneshot::Sender<()>, JoinHandle<std::io::Result<()>>)>,
}

impl Server {
    pub(crate) async fn start(router: Router) -> Result<Self> {
        let mut server = Self {
            router,
            port: 0,
            up: None,
        };
        server.go_up().await?;
        Ok(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Serves again, on the same port as before.
    pub(crate) async fn go_up(&mut self) -> Result {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await?;
        self.port = listener.local_addr()?.port();
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = axum::serve(listener, self.router.clone());
        let serve = serve.with_graceful_shutdown(async move { drop(stopped.await) });
        self.up = Some((stop, tokio::spawn(serve.into_future())));
        Ok(())
    }

    /// Answers what it has begun, then refuses connections.
    pub(crate) async fn go_down(&mut self) -> Result {
        if let Some((stop, serving)) = self.up.take() {
            drop(stop);
            serving.await??;
        }
        Ok(())
    }
}

/// Looks for a lost server several times a second. By default the waits grow to a minute, too long to watch.
pub(crate) fn impatient() -> RetryPolicy {
    let mut policy = RetryPolicy::default();
    policy.backoff = Backoff::exponential(Duration::from_millis(50), Duration::from_millis(200));
    policy.origin_backoff = policy.backoff;
    policy
}
