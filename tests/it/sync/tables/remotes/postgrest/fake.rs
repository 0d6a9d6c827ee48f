//! A server that behaves as PostgREST says it does, with one table in memory: filters, `or` trees, order and limit, upserts by
//! `Prefer`, a trigger that stamps rows, row level security, and errors by code. It has what the dialect uses, and refuses the rest.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Map, Value, json};

pub(super) type Row = Map<String, Value>;

/// The server. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    rows: BTreeMap<String, Row>,
    /// Microseconds since 1970.
    now: i64,
    version: u64,
    rows_max: Option<usize>,
    seen: Vec<Seen>,
    /// Bodies for the next requests, in place of the right thing.
    next: Vec<(u16, String)>,
    has_clock: bool,
}

/// A request that came in.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: Method,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

/// Status, code, words.
type Problem = (u16, &'static str, &'static str);

/// 2026-01-01.
const START: i64 = 1_767_225_600_000_000;

impl Fake {
    pub(super) fn new() -> Self {
        let fake = Self::default();
        // Not its first day: a cursor may begin a minute earlier.
        fake.table().now = START + 86_400_000_000;
        fake.table().has_clock = true;
        fake
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn router(&self) -> Router {
        Router::new().fallback(serve).with_state(self.clone())
    }

    /// Time goes by.
    pub(super) fn pass(&self, time: Duration) {
        self.table().now += i64::try_from(time.as_micros()).expect("a short time");
    }

    /// At most so many rows in an answer, whatever the limit says.
    pub(super) fn rows_max(&self, rows: usize) {
        self.table().rows_max = Some(rows);
    }

    /// No `Date` in answers.
    pub(super) fn without_clock(&self) {
        self.table().has_clock = false;
    }

    /// The next answer.
    pub(super) fn answer(&self, status: u16, body: &str) {
        self.table().next.push((status, body.to_owned()));
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.table().seen.clone()
    }

    pub(super) fn row(&self, id: &str) -> Option<Row> {
        self.table().rows.get(id).cloned()
    }

    /// A row is committed now by a transaction that began so long ago.
    pub(super) fn commit(&self, id: &str, row: Value, began: Duration) {
        let mut table = self.table();
        let before = i64::try_from(began.as_micros()).expect("a short time");
        let stamped = table.stamped(row.as_object().cloned().expect("a row"), before);
        table.rows.insert(id.to_owned(), stamped);
    }

    /// A row as it is, without the trigger.
    pub(super) fn put(&self, id: &str, row: Value) {
        let row = row.as_object().cloned().expect("a row");
        self.table().rows.insert(id.to_owned(), row);
    }
}

/// As Postgres writes a time into JSON.
fn time(micros: i64) -> String {
    let (seconds, micros) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let days = seconds.div_euclid(86_400) - START / 1_000_000 / 86_400;
    let second = seconds.rem_euclid(86_400);
    // Within January 2026.
    let mut text = format!(
        "2026-01-{:02}T{:02}:{:02}:{:02}",
        days + 1,
        second / 3600,
        second / 60 % 60,
        second % 60
    );
    if micros != 0 {
        // Without the zeros at its end.
        write!(text, ".{micros:06}").expect("a String");
        text.truncate(text.trim_end_matches('0').len());
    }
    text + "+00:00"
}

impl Table {
    fn stamped(&mut self, mut row: Row, before: i64) -> Row {
        self.version += 1;
        self.now += 1;
        row.insert("updated_at".to_owned(), time(self.now - before).into());
        row.insert("rev".to_owned(), self.version.into());
        if row.get("deleted_at") == Some(&json!("now")) {
            row.insert("deleted_at".to_owned(), time(self.now).into());
        }
        for column in ["deleted_at", "owner", "slug"] {
            row.entry(column).or_insert(Value::Null);
        }
        row
    }

