//! What is done when a record was changed here and at the server. Values in, values out; only a custom rule may wait.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::record::{RecordKey, Row};
use super::version::Version;
use crate::clock::Timestamp;

/// A record that was changed here and at the server, and differs.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct TableConflict {
    /// Which record.
    pub key: RecordKey,
    /// The row that both sides started from, as far as it is known.
    pub base: Option<Row>,
    /// The app's side; nothing = it deleted the record.
    pub local: Option<Row>,
    /// The server's side; nothing = it was deleted there.
    pub server: Option<Row>,
    /// The version that the app's change was made on.
    pub local_version: Option<Version>,
    /// The version of the server.
    pub server_version: Option<Version>,
    /// When the app made its change, by the clock of the device.
    pub local_changed_at: Timestamp,
    /// When the server's row changed, by the server's clock.
    pub server_updated_at: Option<Timestamp>,
}

/// Without rows.
impl fmt::Debug for TableConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableConflict")
            .field("key", &self.key)
            .field("local_version", &self.local_version)
            .field("server_version", &self.server_version)
            .field("is_deleted_here", &self.local.is_none())
            .field("is_deleted_there", &self.server.is_none())
            .finish_non_exhaustive()
    }
}

/// How a conflict ends.
#[derive(Clone, PartialEq)]
#[must_use]
#[non_exhaustive]
pub enum Decision {
    /// The app's side, a deletion too: it is pushed again, on the server's version.
    Local,
    /// The server's side, a deletion too: the app's change is given up.
    Server,
    /// This row: it is stored here, and pushed.
    Merged(Row),
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "Local",
            Self::Server => "Server",
            Self::Merged(_) => "Merged(..)",
        })
    }
}

/// The rule of a table for conflicts.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum ConflictStrategy {
    /// The newer change, by [`server_updated_at`](TableConflict::server_updated_at) and
    /// [`local_changed_at`](TableConflict::local_changed_at). The server wins a tie, and when it tells no time. Only as good as the
    /// clocks of the devices.
    #[default]
    LastWriteWins,
    /// The server's side.
    ServerWins,
    /// The app's side.
    ClientWins,
    /// The higher version: that of the server, unless it is known to be no newer than the one that the app's change was made on.
    HighestVersion,
    /// Field by field against the base: what only one side changed is taken from that side, and a field that both changed
    /// differently is the server's. A deletion on one side gives way to a change on the other.
    Merge,
    /// A rule of the app.
    Custom(Arc<dyn Resolver>),
}

impl ConflictStrategy {
    /// A rule of the app.
    pub fn custom(resolver: impl Resolver) -> Self {
        Self::Custom(Arc::new(resolver))
    }
}

impl fmt::Debug for ConflictStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LastWriteWins => "LastWriteWins",
            Self::ServerWins => "ServerWins",
            Self::ClientWins => "ClientWins",
            Self::HighestVersion => "HighestVersion",
            Self::Merge => "Merge",
            Self::Custom(_) => "Custom(..)",
        })
    }
}

/// A rule of the app for conflicts. A closure `|conflict: TableConflict| async move { Decision::Server }` is one too.
///
/// It may be asked more than once for the same conflict, after a crash. Its word is stored here **and** is what is pushed.
pub trait Resolver: Send + Sync + 'static {
    /// Decides.
    fn resolve(
        &self,
        conflict: TableConflict,
    ) -> Pin<Box<dyn Future<Output = Decision> + Send + '_>>;
}

impl<F, Fut> Resolver for F
where
    F: Fn(TableConflict) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Decision> + Send + 'static,
{
    fn resolve(
        &self,
        conflict: TableConflict,
    ) -> Pin<Box<dyn Future<Output = Decision> + Send + '_>> {
        Box::pin(self(conflict))
    }
}

/// What a deletion by the app does that the server does not know yet, when the server's record was changed meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PendingDelete {
    /// It wins: the record goes.
    #[default]
    Wins,
    /// The table's [`ConflictStrategy`] decides.
    ByStrategy,
}
