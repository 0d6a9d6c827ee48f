//! The options against login pages of networks.

use http::HeaderName;
use reqwest::Url;

use super::SyncVaultBuilder;
use super::check::{bad, is_loopback, option, parse_url};
use crate::action::Origin;
use crate::connectivity::ProbeConnectivity;
use crate::decide::PortalGuard;
use crate::error::{Error, Result};
use crate::parts::{Guards, Options};

/// What the app said about login pages.
#[derive(Debug, Default)]
pub(super) struct Portals {
    usual: Option<PortalGuard>,
    own: Vec<(String, PortalGuard)>,
    headers: Vec<String>,
    pub(super) expects_json: bool,
}

impl SyncVaultBuilder {
    /// Which signs of a login page are heeded, at every origin that has no guard of its own. Default: all of them, and none at
    /// this machine's own origins (`localhost`, `127.0.0.1`), which no network stands before.
    ///
    /// An answer with such a sign is not the server's: nothing counts as delivered, no attempt is used up, and the whole vault
    /// waits until a probe, or an answer, shows that the page is gone. [`Status::Portal`](crate::Status::Portal) says so. The
    /// signs: status 511, a redirect to another origin, an HTML page in place of JSON (see [`expect_json`](Self::expect_json)), a
    /// missing header (see [`expect_header`](Self::expect_header)), a certificate for another name.
    ///
    /// When an action meets a sign again although its origin has answered something else since that no login page answers
    /// (neither HTML nor a redirect away; over `https`, any answer to a probe), the sign is the action's own: the verdict table reads the
    /// answer then. A redirect is rejected, an HTML page is a delivery, unless the app said that it cannot be one: that is retried,
    /// and counts.
    ///
    /// A server that does redirect elsewhere, or answers HTML to requests for JSON, costs such an extra attempt each time. Take
    /// the sign out:
    ///
    /// ```
    /// use syncvault::SyncVault;
    /// use syncvault::decide::{PortalGuard, PortalSign};
    ///
    /// let builder = SyncVault::builder("https://api.example.com")
    ///     .portal_guard(PortalGuard::all().without(PortalSign::Redirect));
    /// ```
    pub fn portal_guard(mut self, guard: PortalGuard) -> Self {
        self.portals.usual = Some(guard);
        self
    }

    /// As [`portal_guard`](Self::portal_guard), for one origin, given as a URL. [`PortalGuard::off`] also keeps it going while
    /// others wait: for servers in the own network.
    pub fn portal_guard_for(mut self, url: impl Into<String>, guard: PortalGuard) -> Self {
        self.portals.own.push((url.into(), guard));
        self
    }

    /// A header that every answer of the base origin has, to a `HEAD` of the base URL too. An answer without it is not the
    /// server's: the sharpest sign of a login page. For other origins: [`PortalGuard::with_header`].
    ///
    /// ```
    /// use syncvault::SyncVault;
    /// let builder = SyncVault::builder("https://api.example.com").expect_header("x-request-id");
    /// ```
    pub fn expect_header(mut self, name: impl Into<String>) -> Self {
        self.portals.headers.push(name.into());
        self
    }

    /// With `true`, an HTML page cannot be the answer to any request, but to those whose `Accept` names HTML: one with a 2xx
    /// status is never a delivery. Default: `false`, and a page is only suspected where `Accept` names JSON and no HTML.
    pub fn expect_json(mut self, is_expected: bool) -> Self {
        self.portals.expects_json = is_expected;
        self
    }

    /// The guard of each origin that the vault may send to.
    pub(super) fn guards(&self, base: &Url) -> Result<Guards> {
        let allowed = self.allowed.iter().map(|url| parse_url(url));
        let allowed = option("allow_origin", allowed.collect::<Result<Vec<_>>>())?;
        let own = option("portal_guard_for", self.own_guards())?;
        let mut guards = Vec::new();
        for url in allowed.iter().chain([base]) {
            let origin = Origin::of(url)?;
            let named = own.iter().rfind(|(of, _)| *of == origin);
            let guard = match (named, &self.portals.usual) {
                (Some((_, guard)), _) | (None, Some(guard)) => guard.clone(),
                (None, None) if is_loopback(url) => PortalGuard::off(),
                (None, None) => PortalGuard::all(),
            };
            guards.push((origin, guard));
        }
        for (of, _) in own {
            if guards.iter().all(|(origin, _)| *origin != of) {
                let text = format!("names {of}, which no request may go to: see `allow_origin`");
                return Err(bad("portal_guard_for", &text));
            }
        }
        if let Some((_, guard)) = guards.last_mut() {
            for header in self.expected_headers()? {
                *guard = guard.clone().with_header(header);
            }
        }
        Ok(Guards::new(guards))
    }

    fn own_guards(&self) -> Result<Vec<(Origin, PortalGuard)>> {
        let own = self.portals.own.iter();
        own.map(|(url, guard)| Ok((Origin::of(&parse_url(url)?)?, guard.clone())))
            .collect()
    }

    fn expected_headers(&self) -> Result<Vec<HeaderName>> {
        let names = self.portals.headers.iter();
        let parsed = names.map(|name| {
            HeaderName::try_from(name.as_str())
                .map_err(|e| Error::invalid("is not a header name").with_source(e))
        });
        option("expect_header", parsed.collect())
    }
}

/// Probes that know the guards.
pub(super) fn probing(options: &Options) -> Result<ProbeConnectivity> {
    let probe = match is_loopback(&options.base) {
        true => ProbeConnectivity::from_builder(reqwest::Client::builder().no_proxy())?,
        false => ProbeConnectivity::new()?,
    };
    let guards = options.guards.all();
    let guarded = guards.fold(probe, |probe, (origin, guard)| {
        probe.with_portal_guard(origin.clone(), guard.clone())
    });
    Ok(guarded.with_base_url(&options.base))
}
