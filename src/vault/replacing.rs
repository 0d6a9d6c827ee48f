//! Putting another request in the place of a queued one.

use std::sync::Arc;

use super::SyncVault;
use crate::action::ActionId;
use crate::dispatch::Replaced;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use crate::request::RequestBuilder;

impl SyncVault {
    /// Puts a request in the place of a queued one, if no byte of that can have left. The old one ends as superseded; the new one
    /// is a request of its own, with the place and the lane of the old one, and with a key of its own.
    ///
    /// What the new request says of its [`delivery`](RequestBuilder::delivery) is not asked: it is queued. Its
    /// [`coalesce`](RequestBuilder::coalesce) key holds for what comes later.
    ///
    /// ```
    /// # async fn example(vault: &syncvault::SyncVault, id: syncvault::ActionId) -> syncvault::Result<()> {
    /// use syncvault::Replaced;
    ///
    /// match vault.replace(id, vault.post("/orders").body("three coffees")).await? {
    ///     Replaced::Replaced(ticket) => println!("saved as {}", ticket.id()),
    ///     Replaced::TooLate => println!("it has ended already"),
    ///     _ => println!("the server may have seen it: send a change"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for an unknown id, and for an action of another principal than the request's;
    /// [`ErrorKind::Invalid`] for a request of another vault or with another lane; [`ErrorKind::IdempotencyConflict`] for the key
    /// of another action, the old one included; otherwise as [`RequestBuilder::enqueue`]. In each case the old one stays as it
    /// is.
    pub async fn replace(&self, id: ActionId, request: RequestBuilder) -> Result<Replaced> {
        if !request.is_of(&self.dispatch) {
            let text = "a request of another vault replaces nothing in this one";
            return Err(Error::invalid(text));
        }
        let (draft, payload, lane) = request.check_in_lane()?;
        Arc::clone(&self.dispatch)
            .replace(id, draft, payload, lane)
            .await
    }
}
