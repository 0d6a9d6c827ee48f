//! Multipart forms: a recipe of parts, with the face of reqwest's. What is kept are the bytes between the files, and a
//! snapshot of each file. The boundary comes from the content, so that the same form makes the same bytes.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use http::HeaderValue;

use super::{Keeper, KeptBody, Print, check_size, header_value};
use crate::action::{Body, Piece};
use crate::error::{Error, Result};
use crate::store::Snapshot;

/// How many parts a form may have, and how many of them files: each file is named in the record.
const PARTS_MAX: usize = 1024;
const FILES_MAX: usize = 64;

/// A `multipart/form-data` body, for [`RequestBuilder::multipart`](crate::RequestBuilder::multipart).
///
/// Files are copied into the vault when the request is sent or queued; what happens to them later changes nothing.
///
/// ```
/// # async fn example(vault: &syncvault::SyncVault) -> syncvault::Result<()> {
/// use syncvault::Form;
///
/// let form = Form::new().text("job", "7").file("photo", "/tmp/photo.jpg");
/// vault.post("/photos").multipart(form).idempotency_key("job-7-photo").enqueue().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Form {
    parts: Vec<(Cow<'static, str>, FormPart)>,
}

/// One part of a [`Form`].
#[derive(Clone)]
#[must_use]
pub struct FormPart {
    value: Value,
    file_name: Option<Cow<'static, str>>,
    mime: Option<Cow<'static, str>>,
}

#[derive(Clone)]
enum Value {
    Bytes(Bytes),
    File(PathBuf),
}

impl Form {
    /// A form without parts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a text field.
    pub fn text(
        self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.part(name, FormPart::text(value))
    }

    /// Adds a file, with its own name and `application/octet-stream`. For another name or type: [`part`](Self::part).
    pub fn file(self, name: impl Into<Cow<'static, str>>, path: impl AsRef<Path>) -> Self {
        self.part(name, FormPart::file(path))
    }

    /// Adds a part.
    pub fn part(mut self, name: impl Into<Cow<'static, str>>, part: FormPart) -> Self {
        self.parts.push((name.into(), part));
        self
    }

    /// Takes snapshots of the files. Returns the body and its content type.
    pub(super) async fn keep(self, keeper: &Keeper) -> Result<(KeptBody, HeaderValue)> {
        self.check()?;
        let mut taken = Vec::with_capacity(self.parts.len());
        let mut left = keeper.file_bytes_max;
        let mut text_bytes = 0;
        for (name, part) in self.parts {
            let (head, body) = (part.head(&name)?, part.body(keeper, left).await?);
            match &body {
                Taken::Bytes(bytes) => text_bytes += bytes.len() as u64,
                Taken::File(snapshot) => left = left.saturating_sub(snapshot.body().len()),
            }
            text_bytes += head.len() as u64;
            taken.push((head, body));
        }
        check_size(
            "the form without its files",
            text_bytes,
            keeper.body_bytes_max,
        )?;
        let digest = digest_of(&taken);
        let boundary = format!("syncvault-{}", &digest.to_hex().as_str()[..32]);
        let content_type = header_value(&format!("multipart/form-data; boundary={boundary}"))?;
        let (body, snapshots) = assemble(taken, &boundary);
        let kept = KeptBody {
            id: keeper.id,
            body,
            print: Print::Digest(digest.into()),
            snapshots,
        };
        Ok((kept, content_type))
    }

    fn check(&self) -> Result<()> {
        let is_file = |(_, part): &&(_, FormPart)| matches!(part.value, Value::File(_));
        let files = self.parts.iter().filter(is_file).count();
        if self.parts.len() > PARTS_MAX || files > FILES_MAX {
            return Err(Error::invalid(format!(
                "a form has at most {PARTS_MAX} parts and {FILES_MAX} files, this one has {} and {files}",
                self.parts.len()
            )));
        }
        Ok(())
    }
}

impl FormPart {
    fn new(value: Value) -> Self {
        Self {
            value,
            file_name: None,
            mime: None,
        }
    }

