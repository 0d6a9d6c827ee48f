//! [`PostgrestRemote`]: the dialect of PostgREST, which Supabase speaks. Written against its published behaviour.

mod cursor;
mod filter;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use http::Method;
use http::header::DATE;
use serde_json::value::RawValue;

use super::change::{Change, Operation, PushRequest, Pushed};
use super::instant::Instant;
use super::record::{RecordKey, Row};
use super::remote::{
    PullRequest, RemoteError, RemoteErrorKind, RemoteFuture, RemotePage, RemoteRow, RemoteStore,
};
use super::wire::{Told, ask, encoded, lane, rejected, said};
use crate::SyncVault;
use crate::action::Answer;
use crate::clock::Timestamp;
use crate::error::{Error, Result};

use cursor::Place;
use filter::{Query, name, quoted};
pub use table::{Deletions, PostgrestTable};

/// A server that speaks PostgREST: Supabase, or PostgREST itself.
///
/// ```
/// # async fn example() -> syncvault::Result<()> {
/// use syncvault::sync::{Deletions, PostgrestRemote, PostgrestTable};
/// use syncvault::{Credentials, SyncVault};
///
/// # async fn token() -> String { String::new() }
/// // Both headers are put on each attempt and never stored.
/// let vault = SyncVault::builder("https://project.supabase.co/rest/v1")
///     .storage_path("vault")
///     .credentials(|_| async { Credentials::bearer(token().await).and("apikey", "the project's publishable key") })
///     .build()
///     .await?;
/// let remote = PostgrestRemote::new(vault)
///     .table("todos", PostgrestTable::default().deletions(Deletions::Time("deleted_at".to_owned())));
/// # Ok(()) }
/// ```
///
/// # What the database must have
///
/// A primary key of one column, and an `updated_at timestamptz not null` that a trigger sets at every insert and update, best to
/// `clock_timestamp()`. An index on `(updated_at, id)`. For deletions that a pull sees without listing everything, a column that
/// tells them ([`Deletions`]). Row level security decides who sees and writes what; a row that is hidden counts as deleted.
///
/// # What it does
///
/// | change | request |
/// | --- | --- |
/// | new | `POST`, `resolution=ignore-duplicates`: nothing back = there is such a row, a conflict |
/// | whole row or fields, on a version | `PATCH ?id=eq.&updated_at=eq.`: nothing back = a conflict |
/// | whole row, no version known | `POST`, `resolution=merge-duplicates` |
/// | deletion | `PATCH` of the column that tells it, or `DELETE`, on the version |
///
/// PostgREST knows no idempotency keys. It needs none here: a change that comes twice finds its version gone, and the engine sees that
/// the server's row is the one it sent. A change without a known version is written again as it is.
///
/// A whole row in place of another one changes the columns that it names: write `null` to empty one.
///
/// # How a pull misses nothing
///
/// Rows come in the order `(updated_at, id)`, behind the last one seen; the end is a page without rows, because a server may give
/// fewer than it was asked for (`max-rows`). A row is stamped when its transaction begins, and seen when it is committed: so what is
/// younger than [`overlap`](Self::overlap), by the server's `Date`, is listed again by the next pull. The clock of the device is not
/// asked.
///
/// A 409 (another unique constraint, a foreign key) is [`Rejected`](Pushed::Rejected). A 403 (row level security, `42501`) is that
/// record's dead letter. 401 means log in: PostgREST says it for a token that is not good (`PGRST301`, `PGRST303`), for none
/// (`PGRST302`), and for what nobody may do who is not logged in (`42501`). The status decides, never the text.
pub struct PostgrestRemote {
    vault: SyncVault,
    prefix: String,
    usual: PostgrestTable,
    tables: BTreeMap<String, PostgrestTable>,
    overlap: Duration,
    page_bytes_max: usize,
}

impl fmt::Debug for PostgrestRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgrestRemote")
            .field("prefix", &self.prefix)
            .field("usual", &self.usual)
            .field("tables", &self.tables)
            .field("overlap", &self.overlap)
            .finish_non_exhaustive()
    }
}

