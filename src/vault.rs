//! `SyncVault`, the handle: requests in, queue and dead letters out, watching and control. No flow of its own.

#[cfg(feature = "cache")]
mod cache;
mod connections;
#[cfg(feature = "sync")]
mod keyed;
#[cfg(feature = "sync")]
mod notes;
#[cfg(feature = "sqlite")]
mod outbox;
mod principals;
mod replacing;
mod seeing;

#[cfg(feature = "cache")]
pub use cache::CacheStats;
pub use connections::ConnectionChanges;
#[cfg(feature = "sync")]
pub(crate) use keyed::Keyed;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Method;
use tokio::sync::oneshot;

use crate::action::{Action, ActionId, Lane, Ledger, ResponseOf, WireState, scoped_key};
use crate::dead_letters::DeadLetters;
use crate::dispatch::{Dispatch, unknown};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Events, Status, StatusChanges, follow};
use crate::listing::{Listing, Paging};
use crate::parts::{Connection, ConnectivityMode, Parts};
use crate::request::RequestBuilder;
use crate::store::{Amend, Amended, Find, OpenReport, Part, Query};
use crate::ticket::Ticket;
use crate::worker::{Control, DrainReport};

pub use seeing::WhyPending;

/// An offline-first HTTP client with a durable queue. Cheap to clone; every clone is the same vault.
///
/// The vault drains in the background while at least one handle lives. Call [`shutdown`](Self::shutdown) to end it
/// in order; dropping the last handle cuts running attempts off, and nothing is lost by that.
#[derive(Clone, Debug)]
pub struct SyncVault {
    dispatch: Arc<Dispatch>,
}

/// What became of [`SyncVault::cancel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "only `Cancelled` means that the request will never be sent"]
#[non_exhaustive]
pub enum Cancellation {
    /// It will never be sent, and no byte of it ever was.
    Cancelled,
    /// It has ended already: delivered, dead, or otherwise.
    TooLate,
    /// An attempt is running, or one was made that reached the server, or may have: also when the server answered that it was
    /// busy (503, say). It stays queued.
    MayHaveBeenSent,
}

/// What [`SyncVault::clear_queue`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cleared {
    /// Actions cancelled.
    pub cancelled: u64,
    /// Those of them that the server may have seen.
    pub maybe_sent: u64,
    /// Actions whose attempt is running: they were left alone.
    pub in_flight: u64,
}

