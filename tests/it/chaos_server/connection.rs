//! One connection: parses requests by hand and writes answers by hand, so that both can go wrong at any byte.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Shared;
use super::behaviour::{Behaviour, Break, Fault, Reply};
use super::ledger::Received;

const HEAD_BYTES_MAX: usize = 1024 * 1024;
const BODY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What an endless body or endless noise stops at, so that a broken client does not fill the machine.
const ENDLESS_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// Serves a connection until it ends, either way.
pub(super) async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let number = shared.connected();
    let mut connection = Connection {
        stream,
        buffer: BytesMut::new(),
        number,
        shared,
    };
    // Errors of the client's side are what such a server lives with.
    while let Ok(Next::Again) = connection.turn().await {}
    let Connection { stream, shared, .. } = connection;
    drop(stream);
    shared.closed();
}

/// Goes the connection on?
enum Next {
    Again,
    End,
}

struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
    number: u64,
    shared: Arc<Shared>,
}

impl Connection {
    /// One request and what comes of it.
    async fn turn(&mut self) -> io::Result<Next> {
        if self.buffer.is_empty() && !self.fill().await? {
            return Ok(Next::End);
        }
        if let Some(after) = self.shared.take_cut() {
            return self.cut_request(after).await;
        }
        let received = match self.request().await {
            Ok(Some(received)) => received,
            Ok(None) => return Ok(Next::End),
            Err(error) => {
                self.shared.cut();
                return Err(error);
            }
        };
        let is_head = received.method == "HEAD";
        let wants_close = received.header("connection") == Some("close");
        let behaviour = self.shared.decide(received);
        tokio::time::sleep(behaviour.delay).await;
        let next = self.answer(behaviour, is_head).await?;
        Ok(if wants_close { Next::End } else { next })
    }

    async fn answer(&mut self, behaviour: Behaviour, is_head: bool) -> io::Result<Next> {
        let bytes = encode(&behaviour.reply, is_head);
        match behaviour.fault {
            Fault::None | Fault::Random(_) => self.stream.write_all(&bytes).await?,
            Fault::CutRequest(_) => return self.end(Break::Reset),
            Fault::CutResponse(after, how) => {
                let part = &bytes[..after.min(bytes.len().saturating_sub(1))];
                self.stream.write_all(part).await?;
                return self.end(how);
            }
            Fault::Hang => self.wait_for_end().await?,
            Fault::Trickle(size, pause) => {
                for piece in bytes.chunks(size.max(1)) {
                    tokio::time::sleep(pause).await;
                    self.stream.write_all(piece).await?;
                }
            }
            Fault::Informational(statuses) => {
                for status in statuses {
                    self.stream
                        .write_all(informational(status).as_bytes())
                        .await?;
                }
                self.stream.write_all(&bytes).await?;
            }
            Fault::EndlessInformational => self.repeat(informational(103).as_bytes()).await?,
            Fault::EndlessBody => self.endless_body().await?,
            Fault::Garbage(bytes) => {
                self.stream.write_all(&bytes).await?;
                return self.end(Break::Close);
            }
            Fault::CloseIdle(after) => {
                self.stream.write_all(&bytes).await?;
                tokio::time::sleep(after).await;
                return self.end(Break::Close);
            }
        }
        Ok(Next::Again)
    }

    async fn cut_request(&mut self, after: usize) -> io::Result<Next> {
        while self.buffer.len() < after {
            let more = tokio::time::timeout(Duration::from_millis(50), self.fill()).await;
            if !matches!(more, Ok(Ok(true))) {
                break;
            }
        }
        self.shared.cut();
        self.end(Break::Reset)
    }

    fn end(&mut self, how: Break) -> io::Result<Next> {
        if how == Break::Reset {
            self.stream.set_zero_linger()?;
        }
        Ok(Next::End)
    }

