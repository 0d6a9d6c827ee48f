//! The dialect of the server of tables: conditional requests by `If-Match` and `If-None-Match`, a feed with a cursor.

use http::Method;
use serde_json::{Map, Value};

use crate::action::Answer;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::sync::{
    Change, Cursor, DamagedRow, ItemId, Operation, PullRequest, PushRequest, Pushed, RecordKey,
    RemoteError, RemoteErrorKind, RemoteFuture, RemotePage, RemoteRow, RemoteStore, Version,
};
use crate::{Delivery, Outcome, SyncVault};

/// The dialect of a [`TableServer`](super::TableServer).
#[derive(Clone, Debug)]
pub struct TableRemote(SyncVault);

impl TableRemote {
    /// Asks through this vault.
    #[must_use]
    pub fn new(vault: &SyncVault) -> Self {
        Self(vault.clone())
    }

    async fn get(&self, path: String, lane: String) -> Result<(u16, Value), RemoteError> {
        let request = self
            .0
            .get(&path)
            .header("cache-control", "no-store")
            .lane(lane)
            .delivery(Delivery::Never);
        let Outcome::Sent(response) = request.send().await? else {
            return Err(RemoteError::new(
                RemoteErrorKind::Retry { after: None },
                "it was not sent",
            ));
        };
        let status = response.status().as_u16();
        let broken = |e| {
            RemoteError::new(
                RemoteErrorKind::Retry { after: None },
                "the answer broke off",
            )
            .with_source(e)
        };
        let text = response.text().await.map_err(broken)?;
        let kind = match status {
            200 | 404 => {
                let body = serde_json::from_str(&text);
                let body = body.map_err(|e| {
                    RemoteError::new(RemoteErrorKind::Rejected, "no JSON where a page is due")
                        .with_source(e)
                });
                return body.map(|body| (status, body));
            }
            401 => RemoteErrorKind::AuthRequired,
            410 => RemoteErrorKind::CursorGone,
            400..=499 => RemoteErrorKind::Refused,
            _ => RemoteErrorKind::Retry { after: None },
        };
        Err(RemoteError::new(kind, format!("the server said {status}")))
    }
}

impl RemoteStore for TableRemote {
    fn request(&self, change: &Change) -> Result<PushRequest> {
        let method = match change.operation {
            Operation::Upsert => Method::PUT,
            Operation::Patch => Method::PATCH,
            Operation::Delete => Method::DELETE,
        };
        let request = PushRequest::new(method, path(&change.key));
        let request = match (change.operation, &change.base_version, change.is_new) {
            (Operation::Upsert | Operation::Patch, _, true) => {
                request.header("if-none-match", "*")?
            }
            (_, Some(version), _) => request.header("if-match", &format!("\"{version}\""))?,
            (_, None, _) => request,
        };
        match change.operation {
            Operation::Delete => Ok(request),
            _ => request.json(&change.row),
        }
    }

    fn read_push(&self, _change: &Change, answer: &Answer) -> Pushed {
        let body: Option<Value> = answer.json().ok();
        let row = body.as_ref().and_then(remote_row);
        match (answer.status, row, body) {
            (200..=299, Some(row), _) => Pushed::Accepted {
                version: row.version,
                updated_at: row.updated_at,
                row: row.row,
            },
            (204, ..) => Pushed::accepted(None),
            (200..=299, None, Some(body)) if body.get("error").is_some() => {
                Pushed::rejected(body["error"].to_string())
            }
            (200..=299, ..) => Pushed::rejected("an answer without a row"),
            (_, server, _) => Pushed::Conflict { server },
        }
    }

    fn pull<'a>(&'a self, request: PullRequest<'a>) -> RemoteFuture<'a, RemotePage> {
        Box::pin(async move {
            let mut path = format!("/{}?limit={}", request.table, request.limit);
            if let Some(cursor) = request.cursor {
                path.push_str(&format!("&cursor={}", encoded(cursor.as_str())));
            }
            let (_, body) = self.get(path, format!("pull-{}", request.table)).await?;
            let Some(rows) = body["rows"].as_array() else {
                return Err(RemoteError::new(
                    RemoteErrorKind::Rejected,
                    "an answer without rows",
                ));
            };
            let cursor = |name: &str| body[name].as_str().map(Cursor::new);
            let mut page = RemotePage {
                next: cursor("next"),
                resume: cursor("resume"),
                ..RemotePage::default()
            };
            for row in rows {
                match remote_row(row) {
                    Some(row) => page.rows.push(row),
                    None => {
                        let id = row["id"].as_str().map(ItemId::from);
                        page.damaged
                            .push(DamagedRow::new(id, "it is no row", row.to_string()));
                    }
                }
            }
            Ok(page)
        })
    }

    fn fetch<'a>(&'a self, key: &'a RecordKey) -> RemoteFuture<'a, Option<RemoteRow>> {
        Box::pin(async move {
            let (status, body) = self.get(path(key), format!("fetch-{}", key.table)).await?;
            match (status, remote_row(&body)) {
                (404, _) => Ok(None),
                (_, Some(row)) => Ok(Some(row)),
                _ => Err(RemoteError::new(
                    RemoteErrorKind::Rejected,
                    "an answer without a row",
                )),
            }
        })
    }
}

fn remote_row(shown: &Value) -> Option<RemoteRow> {
    let row = match &shown["row"] {
        Value::Object(row) => Some(row.clone()),
        Value::Null if shown.get("row").is_some() => None,
        _ => return None,
    };
    let mut remote = RemoteRow::deleted(shown["id"].as_str()?);
    remote.row = row as Option<Map<String, Value>>;
    remote.version = serde_json::from_value(shown["version"].clone()).ok() as Option<Version>;
    remote.updated_at = shown["updated_at"].as_u64().map(Timestamp::from_millis);
    Some(remote)
}

fn path(key: &RecordKey) -> String {
    format!("/{}/{}", key.table, encoded(key.id.as_str()))
}

fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

pub(super) fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let digits = match byte {
            b'%' => rest.next().zip(rest.next()),
            _ => None,
        };
        let code = digits.and_then(|(a, b)| {
            let digits = [a, b];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()
        });
        bytes.push(code.unwrap_or(byte));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
