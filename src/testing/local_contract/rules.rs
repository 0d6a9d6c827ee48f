//! The rules.

use std::sync::Arc;

use serde_json::{Value, json};

use super::LocalFactory;
use crate::clock::Timestamp;
use crate::sync::{
    Checkpoint, CheckpointKey, Cursor, ItemId, LocalRecord, LocalStep, LocalStore, Operation,
    Outgoing, Quarantined, RecordKey, RecordMeta, Row, TableSpec, TableState, Touched, Unsynced,
    Version,
};

const NOTES: &str = "notes";
const TASKS: &str = "tasks";

struct Rig<'f, F: LocalFactory> {
    factory: &'f F,
    place: F::Place,
    store: Arc<dyn LocalStore>,
}

impl<'f, F: LocalFactory> Rig<'f, F> {
    async fn new(factory: &'f F) -> Self {
        let place = factory.place();
        let store = opened(factory, &place).await;
        Self {
            factory,
            place,
            store,
        }
    }

    async fn restarted(self) -> Self {
        let Self {
            factory,
            place,
            store,
        } = self;
        drop(store);
        let store = opened(factory, &place).await;
        Self {
            factory,
            place,
            store,
        }
    }

    async fn commit(&self, step: LocalStep) {
        self.store.commit(step).await.expect("commit");
    }

    async fn put(&self, record: LocalRecord) {
        self.commit(LocalStep::new().write(record, Touched::Row))
            .await;
    }

    async fn read(&self, table: &str, id: &str) -> Option<LocalRecord> {
        let page = self
            .store
            .read(table, &[ItemId::from(id)])
            .await
            .expect("read");
        assert!(page.damaged.is_empty());
        page.records.into_iter().next()
    }

    async fn row(&self, id: &str) -> Option<Value> {
        self.read(NOTES, id)
            .await
            .and_then(|record| record.row)
            .map(Value::Object)
    }
}

async fn opened<F: LocalFactory>(factory: &F, place: &F::Place) -> Arc<dyn LocalStore> {
    let store = factory.open(place).await.expect("a store");
    let tables = [TableSpec::new(NOTES), TableSpec::new(TASKS)];
    store.open(&tables).await.expect("open");
    store
}

fn row(value: &Value) -> Option<Row> {
    value.as_object().cloned()
}

fn record(id: &str, value: &Value) -> LocalRecord {
    let mut record = LocalRecord::unknown(RecordKey::new(NOTES, id));
    record.row = row(value);
    record.meta.seen = 1;
    record.meta.version = Some(Version::from(7));
    record
}

fn unsynced(mut record: LocalRecord) -> LocalRecord {
    let mut change = Outgoing::new(
        Operation::Upsert,
        record.row.clone(),
        Timestamp::from_millis(5),
    );
    change.key = format!("key of {}", record.key);
    record.meta.unsynced = Some(Unsynced {
        base: row(&json!({"text": "base"})),
        changes: vec![change],
    });
    record
}

fn ids(records: &[LocalRecord]) -> Vec<&str> {
    records
        .iter()
        .map(|record| record.key.id.as_str())
        .collect()
}

/// Every JSON value, the limits of 64 bits, 100 levels of nesting, and what is known beside the row.
pub async fn rows_come_back_as_they_were_written(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    let mut deep = json!("bottom");
    for _ in 0..100 {
        deep = json!([deep]);
    }
    let values = [
        json!({"text": "\0'\"; DROP TABLE notes; -- \u{1F600} \u{202E}", "number": i64::MIN}),
        json!({"text": "", "number": u64::MAX, "list": [null, true, {"a": []}]}),
        json!({"text": null, "number": 0.1, "list": deep}),
        json!({"text": {"nested": "object"}, "number": i64::MAX, "more": false}),
    ];
    for (n, value) in values.iter().enumerate() {
        let written = unsynced(record(&n.to_string(), value));
        rig.put(written.clone()).await;
        assert_eq!(
            rig.read(NOTES, &n.to_string()).await,
            Some(written),
            "{value}"
        );
    }
}

