//! Bodies that are not in memory: what a store makes a snapshot of, the snapshot until an action owns it, and a
//! stored file as a stream of chunks.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Cursor, Read, Seek};
use std::path::Path;
use std::pin::Pin;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::stream;
use tokio::sync::oneshot;

use super::dir::{failed, no_follow};
use crate::action::{Body, BodyFile};
use crate::error::{Error, ErrorKind, Result};

/// The most that a snapshot holds in memory, in a store that keeps no files.
const MEMORY_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How much of a file is in memory at a time.
const CHUNK_BYTES: u64 = 256 * 1024;

/// The content of a stored file, chunk by chunk.
pub type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// What a snapshot is made of.
pub struct Source {
    content: Content,
    bytes_max: u64,
}

/// A file may be copied inside the file system; everything else passes through memory.
enum Content {
    File(File),
    Reader(Box<dyn Read + Send>),
}

impl Source {
    /// From a file, from its start. More than `bytes_max` bytes are refused.
    #[must_use]
    pub fn file(file: File, bytes_max: u64) -> Self {
        let content = Content::File(file);
        Self { content, bytes_max }
    }

    /// From anything that can be read. More than `bytes_max` bytes are refused.
    #[must_use]
    pub fn reader(reader: impl Read + Send + 'static, bytes_max: u64) -> Self {
        let content = Content::Reader(Box::new(reader));
        Self { content, bytes_max }
    }

    /// All of it, when it has at most so many bytes. It stands at its start again.
    pub(super) fn read_small(&mut self, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let mut head = Vec::new();
        let limit = bytes_max.saturating_add(1);
        match &mut self.content {
            Content::File(file) => {
                file.by_ref().take(limit).read_to_end(&mut head)?;
                file.rewind()?;
            }
            Content::Reader(reader) => {
                reader.by_ref().take(limit).read_to_end(&mut head)?;
                let rest = std::mem::replace(reader, Box::new(io::empty()));
                *reader = Box::new(Cursor::new(head.clone()).chain(rest));
            }
        }
        within(head.len() as u64, self.bytes_max)?;
        Ok((head.len() as u64 <= bytes_max).then_some(head))
    }

    /// Writes all of it to a file. Between two files the system copies, and shares the blocks where it can.
    pub(super) fn write_to(self, out: &mut File) -> io::Result<u64> {
        let limit = self.bytes_max.saturating_add(1);
        let bytes = match self.content {
            Content::File(file) => io::copy(&mut file.take(limit), out)?,
            Content::Reader(reader) => io::copy(&mut reader.take(limit), out)?,
        };
        within(bytes, self.bytes_max)?;
        Ok(bytes)
    }

    /// What is left to read, and how much of it is allowed.
    pub(super) fn into_reader(self) -> (Box<dyn Read + Send>, u64) {
        let reader: Box<dyn Read + Send> = match self.content {
            Content::File(file) => Box::new(file),
            Content::Reader(reader) => reader,
        };
        (reader, self.bytes_max)
    }

    fn read_to_end(self, bytes_max: u64) -> io::Result<Vec<u8>> {
        let (mut reader, allowed) = self.into_reader();
        let bytes_max = bytes_max.min(allowed);
        let mut bytes = Vec::new();
        reader
            .by_ref()
            .take(bytes_max.saturating_add(1))
            .read_to_end(&mut bytes)?;
        within(bytes.len() as u64, bytes_max)?;
        Ok(bytes)
    }
}

pub(super) fn within(bytes: u64, bytes_max: u64) -> io::Result<()> {
    if bytes <= bytes_max {
        return Ok(());
    }
    let text = format!("it has more than {bytes_max} bytes");
    Err(io::Error::new(io::ErrorKind::FileTooLarge, text))
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("bytes_max", &self.bytes_max)
            .finish_non_exhaustive()
    }
}

