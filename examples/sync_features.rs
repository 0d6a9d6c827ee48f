//! Two features kept in step with a server: contacts, and messages that need them. The app's rows and its checkpoints are in
//! one SQLite file; a page and the checkpoint behind it are one transaction.
//!
//! ```text
//! cargo run --example sync_features --features sync,sqlite
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use syncvault::clock::Timestamp;
use syncvault::rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use syncvault::sync::{
    Applied, BackgroundSync, Checkpoint, Cursor, Feature, InitialSync, ItemId, LocalItem, Page,
    PushResult, Resolution, ServerItem, SqliteCheckpoints, StepError, SyncEventKind,
    SyncOrchestrator, highest_version,
};
use syncvault::{Delivery, Error, ErrorKind, Outcome, SyncVault};

use support::{Result, Server, impatient};

// ------------------------------------------------------------------------------------------------ the app

type Database = Arc<Mutex<Connection>>;

/// The handler of a feature: its rows here, its resource at the server.
struct Rows {
    feature: &'static str,
    vault: SyncVault,
    database: Database,
}

/// What the server answers to `GET /<feature>`.
#[derive(Serialize, Deserialize)]
struct Answer {
    rows: Vec<Entry>,
    /// Behind the last row of this page.
    cursor: String,
    has_more: bool,
}

/// A row as it travels. No text = deleted.
#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    id: String,
    version: u64,
    text: Option<String>,
}

impl Rows {
    /// A read that is not worth a place in the queue: it fails when the server is away, and is tried again.
    async fn fetch(
        &self,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<String>, StepError> {
        let after = cursor.map_or("0", Cursor::as_str);
        let path = format!("/{}?after={after}&limit={limit}", self.feature);
        let request = self.vault.get(path).delivery(Delivery::Never);
        let response = sent(request.send().await?)?.error_for_status()?;
        let answer: Answer = serde_json::from_slice(&response.bytes().await?)?;
        let items = answer.rows.into_iter().map(server_item).collect();
        Ok(match answer.has_more {
            true => Page::more(items, answer.cursor),
            false => Page::last(items).resume_at(answer.cursor),
        })
    }

    /// The rows and the checkpoint are there together, or not at all.
    fn save_page(
        &self,
        page: &Page<String>,
        checkpoint: &Checkpoint,
    ) -> Result<Applied, StepError> {
        let mut database = lock(&self.database);
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut applied = Applied::cleanly();
        for item in &page.items {
            let ours = transaction
                .query_row(
                    "SELECT id, version, modified, text FROM rows WHERE feature = ?1 AND id = ?2",
                    params![self.feature, item.id.as_str()],
                    local_item,
                )
                .optional()?;
            match ours.map(|ours| highest_version(&ours, item)) {
                Some(Resolution::KeepLocal) => continue,
                Some(Resolution::Conflict(conflict)) => applied = applied.conflict(conflict),
                _ => {}
            }
            transaction.execute(
                "INSERT OR REPLACE INTO rows (feature, id, version, modified, text) VALUES (?1, ?2, ?3, NULL, ?4)",
                params![self.feature, item.id.as_str(), item.version, item.content],
            )?;
        }
        SqliteCheckpoints::save_in(&transaction, checkpoint)?;
        transaction.commit()?;
        Ok(applied)
    }

    async fn push_one(&self, item: &LocalItem<String>) -> Result<PushResult, StepError> {
        let entry = Entry {
            id: item.id.to_string(),
            version: item.version,
            text: item.content.clone(),
        };
        let request = self.vault.put(format!("/{}/{}", self.feature, item.id));
        let request = request.json(&entry).delivery(Delivery::Never);
        let response = sent(request.send().await?)?;
        if response.status() == StatusCode::CONFLICT {
            return Ok(PushResult::conflict(&item.id, response.text().await?));
        }
        let version: u64 = serde_json::from_slice(&response.error_for_status()?.bytes().await?)?;
        // Only if the app did not change it again meanwhile.
        lock(&self.database).execute(
            "UPDATE rows SET version = ?3, modified = CASE WHEN text IS ?4 THEN NULL ELSE modified END \
             WHERE feature = ?1 AND id = ?2",
            params![self.feature, item.id.as_str(), version, item.content],
        )?;
        Ok(PushResult::success(&item.id))
    }
}

impl InitialSync for Rows {
    type Item = String;

    async fn fetch_page(
        &self,
        cursor: Option<&Cursor>,
        batch_size: usize,
    ) -> Result<Page<String>, StepError> {
        self.fetch(cursor, batch_size).await
    }

    async fn save(
        &self,
        page: &Page<String>,
        checkpoint: &Checkpoint,
    ) -> Result<Applied, StepError> {
        self.save_page(page, checkpoint)
    }
}

impl BackgroundSync for Rows {
    type Item = String;

