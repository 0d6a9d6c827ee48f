//! Requests that survive a server that goes away, and a `kill -9` of the app in the middle of its work.
//!
//! ```text
//! cargo run --example quickstart
//! ```
//!
//! The app is on top: it is what you would write. Below it are the server, which honours idempotency keys, and the
//! stage: it starts both as processes of their own, and kills them.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example talks to its reader"
)]

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Lines, Write};
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use syncvault::{Backoff, Event, EventKind, Outcome, RetryPolicy, SyncVault};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

// ------------------------------------------------------------------------------------------------ the app

/// Sends orders to the server at `url`. What cannot be sent now is kept in the directory `vault`.
async fn app(url: &str, vault: &Path, orders: RangeInclusive<u32>) -> Result<()> {
    let vault = SyncVault::builder(url)
        .storage_path(vault)
        .retry_policy(impatient())
        .build()
        .await?;
    match vault.pending_count().await? {
        0 => {}
        pending => println!("{pending} orders are on disk from before"),
    }

    for number in orders {
        let outcome = vault
            .post("/orders")
            .json(&json!({ "number": number, "what": "coffee" }))
            .idempotency_key(format!("order-{number}"))
            .send()
            .await?;
        match outcome {
            Outcome::Sent(response) => println!("order-{number} sent: {}", response.status()),
            Outcome::Queued(ticket) => println!("order-{number} saved on disk: {}", ticket.id()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    watch_it_drain(&vault).await?;
    vault.shutdown(Duration::from_secs(1)).await?;
    Ok(())
}

/// Draining needs no call: the vault does it in the background. This only shows it.
async fn watch_it_drain(vault: &SyncVault) -> Result<()> {
    let mut events = vault.events();
    let total = vault.pending_count().await?;
    let bar = progress_bar(total)?;
    let mut pending = total;
    while pending > 0 {
        let Some(event) = events.next().await else {
            break;
        };
        pending = vault.pending_count().await?;
        bar.set_position(total.saturating_sub(pending));
        tell(&bar, &event);
    }
    bar.abandon();
    Ok(())
}

fn tell(bar: &ProgressBar, event: &Event) {
    let key = &event.key;
    let line = match &event.kind {
        EventKind::Started { attempt } => format!("{key} attempt {attempt}"),
        EventKind::Failed { error, .. } => format!("{key} stays on disk: {error}"),
        EventKind::Succeeded { status } => format!("{key} delivered: {status}"),
        other => format!("{key} {other:?}"),
    };
    if bar.is_hidden() {
        let (done, total) = (bar.position(), bar.length().unwrap_or_default());
        println!("[{done}/{total}] {line}");
    } else {
        bar.println(line);
    }
}

/// Drawn on a terminal only; elsewhere each line says how far it is.
fn progress_bar(total: u64) -> Result<ProgressBar> {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stdout());
    bar.set_style(ProgressStyle::with_template(
        "[{bar:40}] {pos} of {len} delivered",
    )?);
    Ok(bar)
}

/// Looks for a lost server twice a second. By default the waits grow to a minute, too long to watch.
fn impatient() -> RetryPolicy {
    let mut policy = RetryPolicy::default();
    policy.backoff = Backoff::exponential(Duration::from_millis(100), Duration::from_millis(500));
    policy.origin_backoff = policy.backoff;
    policy
}

// --------------------------------------------------------------------------------------------- the server

/// What the server did, one line each. It is a file, so that it outlives the server.
struct Book {
    file: File,
    keys: BTreeSet<String>,
}

/// Serves `POST /orders`, and applies each idempotency key once.
async fn server(port: u16, book: &Path) -> Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(book)?;
    let known = std::fs::read_to_string(book)?;
    let keys = known
        .lines()
        .filter_map(|line| line.strip_prefix("applied "));
    let keys = keys.map(str::to_owned).collect();
    let book = Arc::new(Mutex::new(Book { file, keys }));

    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("port {}", listener.local_addr()?.port());
    let router = Router::new()
        .route("/orders", post(take_order))
        .with_state(book);
    axum::serve(listener, router).await?;
    Ok(())
}

async fn take_order(State(book): State<Arc<Mutex<Book>>>, headers: HeaderMap) -> StatusCode {
    let key = headers
        .get("idempotency-key")
        .and_then(|key| key.to_str().ok());
    let Some(key) = key else {
        return StatusCode::BAD_REQUEST;
    };
    let Ok(is_new) = book
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .apply(key)
    else {
        return StatusCode::INTERNAL_SERVER_ERROR;
    };
    // Between the deed and the answer, so that it can be killed there.
    tokio::time::sleep(Duration::from_millis(150)).await;
    if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    }
}

impl Book {
    /// Applies an order, unless it was applied before.
    fn apply(&mut self, key: &str) -> Result<bool> {
        let is_new = self.keys.insert(key.to_owned());
        let what = if is_new { "applied" } else { "knew" };
        writeln!(self.file, "{what} {key}")?;
        println!("{what} {key}");
        Ok(is_new)
    }
}