/// A body that a store has taken and that no action owns yet: dropping it removes its file.
#[derive(Debug)]
#[must_use = "dropping a snapshot removes it"]
pub struct Snapshot {
    body: Body,
    digest: [u8; 32],
    is_owned: bool,
}

impl Snapshot {
    /// A snapshot, and the BLAKE3 hash of its content.
    pub fn new(body: Body, digest: [u8; 32]) -> Self {
        Self {
            body,
            digest,
            is_owned: false,
        }
    }

    /// Where it is: in memory when it is small, else in a file.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The BLAKE3 hash of its content.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// To be called before it is given to [`Store::append`](super::Store::append): from then on the store keeps or
    /// removes it.
    pub fn hand_over(mut self) {
        self.is_owned = true;
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if self.is_owned {
            return;
        }
        for BodyFile { path, .. } in self.body.files() {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "a snapshot stays until the next open");
            }
        }
    }
}

/// For stores that keep no files: the whole content in memory.
pub(super) fn in_memory(source: Source) -> Result<Snapshot> {
    let bytes = source.read_to_end(MEMORY_BYTES_MAX).map_err(uncopied)?;
    let digest = blake3::hash(&bytes).into();
    Ok(Snapshot::new(Body::Bytes(bytes.into()), digest))
}

/// Why a source could not be copied. Errors of our own come through as they are.
pub(super) fn uncopied(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::FileTooLarge => {
            Error::invalid(format!("the body is too large for this vault: {error}"))
        }
        _ if error.get_ref().is_some_and(|inner| inner.is::<Error>()) => {
            let kind = own_kind(&error);
            Error::new(kind, "the body cannot be read").with_source(error)
        }
        _ => failed("copy the body to", Path::new("the vault"), error),
    }
}

fn own_kind(error: &io::Error) -> ErrorKind {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner.map_or(ErrorKind::Storage, Error::kind)
}

/// The one place where a stored file is read as a stream. Its length is checked here, its checksum by who reads it.
pub(super) async fn file_chunks(file: BodyFile) -> Result<Chunks> {
    let opened = blocking(move || open_stored(&file)).await?;
    let chunks = stream::try_unfold(opened, |mut file| async move {
        let (file, chunk) = blocking(move || {
            let chunk = read_chunk(&mut file)?;
            Ok((file, chunk))
        })
        .await?;
        Ok((!chunk.is_empty()).then_some((chunk, file)))
    });
    Ok(Box::pin(chunks))
}

fn open_stored(file: &BodyFile) -> Result<File> {
    let path = &file.path;
    let mut options = OpenOptions::new();
    options.read(true);
    no_follow(&mut options);
    let opened = options.open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => damaged(path, "is gone"),
        _ if path.is_symlink() => damaged(path, "is a symbolic link"),
        _ => failed("open", path, e),
    })?;
    let found = opened.metadata().map_err(|e| failed("look at", path, e))?;
    if found.is_file() && found.len() == file.bytes {
        Ok(opened)
    } else {
        Err(damaged(path, "has another length"))
    }
}

fn read_chunk(file: &mut File) -> Result<Bytes> {
    let mut chunk = Vec::with_capacity(usize::try_from(CHUNK_BYTES).unwrap_or_default());
    let read = file.take(CHUNK_BYTES).read_to_end(&mut chunk);
    read.map_err(|e| failed("read", Path::new("a stored body"), e))?;
    Ok(chunk.into())
}

pub(super) fn damaged(path: &Path, how: &str) -> Error {
    let text = format!("the stored value {} {how}", path.display());
    Error::new(ErrorKind::Corrupt, text)
}

/// Off the async runtime. The work is done even when nobody waits for it.
pub(super) fn run_blocking(start: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(start)),
        Err(_) => drop(std::thread::spawn(start)),
    }
}

/// As [`run_blocking`], with its result.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (reply, answer) = oneshot::channel();
    // The caller may be gone by then.
    run_blocking(move || drop(reply.send(work())));
    answer.await.map_err(|_| Error::closed())?
}