    fn write(&mut self, id: String, row: Row, user: &str) -> Result<Value, Problem> {
        let owner = row.get("owner").and_then(Value::as_str);
        if owner.is_some_and(|owner| owner != user) {
            return Err((
                403,
                "42501",
                "new row violates row-level security policy for table \"notes\"",
            ));
        }
        let slug = row.get("slug").filter(|slug| !slug.is_null());
        let is_taken = |(other, row): (&String, &Row)| *other != id && row.get("slug") == slug;
        if slug.is_some() && self.rows.iter().any(is_taken) {
            return Err((
                409,
                "23505",
                "duplicate key value violates unique constraint \"notes_slug_key\"",
            ));
        }
        if row.get("parent") == Some(&json!("nobody")) {
            return Err((
                409,
                "23503",
                "insert violates foreign key constraint \"notes_parent_fkey\"",
            ));
        }
        if row
            .values()
            .any(|value| value.as_str().is_some_and(|text| text.contains('\0')))
        {
            return Err((400, "22P05", "unsupported Unicode escape sequence"));
        }
        let row = self.stamped(row, 0);
        self.rows.insert(id, row.clone());
        Ok(Value::Object(row))
    }

    fn insert(&mut self, seen: &Seen, user: &str) -> Result<(u16, Vec<Value>), Problem> {
        let row = seen
            .body
            .as_object()
            .cloned()
            .ok_or((400, "PGRST102", "a body is due"))?;
        let id = row
            .get("id")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let prefer = seen
            .headers
            .get("prefer")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let is_target = seen
            .query
            .iter()
            .any(|(name, value)| name == "on_conflict" && value == "id");
        let before = self.rows.get(&id).cloned();
        match before {
            None => Ok((201, vec![self.write(id, row, user)?])),
            Some(_) if is_target && prefer.contains("resolution=ignore-duplicates") => {
                Ok((201, Vec::new()))
            }
            Some(mut before) if is_target && prefer.contains("resolution=merge-duplicates") => {
                if !is_visible(&before, user) {
                    return Err((
                        403,
                        "42501",
                        "new row violates row-level security policy (USING expression)",
                    ));
                }
                before.extend(row);
                Ok((200, vec![self.write(id, before, user)?]))
            }
            Some(_) => Err((
                409,
                "23505",
                "duplicate key value violates unique constraint \"notes_pkey\"",
            )),
        }
    }

    fn chosen(&self, seen: &Seen, user: &str) -> Result<Vec<Row>, Problem> {
        let mut rows = Vec::new();
        'rows: for row in self.rows.values().filter(|row| is_visible(row, user)) {
            for (name, value) in &seen.query {
                let is_chosen = match name.as_str() {
                    "order" | "limit" => true,
                    "or" => holds_one(value, row)?,
                    column => {
                        let (operator, value) = split_operator(value)?;
                        holds(row, column, operator, value)?
                    }
                };
                if !is_chosen {
                    continue 'rows;
                }
            }
            rows.push(row.clone());
        }
        Ok(rows)
    }

    fn select(&self, seen: &Seen, user: &str) -> Result<Vec<Value>, Problem> {
        let value = |name: &str| {
            seen.query
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, value)| value.as_str())
        };
        let mut rows = self.chosen(seen, user)?;
        let key =
            |row: &Row, column: &str| row.get(column).and_then(Value::as_str).map(str::to_owned);
        if let Some(order) = value("order") {
            if order != "updated_at.asc,id.asc" {
                return Err((400, "PGRST100", "this fake knows one order"));
            }
            // Nulls last, as in Postgres.
            rows.sort_by_key(|row| {
                let at = key(row, "updated_at");
                (at.is_none(), at.as_deref().map(micros), key(row, "id"))
            });
        }
        let limit = value("limit")
            .and_then(|limit| limit.parse().ok())
            .unwrap_or(usize::MAX);
        let limit = limit.min(self.rows_max.unwrap_or(usize::MAX));
        Ok(rows.into_iter().take(limit).map(Value::Object).collect())
    }

    fn change(&mut self, seen: &Seen, user: &str) -> Result<(u16, Vec<Value>), Problem> {
        let mut back = Vec::new();
        for mut row in self.chosen(seen, user)? {
            let id = row
                .get("id")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            if seen.method == Method::DELETE {
                back.extend(self.rows.remove(&id).map(Value::Object));
            } else {
                row.extend(seen.body.as_object().cloned().ok_or((
                    400,
                    "PGRST102",
                    "a body is due",
                ))?);
                back.push(self.write(id, row, user)?);
            }
        }
        Ok((200, back))
    }
}

