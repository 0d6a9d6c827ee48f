//! [`RestRemote`]: the protocol of docs/sync-protocol.md, client side. Paths, conditions and answers of single changes; pages.

mod batch;
mod record;

use std::fmt;

use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::change::{Change, Operation, PushRequest, Pushed};
use super::record::RecordKey;
use super::remote::{
    PullRequest, RemoteError, RemoteErrorKind, RemoteFuture, RemotePage, RemoteRow, RemoteStore,
};
use super::version::Version;
use super::wire::{Told, ask, encoded, is_tag, lane, rejected, said};
use crate::SyncVault;
use crate::action::Answer;
use crate::error::{Error, Result};
use crate::sync::Cursor;

pub use batch::{BatchChange, BatchResult};
use record::{Answered, answered, listed, version_of_tag};

/// A server that speaks the protocol of docs/sync-protocol.md: one resource for each record, versions as entity tags, pages by a
/// cursor of the server, tombstones. `examples/sync_server.rs` is one.
///
/// ```
/// # async fn example(vault: syncvault::SyncVault) {
/// use syncvault::sync::RestRemote;
///
/// // `GET /v1/notes?limit=..`, `PUT /v1/notes/<id>`
/// let remote = RestRemote::new(vault).path("v1");
/// # }
/// ```
///
/// # What a server must not do
///
/// An answer counts only when it names the record: a 404 of a proxy, or of a server with another base path, deletes nothing here.
/// A 2xx with something else in it, an error say, is [`Rejected`](Pushed::Rejected).
pub struct RestRemote {
    vault: SyncVault,
    prefix: String,
    page_bytes_max: usize,
}

impl fmt::Debug for RestRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestRemote")
            .field("prefix", &self.prefix)
            .field("page_bytes_max", &self.page_bytes_max)
            .finish_non_exhaustive()
    }
}

impl RestRemote {
    /// How long a page may be unless told otherwise: 16 MiB.
    pub const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

    /// At the vault's base URL, with its transport and its credentials.
    #[must_use]
    pub fn new(vault: SyncVault) -> Self {
        Self {
            vault,
            prefix: String::new(),
            page_bytes_max: Self::PAGE_BYTES_MAX,
        }
    }

    /// Where the tables are, below the base URL: `v1/sync`, say. Default: at the base URL itself.
    #[must_use]
    pub fn path(mut self, path: impl AsRef<str>) -> Self {
        let path = path.as_ref().trim_matches('/');
        self.prefix = match path {
            "" => String::new(),
            path => format!("/{path}"),
        };
        self
    }

    /// How many bytes of a page are taken into memory; a longer one is an error. Default: [`PAGE_BYTES_MAX`](Self::PAGE_BYTES_MAX).
    #[must_use]
    pub fn page_bytes_max(mut self, bytes: usize) -> Self {
        self.page_bytes_max = bytes;
        self
    }

    /// The table or id that a segment of a path names, for a server; nothing when it is no text.
    ///
    /// ```
    /// use syncvault::sync::RestRemote;
    ///
    /// assert_eq!(RestRemote::name_in_path("a%2Fb").as_deref(), Some("a/b"));
    /// assert_eq!(RestRemote::name_in_path("~..").as_deref(), Some(".."));
    /// ```
    #[must_use]
    pub fn name_in_path(segment: &str) -> Option<String> {
        named(segment)
    }

    fn table(&self, table: &str) -> String {
        format!("{}/{}", self.prefix, segment(table))
    }

    fn record(&self, key: &RecordKey) -> String {
        format!("{}/{}", self.table(&key.table), segment(key.id.as_str()))
    }

