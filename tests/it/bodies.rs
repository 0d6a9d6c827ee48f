//! Bodies from files and forms, over real HTTP: the same bytes at each attempt, whatever becomes of the app's files; a
//! damaged one never arrives whole; nothing is left over.

mod compressed;
mod damage;
#[cfg(feature = "test-util")]
mod faults;
mod file;
mod form;

use std::path::{Path, PathBuf};

use syncvault::{ActionId, ConnectivityMode, SyncVault, SyncVaultBuilder};
use tempfile::TempDir;

use crate::chaos_server::{ChaosServer, noise};
use crate::story::{bare_builder, soon};

/// An app with a vault, a file of its own and a server.
struct App {
    server: ChaosServer,
    dir: TempDir,
}

impl App {
    async fn start() -> Self {
        let server = ChaosServer::start().await;
        let dir = tempfile::tempdir().expect("tempdir");
        Self { server, dir }
    }

    fn builder(&self) -> SyncVaultBuilder {
        bare_builder(&self.server).storage_path(self.dir.path().join("vault"))
    }

    async fn vault(&self) -> SyncVault {
        self.builder().build().await.expect("vault")
    }

    /// A vault that sends nothing until it is told to.
    async fn quiet_vault(&self) -> SyncVault {
        let vault = self.vault().await;
        vault.set_connectivity(ConnectivityMode::Offline);
        vault
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).expect("write");
        path
    }

    /// As [`kept`](Self::kept), of a vault that is open: it has removed what it does not need once it answers again.
    async fn kept_by(&self, vault: &SyncVault) -> Vec<PathBuf> {
        let nobody = vault.action(ActionId::new()).await;
        assert!(nobody.expect("an answer").is_none());
        self.kept()
    }

    /// What lies in the vault's directory of bodies.
    fn kept(&self) -> Vec<PathBuf> {
        files_in(&self.dir.path().join("vault/bodies"))
    }
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("list");
    entries.map(|entry| entry.expect("entry").path()).collect()
}

async fn close(vault: SyncVault) {
    let closed = vault.shutdown(std::time::Duration::from_secs(5));
    soon(closed).await.expect("closed");
}
