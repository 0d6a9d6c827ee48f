//! What travels: items of the server and of the app, pages of them, and what became of each.

use super::{Cursor, ItemId};
use crate::clock::Timestamp;

/// One item as the server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerItem<T> {
    /// Its id.
    pub id: ItemId,
    /// The place of its newest change in the server's order of all changes; zero when the server has none.
    pub sync_id: u64,
    /// Its version, which the server gave; zero when the server has none. Versions say what is newer, times do not.
    pub version: u64,
    /// When it changed, by the server's clock: for people.
    pub updated_at: Timestamp,
    /// The content; nothing = it was deleted (a tombstone).
    pub content: Option<T>,
}

impl<T> ServerItem<T> {
    /// An item that is there.
    pub fn new(id: impl Into<ItemId>, content: T) -> Self {
        Self {
            content: Some(content),
            ..Self::deleted(id)
        }
    }

    /// A tombstone: the item was deleted.
    pub fn deleted(id: impl Into<ItemId>) -> Self {
        Self {
            id: id.into(),
            sync_id: 0,
            version: 0,
            updated_at: Timestamp::EPOCH,
            content: None,
        }
    }

    /// With its version.
    #[must_use]
    pub fn version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    /// With its place in the server's order of changes.
    #[must_use]
    pub fn sync_id(mut self, sync_id: u64) -> Self {
        self.sync_id = sync_id;
        self
    }

    /// With the time of its change.
    #[must_use]
    pub fn updated_at(mut self, updated_at: Timestamp) -> Self {
        self.updated_at = updated_at;
        self
    }
}

/// One item as the app has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalItem<T> {
    /// Its id.
    pub id: ItemId,
    /// The version of the server that it was last in step with; zero for one that the server never saw.
    pub version: u64,
    /// Since when the server does not know its newest content; nothing = it is in step.
    pub locally_modified: Option<Timestamp>,
    /// The content; nothing = the app deleted it.
    pub content: Option<T>,
}

impl<T> LocalItem<T> {
    /// An item in step with the server.
    pub fn new(id: impl Into<ItemId>, content: T) -> Self {
        Self {
            content: Some(content),
            ..Self::deleted(id)
        }
    }

    /// One that the app deleted.
    pub fn deleted(id: impl Into<ItemId>) -> Self {
        Self {
            id: id.into(),
            version: 0,
            locally_modified: None,
            content: None,
        }
    }

    /// With the version it was last in step with.
    #[must_use]
    pub fn version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    /// The app changed it, and the server does not know yet.
    #[must_use]
    pub fn modified(mut self, at: Timestamp) -> Self {
        self.locally_modified = Some(at);
        self
    }
}

/// One page of a server's items, and where it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<T> {
    /// The items, in the server's order. A page in the middle may be empty.
    pub items: Vec<ServerItem<T>>,
    /// Where the next page starts; nothing = this is the last one.
    pub next: Option<Cursor>,
    /// Of the last page: where the next sync starts. Nothing = with the last page again.
    pub resume: Option<Cursor>,
}

impl<T> Page<T> {
    /// A page with more behind it.
    pub fn more(items: Vec<ServerItem<T>>, next: impl Into<Cursor>) -> Self {
        Self {
            items,
            next: Some(next.into()),
            resume: None,
        }
    }

    /// The last page. Say with [`resume_at`](Self::resume_at) where the next sync starts, if the server tells.
    #[must_use]
    pub fn last(items: Vec<ServerItem<T>>) -> Self {
        Self {
            items,
            next: None,
            resume: None,
        }
    }

    /// Where the next sync starts: behind everything that this one saw. The word of the server, never the clock of the device.
    #[must_use]
    pub fn resume_at(mut self, cursor: impl Into<Cursor>) -> Self {
        self.resume = Some(cursor.into());
        self
    }
}

/// What the server did with one item.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PushResult {
    /// Which.
    pub id: ItemId,
    /// What.
    pub status: PushStatus,
}

/// What the server did with one item.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushStatus {
    /// It took it.
    Success,
    /// It has something newer. The item stays modified; the pull that follows brings the other side.
    Conflict {
        /// What the server said.
        reason: String,
    },
    /// It did not take it. The item stays modified, and goes with the next sync again.
    Failed {
        /// What the server said.
        reason: String,
    },
}

impl PushResult {
    /// The server took it.
    pub fn success(id: impl Into<ItemId>) -> Self {
        Self {
            id: id.into(),
            status: PushStatus::Success,
        }
    }

