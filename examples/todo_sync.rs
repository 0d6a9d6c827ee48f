//! Two devices and one list of todos: both edit it offline, both are killed by `kill -9` on the way, and both end with what the
//! server has.
//!
//! ```text
//! cargo run --example todo_sync --features sync,sqlite
//! ```
//!
//! The app is on top: it is what you would write. Below it are the reference server of the sync protocol, and the stage, which
//! starts all three as processes of their own, and kills them. Each device has one SQLite file: its rows, what is known of them, and
//! the queue.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example talks to its reader"
)]

#[path = "support/reference/mod.rs"]
#[expect(dead_code, reason = "the faults are for tests")]
mod reference;

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use serde_json::{Map, Value, json};
use syncvault::rusqlite::Connection;
use syncvault::store::SqliteStore;
use syncvault::sync::{
    ConflictStrategy, RestRemote, SqliteLocal, SqliteTable, SyncEngine, Table, TableEventKind,
};
use syncvault::{Backoff, RetryPolicy, SyncVault, bearer};

use reference::Reference;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

// ------------------------------------------------------------------------------------------------ the app

/// The engine of a device: todos in a table of the app, in step with the server at `url`.
async fn open(url: &str, file: &Path) -> Result<SyncEngine> {
    let app = Connection::open(file)?;
    app.execute_batch(
        "CREATE TABLE IF NOT EXISTS todos (id TEXT PRIMARY KEY, title TEXT, done BOOLEAN)",
    )?;
    let vault = SyncVault::builder(url)
        .store(SqliteStore::outbox(file)?)
        .credentials(|_| async { bearer("ann-token") })
        .retry_policy(impatient())
        .build()
        .await?;
    let local = SqliteLocal::with_outbox(file)?.table(SqliteTable::new("todos"));
    let remote = RestRemote::new(vault.clone());
    let todos = Table::new("todos").conflicts(ConflictStrategy::Merge);
    let engine = SyncEngine::builder(local, remote, &vault)
        .user("ann")
        .tables([todos]);
    Ok(engine.build().await?)
}

/// What a person does on a device. Each line is on disk when it returns, whether the server is there or not.
async fn edit(engine: &SyncEngine, device: &str) -> Result<()> {
    match device {
        "phone" => {
            patch(engine, "milk", json!({ "title": "oat milk" })).await?;
            remove(engine, "bread").await?;
            write(engine, "tea", json!({ "title": "tea", "done": false })).await
        }
        _ => {
            patch(engine, "milk", json!({ "done": true })).await?;
            patch(engine, "salt", json!({ "title": "sea salt" })).await?;
            write(engine, "rice", json!({ "title": "rice", "done": false })).await
        }
    }
}

async fn write(engine: &SyncEngine, id: &str, row: Value) -> Result<()> {
    println!("writes {id}: {row}");
    Ok(engine.write("todos", id, fields(row)).await?)
}

async fn patch(engine: &SyncEngine, id: &str, row: Value) -> Result<()> {
    println!("changes {id}: {row}");
    Ok(engine.patch("todos", id, fields(row)).await?)
}

async fn remove(engine: &SyncEngine, id: &str) -> Result<()> {
    println!("removes {id}");
    Ok(engine.remove("todos", id).await?)
}

fn fields(row: Value) -> Map<String, Value> {
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

/// Pushes what is unsent, pulls what is new, and tells what happens.
async fn sync(engine: &SyncEngine) -> Result<()> {
    let mut events = engine.events();
    let telling = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event.kind {
                TableEventKind::Pushed { id, operation, .. } => {
                    println!("sent {id} ({operation:?})")
                }
                TableEventKind::Conflict { conflict, .. } => {
                    println!("conflict about {}", conflict.key.id)
                }
                _ => {}
            }
        }
    });
    while !is_in_step(engine).await? {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    telling.abort();
    Ok(())
}

async fn is_in_step(engine: &SyncEngine) -> Result<bool> {
    let report = engine.sync_all().await?;
    Ok(report.failure().is_none() && engine.pending().await? == 0)
}

/// The list, as the device has it.
async fn list(engine: &SyncEngine) -> Result<()> {
    let page = engine.list("todos", None, 100).await?;
    let rows = page
        .records
        .into_iter()
        .filter_map(|record| Some((record.key.id.to_string(), record.row?)));
    println!(
        "list {}",
        Value::Object(rows.map(|(id, row)| (id, Value::Object(row))).collect())
    );
    Ok(())
}

/// One run of the app.
async fn app(url: &str, device: &str, what: &str) -> Result<()> {
    let engine = open(url, Path::new(&format!("{device}.db"))).await?;
    match engine.pending().await? {
        0 => {}
        pending => println!("{pending} changes are on disk from before"),
    }
    match what {
        "begin" => {
            for id in ["milk", "bread", "salt"] {
                write(&engine, id, json!({ "title": id, "done": false })).await?;
            }
        }
        "edit" => {
            edit(&engine, device).await?;
            println!("edited");
            // The server is away: it tries until it is killed.
            sync(&engine).await?;
        }
        _ => {}
    }
    sync(&engine).await?;
    list(&engine).await
}

/// Looks for a lost server several times a second. By default the waits grow to a minute, too long to watch.
fn impatient() -> RetryPolicy {
    let mut policy = RetryPolicy::default();
    policy.backoff = Backoff::exponential(Duration::from_millis(50), Duration::from_millis(200));
    policy.origin_backoff = policy.backoff;
    policy
}

// --------------------------------------------------------------------------------------------- the server