impl PostgrestRemote {
    /// The overlap unless told otherwise: one minute.
    pub const OVERLAP: Duration = Duration::from_secs(60);

    /// How long a page may be unless told otherwise: 16 MiB.
    pub const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

    /// At the vault's base URL, with its transport and its credentials.
    #[must_use]
    pub fn new(vault: SyncVault) -> Self {
        Self {
            vault,
            prefix: String::new(),
            usual: PostgrestTable::default(),
            tables: BTreeMap::new(),
            overlap: Self::OVERLAP,
            page_bytes_max: Self::PAGE_BYTES_MAX,
        }
    }

    /// Where the tables are, below the base URL: `rest/v1`, say. Default: at the base URL itself.
    #[must_use]
    pub fn path(mut self, path: impl AsRef<str>) -> Self {
        let path = path.as_ref().trim_matches('/');
        self.prefix = match path {
            "" => String::new(),
            path => format!("/{path}"),
        };
        self
    }

    /// The columns of a table. Default: those of [`usual`](Self::usual).
    #[must_use]
    pub fn table(mut self, name: impl Into<String>, table: PostgrestTable) -> Self {
        self.tables.insert(name.into(), table);
        self
    }

    /// The columns of tables that are not named. Default: [`PostgrestTable::default`].
    #[must_use]
    pub fn usual(mut self, table: PostgrestTable) -> Self {
        self.usual = table;
        self
    }

    /// How long a transaction that writes may take, and how far the clocks of the gateway and the database may be apart, together.
    /// Default: [`OVERLAP`](Self::OVERLAP).
    #[must_use]
    pub fn overlap(mut self, overlap: Duration) -> Self {
        self.overlap = overlap;
        self
    }

    /// How many bytes of a page are taken into memory; a longer one is an error. Default: [`PAGE_BYTES_MAX`](Self::PAGE_BYTES_MAX).
    #[must_use]
    pub fn page_bytes_max(mut self, bytes: usize) -> Self {
        self.page_bytes_max = bytes;
        self
    }

    fn columns(&self, table: &str) -> &PostgrestTable {
        self.tables.get(table).unwrap_or(&self.usual)
    }

    fn at(&self, table: &str, query: &Query) -> String {
        format!("{}/{}{}", self.prefix, encoded(table), query.text())
    }

    async fn rows(&self, what: &str, table: &str, query: &Query) -> Result<Told, RemoteError> {
        let request = self.vault.get(self.at(table, query));
        let request = request.header("accept", "application/json").expect_json();
        let told = ask(request.lane(lane(what, table)), self.page_bytes_max).await?;
        match told.status {
            200 | 206 => Ok(told),
            _ => Err(told.trouble()),
        }
    }

    async fn page(&self, request: PullRequest<'_>) -> Result<RemotePage, RemoteError> {
        let table = self.columns(request.table);
        let Some(place) = Place::of(request.cursor) else {
            let text = "the cursor is not one of this dialect";
            return Err(RemoteError::new(RemoteErrorKind::CursorGone, text));
        };
        let told = self
            .rows(
                "pull",
                request.table,
                &listing(table, &place, request.limit),
            )
            .await?;
        let settled = settled(&told, self.overlap);
        let raw = items(&told)?;
        let mut page = RemotePage::default();
        let mut last = None;
        for raw in &raw {
            let row: Option<Row> = serde_json::from_str(raw.get()).ok();
            let read = match &row {
                Some(row) => table.read(row),
                None => Err("it is no row".to_owned()),
            };
            last = row.as_ref().and_then(|row| table.place(row)).or(last);
            match read {
                Ok(row) => page.rows.push(row),
                Err(reason) => page.damaged.push(table.damaged(row.as_ref(), raw, reason)),
            }
        }
        match last {
            Some(last) => page.next = Some(place.behind(last, settled).cursor()),
            // Only rows without a time, which come last of all.
            None if table.deletions == Deletions::Listed => {}
            None => {
                page.resume = place
                    .resume(settled, self.overlap)
                    .map(|place| place.cursor())
            }
        }
        Ok(page)
    }

