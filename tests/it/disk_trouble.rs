//! Full disks and calls of the system that fail, driven by `tests/disk_trouble/run`, which says what it needs. The judge
//! is that of the crash suite.

mod calls;
mod refused;
mod small_disk;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use syncvault::connectivity::AlwaysReachable;
use syncvault::store::crypt::Key;
use syncvault::store::{FjallStore, SledOptions, SledStore, SqliteOptions, SqliteStore, Store};
use syncvault::{Backoff, Draining, Result, RetryPolicy, SyncVault, SyncVaultBuilder};

use crate::crash::child::Kind;
use crate::crash::history::Place;

const KINDS: [Kind; 3] = [Kind::Sled, Kind::Sqlite, Kind::Fjall];

/// Small files, so that a little work turns the journal over, and a small disk holds a vault.
fn store(kind: Kind, dir: &Path) -> Result<Arc<dyn Store>> {
    match kind {
        Kind::Sled => {
            let mut options = SledOptions::default();
            options.journal_bytes = 256 * 1024;
            Ok(Arc::new(SledStore::open_with(dir, options)?))
        }
        Kind::Fjall => Ok(Arc::new(FjallStore::open(dir)?)),
        _ => {
            let mut options = SqliteOptions::default();
            options.ballast_bytes = 512 * 1024;
            Ok(Arc::new(SqliteStore::open_with(dir, options)?))
        }
    }
}

fn builder(kind: Kind, dir: &Path, url: &str, draining: Draining) -> Result<SyncVaultBuilder> {
    let mut policy = RetryPolicy::default();
    policy.backoff = Backoff::fixed(Duration::from_millis(3));
    policy.origin_backoff = Backoff::fixed(Duration::from_millis(10));
    policy.max_retries = 10_000;
    Ok(SyncVault::builder(url)
        .shared_store(store(kind, dir)?)
        .retry_policy(policy)
        .draining(draining)
        .connectivity(AlwaysReachable::new()))
}

async fn vault(kind: Kind, dir: &Path, url: &str, draining: Draining) -> Result<SyncVault> {
    builder(kind, dir, url, draining)?.build().await
}

/// With the key of the crash suite, which looks at what is left.
async fn sealed(kind: Kind, dir: &Path, url: &str, draining: Draining) -> Result<SyncVault> {
    let builder = builder(kind, dir, url, draining)?;
    builder.encryption(Key::new([7; 32])).build().await
}

async fn enqueue(vault: &SyncVault, place: &Place) -> Result<()> {
    let request = vault.post(place.to_string()).lane(&place.lane);
    request.body(place.body()).enqueue().await.map(drop)
}

fn place(lane: u32, cycle: u32, n: u32, bytes: usize) -> Place {
    Place {
        lane: format!("q{lane}"),
        cycle,
        n,
        bytes,
    }
}

/// What the script made; nothing when somebody runs all ignored tests without it.
fn from_script(name: &str) -> Option<PathBuf> {
    std::env::var_os(format!("SYNCVAULT_DISK_TROUBLE_{name}")).map(PathBuf::from)
}
