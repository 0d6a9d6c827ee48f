//! What is kept of an answer: its status, chosen headers and the start of its body, read to the end (`keep`)
//! or copied while the caller streams it (`tee`). Bounded in bytes and in time.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use http_body::{Body as _, Frame, SizeHint};
use reqwest::{Body, Response, ResponseBuilderExt};

use crate::action::Answer;
use crate::clock::Timestamp;

/// Headers that are kept unless told otherwise: what an answer is, where its result is, when to come again, and
/// the names under which the server knows the request.
const KEPT: [&str; 26] = [
    "content-language",
    "content-length",
    "content-location",
    "content-type",
    "date",
    "deprecation",
    "etag",
    "idempotency-key",
    "idempotency-replayed",
    "idempotent-replayed",
    "last-modified",
    "link",
    "location",
    "original-request",
    "ratelimit",
    "ratelimit-policy",
    "request-id",
    "retry-after",
    "sunset",
    "x-amzn-requestid",
    "x-correlation-id",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-request-id",
    "x-trace-id",
];

/// Headers that are never kept: they hold secrets, or challenges that are answered with secrets.
const NEVER: [&str; 7] = [
    "authentication-info",
    "authorization",
    "cookie",
    "proxy-authenticate",
    "proxy-authorization",
    "set-cookie",
    "www-authenticate",
];

/// What is kept of answers, and how long one waits for it.
///
/// By default these headers are kept: `content-type`, `content-length`, `content-language`, `content-location`,
/// `date`, `etag`, `last-modified`, `link`, `location`, `retry-after`, `deprecation`, `sunset`, the usual names of
/// request ids, of rate limits and of idempotent replays. `set-cookie`, `www-authenticate` and other headers about
/// credentials are never kept, even when they are asked for.
#[derive(Clone, Debug)]
#[must_use]
pub struct Keep {
    more: Vec<HeaderName>,
    patience: Duration,
}

impl Keep {
    /// The longest header value that is kept; longer ones are left out.
    pub const HEADER_BYTES_MAX: usize = 2 * 1024;

    /// The most values that are kept.
    pub const HEADERS_MAX: usize = 64;

    /// How much is read after the kept part, so that the connection can be used again. Longer bodies cost the connection.
    pub const DRAIN_BYTES_MAX: usize = 256 * 1024;

    /// Keeps one header more.
    pub fn with_header(mut self, name: HeaderName) -> Self {
        self.more.push(name);
        self
    }

    /// How long the whole body may take, for [`keep`]; default 30 seconds.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Is a header of this name kept?
    #[must_use]
    pub fn keeps(&self, name: &HeaderName) -> bool {
        let text = name.as_str();
        !NEVER.contains(&text) && (KEPT.contains(&text) || self.more.contains(name))
    }

    fn headers(&self, headers: &HeaderMap) -> Vec<(String, String)> {
        let chosen = headers.iter().filter(|(name, value)| {
            self.keeps(name) && value.len() <= Self::HEADER_BYTES_MAX && !value.is_sensitive()
        });
        chosen
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
            .take(Self::HEADERS_MAX)
            .collect()
    }

    fn head(&self, response: &Response, at: Timestamp) -> Answer {
        let mut answer = Answer::new(response.status().as_u16(), at);
        answer.headers = self.headers(response.headers());
        answer
    }
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            more: Vec::new(),
            patience: Duration::from_secs(30),
        }
    }
}

/// Reads an answer for keeping. It never fails: once there is a status, a body that breaks off, is too long or
/// takes too long only makes the answer truncated.
pub async fn keep(mut response: Response, keep: &Keep, at: Timestamp) -> Answer {
    let head = keep.head(&response, at);
    let mut excerpt = Excerpt::default();
    let read = async {
        while let Ok(chunk) = response.chunk().await {
            let Some(chunk) = chunk else { return true };
            excerpt.push(&chunk);
            if excerpt.seen > Answer::BODY_BYTES_MAX + Keep::DRAIN_BYTES_MAX {
                return false;
            }
        }
        false
    };
    let is_whole = tokio::time::timeout(keep.patience, read)
        .await
        .unwrap_or(false);
    excerpt.finish(head, is_whole)
}

/// Lets the caller stream an answer, and hands the kept part of it to `done` when the body ended or was dropped.
///
/// `done` runs inside the caller's read or drop: it must be short and must not block.
pub fn tee(
    response: Response,
    keep: &Keep,
    at: Timestamp,
    done: impl FnOnce(Answer) + Send + 'static,
) -> Response {
    let head = keep.head(&response, at);
    rebuild(response, |body| {
        let mut tee = Tee {
            body,
            excerpt: Excerpt::default(),
            end: Mutex::new(Some((head, Box::new(done)))),
        };
        if tee.body.is_end_stream() {
            tee.finish(true);
        }
        Body::wrap(tee)
    })
}

/// An answer whose body is here already is kept without waiting for its reader.
pub(crate) enum Arrived {
    /// All of it: what the caller gets, and what is kept.
    Whole(Response, Answer),
    /// It has to be streamed.
    InPart(Response),
}