    /// The server has something newer.
    pub fn conflict(id: impl Into<ItemId>, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self {
            id: id.into(),
            status: PushStatus::Conflict { reason },
        }
    }

    /// The server did not take it.
    pub fn failed(id: impl Into<ItemId>, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self {
            id: id.into(),
            status: PushStatus::Failed { reason },
        }
    }
}

/// What came of a page that was applied: the conflicts it met. Each becomes an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "hand it back, so that conflicts are told"]
#[non_exhaustive]
pub struct Applied {
    /// Items that were changed on both sides, and which side is kept.
    pub conflicts: Vec<Conflict>,
}

impl Applied {
    /// All of it, without a conflict.
    pub fn cleanly() -> Self {
        Self::default()
    }

    /// With one more conflict.
    pub fn conflict(mut self, conflict: Conflict) -> Self {
        self.conflicts.push(conflict);
        self
    }
}

/// An item that was changed here and at the server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// Which.
    pub id: ItemId,
    /// The version that the app's change was made on.
    pub local_version: u64,
    /// The version of the server.
    pub server_version: u64,
    /// Which side is kept.
    pub winner: Winner,
}

impl Conflict {
    /// A conflict, decided by the app.
    pub fn decided<T>(local: &LocalItem<T>, server: &ServerItem<T>, winner: Winner) -> Self {
        Self {
            id: server.id.clone(),
            local_version: local.version,
            server_version: server.version,
            winner,
        }
    }
}

/// Which side of a conflict is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Winner {
    /// The app's: it is pushed with the next sync.
    Local,
    /// The server's: the app's change is given up.
    Server,
    /// Something made of both: it is pushed with the next sync.
    Merged,
}

/// What to do with a server's item that the app has too.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Resolution {
    /// The app did not change it: apply the server's.
    TakeServer,
    /// The server's is not newer than what the app has, or than what its change was made on: leave the app's alone.
    KeepLocal,
    /// Both changed it.
    Conflict(Conflict),
}

/// Decides by version, the orchestrator's default: the higher one wins. A local change that was made on an older version
/// than the server's is a [`Conflict`], which the server wins; one made on the newest version stays, and is pushed.
///
/// Ask it in the transaction that applies the page, so that no write of the app comes between.
///
/// ```
/// use syncvault::clock::Timestamp;
/// use syncvault::sync::{LocalItem, Resolution, ServerItem, highest_version};
///
/// let ours = LocalItem::new("7", "ours").version(4).modified(Timestamp::EPOCH);
/// let same = ServerItem::new("7", "as we know it").version(4);
/// assert_eq!(highest_version(&ours, &same), Resolution::KeepLocal);
/// let newer = ServerItem::new("7", "theirs").version(5);
/// assert!(matches!(highest_version(&ours, &newer), Resolution::Conflict(_)));
/// ```
pub fn highest_version<T>(local: &LocalItem<T>, server: &ServerItem<T>) -> Resolution {
    match (local.locally_modified, server.version > local.version) {
        (Some(_), true) => Resolution::Conflict(Conflict::decided(local, server, Winner::Server)),
        (None, _) if server.version >= local.version => Resolution::TakeServer,
        _ => Resolution::KeepLocal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_version_wins_and_a_lost_change_is_told() {
        let table = [
            (4, false, 5, Resolution::TakeServer),
            (4, false, 4, Resolution::TakeServer),
            (5, false, 4, Resolution::KeepLocal),
            (4, true, 4, Resolution::KeepLocal),
            (5, true, 4, Resolution::KeepLocal),
        ];
        let local = |version, is_modified| {
            let local = LocalItem::new("a", ()).version(version);
            match is_modified {
                true => local.modified(Timestamp::EPOCH),
                false => local,
            }
        };
        for (ours, is_modified, theirs, want) in table {
            let server = ServerItem::new("a", ()).version(theirs);
            let got = highest_version(&local(ours, is_modified), &server);
            assert_eq!(got, want, "{ours} {is_modified} {theirs}");
        }
        let tombstone = ServerItem::<()>::deleted("a").version(5);
        let Resolution::Conflict(conflict) = highest_version(&local(4, true), &tombstone) else {
            panic!("no conflict");
        };
        assert_eq!(conflict.winner, Winner::Server);
        assert_eq!((conflict.local_version, conflict.server_version), (4, 5));
    }
}
