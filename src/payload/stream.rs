//! A stored body on its way to the wire: chunk by chunk, with its exact length. The last chunk of each file leaves only
//! when length and checksum are right, so a damaged body never arrives whole.

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use futures_util::stream::{self, Fuse};
use futures_util::{StreamExt, TryStreamExt};
use http_body::{Frame, SizeHint};

use crate::action::{Body, BodyFile, Piece};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Chunks, Store};

/// A file up to this length is read whole, and checked before the first byte leaves.
const LOAD_BYTES_MAX: u64 = 1024 * 1024;

pub(super) type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// What broke a body while it was sent, if anything did.
pub(crate) type Damage = Arc<OnceLock<Error>>;

/// The whole of a body that is small enough to be checked first; others stay where they are.
pub(crate) async fn load(store: &Arc<dyn Store>, body: &Body) -> Result<Body> {
    let is_small = matches!(body, Body::File(file) if file.bytes <= LOAD_BYTES_MAX);
    if !is_small {
        return Ok(body.clone());
    }
    whole(store.clone(), body.clone()).await.map(Body::Bytes)
}

/// All of a body, checked.
pub(crate) async fn whole(store: Arc<dyn Store>, body: Body) -> Result<Bytes> {
    let chunks = chunks_of(store, body);
    let whole: BytesMut = chunks.try_collect().await?;
    Ok(whole.freeze())
}

/// Finds a file that is gone or has another length before anything is sent.
pub(crate) async fn check_files(store: &Arc<dyn Store>, body: &Body) -> Result<()> {
    for file in body.files() {
        drop(store.chunks(file.clone()).await?);
    }
    Ok(())
}

/// The body of a request, with its length known beforehand.
pub(crate) fn streamed(store: Arc<dyn Store>, body: &Body, damage: &Damage) -> reqwest::Body {
    reqwest::Body::wrap(Streamed {
        left: body.len(),
        chunks: Mutex::new(chunks_of(store, body.clone())),
        damage: damage.clone(),
    })
}

/// The bytes of a body, checked.
pub(super) fn chunks_of(store: Arc<dyn Store>, body: Body) -> ByteStream {
    let pieces = stream::iter(body.into_pieces());
    Box::pin(pieces.flat_map(move |piece| match piece {
        Piece::Bytes(bytes) => stream::iter([Ok(bytes)]).boxed(),
        Piece::File(file) => checked(store.clone(), file).boxed(),
    }))
}

fn checked(store: Arc<dyn Store>, file: BodyFile) -> impl Stream<Item = Result<Bytes>> {
    let opened = async move {
        let chunks = store.chunks(file.clone()).await?;
        let check = Check {
            chunks: chunks.fuse(),
            file,
            held: None,
            bytes: 0,
            crc32c: 0,
        };
        Ok(stream::try_unfold(check, Check::next))
    };
    stream::once(opened).try_flatten()
}

/// A file that is read, one chunk behind: what is held goes on when the next one is there, or all was right.
struct Check {
    chunks: Fuse<Chunks>,
    file: BodyFile,
    held: Option<Bytes>,
    bytes: u64,
    crc32c: u32,
}

impl Check {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        while let Some(chunk) = self.chunks.try_next().await? {
            self.bytes += chunk.len() as u64;
            self.crc32c = crc32c::crc32c_append(self.crc32c, &chunk);
            if self.bytes > self.file.bytes {
                return Err(damaged("is longer than it was"));
            }
            if let Some(ready) = self.held.replace(chunk) {
                return Ok(Some((ready, self)));
            }
        }
        if self.bytes != self.file.bytes {
            return Err(damaged("is shorter than it was"));
        }
        if self.crc32c != self.file.crc32c {
            return Err(damaged("fails its checksum"));
        }
        Ok(self.held.take().map(|last| (last, self)))
    }
}

fn damaged(how: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the stored body {how}"))
}

struct Streamed {
    /// A body of a request must be `Sync`; it is never contended.
    chunks: Mutex<ByteStream>,
    left: u64,
    damage: Damage,
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let chunks = self
            .chunks
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        match ready!(chunks.poll_next_unpin(cx)) {
            Some(Ok(chunk)) => {
                self.left = self.left.saturating_sub(chunk.len() as u64);
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            Some(Err(error)) => {
                let text = error.to_string();
                self.damage.get_or_init(|| error);
                Poll::Ready(Some(Err(text.into())))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
