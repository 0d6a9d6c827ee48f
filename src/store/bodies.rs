//! Large values, bodies and answers, as files of their own. A file is whole and durable before a record refers
//! to it, and is removed after the commit that makes it garbage; what a crash leaves over is swept at open.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::dir::{failed, private_file, sync_dir};
use crate::action::{ActionId, Body, BodyFile};
use crate::error::{Error, ErrorKind, Result};

/// Values up to this length stay in the engine.
pub(super) const INLINE_BYTES_MAX: u64 = 8 * 1024;

/// A file, as a record refers to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileRef {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) crc32c: u32,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Body,
    Answer,
}

impl FileKind {
    fn name(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Answer => "answer",
        }
    }
}

/// The directory of the files. Each is named `<id>.<run><number>.<kind>` and written once: a refused append of a
/// known action never touches the file of the action that is kept.
#[derive(Debug)]
pub(super) struct Bodies {
    dir: PathBuf,
    run: u32,
    written: AtomicU32,
}

impl Bodies {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            run: rand::random(),
            written: AtomicU32::new(0),
        }
    }

    /// A path beside the directory, in that of the vault.
    pub(super) fn beside(&self, name: &str) -> Option<PathBuf> {
        self.dir.parent().map(|dir| dir.join(name))
    }

    /// Writes a value. Its name is durable after [`sync`](Self::sync).
    pub(super) fn write(&self, id: ActionId, kind: FileKind, value: &Bytes) -> Result<FileRef> {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let name = format!("{id}.{:08x}{number:08x}.{}", self.run, kind.name());
        let path = self.dir.join(&name);
        if let Err(e) = write_file(&path, value) {
            self.remove(&name);
            return Err(failed("write", &path, e));
        }
        Ok(FileRef {
            name,
            bytes: value.len() as u64,
            crc32c: crc32c::crc32c(value),
        })
    }

    /// Makes the names of all files durable that were written before.
    pub(super) fn sync(&self) -> Result<()> {
        sync_dir(&self.dir)
    }

    /// Reads a value back and checks it.
    pub(super) fn read(&self, file: &BodyFile) -> Result<Bytes> {
        let path = self.dir.join(&file.path);
        let value = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(damaged(&path, "is gone")),
            read => read.map_err(|e| failed("read", &path, e))?,
        };
        if value.len() as u64 != file.bytes {
            return Err(damaged(&path, "has another length"));
        }
        if crc32c::crc32c(&value) != file.crc32c {
            return Err(damaged(&path, "fails its checksum"));
        }
        Ok(value.into())
    }

    /// The same body, with its whole path.
    pub(super) fn located(&self, body: Body) -> Body {
        match body {
            Body::File(file) => Body::File(BodyFile {
                path: self.dir.join(&file.path),
                ..file
            }),
            body @ Body::Bytes(_) => body,
        }
    }

    /// Removes a file that nothing refers to.
    pub(super) fn remove(&self, name: &str) {
        match fs::remove_file(self.dir.join(name)) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(name, %error, "a file of the vault cannot be removed"),
        }
    }

    /// The files of our pattern that this run did not write.
    pub(super) fn of_earlier_runs(&self) -> Result<Vec<(ActionId, FileKind, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|e| failed("list", &self.dir, e))? {
            let name = entry.map_err(|e| failed("list", &self.dir, e))?.file_name();
            let Some((name, (id, kind, run))) = name.to_str().and_then(|n| Some((n, parse(n)?)))
            else {
                continue;
            };
            if run != self.run {
                found.push((id, kind, name.to_owned()));
            }
        }
        Ok(found)
    }
}

fn write_file(path: &Path, value: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    private_file(&mut options);
    let mut file = options.open(path)?;
    file.write_all(value)?;
    file.sync_all()
}

fn parse(name: &str) -> Option<(ActionId, FileKind, u32)> {
    let mut parts = name.split('.');
    let (id, nonce, kind) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = match kind {
        "body" => FileKind::Body,
        "answer" => FileKind::Answer,
        _ => return None,
    };
    let is_whole = parts.next().is_none() && nonce.len() == 16 && nonce.is_ascii();
    let run = u32::from_str_radix(nonce.get(..8)?, 16).ok()?;
    is_whole.then_some((id.parse().ok()?, kind, run))
}

fn damaged(path: &Path, how: &str) -> Error {
    let text = format!("the stored value {} {how}", path.display());
    Error::new(ErrorKind::Corrupt, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_file(file: &FileRef) -> BodyFile {
        BodyFile {
            path: file.name.clone().into(),
            bytes: file.bytes,
            crc32c: file.crc32c,
        }
    }

    #[test]
    fn a_value_reads_back_and_damage_is_found() {
        let temp = tempfile::tempdir().expect("tempdir");
        let bodies = Bodies::new(temp.path().to_owned());
        let value = Bytes::from(vec![7; 20_000]);
        let file = bodies
            .write(ActionId::new(), FileKind::Body, &value)
            .expect("write");
        bodies.sync().expect("sync");
        assert_eq!(bodies.read(&body_file(&file)).expect("read"), value);

        let path = temp.path().join(&file.name);
        let mut bytes = fs::read(&path).expect("read");
        bytes[19_999] ^= 1;
        fs::write(&path, &bytes).expect("write");
        let error = bodies.read(&body_file(&file)).expect_err("flipped");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        fs::write(&path, &bytes[..100]).expect("write");
        let error = bodies.read(&body_file(&file)).expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        bodies.remove(&file.name);
        let error = bodies.read(&body_file(&file)).expect_err("gone");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn only_files_of_our_pattern_and_of_earlier_runs_are_listed() {
        let temp = tempfile::tempdir().expect("tempdir");
        let (id, value) = (ActionId::new(), Bytes::from_static(b"x"));
        let earlier = Bodies::new(temp.path().to_owned());
        let old = earlier.write(id, FileKind::Answer, &value).expect("write");
        fs::write(temp.path().join("notes.txt"), "x").expect("write");
        fs::write(temp.path().join(format!("{id}.body")), "x").expect("write");
        let now = Bodies::new(temp.path().to_owned());
        now.write(id, FileKind::Body, &value).expect("write");
        let found = now.of_earlier_runs().expect("list");
        assert_eq!(found, [(id, FileKind::Answer, old.name)]);
    }

    #[cfg(unix)]
    #[test]
    fn files_are_readable_by_us_alone() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().expect("tempdir");
        let bodies = Bodies::new(temp.path().to_owned());
        let file = bodies
            .write(ActionId::new(), FileKind::Body, &Bytes::from_static(b"x"))
            .expect("write");
        let found = fs::metadata(temp.path().join(file.name)).expect("metadata");
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
    }
}