    async fn locally_modified(
        &self,
        after: Option<&ItemId>,
        batch_size: usize,
    ) -> Result<Vec<LocalItem<String>>, StepError> {
        let database = lock(&self.database);
        let mut rows = database.prepare_cached(
            "SELECT id, version, modified, text FROM rows \
             WHERE feature = ?1 AND modified IS NOT NULL AND id > ?2 ORDER BY id LIMIT ?3",
        )?;
        let after = after.map_or("", ItemId::as_str);
        let limit = i64::try_from(batch_size)?;
        let items = rows.query_map(params![self.feature, after, limit], local_item)?;
        Ok(items.collect::<Result<_, _>>()?)
    }

    async fn push(&self, items: &[LocalItem<String>]) -> Result<Vec<PushResult>, StepError> {
        let mut results = Vec::new();
        for item in items {
            results.push(self.push_one(item).await?);
        }
        Ok(results)
    }

    async fn fetch_changes(
        &self,
        cursor: Option<&Cursor>,
        batch_size: usize,
    ) -> Result<Page<String>, StepError> {
        self.fetch(cursor, batch_size).await
    }

    async fn apply(
        &self,
        page: &Page<String>,
        checkpoint: &Checkpoint,
    ) -> Result<Applied, StepError> {
        self.save_page(page, checkpoint)
    }
}

fn sent(outcome: Outcome) -> Result<syncvault::reqwest::Response, Error> {
    match outcome {
        Outcome::Sent(response) => Ok(response),
        Outcome::Queued(_) => Err(Error::new(ErrorKind::Unreachable, "it was queued")),
    }
}

fn server_item(entry: Entry) -> ServerItem<String> {
    let item = match entry.text {
        Some(text) => ServerItem::new(entry.id, text),
        None => ServerItem::deleted(entry.id),
    };
    item.version(entry.version)
}

fn local_item(row: &Row<'_>) -> syncvault::rusqlite::Result<LocalItem<String>> {
    let mut item = LocalItem::deleted(row.get::<_, String>(0)?).version(row.get(1)?);
    item.locally_modified = row.get::<_, Option<u64>>(2)?.map(Timestamp::from_millis);
    item.content = row.get(3)?;
    Ok(item)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write(database: &Database, feature: &str, id: &str, text: Option<&str>) -> Result {
    lock(database).execute(
        "INSERT INTO rows (feature, id, version, modified, text) VALUES (?1, ?2, 0, 1, ?3) \
         ON CONFLICT (feature, id) DO UPDATE SET modified = 1, text = excluded.text",
        params![feature, id, text],
    )?;
    Ok(())
}

fn orchestrator(
    vault: &SyncVault,
    database: &Database,
    path: &std::path::Path,
) -> Result<SyncOrchestrator> {
    let rows = |feature| Rows {
        feature,
        vault: vault.clone(),
        database: database.clone(),
    };
    let sync = SyncOrchestrator::builder()
        .user("ann")
        .checkpoints(SqliteCheckpoints::open(path)?)
        .feature(Feature::new("contacts", rows("contacts")).priority(100))
        .feature(Feature::new("messages", rows("messages")).depends_on(["contacts"]))
        .on_connectivity(vault.watch_connection())
        .batch_size(5)
        .build()?;
    Ok(sync)
}

// ---------------------------------------------------------------------------------------------- the stage

#[tokio::main]
async fn main() -> Result {
    let site = Site::default();
    (0..7).for_each(|n| site.put("contacts", &format!("c{n}"), Some("a contact")));
    (0..12).for_each(|n| site.put("messages", &format!("m{n:02}"), Some("a message")));
    let mut server = Server::start(site.router()).await?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("app.db");
    let connection = Connection::open(&path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE rows (feature TEXT, id TEXT, version INTEGER NOT NULL, modified INTEGER, text TEXT, PRIMARY KEY (feature, id))",
    )?;
    let database = Arc::new(Mutex::new(connection));
    let vault = SyncVault::builder(server.url())
        .storage_path(dir.path().join("vault"))
        .retry_policy(impatient())
        .build()
        .await?;
    let sync = orchestrator(&vault, &database, &path)?;
    let log = tokio::spawn(log(sync.events()));

    println!("The first sync: contacts before messages, five rows a page.");
    let report = sync.run().await?;
    assert!(report.is_success(), "{report:?}");
    assert_eq!(site.rows("messages"), rows(&database, "messages")?);

    println!("\nThe server goes away, and both sides change things.");
    server.go_down().await?;
    write(&database, "messages", "m00", Some("edited here"))?;
    write(&database, "messages", "m01", Some("edited on both sides"))?;
    write(&database, "messages", "m02", None)?;
    site.put("messages", "m01", Some("edited there"));
    site.put("messages", "m03", None);
    let report = sync.sync_feature("messages").await?;
    println!(
        "messages: {}",
        report.failure().ok_or("the server is away")?
    );

    println!("\nThe server is back.");
    server.go_up().await?;
    vault
        .wait_online(Duration::from_secs(15))
        .await
        .or_else(ignore_timeout)?;
    let report = sync.sync_feature("messages").await?;
    assert!(report.is_success(), "{report:?}");
    assert_eq!(site.rows("messages"), rows(&database, "messages")?);
    println!(
        "\nBoth sides have the same {} messages.",
        site.rows("messages").len()
    );

    sync.shutdown().await?;
    log.await?;
    vault.shutdown(Duration::from_secs(1)).await?;
    Ok(())
}

fn ignore_timeout(error: Error) -> Result<(), Error> {
    match error.kind() {
        ErrorKind::Timeout => Ok(()),
        _ => Err(error),
    }
}

async fn log(mut events: syncvault::sync::SyncEvents) {
    while let Some(event) = events.next().await {
        let feature = event.feature.map_or_else(String::new, |f| f.to_string());
        match event.kind {
            SyncEventKind::PageApplied { page, items } => {
                println!("  {feature}: page {page}, {items} rows")
            }
            SyncEventKind::InitialCompleted(_) => println!("  {feature}: is here"),
            SyncEventKind::Retrying { step, wait, .. } => {
                println!("  {feature}: failed to {step}, again in {wait:?}")
            }
            SyncEventKind::PushConflict { item, reason } => {
                println!("  {feature}: {item} was refused: {reason}")
            }
            SyncEventKind::Conflict(conflict) => println!(
                "  {feature}: {} has a conflict, {:?} wins",
                conflict.id, conflict.winner
            ),
            _ => {}
        }
    }
}

fn rows(database: &Database, feature: &str) -> Result<BTreeMap<String, String>> {
    let database = lock(database);
    let mut rows =
        database.prepare("SELECT id, text FROM rows WHERE feature = ?1 AND text IS NOT NULL")?;
    let rows = rows.query_map([feature], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

// --------------------------------------------------------------------------------------------- the server

/// The rows of all features, by feature and id.
type Table = BTreeMap<(String, String), Entry>;

/// All rows, and the newest version: each change gets the next one.
#[derive(Clone, Default)]
struct Site(Arc<Mutex<(u64, Table)>>);

#[derive(Deserialize)]
struct Range {
    after: u64,
    limit: usize,
}

impl Site {
    fn router(&self) -> Router {
        let router = Router::new().route("/{feature}", get(changes));
        router
            .route("/{feature}/{id}", put(change))
            .with_state(self.clone())
    }

    fn put(&self, feature: &str, id: &str, text: Option<&str>) {
        let (id, text) = (id.to_owned(), text.map(str::to_owned));
        self.store(
            feature,
            Entry {
                id,
                text,
                version: u64::MAX,
            },
        );
    }

    /// Nothing = somebody changed it since that version.
    fn store(&self, feature: &str, mut entry: Entry) -> Option<u64> {
        let (newest, rows) = &mut *lock(&self.0);
        let key = (feature.to_owned(), entry.id.clone());
        let known = rows.get(&key).map_or(0, |row| row.version);
        if entry.version < known {
            return None;
        }
        *newest += 1;
        entry.version = *newest;
        rows.insert(key, entry);
        Some(*newest)
    }

    fn rows(&self, feature: &str) -> BTreeMap<String, String> {
        let all = lock(&self.0);
        let rows = all.1.iter().filter(|((f, _), _)| f == feature);
        rows.filter_map(|((_, id), row)| Some((id.clone(), row.text.clone()?)))
            .collect()
    }
}

async fn changes(
    State(site): State<Site>,
    Path(feature): Path<String>,
    Query(range): Query<Range>,
) -> Json<Answer> {
    let all = lock(&site.0);
    let mut rows: Vec<Entry> = all
        .1
        .iter()
        .filter(|((f, _), row)| *f == feature && row.version > range.after)
        .map(|(_, row)| row.clone())
        .collect();
    rows.sort_by_key(|row| row.version);
    let has_more = rows.len() > range.limit;
    rows.truncate(range.limit);
    let cursor = rows
        .last()
        .map_or(range.after, |row| row.version)
        .to_string();
    Json(Answer {
        rows,
        cursor,
        has_more,
    })
}

async fn change(
    State(site): State<Site>,
    Path((feature, id)): Path<(String, String)>,
    Json(entry): Json<Entry>,
) -> Result<Json<u64>, (StatusCode, String)> {
    let version = site.store(&feature, Entry { id, ..entry });
    version
        .map(Json)
        .ok_or((StatusCode::CONFLICT, "somebody changed it".to_owned()))
}