    async fn wait_for_end(&mut self) -> io::Result<()> {
        while self.fill().await? {
            self.buffer.clear();
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    async fn repeat(&mut self, bytes: &[u8]) -> io::Result<()> {
        let block = bytes.repeat(64 * 1024 / bytes.len().max(1));
        for _ in 0..ENDLESS_BYTES_MAX / block.len() {
            self.stream.write_all(&block).await?;
            tokio::task::yield_now().await;
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    async fn endless_body(&mut self) -> io::Result<()> {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        self.stream.write_all(head.as_bytes()).await?;
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        self.repeat(chunk.as_bytes()).await
    }

    /// Reads more; false at the end.
    async fn fill(&mut self) -> io::Result<bool> {
        let before = self.buffer.len();
        self.buffer.reserve(16 * 1024);
        let read = self.stream.read_buf(&mut self.buffer).await?;
        self.shared.heard(self.number, &self.buffer[before..]);
        Ok(read > 0)
    }

    /// Reads more, or fails: for the middle of a request.
    async fn must_fill(&mut self) -> io::Result<()> {
        match self.fill().await? {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    async fn request(&mut self) -> io::Result<Option<Received>> {
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break self.buffer.split_to(end + 4);
            }
            let is_text = self.buffer.first().is_none_or(u8::is_ascii_alphabetic);
            if !is_text || self.buffer.len() > HEAD_BYTES_MAX {
                return self.bad_request().await;
            }
            self.must_fill().await?;
        };
        let Some(mut received) = parse_head(&head, self.number) else {
            return self.bad_request().await;
        };
        received.body = self.body(&received).await?;
        Ok(Some(received))
    }

    async fn bad_request(&mut self) -> io::Result<Option<Received>> {
        let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        self.stream.write_all(answer).await?;
        Ok(None)
    }

    async fn body(&mut self, received: &Received) -> io::Result<Bytes> {
        if received.header("transfer-encoding") == Some("chunked") {
            return self.chunks().await;
        }
        let length = received
            .header("content-length")
            .map_or(Ok(0), str::parse::<usize>);
        self.exactly(length.map_err(io::Error::other)?).await
    }

    async fn exactly(&mut self, bytes: usize) -> io::Result<Bytes> {
        if bytes > BODY_BYTES_MAX {
            return Err(io::Error::other("the body is too big"));
        }
        while self.buffer.len() < bytes {
            self.must_fill().await?;
        }
        Ok(self.buffer.split_to(bytes).freeze())
    }

    async fn chunks(&mut self) -> io::Result<Bytes> {
        let mut whole = BytesMut::new();
        loop {
            let end = loop {
                match find(&self.buffer, b"\r\n") {
                    Some(end) => break end,
                    None => self.must_fill().await?,
                }
            };
            let line = self.buffer.split_to(end + 2);
            let text = String::from_utf8_lossy(&line[..end]);
            let size = usize::from_str_radix(text.trim(), 16).map_err(io::Error::other)?;
            let chunk = self.exactly(size + 2).await?;
            whole.extend_from_slice(&chunk[..size]);
            if size == 0 || whole.len() > BODY_BYTES_MAX {
                return Ok(whole.freeze());
            }
        }
    }
}

fn parse_head(head: &[u8], connection: u64) -> Option<Received> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path, "HTTP/1.1") = (first.next()?, first.next()?, first.next()?) else {
        return None;
    };
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Some(Received {
        connection,
        method: method.to_owned(),
        path: path.to_owned(),
        headers: lines
            .filter(|line| !line.is_empty())
            .map(header)
            .collect::<Option<_>>()?,
        body: Bytes::new(),
    })
}

fn encode(reply: &Reply, is_head: bool) -> Bytes {
    use std::fmt::Write as _;
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    for (name, value) in &reply.headers {
        write!(head, "{name}: {value}\r\n").expect("to a string");
    }
    let is_framed = reply.headers.iter().any(|(name, _)| {
        name.eq_ignore_ascii_case("content-length")
            || name.eq_ignore_ascii_case("transfer-encoding")
    });
    if !is_framed && !matches!(reply.status, 100..200 | 204 | 304) {
        write!(head, "content-length: {}\r\n", reply.body.len()).expect("to a string");
    }
    head.push_str("\r\n");
    let body = if is_head {
        Bytes::new()
    } else {
        reply.body.clone()
    };
    let mut bytes = Bytes::from(head).chain(body);
    bytes.copy_to_bytes(bytes.remaining())
}

fn informational(status: u16) -> String {
    format!("HTTP/1.1 {status} Noise\r\nlink: </style.css>; rel=preload\r\n\r\n")
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