async fn server(port: u16) -> Result<()> {
    let server = Reference::open(Path::new("server.db"))?;
    server.admit("ann-token", "ann")?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("port {}", listener.local_addr()?.port());
    axum::serve(listener, server.router()).await?;
    Ok(())
}

// ---------------------------------------------------------------------------------------------- the stage

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match play(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn play(args: &[String]) -> Result<()> {
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => stage(),
        ["app", url, device, what] => bounded(app(url, device, what)),
        ["server", port] => bounded(server(port.parse()?)),
        _ => Err("this example takes no arguments".into()),
    }
}

/// Runs an actor in this process, and not for long: nothing is left behind when the stage itself is killed.
fn bounded(actor: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), actor).await? })
}

fn stage() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let start = |name, args: &[&str]| Process::start(dir, name, args);

    println!("\n1. The phone writes a list, the laptop gets it.\n");
    let mut server = start("server", &["server", "0"])?;
    let port = server.read_until("port ")?;
    let url = format!("http://127.0.0.1:{port}");
    start("phone", &["app", &url, "phone", "begin"])?.read_until("list ")?;
    start("laptop", &["app", &url, "laptop", "look"])?.read_until("list ")?;

    println!("\n2. The server is gone. Both edit the list, and both are killed: kill -9.\n");
    server.kill()?;
    for device in ["phone", "laptop"] {
        let mut app = start(device, &["app", &url, device, "edit"])?;
        app.read_until("edited")?;
        app.kill()?;
    }

    println!(
        "\n3. The server is back. Both start again, and are killed as soon as something was sent.\n"
    );
    let mut server = start("server", &["server", &port])?;
    server.read_until("port ")?;
    for device in ["phone", "laptop"] {
        let mut app = start(device, &["app", &url, device, "look"])?;
        // Or it was faster than the one who watches.
        app.read_until_one(&["sent ", "list "])?;
        app.kill()?;
    }

    println!("\n4. Both start again, one after the other.\n");
    let mut lists = Vec::new();
    for device in ["phone", "laptop", "phone", "laptop"] {
        let list = start(device, &["app", &url, device, "look"])?.read_until("list ")?;
        lists.push(serde_json::from_str(&list)?);
    }
    let theirs = listed(&url)?;
    server.kill()?;
    check(&lists[2..], &theirs)
}

/// What the server lists, asked without the library.
fn listed(url: &str) -> Result<Value> {
    let client = syncvault::reqwest::Client::builder().no_proxy().build()?;
    let ask = client
        .get(format!("{url}/todos"))
        .bearer_auth("ann-token")
        .send();
    let runtime = tokio::runtime::Runtime::new()?;
    let body = runtime.block_on(async { ask.await?.text().await })?;
    let page: Value = serde_json::from_str(&body)?;
    let rows = page["rows"]
        .as_array()
        .cloned()
        .unwrap_or_default()
        .into_iter();
    let rows =
        rows.filter_map(|record| Some((record["id"].as_str()?.to_owned(), record["row"].clone())));
    Ok(Value::Object(rows.collect()))
}

/// All have the same list, and nothing that anybody did is missing.
fn check(lists: &[Value], theirs: &Value) -> Result<()> {
    println!("\n5. What everybody has.\n");
    for (name, list) in ["phone", "laptop", "server"]
        .iter()
        .zip(lists.iter().chain([theirs]))
    {
        println!("  {name:>6}: {list}");
    }
    let wanted = json!({
        "milk": { "title": "oat milk", "done": true },
        "rice": { "title": "rice", "done": false },
        "salt": { "title": "sea salt", "done": false },
        "tea": { "title": "tea", "done": false },
    });
    if lists.iter().chain([theirs]).any(|list| *list != wanted) {
        return Err("they do not have the same list, or something is missing".into());
    }
    println!("\nOne list, with the edits of both.");
    Ok(())
}

/// This program again, in another role. Killed when dropped.
struct Process {
    child: Child,
    name: &'static str,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(dir: &Path, name: &'static str, args: &[&str]) -> Result<Self> {
        let mut command = myself(args)?;
        // A proxy that the environment names cannot reach this machine's loopback.
        command.current_dir(dir).env("NO_PROXY", "127.0.0.1");
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or("a process without output")?;
        let lines = BufReader::new(out).lines();
        Ok(Self { child, name, lines })
    }

    /// Shows its lines up to one that starts with one of `starts`, and returns the rest of that one.
    fn read_until_one(&mut self, starts: &[&str]) -> Result<String> {
        for line in &mut self.lines {
            let line = line?;
            println!("  {:>6} | {line}", self.name);
            if let Some(rest) = starts.iter().find_map(|start| line.strip_prefix(start)) {
                return Ok(rest.to_owned());
            }
        }
        Err(format!("the {} ended and never said {starts:?}", self.name).into())
    }

    fn read_until(&mut self, start: &str) -> Result<String> {
        self.read_until_one(&[start])
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

#[cfg(not(test))]
fn myself(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(args);
    Ok(command)
}

/// The test runner is this program too: a role is played by one of its tests.
#[cfg(test)]
fn myself(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", "tests::a_role", "--nocapture"]);
    command.env(tests::ROLE, args.join(" "));
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const ROLE: &str = "TODO_SYNC_ROLE";

    #[test]
    fn a_role() {
        let Ok(role) = std::env::var(ROLE) else {
            return;
        };
        // The runner has begun a line.
        println!();
        let args: Vec<String> = role.split(' ').map(str::to_owned).collect();
        play(&args).expect("played");
    }

    #[test]
    fn both_devices_are_killed_twice_and_end_with_one_list() {
        stage().expect("one list");
    }
}
