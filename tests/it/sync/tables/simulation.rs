//! Three devices and a server, from a seed, on virtual time: edits, deletions, partitions, crashes, requests that come twice, late or
//! not at all, clocks that are a day wrong. When all is well again, all are the same, and nothing was lost without a word.
//!
//! `SYNCVAULT_SYNC_SEEDS=100000` runs more; `SYNCVAULT_SYNC_SEED=<seed>` one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use syncvault::connectivity::AlwaysReachable;
use syncvault::decide::FailureKind;
use syncvault::store::MemoryStore;
use syncvault::sync::{ConflictStrategy, MemoryLocal, Row, SyncEngine, Table, TableEventKind};
use syncvault::testing::{TableRemote, TableServer, TableTransport, TestClock};
use syncvault::transport::{Transport, TransportFailure, TransportFuture};
use syncvault::{Backoff, SyncVault};

use super::town::row;

const DEVICES: usize = 3;
/// In an ordinary run.
const SEEDS: u64 = 300;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Numbers from a seed.
#[derive(Clone, Debug)]
struct Luck(u64);

impl Luck {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// How one device reaches the server.
#[derive(Debug)]
struct Wire {
    luck: Luck,
    is_cut: bool,
    is_well: bool,
}

#[derive(Clone, Debug)]
struct Link {
    server: TableTransport,
    wire: Arc<Mutex<Wire>>,
}

impl Transport for Link {
    fn send(&self, request: reqwest::Request) -> TransportFuture<'_> {
        let (is_lost_before, is_lost_after, is_doubled, before, after) = {
            let mut wire = self.wire.lock().expect("wire");
            let is_well = wire.is_well;
            let mut luck = |chance| !is_well && wire.luck.percent(chance);
            let (lost, late, twice, slow) = (luck(8), luck(8), luck(10), luck(50));
            let is_cut = wire.is_cut && !is_well;
            let wait = |wire: &mut Wire| {
                Duration::from_millis(if slow { wire.luck.below(8000) } else { 1 })
            };
            (
                lost || is_cut,
                late,
                twice,
                wait(&mut wire),
                wait(&mut wire),
            )
        };
        Box::pin(async move {
            tokio::time::sleep(before).await;
            if is_lost_before {
                return Err(TransportFailure::new(FailureKind::Connect));
            }
            if let Some(twin) = request.try_clone().filter(|_| is_doubled) {
                self.server.send(twin).await.ok();
            }
            let answer = self.server.send(request).await;
            tokio::time::sleep(after).await;
            if is_lost_after {
                return Err(TransportFailure::new(FailureKind::Interrupted));
            }
            answer
        })
    }
}

struct Replica {
    number: usize,
    local: MemoryLocal,
    store: MemoryStore,
    clock: TestClock,
    link: Link,
    engine: Option<SyncEngine>,
    told: Arc<Mutex<Vec<TableEventKind>>>,
    syncs: Vec<tokio::task::JoinHandle<()>>,
    /// The newest value that this device wrote into its own field of a record.
    own: BTreeMap<String, u64>,
}

impl Replica {
    /// A device whose clock may be a day off.
    fn new(number: usize, luck: &mut Luck, server: &TableServer) -> Self {
        let clock = TestClock::new();
        match luck.below(3) {
            0 => clock.set_forward(DAY),
            1 => clock.set_back(DAY),
            _ => {}
        }
        let wire = Wire {
            luck: Luck(luck.next()),
            is_cut: false,
            is_well: true,
        };
        Self {
            number,
            local: MemoryLocal::new(),
            store: MemoryStore::new(),
            clock,
            link: Link {
                server: server.transport(),
                wire: Arc::new(Mutex::new(wire)),
            },
            engine: None,
            told: Arc::default(),
            syncs: Vec::new(),
            own: BTreeMap::new(),
        }
    }

