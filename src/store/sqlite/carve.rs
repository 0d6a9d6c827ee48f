//! Carving a damaged database: the cells of every leaf page, in the main file and in the write-ahead log, whatever the
//! pages above them say. A value that runs over several pages is followed; its checksum says whether it is whole.
//! The file format: <https://www.sqlite.org/fileformat2.html>.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use bytes::Bytes;

use super::{FILE, rows};
use crate::error::Result;
use crate::store::carve::{frames_in, frames_within};
use crate::store::dir::failed;
use crate::store::kv::{Sink, is_row_of_queue};

/// The default of SQLite, which our files have.
const PAGE: usize = 4096;
const PAGE_BYTES: u64 = PAGE as u64;
const LOG_HEAD: u64 = 32;
const LOG_FRAME_HEAD: u64 = 24;
/// A longer value is none of ours.
const VALUE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Kinds of pages.
const INDEX_INTERIOR: u8 = 0x02;
const INDEX_LEAF: u8 = 0x0a;
const TABLE_LEAF: u8 = 0x0d;

type Page = Box<[u8]>;

/// Gives out everything intact in the database in `dir`.
pub(super) fn carve(dir: &Path, sink: &mut dyn Sink) -> Result<()> {
    let path = dir.join(FILE);
    let mut log = path.clone().into_os_string();
    log.push("-wal");
    // What fits into its page is found even where the page says nothing of it any more.
    for path in [&path, Path::new(&log)] {
        if path.is_file() {
            frames_in(path, &mut |bytes| sink.frame(bytes))?;
        }
    }
    let mut pages = Pages::open(&path).map_err(|e| failed("read", &path, e))?;
    for spot in pages.spots() {
        let Some(page) = pages.read(spot).map_err(|e| failed("read", &path, e))? else {
            continue;
        };
        for cell in cells(spot, &page) {
            for value in pages.values(&cell).map_err(|e| failed("read", &path, e))? {
                give(&cell, &value, sink)?;
            }
        }
    }
    Ok(())
}

fn give(cell: &Cell, value: &[u8], sink: &mut dyn Sink) -> Result<()> {
    if cell.is_row {
        return frames_within(value, &mut |bytes| sink.frame(bytes));
    }
    match key_and_value(value) {
        Some((key, value)) if is_row_of_queue(key) => {
            let row = (key.to_vec(), Some(Bytes::copy_from_slice(value)));
            sink.commit([row].into())
        }
        _ => Ok(()),
    }
}

/// The first two columns of a row, both blobs. The third is their checksum.
fn key_and_value(row: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, mut at) = varint(row)?;
    let mut kinds = [0; 3];
    for kind in &mut kinds {
        let (number, bytes) = varint(row.get(at..)?)?;
        at += bytes;
        *kind = number;
    }
    let length = |kind: u64| usize::try_from(kind.checked_sub(12)? / 2).ok();
    let start = usize::try_from(head).ok()?;
    let middle = start.checked_add(length(kinds[0])?)?;
    let end = middle.checked_add(length(kinds[1])?)?;
    let (key, value) = (row.get(start..middle)?, row.get(middle..end)?);
    let crc = integer(kinds[2], row.get(end..)?)?;
    (crc == rows::crc_of(key, value)).then_some((key, value))
}

/// An integer column.
fn integer(kind: u64, bytes: &[u8]) -> Option<i64> {
    let length = match kind {
        1..=4 => usize::try_from(kind).ok()?,
        5 => 6,
        6 => 8,
        8 => return Some(0),
        9 => return Some(1),
        _ => return None,
    };
    let (first, rest) = bytes.get(..length)?.split_first()?;
    let sign = i64::from(first.cast_signed());
    Some(
        rest.iter()
            .fold(sign, |all, byte| (all << 8) | i64::from(*byte)),
    )
}

/// Where one version of a page lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spot {
    Main(u32),
    /// By the number of the frame in the log, from 0.
    Log(u64),
}

/// A value, or the beginning of one.
struct Cell {
    local: Vec<u8>,
    length: usize,
    /// The page on which it goes on.
    next: Option<u32>,
    /// The version of the page that it stands on.
    spot: Spot,
    is_row: bool,
}

/// Every version of every page.
struct Pages {
    main: Option<File>,
    log: Option<File>,
    count: u32,
    /// Which page each frame of the log holds.
    logged: Vec<u32>,
    /// The frames of a page, the oldest first.
    versions: HashMap<u32, Vec<u64>>,
}

impl Pages {
    fn open(path: &Path) -> io::Result<Self> {
        let main = open(path)?;
        let mut log_path = path.as_os_str().to_owned();
        log_path.push("-wal");
        let mut log = open(Path::new(&log_path))?;
        let length = |file: &Option<File>| match file {
            Some(file) => file.metadata().map(|found| found.len()),
            None => Ok(0),
        };
        let count = u32::try_from(length(&main)?.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX);
        let frames = length(&log)?.saturating_sub(LOG_HEAD) / (LOG_FRAME_HEAD + PAGE_BYTES);
        let (mut logged, mut versions) = (Vec::new(), HashMap::<u32, Vec<u64>>::new());
        if let Some(log) = &mut log {
            for frame in 0..frames {
                let mut number = [0; 4];
                log.seek(SeekFrom::Start(at_frame(frame)))?;
                log.read_exact(&mut number)?;
                let number = u32::from_be_bytes(number);
                logged.push(number);
                versions.entry(number).or_default().push(frame);
            }
        }
        Ok(Self {
            main,
            log,
            count,
            logged,
            versions,
        })
    }

