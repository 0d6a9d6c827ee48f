//! Compression of request bodies, once, before they are kept. What goes out is what lies on the disk.

use std::io::{self, Read};

use bytes::Bytes;
use futures_util::StreamExt;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use tokio::runtime::Handle;

use super::stream::{ByteStream, chunks_of};
use super::{Keeper, KeptBody, blocking, set_encoding};
use crate::action::Body;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Snapshot, Source};

/// How a request body is compressed. Only for servers that are known to take it: HTTP has no way to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// `Content-Encoding: gzip`. Feature `gzip`.
    Gzip,
    /// `Content-Encoding: zstd`. Feature `zstd`.
    Zstd,
}

type Reader = Box<dyn Read + Send>;

impl Compression {
    /// Shorter bodies go out as they are.
    pub const BYTES_MIN: u64 = 1024;

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] in a build without it, [`ErrorKind::Invalid`] for a body that the app encoded.
    pub(super) fn check(self, headers: &HeaderMap) -> Result<()> {
        if headers.contains_key(CONTENT_ENCODING) {
            let text = "the request has a Content-Encoding already; leave `compress(..)` out";
            return Err(Error::invalid(text));
        }
        self.reader(io::empty()).map(drop)
    }

    fn reader(self, plain: impl Read + Send + 'static) -> Result<Reader> {
        match self {
            Self::Gzip => gzip(plain),
            Self::Zstd => zstd(plain),
        }
    }
}

#[cfg(feature = "gzip")]
#[expect(clippy::unnecessary_wraps, reason = "the same shape in every build")]
fn gzip(plain: impl Read + Send + 'static) -> Result<Reader> {
    let level = flate2::Compression::default();
    Ok(Box::new(flate2::read::GzEncoder::new(plain, level)))
}

#[cfg(not(feature = "gzip"))]
fn gzip(_: impl Read + Send + 'static) -> Result<Reader> {
    Err(missing("gzip"))
}

#[cfg(feature = "zstd")]
fn zstd(plain: impl Read + Send + 'static) -> Result<Reader> {
    let encoder = zstd::stream::read::Encoder::new(plain, 0)
        .map_err(|e| Error::new(ErrorKind::Unsupported, "zstd cannot be used").with_source(e))?;
    Ok(Box::new(encoder))
}

#[cfg(not(feature = "zstd"))]
fn zstd(_: impl Read + Send + 'static) -> Result<Reader> {
    Err(missing("zstd"))
}

#[cfg(not(all(feature = "gzip", feature = "zstd")))]
fn missing(feature: &str) -> Error {
    let text = format!("this build does not compress: switch the feature `{feature}` on");
    Error::new(ErrorKind::Unsupported, text)
}

/// The same body, compressed, unless that makes it no shorter.
pub(super) async fn keep(
    plain: KeptBody,
    compression: Compression,
    keeper: &Keeper,
    headers: &mut HeaderMap,
) -> Result<KeptBody> {
    let (body, snapshot) = match &plain.body {
        Body::Bytes(bytes) => (
            Body::Bytes(in_memory(bytes.clone(), compression).await?),
            None,
        ),
        body => {
            let snapshot = to_file(body.clone(), compression, keeper).await?;
            (snapshot.body().clone(), Some(snapshot))
        }
    };
    if body.len() >= plain.body.len() {
        return Ok(plain);
    }
    set_encoding(headers, compression.name());
    Ok(KeptBody {
        body,
        snapshots: snapshot.into_iter().collect(),
        id: plain.id,
        print: plain.print,
    })
}

async fn in_memory(bytes: Bytes, compression: Compression) -> Result<Bytes> {
    blocking(move || {
        let mut compressed = Vec::new();
        compression
            .reader(io::Cursor::new(bytes))?
            .read_to_end(&mut compressed)
            .map_err(|e| Error::invalid("the body cannot be compressed").with_source(e))?;
        Ok(compressed.into())
    })
    .await
}

async fn to_file(body: Body, compression: Compression, keeper: &Keeper) -> Result<Snapshot> {
    // What cannot be compressed may grow a little.
    let bytes_max = body.len() + body.len() / 64 + 1024;
    let plain = StreamReader {
        chunks: chunks_of(keeper.store.clone(), body),
        chunk: Bytes::new(),
        runtime: Handle::current(),
    };
    let source = Source::reader(compression.reader(plain)?, bytes_max);
    keeper.store.snapshot(keeper.id, source).await
}

/// Reads a stream where waiting is allowed.
struct StreamReader {
    chunks: ByteStream,
    chunk: Bytes,
    runtime: Handle,
}

impl Read for StreamReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.runtime.block_on(self.chunks.next()) {
                Some(chunk) => self.chunk = chunk.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let bytes = out.len().min(self.chunk.len());
        out[..bytes].copy_from_slice(&self.chunk.split_to(bytes));
        Ok(bytes)
    }
}
