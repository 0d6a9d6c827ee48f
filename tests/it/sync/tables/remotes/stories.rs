//! Engines on several devices in front of one server, over real HTTP: they end with the same rows, which are the server's.

use serde_json::{Value, json};
use syncvault::sync::{
    ConflictStrategy, MemoryLocal, OutgoingState, PostgrestRemote, RemoteStore, Row, SyncEngine,
    SyncReport, Table,
};
use syncvault::{ConnectivityMode, SyncVault};

use super::postgrest::{Site, soft};
use super::reference::Fault;
use super::rig::{Client, Rig, fields};
use crate::story::soon;

/// An engine with its records in memory.
struct Device {
    engine: SyncEngine,
    vault: SyncVault,
}

impl Device {
    async fn new(user: &str, remote: impl RemoteStore, vault: SyncVault) -> Self {
        let table = Table::new("notes").conflicts(ConflictStrategy::Merge);
        let engine = SyncEngine::builder(MemoryLocal::new(), remote, &vault)
            .user(user)
            .tables([table]);
        let engine = engine.build().await.expect("engine");
        Self { engine, vault }
    }

    async fn of(rig: &Rig, user: &str) -> Self {
        let Client { vault, remote } = rig.client(user).await;
        Self::new(user, remote, vault).await
    }

    fn offline(&self) {
        self.vault.set_connectivity(ConnectivityMode::Offline);
    }

    fn online(&self) {
        self.vault.set_connectivity(ConnectivityMode::Online);
    }

    async fn write(&self, id: &str, row: Value) {
        self.engine
            .write("notes", id, fields(row))
            .await
            .expect("written");
    }

    async fn patch(&self, id: &str, row: Value) {
        self.engine
            .patch("notes", id, fields(row))
            .await
            .expect("patched");
    }

    async fn remove(&self, id: &str) {
        self.engine.remove("notes", id).await.expect("removed");
    }

    async fn sync(&self) -> SyncReport {
        soon(self.engine.sync_all()).await.expect("a report")
    }

    /// Its rows, by id.
    async fn rows(&self) -> Vec<(String, Row)> {
        let page = self.engine.list("notes", None, 1000).await.expect("a list");
        let rows = page.records.into_iter();
        rows.filter_map(|record| Some((record.key.id.to_string(), record.row?)))
            .collect()
    }
}

/// Until nothing is on its way anywhere, and everybody has pulled after that.
async fn settle(devices: &[&Device]) {
    for _ in 0..6 {
        for device in devices {
            let report = device.sync().await;
            assert!(report.failure().is_none(), "{report:?}");
        }
    }
    for device in devices {
        assert_eq!(device.engine.pending().await.expect("a count"), 0);
    }
}

