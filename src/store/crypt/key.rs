//! Keys, and where the app keeps them. They are zeroed when they are dropped, and never shown.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, ErrorKind, Result};

const KEY_BYTES: usize = 32;

/// A secret key of 32 random bytes.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl Key {
    /// A key that somebody keeps: 32 bytes of a good random source, not a password.
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A new random key. Keep its [`bytes`](Self::bytes) somewhere: without them, what was sealed is lost.
    #[must_use]
    pub fn generate() -> Self {
        Self::new(rand::random())
    }

    /// The secret.
    #[must_use]
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Another key for another purpose. Nothing about this one can be learned from it.
    pub(super) fn derive(&self, purpose: &str) -> Self {
        Self::new(blake3::derive_key(purpose, self.bytes()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The key of a vault, and those that it had before.
///
/// ```
/// use syncvault::store::crypt::{Key, Keys};
/// # let (this_year, last_year) = (Key::generate(), Key::generate());
/// let keys = Keys::new(this_year).with_old(last_year);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Keys {
    pub(super) current: Key,
    pub(super) old: Vec<Key>,
}

impl Keys {
    /// One key.
    pub fn new(current: Key) -> Self {
        let old = Vec::new();
        Self { current, old }
    }

    /// A key of before, which may still be the one that opens the vault. Once it was opened, the current one does.
    pub fn with_old(mut self, old: Key) -> Self {
        self.old.push(old);
        self
    }
}

/// An error of the app's own provider.
pub type KeyError = Box<dyn std::error::Error + Send + Sync>;

/// The future of one call of a provider.
pub type KeyFuture<'a> = Pin<Box<dyn Future<Output = Result<Keys, KeyError>> + Send + 'a>>;

/// Gives the keys of a vault when it is opened. A [`Key`], [`Keys`], a [`KeyFile`], and an async closure that gives
/// `Result<Keys, _>` (from the system's key chain, say) are providers.
pub trait KeyProvider: Send + Sync + 'static {
    /// The keys.
    fn keys(&self) -> KeyFuture<'_>;
}

impl KeyProvider for Key {
    fn keys(&self) -> KeyFuture<'_> {
        Box::pin(std::future::ready(Ok(Keys::new(self.clone()))))
    }
}

impl KeyProvider for Keys {
    fn keys(&self) -> KeyFuture<'_> {
        Box::pin(std::future::ready(Ok(self.clone())))
    }
}

impl<F, A, E> KeyProvider for F
where
    F: Fn() -> A + Send + Sync + 'static,
    A: Future<Output = Result<Keys, E>> + Send + 'static,
    E: Into<KeyError>,
{
    fn keys(&self) -> KeyFuture<'_> {
        let answer = self();
        Box::pin(async move { answer.await.map_err(Into::into) })
    }
}

/// A key in a file of its own: 32 bytes, or 64 hexadecimal digits. Nobody but its owner may read it (mode 0600).
///
/// It protects what is copied without it: backups of the vault's directory, a lost disk. Keep it elsewhere.
#[derive(Clone, Debug)]
#[must_use]
pub struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    /// The key in this file, which must be there when the vault is opened.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        Self { path }
    }

    fn read(&self) -> Result<Keys> {
        let bad = |why: &str| {
            let text = format!("the key file {} {why}", self.path.display());
            Error::new(ErrorKind::WrongKey, text)
        };
        let failed = |e: std::io::Error| bad("cannot be read").with_source(e);
        let found = std::fs::symlink_metadata(&self.path).map_err(failed)?;
        if !found.is_file() {
            return Err(bad("is not a plain file"));
        }
        if is_open_to_others(&found) {
            return Err(bad("may be read by others: set its mode to 0600"));
        }
        let mut bytes = std::fs::read(&self.path).map_err(failed)?;
        let key = parse(&bytes);
        bytes.zeroize();
        key.map(Keys::new)
            .ok_or_else(|| bad("must hold 32 bytes, or 64 hexadecimal digits"))
    }
}

impl KeyProvider for KeyFile {
    fn keys(&self) -> KeyFuture<'_> {
        Box::pin(async { self.read().map_err(Into::into) })
    }
}

#[cfg(unix)]
fn is_open_to_others(found: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    found.permissions().mode() & 0o077 != 0
}

/// There are no such modes here.
#[cfg(not(unix))]
fn is_open_to_others(_: &std::fs::Metadata) -> bool {
    false
}

fn parse(bytes: &[u8]) -> Option<Key> {
    if let Ok(bytes) = bytes.try_into() {
        return Some(Key::new(bytes));
    }
    let digits = std::str::from_utf8(bytes).ok()?.trim();
    blake3::Hash::from_hex(digits)
        .ok()
        .map(|hash| Key::new(*hash.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_not_shown() {
        let key = Key::new([0x41; 32]);
        let text = format!("{key:?} {:?}", Keys::new(key.clone()).with_old(key.clone()));
        assert!(!text.contains("65") && !text.contains("41"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("key");
        let file = KeyFile::new(&path);
        assert_eq!(
            file.read().expect_err("missing").kind(),
            ErrorKind::WrongKey
        );
        let hex = "07".repeat(32) + "\n";
        let table: [(&[u8], u32, bool); 5] = [
            (&[7; 32], 0o600, true),
            (hex.as_bytes(), 0o400, true),
            (&[7; 32], 0o640, false),
            (&[7; 31], 0o600, false),
            (b"not hexadecimal", 0o600, false),
        ];
        for (bytes, mode, is_good) in table {
            std::fs::remove_file(&path).ok();
            std::fs::write(&path, bytes).expect("write");
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, mode).expect("chmod");
            let read = file.read();
            assert_eq!(read.is_ok(), is_good, "{read:?}");
            if let Ok(keys) = read {
                assert_eq!(keys.current.bytes(), &[7; 32]);
            }
        }
        let link = temp.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("link");
        assert!(KeyFile::new(&link).read().is_err());
    }
}
