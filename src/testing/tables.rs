//! A server of tables in memory, the way to it, and its dialect: for tests of sync engines. It has versions, tombstones, a feed of
//! changes and conditional requests, and does to each request what a test says.

mod dialect;

pub use dialect::TableRemote;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Method;
use reqwest::{Response, ResponseBuilderExt};
use serde_json::{Map, Value, json};

use crate::clock::{Clock, Timestamp};
use crate::decide::FailureKind;
use crate::testing::server::seen;
use crate::transport::{Transport, TransportFailure, TransportFuture};

/// What happens to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// The server does it and answers.
    Answer,
    /// The server does it, and the answer is lost.
    LoseAnswer,
    /// It does not reach the server.
    Unreachable,
    /// The server answers this, and does nothing.
    Refuse(u16, String),
    /// As the inner one, with a wait before the server does it and one before the answer is here.
    Slow(Duration, Duration, Box<Fate>),
}

/// A request as the server got it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Asked {
    /// The method.
    pub method: Method,
    /// The path, decoded.
    pub path: String,
    /// The query, decoded.
    pub query: BTreeMap<String, String>,
    /// The idempotency key.
    pub key: Option<String>,
    /// `If-Match`, or `If-None-Match` in front of its value with `!`.
    pub condition: Option<String>,
    /// The body.
    pub body: Value,
}

/// Which versions the server tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Versions {
    /// Numbers that grow.
    #[default]
    Numbers,
    /// Entity tags without an order.
    Tags,
    /// None: what is pushed last wins.
    None,
}

#[derive(Clone, Debug)]
struct Stored {
    row: Option<Map<String, Value>>,
    /// Its place in the order of all changes, and its version.
    place: u64,
    at: Timestamp,
}

type Router = Box<dyn FnMut(&Asked) -> Fate + Send>;

struct Shop {
    tables: BTreeMap<String, BTreeMap<String, Stored>>,
    place: u64,
    /// Cursors before this place are forgotten.
    floor: u64,
    versions: Versions,
    honours_keys: bool,
    answers: HashMap<String, (u16, Value)>,
    router: Option<Router>,
    asked: Vec<Asked>,
    clock: Arc<dyn Clock>,
}

/// A server of tables in memory. Clones are the same server.
#[derive(Clone)]
pub struct TableServer(Arc<Mutex<Shop>>);

impl fmt::Debug for TableServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableServer").finish_non_exhaustive()
    }
}

impl TableServer {
    /// An empty server with a clock.
    #[must_use]
    pub fn new(clock: impl Clock) -> Self {
        Self(Arc::new(Mutex::new(Shop {
            tables: BTreeMap::new(),
            place: 0,
            floor: 0,
            versions: Versions::default(),
            honours_keys: true,
            answers: HashMap::new(),
            router: None,
            asked: Vec::new(),
            clock: Arc::new(clock),
        })))
    }

    fn shop(&self) -> MutexGuard<'_, Shop> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to it.
    #[must_use]
    pub fn transport(&self) -> TableTransport {
        TableTransport(self.clone())
    }

    /// Which versions it tells. Default: numbers.
    pub fn set_versions(&self, versions: Versions) {
        self.shop().versions = versions;
    }

    /// Whether it knows idempotency keys. Default: it does.
    pub fn set_honours_keys(&self, honours: bool) {
        self.shop().honours_keys = honours;
    }

    /// Says what happens to each request from now on. It must not use this server.
    pub fn route(&self, router: impl FnMut(&Asked) -> Fate + Send + 'static) {
        self.shop().router = Some(Box::new(router));
    }

    /// Everything is answered from now on.
    pub fn heal(&self) {
        self.shop().router = None;
    }

    /// Forgets every cursor that it gave, and old tombstones: what comes back with one is told 410.
    pub fn forget_cursors(&self) {
        let mut shop = self.shop();
        shop.place += 1;
        shop.floor = shop.place;
        for table in shop.tables.values_mut() {
            table.retain(|_, stored| stored.row.is_some());
        }
    }

    /// Somebody else writes a row, or deletes it.
    pub fn put(&self, table: &str, id: &str, row: Option<Map<String, Value>>) {
        let mut shop = self.shop();
        shop.store(table, id, row);
    }

