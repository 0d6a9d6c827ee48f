//! Reads an export: once to see that it is whole, then again, action by action.

use std::io::{BufRead, BufReader, Read, Seek};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::lines::{
    ActionLine, EXPORT_FORMAT, Header, LINE_BYTES_MAX, Line, Trailer, decode, unreadable,
};
use crate::decide::Gate;
use crate::error::{Error, ErrorKind, Result};

/// How many actions are read at once, and how many bytes of lines.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1024 * 1024;

/// The lines of an export, one after the other. Clones read on where the others are.
pub(super) struct Reader<R> {
    inner: Arc<Mutex<Inner<R>>>,
}

impl<R> Clone for Reader<R> {
    fn clone(&self) -> Self {
        let inner = self.inner.clone();
        Self { inner }
    }
}

struct Inner<R> {
    source: BufReader<R>,
    line: String,
    /// Of a chunk, what was not asked for yet.
    rest: Bytes,
}

/// What an export says about itself.
pub(super) struct Frame {
    pub(super) header: Header,
    pub(super) trailer: Trailer,
}

/// What comes next. Only the last action may have its bytes in the lines that follow.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) gates: Vec<Gate>,
    pub(super) actions: Vec<ActionLine>,
    pub(super) is_end: bool,
}

impl<R: Read + Seek> Reader<R> {
    pub(super) fn new(source: R) -> Self {
        let inner = Inner {
            source: BufReader::with_capacity(256 * 1024, source),
            line: String::new(),
            rest: Bytes::new(),
        };
        let inner = Arc::new(Mutex::new(inner));
        Self { inner }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<R>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads it from its start to its end, and stands behind its header.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when it is cut, changed, or of a newer format.
    pub(super) fn check(&self) -> Result<Frame> {
        let mut inner = self.lock();
        inner.rewind()?;
        let frame = inner.check()?;
        inner.rewind()?;
        inner.next_line()?;
        Ok(frame)
    }

    pub(super) fn next_batch(&self) -> Result<Batch> {
        let mut inner = self.lock();
        if !inner.rest.is_empty() {
            return Err(unreadable("a value is longer than it was said to be"));
        }
        let (mut batch, mut bytes) = (Batch::default(), 0);
        while batch.actions.len() < BATCH && bytes < BATCH_BYTES && inner.next_line()? {
            bytes += inner.line.len();
            match inner.parse()? {
                Line::Gate(gate) => batch.gates.push(gate),
                Line::Trailer(_) => {
                    batch.is_end = true;
                    break;
                }
                Line::Action(action) => {
                    let is_whole = action.is_whole();
                    batch.actions.push(*action);
                    if !is_whole {
                        break;
                    }
                }
                Line::Header(_) | Line::Chunk(_) => {
                    return Err(unreadable("a line stands where it does not belong"));
                }
            }
        }
        Ok(batch)
    }

    /// The next bytes of the chunks, at most so many.
    pub(super) fn next_bytes(&self, bytes_max: u64) -> Result<Bytes> {
        let mut inner = self.lock();
        while inner.rest.is_empty() {
            if !inner.next_line()? {
                return Err(unreadable("a value is shorter than it was said to be"));
            }
            let Line::Chunk(text) = inner.parse()? else {
                return Err(unreadable("a value is shorter than it was said to be"));
            };
            inner.rest = decode(&text)?;
        }
        let length = inner.rest.len();
        let length = usize::try_from(bytes_max).map_or(length, |max| length.min(max));
        Ok(inner.rest.split_to(length))
    }
}

impl<R: Read + Seek> Inner<R> {
    fn rewind(&mut self) -> Result<()> {
        self.source.rewind().map_err(unread)
    }

    /// False at the end.
    fn next_line(&mut self) -> Result<bool> {
        self.line.clear();
        let mut limited = self.source.by_ref().take(LINE_BYTES_MAX);
        let length = limited.read_line(&mut self.line).map_err(unread)?;
        match (length, self.line.ends_with('\n')) {
            (0, _) => Ok(false),
            (_, true) => Ok(true),
            (_, false) => Err(cut()),
        }
    }

    fn parse(&self) -> Result<Line> {
        serde_json::from_str(&self.line)
            .map_err(|e| unreadable("a line is of another shape").with_source(e))
    }

    fn check(&mut self) -> Result<Frame> {
        let mut hash = blake3::Hasher::new();
        if !self.next_line()? {
            return Err(unreadable("it is empty"));
        }
        let header = self.header()?;
        hash.update(self.line.as_bytes());
        let mut actions = 0;
        while self.next_line()? {
            if !self.line.starts_with("{\"trailer\":") {
                actions += u64::from(self.line.starts_with("{\"action\":"));
                hash.update(self.line.as_bytes());
                continue;
            }
            let Line::Trailer(trailer) = self.parse()? else {
                return Err(unreadable("its trailer is none"));
            };
            let is_whole = trailer.blake3 == hash.finalize().to_hex().as_str()
                && trailer.contents.actions() == actions;
            return match (is_whole, self.next_line()?) {
                (true, false) => Ok(Frame { header, trailer }),
                (true, true) => Err(unreadable("something follows its trailer")),
                (false, _) => Err(unreadable("it was changed: its checksum does not hold")),
            };
        }
        Err(cut())
    }

    fn header(&self) -> Result<Header> {
        let value: serde_json::Value = serde_json::from_str(&self.line)
            .map_err(|e| unreadable("it does not start with a header").with_source(e))?;
        let format = value["header"]["format"].as_u64();
        match format {
            None => return Err(unreadable("it does not start with a header")),
            Some(format) if format > u64::from(EXPORT_FORMAT) => {
                let text = format!(
                    "the export has format {format}, this version reads up to {EXPORT_FORMAT}; use a newer version"
                );
                return Err(Error::new(ErrorKind::Corrupt, text));
            }
            Some(_) => {}
        }
        match self.parse()? {
            Line::Header(header) => Ok(header),
            _ => Err(unreadable("it does not start with a header")),
        }
    }
}

fn cut() -> Error {
    unreadable("it is cut: its end is missing, export again")
}

fn unread(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Storage, "the export cannot be read").with_source(error)
}

/// A value that lies in the chunks that follow, as something to read from.
pub(super) struct Value<R> {
    pub(super) reader: Reader<R>,
    pub(super) left: u64,
    pub(super) at: Bytes,
}

impl<R: Read + Seek> Read for Value<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.at.is_empty() && self.left > 0 {
            self.at = self
                .reader
                .next_bytes(self.left)
                .map_err(std::io::Error::other)?;
            self.left -= self.at.len() as u64;
        }
        let length = self.at.len().min(out.len());
        out[..length].copy_from_slice(&self.at.split_to(length));
        Ok(length)
    }
}