    /// One request for many changes, in their order: see "Batches" in the protocol. Its answers are those of
    /// [`read_batch`](Self::read_batch).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a request that [`request`](RemoteStore::request) did not make.
    pub fn batch(&self, changes: &[BatchChange<'_>]) -> Result<PushRequest> {
        let mut request = PushRequest::new(Method::POST, format!("{}/batch", self.prefix));
        request.body = batch::fold(changes)?.into();
        request.answers = Vec::new();
        let request = request.header("content-type", "application/json")?;
        request.header("accept", "application/json")
    }

    /// What the server made of each of `count` changes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when it does not say so for each of them: then nothing is known of any, and
    /// each is to be sent alone, with its own key.
    pub fn read_batch(body: &[u8], count: usize) -> Result<Vec<BatchResult>> {
        batch::split(body, count)
    }

    async fn page(&self, request: PullRequest<'_>) -> Result<RemotePage, RemoteError> {
        let mut query = vec![("limit", request.limit.to_string())];
        if let Some(cursor) = request.cursor {
            query.push(("cursor", cursor.as_str().to_owned()));
        }
        let ask_for = self.vault.get(self.table(request.table)).query(&query);
        let ask_for = ask_for.header("accept", "application/json").expect_json();
        let told = ask(
            ask_for.lane(lane("pull", request.table)),
            self.page_bytes_max,
        )
        .await?;
        match told.status {
            200 => read_page(&told),
            410 => Err(RemoteError::new(
                RemoteErrorKind::CursorGone,
                format!("the server has forgotten the cursor ({})", told.words()),
            )),
            _ => Err(told.trouble()),
        }
    }

    async fn one(&self, key: &RecordKey) -> Result<Option<RemoteRow>, RemoteError> {
        // What stands between may hold an older answer: the newest is wanted.
        let request = self
            .vault
            .get(self.record(key))
            .header("cache-control", "no-cache");
        let request = request.header("accept", "application/json").expect_json();
        let told = ask(request.lane(lane("fetch", &key.table)), self.page_bytes_max).await?;
        if !matches!(told.status, 200 | 404 | 410) {
            return Err(told.trouble());
        }
        match answered(&told.body).filter(|record| record.row.id == key.id) {
            Some(record) if is_apt(&record, told.status) => {
                let is_unknown = record.is_deleted && record.row.version.is_none();
                Ok(Some(record.row).filter(|_| !is_unknown))
            }
            _ if told.status == 200 => Err(rejected(
                format!("a record is due, and the server said {}", told.words()),
                None,
            )),
            _ => Err(RemoteError::new(
                RemoteErrorKind::Refused,
                format!(
                    "the server answered {} and does not name the record",
                    told.words()
                ),
            )),
        }
    }
}

/// 200 has a row in it, 404 and 410 a deletion.
fn is_apt(record: &Answered, status: u16) -> bool {
    match status {
        200 => record.row.row.is_some(),
        _ => record.is_deleted,
    }
}

/// A name as one segment of a path. URLs have no segment that is empty, `.` or `..`, not even encoded: such a name gets a `~` in
/// front, and so does one that begins with it.
fn segment(name: &str) -> String {
    let mark = match name {
        "" | "." | ".." => "~",
        name if name.starts_with('~') => "~",
        _ => "",
    };
    format!("{mark}{}", encoded(name))
}

/// The name in a segment.
fn named(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        let digit = |b: u8| {
            char::from(b)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        bytes.push(match byte {
            b'%' => 16 * digit(rest.next()?)? + digit(rest.next()?)?,
            byte => byte,
        });
    }
    let name = String::from_utf8(bytes).ok()?;
    match name.strip_prefix('~') {
        Some(name) => Some(name.to_owned()),
        None => Some(name).filter(|name| !name.is_empty()),
    }
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    rows: Vec<&'a RawValue>,
    #[serde(default)]
    next: Option<String>,
    #[serde(default)]
    resume: Option<String>,
}

fn read_page(told: &Told) -> Result<RemotePage, RemoteError> {
    let page: Page<'_> = serde_json::from_slice(&told.body).map_err(|e| {
        let said = said(&told.body).map(|words| format!(": {words}"));
        let what = if told.body.is_empty() {
            "nothing"
        } else {
            "something else"
        };
        let text = format!(
            "a page is due, and the server sent {what}{}",
            said.unwrap_or_default()
        );
        rejected(text, Some(e.into()))
    })?;
    let mut read = RemotePage::default();
    for raw in page.rows {
        match listed(raw) {
            Ok(row) => read.rows.push(row),
            Err(damaged) => read.damaged.push(damaged),
        }
    }
    read.next = page.next.map(Cursor::new);
    read.resume = page.resume.map(Cursor::new);
    Ok(read)
}