    async fn one(&self, key: &RecordKey) -> Result<Option<RemoteRow>, RemoteError> {
        let table = self.columns(&key.table);
        let query = Query::default()
            .filter(&table.id, "eq", key.id.as_str())
            .with("limit", "2");
        let told = self.rows("fetch", &key.table, &query).await?;
        let raw = items(&told)?;
        let [raw] = raw[..] else {
            return match raw.is_empty() {
                true => Ok(None),
                false => Err(rejected(
                    "the id names more than one row: is it the primary key?",
                    None,
                )),
            };
        };
        let row: Row = serde_json::from_str(raw.get()).map_err(|e| {
            rejected(
                "a row is due, and the server sent something else",
                Some(e.into()),
            )
        })?;
        let read = table.read(&row).map_err(|reason| rejected(reason, None))?;
        Ok(Some(read))
    }

    fn push(&self, change: &Change) -> Result<PushRequest> {
        let table = self.columns(&change.key.table);
        let id = change.key.id.as_str();
        if id.contains('\0') {
            return Err(Error::invalid(
                "Postgres has no text with a NUL in it: not as an id either",
            ));
        }
        let one = Query::default().filter(&table.id, "eq", id);
        let on = match &change.base_version {
            Some(version) => one.filter(table.version_column(), "eq", &version.to_string()),
            None => one,
        };
        let row = table.sent(&change.row);
        let (method, query, body, prefer) = match (change.operation, How::of(change, table)) {
            (Operation::Upsert, How::Insert) => (
                Method::POST,
                conflicts(table),
                Some(keyed(row, table, id)),
                "resolution=ignore-duplicates,",
            ),
            (Operation::Upsert, How::Update) => {
                (Method::PATCH, on, Some(joined(row, table.revival())), "")
            }
            (Operation::Upsert, How::Either) => {
                let row = joined(keyed(row, table, id), table.revival());
                (
                    Method::POST,
                    conflicts(table),
                    Some(row),
                    "resolution=merge-duplicates,",
                )
            }
            (Operation::Patch, _) => (Method::PATCH, alive(on, table), Some(row), ""),
            (Operation::Delete, _) => match table.deletion() {
                Some(deletion) => (Method::PATCH, alive(on, table), Some(deletion), ""),
                None => (Method::DELETE, on, None, ""),
            },
        };
        let mut request = PushRequest::new(method, self.at(&change.key.table, &query));
        request.answers = vec![409];
        let request = request.header("accept", "application/json")?;
        let request = request.header("prefer", &format!("{prefer}return=representation"))?;
        match body {
            Some(body) => request.json(&body),
            None => Ok(request),
        }
    }
}

/// How a whole row is written.
enum How {
    /// There is none.
    Insert,
    /// On a version.
    Update,
    /// Whatever is there.
    Either,
}

impl How {
    fn of(change: &Change, table: &PostgrestTable) -> Self {
        let keeps_tombstones = table.alive().is_some();
        match (&change.base_version, change.is_new) {
            (Some(_), false) => Self::Update,
            // The version is that of a tombstone, and the row is still there.
            (Some(_), true) if keeps_tombstones => Self::Update,
            (_, true) => Self::Insert,
            (None, false) => Self::Either,
        }
    }
}

fn conflicts(table: &PostgrestTable) -> Query {
    Query::default().with("on_conflict", &name(&table.id))
}

/// Only a row that is there.
fn alive(query: Query, table: &PostgrestTable) -> Query {
    match table.alive() {
        Some((column, filter)) => query.with(&name(column), filter),
        None => query,
    }
}

/// With its id, in the form in which the app has it.
fn keyed(mut row: Row, table: &PostgrestTable, id: &str) -> Row {
    let own = row.get(&table.id).and_then(table::id_of);
    if own.is_none_or(|own| own.as_str() != id) {
        row.insert(table.id.clone(), id.into());
    }
    row
}

