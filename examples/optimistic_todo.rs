//! An optimistic list: an entry is on the screen at once, before the server knows it, and can be changed at once. When the server
//! answers, the entry gets the server's id, and so does the change that waits for it; when the server refuses, both are taken back.
//!
//! ```text
//! cargo run --example optimistic_todo
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::Path;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use syncvault::{ActionId, DeadReason, End, SyncVault, Ticket};

use support::{Result, Server, impatient};

/// An entry is known by the id of its request until the server has given it one of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
enum TodoId {
    Temporary(ActionId),
    Server(u64),
}

#[derive(Clone, Debug)]
struct Todo {
    id: TodoId,
    text: String,
}

/// The list as the user sees it.
#[derive(Clone)]
struct Todos {
    vault: SyncVault,
    list: Arc<Mutex<Vec<Todo>>>,
}

#[derive(Serialize, Deserialize)]
struct NewTodo {
    text: String,
}

#[derive(Serialize, Deserialize)]
struct CreatedTodo {
    id: u64,
}

impl Todos {
    /// Saves the wish, shows it, and comes back: no waiting for the network.
    async fn add(&self, text: &str) -> Result<tokio::task::JoinHandle<Result>> {
        let ticket = self
            .vault
            .post("/todos")
            .json(&NewTodo { text: text.into() })
            .enqueue()
            .await?;
        let id = TodoId::Temporary(ticket.id());
        self.list().push(Todo {
            id,
            text: text.into(),
        });
        let todos = self.clone();
        Ok(tokio::spawn(async move { todos.follow(ticket).await }))
    }

    /// Ticks an entry off, whether or not the server knows it by now: the request waits for the one that creates it.
    async fn tick_off(&self, id: TodoId) -> Result<Ticket> {
        let request = match id {
            TodoId::Server(id) => self.vault.put(format!("/todos/{id}/done")),
            TodoId::Temporary(created) => {
                let id = self.vault.response_of(created).json("/id");
                self.vault.put("/todos/{id}/done").path_ref("id", id)
            }
        };
        Ok(request.enqueue().await?)
    }

    /// Brings the list in step with how it ended. After a restart: `vault.ticket(id)`, for each id that is temporary.
    async fn follow(&self, ticket: Ticket) -> Result {
        let temporary = TodoId::Temporary(ticket.id());
        let end = ticket.wait().await?;
        // The answer is read before the list is locked.
        let created = match &end {
            End::Delivered(answer) => Some(answer.json::<CreatedTodo>()?),
            _ => None,
        };
        let mut list = self.list();
        let Some(place) = list.iter().position(|todo| todo.id == temporary) else {
            return Ok(());
        };
        match created {
            Some(created) => list[place].id = TodoId::Server(created.id),
            None => {
                let todo = list.remove(place);
                println!("  taken back: {:?}, {end:?}", todo.text);
            }
        }
        Ok(())
    }

    fn list(&self) -> MutexGuard<'_, Vec<Todo>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, when: &str) {
        println!("{when}");
        for todo in self.list().iter() {
            match todo.id {
                TodoId::Temporary(_) => println!("  [ ...] {}", todo.text),
                TodoId::Server(id) => println!("  [{id:4}] {}", todo.text),
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result {
    let router = Router::new()
        .route("/todos", post(create))
        .route("/todos/{id}/done", put(tick_off))
        .with_state(Arc::default());
    let mut server = Server::start(router).await?;
    let dir = tempfile::tempdir()?;
    let vault = SyncVault::builder(server.url())
        .storage_path(dir.path())
        .retry_policy(impatient())
        .build()
        .await?;
    let todos = Todos {
        vault: vault.clone(),
        list: Arc::default(),
    };

    server.go_down().await?;
    let mut followers = Vec::new();
    for text in ["buy milk", "rob a bank", "call Anna"] {
        followers.push(todos.add(text).await?);
    }
    let mut changes = Vec::new();
    let shown = todos.list().clone();
    for todo in &shown[..2] {
        changes.push(todos.tick_off(todo.id).await?);
    }
    todos.show("offline, and all is on the screen; two are ticked off:");
    assert_eq!(todos.list().len(), 3);

    server.go_up().await?;
    println!("the server is back");
    for follower in followers {
        follower.await??;
    }
    todos.show("online, and the list is the server's:");

    let list = todos.list().clone();
    let texts: Vec<_> = list.iter().map(|todo| todo.text.as_str()).collect();
    assert_eq!(texts, ["buy milk", "call Anna"]);
    assert!(list.iter().all(|todo| matches!(todo.id, TodoId::Server(_))));
    let milk = changes[0].wait().await?;
    assert!(
        matches!(milk, End::Delivered(_)),
        "sent under the server's id: {milk:?}"
    );
    let bank = changes[1].wait().await?;
    assert!(
        matches!(bank, End::Dead(DeadReason::ParentDead { .. })),
        "{bank:?}"
    );
    // The refused request is not gone, nor what waited for it: they are dead letters, until somebody acts.
    assert_eq!(vault.dead_letters().count().await?, 2);
    Ok(vault.shutdown(Duration::from_secs(1)).await?)
}

/// The server: it gives ids, and has rules of its own.
async fn create(
    State(last): State<Arc<AtomicU64>>,
    Json(new): Json<NewTodo>,
) -> std::result::Result<(StatusCode, Json<CreatedTodo>), StatusCode> {
    if new.text.contains("bank") {
        return Err(StatusCode::UNPROCESSABLE_ENTITY);
    }
    let id = 1001 + last.fetch_add(1, Ordering::Relaxed);
    Ok((StatusCode::CREATED, Json(CreatedTodo { id })))
}

/// The server: an entry that it knows is done now.
async fn tick_off(State(last): State<Arc<AtomicU64>>, Path(id): Path<u64>) -> StatusCode {
    let is_known = (1001..1001 + last.load(Ordering::Relaxed)).contains(&id);
    match is_known {
        true => StatusCode::NO_CONTENT,
        false => StatusCode::NOT_FOUND,
    }
}
