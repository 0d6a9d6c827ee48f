//! The outbox: an app keeps its orders in SQLite and sends each to a server. Row and request are in one transaction, so
//! `kill -9` at any point leaves both or neither.
//!
//! ```text
//! cargo run --example outbox --features sqlite
//! ```
//!
//! The app is on top: it is what you would write. The stage below starts it as a process of its own, and kills it.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example talks to its reader"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::routing::put;
use syncvault::rusqlite::{Connection, TransactionBehavior};
use syncvault::store::SqliteStore;
use syncvault::{Draining, SyncVault};

use support::{Result, Server, impatient};

// ------------------------------------------------------------------------------------------------ the app

/// The app's own database, with the tables of the outbox in it.
fn database(path: &Path) -> Result<Connection> {
    let database = Connection::open(path)?;
    database.execute_batch(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY, what TEXT NOT NULL)",
    )?;
    SqliteStore::attach(&database)?;
    Ok(database)
}

async fn vault(url: &str, database: &Path, draining: Draining) -> Result<SyncVault> {
    let vault = SyncVault::builder(url)
        .store(SqliteStore::outbox(database)?)
        .retry_policy(impatient())
        .draining(draining)
        .build()
        .await?;
    Ok(vault)
}

/// Saves one order and its request, and waits for the end at `stop`.
fn save(vault: &SyncVault, database: &mut Connection, number: u32, stop: &str) -> Result {
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute("INSERT INTO orders VALUES (?1, 'coffee')", [number])?;
    reached("row", stop);
    vault
        .put(format!("/orders/{number}"))
        .body("coffee")
        .enqueue_in(&transaction)?;
    reached("request", stop);
    transaction.commit()?;
    vault.notify_committed();
    reached("commit", stop);
    Ok(())
}

/// Tells the stage where the app is, and stays there when this is where it shall die.
fn reached(point: &str, stop: &str) {
    println!("{point}");
    if point == stop {
        std::thread::sleep(Duration::from_secs(15));
    }
}

fn numbers(database: &Connection, sql: &str) -> Result<Vec<u32>> {
    let mut statement = database.prepare(sql)?;
    let numbers = statement.query_map([], |row| row.get(0))?;
    Ok(numbers.collect::<Result<_, _>>()?)
}

// ---------------------------------------------------------------------------------------------- the stage

type Orders = Arc<Mutex<Vec<u32>>>;

async fn take(State(orders): State<Orders>, UrlPath(number): UrlPath<u32>) {
    println!("  the server got order {number}");
    let mut orders = orders.lock().unwrap_or_else(PoisonError::into_inner);
    if !orders.contains(&number) {
        orders.push(number);
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => stage().await,
        [url, path, number, stop] => app(url, Path::new(path), number, stop).await,
        _ => Err("this example takes no arguments".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn app(url: &str, path: &Path, number: &str, stop: &str) -> Result {
    let mut database = database(path)?;
    // It only saves: sending is left to the next start.
    let vault = vault(url, path, Draining::OnRequest).await?;
    save(&vault, &mut database, number.parse()?, stop)
}

async fn stage() -> Result {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("app.db");
    let orders = Orders::default();
    let router = Router::new().route("/orders/{number}", put(take));
    let mut server = Server::start(router.with_state(orders.clone())).await?;
    server.go_down().await?;

    for (number, stop, what) in [
        (1, "row", "after the row, before the request"),
        (2, "request", "after the request, before the commit"),
        (3, "commit", "after the commit, before anything was sent"),
        (4, "row", "after the row, before the request"),
        (5, "commit", "after the commit, before anything was sent"),
    ] {
        println!("order {number}: kill -9 {what}");
        run_until(&server.url(), &path, number, stop)?;
    }

    let database = database(&path)?;
    let rows = numbers(&database, "SELECT number FROM orders ORDER BY number")?;
    let pending = numbers(&database, "SELECT pending FROM syncvault_ledger")?;
    println!("\nIn the database: orders {rows:?}, and {pending:?} requests that wait.\n");

    println!("The server is there, and the app starts again:");
    server.go_up().await?;
    let vault = vault(&server.url(), &path, Draining::Background).await?;
    tokio::time::timeout(Duration::from_secs(15), vault.wait_idle()).await??;
    vault.shutdown(Duration::from_secs(1)).await?;

    let sent = orders
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if rows != [3, 5] || sent != rows {
        return Err(format!("the app has {rows:?}, the server {sent:?}").into());
    }
    println!("\nThe server has the orders that the app has: {sent:?}.");
    Ok(())
}

/// Runs the app in a process of its own, up to a point, and kills it there.
fn run_until(url: &str, path: &Path, number: u32, stop: &str) -> Result {
    let mut app = Command::new(std::env::current_exe()?)
        .arg(url)
        .arg(path)
        .args([&number.to_string(), stop])
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = app.stdout.take().map(|out| BufReader::new(out).lines());
    let mut is_there = false;
    for line in lines.into_iter().flatten() {
        is_there = line? == stop;
        if is_there {
            break;
        }
    }
    // On Unix this is SIGKILL, the signal of `kill -9`: the process gets no chance to do anything.
    app.kill()?;
    app.wait()?;
    match is_there {
        true => Ok(()),
        false => Err(format!("the app ended before {stop:?}").into()),
    }
}
