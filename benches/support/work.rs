//! What every measurement needs: a directory on the real disk, payloads that do not compress, a runtime.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rand::Rng;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Outcome<T> = Result<T, Failure>;

/// The size of every payload.
pub(crate) const PAYLOAD_BYTES: usize = 1024;

/// A directory that goes away at the end, below `parent` or where the build puts its files: a temporary
/// directory of the system may lie in memory.
pub(crate) fn scratch(parent: Option<&Path>) -> Outcome<tempfile::TempDir> {
    let parent = parent.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")));
    std::fs::create_dir_all(parent)?;
    Ok(tempfile::Builder::new()
        .prefix("bench")
        .tempdir_in(parent)?)
}

pub(crate) fn runtime() -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

/// Random bytes to cut payloads from.
#[derive(Debug)]
pub(crate) struct Noise {
    bytes: Bytes,
    at: AtomicUsize,
}

impl Noise {
    pub(crate) fn new() -> Self {
        let mut bytes = vec![0; 16 * 1024 * 1024];
        rand::rng().fill_bytes(&mut bytes);
        let (bytes, at) = (bytes.into(), AtomicUsize::new(0));
        Self { bytes, at }
    }

    /// The next payload. It costs no copy.
    pub(crate) fn payload(&self) -> Bytes {
        // A prime stride: the same cut comes again only after the whole buffer was walked many times.
        let at = self.at.fetch_add(7919, Ordering::Relaxed) % (self.bytes.len() - PAYLOAD_BYTES);
        self.bytes.slice(at..at + PAYLOAD_BYTES)
    }
}