// ---------------------------------------------------------------------------------------------- the stage

const LAST: u32 = 12;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => stage(),
        ["app", url, first] => first
            .parse()
            .map_err(Into::into)
            .and_then(|first| bounded(app(url, Path::new("vault"), first..=LAST))),
        ["server", port] => port
            .parse()
            .map_err(Into::into)
            .and_then(|port| bounded(server(port, Path::new("book")))),
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

/// Runs an actor in this process, and not for long: nothing is left behind when the stage itself is killed.
fn bounded(actor: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(15), actor).await? })
}

fn stage() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();

    println!("\n1. The server is there: orders are sent.\n");
    let mut server = Process::start(dir, "server", &["server", "0"])?;
    let port = server.read_until("port ")?;
    let url = format!("http://127.0.0.1:{port}");
    let mut app = Process::start(dir, "app", &["app", &url, "1"])?;
    for number in 1..=3 {
        server.read_until(&format!("applied order-{number}"))?;
        app.read_until(&format!("order-{number} "))?;
    }

    println!("\n2. The server applies order-4 and dies before it answers: orders are saved.\n");
    server.read_until("applied order-4")?;
    server.kill()?;
    app.read_until("order-9 ")?;

    println!("\n3. kill -9 for the app, while it takes order-10.\n");
    app.kill()?;
    let next = 10 + app.read_to_end()?;

    println!("4. The app starts again and takes the rest. A second later the server is back.\n");
    let mut app = Process::visible(dir, &["app", &url, &next.to_string()])?;
    std::thread::sleep(Duration::from_secs(1));
    let mut server = Process::start(dir, "server", &["server", &port])?;
    let status = app.child.wait()?;
    server.kill()?;
    if !status.success() {
        return Err(format!("the app ended with {status}").into());
    }
    check(&std::fs::read_to_string(dir.join("book"))?)
}

/// Compares what the server did with what the app acknowledged: every order, once, in order.
fn check(book: &str) -> Result<()> {
    let (mut applied, mut again) = (Vec::new(), Vec::new());
    for line in book.lines() {
        match line.split_once(' ') {
            Some(("applied", key)) => applied.push(key),
            Some((_, key)) => again.push(key),
            None => {}
        }
    }
    println!("\n5. What the server did.\n");
    println!("  applied:                {}", applied.join(" "));
    println!("  knew, and did not redo: {}", again.join(" "));
    let wanted: Vec<String> = (1..=LAST).map(|number| format!("order-{number}")).collect();
    if applied != wanted {
        return Err("not every acknowledged order was applied once, in order".into());
    }
    println!("\nAll {LAST} acknowledged orders were applied, each once, in order.");
    Ok(())
}

/// This program again, in another role. Killed when dropped.
struct Process {
    child: Child,
    name: &'static str,
    lines: Option<Lines<BufReader<ChildStdout>>>,
}

impl Process {
    /// Its output is read by the stage, and shown with its name.
    fn start(dir: &Path, name: &'static str, args: &[&str]) -> Result<Self> {
        let mut process = Self::spawn(dir, name, args, Stdio::piped())?;
        process.lines = process
            .child
            .stdout
            .take()
            .map(|out| BufReader::new(out).lines());
        Ok(process)
    }

    /// Its output goes straight to the terminal, so that it can draw a progress bar.
    fn visible(dir: &Path, args: &[&str]) -> Result<Self> {
        Self::spawn(dir, "app", args, Stdio::inherit())
    }

    fn spawn(dir: &Path, name: &'static str, args: &[&str], stdout: Stdio) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        // A proxy that the environment names cannot reach this machine's loopback.
        command
            .args(args)
            .current_dir(dir)
            .env("NO_PROXY", "127.0.0.1")
            .stdout(stdout);
        let child = command.spawn()?;
        Ok(Self {
            child,
            name,
            lines: None,
        })
    }

    /// Shows its lines up to the one that starts with `start`, and returns the rest of that one.
    fn read_until(&mut self, start: &str) -> Result<String> {
        for line in self.lines.iter_mut().flatten() {
            let line = line?;
            println!("  {:>6} | {line}", self.name);
            if let Some(rest) = line.strip_prefix(start) {
                return Ok(rest.to_owned());
            }
        }
        Err(format!("the {} ended and never said {start:?}", self.name).into())
    }

    /// Shows what it said last. Returns how many lines that were.
    fn read_to_end(&mut self) -> Result<u32> {
        let mut count = 0;
        for line in self.lines.iter_mut().flatten() {
            println!("  {:>6} | {}", self.name, line?);
            count += 1;
        }
        Ok(count)
    }

    /// On Unix this is SIGKILL, the signal of `kill -9`: the process gets no chance to do anything.
    fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("the {} could not be killed: {error}", self.name);
        }
    }
}
