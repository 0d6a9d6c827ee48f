//! The body of an action, sealed: one value when it is in memory. When there are files, the keys to them, their lengths and
//! checksums, and the bytes between them are one value in front of the files: who destroys it destroys them all.

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::Sealed;
use super::chunks::FileSeal;
use super::envelope::{Kind, unopened};
use super::key::Key;
use super::keyring::Keyring;
use crate::action::{ActionId, Body, BodyFile, Piece};
use crate::error::{Error, ErrorKind, Result};

/// A piece of a body: so many of the bytes behind the fields, or the next file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PieceFields {
    Bytes(u64),
    File(FileFields),
}

#[derive(Serialize, Deserialize)]
struct FileFields {
    key: [u8; 32],
    bytes: u64,
    crc32c: u32,
}

impl Drop for FileFields {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Seals a body, with the key of its (hashed) principal.
pub(super) fn seal(ring: &Keyring, owner: Option<&str>, id: ActionId, body: Body) -> Result<Body> {
    let (mut fields, mut bytes, mut files) = (Vec::new(), BytesMut::new(), Vec::new());
    let pieces = match body {
        Body::Bytes(bytes) => {
            let sealed = ring.seal_value(owner, Kind::Body, id, &bytes)?;
            return Ok(Body::Bytes(sealed));
        }
        body => body.into_pieces(),
    };
    for piece in pieces {
        match piece {
            Piece::Bytes(piece) => {
                fields.push(PieceFields::Bytes(piece.len() as u64));
                bytes.extend_from_slice(&piece);
            }
            Piece::File(file) => {
                let seal = FileSeal::of(&file).filter(|seal| seal.id == id);
                let seal = seal.ok_or_else(|| foreign(&file, id))?;
                fields.push(PieceFields::File(FileFields {
                    key: *seal.key.bytes(),
                    bytes: file.bytes,
                    crc32c: file.crc32c,
                }));
                files.push(Piece::File(seal.stored));
            }
        }
    }
    if files.is_empty() {
        let sealed = ring.seal_value(owner, Kind::Body, id, &bytes)?;
        return Ok(Body::Bytes(sealed));
    }
    let sealed = ring.seal_value(owner, Kind::Pieces, id, &encode(&fields, &bytes)?)?;
    files.insert(0, Piece::Bytes(sealed));
    Ok(Body::Pieces(files))
}

/// Opens a body of which all but the files is in memory.
pub(super) fn open(ring: &Keyring, id: ActionId, body: Body) -> Result<Body> {
    let mut pieces = match body {
        Body::Bytes(sealed) => {
            let opened = ring.open_value(Kind::Body, id, &sealed)?;
            return Ok(Body::Bytes(opened.into()));
        }
        Body::File(_) => return Err(unread()),
        Body::Pieces(pieces) => pieces.into_iter(),
    };
    let Some(Piece::Bytes(sealed)) = pieces.next() else {
        return Err(unread());
    };
    let opened = Zeroizing::new(ring.open_value(Kind::Pieces, id, &sealed)?);
    let (fields, mut bytes) = decode(&opened).ok_or_else(unopened)?;
    let mut opened = Vec::with_capacity(fields.len());
    for field in fields {
        opened.push(match field {
            PieceFields::Bytes(length) => {
                let length = usize::try_from(length).map_err(|_| unopened())?;
                let (piece, rest) = bytes.split_at_checked(length).ok_or_else(unopened)?;
                bytes = rest;
                Piece::Bytes(Bytes::copy_from_slice(piece))
            }
            PieceFields::File(fields) => {
                let Some(Piece::File(stored)) = pieces.next() else {
                    return Err(unopened());
                };
                let key = Key::new(fields.key);
                let seal = FileSeal { key, id, stored };
                Piece::File(seal.into_file(fields.bytes, fields.crc32c))
            }
        });
    }
    if pieces.next().is_some() || !bytes.is_empty() {
        return Err(unopened());
    }
    Ok(match <[Piece; 1]>::try_from(opened) {
        Ok([Piece::File(file)]) => Body::File(file),
        Ok(one) => Body::Pieces(one.into()),
        Err(pieces) => Body::Pieces(pieces),
    })
}

impl Sealed {
    /// The same body, with what stands in front of its files in memory: a store may have put that into a file too.
    ///
    /// # Errors
    ///
    /// What the store says about that file.
    pub(super) async fn at_hand(&self, body: Body) -> Result<Body> {
        let Body::Pieces(mut pieces) = body else {
            return Ok(body);
        };
        if let Some(first) = pieces.first_mut()
            && let Piece::File(file) = first
        {
            let chunks = self.store.chunks(file.clone()).await?;
            let whole: BytesMut = chunks.try_collect().await?;
            *first = Piece::Bytes(whole.freeze());
        }
        Ok(Body::Pieces(pieces))
    }
}

/// `length of the fields (4) | fields, as JSON | bytes`
fn encode(fields: &[PieceFields], bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let unreadable = |e| Error::new(ErrorKind::Storage, "a body cannot be sealed").with_source(e);
    let fields = Zeroizing::new(serde_json::to_vec(fields).map_err(unreadable)?);
    let length = u32::try_from(fields.len())
        .map_err(|_| Error::invalid("a body has too many pieces to be sealed"))?;
    let mut out = Zeroizing::new(Vec::with_capacity(4 + fields.len() + bytes.len()));
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&fields);
    out.extend_from_slice(bytes);
    Ok(out)
}

fn decode(opened: &[u8]) -> Option<(Vec<PieceFields>, &[u8])> {
    let (length, rest) = opened.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (fields, bytes) = rest.split_at_checked(length)?;
    Some((serde_json::from_slice(fields).ok()?, bytes))
}

fn foreign(file: &BodyFile, id: ActionId) -> Error {
    let path = file.path.display();
    Error::invalid(format!(
        "{path} is no snapshot that this sealed store took for action {id}"
    ))
}

fn unread() -> Error {
    let text = "the file of a sealed body cannot be read";
    Error::new(ErrorKind::Corrupt, text)
}