/// Takes the body of a short answer, if it came with the head. Waits for nothing.
pub(crate) fn arrived(response: Response, keep: &Keep, at: Timestamp) -> Arrived {
    /// A longer one is not worth a copy.
    const BYTES_MAX: u64 = 4 * 1024;
    if response
        .content_length()
        .is_none_or(|bytes| bytes > BYTES_MAX)
    {
        return Arrived::InPart(response);
    }
    let mut answer = keep.head(&response, at);
    let mut whole = None;
    let response = rebuild(response, |mut body| {
        let first = ready_frame(&mut body);
        let data = first.as_ref().and_then(|first| first.as_ref().ok());
        whole = match (body.is_end_stream(), &first) {
            (true, None) => Some(Bytes::new()),
            (true, _) => data.and_then(Frame::data_ref).cloned(),
            (false, _) => None,
        };
        match &whole {
            Some(data) => data.clone().into(),
            None => Body::wrap(Begun { first, body }),
        }
    });
    match whole {
        Some(body) => {
            answer.body = body;
            answer.is_truncated = false;
            Arrived::Whole(response, answer)
        }
        None => Arrived::InPart(response),
    }
}

type BodyFrame = Result<Frame<Bytes>, reqwest::Error>;

/// The first frame of a body, if it is here.
fn ready_frame(body: &mut Body) -> Option<BodyFrame> {
    if body.is_end_stream() {
        return None;
    }
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(body).poll_frame(&mut context) {
        Poll::Ready(first) => first,
        Poll::Pending => None,
    }
}

/// A body whose first frame was taken, and comes first.
struct Begun {
    first: Option<BodyFrame>,
    body: Body,
}

impl http_body::Body for Begun {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, reqwest::Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().and_then(|first| first.as_ref().ok());
        let data = first.and_then(Frame::data_ref);
        let taken = data.map_or(0, |data| data.len() as u64);
        let left = self.body.size_hint().exact();
        left.map_or_else(SizeHint::new, |left| SizeHint::with_exact(taken + left))
    }
}

/// The same answer, with status, version, headers, extensions and URL, around another body.
pub(super) fn rebuild(response: Response, wrap: impl FnOnce(Body) -> Body) -> Response {
    let mut url = http::response::Builder::new().url(response.url().clone());
    let mut response = http::Response::<Body>::from(response);
    if let Some(extensions) = url.extensions_mut() {
        response.extensions_mut().extend(std::mem::take(extensions));
    }
    response.map(wrap).into()
}

/// The start of a body.
#[derive(Default)]
struct Excerpt {
    kept: BytesMut,
    seen: usize,
}

impl Excerpt {
    fn push(&mut self, chunk: &[u8]) {
        self.seen = self.seen.saturating_add(chunk.len());
        let room = Answer::BODY_BYTES_MAX - self.kept.len();
        self.kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }

    fn finish(self, mut answer: Answer, is_whole: bool) -> Answer {
        answer.is_truncated = !is_whole || self.seen > self.kept.len();
        answer.body = self.kept.freeze();
        answer
    }
}

type Done = Box<dyn FnOnce(Answer) + Send>;

/// A body that leaves a copy of its start.
struct Tee {
    body: Body,
    excerpt: Excerpt,
    /// A mutex only because a body has to be `Sync`; it is never contended.
    end: Mutex<Option<(Answer, Done)>>,
}

impl Tee {
    fn finish(&mut self, is_whole: bool) {
        let end = self
            .end
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((head, done)) = end {
            done(std::mem::take(&mut self.excerpt).finish(head, is_whole));
        }
    }
}

impl http_body::Body for Tee {
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
                    self.excerpt.push(data);
                }
                // Who knows the length may stop reading here.
                if self.body.is_end_stream() {
                    self.finish(true);
                }
            }
            Some(Err(_)) => self.finish(false),
            None => self.finish(true),
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

impl Drop for Tee {
    fn drop(&mut self) {
        self.finish(false);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A body in pieces; nothing = not here yet.
    struct Pieces(VecDeque<Option<&'static str>>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            match self.0.pop_front() {
                Some(Some(piece)) => Poll::Ready(Some(Ok(Frame::data(piece.into())))),
                Some(None) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                None => Poll::Ready(None),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            let bytes = self.0.iter().flatten().map(|piece| piece.len() as u64);
            SizeHint::with_exact(bytes.sum())
        }
    }

    fn answer(pieces: &[Option<&'static str>]) -> Response {
        let body = Pieces(pieces.iter().copied().collect());
        http::Response::new(Body::wrap(body)).into()
    }

    #[tokio::test]
    async fn a_short_body_that_is_here_is_kept_and_can_be_read() {
        for (pieces, whole) in [(&[Some("all of it")][..], "all of it"), (&[][..], "")] {
            let arrived = arrived(answer(pieces), &Keep::default(), Timestamp::EPOCH);
            let Arrived::Whole(response, kept) = arrived else {
                panic!("{whole} is here");
            };
            assert_eq!(
                (&kept.body[..], kept.is_truncated),
                (whole.as_bytes(), false)
            );
            assert_eq!(response.content_length(), Some(whole.len() as u64));
            assert_eq!(response.text().await.expect("read"), whole);
        }
    }

    #[tokio::test]
    async fn a_body_that_is_not_here_as_a_whole_streams_and_loses_nothing() {
        let long: &'static str = "x".repeat(5000).leak();
        let bodies = [
            (&[None, Some("late")][..], "late"),
            (&[Some("one "), Some("two")][..], "one two"),
            (&[Some("one "), None, Some("two")][..], "one two"),
            (&[Some(long)][..], long),
        ];
        for (pieces, whole) in bodies {
            let arrived = arrived(answer(pieces), &Keep::default(), Timestamp::EPOCH);
            let Arrived::InPart(response) = arrived else {
                panic!("{whole} is not here");
            };
            assert_eq!(response.content_length(), Some(whole.len() as u64));
            assert_eq!(response.text().await.expect("read"), whole);
        }
    }
}
