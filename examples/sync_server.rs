//! The reference server of the sync protocol (docs/sync-protocol.md): records with versions, tombstones, a cursor, conditional
//! writes, batches, idempotency keys; in one SQLite file.
//!
//! ```text
//! cargo run --example sync_server --features sync,sqlite -- 8080 sync.db ann=ann-token bob=bob-token
//! curl -H 'Authorization: Bearer ann-token' -X PUT -d '{"text":"milk"}' http://127.0.0.1:8080/todos/1
//! curl -H 'Authorization: Bearer ann-token' http://127.0.0.1:8080/todos
//! ```
//!
//! A program of few lines around `examples/support/reference`, which the tests use too.

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

#[path = "support/reference/mod.rs"]
#[expect(dead_code, reason = "the faults are for tests")]
mod reference;

use std::path::Path;

use reference::Reference;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [port, path, users @ ..] = &args[..] else {
        return Err("usage: sync_server <port> <database file> <owner>=<token> ...".into());
    };
    let server = Reference::open(Path::new(path))?;
    for user in users {
        let (owner, token) = user.split_once('=').ok_or("a user is <owner>=<token>")?;
        server.admit(token, owner)?;
    }
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
    println!("port {}", listener.local_addr()?.port());
    axum::serve(listener, server.router()).await?;
    Ok(())
}
