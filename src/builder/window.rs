//! The options for servers that forget keys.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::SyncVaultBuilder;
use crate::parts::{IntoVerified, Unsure};

/// What well-known servers promise.
pub(super) const KEY_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

impl SyncVaultBuilder {
    /// How long the server remembers an idempotency key, from the first attempt that may have reached it. Default: 24 hours, as
    /// Stripe does. `None`: for ever.
    ///
    /// An action whose answer was lost longer ago is not sent again blindly: the app is asked with [`verify`](Self::verify);
    /// without an answer it becomes a dead letter, [`DeadReason::Uncertain`](crate::DeadReason::Uncertain). One that a person
    /// requeues is sent. Reads, and actions of which nothing ever left, are always sent.
    ///
    /// ```
    /// use std::time::Duration;
    /// use syncvault::SyncVault;
    ///
    /// let week = Duration::from_secs(7 * 24 * 60 * 60);
    /// let builder = SyncVault::builder("https://api.example.com").idempotency_window(week);
    /// ```
    pub fn idempotency_window(mut self, window: impl Into<Option<Duration>>) -> Self {
        self.key_window = window.into();
        self
    }

    /// Asks the server whether an action happened, when its answer was lost and its key may be forgotten. On
    /// [`Happened`](crate::Verified::Happened) it is delivered, with the status [`NO_STATUS`](crate::Answer::NO_STATUS); on
    /// [`DidNot`](crate::Verified::DidNot) it is sent again, and its window starts anew; on [`Unknown`](crate::Verified::Unknown)
    /// it is a dead letter. When the closure fails or panics it is asked again later.
    ///
    /// ```
    /// # async fn find_payment(key: &str) -> std::io::Result<Option<()>> { Ok(None) }
    /// use syncvault::{SyncVault, Verified};
    ///
    /// let builder = SyncVault::builder("https://api.example.com").verify(|unsure| async move {
    ///     Ok::<_, std::io::Error>(match find_payment(&unsure.action.key).await? {
    ///         Some(_) => Verified::Happened,
    ///         None => Verified::DidNot,
    ///     })
    /// });
    /// ```
    pub fn verify<F, Fut, V>(mut self, hook: F) -> Self
    where
        F: Fn(Unsure) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = V> + Send + 'static,
        V: IntoVerified,
    {
        self.verify = Some(Arc::new(move |unsure| {
            let asked = hook(unsure);
            Box::pin(async move { asked.await.into_verified() })
        }));
        self
    }
}
