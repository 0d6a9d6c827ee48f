//! The bytes of everything a store keeps about an action: magic, format, length, revision, id,
//! named fields, content, CRC32C. `docs/format.md` draws it. An intact frame can be found in raw bytes.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::id::ActionId;
use crate::error::{Error, ErrorKind, Result};

/// The format that this version writes. Newer ones are refused and kept.
pub const FRAME_FORMAT: u16 = 1;

const MAGIC: [u8; 4] = *b"SVf\x01";
const HEAD: usize = 40;
const TAIL: usize = 4;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameKind {
    /// A [`Record`](super::Record) and its encoded request.
    Action,
    /// The body of a request.
    Body,
    /// What is kept of an answer.
    Answer,
    /// What is known of a cached answer.
    CachedHead,
    /// The body of a cached answer.
    CachedBody,
}

impl FrameKind {
    const fn byte(self) -> u8 {
        match self {
            Self::Action => 1,
            Self::Body => 2,
            Self::Answer => 3,
            Self::CachedHead => 4,
            Self::CachedBody => 5,
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Action),
            2 => Some(Self::Body),
            3 => Some(Self::Answer),
            4 => Some(Self::CachedHead),
            5 => Some(Self::CachedBody),
            _ => None,
        }
    }
}

/// One framed value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: FrameKind,
    /// The action it belongs to.
    pub id: ActionId,
    /// Grows by one with every rewrite: among copies the newest counts.
    pub revision: u64,
    /// Named fields, as JSON.
    pub fields: Bytes,
    /// Opaque bytes.
    pub content: Bytes,
}

impl Frame {
    /// The bytes on disk.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when fields or content are over 4 GiB.
    pub fn encode(
        kind: FrameKind,
        id: ActionId,
        revision: u64,
        fields: &impl Serialize,
        content: &[u8],
    ) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(HEAD + 512 + content.len() + TAIL);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FRAME_FORMAT.to_le_bytes());
        out.push(kind.byte());
        out.push(0);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&length(content.len())?);
        out.extend_from_slice(&revision.to_le_bytes());
        out.extend_from_slice(id.as_bytes());
        serde_json::to_writer(&mut out, fields).map_err(|e| {
            Error::new(ErrorKind::Storage, "a record cannot be encoded").with_source(e)
        })?;
        let fields_len = length(out.len() - HEAD)?;
        out[8..12].copy_from_slice(&fields_len);
        out.extend_from_slice(content);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        Ok(out)
    }

    /// Reads a frame that starts at the first byte and ends at the last.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when it is damaged, cut, or of a newer format.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let (frame, length) = Self::decode_prefix(&bytes)?;
        if length != bytes.len() {
            return Err(damaged("has bytes after its end"));
        }
        Ok(frame)
    }

    /// Reads a frame that starts at the first byte; tells where it ends. For carving.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
    pub fn decode_prefix(bytes: &Bytes) -> Result<(Self, usize)> {
        let (fields, total) = checked(bytes)?;
        let end = total - TAIL;
        let format = u16::from_le_bytes([bytes[4], bytes[5]]);
        if format > FRAME_FORMAT {
            let text = format!(
                "a record has format {format}, this version reads up to {FRAME_FORMAT}; use a newer version"
            );
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        let kind = FrameKind::of(bytes[6]).ok_or_else(|| damaged("is of an unknown kind"))?;
        let mut revision = [0; 8];
        revision.copy_from_slice(&bytes[16..24]);
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[24..40]);
        let frame = Self {
            kind,
            id: ActionId::from_bytes(id),
            revision: u64::from_le_bytes(revision),
            fields: bytes.slice(HEAD..HEAD + fields),
            content: bytes.slice(HEAD + fields..end),
        };
        Ok((frame, total))
    }

    /// True for an intact frame of a format that only a newer version reads.
    #[must_use]
    pub fn is_newer(bytes: &[u8]) -> bool {
        checked(bytes).is_ok() && u16::from_le_bytes([bytes[4], bytes[5]]) > FRAME_FORMAT
    }

    /// The named fields as a value.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when they are not of this shape.
    pub fn fields<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.fields)
            .map_err(|e| damaged("has unreadable fields").with_source(e))
    }
}

/// The length of the fields and of the whole frame, once the checksum holds.
fn checked(bytes: &[u8]) -> Result<(usize, usize)> {
    if bytes.len() < HEAD + TAIL || bytes[..4] != MAGIC {
        return Err(damaged("does not start like one"));
    }
    let fields = number(&bytes[8..12]);
    let content = number(&bytes[12..16]);
    let Some(total) = HEAD
        .checked_add(fields)
        .and_then(|n| n.checked_add(content))
        .and_then(|n| n.checked_add(TAIL))
    else {
        return Err(damaged("has an impossible length"));
    };
    if total > bytes.len() {
        return Err(damaged("is cut"));
    }
    let end = total - TAIL;
    let stored = u32::from_le_bytes([bytes[end], bytes[end + 1], bytes[end + 2], bytes[end + 3]]);
    if crc32c::crc32c(&bytes[..end]) != stored {
        return Err(damaged("fails its checksum"));
    }
    Ok((fields, total))
}

fn length(bytes: usize) -> Result<[u8; 4]> {
    u32::try_from(bytes)
        .map(u32::to_le_bytes)
        .map_err(|e| Error::invalid("a record is limited to 4 GiB").with_source(e))
}

fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rev()
        .fold(0, |n, byte| (n << 8) | usize::from(*byte))
}

fn damaged(how: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a record {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_and_every_flipped_bit_is_found() {
        let id = ActionId::new();
        let bytes = Frame::encode(
            FrameKind::Body,
            id,
            7,
            &serde_json::json!({"a": 1}),
            b"content",
        )
        .expect("encode");
        let frame = Frame::decode(bytes.clone().into()).expect("decode");
        assert_eq!(
            (frame.kind, frame.id, frame.revision),
            (FrameKind::Body, id, 7)
        );
        assert_eq!(
            (&frame.fields[..], &frame.content[..]),
            (&b"{\"a\":1}"[..], &b"content"[..])
        );
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::decode(bad.into()).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(
                Frame::decode(Bytes::copy_from_slice(&bytes[..cut])).is_err(),
                "cut at {cut}"
            );
        }
    }
}