    async fn start(&mut self) {
        let vault = SyncVault::builder("http://tables.test")
            .store(self.store.restarted())
            .transport(self.link.clone())
            .connectivity(AlwaysReachable::new())
            .clock(self.clock.clone())
            .build()
            .await
            .expect("a vault");
        let table = Table::new("notes").conflicts(ConflictStrategy::Merge);
        let engine = SyncEngine::builder(self.local.clone(), TableRemote::new(&vault), &vault)
            .user("ann")
            .tables([table])
            .batch_size(3)
            .backoff(Backoff::fixed(Duration::from_secs(1)))
            .clock(self.clock.clone())
            .build()
            .await
            .expect("an engine");
        let (mut events, told) = (engine.events(), self.told.clone());
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                assert_eq!(event.missed_before, 0);
                told.lock().expect("told").push(event.kind);
            }
        });
        self.engine = Some(engine);
    }

    async fn crash(&mut self) {
        for sync in self.syncs.drain(..) {
            sync.abort();
            sync.await.ok();
        }
        self.engine = None;
        // What ran ends before the next one opens the store.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    fn engine(&self) -> &SyncEngine {
        self.engine.as_ref().expect("it runs")
    }

    /// Own fields are this device's alone; the field `s` is everybody's.
    async fn edit(&mut self, luck: &mut Luck, serial: u64) {
        let id = match luck.below(2) {
            0 => format!("a{}", luck.below(3)),
            _ => format!("b{}", luck.below(3)),
        };
        let mine = format!("d{}", self.number);
        let mut fields = Row::new();
        fields.insert(mine.clone(), json!(serial));
        if luck.percent(40) {
            fields.insert("s".to_owned(), json!(serial));
        }
        let known = self.engine().get("notes", id.clone()).await.expect("get");
        match known {
            // A whole row that was read before is stale when others changed it meanwhile: that would be the app's own doing.
            Some(_) if id.starts_with('a') || luck.percent(50) => {
                let patched = self.engine().patch("notes", id.clone(), fields).await;
                patched.expect("patch");
            }
            known => {
                let mut row = known.unwrap_or_default();
                row.extend(fields);
                self.engine()
                    .write("notes", id.clone(), row)
                    .await
                    .expect("write");
            }
        }
        self.own.insert(id, serial);
    }

    async fn delete(&self, luck: &mut Luck, deleted: &mut BTreeSet<String>) {
        let id = match luck.below(2) {
            0 => format!("b{}", luck.below(3)),
            _ => format!("c{}", luck.below(4)),
        };
        if self
            .engine()
            .get("notes", id.clone())
            .await
            .expect("get")
            .is_some()
        {
            self.engine()
                .remove("notes", id.clone())
                .await
                .expect("remove");
            if id.starts_with('c') {
                deleted.insert(id);
            }
        }
    }

    async fn rows(&self) -> BTreeMap<String, Row> {
        let page = self.engine().list("notes", None, 1000).await.expect("list");
        let records = page.records.into_iter();
        records
            .filter_map(|record| Some((record.key.id.to_string(), record.row?)))
            .collect()
    }
}

/// What a seed brought; the error says what is wrong.
async fn live(seed: u64) -> Result<usize, String> {
    let mut luck = Luck(seed);
    let noon = TestClock::new();
    let server = TableServer::new(noon.clone());
    server.set_honours_keys(luck.percent(50));
    for n in 0..3 {
        server.put("notes", &format!("a{n}"), Some(row(json!({ "a": n }))));
    }
    for n in 0..4 {
        server.put("notes", &format!("c{n}"), Some(row(json!({ "c": n }))));
    }
    let mut replicas = Vec::new();
    for number in 0..DEVICES {
        let mut replica = Replica::new(number, &mut luck, &server);
        replica.start().await;
        drop(replica.engine().sync_all().await);
        replica.link.wire.lock().expect("wire").is_well = false;
        replicas.push(replica);
    }
    let mut deleted = BTreeSet::new();
    for serial in 1..=luck.below(40) + 20 {
        let at = usize::try_from(luck.below(DEVICES as u64)).expect("small");
        let replica = &mut replicas[at];
        match luck.below(100) {
            0..45 => replica.edit(&mut luck, serial).await,
            45..55 => replica.delete(&mut luck, &mut deleted).await,
            55..80 => {
                let engine = replica.engine().clone();
                replica
                    .syncs
                    .push(tokio::spawn(async move { drop(engine.sync_all().await) }));
            }
            80..88 => {
                let mut wire = replica.link.wire.lock().expect("wire");
                wire.is_cut = !wire.is_cut;
            }
            88..94 => {
                replica.crash().await;
                replica.start().await;
            }
            94..96 => server.forget_cursors(),
            _ => replica
                .clock
                .set_forward(Duration::from_secs(luck.below(7200))),
        }
        tokio::time::sleep(Duration::from_millis(luck.below(6000))).await;
    }
    heal(&mut replicas, &server).await?;
    judge(&replicas, &server, &deleted)
}

