//! On whose behalf the vault sends.

use super::SyncVaultBuilder;

impl SyncVaultBuilder {
    /// Who uses the app now; see [`SyncVault::principal`](crate::SyncVault::principal). Default: nobody, and the actions of every principal wait.
    pub fn principal(mut self, principal: impl Into<String>) -> Self {
        self.principal = Some(principal.into());
        self
    }

    /// Sends the actions of every principal, side by side, whoever is active: for programs that act for many at once, a
    /// gateway say. The provider of credentials is told for whom.
    pub fn all_principals(mut self) -> Self {
        self.is_everybody_sent = true;
        self
    }
}
