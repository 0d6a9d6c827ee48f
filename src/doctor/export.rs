//! Everything that a store holds, as lines of JSON, in constant memory.

use std::io::Write;

use bytes::Bytes;
use futures_util::StreamExt;

use super::lines::{ActionLine, CHUNK_BYTES, EXPORT_FORMAT, Header, Line, Span, Trailer, encode};
use super::{Contents, Progress};
use crate::action::{ActionId, Body, BodyFile, Piece, Record};
use crate::clock::{Clock, SystemClock};
use crate::decide::DeadLane;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Opened, Part, Query, Store, blocking};

/// How many records are asked for at once.
const PAGE: usize = 256;

/// How much is written at once.
const WRITE_BYTES: usize = 256 * 1024;

/// Writes everything that `store` holds as lines of JSON: every action that is pending, dead or settled and still kept,
/// with its body, its last answer, its place and its state; gates, ledger and the pause. [`import`](super::import()) puts it
/// into a store of any kind. Memory does not grow with the number of actions, nor with bodies that are files.
///
/// The store is opened by this, and must be nobody else's at the time: what was in flight is queued. It is not closed.
///
/// **A sealed vault**: through [`Sealed`](crate::store::crypt::Sealed) everything is written **in clear**, credentials
/// too: keep it as you keep the key. Through the store below it, everything stays sealed, the keyring comes along, and
/// after an import the same key opens it.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] when an action or its body cannot be read, by this version or at all: `examine` names them all.
/// [`ErrorKind::WrongState`] while a principal is being forgotten or an import is unfinished. Storage errors, also of
/// `out`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> syncvault::Result<()> {
/// use std::io::Cursor;
/// use syncvault::doctor;
/// use syncvault::store::MemoryStore;
///
/// let out = tempfile::tempfile().expect("a file");
/// let lines = out.try_clone().expect("the same file");
/// doctor::export(&MemoryStore::new(), out, |_| {}).await?;
/// let came = doctor::import(&MemoryStore::new(), lines, |_| {}).await?;
/// assert_eq!(came.actions(), 0);
/// # Ok(()) }
/// ```
pub async fn export(
    store: &dyn Store,
    out: impl Write + Send + 'static,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<Contents> {
    let keyring = store.keyring().await?;
    let now = SystemClock.now();
    let opened = store.open(now).await?;
    check(&opened)?;
    let mut lines = Lines::new(out);
    lines
        .write(&Line::Header(Header {
            format: EXPORT_FORMAT,
            written: now,
            keyring: keyring.map(|keyring| encode(&keyring.bytes)),
        }))
        .await?;
    let mut contents = Contents::default();
    for gate in opened.gates {
        lines.write(&Line::Gate(gate)).await?;
        contents.gates += 1;
    }
    let counts = opened.totals.counts;
    let total = counts.pending + counts.dead + counts.retained;
    for part in [Part::Pending, Part::Dead, Part::Settled] {
        let mut query = Query::first(part.clone(), PAGE);
        loop {
            let page = store.page(query.clone()).await?;
            for record in page.records {
                write_action(store, &mut lines, record).await?;
                *count_of(&mut contents, &part) += 1;
            }
            let done = contents.actions();
            progress(Progress { done, total });
            let Some(next) = page.next else { break };
            query.after = Some(next);
        }
    }
    let totals = store.totals().await?;
    let kept = (
        totals.counts.pending,
        totals.counts.dead,
        totals.counts.retained,
    );
    if kept != (contents.pending, contents.dead, contents.settled) {
        return Err(missing(&contents, kept));
    }
    let trailer = Trailer {
        contents,
        ledger: totals.ledger,
        is_paused: opened.is_paused,
        blake3: lines.hash.finalize().to_hex().to_string(),
    };
    lines.write(&Line::Trailer(trailer)).await?;
    lines.finish().await?;
    Ok(contents)
}

fn count_of<'c>(contents: &'c mut Contents, part: &Part) -> &'c mut u64 {
    match part {
        Part::Dead => &mut contents.dead,
        Part::Settled => &mut contents.settled,
        _ => &mut contents.pending,
    }
}

fn check(opened: &Opened) -> Result<()> {
    let text = match (opened.forgetting.is_empty(), opened.is_half_restored) {
        (false, _) => {
            "a principal is being forgotten: open the vault once, which ends it, and export then"
        }
        (_, true) => "an import into this store was not finished: run it again first",
        (true, false) => return Ok(()),
    };
    Err(Error::new(ErrorKind::WrongState, text))
}

fn missing(contents: &Contents, kept: (u64, u64, u64)) -> Error {
    let kept = kept.0 + kept.1 + kept.2;
    let text = format!(
        "{kept} actions are counted and {} can be read: the others were written by a newer version, use that one",
        contents.actions()
    );
    Error::new(ErrorKind::Corrupt, text)
}

