//! The lines of an export: a header, one line for each gate and each action, a trailer. What is large follows its action
//! in lines of its own, so that no line is long.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Contents;
use crate::action::{ActionId, Ledger, Record};
use crate::clock::Timestamp;
use crate::decide::{DeadLane, Gate};
use crate::error::{Error, ErrorKind, Result};

/// The format of exports that this version writes. Newer ones are refused.
pub const EXPORT_FORMAT: u32 = 1;

/// Longer values of bytes come in lines of their own, this much in each.
pub(super) const CHUNK_BYTES: usize = 48 * 1024;

/// No line that we write is longer.
pub(super) const LINE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Header(Header),
    Gate(Gate),
    Action(Box<ActionLine>),
    /// The next bytes of a body, or of an answer.
    Chunk(String),
    Trailer(Trailer),
}

#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) format: u32,
    pub(super) written: Timestamp,
    /// Of a sealed vault that was exported without its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) keyring: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ActionLine {
    pub(super) id: ActionId,
    pub(super) revision: u64,
    pub(super) record: Record,
    /// The request, where it is readable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<Box<RawValue>>,
    /// Otherwise its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<Vec<Span>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<Span>,
    #[serde(default, skip_serializing_if = "is_false")]
    blocks_its_lane: bool,
}

/// A stretch of bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Span {
    /// Here they are.
    Bytes(String),
    /// So many, in the chunks that follow.
    Chunks(u64),
    /// As `chunks`; they were in a file, and are to be in one again.
    File(u64),
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Trailer {
    pub(super) contents: Contents,
    pub(super) ledger: Ledger,
    pub(super) is_paused: bool,
    /// BLAKE3 of every byte before this line.
    pub(super) blake3: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Span {
    pub(super) fn of(bytes: &[u8]) -> Self {
        match bytes.len() {
            0..=CHUNK_BYTES => Self::Bytes(BASE64.encode(bytes)),
            length => Self::Chunks(length as u64),
        }
    }

    pub(super) fn is_here(&self) -> bool {
        matches!(self, Self::Bytes(_))
    }
}

impl ActionLine {
    pub(super) fn new(mut record: Record, dead_lane: DeadLane) -> Self {
        let bytes = std::mem::take(&mut record.content);
        let request = readable(&bytes);
        Self {
            id: record.id,
            revision: record.revision,
            content: request.is_none().then(|| BASE64.encode(&bytes)),
            request,
            record,
            body: None,
            answer: None,
            blocks_its_lane: dead_lane == DeadLane::Block,
        }
    }

    pub(super) fn dead_lane(&self) -> DeadLane {
        match self.blocks_its_lane {
            true => DeadLane::Block,
            false => DeadLane::Skip,
        }
    }

    /// The record as it was.
    pub(super) fn take_record(&mut self) -> Result<Record> {
        let content = match (self.request.take(), self.content.take()) {
            (Some(request), None) => Bytes::from(Box::<str>::from(request).into_string()),
            (None, Some(content)) => decode(&content)?,
            _ => return Err(unreadable(format!("action {} has no request", self.id))),
        };
        Ok(Record {
            id: self.id,
            revision: self.revision,
            content,
            ..self.record.clone()
        })
    }

    /// Nothing of it is in the lines that follow.
    pub(super) fn is_whole(&self) -> bool {
        let mut spans = self.body.iter().flatten().chain(&self.answer);
        spans.all(Span::is_here)
    }
}

/// Text of JSON in one line, which comes back byte for byte.
fn readable(content: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(content).ok()?;
    let raw: Box<RawValue> = serde_json::from_str(text).ok()?;
    (raw.get() == text && !text.contains(['\n', '\r'])).then_some(raw)
}

pub(super) fn encode(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

pub(super) fn decode(text: &str) -> Result<Bytes> {
    let bytes = BASE64
        .decode(text)
        .map_err(|e| unreadable("a value is no base64").with_source(e))?;
    Ok(bytes.into())
}

pub(super) fn unreadable(what: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the export cannot be read: {what}"),
    )
}
