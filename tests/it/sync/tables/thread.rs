//! An engine on a thread of its own, used from one without a runtime.

use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use syncvault::SyncVault;
use syncvault::clock::SystemClock;
use syncvault::connectivity::AlwaysReachable;
use syncvault::store::MemoryStore;
use syncvault::sync::{MemoryLocal, SyncEngine, TableEventKind};
use syncvault::testing::{TableRemote, TableServer};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    text: String,
}

/// Waits without a runtime.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    loop {
        if let Some(done) = future.as_mut().now_or_never() {
            return done;
        }
        std::thread::yield_now();
    }
}

#[test]
fn an_engine_on_its_own_thread_is_used_like_any_other() {
    let server = TableServer::new(SystemClock);
    let transport = server.transport();
    let engine = SyncEngine::spawn_thread(move || async move {
        let vault = SyncVault::builder("http://tables.test")
            .store(MemoryStore::new())
            .transport(transport)
            .connectivity(AlwaysReachable::new())
            .build()
            .await?;
        let remote = TableRemote::new(&vault);
        SyncEngine::builder(MemoryLocal::new(), remote, &vault)
            .user("ann")
            .tables(["notes"])
            .build()
            .await
    });
    let engine = engine.expect("an engine");
    let mut events = engine.events();
    let notes = engine.collection::<Note>("notes");
    let note = Note {
        text: "hello".to_owned(),
    };
    wait(notes.write("1", &note)).expect("write");
    let pushed = wait(async {
        loop {
            let event = events.next().await.expect("it lives");
            if let TableEventKind::Pushed { id, .. } = event.kind {
                return id;
            }
        }
    });
    assert_eq!(pushed.as_str(), "1");
    assert!(wait(engine.sync_all()).expect("sync").is_success());
    assert_eq!(wait(notes.get("1")).expect("get"), Some(note));
    assert_eq!(wait(notes.list(None, 10)).expect("list").len(), 1);
    assert_eq!(server.rows("notes").len(), 1);
    drop((engine, notes));
    wait(async { while events.next().await.is_some() {} });
}
