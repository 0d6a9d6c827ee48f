//! One commit as bytes. A frame stands alone: whether it is whole can be told without the ones before it.
//! `docs/format.md` draws it.

use std::io::BufRead;

use bytes::Bytes;

use crate::store::kv::Batch;

const MAGIC: [u8; 4] = *b"SVj\x01";
/// Magic, checksum, length, zero, turn, number.
const HEAD: usize = 4 + 4 + 4 + 4 + 8 + 8;
/// Frames start at multiples of this.
pub(super) const ALIGN: usize = 8;
/// In the place of a value's length: the key is deleted.
const DELETED: u32 = u32::MAX;

/// A commit, as a frame holds it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Commit {
    /// Drawn at random when the journal file was started anew: what an earlier turn left behind is not read.
    pub(super) turn: u64,
    /// Grows by one with every commit of the vault's life.
    pub(super) number: u64,
    pub(super) batch: Batch,
}

/// The bytes of a commit; nothing when it is over 4 GiB.
pub(super) fn encode(turn: u64, number: u64, batch: &Batch) -> Option<Vec<u8>> {
    let entry = |(key, value): (&Vec<u8>, &Option<Bytes>)| {
        8 + key.len() + value.as_ref().map_or(0, Bytes::len)
    };
    let length: usize = batch.iter().map(entry).sum();
    let mut frame = Vec::with_capacity(HEAD + length + ALIGN);
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&turn.to_le_bytes());
    frame.extend_from_slice(&number.to_le_bytes());
    for (key, value) in batch {
        frame.extend_from_slice(&u32::try_from(key.len()).ok()?.to_le_bytes());
        let value_length = match value {
            Some(value) => u32::try_from(value.len()).ok()?,
            None => DELETED,
        };
        frame.extend_from_slice(&value_length.to_le_bytes());
        frame.extend_from_slice(key);
        frame.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    let crc = crc32c::crc32c(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame.resize(frame.len().next_multiple_of(ALIGN), 0);
    Some(frame)
}

/// The whole frame at the start of `bytes`, and where the next one starts.
pub(super) fn decode(bytes: &[u8]) -> Option<(Commit, usize)> {
    if !bytes.starts_with(&MAGIC) {
        return None;
    }
    let length = usize::try_from(u32_at(bytes, 8)?).ok()?;
    let end = HEAD.checked_add(length)?;
    let frame = bytes.get(..end)?;
    if crc32c::crc32c(&frame[8..]) != u32_at(frame, 4)? {
        return None;
    }
    let commit = Commit {
        turn: u64_at(frame, 16)?,
        number: u64_at(frame, 24)?,
        batch: entries(&frame[HEAD..])?,
    };
    Some((commit, end.next_multiple_of(ALIGN)))
}

/// The number of the newest whole frame that starts at `from` or behind it.
pub(super) fn newest_behind(bytes: &[u8], from: usize) -> Option<u64> {
    starts(bytes, from)
        .filter_map(|at| decode(&bytes[at..]).map(|(commit, _)| commit.number))
        .max()
}

/// Where a frame may start, from `from` on. Most of a file is zeros.
fn starts(bytes: &[u8], from: usize) -> impl Iterator<Item = usize> {
    let mut rest = &bytes[from.min(bytes.len())..];
    let next = move || {
        // Reading from memory does not fail.
        let skipped = rest.skip_until(MAGIC[0]).ok()?;
        (skipped > 0).then(|| bytes.len() - rest.len() - 1)
    };
    std::iter::from_fn(next)
        .filter(move |at| (at - from).is_multiple_of(ALIGN) && bytes[*at..].starts_with(&MAGIC))
}

/// Every whole frame.
pub(super) fn whole_in(bytes: &[u8]) -> Vec<Commit> {
    starts(bytes, 0)
        .filter_map(|at| decode(&bytes[at..]))
        .map(|(commit, _)| commit)
        .collect()
}

fn entries(mut rest: &[u8]) -> Option<Batch> {
    let mut batch = Batch::new();
    while !rest.is_empty() {
        let key_length = usize::try_from(u32_at(rest, 0)?).ok()?;
        let value_length = u32_at(rest, 4)?;
        let key = take(&mut rest, 8, key_length)?.to_vec();
        let value = match value_length {
            DELETED => None,
            length => Some(Bytes::copy_from_slice(take(
                &mut rest,
                0,
                usize::try_from(length).ok()?,
            )?)),
        };
        batch.insert(key, value);
    }
    Some(batch)
}

/// Takes `length` bytes behind `skip` others.
fn take<'a>(rest: &mut &'a [u8], skip: usize, length: usize) -> Option<&'a [u8]> {
    let end = skip.checked_add(length)?;
    let taken = rest.get(skip..end)?;
    *rest = &rest[end..];
    Some(taken)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_le_bytes(bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        let value = Some(Bytes::from_static(b"value"));
        [(b"put".to_vec(), value), (b"deleted".to_vec(), None)].into()
    }

    #[test]
    fn a_frame_reads_back_and_says_where_it_ends() {
        let mut bytes = encode(7, 9, &batch()).expect("small");
        let length = bytes.len();
        assert_eq!(length % ALIGN, 0);
        bytes.extend_from_slice(b"what is behind it");
        let (commit, end) = decode(&bytes).expect("whole");
        assert_eq!((commit.turn, commit.number, end), (7, 9, length));
        assert_eq!(commit.batch, batch());
    }

    #[test]
    fn no_flipped_bit_and_no_cut_is_read() {
        let frame = encode(7, 9, &batch()).expect("small");
        let data = HEAD + 2 * 8 + 3 + 5 + 7;
        for bit in 0..data * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The four zero bytes of the head are covered as well.
            assert_eq!(decode(&flipped), None, "bit {bit}");
        }
        for cut in 0..data {
            assert_eq!(decode(&frame[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn whole_frames_are_found_behind_a_damaged_one() {
        let [first, second, third] = [1, 2, 3].map(|n| encode(7, n, &batch()).expect("small"));
        let mut bytes = [first.clone(), second, third].concat();
        bytes.resize(4096, 0);
        bytes[first.len() + 12] ^= 1;
        assert_eq!(newest_behind(&bytes, first.len()), Some(3));
        assert_eq!(newest_behind(&bytes[..2 * first.len()], first.len()), None);
    }
}