fn joined(mut row: Row, more: Option<Row>) -> Row {
    row.extend(more.unwrap_or_default());
    row
}

/// The rows behind a place, in the order of changes.
fn listing(table: &PostgrestTable, place: &Place, limit: usize) -> Query {
    let (at, id) = (name(&table.updated_at), name(&table.id));
    let query = Query::default()
        .with("order", &format!("{at}.asc,{id}.asc"))
        .with("limit", &limit.to_string());
    match (&place.at, &place.id) {
        (None, _) => query,
        (Some(time), None) => query.filter(&table.updated_at, "gte", time),
        (Some(time), Some(last)) => {
            let (time, last) = (quoted(time), quoted(last));
            query.with(
                "or",
                &format!("({at}.gt.{time},and({at}.eq.{time},{id}.gt.{last}))"),
            )
        }
    }
}

/// Up to when all rows can be seen, by the server's clock.
fn settled(told: &Told, overlap: Duration) -> Option<Instant> {
    let date = httpdate::parse_http_date(told.headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(Instant::from(Timestamp::from(date)).before(overlap))
}

fn items(told: &Told) -> Result<Vec<&RawValue>, RemoteError> {
    serde_json::from_slice(&told.body).map_err(|e| {
        let said = said(&told.body).map(|words| format!(": {words}"));
        let what = if told.body.is_empty() {
            "nothing"
        } else {
            "something else"
        };
        let text = format!(
            "rows are due, and the server sent {what}{}",
            said.unwrap_or_default()
        );
        rejected(text, Some(e.into()))
    })
}

impl RemoteStore for PostgrestRemote {
    fn request(&self, change: &Change) -> Result<PushRequest> {
        self.push(change)
    }

    fn read_push(&self, change: &Change, answer: &Answer) -> Pushed {
        let table = self.columns(&change.key.table);
        if !(200..300).contains(&answer.status) {
            let words = said(&answer.body).unwrap_or_default();
            return Pushed::rejected(format!("{}: {words}", answer.status));
        }
        // A list that is cut off is not an empty one.
        if answer.is_truncated && answer.body.starts_with(b"[") {
            return Pushed::accepted(None);
        }
        let Ok(rows) = serde_json::from_slice::<Vec<Row>>(&answer.body) else {
            let words = said(&answer.body).unwrap_or_else(|| "no rows".to_owned());
            return Pushed::rejected(format!(
                "{}: rows are due, and the server said: {words}",
                answer.status
            ));
        };
        match &rows[..] {
            [] => nothing_back(change, table),
            [row] => match table.read(row) {
                Ok(row) if row.id != change.key.id => {
                    Pushed::rejected("the server answered with another row")
                }
                Ok(row) => Pushed::Accepted {
                    version: row.version,
                    updated_at: row.updated_at,
                    row: row.row.filter(|_| change.operation != Operation::Delete),
                },
                // It was taken; what it is now, a pull will tell.
                Err(reason) => {
                    tracing::warn!(table = %change.key.table, reason, "a pushed row came back in a form that cannot be read");
                    Pushed::accepted(None)
                }
            },
            _ => {
                Pushed::rejected("the server changed more than one row: is the id the primary key?")
            }
        }
    }

    fn pull<'a>(&'a self, request: PullRequest<'a>) -> RemoteFuture<'a, RemotePage> {
        Box::pin(self.page(request))
    }

    fn fetch<'a>(&'a self, key: &'a RecordKey) -> RemoteFuture<'a, Option<RemoteRow>> {
        Box::pin(self.one(key))
    }
}

/// The filter met no row, or the key was taken.
fn nothing_back(change: &Change, table: &PostgrestTable) -> Pushed {
    match (change.operation, How::of(change, table)) {
        (Operation::Delete, _) if change.base_version.is_none() => Pushed::accepted(None),
        (Operation::Upsert, How::Either) => Pushed::rejected(
            "the server shows nothing of what it wrote: may this user read the row?",
        ),
        _ => Pushed::Conflict { server: None },
    }
}
