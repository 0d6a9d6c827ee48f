//! The embedded stores that are compiled in, by name. Each is there a second time, sealed, where encryption is compiled in.

use std::path::Path;
use std::sync::Arc;

use syncvault::store::Store;

use crate::work::Outcome;

/// What comes behind the name of a store for its sealed variant.
pub(crate) const SEALED: &str = "-sealed";

/// The store of a vault that names none.
pub(crate) const DEFAULT: &str = "sled";

/// All of them.
pub(crate) fn names() -> Vec<String> {
    let compiled = [
        ("sled", cfg!(feature = "sled")),
        ("sqlite", cfg!(feature = "sqlite")),
        ("fjall", cfg!(feature = "fjall")),
    ];
    let mut names = Vec::new();
    for (name, is_there) in compiled {
        if is_there {
            names.push(name.to_owned());
        }
        if is_there && cfg!(feature = "encrypt") {
            names.push(format!("{name}{SEALED}"));
        }
    }
    names
}

/// Makes a store in `dir`, or opens the one that is there.
pub(crate) fn make(name: &str, dir: &Path) -> Outcome<Arc<dyn Store>> {
    if let Some(plain) = name.strip_suffix(SEALED) {
        return seal(make(plain, dir)?);
    }
    Ok(match name {
        #[cfg(feature = "sled")]
        "sled" => Arc::new(syncvault::store::SledStore::open(dir)?),
        #[cfg(feature = "sqlite")]
        "sqlite" => Arc::new(syncvault::store::SqliteStore::open(dir)?),
        #[cfg(feature = "fjall")]
        "fjall" => Arc::new(syncvault::store::FjallStore::open(dir)?),
        _ => return Err(format!("no store {name}; there are {}", names().join(", ")).into()),
    })
}

#[cfg(feature = "encrypt")]
fn seal(store: Arc<dyn Store>) -> Outcome<Arc<dyn Store>> {
    use syncvault::store::crypt::{Key, Sealed};
    Ok(Arc::new(Sealed::new(store, Key::new([7; 32]))))
}

#[cfg(not(feature = "encrypt"))]
fn seal(_: Arc<dyn Store>) -> Outcome<Arc<dyn Store>> {
    Err("sealed stores need the feature `encrypt`".into())
}