/// What the server lists, by id.
async fn server_rows<R: RemoteStore>(client: &Client<R>) -> Vec<(String, Row)> {
    let (rows, _) = client.pull(None, 100).await;
    let rows = rows
        .into_iter()
        .filter_map(|row| Some((row.id.to_string(), row.row?)));
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

/// Two devices change the same records while both are offline: different fields, the same field, a deletion here and an edit there.
async fn both_edit_offline(one: &Device, two: &Device) {
    for (id, row) in [
        ("fields", json!({"title": "milk", "done": false})),
        ("field", json!({"title": "milk"})),
        ("deleted", json!({"title": "old"})),
        ("gone", json!({"title": "both delete it"})),
    ] {
        one.write(id, row).await;
    }
    settle(&[one, two]).await;
    one.offline();
    two.offline();
    one.patch("fields", json!({"title": "oat milk"})).await;
    two.patch("fields", json!({"done": true})).await;
    one.patch("field", json!({"title": "one"})).await;
    two.patch("field", json!({"title": "two"})).await;
    one.remove("deleted").await;
    for device in [one, two] {
        device.remove("gone").await;
    }
    one.write("new-1", json!({"title": "by one"})).await;
    two.write("new-2", json!({"title": "by two"})).await;
    two.write("new-2", json!({"title": "by two, again"})).await;
    assert_ne!(one.rows().await, two.rows().await);
    // One after the other: a vault that is online drains by itself.
    one.online();
    settle(&[one]).await;
    two.online();
    settle(&[two, one]).await;
}

fn title(rows: &[(String, Row)], id: &str) -> Option<String> {
    let row = rows.iter().find(|(other, _)| other == id)?;
    Some(row.1["title"].as_str()?.to_owned())
}

fn assert_merged(rows: &[(String, Row)]) {
    let fields = &rows.iter().find(|(id, _)| id == "fields").expect("a row").1;
    assert_eq!(
        (&fields["title"], &fields["done"]),
        (&json!("oat milk"), &json!(true)),
        "no update is lost"
    );
    assert_eq!(
        title(rows, "field").as_deref(),
        Some("one"),
        "who came first stays"
    );
    assert_eq!(title(rows, "deleted"), None);
    assert_eq!(title(rows, "gone"), None);
    assert_eq!(title(rows, "new-1").as_deref(), Some("by one"));
    assert_eq!(title(rows, "new-2").as_deref(), Some("by two, again"));
}

#[tokio::test]
async fn two_devices_converge_through_the_reference_server() {
    let rig = Rig::start().await;
    let (one, two) = (Device::of(&rig, "ann").await, Device::of(&rig, "ann").await);
    both_edit_offline(&one, &two).await;
    let rows = one.rows().await;
    assert_merged(&rows);
    assert_eq!(rows, two.rows().await);
    assert_eq!(rows, server_rows(&rig.client("ann").await).await);
}

#[tokio::test]
async fn two_devices_converge_through_postgrest() {
    let site = Site::start().await;
    let mut devices = Vec::new();
    for _ in 0..2 {
        let Client { vault, remote } = site.client_of("ann", soft().version("rev")).await;
        devices.push(Device::new("ann", remote, vault).await);
    }
    let [one, two] = &devices[..] else {
        panic!("two")
    };
    both_edit_offline(one, two).await;
    let rows = one.rows().await;
    assert_merged(&rows);
    assert_eq!(rows, two.rows().await);
    let client: Client<PostgrestRemote> = site.client_of("ann", soft().version("rev")).await;
    assert_eq!(rows, server_rows(&client).await);
}

#[tokio::test]
async fn after_a_cursor_is_gone_everything_is_listed_anew_and_unsent_work_stays() {
    let rig = Rig::start().await;
    let (one, two) = (Device::of(&rig, "ann").await, Device::of(&rig, "ann").await);
    for id in ["1", "2"] {
        one.write(id, json!({"title": id})).await;
    }
    settle(&[&one, &two]).await;
    two.offline();
    two.write("3", json!({"title": "unsent"})).await;
    one.remove("1").await;
    settle(&[&one]).await;
    rig.server
        .forget_tombstones(std::time::Duration::ZERO)
        .expect("forget");
    two.online();
    settle(&[&two, &one]).await;
    let ids = |rows: Vec<(String, Row)>| rows.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(
        ids(two.rows().await),
        ["2", "3"],
        "a deletion whose tombstone is forgotten is seen all the same"
    );
    assert_eq!(ids(one.rows().await), ["2", "3"]);
}

#[tokio::test]
async fn a_forbidden_record_is_refused_and_the_others_go_on() {
    let rig = Rig::start().await;
    let (ann, bob) = (Device::of(&rig, "ann").await, Device::of(&rig, "bob").await);
    ann.write("1", json!({"title": "ann's"})).await;
    settle(&[&ann]).await;
    bob.write("1", json!({"title": "bob's"})).await;
    bob.write("2", json!({"title": "bob's"})).await;
    // The report names the refusal; the record tells it too.
    drop(bob.sync().await);
    let record = bob
        .engine
        .record("notes", "1")
        .await
        .expect("read")
        .expect("a record");
    let state = &record.meta.newest().expect("unsynced").state;
    assert!(matches!(state, OutgoingState::Refused { .. }), "{state:?}");
    let record = bob
        .engine
        .record("notes", "2")
        .await
        .expect("read")
        .expect("a record");
    assert!(!record.meta.is_unsynced());
}

#[tokio::test]
async fn work_that_waits_for_a_login_goes_out_after_it() {
    let rig = Rig::start().await;
    let ann = Device::of(&rig, "ann").await;
    settle(&[&ann]).await;
    rig.server.dismiss("ann-token").expect("dismiss");
    ann.write("1", json!({"title": "waits"})).await;
    let report = ann.sync().await;
    assert!(report.failure().is_some(), "{report:?}");
    assert_eq!(ann.engine.pending().await.expect("a count"), 1);
    rig.server.admit("ann-token", "ann").expect("admit");
    soon(ann.vault.wait_idle()).await.expect("idle");
    settle(&[&ann]).await;
    assert_eq!(server_rows(&rig.client("ann").await).await.len(), 1);
}

/// A server without batches, conditions or keys is still no reason to lose work: what it said 200 to and did not take stays with its
/// record, and goes out when somebody says so.
#[tokio::test]
async fn what_is_rejected_in_a_200_stays_with_its_record() {
    let rig = Rig::start().await;
    let ann = Device::of(&rig, "ann").await;
    settle(&[&ann]).await;
    rig.server.next([Fault::ErrorPayload]);
    ann.write("1", json!({"title": "a"})).await;
    soon(ann.engine.drain()).await.expect("drained");
    let record = ann
        .engine
        .record("notes", "1")
        .await
        .expect("read")
        .expect("a record");
    let state = &record.meta.newest().expect("unsynced").state;
    assert!(
        matches!(state, OutgoingState::Refused { reason } if reason.contains("on fire")),
        "{state:?}"
    );
    ann.engine.resend("notes", "1").await.expect("resent");
    settle(&[&ann]).await;
    assert_eq!(server_rows(&rig.client("ann").await).await.len(), 1);
}