    /// A row as the server has it.
    #[must_use]
    pub fn row(&self, table: &str, id: &str) -> Option<Map<String, Value>> {
        let shop = self.shop();
        shop.tables.get(table)?.get(id)?.row.clone()
    }

    /// All rows of a table.
    #[must_use]
    pub fn rows(&self, table: &str) -> BTreeMap<String, Map<String, Value>> {
        let shop = self.shop();
        let rows = shop.tables.get(table).into_iter().flatten();
        rows.filter_map(|(id, stored)| Some((id.clone(), stored.row.clone()?)))
            .collect()
    }

    /// The requests that came, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.shop().asked.clone()
    }

    /// The requests that change something, in order.
    #[must_use]
    pub fn pushes(&self) -> Vec<Asked> {
        let asked = self.asked();
        asked
            .into_iter()
            .filter(|asked| asked.method != Method::GET)
            .collect()
    }
}

impl Shop {
    fn store(&mut self, table: &str, id: &str, row: Option<Map<String, Value>>) -> u64 {
        self.place += 1;
        let stored = Stored {
            row,
            place: self.place,
            at: self.clock.now(),
        };
        let table = self.tables.entry(table.to_owned()).or_default();
        table.insert(id.to_owned(), stored);
        self.place
    }

    fn version(&self, place: u64) -> Value {
        match self.versions {
            Versions::Numbers => json!(place),
            Versions::Tags => json!(format!("tag-{}", place.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
            Versions::None => Value::Null,
        }
    }

    fn shown(&self, id: &str, stored: &Stored) -> Value {
        json!({
            "id": id,
            "version": self.version(stored.place),
            "updated_at": stored.at.as_millis(),
            "row": stored.row,
        })
    }

    fn answer(&mut self, asked: &Asked) -> (u16, Value) {
        let known = asked
            .key
            .as_ref()
            .filter(|_| self.honours_keys)
            .and_then(|key| self.answers.get(key));
        if let Some(known) = known {
            return known.clone();
        }
        let path: Vec<&str> = asked.path.trim_start_matches('/').splitn(2, '/').collect();
        let answer = match (&asked.method, &path[..]) {
            (&Method::GET, [table]) => self.list(table, &asked.query),
            (&Method::GET, [table, id]) => {
                match self.tables.get(*table).and_then(|rows| rows.get(*id)) {
                    Some(stored) => (200, self.shown(id, stored)),
                    None => (404, Value::Null),
                }
            }
            (_, [table, id]) => self.change(asked, table, id),
            _ => (404, Value::Null),
        };
        if let Some(key) = &asked.key {
            self.answers.insert(key.clone(), answer.clone());
        }
        answer
    }

    fn change(&mut self, asked: &Asked, table: &str, id: &str) -> (u16, Value) {
        let stored = self
            .tables
            .get(table)
            .and_then(|rows| rows.get(id))
            .cloned();
        let row = stored.as_ref().and_then(|stored| stored.row.clone());
        if let Some(condition) = &asked.condition {
            let is_met = match condition.as_str() {
                "!*" => row.is_none(),
                wanted => stored.as_ref().is_some_and(|s| {
                    let version = self.version(s.place);
                    version
                        .as_str()
                        .map_or_else(|| version.to_string(), str::to_owned)
                        == wanted
                }),
            };
            if !is_met {
                let server = stored.map_or(Value::Null, |stored| self.shown(id, &stored));
                return (412, server);
            }
        }
        let after = match (asked.method.as_str(), row, asked.body.as_object()) {
            ("PUT", _, Some(body)) => Some(body.clone()),
            ("PATCH", Some(mut row), Some(body)) => {
                row.extend(body.clone());
                Some(row)
            }
            ("PATCH", None, _) => return (404, Value::Null),
            ("DELETE", None, _) => return (204, Value::Null),
            ("DELETE", Some(_), _) => None,
            _ => return (400, Value::Null),
        };
        self.store(table, id, after);
        let stored = self
            .tables
            .get(table)
            .and_then(|rows| rows.get(id))
            .cloned();
        (
            200,
            stored.map_or(Value::Null, |stored| self.shown(id, &stored)),
        )
    }

    fn list(&self, table: &str, query: &BTreeMap<String, String>) -> (u16, Value) {
        let limit = query
            .get("limit")
            .and_then(|limit| limit.parse().ok())
            .unwrap_or(100);
        let cursor = query.get("cursor").map(String::as_str);
        let full = match cursor {
            None => Some((self.place, "")),
            Some(cursor) => cursor.strip_prefix("full:").and_then(|rest| {
                let (start, last) = rest.split_once(':')?;
                Some((start.parse().ok()?, last))
            }),
        };
        let rows = self.tables.get(table).into_iter().flatten();
        if let Some((start, last)) = full {
            let behind = rows.filter(|(id, stored)| {
                (last.is_empty() || id.as_str() > last) && stored.row.is_some()
            });
            let page: Vec<_> = behind.take(limit + 1).collect();
            let next = (page.len() > limit).then(|| format!("full:{start}:{}", page[limit - 1].0));
            let shown: Vec<Value> = page
                .iter()
                .take(limit)
                .map(|(id, s)| self.shown(id, s))
                .collect();
            return (
                200,
                json!({"rows": shown, "next": next, "resume": start.to_string()}),
            );
        }
        let Some(since) = cursor.and_then(|cursor| cursor.parse::<u64>().ok()) else {
            return (400, Value::Null);
        };
        if since < self.floor {
            return (410, Value::Null);
        }
        let mut changed: Vec<_> = rows.filter(|(_, stored)| stored.place > since).collect();
        changed.sort_by_key(|(_, stored)| stored.place);
        let next = (changed.len() > limit).then(|| changed[limit - 1].1.place.to_string());
        changed.truncate(limit);
        let shown: Vec<Value> = changed
            .iter()
            .map(|(id, stored)| self.shown(id, stored))
            .collect();
        (
            200,
            json!({"rows": shown, "next": next, "resume": self.place.to_string()}),
        )
    }
}

/// The way to a [`TableServer`].
#[derive(Clone, Debug)]
pub struct TableTransport(TableServer);

impl Transport for TableTransport {
    fn send(&self, request: reqwest::Request) -> TransportFuture<'_> {
        Box::pin(async move {
            let url = request.url().clone();
            let asked = asked(request).await?;
            let mut fate = {
                let mut shop = self.0.shop();
                shop.asked.push(asked.clone());
                match &mut shop.router {
                    Some(router) => router(&asked),
                    None => Fate::Answer,
                }
            };
            let mut after = Duration::ZERO;
            while let Fate::Slow(before, later, inner) = fate {
                tokio::time::sleep(before).await;
                (after, fate) = (after + later, *inner);
            }
            let answer = match fate {
                Fate::Unreachable => return Err(TransportFailure::new(FailureKind::Connect)),
                Fate::Refuse(status, body) => (status, body),
                fate => {
                    let (status, body) = self.0.shop().answer(&asked);
                    if fate == Fate::LoseAnswer {
                        return Err(TransportFailure::new(FailureKind::Interrupted));
                    }
                    (status, body.to_string())
                }
            };
            tokio::time::sleep(after).await;
            let response = http::Response::builder()
                .status(answer.0)
                .url(url)
                .header("content-type", "application/json");
            let response = response.body(answer.1).map(Response::from);
            response.map_err(|e| TransportFailure::new(FailureKind::Other).with_source(e))
        })
    }
}

async fn asked(request: reqwest::Request) -> Result<Asked, TransportFailure> {
    let seen = seen(request).await?;
    let header = |name: &str| {
        let value = seen.headers.get(name)?.to_str().ok()?;
        Some(value.trim_matches('"').to_owned())
    };
    let path = dialect::decoded(seen.url.path());
    let query = seen
        .url
        .query_pairs()
        .map(|(k, v)| (k.into_owned(), v.into_owned()))
        .collect();
    let condition =
        header("if-match").or_else(|| header("if-none-match").map(|value| format!("!{value}")));
    Ok(Asked {
        method: seen.method.clone(),
        path,
        query,
        condition,
        body: serde_json::from_slice(&seen.body).unwrap_or(Value::Null),
        key: seen.key,
    })
}