async fn write_action<W: Write + Send + 'static>(
    store: &dyn Store,
    lines: &mut Lines<W>,
    record: Record,
) -> Result<()> {
    let id = record.id;
    let dead_lane = dead_lane(store, &record).await?;
    let has_body = record.state.is_pending() || record.state.is_dead();
    let body = match has_body {
        true => Some(
            store
                .body(id)
                .await
                .and_then(|body| body.ok_or_else(|| no_body(id)))?,
        ),
        false => None,
    };
    let answer = store.answer(id).await?;
    let pieces = body.map(Body::into_pieces);
    let mut line = ActionLine::new(record, dead_lane);
    line.body = pieces
        .as_deref()
        .map(|pieces| pieces.iter().map(span_of).collect());
    line.answer = answer.as_deref().map(Span::of);
    lines.write(&Line::Action(Box::new(line))).await?;
    for piece in pieces.into_iter().flatten() {
        match piece {
            Piece::Bytes(bytes) => lines.write_chunks(&bytes).await?,
            Piece::File(file) => write_file(store, lines, id, file).await?,
        }
    }
    match answer {
        Some(answer) => lines.write_chunks(&answer).await,
        None => Ok(()),
    }
}

async fn dead_lane(store: &dyn Store, record: &Record) -> Result<DeadLane> {
    if !record.state.is_dead() {
        return Ok(DeadLane::Skip);
    }
    let lane = store.lane(record.lane.clone()).await?;
    let blocks = lane.blocked_by == Some(record.id) || lane.blocking.contains(&record.id);
    Ok(match blocks {
        true => DeadLane::Block,
        false => DeadLane::Skip,
    })
}

fn span_of(piece: &Piece) -> Span {
    match piece {
        Piece::Bytes(bytes) => Span::of(bytes),
        Piece::File(file) => Span::File(file.bytes),
    }
}

/// The file is checked on the way: a line that is written cannot be taken back, but without a trailer it is refused.
async fn write_file<W: Write + Send + 'static>(
    store: &dyn Store,
    lines: &mut Lines<W>,
    id: ActionId,
    file: BodyFile,
) -> Result<()> {
    let (want, mut crc32c) = (file.crc32c, 0);
    let mut chunks = store.chunks(file).await?;
    while let Some(chunk) = chunks.next().await {
        let chunk: Bytes = chunk?;
        crc32c = crc32c::crc32c_append(crc32c, &chunk);
        for chunk in chunk.chunks(CHUNK_BYTES) {
            lines.write(&Line::Chunk(encode(chunk))).await?;
        }
    }
    if crc32c == want {
        return Ok(());
    }
    let text = format!("a file of the body of action {id} fails its checksum");
    Err(Error::new(ErrorKind::Corrupt, text))
}

fn no_body(id: ActionId) -> Error {
    let text = format!("the body of action {id} is gone");
    Error::new(ErrorKind::Corrupt, text)
}

/// Writes lines, many at once, off the async runtime.
struct Lines<W> {
    out: Option<W>,
    waiting: Vec<u8>,
    hash: blake3::Hasher,
}

impl<W: Write + Send + 'static> Lines<W> {
    fn new(out: W) -> Self {
        Self {
            out: Some(out),
            waiting: Vec::new(),
            hash: blake3::Hasher::new(),
        }
    }

    async fn write(&mut self, line: &Line) -> Result<()> {
        let start = self.waiting.len();
        serde_json::to_writer(&mut self.waiting, line).map_err(|e| {
            Error::new(ErrorKind::Storage, "a line cannot be encoded").with_source(e)
        })?;
        self.waiting.push(b'\n');
        self.hash.update(&self.waiting[start..]);
        match self.waiting.len() < WRITE_BYTES {
            true => Ok(()),
            false => self.flush().await,
        }
    }

    /// What the line of the action does not hold.
    async fn write_chunks(&mut self, bytes: &[u8]) -> Result<()> {
        if Span::of(bytes).is_here() {
            return Ok(());
        }
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.write(&Line::Chunk(encode(chunk))).await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let Some(mut out) = self.out.take() else {
            return Err(Error::closed());
        };
        let bytes = std::mem::take(&mut self.waiting);
        let out = blocking(move || {
            let written = out.write_all(&bytes).and_then(|()| out.flush());
            written.map_err(unwritten).map(|()| out)
        });
        self.out = Some(out.await?);
        Ok(())
    }

    async fn finish(mut self) -> Result<()> {
        self.flush().await
    }
}

fn unwritten(error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull => ErrorKind::StorageFull,
        _ => ErrorKind::Storage,
    };
    Error::new(kind, "the export cannot be written").with_source(error)
}