/// Ids are data.
pub async fn any_text_is_an_id(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    let hostile = [
        "'",
        "\"",
        "\0",
        "a\0b",
        "../..",
        "%",
        "日本",
        "\u{1F600}",
        " ",
        "NULL",
        "1; --",
        "\n",
        "A",
        "a",
    ];
    for id in hostile {
        rig.put(record(id, &json!({"text": id}))).await;
    }
    for id in hostile {
        assert_eq!(rig.row(id).await, Some(json!({"text": id})), "{id:?}");
    }
}

/// Fields that the new row does not hold go.
pub async fn a_write_replaces_the_row(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    rig.put(record("1", &json!({"text": "a", "number": 1})))
        .await;
    rig.put(record("1", &json!({"text": "b"}))).await;
    assert_eq!(rig.row("1").await, Some(json!({"text": "b"})));
}

/// A partial update touches its fields only.
pub async fn fields_that_are_not_named_stay(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    rig.put(record("1", &json!({"text": "a", "number": 1, "more": "x"})))
        .await;
    let patched = record("1", &json!({"text": "not written", "number": 2}));
    let touched = Touched::Fields(vec!["number".to_owned(), "more".to_owned()]);
    rig.commit(LocalStep::new().write(patched, touched)).await;
    assert_eq!(rig.row("1").await, Some(json!({"text": "a", "number": 2})));
}

/// What is known of a record can change alone.
pub async fn a_write_of_nothing_leaves_the_row_alone(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    rig.put(record("1", &json!({"text": "a"}))).await;
    let mut known = record("1", &json!({"text": "not written"}));
    known.meta.seen = 9;
    rig.commit(LocalStep::new().write(known, Touched::Nothing))
        .await;
    assert_eq!(rig.row("1").await, Some(json!({"text": "a"})));
    assert_eq!(
        rig.read(NOTES, "1").await.map(|record| record.meta.seen),
        Some(9)
    );
}

/// Deleted rows are gone for the app, and remembered.
pub async fn a_tombstone_is_read_and_not_listed(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    rig.put(record("1", &json!({"text": "a"}))).await;
    let mut gone = record("1", &Value::Null);
    gone.meta.deleted_at = Some(Timestamp::from_millis(3));
    rig.put(gone.clone()).await;
    assert_eq!(rig.read(NOTES, "1").await, Some(gone));
    assert!(
        rig.store
            .list(NOTES, None, 10)
            .await
            .expect("list")
            .records
            .is_empty()
    );
}

/// Behind `after`, at most `limit`, byte by byte.
pub async fn pages_go_by_id_and_end(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    let mut want: Vec<String> = (0..25).map(|n| format!("{n:x}\u{e9}{n}")).collect();
    for id in &want {
        rig.put(unsynced(record(id, &json!({"text": id})))).await;
    }
    want.sort();
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = rig
            .store
            .list(NOTES, after.as_ref(), 4)
            .await
            .expect("list");
        let same = rig
            .store
            .unsynced(NOTES, after.as_ref(), 4)
            .await
            .expect("unsynced");
        assert_eq!(ids(&page.records), ids(&same.records));
        assert!(page.records.len() <= 4);
        let Some(last) = page.last().cloned() else {
            break;
        };
        listed.extend(
            page.records
                .into_iter()
                .map(|record| record.key.id.to_string()),
        );
        after = Some(last);
    }
    assert_eq!(listed, want);
}

/// Rechecks count too.
pub async fn unsynced_records_are_found_and_counted(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    let mut recheck = record("2", &json!({"text": "b"}));
    recheck.meta.recheck = true;
    let mut gone = record("4", &Value::Null);
    gone.meta.deleted_at = Some(Timestamp::EPOCH);
    for record in [
        unsynced(record("1", &json!({"text": "a"}))),
        recheck,
        record("3", &json!({"text": "c"})),
        unsynced(gone),
    ] {
        rig.put(record).await;
    }
    let page = rig.store.unsynced(NOTES, None, 10).await.expect("unsynced");
    assert_eq!(ids(&page.records), ["1", "2", "4"]);
    assert_eq!(rig.store.unsynced_count(NOTES).await.expect("count"), 3);
    rig.put(record("1", &json!({"text": "a"}))).await;
    assert_eq!(rig.store.unsynced_count(NOTES).await.expect("count"), 2);
    assert_eq!(rig.store.unsynced_count(TASKS).await.expect("count"), 0);
}