/// The microseconds of a time in January 2026, of any length.
fn micros(text: &str) -> i64 {
    let number = |range: std::ops::Range<usize>| {
        text.get(range)
            .and_then(|t| t.parse::<i64>().ok())
            .unwrap_or_default()
    };
    let seconds =
        number(8..10) * 86_400 + number(11..13) * 3600 + number(14..16) * 60 + number(17..19);
    let fraction: String = text
        .get(20..)
        .unwrap_or_default()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    let fraction = if text.get(19..20) == Some(".") {
        format!("{fraction:0<6}")
    } else {
        String::new()
    };
    seconds * 1_000_000
        + fraction
            .get(..6)
            .and_then(|t| t.parse::<i64>().ok())
            .unwrap_or_default()
}

fn is_visible(row: &Row, user: &str) -> bool {
    row.get("owner")
        .and_then(Value::as_str)
        .is_none_or(|owner| owner == user)
}

fn split_operator(text: &str) -> Result<(&str, &str), Problem> {
    if let Some(value) = text.strip_prefix("not.is.") {
        return Ok(("not.is", value));
    }
    text.split_once('.')
        .ok_or((400, "PGRST100", "failed to parse filter"))
}

fn holds(row: &Row, column: &str, operator: &str, value: &str) -> Result<bool, Problem> {
    let unknown = (400, "42703", "column does not exist");
    let ours = row.get(column).ok_or(unknown)?;
    let text = ours
        .as_str()
        .map_or_else(|| ours.to_string(), str::to_owned);
    let order = match column {
        "updated_at" => micros(&text).cmp(&micros(value)),
        _ => text.as_str().cmp(value),
    };
    Ok(match (operator, value) {
        ("is", "null") => ours.is_null(),
        ("not.is", "true") => *ours != Value::Bool(true),
        ("eq", _) => !ours.is_null() && order.is_eq(),
        ("gt", _) => !ours.is_null() && order.is_gt(),
        ("gte", _) => !ours.is_null() && order.is_ge(),
        _ => return Err((400, "PGRST100", "this fake does not know the operator")),
    })
}

/// `(a.gt."x",and(a.eq."x",b.gt."y"))`
fn holds_one(text: &str, row: &Row) -> Result<bool, Problem> {
    let bad = (400, "PGRST100", "failed to parse logic tree");
    let inner = text
        .strip_prefix('(')
        .and_then(|text| text.strip_suffix(')'))
        .ok_or(bad)?;
    for part in parts(inner) {
        let is_held = match part
            .strip_prefix("and(")
            .and_then(|text| text.strip_suffix(')'))
        {
            Some(all) => {
                let mut is_held = true;
                for part in parts(all) {
                    is_held &= holds_part(part, row)?;
                }
                is_held
            }
            None => holds_part(part, row)?,
        };
        if is_held {
            return Ok(true);
        }
    }
    Ok(false)
}

fn holds_part(part: &str, row: &Row) -> Result<bool, Problem> {
    let bad = (400, "PGRST100", "failed to parse logic tree");
    let (column, rest) = part.split_once('.').ok_or(bad)?;
    let (operator, value) = rest.split_once('.').ok_or(bad)?;
    let value = match value.strip_prefix('"') {
        None => value.to_owned(),
        Some(quoted) => {
            let (mut out, mut chars) =
                (String::new(), quoted.strip_suffix('"').ok_or(bad)?.chars());
            while let Some(c) = chars.next() {
                out.push(if c == '\\' {
                    chars.next().ok_or(bad)?
                } else {
                    c
                });
            }
            out
        }
    };
    holds(row, column, operator, &value)
}