macro_rules! method {
    ($(#[$doc:meta])* $name:ident, $method:expr) => {
        $(#[$doc])*
        pub fn $name(&self, path: impl AsRef<str>) -> RequestBuilder {
            self.request($method, path)
        }
    };
}

impl SyncVault {
    pub(crate) fn new(dispatch: Arc<Dispatch>) -> Self {
        Self { dispatch }
    }

    fn parts(&self) -> &Arc<Parts> {
        &self.dispatch.desk.parts
    }

    /// A request. A relative path joins the base URL; an absolute URL must be of its origin, or of one that was
    /// allowed with [`allow_origin`](crate::SyncVaultBuilder::allow_origin).
    pub fn request(&self, method: Method, path: impl AsRef<str>) -> RequestBuilder {
        RequestBuilder::new(self.dispatch.clone(), method, path.as_ref())
    }

    method!(
        /// A GET request: sent at once, queued only when it cannot be sent.
        get,
        Method::GET
    );
    method!(
        /// A POST request: on disk before the first byte leaves.
        post,
        Method::POST
    );
    method!(
        /// A PUT request: on disk before the first byte leaves.
        put,
        Method::PUT
    );
    method!(
        /// A PATCH request: on disk before the first byte leaves.
        patch,
        Method::PATCH
    );
    method!(
        /// A DELETE request: on disk before the first byte leaves.
        delete,
        Method::DELETE
    );
    method!(
        /// A HEAD request: sent at once, queued only when it cannot be sent.
        head,
        Method::HEAD
    );

    /// Makes a pass over the queue, or joins the one that runs, and returns when nothing more can be done now.
    ///
    /// An origin that is believed to be unreachable is tried all the same: the caller may know better. Backoffs and
    /// what servers asked for are kept.
    ///
    /// # A program that sends what it can, and ends
    ///
    /// ```
    /// # async fn example(vault: &syncvault::SyncVault) -> syncvault::Result<()> {
    /// use std::time::Duration;
    ///
    /// let report = vault.process_queue().await?;
    /// println!("{} delivered, {} left: {:?}", report.delivered, report.remaining, report.stopped);
    /// vault.shutdown(Duration::from_secs(5)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`] after a shutdown; storage errors.
    pub async fn process_queue(&self) -> Result<DrainReport> {
        let (reply, report) = oneshot::channel();
        self.tell(Control::Drain(reply))?;
        report.await.map_err(|_| Error::closed())?
    }

    fn tell(&self, control: Control) -> Result<()> {
        self.dispatch
            .control
            .send(control)
            .map_err(|_| Error::closed())
    }

    /// How many actions are queued or in flight. Kept, not scanned.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn pending_count(&self) -> Result<u64> {
        Ok(self.parts().store.totals().await?.counts.pending)
    }

    /// Where every action went, since the vault was created.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn ledger(&self) -> Result<Ledger> {
        Ok(self.parts().store.totals().await?.ledger)
    }

    /// A page of what is queued or in flight, lane by lane, each in its order.
    ///
    /// # All of it, page by page
    ///
    /// ```
    /// # async fn example(vault: &syncvault::SyncVault) -> syncvault::Result<()> {
    /// use syncvault::Paging;
    ///
    /// let mut paging = Some(Paging::default());
    /// while let Some(page) = paging {
    ///     let listing = vault.pending_actions(page).await?;
    ///     for action in listing.items {
    ///         println!("{} {} {}", action.id, action.method, action.url);
    ///     }
    ///     paging = listing.next;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a page size outside 1 to 1000; storage errors.
    pub async fn pending_actions(&self, paging: Paging) -> Result<Listing<Action>> {
        let page = self
            .parts()
            .store
            .page(paging.query(Part::Pending)?)
            .await?;
        let actions = page
            .records
            .iter()
            .map(Action::of)
            .collect::<Result<Vec<_>>>()?;
        Ok(Listing::new(actions, paging.limit(), page.next))
    }

    /// One action: pending, dead, or settled and still remembered.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn action(&self, id: ActionId) -> Result<Option<Action>> {
        let record = self.parts().store.get(Find::Id(id)).await?;
        record.as_ref().map(Action::of).transpose()
    }

    /// The ticket of an action, to wait for its end or to ask for it; also after a restart.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn ticket(&self, id: ActionId) -> Result<Option<Ticket>> {
        let record = self.parts().store.get(Find::Id(id)).await?;
        Ok(record.map(|record| Ticket::of(self.parts().clone(), &record)))
    }

    /// The answer to an action, as it will be: for requests that are queued before it is there. See
    /// [`RequestBuilder::path_ref`].
    #[must_use]
    pub fn response_of(&self, action: impl Into<ActionId>) -> ResponseOf {
        ResponseOf::new(action)
    }

    /// Takes a queued action back, if no byte of it can have left.
    ///
    /// ```
    /// # async fn example(vault: &syncvault::SyncVault, id: syncvault::ActionId) -> syncvault::Result<()> {
    /// use syncvault::Cancellation;
    ///
    /// match vault.cancel(id).await? {
    ///     Cancellation::Cancelled => println!("it will never be sent"),
    ///     Cancellation::TooLate => println!("it has ended already"),
    ///     _ => println!("the server may have seen it: ask the server"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for an unknown id; storage errors.
    pub async fn cancel(&self, id: ActionId) -> Result<Cancellation> {
        let now = self.parts().now();
        match self.parts().amend(Amend::Cancel { id, now }).await? {
            Amended::Done(_) | Amended::More(_) => Ok(Cancellation::Cancelled),
            Amended::NotNow(record) if record.state.is_pending() => {
                Ok(Cancellation::MayHaveBeenSent)
            }
            Amended::NotNow(_) => Ok(Cancellation::TooLate),
            Amended::Unknown => Err(unknown(id)),
        }
    }

    /// Cancels everything that is queued. What is on the wire right now is left alone.
    ///
    /// # Errors
    ///
    /// Storage errors; what was cancelled by then stays so.
    pub async fn clear_queue(&self) -> Result<Cleared> {
        let parts = self.parts();
        let mut cleared = Cleared {
            cancelled: 0,
            maybe_sent: 0,
            in_flight: 0,
        };
        loop {
            let now = parts.now();
            let limit = Query::LIMIT_MAX;
            let amended = parts.amend(Amend::Clear { limit, now }).await?;
            let Amended::Done(records) = amended else {
                break;
            };
            for record in &records {
                cleared.cancelled += 1;
                cleared.maybe_sent += u64::from(record.wire != WireState::NeverSent);
            }
            if records.len() < limit {
                break;
            }
        }
        cleared.in_flight = parts.hub.status().counts().in_flight;
        Ok(cleared)
    }

    /// The dead letters.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(self.parts().clone())
    }

    /// All events from now on. A reader that is too slow loses some, and each event tells how many were lost before
    /// it; delivery never waits for readers.
    ///
    /// ```
    /// # async fn example(vault: &syncvault::SyncVault) {
    /// use syncvault::EventKind;
    ///
    /// let mut events = vault.events();
    /// while let Some(event) = events.next().await {
    ///     match event.kind {
    ///         EventKind::Succeeded { status } => println!("{} delivered: {status}", event.key),
    ///         EventKind::DeadLettered { reason } => println!("{} is dead: {reason}", event.key),
    ///         _ => {}
    ///     }
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn events(&self) -> Events {
        self.parts().hub.subscribe()
    }

    /// The events of one action: first what is known, then what happens, up to the terminal one. Empty when the id is
    /// not known.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn events_for(&self, id: ActionId) -> Result<Events> {
        follow(&self.parts().hub, self.parts().store.clone(), Find::Id(id)).await
    }

    /// As [`events_for`](Self::events_for), by idempotency key, of the active principal if there is one. A key that is not
    /// known yet is waited for.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub async fn events_for_key(&self, key: impl Into<String>) -> Result<Events> {
        let key = key.into();
        let find = match key.parse::<ActionId>() {
            Ok(id) if self.parts().store.get(Find::Id(id)).await?.is_some() => Find::Id(id),
            _ => Find::Key(scoped_key(self.parts().principals().active(), &key)),
        };
        follow(&self.parts().hub, self.parts().store.clone(), find).await
    }

    /// The state of the whole vault now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.parts().hub.status()
    }

    /// The state of the whole vault, now and whenever it changes.
    ///
    /// ```
    /// # async fn example(vault: &syncvault::SyncVault) {
    /// use syncvault::Status;
    ///
    /// let mut changes = vault.watch_status();
    /// while let Some(status) = changes.next().await {
    ///     let icon = match status {
    ///         Status::Synced(_) => "all saved",
    ///         Status::Pending(_) | Status::Syncing(_) => "saving",
    ///         _ => "needs you",
    ///     };
    ///     println!("{icon}, {} to go", status.counts().pending);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn watch_status(&self) -> StatusChanges {
        self.parts().hub.watch()
    }

    /// Stops sending until [`resume`](Self::resume), also over restarts. Running attempts end; new requests are queued.
    ///
    /// # Errors
    ///
    /// Storage errors.
    pub async fn pause(&self) -> Result<()> {
        self.set_paused(true).await
    }

    /// Ends a pause.
    ///
    /// # Errors
    ///
    /// Storage errors.
    pub async fn resume(&self) -> Result<()> {
        self.set_paused(false).await
    }

    async fn set_paused(&self, paused: bool) -> Result<()> {
        self.parts().amend(Amend::Pause { paused }).await.map(drop)
    }

    /// What opening the vault was like: what was damaged, what was found again, and what is missing. Empty for a vault that
    /// was whole. See [`OpenReport`].
    #[must_use]
    pub fn open_report(&self) -> OpenReport {
        self.parts().open_report.get().cloned().unwrap_or_default()
    }

    /// True between [`pause`](Self::pause) and [`resume`](Self::resume).
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.parts().is_paused()
    }

    /// Says what the app knows about the network. Never kept over a restart.
    pub fn set_connectivity(&self, mode: ConnectivityMode) {
        self.parts().mode.send_replace(mode);
        self.parts().refresh_connection();
        self.parts().wake.notify_one();
    }

    /// Whether the vault believes that the base origin is there.
    #[must_use]
    pub fn connection(&self) -> Connection {
        *self.parts().connection.borrow()
    }

    /// The network may have changed: unreachable origins are probed now. For platforms whose events the vault does not
    /// see.
    pub fn notify_network_changed(&self) {
        // The worker is gone only when the vault is closed.
        drop(self.tell(Control::Hint));
    }

    /// Waits until the base origin is believed to be there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] when it is not within `timeout`.
    pub async fn wait_online(&self, timeout: Duration) -> Result<()> {
        let mut connection = self.parts().connection.subscribe();
        let online = connection.wait_for(|connection| *connection == Connection::Online);
        match tokio::time::timeout(timeout, online).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::closed()),
            Err(_) => {
                let text = format!("still offline after {} ms", timeout.as_millis());
                Err(Error::new(ErrorKind::Timeout, text))
            }
        }
    }

    /// Waits until nothing is pending. Give it a timeout: a paused or offline vault waits long.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`] when the vault is shut down before.
    pub async fn wait_idle(&self) -> Result<()> {
        let (idler, idle) = oneshot::channel();
        self.tell(Control::Idle(idler))?;
        idle.await.map_err(|_| Error::closed())
    }

    /// Ends the vault: takes nothing new, lets running attempts end until `deadline` has passed, cuts the rest off (they
    /// are queued again as possibly sent), and closes the store. A second call waits for the same end.
    ///
    /// # Errors
    ///
    /// Storage errors of the last writes. The vault is closed in any case.
    pub async fn shutdown(&self, deadline: Duration) -> Result<()> {
        let (done, closed) = oneshot::channel();
        if self.tell(Control::Shutdown { deadline, done }).is_err() {
            return self.ended();
        }
        closed.await.unwrap_or_else(|_| self.ended())
    }

    /// The worker is gone: in order, or with its runtime or its store.
    fn ended(&self) -> Result<()> {
        if self.parts().is_closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let text =
            "the vault ended before it was shut down: its runtime is gone, or its store failed";
        Err(Error::new(ErrorKind::Closed, text))
    }

    /// What one lane of the active principal holds: how many actions, which is first, and what blocks it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a bad name; storage errors.
    pub async fn lane(&self, name: impl AsRef<str>) -> Result<crate::store::LaneTotals> {
        let lane = Lane::new(name)?.of_principal(self.parts().principals().active());
        self.parts().store.lane(lane).await
    }
}
