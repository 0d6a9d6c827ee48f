//! An engine on a thread and a runtime of its own: for programs whose main thread belongs to a user interface.

use std::future::Future;
use std::sync::mpsc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::engine::SyncEngine;
use crate::error::{Error, ErrorKind, Result};

/// The thread of an engine. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Home {
    runtime: Handle,
    _until: oneshot::Sender<()>,
}

impl SyncEngine {
    /// Builds an engine, and the vault under it, on a thread and a runtime of its own, and gives its handle: the same as of any other
    /// engine. Its calls run there, and its futures and events can be awaited anywhere, without a runtime too. Waits until it is built.
    ///
    /// The thread ends when the last handle is gone.
    ///
    /// ```
    /// # use syncvault::sync::{MemoryLocal, RemoteStore, SyncEngine};
    /// # fn example(remote: impl RemoteStore) -> syncvault::Result<()> {
    /// use syncvault::SyncVault;
    ///
    /// let engine = SyncEngine::spawn_thread(|| async move {
    ///     let vault = SyncVault::open("https://api.example.com", "vault").await?;
    ///     SyncEngine::builder(MemoryLocal::new(), remote, &vault).user("ann").tables(["notes"]).build().await
    /// })?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// What `build` says; [`ErrorKind::Unsupported`] when there can be no thread.
    pub fn spawn_thread<F, Fut>(build: F) -> Result<Self>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Self>>,
    {
        let (built, engine) = mpsc::sync_channel(1);
        let live = move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    // The caller waits for it.
                    drop(built.send(Err(no_thread().with_source(error))));
                    return;
                }
            };
            runtime.block_on(async move {
                let (until, ends) = oneshot::channel();
                let engine = build().await.and_then(|engine| engine.live_here(until));
                drop(built.send(engine));
                // Nothing is ever sent: the other end goes with the last handle.
                ends.await.ok();
            });
        };
        let spawned = thread::Builder::new()
            .name("syncvault-engine".to_owned())
            .spawn(live);
        spawned.map_err(|e| no_thread().with_source(e))?;
        engine.recv().unwrap_or_else(|_| Err(no_thread()))
    }

    fn live_here(self, until: oneshot::Sender<()>) -> Result<Self> {
        let home = Home {
            runtime: Handle::current(),
            _until: until,
        };
        match self.shared.home.set(home) {
            Ok(()) => Ok(self),
            Err(_) => Err(Error::new(
                ErrorKind::WrongState,
                "this engine lives on a thread of its own already",
            )),
        }
    }

    /// Does something on the runtime of the engine. Dropping the future does not stop it then.
    pub(super) async fn at_home<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.shared.home.get() {
            None => work.await,
            Some(home) => home
                .runtime
                .spawn(work)
                .await
                .unwrap_or_else(|_| Err(gone())),
        }
    }
}

fn no_thread() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "the engine got no thread of its own, or ended on it",
    )
}

fn gone() -> Error {
    Error::new(ErrorKind::Closed, "the thread of the engine is gone")
}
