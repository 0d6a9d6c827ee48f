//! Looks at a vault on sled. sled writes when it opens, so it opens a private copy; the bodies are read where they are.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::{FILE_BYTES, MARK, SledBase, SledOptions, journal_bytes, paths_in};
use crate::error::{Error, ErrorKind, Result};
use crate::store::dir::{VaultDir, failed};
use crate::store::examination::{Examiner, Problem};
use crate::store::journal::Journaled;
use crate::store::kv::examine;

/// # Errors
///
/// [`ErrorKind::Corrupt`] when the engine cannot be opened, [`ErrorKind::Locked`] when somebody has the vault open, and
/// storage errors.
pub(crate) fn examine_sled(path: &Path, out: &mut Examiner) -> Result<()> {
    let dir = VaultDir::look(path)?;
    let (vault, scratch) = (dir.path().to_owned(), dir.scratch()?);
    let sled = scratch.copy(&vault.join("sled"))?;
    let journal = scratch.copy(&vault.join("journal"))?;
    let file_bytes = match vault.join(MARK) {
        mark if mark.exists() => journal_bytes(&mark)?,
        _ => FILE_BYTES,
    };
    if vault.join(MARK).exists() && !Journaled::<SledBase>::is_in(&journal) {
        let text = "the vault lost its journal, or half of it, and with it what it held last";
        return Err(Error::new(ErrorKind::Corrupt, text));
    }
    for path in paths_in(&sled)? {
        if path.extension().is_some_and(|end| end == "generating") {
            fs::remove_file(&path).map_err(|e| failed("leave out", &path, e))?;
            let text = "a crash tore a snapshot of the engine: the next open moves it aside";
            out.find(Problem::Unfinished, "sled", text);
        }
    }
    let base = SledBase::open(sled, Arc::new(dir), &SledOptions::default())?;
    let engine = Journaled::open(base, &journal, file_bytes)?;
    examine(engine, Some(&vault.join("bodies")), out)
}