async fn heal(replicas: &mut [Replica], server: &TableServer) -> Result<(), String> {
    for replica in replicas.iter() {
        replica.link.wire.lock().expect("wire").is_well = true;
    }
    let mut why = String::new();
    for _ in 0..30 {
        for replica in replicas.iter() {
            drop(replica.engine().sync_all().await);
        }
        tokio::time::sleep(Duration::from_secs(700)).await;
        why = differing(replicas, server).await;
        if why.is_empty() {
            return Ok(());
        }
    }
    Err(why)
}

async fn differing(replicas: &[Replica], server: &TableServer) -> String {
    let want = server.rows("notes");
    for replica in replicas {
        let pending = replica.engine().pending().await.expect("pending");
        let rows = replica.rows().await;
        if pending > 0 || rows != want {
            let page = replica
                .engine()
                .unsynced("notes", None, 99)
                .await
                .expect("unsynced");
            return format!(
                "device {}: {pending} pending {:?}\n{rows:?}\nserver\n{want:?}",
                replica.number, page.records
            );
        }
    }
    String::new()
}

fn judge(
    replicas: &[Replica],
    server: &TableServer,
    deleted: &BTreeSet<String>,
) -> Result<usize, String> {
    let rows = server.rows("notes");
    for id in deleted {
        if rows.contains_key(id) {
            return Err(format!("{id} rose again"));
        }
    }
    let mut conflicts = 0;
    for replica in replicas {
        for (id, serial) in replica.own.iter().filter(|(id, _)| id.starts_with('a')) {
            let kept = rows
                .get(id)
                .and_then(|row| row.get(&format!("d{}", replica.number)));
            if kept != Some(&json!(serial)) {
                let number = replica.number;
                let history = history(replicas, server, id);
                return Err(format!(
                    "device {number} wrote {serial} into {id}, and it is {kept:?}\n{history}"
                ));
            }
        }
        let mut seen = BTreeSet::new();
        for kind in replica.told.lock().expect("told").iter() {
            match kind {
                TableEventKind::Conflict { conflict, .. } => {
                    conflicts += 1;
                    let this = (
                        conflict.key.id.to_string(),
                        format!("{:?}", conflict.server_version),
                    );
                    if !seen.insert(this) {
                        return Err(format!("told twice: {conflict:?}"));
                    }
                }
                TableEventKind::Refused { id, reason } => {
                    return Err(format!("{id} was refused: {reason}"));
                }
                _ => {}
            }
        }
    }
    Ok(conflicts)
}

/// What happened to a record: for people.
fn history(replicas: &[Replica], server: &TableServer, id: &str) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for push in server
        .pushes()
        .into_iter()
        .filter(|push| push.path == format!("/notes/{id}"))
    {
        writeln!(
            text,
            "{} {:?} {} {:?}",
            push.method, push.condition, push.body, push.key
        )
        .expect("text");
    }
    for replica in replicas {
        for kind in replica.told.lock().expect("told").iter() {
            match kind {
                TableEventKind::Conflict { conflict, kept, .. }
                    if conflict.key.id.as_str() == id =>
                {
                    let sides = (&conflict.base, &conflict.local, &conflict.server, kept);
                    writeln!(text, "device {} {conflict:?} {sides:?}", replica.number)
                        .expect("text");
                }
                TableEventKind::Pushed {
                    id: pushed,
                    version,
                    ..
                } if pushed.as_str() == id => {
                    writeln!(text, "device {} pushed {version:?}", replica.number).expect("text");
                }
                _ => {}
            }
        }
    }
    text
}

fn run(seed: u64) -> Result<usize, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let runtime = runtime.expect("a runtime");
    let limit = Duration::from_secs(30 * 24 * 60 * 60);
    let lived = runtime.block_on(async { tokio::time::timeout(limit, live(seed)).await });
    lived.unwrap_or_else(|_| Err("it never ends".to_owned()))
}

#[test]
fn all_devices_and_the_server_are_the_same_in_the_end() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seeds = match number("SYNCVAULT_SYNC_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SYNCVAULT_SYNC_SEEDS").unwrap_or(SEEDS),
    };
    let (mut conflicts, mut wrong) = (0, Vec::new());
    for seed in seeds.clone() {
        match run(seed) {
            Ok(count) => conflicts += count,
            Err(why) => wrong.push(format!("SYNCVAULT_SYNC_SEED={seed}: {why}")),
        }
    }
    let count = wrong.len();
    let first: Vec<_> = wrong.into_iter().take(5).collect();
    assert!(
        count == 0,
        "{count} of {seeds:?} failed:\n{}",
        first.join("\n")
    );
    // A simulation without conflicts would show nothing.
    assert!(
        seeds.end - seeds.start < 100 || conflicts > 0,
        "{conflicts} conflicts"
    );
}
