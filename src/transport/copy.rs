//! A copy of a whole body, taken while the caller streams it. Bounded; a body that breaks off leaves none.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use reqwest::{Body, Response};

use super::answer::rebuild;

/// Hands the whole body to `done` when it was read to its end, if it has no more than `bytes_max` bytes. `done` runs inside the
/// caller's read: it must be short and must not block.
pub(crate) fn copied(
    response: Response,
    bytes_max: u64,
    done: impl FnOnce(Bytes) + Send + 'static,
) -> Response {
    if response
        .content_length()
        .is_some_and(|bytes| bytes > bytes_max)
    {
        return response;
    }
    rebuild(response, |body| {
        let mut copying = Copying {
            body,
            bytes_max,
            copy: Mutex::new(Some((BytesMut::new(), Box::new(done)))),
        };
        if copying.body.is_end_stream() {
            copying.finish();
        }
        Body::wrap(copying)
    })
}

type Done = Box<dyn FnOnce(Bytes) + Send>;

struct Copying {
    body: Body,
    bytes_max: u64,
    /// Nothing once it is done or not wanted. A mutex only because a body has to be `Sync`; it is never contended.
    copy: Mutex<Option<(BytesMut, Done)>>,
}

impl Copying {
    fn copy(&mut self) -> &mut Option<(BytesMut, Done)> {
        self.copy.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&mut self, data: &[u8]) {
        let max = self.bytes_max;
        let copy = self.copy();
        if let Some((bytes, _)) = copy {
            match (bytes.len() + data.len()) as u64 > max {
                true => *copy = None,
                false => bytes.extend_from_slice(data),
            }
        }
    }

    fn finish(&mut self) {
        if let Some((bytes, done)) = self.copy().take() {
            done(bytes.freeze());
        }
    }
}

impl http_body::Body for Copying {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, reqwest::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.push(data);
                }
                // Who knows the length may stop reading here.
                if self.body.is_end_stream() {
                    self.finish();
                }
            }
            Some(Err(_)) => *self.copy() = None,
            None => self.finish(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::stream;

    use super::*;

    type Piece = Result<&'static str, std::io::Error>;

    /// What is handed over of a body that comes in these pieces.
    async fn handed_over(pieces: Vec<Piece>, bytes_max: u64) -> Option<Bytes> {
        let body = Body::wrap_stream(stream::iter(pieces));
        let copy = Arc::new(Mutex::new(None));
        let place = copy.clone();
        let response = copied(http::Response::new(body).into(), bytes_max, move |body| {
            *place.lock().expect("lock") = Some(body);
        });
        drop(response.bytes().await);
        copy.lock().expect("lock").take()
    }

    #[tokio::test]
    async fn only_a_whole_body_is_handed_over() {
        let broken = || std::io::Error::other("broken off");
        let whole = || vec![Ok("half of "), Ok("it")];
        assert_eq!(handed_over(whole(), 10).await, Some("half of it".into()));
        assert_eq!(handed_over(whole(), 9).await, None, "too long");
        assert_eq!(
            handed_over(vec![Ok("half of "), Err(broken())], 10).await,
            None
        );
        assert_eq!(handed_over(vec![Err(broken())], 10).await, None);
        assert_eq!(handed_over(Vec::new(), 10).await, Some(Bytes::new()));
    }
}