/// Tombstones among them.
pub async fn records_that_a_listing_missed_are_found(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    for (id, seen) in [("1", 1), ("2", 3), ("3", 2), ("4", 0)] {
        let mut record = record(
            id,
            &if id == "3" {
                Value::Null
            } else {
                json!({"text": "a"})
            },
        );
        record.meta.seen = seen;
        rig.put(record).await;
    }
    let page = rig.store.unseen(NOTES, 3, None, 10).await.expect("unseen");
    assert_eq!(ids(&page.records), ["1", "3", "4"]);
    let page = rig
        .store
        .unseen(NOTES, 3, Some(&ItemId::from("1")), 1)
        .await
        .expect("unseen");
    assert_eq!(ids(&page.records), ["3"]);
}

/// Not those that are unsynced.
pub async fn old_tombstones_in_step_are_found(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    for (id, at) in [("1", 10), ("2", 20), ("3", 30)] {
        let mut gone = record(id, &Value::Null);
        gone.meta.deleted_at = Some(Timestamp::from_millis(at));
        rig.put(if id == "1" { unsynced(gone) } else { gone }).await;
    }
    rig.put(record("4", &json!({"text": "alive"}))).await;
    let page = rig
        .store
        .tombstones(NOTES, Timestamp::from_millis(30), 10)
        .await
        .expect("tombstones");
    assert_eq!(ids(&page.records), ["2"]);
}

/// Row and all.
pub async fn removed_records_are_unknown(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    rig.put(unsynced(record("1", &json!({"text": "a"})))).await;
    let mut step = LocalStep::new();
    step.removes = vec![
        RecordKey::new(NOTES, "1"),
        RecordKey::new(NOTES, "never there"),
    ];
    rig.commit(step).await;
    assert_eq!(rig.read(NOTES, "1").await, None);
    assert!(
        rig.store
            .list(NOTES, None, 10)
            .await
            .expect("list")
            .records
            .is_empty()
    );
}

fn checkpoint(user: &str, cursor: &str) -> Checkpoint {
    let mut checkpoint = Checkpoint::start(CheckpointKey::new(user, NOTES));
    checkpoint.cursor = Some(Cursor::new(cursor));
    checkpoint
}

/// Users share no checkpoint.
pub async fn state_and_checkpoint_are_committed_with_the_records(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    let state = TableState {
        user: Some("ann".to_owned()),
        generation: 4,
        is_listing: true,
    };
    assert_eq!(
        rig.store.state(NOTES).await.expect("state"),
        TableState::default()
    );
    for (user, cursor) in [("ann", "page 1"), ("bob", "his"), ("ann", "page 2")] {
        let mut step = LocalStep::new().write(record(user, &json!({"text": cursor})), Touched::Row);
        step.state = Some((NOTES.to_owned(), state.clone()));
        step.checkpoint = Some(checkpoint(user, cursor));
        rig.commit(step).await;
    }
    assert_eq!(rig.store.state(NOTES).await.expect("state"), state);
    let (ann, bob) = (
        CheckpointKey::new("ann", NOTES),
        CheckpointKey::new("bob", NOTES),
    );
    assert_eq!(
        rig.store.checkpoint(&ann).await.expect("checkpoint"),
        Some(checkpoint("ann", "page 2"))
    );
    rig.store.remove_checkpoint(&ann).await.expect("remove");
    rig.store.remove_checkpoint(&ann).await.expect("remove");
    assert_eq!(rig.store.checkpoint(&ann).await.expect("checkpoint"), None);
    assert_eq!(
        rig.store.checkpoint(&bob).await.expect("checkpoint"),
        Some(checkpoint("bob", "his"))
    );
}

/// One id in two tables is two records.
pub async fn tables_are_apart(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    rig.put(record("1", &json!({"text": "a"}))).await;
    let mut task = record("1", &json!({"text": "b"}));
    task.key = RecordKey::new(TASKS, "1");
    rig.put(task.clone()).await;
    assert_eq!(rig.row("1").await, Some(json!({"text": "a"})));
    assert_eq!(rig.read(TASKS, "1").await, Some(task));
    rig.store.clear(TASKS).await.expect("clear");
    assert_eq!(rig.row("1").await, Some(json!({"text": "a"})));
}