/// Parts between commas that are in no quotes and no brackets.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut is_quoted, mut is_escaped) =
        (Vec::new(), 0, 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            '(' if !is_quoted => depth += 1,
            ')' if !is_quoted => depth -= 1,
            ',' if !is_quoted && depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Who asks. Supabase's gateway wants a key; PostgREST looks at the token.
fn user(headers: &HeaderMap) -> Result<String, Problem> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if header("apikey") != Some("publishable") {
        return Err((401, "", "No API key found in request"));
    }
    match header("authorization").and_then(|text| text.strip_prefix("Bearer ")) {
        Some("garbage") => Err((401, "PGRST301", "JWT cryptographic operation failed")),
        Some("expired") => Err((401, "PGRST303", "JWT expired")),
        Some("anonymous") => Err((401, "42501", "permission denied for table notes")),
        Some("without-grant") => Err((403, "42501", "permission denied for table notes")),
        Some(user) => Ok(user.to_owned()),
        None => Err((401, "PGRST302", "Anonymous access is disabled")),
    }
}

fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || {
            rest.next()
                .and_then(|b| char::from(b).to_digit(16))
                .and_then(|d| u8::try_from(d).ok())
        };
        bytes.push(match byte {
            b'%' => 16 * digit().expect("a digit") + digit().expect("a digit"),
            byte => byte,
        });
    }
    String::from_utf8(bytes).expect("text")
}

async fn serve(State(fake): State<Fake>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 16 * 1024 * 1024).await.expect("a body");
    let pairs = head
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    let seen = Seen {
        method: head.method.clone(),
        query: pairs
            .map(|(name, value)| (decoded(name).replace('"', ""), decoded(value)))
            .collect(),
        headers: head.headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let mut table = fake.table();
    let mut response = if seen.method == Method::HEAD {
        Response::new(Body::empty())
    } else {
        table.seen.push(seen.clone());
        let told = match (table.next.pop(), head.uri.path()) {
            (Some(told), _) => told,
            (None, "/rest/v1/notes") => told(answered(&mut table, &seen)),
            (None, _) => told(Err((
                404,
                "PGRST205",
                "Could not find the table in the schema cache",
            ))),
        };
        let mut response = Response::new(Body::from(told.1));
        *response.status_mut() = StatusCode::from_u16(told.0).expect("a status");
        response
    };
    let now = UNIX_EPOCH + Duration::from_micros(u64::try_from(table.now).expect("after 1970"));
    let date = if table.has_clock {
        httpdate::fmt_http_date(now)
    } else {
        "never".to_owned()
    };
    response
        .headers_mut()
        .insert("date", date.parse().expect("a date"));
    let json = "application/json; charset=utf-8".parse().expect("a type");
    response.headers_mut().insert("content-type", json);
    response
}

fn answered(table: &mut Table, seen: &Seen) -> Result<(u16, Vec<Value>), Problem> {
    let user = user(&seen.headers)?;
    match seen.method.as_str() {
        "GET" => Ok((200, table.select(seen, &user)?)),
        "POST" => table.insert(seen, &user),
        "PATCH" | "DELETE" => table.change(seen, &user),
        _ => Err((405, "PGRST117", "Unsupported HTTP method")),
    }
}

fn told(answer: Result<(u16, Vec<Value>), Problem>) -> (u16, String) {
    match answer {
        Ok((status, rows)) => (status, Value::from(rows).to_string()),
        Err((status, code, message)) => {
            let problem =
                json!({ "code": code, "message": message, "details": null, "hint": null });
            (status, problem.to_string())
        }
    }
}