    /// A text field.
    pub fn text(value: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Value::Bytes(value.into().into_owned().into()))
    }

    /// Bytes.
    pub fn bytes(value: impl Into<Bytes>) -> Self {
        Self::new(Value::Bytes(value.into()))
    }

    /// A file, with its own name and `application/octet-stream`.
    pub fn file(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let name = path.file_name().map(|name| name.to_string_lossy());
        let mut part = Self::new(Value::File(path.to_owned()));
        part.file_name = name.map(|name| Cow::Owned(name.into_owned()));
        part.mime("application/octet-stream")
    }

    /// The name of the file, for the server.
    pub fn file_name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.file_name = Some(name.into());
        self
    }

    /// Its MIME type.
    pub fn mime(mut self, mime: impl Into<Cow<'static, str>>) -> Self {
        self.mime = Some(mime.into());
        self
    }

    /// Its headers, behind the line of the boundary.
    fn head(&self, name: &str) -> Result<String> {
        let mut head = format!("Content-Disposition: form-data; name=\"{}\"", quoted(name));
        if let Some(file_name) = &self.file_name {
            head.push_str(&format!("; filename=\"{}\"", quoted(file_name)));
        }
        if let Some(mime) = &self.mime {
            header_value(mime)?;
            head.push_str(&format!("\r\nContent-Type: {mime}"));
        }
        head.push_str("\r\n\r\n");
        Ok(head)
    }

    async fn body(self, keeper: &Keeper, file_bytes_max: u64) -> Result<Taken> {
        match self.value {
            Value::Bytes(bytes) => Ok(Taken::Bytes(bytes)),
            Value::File(path) => {
                let snapshot = keeper.snapshot(&path, file_bytes_max).await?;
                Ok(Taken::File(snapshot))
            }
        }
    }
}

/// Neither content nor paths: they stay out of logs.
impl std::fmt::Debug for FormPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FormPart")
            .field("mime", &self.mime)
            .finish_non_exhaustive()
    }
}

/// As browsers write names: quotes and line ends as `%22`, `%0D` and `%0A`, all else as it is.
fn quoted(name: &str) -> String {
    name.replace('"', "%22")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

enum Taken {
    Bytes(Bytes),
    File(Snapshot),
}

fn digest_of(parts: &[(String, Taken)]) -> blake3::Hash {
    let mut hash = blake3::Hasher::new();
    for (head, body) in parts {
        let digest = match body {
            Taken::Bytes(bytes) => blake3::hash(bytes).into(),
            Taken::File(snapshot) => *snapshot.digest(),
        };
        hash.update(blake3::hash(head.as_bytes()).as_bytes());
        hash.update(&digest);
    }
    hash.finalize()
}

/// The bytes of the form, with a gap for each file.
fn assemble(parts: Vec<(String, Taken)>, boundary: &str) -> (Body, Vec<Snapshot>) {
    let (mut pieces, mut snapshots) = (Vec::new(), Vec::new());
    let mut text = BytesMut::new();
    for (head, body) in parts {
        write_text(&mut text, format_args!("--{boundary}\r\n{head}"));
        match body {
            Taken::Bytes(bytes) => text.extend_from_slice(&bytes),
            Taken::File(snapshot) => {
                match snapshot.body().clone() {
                    Body::Bytes(bytes) => text.extend_from_slice(&bytes),
                    body => {
                        pieces.push(Piece::Bytes(text.split().freeze()));
                        pieces.extend(body.into_pieces());
                    }
                }
                snapshots.push(snapshot);
            }
        }
        write_text(&mut text, format_args!("\r\n"));
    }
    write_text(&mut text, format_args!("--{boundary}--\r\n"));
    let body = match pieces.is_empty() {
        true => Body::Bytes(text.freeze()),
        false => {
            pieces.push(Piece::Bytes(text.freeze()));
            Body::Pieces(pieces)
        }
    };
    (body, snapshots)
}

fn write_text(text: &mut BytesMut, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("memory takes every text");
}
