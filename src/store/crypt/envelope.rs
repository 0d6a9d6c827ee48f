//! The envelope: bytes that only the key opens, and only in their own place.
//!
//! ```text
//! version (1) | key id (4) | nonce (24) | ciphertext | tag (16)
//! ```
//!
//! What is bound to it: version and key id, the kind of value, the id of the action, and of a chunk its number and
//! whether it is the last. So values can be neither swapped, moved, cut nor taken for another kind.

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};

use super::key::Key;
use crate::action::Record;
use crate::error::{Error, ErrorKind, Result};

const VERSION: u8 = 1;
const SEAL_BYTES: usize = Record::SEAL_BYTES;
const HEAD_BYTES: usize = 1 + 4;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// What a sealed value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Body,
    Answer,
    Failure,
    Gate,
    Keyring,
    Chunk {
        number: u32,
        is_last: bool,
    },
    /// What stands in front of the files of a body.
    Pieces,
    /// A note: bound to its hashed name.
    Note,
    /// A cached answer: bound to its hashed names.
    CachedHead,
    CachedBody,
}

/// Where a sealed value belongs: what it is, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) id: [u8; 16],
}

impl Place {
    fn bound(self, head: &[u8]) -> Vec<u8> {
        let (kind, number, is_last) = match self.kind {
            Kind::Request => (1, 0, false),
            Kind::Body => (2, 0, false),
            Kind::Answer => (3, 0, false),
            Kind::Failure => (4, 0, false),
            Kind::Gate => (5, 0, false),
            Kind::Keyring => (6, 0, false),
            Kind::Chunk { number, is_last } => (7, number, is_last),
            Kind::Pieces => (8, 0, false),
            Kind::Note => (9, 0, false),
            Kind::CachedHead => (10, 0, false),
            Kind::CachedBody => (11, 0, false),
        };
        let number = u32::to_le_bytes(number);
        let parts: [&[u8]; 5] = [head, &[kind], &self.id, &number, &[u8::from(is_last)]];
        parts.concat()
    }
}

/// Seals a value.
pub(super) fn seal(key: &Key, key_id: u32, place: Place, value: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(value.len() + SEAL_BYTES);
    out.push(VERSION);
    out.extend_from_slice(&key_id.to_le_bytes());
    let bound = place.bound(&out);
    let nonce: [u8; NONCE_BYTES] = rand::random();
    out.extend_from_slice(&nonce);
    out.extend_from_slice(value);
    let text = InOutBuf::from(&mut out[HEAD_BYTES + NONCE_BYTES..]);
    let tag = cipher(key)
        .encrypt_inout_detached(&XNonce::from(nonce), &bound, text)
        .map_err(|_| Error::invalid("a value is too long to be sealed"))?;
    out.extend_from_slice(&tag);
    Ok(out)
}

/// Under which key a value is sealed; nothing when it is no envelope of this version.
pub(super) fn key_id(sealed: &[u8]) -> Option<u32> {
    let is_whole = sealed.len() >= SEAL_BYTES && sealed.first() == Some(&VERSION);
    let id = sealed.get(1..HEAD_BYTES).filter(|_| is_whole)?;
    id.try_into().ok().map(u32::from_le_bytes)
}

/// Opens what [`seal`] made for this place.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] when it is damaged, belongs to another place, or the key is another.
pub(super) fn open(key: &Key, place: Place, sealed: &[u8]) -> Result<Vec<u8>> {
    let (Some(_), Some((text, tag))) = (key_id(sealed), sealed.split_last_chunk::<TAG_BYTES>())
    else {
        return Err(unopened());
    };
    let (head, rest) = text.split_at(HEAD_BYTES);
    let (nonce, text) = rest
        .split_first_chunk::<NONCE_BYTES>()
        .ok_or_else(unopened)?;
    let mut out = text.to_vec();
    cipher(key)
        .decrypt_inout_detached(
            &XNonce::from(*nonce),
            &place.bound(head),
            InOutBuf::from(out.as_mut_slice()),
            &Tag::from(*tag),
        )
        .map_err(|_| unopened())?;
    Ok(out)
}

fn cipher(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(key.bytes().into())
}

pub(super) fn unopened() -> Error {
    let text = "a sealed value does not open: it is damaged, or not where it belongs";
    Error::new(ErrorKind::Corrupt, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(kind: Kind, id: u8) -> Place {
        Place { kind, id: [id; 16] }
    }

    #[test]
    fn a_value_opens_in_its_own_place_only() {
        let key = Key::generate();
        let chunk = |number, is_last| Kind::Chunk { number, is_last };
        let places = [
            place(Kind::Request, 1),
            place(Kind::Request, 2),
            place(Kind::Body, 1),
            place(Kind::Answer, 1),
            place(Kind::Failure, 1),
            place(Kind::Gate, 1),
            place(Kind::Keyring, 1),
            place(Kind::Pieces, 1),
            place(Kind::Note, 1),
            place(Kind::CachedHead, 1),
            place(Kind::CachedBody, 1),
            place(chunk(0, false), 1),
            place(chunk(1, false), 1),
            place(chunk(1, true), 1),
        ];
        for own in places {
            let sealed = seal(&key, 7, own, b"value").expect("seal");
            assert_eq!(sealed.len(), 5 + SEAL_BYTES);
            assert_eq!(key_id(&sealed), Some(7));
            for other in places {
                let opened = open(&key, other, &sealed);
                assert_eq!(opened.is_ok(), own == other, "{own:?} {other:?}");
            }
            assert!(open(&Key::generate(), own, &sealed).is_err());
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let (key, place) = (Key::generate(), place(Kind::Body, 1));
        let sealed = seal(&key, 1, place, b"value").expect("seal");
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let error = open(&key, place, &flipped).expect_err("flipped");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
        for length in 0..sealed.len() {
            assert!(open(&key, place, &sealed[..length]).is_err(), "{length}");
        }
        assert_eq!(open(&key, place, &sealed).expect("whole"), b"value");
    }

    #[test]
    fn the_same_value_never_looks_the_same() {
        let (key, place) = (Key::generate(), place(Kind::Body, 1));
        let once = seal(&key, 1, place, b"value").expect("seal");
        let again = seal(&key, 1, place, b"value").expect("seal");
        assert_ne!(once[29..], again[29..]);
    }
}
