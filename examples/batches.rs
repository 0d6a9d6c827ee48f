//! Batches: what waited while the server was away leaves in a few requests. An answer that is lost does no work twice, and one
//! bad reading does not spoil the rest.
//!
//! ```text
//! cargo run --example batches
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use syncvault::decide::{BatchAnswer, BatchItem, BatchRequest, Batcher, Folded, ItemVerdict};
use syncvault::{ConnectivityMode, Paging, SyncVault};

use support::{Result, Server, impatient};

/// A reading in a batch: its key is for the server, which may meet it alone later.
#[derive(Serialize, Deserialize)]
struct Item {
    key: String,
    reading: f64,
}

/// Knows what the server of this example takes, and how it answers: a status for each.
struct Readings;

impl Batcher for Readings {
    fn fold(&self, items: &[BatchItem]) -> Folded {
        let item = |item: &BatchItem| {
            let (key, reading) = (item.key.clone(), item.json()?);
            Ok(Item { key, reading })
        };
        let body: syncvault::Result<Vec<Item>> = items.iter().map(item).collect();
        body.and_then(|body| BatchRequest::post("/batch").json(&body))
            .into()
    }

    fn split(&self, answer: &BatchAnswer, _items: &[BatchItem]) -> Vec<ItemVerdict> {
        let statuses: Vec<u16> = answer.json().unwrap_or_default();
        statuses.into_iter().map(ItemVerdict::of_status).collect()
    }
}

#[tokio::main]
async fn main() -> Result {
    let station = Station::default();
    let router = Router::new()
        .route("/batch", post(take_batch))
        .route("/readings", post(take_one))
        .with_state(station.clone());
    let mut server = Server::start(router).await?;
    let dir = tempfile::tempdir()?;
    let vault = SyncVault::builder(server.url())
        .storage_path(dir.path())
        .retry_policy(impatient())
        .batcher("sensor/*", Readings)
        .build()
        .await?;

    println!("1. The sensor measures while the server is not there.\n");
    vault.set_connectivity(ConnectivityMode::Offline);
    for number in 0..120 {
        // The 77th is nonsense, and the server refuses every batch that holds it.
        let reading = if number == 77 { -300.0 } else { 20.5 };
        let request = vault.post("/readings").json(&reading);
        let request = request.idempotency_key(format!("reading-{number}"));
        request.lane("sensor/kitchen").enqueue().await?;
    }
    println!("  {} readings wait\n", vault.pending_count().await?);

    println!("2. It is back. The answer to the first batch is lost.\n");
    vault.set_connectivity(ConnectivityMode::Auto);
    vault.wait_idle().await?;

    station.books().tell()?;
    let letters = vault.dead_letters().list(Paging::default()).await?;
    for letter in letters.items {
        println!("  refused:  {} ({})", letter.action.key, letter.reason);
    }
    server.go_down().await
}

/// What the server keeps.
#[derive(Clone, Default)]
struct Station(Arc<Mutex<Books>>);

#[derive(Default)]
struct Books {
    applied: Vec<String>,
    /// What was answered to each key of a batch.
    answers: HashMap<String, Vec<u16>>,
    batches: usize,
    alone: usize,
    replayed: usize,
}

impl Station {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn take(&mut self, key: &str) -> u16 {
        if self.applied.iter().any(|one| one == key) {
            return 200;
        }
        self.applied.push(key.to_owned());
        201
    }

    fn tell(&self) -> Result {
        let (applied, is_in_order) = (self.applied.len(), self.is_in_order());
        println!("  requests: {} batches, {} alone", self.batches, self.alone);
        println!("  applied:  {applied}, in order: {is_in_order}");
        println!("  knew, and did not redo: {} batch", self.replayed);
        match (applied, self.replayed, is_in_order) {
            (119, 1, true) => Ok(()),
            _ => Err("something was lost, doubled or reordered".into()),
        }
    }

    fn is_in_order(&self) -> bool {
        let number = |key: &String| key.trim_start_matches("reading-").parse::<u32>().ok();
        self.applied.iter().map(number).is_sorted()
    }
}

fn key_of(headers: &HeaderMap) -> String {
    let key = headers.get("idempotency-key");
    let key = key.and_then(|key| key.to_str().ok());
    key.unwrap_or_default().to_owned()
}

async fn take_batch(
    State(station): State<Station>,
    headers: HeaderMap,
    Json(items): Json<Vec<Item>>,
) -> Response {
    let mut books = station.books();
    books.batches += 1;
    if items.iter().any(|item| item.reading < -273.15) {
        return StatusCode::UNPROCESSABLE_ENTITY.into_response();
    }
    let key = key_of(&headers);
    if let Some(answer) = books.answers.get(&key).cloned() {
        books.replayed += 1;
        return Json(answer).into_response();
    }
    let answer: Vec<u16> = items.iter().map(|item| books.take(&item.key)).collect();
    books.answers.insert(key, answer.clone());
    match books.batches {
        // It was done, and somebody on the way says otherwise.
        1 => StatusCode::GATEWAY_TIMEOUT.into_response(),
        _ => Json(answer).into_response(),
    }
}

async fn take_one(
    State(station): State<Station>,
    headers: HeaderMap,
    Json(reading): Json<f64>,
) -> StatusCode {
    let mut books = station.books();
    books.alone += 1;
    if reading < -273.15 {
        return StatusCode::UNPROCESSABLE_ENTITY;
    }
    let status = books.take(&key_of(&headers));
    StatusCode::from_u16(status).unwrap_or(StatusCode::OK)
}
