//! Stands in for the watcher in builds without the feature `net-watch`: no hints.

use futures_util::stream;

use super::NetworkChanges;

pub(super) fn changes() -> NetworkChanges {
    Box::pin(stream::pending())
}
