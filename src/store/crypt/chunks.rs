//! Bodies in files: sealed in chunks on their way to the store, opened chunk by chunk on their way out. A file has a key of
//! its own, used for nothing else; each chunk is bound to its number and to whether it is the last. So chunks can be neither
//! swapped, repeated, moved to another file nor cut off, and nothing of a damaged one is given.

use std::io::{self, Read};
use std::sync::{Arc, OnceLock};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::{self, Fuse};
use futures_util::{StreamExt, TryStreamExt};
use zeroize::Zeroizing;

use super::Sealed;
use super::envelope::{self, Kind, Place, unopened};
use super::key::Key;
use crate::action::{ActionId, Body, BodyFile, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::store::bodies::INLINE_BYTES_MAX;
use crate::store::snapshot::{blocking, uncopied, within};
use crate::store::{Chunks, Snapshot, Source};

/// How much of a body is sealed at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// In the place of the id of a key: the key of a file is in no keyring.
const KEY_ID: u32 = 0;

/// What opens a file.
pub(super) struct FileSeal {
    pub(super) key: Key,
    pub(super) id: ActionId,
    /// The file as the store below knows it.
    pub(super) stored: BodyFile,
}

impl FileSeal {
    /// The same file, as it is in clear: `key | id | stored length | stored checksum | seal of the store below`.
    pub(super) fn into_file(self, bytes: u64, crc32c: u32) -> BodyFile {
        let mut seal = Zeroizing::new(Vec::with_capacity(64 + self.stored.seal.len()));
        seal.extend_from_slice(self.key.bytes());
        seal.extend_from_slice(self.id.as_bytes());
        seal.extend_from_slice(&self.stored.bytes.to_le_bytes());
        seal.extend_from_slice(&self.stored.crc32c.to_le_bytes());
        seal.extend_from_slice(&self.stored.seal);
        let mut file = BodyFile::new(self.stored.path, bytes, crc32c);
        file.seal = Bytes::from_owner(seal);
        file
    }

    /// Nothing for a file in clear.
    pub(super) fn of(file: &BodyFile) -> Option<Self> {
        let (key, rest) = file.seal.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        let (bytes, rest) = rest.split_first_chunk()?;
        let (crc32c, below) = rest.split_first_chunk()?;
        let (bytes, crc32c) = (u64::from_le_bytes(*bytes), u32::from_le_bytes(*crc32c));
        let mut stored = BodyFile::new(&file.path, bytes, crc32c);
        stored.seal = file.seal.slice_ref(below);
        Some(Self {
            key: Key::new(*key),
            id: ActionId::from_bytes(*id),
            stored,
        })
    }
}

/// How long the file of a body is.
fn sealed_bytes(clear: u64) -> u64 {
    clear + clear.div_ceil(CHUNK_BYTES as u64) * Record::SEAL_BYTES as u64
}

impl Sealed {
    pub(super) async fn take_snapshot(&self, id: ActionId, mut source: Source) -> Result<Snapshot> {
        let looked = blocking(move || {
            let small = source.read_small(INLINE_BYTES_MAX).map_err(uncopied)?;
            Ok((small, source))
        });
        let source = match looked.await? {
            (Some(small), _) => {
                let digest = blake3::hash(&small).into();
                return Ok(Snapshot::new(Body::Bytes(small.into()), digest));
            }
            (None, source) => source,
        };
        let key = Key::generate();
        let sealing = Sealing::new(source, key.clone(), id);
        let measured = sealing.measured.clone();
        let taken = self
            .store
            .snapshot(id, Source::reader(sealing, u64::MAX))
            .await?;
        let Some(clear) = measured.get() else {
            let text = "the store did not read a body to its end";
            return Err(Error::new(ErrorKind::Storage, text));
        };
        let body = match taken.body() {
            Body::File(stored) => {
                let stored = stored.clone();
                let seal = FileSeal { key, id, stored };
                Body::File(seal.into_file(clear.bytes, clear.crc32c))
            }
            // Of a store that keeps no files.
            Body::Bytes(sealed) => Body::Bytes(open_whole(sealed, key, id, clear.bytes)?),
            Body::Pieces(_) => return Err(unopened()),
        };
        // The one that is given back removes the file from now on.
        taken.hand_over();
        Ok(Snapshot::new(body, clear.digest))
    }

    /// A file without a seal is one that could not be told to be a body: the store below says what is wrong with it.
    pub(super) async fn open_chunks(&self, file: BodyFile) -> Result<Chunks> {
        let Some(seal) = FileSeal::of(&file) else {
            return self.store.chunks(file).await;
        };
        if seal.stored.bytes != sealed_bytes(file.bytes) {
            return Err(unopened());
        }
        let chunks = self.store.chunks(seal.stored).await?.fuse();
        let opening = Opening {
            chunks,
            ready: BytesMut::new(),
            opener: Opener::new(seal.key, seal.id, file.bytes),
        };
        Ok(Box::pin(stream::try_unfold(opening, Opening::next)))
    }
}

fn open_whole(sealed: &Bytes, key: Key, id: ActionId, bytes: u64) -> Result<Bytes> {
    let (mut opener, mut sealed) = (Opener::new(key, id, bytes), sealed.clone());
    let mut whole = BytesMut::new();
    while let Some(wanted) = opener.wanted() {
        if sealed.len() < wanted {
            return Err(unopened());
        }
        whole.extend_from_slice(&opener.open(&sealed.split_to(wanted))?);
    }
    Ok(whole.freeze())
}

/// What lies in a source.
struct Measured {
    bytes: u64,
    crc32c: u32,
    digest: [u8; 32],
}

/// Reads a source and gives it sealed, one chunk in memory and one ahead: only so the last one is known.
struct Sealing {
    source: Box<dyn Read + Send>,
    bytes_max: u64,
    key: Key,
    id: ActionId,
    number: u32,
    ahead: Option<Vec<u8>>,
    /// Sealed and not yet given.
    ready: Bytes,
    bytes: u64,
    crc32c: u32,
    hash: blake3::Hasher,
    /// Set at the end.
    measured: Arc<OnceLock<Measured>>,
}

impl Sealing {
    fn new(source: Source, key: Key, id: ActionId) -> Self {
        let (source, bytes_max) = source.into_reader();
        Self {
            source,
            bytes_max,
            key,
            id,
            number: 0,
            ahead: None,
            ready: Bytes::new(),
            bytes: 0,
            crc32c: 0,
            hash: blake3::Hasher::new(),
            measured: Arc::default(),
        }
    }

    fn read_chunk(&mut self) -> io::Result<Vec<u8>> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let source = &mut self.source;
        source.take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        self.bytes += chunk.len() as u64;
        within(self.bytes, self.bytes_max)?;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &chunk);
        self.hash.update(&chunk);
        Ok(chunk)
    }

    fn seal_next(&mut self) -> io::Result<()> {
        let chunk = match self.ahead.take() {
            Some(chunk) => chunk,
            None => self.read_chunk()?,
        };
        let next = self.read_chunk()?;
        let is_last = next.is_empty();
        let place = place(self.id, self.number, is_last);
        let sealed = envelope::seal(&self.key, KEY_ID, place, &chunk).map_err(io::Error::other)?;
        self.ready = sealed.into();
        let number = self.number.checked_add(1);
        self.number = number.ok_or(io::ErrorKind::FileTooLarge)?;
        self.ahead = Some(next);
        if is_last {
            self.measured.get_or_init(|| Measured {
                bytes: self.bytes,
                crc32c: self.crc32c,
                digest: self.hash.finalize().into(),
            });
        }
        Ok(())
    }
}

