//! A server of tables, and devices that come, go and crash.

use std::time::Duration;

use serde_json::{Value, json};
use syncvault::SyncVault;
use syncvault::connectivity::AlwaysReachable;
use syncvault::store::MemoryStore;
use syncvault::sync::{
    ConflictStrategy, MemoryLocal, Row, SyncEngine, SyncEngineBuilder, Table, TableEvent,
    TableEventKind, TableEvents,
};
use syncvault::testing::{Asked, Fate, TableRemote, TableServer, TestClock};

pub(super) const PATIENCE: Duration = Duration::from_secs(600);

/// A server and a clock.
#[derive(Debug)]
pub(super) struct Town {
    pub(super) server: TableServer,
    pub(super) clock: TestClock,
}

/// One device: what it keeps over a crash, and what runs.
pub(super) struct Device {
    pub(super) clock: TestClock,
    pub(super) server: TableServer,
    pub(super) local: MemoryLocal,
    pub(super) store: MemoryStore,
    pub(super) vault: SyncVault,
    pub(super) engine: SyncEngine,
    pub(super) events: TableEvents,
}

impl Town {
    pub(super) fn new() -> Self {
        let clock = TestClock::new();
        Self {
            server: TableServer::new(clock.clone()),
            clock,
        }
    }

    pub(super) async fn device(&self) -> Device {
        self.device_with(|builder| builder.tables(["notes"])).await
    }

    pub(super) async fn device_merging(&self, strategy: ConflictStrategy) -> Device {
        self.device_with(|builder| builder.tables([Table::new("notes").conflicts(strategy)]))
            .await
    }

    pub(super) async fn device_with(
        &self,
        more: impl FnOnce(SyncEngineBuilder) -> SyncEngineBuilder,
    ) -> Device {
        let (local, store) = (MemoryLocal::new(), MemoryStore::new());
        let vault = vault(&self.server, &store, &self.clock).await;
        let engine = engine(&local, &vault, &self.clock, more).await;
        Device {
            clock: self.clock.clone(),
            server: self.server.clone(),
            local,
            store,
            events: engine.events(),
            vault,
            engine,
        }
    }

    /// Nothing that matches arrives.
    pub(super) fn cut(&self, is_cut: impl Fn(&Asked) -> bool + Send + 'static) {
        self.server.route(move |asked| match is_cut(asked) {
            true => Fate::Unreachable,
            false => Fate::Answer,
        });
    }
}

async fn vault(server: &TableServer, store: &MemoryStore, clock: &TestClock) -> SyncVault {
    let vault = SyncVault::builder("http://tables.test")
        .store(store.restarted())
        .transport(server.transport())
        .connectivity(AlwaysReachable::new())
        .clock(clock.clone());
    vault.build().await.expect("a vault")
}

async fn engine(
    local: &MemoryLocal,
    vault: &SyncVault,
    clock: &TestClock,
    more: impl FnOnce(SyncEngineBuilder) -> SyncEngineBuilder,
) -> SyncEngine {
    let remote = TableRemote::new(vault);
    let builder = SyncEngine::builder(local.clone(), remote, vault)
        .user("ann")
        .clock(clock.clone());
    more(builder).build().await.expect("an engine")
}

impl Device {
    /// The app dies, and starts again over what is kept.
    pub(super) async fn restart(self) -> Self {
        self.restart_with(|builder| builder.tables(["notes"])).await
    }

    pub(super) async fn restart_with(
        self,
        more: impl FnOnce(SyncEngineBuilder) -> SyncEngineBuilder,
    ) -> Self {
        let Self {
            clock,
            server,
            local,
            store,
            vault,
            engine: old,
            events,
        } = self;
        drop((vault, old, events));
        // What ran ends before the next one opens the store.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let vault = self::vault(&server, &store, &clock).await;
        let engine = self::engine(&local, &vault, &clock, more).await;
        Self {
            events: engine.events(),
            clock,
            server,
            local,
            store,
            vault,
            engine,
        }
    }

    pub(super) async fn write(&self, id: &str, value: Value) {
        self.engine
            .write("notes", id, row(value))
            .await
            .expect("write");
    }

    pub(super) async fn sync(&self) {
        let report = self.engine.sync_all().await.expect("sync");
        assert!(report.is_success(), "{report:?}");
    }

    pub(super) async fn get(&self, id: &str) -> Option<Value> {
        self.engine
            .get("notes", id)
            .await
            .expect("get")
            .map(Value::Object)
    }

    pub(super) async fn is_unsynced(&self, id: &str) -> bool {
        let record = self.engine.record("notes", id).await.expect("record");
        record.is_some_and(|record| record.meta.is_unsynced())
    }

    /// Waits for an event.
    pub(super) async fn hears(&mut self, is_it: impl Fn(&TableEventKind) -> bool) -> TableEvent {
        let wait = async {
            loop {
                let event = self.events.next().await.expect("the engine lives");
                if is_it(&event.kind) {
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("the event comes")
    }

    /// The events that are there by now.
    pub(super) async fn heard(&mut self) -> Vec<TableEventKind> {
        let mut heard = Vec::new();
        while let Ok(Some(event)) =
            tokio::time::timeout(Duration::from_millis(1), self.events.next()).await
        {
            heard.push(event.kind);
        }
        heard
    }

    pub(super) async fn conflicts(&mut self) -> usize {
        let heard = self.heard().await;
        heard
            .iter()
            .filter(|kind| matches!(kind, TableEventKind::Conflict { .. }))
            .count()
    }
}

pub(super) fn row(value: Value) -> Row {
    match value {
        Value::Object(row) => row,
        _ => panic!("no row"),
    }
}

impl Town {
    pub(super) fn put(&self, id: &str, value: Value) {
        let row = if value.is_null() {
            None
        } else {
            Some(row(value))
        };
        self.server.put("notes", id, row);
    }

    pub(super) fn has(&self, id: &str) -> Option<Value> {
        self.server.row("notes", id).map(Value::Object)
    }
}

pub(super) fn text(text: &str) -> Value {
    json!({ "text": text })
}
