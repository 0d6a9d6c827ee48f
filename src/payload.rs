//! The body of a request on its way to the disk: bytes, a file or a form become what a store keeps. It is copied,
//! hashed and compressed once, here; each attempt sends the same bytes.

mod compress;
mod form;
mod stream;

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};

use crate::action::{ActionId, Body};
use crate::error::{Error, ErrorKind, Result};
use crate::parts::Parts;
use crate::store::{Snapshot, Source, Store};

pub use compress::Compression;
pub use form::{Form, FormPart};
pub(crate) use stream::{Damage, check_files, load, streamed, whole};

/// What the app gave as a body.
pub(crate) enum Content {
    Bytes(Bytes),
    File(PathBuf),
    Form(Form),
}

/// Neither bytes nor paths: they stay out of logs.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::File(_) => f.write_str("a file"),
            Self::Form(_) => f.write_str("a form"),
        }
    }
}

impl Default for Content {
    fn default() -> Self {
        Self::Bytes(Bytes::new())
    }
}

/// A body as the app gave it, and what is to be done with it.
#[derive(Debug, Default)]
pub(crate) struct Payload {
    pub(crate) content: Content,
    pub(crate) compression: Option<Compression>,
}

/// A body as a store takes it. Dropping it removes what no action owns.
#[derive(Debug)]
pub(crate) struct KeptBody {
    /// The action that the files were made for.
    pub(crate) id: ActionId,
    pub(crate) body: Body,
    print: Print,
    snapshots: Vec<Snapshot>,
}

/// What a body is known again by, before it was compressed.
#[derive(Debug)]
enum Print {
    Bytes(Bytes),
    Digest([u8; 32]),
}

impl Payload {
    /// Brings the body where a store can take it. Sets the headers that belong to it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a body over its limit or a file that is none, and storage errors; nothing is left.
    pub(crate) async fn keep(self, parts: &Parts, headers: &mut HeaderMap) -> Result<KeptBody> {
        if let Some(compression) = self.compression {
            compression.check(headers)?;
        }
        let keeper = Keeper::new(parts);
        let kept = match self.content {
            Content::Bytes(bytes) => {
                let max = parts.options.body_bytes_max;
                check_size("the body", bytes.len() as u64, max)?;
                KeptBody::of_bytes(keeper.id, bytes)
            }
            Content::File(path) => {
                let snapshot = keeper.snapshot(&path, keeper.file_bytes_max).await?;
                KeptBody::of_snapshot(keeper.id, snapshot)
            }
            Content::Form(form) => {
                let (kept, content_type) = form.keep(&keeper).await?;
                headers.insert(CONTENT_TYPE, content_type);
                kept
            }
        };
        match self.compression {
            Some(compression) if kept.body.len() >= Compression::BYTES_MIN => {
                compress::keep(kept, compression, &keeper, headers).await
            }
            _ => Ok(kept),
        }
    }
}

#[cfg(feature = "sqlite")]
impl Payload {
    /// The body of a request that is queued in a transaction of the app: it goes where the transaction goes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for all but plain bytes, [`ErrorKind::Invalid`] for a body over its limit.
    pub(crate) fn keep_bytes(self, parts: &Parts) -> Result<KeptBody> {
        let (Content::Bytes(bytes), None) = (self.content, self.compression) else {
            let text = "a request in a transaction carries plain bytes: enqueue files, forms and compressed bodies on their own";
            return Err(Error::new(ErrorKind::Unsupported, text));
        };
        check_size("the body", bytes.len() as u64, parts.options.body_bytes_max)?;
        Ok(KeptBody::of_bytes(ActionId::new(), bytes))
    }
}

impl KeptBody {
    fn of_bytes(id: ActionId, bytes: Bytes) -> Self {
        Self {
            id,
            body: Body::Bytes(bytes.clone()),
            print: Print::Bytes(bytes),
            snapshots: Vec::new(),
        }
    }

    fn of_snapshot(id: ActionId, snapshot: Snapshot) -> Self {
        Self {
            id,
            body: snapshot.body().clone(),
            print: match snapshot.body() {
                Body::Bytes(bytes) => Print::Bytes(bytes.clone()),
                _ => Print::Digest(*snapshot.digest()),
            },
            snapshots: vec![snapshot],
        }
    }

    /// Puts in what makes it the same body again, whatever file it came from.
    pub(crate) fn print(&self, hash: &mut blake3::Hasher) {
        match &self.print {
            Print::Bytes(bytes) => hash.update(bytes),
            Print::Digest(digest) => hash.update(digest),
        };
    }

    /// The body, for an append that follows at once: the store then keeps or removes its files.
    pub(crate) fn hand_over(self) -> Body {
        self.snapshots.into_iter().for_each(Snapshot::hand_over);
        self.body
    }
}

/// Takes the snapshots of one action.
struct Keeper {
    id: ActionId,
    store: Arc<dyn Store>,
    body_bytes_max: u64,
    file_bytes_max: u64,
}

impl Keeper {
    fn new(parts: &Parts) -> Self {
        Self {
            id: ActionId::new(),
            store: parts.store.clone(),
            body_bytes_max: parts.options.body_bytes_max,
            file_bytes_max: parts.options.file_bytes_max,
        }
    }

    /// Copies a file of the app. One that changes meanwhile is refused: the copy could be of no moment at all.
    async fn snapshot(&self, path: &Path, bytes_max: u64) -> Result<Snapshot> {
        let opened = {
            let path = path.to_owned();
            blocking(move || open(&path)).await?
        };
        check_size("the file", opened.bytes, bytes_max)?;
        let source = Source::file(opened.file, bytes_max);
        let snapshot = self.store.snapshot(self.id, source).await?;
        let same = {
            let path = path.to_owned();
            blocking(move || Ok(look(&path)? == opened.look)).await?
        };
        if same && snapshot.body().len() == opened.bytes {
            return Ok(snapshot);
        }
        let text = format!("{} changed while it was copied; try again", path.display());
        Err(Error::invalid(text))
    }
}

/// Length and time of change.
type Look = (u64, Option<std::time::SystemTime>);

struct Opened {
    file: File,
    bytes: u64,
    look: Look,
}

fn open(path: &Path) -> Result<Opened> {
    let look = look(path)?;
    let file = File::open(path).map_err(|e| unreadable(path, e))?;
    Ok(Opened {
        file,
        bytes: look.0,
        look,
    })
}

/// Looked at before it is opened: to open a pipe would wait for its other end.
fn look(path: &Path) -> Result<Look> {
    let found = fs::metadata(path).map_err(|e| unreadable(path, e))?;
    if !found.is_file() {
        let text = format!("{} is not a file that can be sent", path.display());
        return Err(Error::invalid(text));
    }
    Ok((found.len(), found.modified().ok()))
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    let text = format!("the file {} cannot be read: {error}", path.display());
    Error::invalid(text).with_source(error)
}

fn check_size(what: &str, bytes: u64, max: u64) -> Result<()> {
    if bytes <= max {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what} has {bytes} bytes, the limit is {max}"
    )))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| {
        Err(Error::new(ErrorKind::Storage, "reading a file was cut off").with_source(e))
    })
}

fn header_value(text: &str) -> Result<HeaderValue> {
    HeaderValue::try_from(text)
        .map_err(|e| Error::invalid("a header value is not usable").with_source(e))
}

fn set_encoding(headers: &mut HeaderMap, encoding: &'static str) {
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
}
