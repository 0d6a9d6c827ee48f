//! What the app is asked about an action whose key its server may have forgotten: did it happen?

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::action::Action;
use crate::error::Result;

/// Whether an action happened at its server, as far as the app can find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verified {
    /// It did: it is delivered.
    Happened,
    /// It did not: it is sent again, with the same key.
    DidNot,
    /// Nobody can say: it becomes a dead letter.
    Unknown,
}

/// An action that may have happened.
pub struct Unsure {
    /// The action.
    pub action: Action,
    body: ReadBody,
}

pub(crate) type ReadBody =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Bytes>> + Send>> + Send + Sync>;

impl Unsure {
    pub(crate) fn new(action: Action, body: ReadBody) -> Self {
        Self { action, body }
    }

    /// The body of the request, whole, in memory: read when it is asked for.
    ///
    /// # Errors
    ///
    /// When the store cannot read it, or it is damaged.
    pub async fn body(&self) -> Result<Bytes> {
        (self.body)().await
    }
}

impl fmt::Debug for Unsure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsure")
            .field("action", &self.action)
            .finish_non_exhaustive()
    }
}

/// An error of the app's own, while it asked its server.
pub type VerifyError = Box<dyn StdError + Send + Sync>;

pub(crate) type VerifyHook =
    Arc<dyn Fn(Unsure) -> Pin<Box<dyn Future<Output = VerifyResult> + Send>> + Send + Sync>;
pub(crate) type VerifyResult = Result<Verified, VerifyError>;

/// What the closure of [`verify`](crate::SyncVaultBuilder::verify) may return.
pub trait IntoVerified {
    /// What was found out, or why it could not be: then it is asked again later.
    ///
    /// # Errors
    ///
    /// The app's own.
    fn into_verified(self) -> Result<Verified, VerifyError>;
}

impl IntoVerified for Verified {
    fn into_verified(self) -> Result<Verified, VerifyError> {
        Ok(self)
    }
}

impl<E: Into<VerifyError>> IntoVerified for Result<Verified, E> {
    fn into_verified(self) -> Result<Verified, VerifyError> {
        self.map_err(Into::into)
    }
}
