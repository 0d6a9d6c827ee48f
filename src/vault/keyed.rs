//! Actions by their idempotency key: for what is built on the vault and makes its own keys.

use super::SyncVault;
use crate::action::scoped_key;
use crate::error::Result;
use crate::store::Find;
use crate::ticket::Ticket;
use crate::{State, WireState};

/// Where an action with a known key is.
#[derive(Debug)]
pub(crate) struct Keyed {
    pub(crate) ticket: Ticket,
    pub(crate) state: State,
    /// The server may have seen it, or sees it now.
    pub(crate) is_tried: bool,
}

impl SyncVault {
    /// The action of a principal with this key, if it is known.
    pub(crate) async fn keyed(&self, principal: &str, key: &str) -> Result<Option<Keyed>> {
        self.parts().check_open()?;
        let find = Find::Key(scoped_key(Some(principal), key));
        let record = self.parts().store.get(find).await?;
        Ok(record.map(|record| Keyed {
            ticket: Ticket::of(self.parts().clone(), &record),
            is_tried: record.wire != WireState::NeverSent
                || matches!(record.state, State::InFlight { .. }),
            state: record.state,
        }))
    }
}
