//! Probes under way: at most one for each origin.

use std::collections::HashSet;

use tokio::task::JoinSet;

use crate::action::Origin;
use crate::connectivity::Reach;
use crate::parts::Parts;

/// The probes that run.
#[derive(Debug, Default)]
pub(super) struct Probing {
    tasks: JoinSet<Probed>,
    origins: HashSet<Origin>,
}

/// What a probe found.
#[derive(Debug)]
pub(super) struct Probed {
    pub(super) origin: Origin,
    pub(super) reach: Reach,
}

impl Probing {
    /// Asks whether an origin can be reached, unless that is being asked already.
    pub(super) fn start(&mut self, parts: &std::sync::Arc<Parts>, origin: Origin) {
        if self.origins.insert(origin.clone()) {
            let parts = parts.clone();
            self.tasks.spawn(async move {
                let reach = parts.connectivity.probe(origin.clone()).await;
                Probed { origin, reach }
            });
        }
    }

    /// The next result; nothing at once when no probe runs. Safe to drop.
    pub(super) async fn next(&mut self) -> Option<Probed> {
        match self.tasks.join_next().await? {
            Ok(probed) => {
                self.origins.remove(&probed.origin);
                Some(probed)
            }
            Err(error) => {
                tracing::error!(%error, "a probe panicked");
                self.origins.clear();
                None
            }
        }
    }
}
