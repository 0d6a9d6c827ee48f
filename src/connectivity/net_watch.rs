//! Network events of the operating system as hints: interfaces and addresses that come and go. Nothing is polled;
//! between events no timer runs. A watcher that cannot start costs the hints and nothing else.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use netwatcher::AsyncWatch;
use netwatcher::async_adapter::Tokio;
use tokio::time::{Instant, timeout_at};

use super::{NetworkChange, NetworkChanges};

/// Events come in bursts: a hint is given when it has been quiet for so long ...
const QUIET: Duration = Duration::from_millis(250);

/// ... or when a burst lasts longer than this.
const BURST_MAX: Duration = Duration::from_secs(2);

pub(super) fn changes() -> NetworkChanges {
    // Started at the first poll, which happens inside the runtime.
    let events = stream::unfold(None, |watch: Option<AsyncWatch>| async {
        let mut watch = match watch {
            Some(watch) => watch,
            None => start().await?,
        };
        watch.changed().await;
        settle(&mut watch).await;
        Some((NetworkChange::new(), Some(watch)))
    });
    Box::pin(events.chain(stream::pending()))
}

/// Starts the watcher and takes its first update, which tells what is, not what changed.
async fn start() -> Option<AsyncWatch> {
    match netwatcher::watch_interfaces_async::<Tokio>() {
        Ok(mut watch) => {
            watch.changed().await;
            Some(watch)
        }
        Err(error) => {
            tracing::warn!(%error, "no network events here; relying on timers and on the app's hints");
            None
        }
    }
}

/// Waits for the end of a burst.
async fn settle(watch: &mut AsyncWatch) {
    let end = Instant::now() + BURST_MAX;
    loop {
        let quiet = (Instant::now() + QUIET).min(end);
        if timeout_at(quiet, watch.changed()).await.is_err() {
            return;
        }
    }
}
