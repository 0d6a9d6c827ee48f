//! The default `Connectivity`: asks the queue's own server, and nobody else. No public address is ever called,
//! so that a server on the LAN or on this machine works without the internet.

use std::time::Duration;

use reqwest::{Client, ClientBuilder, Response, Url};

use super::{Connectivity, NetworkChanges, ProbeFuture, Reach, net_watch};
use crate::action::Origin;
use crate::decide::{Expects, Observed, PortalGuard, PortalSign};
use crate::error::{Error, Result};

/// Probes an origin with a `HEAD` request, and listens to the network events of the operating system if this
/// build has the feature `net-watch`.
///
/// Any answer counts, whatever its status, unless the [guard](PortalGuard) of the origin sees a sign of a login page: 511, a
/// missing header that the server always sends, and over plain `http` a redirect to another origin. An HTML page over plain
/// `http` leaves it [open](Reach::Unproven). Over `https` the certificate has proved who answers. A probe carries no
/// credentials.
#[derive(Clone, Debug)]
pub struct ProbeConnectivity {
    client: Client,
    base: Option<Url>,
    guards: Vec<(Origin, PortalGuard)>,
    timeout: Duration,
}

impl ProbeConnectivity {
    /// How long a probe may take unless told otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(5);

    /// Probes `/` of each origin.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the client cannot be built.
    pub fn new() -> Result<Self> {
        Self::from_builder(Client::builder())
    }

    /// As [`new`](Self::new), with your settings of the client: proxies, certificates, user agent.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the client cannot be built.
    pub fn from_builder(builder: ClientBuilder) -> Result<Self> {
        let client = builder
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|e| {
                Error::invalid("the client for probes cannot be built").with_source(e.without_url())
            })?;
        Ok(Self {
            client,
            base: None,
            guards: Vec::new(),
            timeout: Self::TIMEOUT,
        })
    }

    /// Probes this URL instead of `/` on its own origin. Its query and its user and password are left out.
    #[must_use]
    pub fn with_base_url(mut self, url: &Url) -> Self {
        let mut base = url.clone();
        base.set_query(None);
        base.set_fragment(None);
        if base.set_username("").is_ok() && base.set_password(None).is_ok() {
            self.base = Some(base);
        }
        self
    }

    /// The guard of an origin; default: [all signs](PortalGuard::all).
    #[must_use]
    pub fn with_portal_guard(mut self, origin: Origin, guard: PortalGuard) -> Self {
        self.guards.push((origin, guard));
        self
    }

    /// How long a probe may take; default [`TIMEOUT`](Self::TIMEOUT).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn target(&self, origin: &Origin) -> Option<Url> {
        let is_of = |url: &&Url| Origin::of(url).is_ok_and(|base| base == *origin);
        let base = self.base.as_ref().filter(is_of);
        base.cloned().or_else(|| Url::parse(origin.as_str()).ok())
    }

    async fn ask(&self, origin: Origin) -> Reach {
        let Some(url) = self.target(&origin) else {
            return Reach::Unreachable;
        };
        let own = self.guards.iter().find(|(of, _)| *of == origin);
        let guard = own.map_or_else(PortalGuard::all, |(_, guard)| guard.clone());
        match self.client.head(url).timeout(self.timeout).send().await {
            Ok(response) => reach(&guard, &response),
            Err(_) => Reach::Unreachable,
        }
    }
}

impl Connectivity for ProbeConnectivity {
    fn changes(&self) -> NetworkChanges {
        net_watch::changes()
    }

    fn probe(&self, origin: Origin) -> ProbeFuture<'_> {
        Box::pin(self.ask(origin))
    }
}

fn reach(guard: &PortalGuard, response: &Response) -> Reach {
    let (asked, status) = (response.url(), response.status());
    let observed = Observed::Answer {
        status: status.as_u16(),
        headers: response.headers(),
    };
    let is_proved = asked.scheme() == "https";
    match guard.sign(asked, &observed, Expects::JsonByAccept) {
        Some(sign) if sign.is_certain() => Reach::Portal,
        Some(PortalSign::Redirect) if !is_proved => Reach::Portal,
        Some(PortalSign::Html) if !is_proved => Reach::Unproven,
        _ if status.is_server_error() => Reach::Troubled,
        _ => Reach::Reachable,
    }
}