impl Read for Sealing {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.ready.is_empty() && self.measured.get().is_none() {
            self.seal_next()?;
        }
        let bytes = out.len().min(self.ready.len());
        self.ready.copy_to_slice(&mut out[..bytes]);
        Ok(bytes)
    }
}

fn place(id: ActionId, number: u32, is_last: bool) -> Place {
    let kind = Kind::Chunk { number, is_last };
    let id = *id.as_bytes();
    Place { kind, id }
}

/// Opens the chunks of one file, in order.
struct Opener {
    key: Key,
    id: ActionId,
    number: u32,
    /// How much of the body is still to come.
    left: u64,
}

impl Opener {
    fn new(key: Key, id: ActionId, bytes: u64) -> Self {
        Self {
            key,
            id,
            number: 0,
            left: bytes,
        }
    }

    /// How long the next chunk is, sealed; nothing when the last one was opened.
    fn wanted(&self) -> Option<usize> {
        let clear = usize::try_from(self.left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        (clear > 0).then_some(clear + Record::SEAL_BYTES)
    }

    fn open(&mut self, sealed: &[u8]) -> Result<Vec<u8>> {
        let clear = (sealed.len() - Record::SEAL_BYTES) as u64;
        let place = place(self.id, self.number, clear == self.left);
        let opened = envelope::open(&self.key, place, sealed)?;
        self.number = self.number.checked_add(1).ok_or_else(unopened)?;
        self.left -= clear;
        Ok(opened)
    }
}

/// A file that is read and opened.
struct Opening {
    chunks: Fuse<Chunks>,
    /// Read and not yet opened.
    ready: BytesMut,
    opener: Opener,
}

impl Opening {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        let Some(wanted) = self.opener.wanted() else {
            let rest = self.chunks.try_next().await?;
            return match self.ready.is_empty() && rest.is_none() {
                true => Ok(None),
                false => Err(unopened()),
            };
        };
        while self.ready.len() < wanted {
            let chunk = self.chunks.try_next().await?;
            self.ready.extend_from_slice(&chunk.ok_or_else(unopened)?);
        }
        let opened = self.opener.open(&self.ready.split_to(wanted))?;
        Ok(Some((opened.into(), self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEALED: usize = CHUNK_BYTES + Record::SEAL_BYTES;

    fn sealed(key: &Key, id: ActionId, content: &[u8]) -> Vec<u8> {
        let source = Source::reader(io::Cursor::new(content.to_vec()), u64::MAX);
        let mut sealing = Sealing::new(source, key.clone(), id);
        let mut sealed = Vec::new();
        sealing.read_to_end(&mut sealed).expect("sealed");
        let measured = sealing.measured.get().expect("at its end");
        assert_eq!(measured.bytes, content.len() as u64);
        assert_eq!(measured.crc32c, crc32c::crc32c(content));
        assert_eq!(measured.digest, *blake3::hash(content).as_bytes());
        assert_eq!(sealed.len() as u64, sealed_bytes(measured.bytes));
        sealed
    }

    /// What is given, and whether that was all. `step` is how much comes at once.
    async fn opened(opener: Opener, sealed: &[u8], step: usize) -> (Vec<u8>, bool) {
        let chunks: Vec<_> = sealed
            .chunks(step)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        let chunks: Chunks = Box::pin(stream::iter(chunks));
        let opening = Opening {
            chunks: chunks.fuse(),
            ready: BytesMut::new(),
            opener,
        };
        let mut opened = Box::pin(stream::try_unfold(opening, Opening::next));
        let mut given = Vec::new();
        while let Some(chunk) = opened.next().await {
            match chunk {
                Ok(chunk) => given.extend_from_slice(&chunk),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt);
                    return (given, false);
                }
            }
        }
        (given, true)
    }

    #[tokio::test]
    async fn every_length_comes_back() {
        let (key, id) = (Key::generate(), ActionId::new());
        for length in [
            1,
            CHUNK_BYTES - 1,
            CHUNK_BYTES,
            CHUNK_BYTES + 1,
            3 * CHUNK_BYTES,
        ] {
            let content: Vec<u8> = (0..=255).cycle().take(length).collect();
            let sealed = sealed(&key, id, &content);
            for step in [1_000, SEALED, 300_000] {
                let opener = Opener::new(key.clone(), id, length as u64);
                let given = opened(opener, &sealed, step).await;
                assert_eq!(given, (content.clone(), true), "{length} by {step}");
            }
            let whole = open_whole(&sealed.into(), key.clone(), id, length as u64);
            assert_eq!(whole.expect("whole"), content);
        }
    }

    /// Also when somebody makes the length that is told fit to what is left.
    #[tokio::test]
    async fn no_end_passes_for_the_end_but_the_last_chunk() {
        let (key, id) = (Key::generate(), ActionId::new());
        let content = vec![3; 3 * CHUNK_BYTES];
        let sealed = sealed(&key, id, &content);
        for chunks in [1, 2] {
            let cut = &sealed[..chunks * SEALED];
            for told in [chunks * CHUNK_BYTES, content.len()] {
                let opener = Opener::new(key.clone(), id, told as u64);
                let (given, is_whole) = opened(opener, cut, 50_000).await;
                assert!(!is_whole && given.len() < told, "{chunks} told as {told}");
            }
        }
        let longer = [&sealed[..], &sealed[2 * SEALED..]].concat();
        for told in [3 * CHUNK_BYTES, 4 * CHUNK_BYTES] {
            let opener = Opener::new(key.clone(), id, told as u64);
            assert!(!opened(opener, &longer, SEALED).await.1, "told as {told}");
        }
        let opener = Opener::new(key.clone(), ActionId::new(), content.len() as u64);
        assert_eq!(opened(opener, &sealed, SEALED).await, (Vec::new(), false));
    }

    #[test]
    fn a_seal_reads_back_and_is_not_shown() {
        let mut stored = BodyFile::new("bodies/x", 70_000, 5);
        stored.seal = Bytes::from_static(b"of the store below");
        let (key, id) = (Key::new([0xab; 32]), ActionId::new());
        let (bytes, below) = (*key.bytes(), stored.clone());
        let file = FileSeal { key, id, stored }.into_file(69_000, 6);
        assert_eq!((file.bytes, file.crc32c), (69_000, 6));
        assert!(!format!("{file:?}").contains("171"), "{file:?}");
        let seal = FileSeal::of(&file).expect("sealed");
        assert_eq!((*seal.key.bytes(), seal.id), (bytes, id));
        assert_eq!(seal.stored, below);
        assert!(FileSeal::of(&BodyFile::new("x", 1, 1)).is_none());
    }
}
