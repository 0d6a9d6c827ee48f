//! Whether the base origin is believed to be there, as a stream.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::stream;

use super::SyncVault;
use crate::parts::Connection;

/// A stream of [`Connection`], starting with the current one. It ends with the vault.
pub struct ConnectionChanges(Pin<Box<dyn Stream<Item = Connection> + Send>>);

impl SyncVault {
    /// Whether the vault believes that the base origin is there, now and whenever that changes.
    #[must_use]
    pub fn watch_connection(&self) -> ConnectionChanges {
        let mut watch = self.parts().connection.subscribe();
        watch.mark_changed();
        ConnectionChanges(Box::pin(stream::unfold(watch, |mut watch| async move {
            watch.changed().await.ok()?;
            let connection = *watch.borrow_and_update();
            Some((connection, watch))
        })))
    }
}

impl ConnectionChanges {
    /// The next change; nothing when the vault is gone.
    pub async fn next(&mut self) -> Option<Connection> {
        std::future::poll_fn(|cx| self.0.as_mut().poll_next(cx)).await
    }
}

impl Stream for ConnectionChanges {
    type Item = Connection;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Connection>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for ConnectionChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionChanges").finish_non_exhaustive()
    }
}
