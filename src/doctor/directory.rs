//! The files of a vault: whether all are its own, and nobody else's to read.

use std::fs;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::store::{Examiner, Problem};

/// What may lie in the directory of a vault.
const KNOWN: &[&str] = &[
    "LOCK",
    "ballast",
    "bodies",
    "drain.lock",
    "fjall",
    "format",
    "journal",
    "keyring",
    "mark",
    "open.lock",
    "quarantine",
    "runs",
    "salvage",
    "sled",
    "vault.db",
    "vault.db-journal",
    "vault.db-shm",
    "vault.db-wal",
];

pub(super) fn examine(path: &Path, out: &mut Examiner) -> Result<()> {
    access(path, path, out)?;
    for (name, below) in entries(path)? {
        if !KNOWN.contains(&name.as_str()) {
            let text = "it has no name of the vault's; it is left alone";
            out.find(Problem::UnknownFile, &name, text);
            continue;
        }
        access(path, &below, out)?;
        if !below.is_dir() || below.is_symlink() {
            continue;
        }
        for (_, file) in entries(&below)? {
            access(path, &file, out)?;
            if name == "quarantine" {
                let place = shown(path, &file);
                out.find(Problem::Quarantine, place, "an earlier run moved it aside");
            }
        }
    }
    Ok(())
}

fn entries(path: &Path) -> Result<Vec<(String, std::path::PathBuf)>> {
    let list = || -> std::io::Result<_> {
        let mut found = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            found.push((
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            ));
        }
        found.sort();
        Ok(found)
    };
    list().map_err(|e| failed("list", path, e))
}

fn access(vault: &Path, path: &Path, out: &mut Examiner) -> Result<()> {
    let found = fs::symlink_metadata(path).map_err(|e| failed("look at", path, e))?;
    if found.is_symlink() {
        let text = "it is a symbolic link, which the vault does not follow";
        out.find(Problem::Access, shown(vault, path), text);
        return Ok(());
    }
    if is_open_to_others(&found) {
        let text = "others than its user may open it; the next open of the vault sets its mode";
        out.find(Problem::Access, shown(vault, path), text);
    }
    Ok(())
}

#[cfg(unix)]
fn is_open_to_others(found: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    found.permissions().mode() & 0o077 != 0
}

#[cfg(not(unix))]
fn is_open_to_others(_: &fs::Metadata) -> bool {
    false
}

fn shown(vault: &Path, path: &Path) -> String {
    let below = path.strip_prefix(vault).unwrap_or(path);
    match below.as_os_str().is_empty() {
        true => "the directory".to_owned(),
        false => below.display().to_string(),
    }
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    let text = format!("cannot {what} {}", path.display());
    Error::new(ErrorKind::Storage, text).with_source(error)
}
