//! Carving: finds every intact frame in raw bytes, wherever it starts. Reads a stretch at a time; memory is bounded
//! by the longest frame that is looked for.

#[cfg(any(feature = "fjall", feature = "sled"))]
use std::fs;
use std::fs::OpenOptions;
use std::io::{self, BufRead, Read};
use std::path::Path;

use bytes::{Buf, BytesMut};

#[cfg(any(feature = "fjall", feature = "sled"))]
use super::dir::paths_in;
use super::dir::{failed, no_follow};
use crate::action::Frame;
use crate::error::Result;

const MAGIC: &[u8] = b"SVf\x01";
/// How much is read at a time.
const STRETCH: usize = 1024 * 1024;
/// What lies in an engine is shorter: a record of 64 KiB, a body of 8 KiB, an answer of 64 KiB, and their fields.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Head and tail.
const FRAME_BYTES_MIN: usize = 44;

/// As [`frames_in`], of every plain file in a directory and below it, if it is there.
#[cfg(any(feature = "fjall", feature = "sled"))]
pub(super) fn frames_below(dir: &Path, found: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for path in paths_in(dir)? {
        let kind = fs::symlink_metadata(&path).map_err(|e| failed("look at", &path, e))?;
        if kind.is_dir() {
            frames_below(&path, found)?;
        } else if kind.is_file() {
            frames_in(&path, found)?;
        }
    }
    Ok(())
}

/// Gives every intact frame in a file to `found`. What lies inside of one is part of it.
///
/// # Errors
///
/// Storage errors, and those of `found`.
pub(super) fn frames_in(path: &Path, found: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut options = OpenOptions::new();
    options.read(true);
    no_follow(&mut options);
    let file = options.open(path).map_err(|e| failed("open", path, e))?;
    carve(file, found).map_err(|e| match e {
        Failure::Read(e) => failed("read", path, e),
        Failure::Found(e) => e,
    })
}

/// As [`frames_in`], of bytes in memory, and of any length.
#[cfg(feature = "sqlite")]
pub(super) fn frames_within(
    mut bytes: &[u8],
    found: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    while let Some(at) = next_magic(bytes) {
        bytes = &bytes[at..];
        let length = match whole(bytes, usize::MAX) {
            Some(length) => {
                found(&bytes[..length])?;
                length
            }
            None => 1,
        };
        bytes = &bytes[length..];
    }
    Ok(())
}

enum Failure {
    Read(io::Error),
    Found(crate::error::Error),
}

fn carve(mut source: impl Read, found: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<(), Failure> {
    let mut window = BytesMut::new();
    let mut is_over = false;
    while !is_over {
        let stretch = source.by_ref().take(STRETCH as u64);
        is_over = read_into(stretch, &mut window).map_err(Failure::Read)? < STRETCH;
        let keep = if is_over { 0 } else { FRAME_BYTES_MAX };
        while window.len() > keep {
            let Some(at) = next_magic(&window) else {
                let tail = (MAGIC.len() - 1).min(window.len());
                window.advance(window.len() - tail);
                break;
            };
            window.advance(at);
            if window.len() <= keep {
                break;
            }
            let length = match whole(&window, FRAME_BYTES_MAX) {
                Some(length) => {
                    found(&window[..length]).map_err(Failure::Found)?;
                    length
                }
                None => 1,
            };
            window.advance(length);
        }
    }
    Ok(())
}

fn read_into(mut source: impl Read, window: &mut BytesMut) -> io::Result<usize> {
    let mut bytes = Vec::with_capacity(STRETCH);
    let read = source.read_to_end(&mut bytes)?;
    window.extend_from_slice(&bytes);
    Ok(read)
}

fn next_magic(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    loop {
        // Behind the next first byte, or at the end.
        rest.skip_until(MAGIC[0]).ok()?;
        if rest.len() < MAGIC.len() - 1 {
            return None;
        }
        if rest.starts_with(&MAGIC[1..]) {
            return Some(bytes.len() - rest.len() - 1);
        }
    }
}

/// The length of the whole frame at the start.
fn whole(bytes: &[u8], longest: usize) -> Option<usize> {
    let length = |at: usize| {
        let four = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(four)).ok()
    };
    let total = length(8)?
        .checked_add(length(12)?)?
        .checked_add(FRAME_BYTES_MIN)?;
    if total > longest {
        return None;
    }
    let bytes = bytes::Bytes::copy_from_slice(bytes.get(..total)?);
    Frame::decode_prefix(&bytes).ok().map(|(_, length)| length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{ActionId, FrameKind};

    fn frame(content: &[u8]) -> Vec<u8> {
        Frame::encode(FrameKind::Body, ActionId::new(), 1, &(), content).expect("encode")
    }

    fn carved(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut keep = |frame: &[u8]| {
            found.push(frame.to_vec());
            Ok(())
        };
        assert!(carve(bytes, &mut keep).is_ok());
        found
    }

    #[test]
    fn every_frame_is_found_wherever_it_starts() {
        let frames: Vec<Vec<u8>> = (0..70).map(|n| frame(&vec![n; 40_000])).collect();
        let mut bytes = b"SVf".to_vec();
        for (n, frame) in frames.iter().enumerate() {
            bytes.extend_from_slice(&b"SVf\x01 noise"[..n % 10]);
            bytes.extend_from_slice(frame);
        }
        assert_eq!(carved(&bytes), frames);
    }

    #[test]
    fn a_damaged_frame_hides_none_behind_it() {
        let (bad, good) = (frame(b"bad"), frame(b"good"));
        for bit in 0..bad.len() * 8 {
            let mut bytes = [bad.clone(), good.clone()].concat();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(carved(&bytes), std::slice::from_ref(&good), "bit {bit}");
        }
        let cut = [&bad[..bad.len() / 2], &good].concat();
        assert_eq!(carved(&cut), [good]);
    }

    #[test]
    fn what_lies_inside_of_a_frame_is_not_taken_out() {
        let outer = frame(&frame(b"inner"));
        assert_eq!(carved(&outer), [outer]);
    }
}
