//! The journals of fjall, looked at before it opens. It cuts a journal off at the first byte that makes no sense to it, also
//! in the middle, and does not open at all when a power cut tore the last batch in a certain way. Here the torn batch goes,
//! because nobody was told of it, and damage before others is an error that changes nothing.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, ErrorKind, Result};
use crate::store::dir::{failed, no_follow, paths_in};
use crate::store::kv::Batch;

/// The mark of a whole database.
pub(super) const VERSION: &str = "version";
/// Without these fjall takes what is there for nothing, and removes it.
const NEEDED: [&str; 3] = [VERSION, "keyspaces/0/current", "keyspaces/1/current"];

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// An item that is a value, and not a deletion.
const PUT: u8 = 0;
/// The keyspace of the queue.
const QUEUE: usize = 1;
const START_BYTES: usize = 13;
const ITEM_BYTES: usize = 21;
const CLEAR_BYTES: usize = 9;
const TRAILER: &[u8] = b"FJL\x03";

/// Cuts off what is torn at the end of the newest journal.
///
/// # Errors
///
/// [`ErrorKind::Corrupt`] when a journal is damaged before its end, or there is none; and storage errors.
pub(super) fn check(dir: &Path) -> Result<()> {
    let journals = journals_in(dir)?;
    let Some((newest, sealed)) = journals.split_last() else {
        return Err(lost(dir));
    };
    if !NEEDED.iter().all(|name| dir.join(name).is_file()) {
        return Err(lost(dir));
    }
    for journal in sealed {
        let bytes = read(journal)?;
        let whole = whole_bytes(&bytes);
        if !is_unused(&bytes[whole..]) {
            return Err(damaged(journal, whole));
        }
    }
    let bytes = read(newest)?;
    let whole = whole_bytes(&bytes);
    match &bytes[whole..] {
        rest if is_unused(rest) => Ok(()),
        rest if has_batch_behind(rest) => Err(damaged(newest, whole)),
        _ => cut(newest, whole as u64),
    }
}

/// By their numbers, the one in use last.
fn journals_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut journals = paths_in(dir)?;
    journals.retain(|path| path.extension().is_some_and(|end| end == "jnl"));
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    journals.sort_by_key(number);
    Ok(journals)
}

/// What a journal holds, without the room that was made ahead: that is zeros, and much.
fn read(journal: &Path) -> Result<Vec<u8>> {
    const BLOCK: usize = 64 * 1024;
    let (mut block, zeros) = (vec![0; BLOCK], vec![0; BLOCK]);
    let (mut bytes, mut unused) = (Vec::new(), 0);
    let mut file = File::open(journal).map_err(|e| failed("open", journal, e))?;
    loop {
        let length = file
            .read(&mut block)
            .map_err(|e| failed("read", journal, e))?;
        if length == 0 {
            return Ok(bytes);
        }
        unused += length;
        if block[..length] != zeros[..length] {
            bytes.resize(bytes.len() + unused - length, 0);
            bytes.extend_from_slice(&block[..length]);
            unused = 0;
        }
    }
}

fn cut(journal: &Path, whole: u64) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true);
    no_follow(&mut options);
    let cut = options.open(journal).and_then(|file| {
        file.set_len(whole)?;
        file.sync_all()
    });
    cut.map_err(|e| failed("cut", journal, e))?;
    tracing::warn!(
        whole,
        "a torn batch was cut off the journal; nobody was told of it"
    );
    Ok(())
}

fn lost(dir: &Path) -> Error {
    let text = format!(
        "the vault was made, but its database {} is not whole: files of it were lost, or another store made the vault",
        dir.display()
    );
    Error::new(ErrorKind::Corrupt, text)
}

fn damaged(journal: &Path, at: usize) -> Error {
    let text = format!(
        "the journal {} is damaged at byte {at}, before batches that were acknowledged",
        journal.display()
    );
    Error::new(ErrorKind::Corrupt, text)
}

/// Room that was made ahead.
fn is_unused(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Gives out every whole batch in the journals, wherever it starts, in order.
///
/// # Errors
///
/// Storage errors, and those of `found`.
pub(super) fn batches_in(dir: &Path, found: &mut dyn FnMut(Batch) -> Result<()>) -> Result<()> {
    let journals = match dir.is_dir() {
        true => journals_in(dir)?,
        false => Vec::new(),
    };
    for journal in journals {
        let bytes = read(&journal)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = batch(rest);
            if let Some(length) = length {
                found(writes(&rest[START_BYTES..length]))?;
            }
            rest = &rest[length.unwrap_or(1)..];
        }
    }
    Ok(())
}

/// What a whole batch writes to the queue.
fn writes(mut items: &[u8]) -> Batch {
    let mut batch = Batch::new();
    while let Some(length) = entry(items) {
        let (item, rest) = items.split_at(length.min(items.len()));
        if let Some((key, value)) = write(item) {
            batch.insert(key.to_vec(), value.map(Bytes::copy_from_slice));
        }
        items = rest;
    }
    batch
}

fn write(item: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    if *item.first()? != ITEM || number::<8>(item, 3)? != QUEUE {
        return None;
    }
    let (key, value) = item
        .get(ITEM_BYTES..)?
        .split_at_checked(number::<2>(item, 11)?)?;
    Some((key, (item[1] == PUT).then_some(value)))
}

/// How many bytes of whole batches a journal begins with.
fn whole_bytes(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(length) = batch(&bytes[at..]) {
        at += length;
    }
    at
}

/// A batch is synced before the next one is begun, so nothing follows one that was torn.
fn has_batch_behind(bytes: &[u8]) -> bool {
    (1..bytes.len()).any(|at| bytes[at] == START && batch(&bytes[at..]).is_some())
}

/// The length of the batch that `bytes` begin with; nothing when it is not whole.
fn batch(bytes: &[u8]) -> Option<usize> {
    if *bytes.first()? != START {
        return None;
    }
    let count = number::<4>(bytes, 1)?;
    let mut at = START_BYTES;
    for _ in 0..count {
        at = at.checked_add(entry(bytes.get(at..)?)?)?;
    }
    let checksum = xxh3_64(bytes.get(START_BYTES..at)?);
    let end = [&[END][..], &checksum.to_le_bytes(), TRAILER].concat();
    bytes.get(at..)?.starts_with(&end).then(|| at + end.len())
}

fn entry(bytes: &[u8]) -> Option<usize> {
    match *bytes.first()? {
        ITEM => {
            let (key, value) = (number::<2>(bytes, 11)?, number::<4>(bytes, 17)?);
            ITEM_BYTES.checked_add(key)?.checked_add(value)
        }
        CLEAR => Some(CLEAR_BYTES),
        _ => None,
    }
}

/// A little-endian number of `N` bytes.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<usize> {
    let mut number = [0; 8];
    number[..N].copy_from_slice(bytes.get(at..at + N)?);
    usize::try_from(u64::from_le_bytes(number)).ok()
}