/// At most as many as were asked for.
pub async fn what_is_set_aside_is_kept_newest_first(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    for n in 0..3 {
        let mut set_aside = Quarantined::new(
            NOTES,
            (n > 0).then(|| ItemId::new(n.to_string())),
            Timestamp::from_millis(n),
        );
        set_aside.reason = format!("reason {n}");
        set_aside.text = "text".to_owned();
        let mut step = LocalStep::new();
        step.quarantine.push(set_aside);
        rig.commit(step).await;
    }
    let kept = rig.store.quarantine(NOTES, 2).await.expect("quarantine");
    let reasons: Vec<&str> = kept
        .iter()
        .map(|set_aside| set_aside.reason.as_str())
        .collect();
    assert_eq!(reasons, ["reason 2", "reason 1"]);
    assert!(
        rig.store
            .quarantine(TASKS, 2)
            .await
            .expect("quarantine")
            .is_empty()
    );
}

/// Only what is known of a record is held, which has its row too.
pub async fn held_records_are_apart_from_tables_and_users(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    let ours = unsynced(record("1", &json!({"text": "a"})));
    rig.put(ours.clone()).await;
    let mut step = LocalStep::new();
    step.removes.push(ours.key.clone());
    step.hold.push(("ann".to_owned(), ours.clone()));
    step.hold.push((
        "bob".to_owned(),
        unsynced(record("1", &json!({"text": "b"}))),
    ));
    rig.commit(step).await;
    assert_eq!(rig.read(NOTES, "1").await, None);
    let held = rig.store.held("ann", 10).await.expect("held");
    let metas: Vec<&RecordMeta> = held.iter().map(|record| &record.meta).collect();
    assert_eq!((ids(&held), metas), (vec!["1"], vec![&ours.meta]));
    let mut step = LocalStep::new();
    step.release.push(("ann".to_owned(), ours.key.clone()));
    rig.commit(step).await;
    assert!(rig.store.held("ann", 10).await.expect("held").is_empty());
    assert_eq!(rig.store.held("bob", 10).await.expect("held").len(), 1);
}

/// Rows, what is known of them, state, checkpoints and quarantine.
pub async fn clearing_a_table_leaves_nothing_of_it_but_what_is_held(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    let mut step =
        LocalStep::new().write(unsynced(record("1", &json!({"text": "a"}))), Touched::Row);
    step.checkpoint = Some(checkpoint("ann", "there"));
    step.state = Some((
        NOTES.to_owned(),
        TableState {
            generation: 3,
            ..TableState::default()
        },
    ));
    step.quarantine
        .push(Quarantined::new(NOTES, None, Timestamp::EPOCH));
    step.hold.push((
        "ann".to_owned(),
        unsynced(record("2", &json!({"text": "b"}))),
    ));
    rig.commit(step).await;
    assert!(
        rig.store
            .tables()
            .await
            .expect("tables")
            .contains(&NOTES.to_owned())
    );
    rig.store.clear(NOTES).await.expect("clear");
    assert_eq!(rig.read(NOTES, "1").await, None);
    assert_eq!(rig.store.unsynced_count(NOTES).await.expect("count"), 0);
    assert_eq!(
        rig.store.state(NOTES).await.expect("state"),
        TableState::default()
    );
    let key = CheckpointKey::new("ann", NOTES);
    assert_eq!(rig.store.checkpoint(&key).await.expect("checkpoint"), None);
    assert!(
        rig.store
            .quarantine(NOTES, 1)
            .await
            .expect("quarantine")
            .is_empty()
    );
    assert!(
        !rig.store
            .tables()
            .await
            .expect("tables")
            .contains(&NOTES.to_owned())
    );
    assert_eq!(rig.store.held("ann", 10).await.expect("held").len(), 1);
}

/// What was committed.
pub async fn everything_is_there_after_a_restart(factory: &impl LocalFactory) {
    let rig = Rig::new(factory).await;
    let ours = unsynced(record("1", &json!({"text": "a"})));
    let mut step = LocalStep::new().write(ours.clone(), Touched::Row);
    step.checkpoint = Some(checkpoint("ann", "there"));
    rig.commit(step).await;
    let rig = rig.restarted().await;
    assert_eq!(rig.read(NOTES, "1").await, Some(ours));
    let key = CheckpointKey::new("ann", NOTES);
    assert!(
        rig.store
            .checkpoint(&key)
            .await
            .expect("checkpoint")
            .is_some()
    );
}
