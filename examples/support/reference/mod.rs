//! The reference server of the sync protocol (docs/sync-protocol.md), over HTTP: axum in front, SQLite behind. The example
//! `sync_server` is this and nothing more; tests and other examples talk to it, and it misbehaves when they ask for it.

mod book;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use syncvault::sync::RestRemote;

use book::{Book, Incoming, Reply};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// The longest body of a request.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most rows of a page, and the most changes of a batch.
const ROWS_MAX: i64 = 1000;

/// What the server does with a request in place of the right thing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    /// The right thing.
    None,
    /// Nothing, and this status, with a `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// Nothing, and a 200 with an error in it.
    ErrorPayload,
    /// The right thing, and a 200 with nothing in it.
    EmptyBody,
    /// The right thing, and the connection is cut before the answer.
    DropAnswer,
}

/// The server. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Reference(Arc<Shared>);

struct Shared {
    book: Mutex<Book>,
    /// For the next requests, in order.
    faults: Mutex<VecDeque<Fault>>,
    seen: Mutex<Vec<Seen>>,
}

/// A request that came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reference {
    /// Over the database at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Self(Arc::new(Shared {
            book: Mutex::new(Book::open(path)?),
            faults: Mutex::default(),
            seen: Mutex::default(),
        })))
    }

    /// Who has this token is this owner.
    pub(crate) fn admit(&self, token: &str, owner: &str) -> Result<()> {
        Ok(lock(&self.0.book).admit(token, owner)?)
    }

    /// The token is no good any more.
    pub(crate) fn dismiss(&self, token: &str) -> Result<()> {
        Ok(lock(&self.0.book).dismiss(token)?)
    }

    /// The clock of the server stands still.
    pub(crate) fn freeze(&self, millis: i64) {
        lock(&self.0.book).frozen = Some(millis);
    }

    /// Tombstones that are so old are forgotten.
    pub(crate) fn forget_tombstones(&self, older_than: Duration) -> Result<()> {
        Ok(lock(&self.0.book).forget_tombstones(older_than)?)
    }

    /// Faults for the next requests, in order.
    pub(crate) fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.0.faults).extend(faults);
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.0.seen).clone()
    }

    /// Its routes.
    pub(crate) fn router(&self) -> Router {
        Router::new().fallback(serve).with_state(self.clone())
    }

    fn owner(&self, headers: &HeaderMap) -> Result<Option<String>> {
        let header = headers
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        match header.and_then(|text| text.strip_prefix("Bearer ")) {
            Some(token) => Ok(lock(&self.0.book).owner(token)?),
            None => Ok(None),
        }
    }

    fn reply(&self, head: &Parts, body: &[u8]) -> Result<Reply> {
        let Some(owner) = self.owner(&head.headers)? else {
            return Ok(Reply::problem(401, "log in"));
        };
        let segments: Vec<_> = head.uri.path().trim_start_matches('/').split('/').collect();
        let names: Option<Vec<_>> = segments.into_iter().map(RestRemote::name_in_path).collect();
        let mut book = lock(&self.0.book);
        match (head.method.as_str(), names.as_deref()) {
            ("POST", Some([name])) if name == "batch" => batch(&mut book, &owner, body),
            ("GET", Some([table])) => {
                let query = head.uri.query().unwrap_or_default();
                let Some((cursor, limit)) = paging(query) else {
                    return Ok(Reply::problem(400, "limit is a number"));
                };
                Ok(book.list((&owner, table), cursor.as_deref(), limit)?)
            }
            ("GET", Some([table, id])) => Ok(book.get(&owner, table, id)?),
            ("PUT" | "PATCH" | "DELETE", Some([table, id])) => {
                match change(head, (table, id), body) {
                    Some(change) => Ok(book.change(&owner, &change)?),
                    None => Ok(Reply::problem(400, "a row is a JSON object")),
                }
            }
            _ => Ok(Reply::problem(404, "there is nothing here")),
        }
    }
}

fn paging(query: &str) -> Option<(Option<String>, i64)> {
    let mut place = (None, 100);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=')? {
            ("cursor", text) => place.0 = Some(RestRemote::name_in_path(text)?),
            ("limit", text) => place.1 = text.parse::<i64>().ok()?.clamp(1, ROWS_MAX),
            _ => {}
        }
    }
    Some(place)
}

