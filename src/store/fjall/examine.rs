//! Looks at a vault on fjall. It writes when it opens, so it opens a private copy; the bodies are read where they are.

use std::path::Path;
use std::sync::Arc;

use super::engine::FjallEngine;
use super::{FjallOptions, journals};
use crate::error::Result;
use crate::store::dir::{MARK, VaultDir};
use crate::store::examination::Examiner;
use crate::store::kv::examine;

/// # Errors
///
/// Kind [`Corrupt`](crate::ErrorKind::Corrupt) when the engine cannot be opened, [`Locked`](crate::ErrorKind::Locked) when
/// somebody has the vault open, and storage errors.
pub(crate) fn examine_fjall(path: &Path, out: &mut Examiner) -> Result<()> {
    let dir = Arc::new(VaultDir::look(path)?);
    let vault = dir.path().to_owned();
    let scratch = dir.scratch()?;
    let copy = scratch.copy(&vault.join("fjall"))?;
    if vault.join(MARK).exists() {
        journals::check(&copy)?;
    }
    let engine = FjallEngine::open_at(copy, dir, &FjallOptions::default())?;
    examine(engine, Some(&vault.join("bodies")), out)
}
