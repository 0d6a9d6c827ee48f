//! What the stories of remotes share: the reference server on loopback, a vault in front of it, changes and pages.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use syncvault::store::MemoryStore;
use syncvault::sync::{
    Change, Cursor, ItemId, Operation, PullRequest, Pushed, RecordKey, RemoteError, RemotePage,
    RemoteRow, RemoteStore, RestRemote, Row, Version,
};
use syncvault::{DeadReason, End, SyncVault, SyncVaultBuilder, Ticket, bearer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::reference::Reference;
use crate::story::{builder_at, soon};

/// The reference server, which knows ann and bob.
pub(super) struct Rig {
    pub(super) server: Reference,
    pub(super) url: String,
    serving: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Starts a server on loopback.
pub(super) async fn serve(router: axum::Router) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let serving = tokio::spawn(async move {
        axum::serve(listener, router).await.expect("serve");
    });
    (url, serving)
}

impl Rig {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let server = Reference::open(&dir.path().join("server.db")).expect("server");
        server.admit("ann-token", "ann").expect("ann");
        server.admit("bob-token", "bob").expect("bob");
        let (url, serving) = serve(server.router()).await;
        Self {
            server,
            url,
            serving,
            _dir: dir,
        }
    }

    pub(super) fn builder(&self, user: &str) -> SyncVaultBuilder {
        let token = format!("{user}-token");
        builder_at(&self.url)
            .store(MemoryStore::new())
            .credentials(move |_| {
                let token = token.clone();
                async move { bearer(token) }
            })
    }

    pub(super) async fn client(&self, user: &str) -> Client<RestRemote> {
        let vault = self.builder(user).build().await.expect("vault");
        Client::new(RestRemote::new(vault.clone()), vault)
    }
}

/// A vault and a dialect.
pub(super) struct Client<R> {
    pub(super) vault: SyncVault,
    pub(super) remote: R,
}

/// A change of a record of the table `notes`, with a key of its own.
pub(super) fn change(id: &str, operation: Operation, row: Value) -> Change {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut change = Change::new(
        RecordKey::new("notes", id),
        operation,
        format!("key-{number}"),
    );
    change.row = fields(row);
    change
}

pub(super) fn fields(row: Value) -> Row {
    match row {
        Value::Object(row) => row,
        _ => Row::new(),
    }
}

/// A new record.
pub(super) fn new(id: &str, row: Value) -> Change {
    let mut change = change(id, Operation::Upsert, row);
    change.is_new = true;
    change
}

/// On a version.
pub(super) fn on(version: &Option<Version>, mut change: Change) -> Change {
    change.base_version.clone_from(version);
    change
}

impl<R: RemoteStore> Client<R> {
    pub(super) fn new(remote: R, vault: SyncVault) -> Self {
        Self { vault, remote }
    }

    /// Queues a change as the engine does.
    pub(super) async fn queue(&self, change: &Change) -> Ticket {
        let push = self.remote.request(change).expect("a request");
        let request = self.vault.request(push.method, &push.path);
        let request = request
            .headers(push.headers)
            .body(push.body)
            .answers(push.answers);
        let request = request.idempotency_key(&change.idempotency_key);
        let lane = change.key.to_string().replace(char::is_control, "_");
        request.lane(lane).enqueue().await.expect("queued")
    }

    /// Pushes a change, until the server has answered.
    pub(super) async fn try_push(&self, change: &Change) -> Result<Pushed, DeadReason> {
        let ticket = self.queue(change).await;
        match soon(ticket.wait()).await.expect("an end") {
            End::Delivered(answer) => Ok(self.remote.read_push(change, &answer)),
            End::Dead(reason) => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn push(&self, change: &Change) -> Pushed {
        self.try_push(change).await.expect("an answer")
    }

    /// Pushes what must be taken, and tells the version after it.
    pub(super) async fn accepted(&self, change: &Change) -> Option<Version> {
        match self.push(change).await {
            Pushed::Accepted { version, .. } => version,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn page(&self, request: PullRequest<'_>) -> Result<RemotePage, RemoteError> {
        soon(self.remote.pull(request)).await
    }

    /// All pages from a cursor on, and where to go on then.
    pub(super) async fn pull(
        &self,
        from: Option<&Cursor>,
        limit: usize,
    ) -> (Vec<RemoteRow>, Option<Cursor>) {
        let (mut rows, mut at) = (Vec::new(), from.cloned());
        loop {
            let mut request = PullRequest::new("notes", limit);
            request.cursor = at.as_ref();
            request.is_full = from.is_none();
            let page = self.page(request).await.expect("a page");
            assert!(page.damaged.is_empty(), "{:?}", page.damaged);
            rows.extend(page.rows);
            match page.next {
                None => return (rows, page.resume),
                next => at = next,
            }
        }
    }

    pub(super) async fn fetch(&self, id: &str) -> Result<Option<RemoteRow>, RemoteError> {
        let key = RecordKey::new("notes", id);
        soon(self.remote.fetch(&key)).await
    }
}

pub(super) fn ids(rows: &[RemoteRow]) -> Vec<&str> {
    rows.iter().map(|row| row.id.as_str()).collect()
}

pub(super) fn id(text: &str) -> ItemId {
    ItemId::new(text)
}