    fn spots(&self) -> Vec<Spot> {
        let main = (1..=self.count).map(Spot::Main);
        let log = (0..self.logged.len() as u64).map(Spot::Log);
        main.chain(log).collect()
    }

    /// A page that the end of the file cuts is filled up with zeros.
    fn read(&mut self, spot: Spot) -> io::Result<Option<Page>> {
        let (file, at) = match spot {
            Spot::Main(0) => return Ok(None),
            Spot::Main(number) => (&mut self.main, u64::from(number - 1) * PAGE_BYTES),
            Spot::Log(frame) => (&mut self.log, at_frame(frame) + LOG_FRAME_HEAD),
        };
        let Some(file) = file else { return Ok(None) };
        let mut page = Vec::with_capacity(PAGE);
        file.seek(SeekFrom::Start(at))?;
        file.by_ref().take(PAGE_BYTES).read_to_end(&mut page)?;
        if page.is_empty() {
            return Ok(None);
        }
        page.resize(PAGE, 0);
        Ok(Some(page.into()))
    }

    /// What a cell may hold: its pages have several versions, and only one of them belongs to it.
    fn values(&mut self, cell: &Cell) -> io::Result<Vec<Vec<u8>>> {
        let Some(next) = cell.next else {
            return Ok(vec![cell.local.clone()]);
        };
        let ends = match cell.spot {
            Spot::Main(_) => vec![None, Some(u64::MAX)],
            Spot::Log(frame) => vec![Some(frame), Some(u64::MAX), None],
        };
        let mut values = Vec::new();
        for end in ends {
            if let Some(value) = self.follow(cell, next, end)?
                && !values.contains(&value)
            {
                values.push(value);
            }
        }
        Ok(values)
    }

    /// The whole value, each page in its newest version up to the frame `end`; without one, of the main file.
    fn follow(&mut self, cell: &Cell, first: u32, end: Option<u64>) -> io::Result<Option<Vec<u8>>> {
        let (mut value, mut next) = (cell.local.clone(), first);
        while value.len() < cell.length {
            let Some(page) = self.read(self.version(next, end))? else {
                return Ok(None);
            };
            next = u32::from_be_bytes([page[0], page[1], page[2], page[3]]);
            let left = cell.length - value.len();
            value.extend_from_slice(&page[4..PAGE.min(4 + left)]);
        }
        Ok(Some(value))
    }

    fn version(&self, number: u32, end: Option<u64>) -> Spot {
        let frames = self.versions.get(&number).map_or(&[][..], Vec::as_slice);
        let newest = end.and_then(|end| frames.iter().rev().find(|frame| **frame <= end));
        newest.map_or(Spot::Main(number), |frame| Spot::Log(*frame))
    }
}

fn at_frame(frame: u64) -> u64 {
    LOG_HEAD + frame * (LOG_FRAME_HEAD + PAGE_BYTES)
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The cells that hold values. Those that make no sense are left out.
fn cells(spot: Spot, page: &[u8]) -> Vec<Cell> {
    // The first page begins with the head of the file; a version of it in the log too.
    let start = match page.starts_with(b"SQLite format 3\0") || spot == Spot::Main(1) {
        true => 100,
        false => 0,
    };
    let (kind, head) = (page[start], start + 8);
    let head = match kind {
        INDEX_INTERIOR => head + 4,
        INDEX_LEAF | TABLE_LEAF => head,
        _ => return Vec::new(),
    };
    let count = usize::from(u16::from_be_bytes([page[start + 3], page[start + 4]]));
    let pointers = page[head..].chunks_exact(2).take(count);
    pointers
        .filter_map(|two| {
            cell(
                spot,
                kind,
                page,
                usize::from(u16::from_be_bytes([two[0], two[1]])),
            )
        })
        .collect()
}

fn cell(spot: Spot, kind: u8, page: &[u8], mut at: usize) -> Option<Cell> {
    if kind == INDEX_INTERIOR {
        at += 4;
    }
    let (length, bytes) = varint(page.get(at..)?)?;
    at += bytes;
    if length > VALUE_BYTES_MAX {
        return None;
    }
    let is_row = kind == TABLE_LEAF;
    if is_row {
        at += varint(page.get(at..)?)?.1;
    }
    let length = usize::try_from(length).ok()?;
    let here = local(length, is_row);
    let local = page.get(at..at.checked_add(here)?)?.to_vec();
    let next = match here < length {
        true => {
            let four = page.get(at + here..at + here + 4)?.try_into().ok()?;
            Some(u32::from_be_bytes(four))
        }
        false => None,
    };
    Some(Cell {
        local,
        length,
        next,
        spot,
        is_row,
    })
}

/// How much of a value stands in its cell.
fn local(length: usize, is_row: bool) -> usize {
    let most = match is_row {
        true => PAGE - 35,
        false => (PAGE - 12) * 64 / 255 - 23,
    };
    if length <= most {
        return length;
    }
    let least = (PAGE - 12) * 32 / 255 - 23;
    let fitting = least + (length - least) % (PAGE - 4);
    if fitting <= most { fitting } else { least }
}

/// A number of 1 to 9 bytes, and how many they are.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0;
    for (at, byte) in bytes.iter().take(8).enumerate() {
        number = (number << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((number, at + 1));
        }
    }
    Some(((number << 8) | u64::from(*bytes.get(8)?), 9))
}
