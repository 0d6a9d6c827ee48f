//! Whose actions the vault sends: the active principal, and forgetting one; and the keys that all of it lies under.

use std::time::Duration;

use super::SyncVault;
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use crate::request::word;
use crate::store::{Amend, Amended};

impl SyncVault {
    /// Says who uses the app now: from the next request on, requests belong to this principal, and only its actions are
    /// sent, beside those of no principal. Those of others stay queued, in lanes and with keys of their own, until it is
    /// their turn again.
    ///
    /// It is never kept: after a restart the app says it again, at build or after its login, and until then the actions of
    /// every principal wait. When it returns, nothing of the principal before starts any more; an attempt on the wire goes
    /// on to its end, with the credentials of its own principal. Switch here first, and change tokens after that.
    ///
    /// ```
    /// # fn example(vault: &syncvault::SyncVault) -> syncvault::Result<()> {
    /// vault.principal("user_42")?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for an empty name, one over 255 bytes, or one with control characters.
    pub fn principal(&self, principal: impl Into<String>) -> Result<()> {
        let principal = word("principal", principal.into())?;
        self.parts().switch_principal(Some(principal));
        Ok(())
    }

    /// Nobody uses the app now: the actions of every principal wait.
    pub fn no_principal(&self) {
        self.parts().switch_principal(None);
    }

    /// Who uses the app now.
    #[must_use]
    pub fn active_principal(&self) -> Option<String> {
        self.parts().principals().active().map(str::to_owned)
    }

    /// Seals everything in a sealed vault anew, with new keys, and lets the old ones go: after this, what a lost key could
    /// open is no longer here. It goes in steps, beside the work of the vault; after a crash, call it again, and it goes on
    /// where it was. In a plain vault there is nothing to do. Returns how many actions were sealed anew.
    ///
    /// # Errors
    ///
    /// Storage errors; what was done by then stays so.
    pub async fn reencrypt(&self) -> Result<u64> {
        const STEP: usize = 100;
        const PAUSE: Duration = Duration::from_millis(50);
        let mut count = 0;
        let mut idle_steps = 0;
        loop {
            let amended = self.parts().amend(Amend::Reencrypt { limit: STEP }).await?;
            let Amended::More(records) = amended else {
                return Ok(count);
            };
            count += records.len() as u64;
            idle_steps = if records.is_empty() {
                idle_steps + 1
            } else {
                0
            };
            // Nothing but attempts in flight is left to wait for.
            if idle_steps > 8 {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Removes everything that the vault keeps of a principal: queued actions, dead letters, settled ones, bodies, answers,
    /// keys. Returns how many pending actions and dead letters went; the ledger counts them as evicted. If it was the
    /// active one, nobody is after it.
    ///
    /// From the call on nothing of it is sent. A crash in the middle changes nothing about that: the rest goes when the
    /// vault is opened again. An attempt on the wire goes on to its end: a direct send gets its answer, and nothing of it
    /// is kept.
    ///
    /// It does not reach what was moved to `quarantine/`, which is the app's to remove, nor the checkpoints of a sync, which
    /// belong to no principal.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a name that cannot be; storage errors, after which a second call does the rest.
    pub async fn forget(&self, principal: impl Into<String>) -> Result<u64> {
        let principal = word("principal", principal.into())?;
        let parts = self.parts().clone();
        parts.principals().forget(&principal);
        // In a task of its own: a dropped future must not leave the half of it.
        let task = tokio::spawn(async move { parts.forget(principal).await });
        task.await.unwrap_or_else(|_| Err(Error::closed()))
    }
}