impl RemoteStore for RestRemote {
    fn request(&self, change: &Change) -> Result<PushRequest> {
        let (method, has_row) = match change.operation {
            Operation::Upsert => (Method::PUT, true),
            Operation::Patch => (Method::PATCH, true),
            Operation::Delete => (Method::DELETE, false),
        };
        let mut request = PushRequest::new(method, self.record(&change.key));
        request = request.header("accept", "application/json")?;
        if change.is_new {
            request = request.header("if-none-match", "*")?;
        } else if let Some(version) = &change.base_version {
            request = request.header("if-match", &tag(version)?)?;
        }
        match has_row {
            true => request.json(&change.row),
            false => Ok(request),
        }
    }

    fn read_push(&self, change: &Change, answer: &Answer) -> Pushed {
        let named = answered(&answer.body).filter(|record| record.row.id == change.key.id);
        match answer.status {
            202 => Pushed::rejected(
                "202: the server has not done it yet, and this protocol waits for nothing",
            ),
            200..300 => taken(change, answer, named),
            _ => not_taken(change, answer, named),
        }
    }

    fn pull<'a>(&'a self, request: PullRequest<'a>) -> RemoteFuture<'a, RemotePage> {
        Box::pin(self.page(request))
    }

    fn fetch<'a>(&'a self, key: &'a RecordKey) -> RemoteFuture<'a, Option<RemoteRow>> {
        Box::pin(self.one(key))
    }
}

/// # Errors
///
/// A text that no entity tag can hold; what the server told was checked when it came.
fn tag(version: &Version) -> Result<String> {
    match version.to_string() {
        text if is_tag(&text) => Ok(format!("\"{text}\"")),
        _ => Err(Error::invalid(
            "the version of a record cannot be an entity tag",
        )),
    }
}

fn taken(change: &Change, answer: &Answer, named: Option<Answered>) -> Pushed {
    let tag = answer.header("etag").and_then(version_of_tag);
    let is_delete = change.operation == Operation::Delete;
    match named {
        Some(record) if record.is_deleted != is_delete => {
            let text = format!(
                "{}: the record in the answer is not what was asked for",
                answer.status
            );
            Pushed::rejected(text)
        }
        Some(Answered { row, .. }) => Pushed::Accepted {
            version: row.version.or(tag),
            updated_at: row.updated_at,
            row: row.row,
        },
        // A status and a tag say that it was taken; the row is too long to be kept.
        None if answer.is_truncated => Pushed::accepted(tag),
        None if answer.body.is_empty() && (answer.status == 204 || is_delete || tag.is_some()) => {
            Pushed::accepted(tag)
        }
        None => Pushed::rejected(refusal(answer, "a record is due")),
    }
}

fn not_taken(change: &Change, answer: &Answer, named: Option<Answered>) -> Pushed {
    match named {
        Some(record) if record.is_deleted && change.operation == Operation::Delete => {
            Pushed::Accepted {
                version: record.row.version,
                updated_at: record.row.updated_at,
                row: None,
            }
        }
        // Neither a row nor a deletion: it names the record, and the server is to be asked.
        Some(record) => Pushed::Conflict {
            server: Some(record.row).filter(|row| record.is_deleted || row.row.is_some()),
        },
        None if matches!(answer.status, 409 | 412) => Pushed::Conflict { server: None },
        None => Pushed::rejected(refusal(answer, "it does not name the record")),
    }
}

fn refusal(answer: &Answer, why: &str) -> String {
    let words = match said(&answer.body) {
        Some(words) => words,
        None if answer.body.is_empty() => "an empty answer".to_owned(),
        None => "something else".to_owned(),
    };
    format!("{}: {why}, and the server said: {words}", answer.status)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_id_is_one_segment_and_comes_back(id in any::<String>()) {
            let segment = segment(&id);
            let url = format!("http://h/notes/{segment}");
            let url = reqwest::Url::parse(&url).expect("a URL");
            let segments: Vec<_> = url.path_segments().expect("segments").collect();
            prop_assert_eq!(segments.len(), 2);
            let read = named(segments[1]);
            prop_assert_eq!(read.as_deref(), Some(id.as_str()));
        }
    }

    #[test]
    fn ids_that_urls_swallow_come_back_too() {
        for id in ["", ".", "..", "~", "~..", "~~", "%2e%2e", "a/b", "\0"] {
            let url =
                reqwest::Url::parse(&format!("http://h/notes/{}", segment(id))).expect("a URL");
            let last = url.path_segments().expect("segments").next_back();
            assert_eq!(last.and_then(named).as_deref(), Some(id), "{id:?}");
        }
    }
}