fn change(head: &Parts, (table, id): (&str, &str), body: &[u8]) -> Option<Incoming> {
    let text = |name: &str| {
        let value = head.headers.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let row: Option<Map<String, Value>> = match body {
        [] => None,
        body => Some(serde_json::from_slice(body).ok()?),
    };
    Some(Incoming {
        key: text("idempotency-key"),
        method: head.method.to_string(),
        table: table.to_owned(),
        id: id.to_owned(),
        if_match: text("if-match"),
        if_none_match: text("if-none-match").is_some(),
        row,
    })
}

#[derive(Deserialize)]
struct Batch {
    changes: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    key: String,
    method: String,
    table: String,
    id: String,
    #[serde(default)]
    if_match: Option<Value>,
    #[serde(default)]
    if_none_match: bool,
    #[serde(default)]
    row: Option<Map<String, Value>>,
}

/// One after the other, each for itself: what fails stops nothing.
fn batch(book: &mut Book, owner: &str, body: &[u8]) -> Result<Reply> {
    let Ok(batch) = serde_json::from_slice::<Batch>(body) else {
        return Ok(Reply::problem(400, "a batch is a list of changes"));
    };
    if batch.changes.len() > usize::try_from(ROWS_MAX)? {
        return Ok(Reply::problem(413, "too many changes"));
    }
    let mut results = Vec::new();
    for entry in batch.changes {
        let tag = |version: Value| {
            version
                .as_str()
                .map_or_else(|| version.to_string(), str::to_owned)
        };
        let change = Incoming {
            key: Some(entry.key),
            method: entry.method,
            table: entry.table,
            id: entry.id,
            if_match: entry
                .if_match
                .map(|version| format!("\"{}\"", tag(version))),
            if_none_match: entry.if_none_match,
            row: entry.row,
        };
        let reply = book.change(owner, &change)?;
        results.push(json!({ "status": reply.status, "body": reply.body }));
    }
    let mut reply = Reply::problem(200, "");
    reply.body = json!({ "results": results });
    Ok(reply)
}

async fn serve(
    State(server): State<Reference>,
    request: Request,
) -> Result<Response<Body>, StatusCode> {
    let (head, body) = request.into_parts();
    if head.method == Method::HEAD {
        // A vault that lost its server looks whether it is there.
        return Ok(answer(200, &[], ""));
    }
    lock(&server.0.seen).push(Seen {
        method: head.method.clone(),
        headers: head.headers.clone(),
    });
    let body = to_bytes(body, BODY_BYTES_MAX).await;
    let body = body.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
    let fault = lock(&server.0.faults).pop_front().unwrap_or(Fault::None);
    match fault {
        Fault::Status(status, after) => return Ok(answer(status, &[("retry-after", after)], "")),
        Fault::ErrorPayload => {
            let text = json!({ "error": { "message": "the database is on fire" } }).to_string();
            return Ok(answer(200, &[], &text));
        }
        _ => {}
    }
    // SQLite waits for the disk: not on a thread that serves others.
    let work = move || server.reply(&head, &body).map_err(|e| e.to_string());
    let reply = tokio::task::spawn_blocking(work).await;
    let Ok(Ok(reply)) = reply else {
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    };
    match fault {
        Fault::EmptyBody => Ok(answer(200, &[], "")),
        // The task of the connection ends, and with it the connection. Nothing is printed.
        Fault::DropAnswer => std::panic::resume_unwind(Box::new("the answer is dropped")),
        _ => Ok(answered(&reply)),
    }
}

fn answered(reply: &Reply) -> Response<Body> {
    let mut response = answer(reply.status, &[], &reply.body.to_string());
    if let Some(version) = reply.version {
        put(&mut response, "etag", &format!("\"{version}\""));
    }
    if reply.is_replayed {
        put(&mut response, "idempotency-replayed", "true");
    }
    response
}

fn answer(status: u16, numbers: &[(&'static str, Option<u64>)], body: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    put(&mut response, "content-type", "application/json");
    for (name, number) in numbers {
        if let Some(number) = number {
            put(&mut response, name, &number.to_string());
        }
    }
    response
}

fn put(response: &mut Response<Body>, name: &'static str, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}
