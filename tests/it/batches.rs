//! Batches of waiting actions, on fakes and paused time, and a few over real HTTP. The shop below honours the keys of batches and those of items, and
//! complains about a key that comes with another request than before.

mod again;
mod answers;
mod bounds;
mod chaos;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use syncvault::connectivity::AlwaysReachable;
use syncvault::decide::{
    BatchAnswer, BatchItem, BatchLimits, BatchRequest, Batcher, FailureKind, Folded, ItemVerdict,
};
use syncvault::store::MemoryStore;
use syncvault::testing::{FakeServer, Reply, Seen, TestClock};
use syncvault::{Backoff, End, EventKind, Events, SyncVault, SyncVaultBuilder, Ticket};

const SECOND: Duration = Duration::from_secs(1);

/// What the shop does with the next batch in place of what it would do.
#[derive(Clone, Debug)]
enum Mood {
    /// Answers so, and does nothing.
    Answer(Reply),
    /// Does all, and the answer is lost.
    Lose,
    /// Does all, and the answer says this.
    Say(&'static str),
}

#[derive(Default)]
struct Books {
    /// The keys of items in the order in which they had their effect.
    applied: Vec<String>,
    /// What came under each key, and what was said to it.
    known: HashMap<String, (String, String)>,
    complaints: Vec<String>,
    moods: VecDeque<Mood>,
    /// Texts of items, and the status that each gets.
    statuses: HashMap<String, u16>,
}

/// A server, what it keeps, and the vault's other seams.
struct Shop {
    server: FakeServer,
    books: Arc<Mutex<Books>>,
    clock: TestClock,
    store: MemoryStore,
}

impl Shop {
    fn open() -> Self {
        let books = Arc::new(Mutex::new(Books::default()));
        let (server, kept) = (FakeServer::new(), books.clone());
        server.script(move |seen| kept.lock().expect("books").serve(seen));
        Self {
            server,
            books,
            clock: TestClock::new(),
            store: MemoryStore::new(),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("books")
    }

    fn next(&self, mood: Mood) {
        self.books().moods.push_back(mood);
    }

    /// An item with this text gets this status from now on.
    fn says(&self, text: &str, status: u16) {
        self.books().statuses.insert(text.to_owned(), status);
    }

    fn builder(&self) -> SyncVaultBuilder {
        SyncVault::builder("https://shop.example/v1")
            .store(self.store.restarted())
            .transport(self.server.transport())
            .connectivity(AlwaysReachable::new())
            .clock(self.clock.clone())
            .backoff(Backoff::fixed(SECOND))
            .origin_backoff(Backoff::fixed(SECOND))
            .seed(7)
    }

    async fn vault(&self) -> SyncVault {
        let builder = self.builder().batcher("orders*", Orders::default());
        builder.build().await.expect("vault")
    }

    /// The attempts on batches: key and texts of the items.
    fn batches(&self) -> Vec<(String, Vec<String>)> {
        let seen = self.server.attempts().into_iter();
        let batches = seen.filter(|seen| seen.path() == "/v1/batch");
        let of = |seen: Seen| (seen.key.clone().expect("a key"), texts(&seen));
        batches.map(of).collect()
    }

    /// The attempts on single actions: their keys.
    fn singles(&self) -> Vec<String> {
        let seen = self.server.attempts().into_iter();
        let singles = seen.filter(|seen| seen.path() == "/v1/orders");
        singles.map(|seen| seen.key.expect("a key")).collect()
    }

    /// Nothing is lost without a name, and no key came with two requests.
    async fn is_in_order(&self, vault: &SyncVault) {
        let ledger = vault.ledger().await.expect("ledger");
        assert!(ledger.is_balanced(), "{ledger:?}");
        assert_eq!(self.books().complaints, [""; 0]);
    }

    fn applied(&self) -> Vec<String> {
        self.books().applied.clone()
    }
}

fn texts(seen: &Seen) -> Vec<String> {
    let body: Vec<Value> = serde_json::from_slice(&seen.body).expect("a batch is JSON");
    let texts = body.iter().map(|item| item["text"].as_str());
    texts.map(|text| text.expect("text").to_owned()).collect()
}

impl Books {
    fn serve(&mut self, seen: &Seen) -> Reply {
        let is_batch = seen.path() == "/v1/batch";
        let mood = match is_batch {
            true => self.moods.pop_front(),
            false => None,
        };
        if let Some(Mood::Answer(reply)) = mood {
            return reply;
        }
        let key = seen.key.clone().unwrap_or_default();
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        let said = match self.known.get(&key) {
            Some((before, _)) if is_batch && *before != body => {
                self.complaints
                    .push(format!("{key} came with another batch"));
                return Reply::status(422);
            }
            Some((_, said)) => said.clone(),
            None if is_batch => {
                let said = self.batch(seen);
                self.known.insert(key, (body, said.clone()));
                said
            }
            None => self.item(&key, &body).to_string(),
        };
        match mood {
            Some(Mood::Lose) => Reply::fails(FailureKind::Interrupted),
            Some(Mood::Say(text)) => Reply::status(200).body(text),
            _ if is_batch => Reply::status(200).body(said),
            _ => Reply::status(said.parse().expect("a status")),
        }
    }

    fn batch(&mut self, seen: &Seen) -> String {
        let items: Vec<Value> = serde_json::from_slice(&seen.body).expect("a batch is JSON");
        let statuses = items.iter().map(|item| {
            let text = |name: &str| item[name].as_str().expect("text");
            self.item(text("key"), text("text"))
        });
        json!(statuses.collect::<Vec<_>>()).to_string()
    }

    /// An item that had its effect has it once, alone or in a batch.
    fn item(&mut self, key: &str, text: &str) -> u16 {
        let status = self.statuses.get(text).copied().unwrap_or(201);
        if (200..300).contains(&status) && !self.applied.iter().any(|one| one == key) {
            self.applied.push(key.to_owned());
        }
        status
    }
}

/// Folds orders into `[{key, text}]`, and reads `[201, 503, ...]`.
#[derive(Clone, Copy, Default)]
struct Orders {
    limits: BatchLimits,
}

impl Orders {
    fn at_most(actions_max: usize) -> Self {
        let limits = BatchLimits::default().with_actions_max(actions_max);
        Self { limits }
    }
}

impl Batcher for Orders {
    fn limits(&self) -> BatchLimits {
        self.limits
    }

    fn fold(&self, items: &[BatchItem]) -> Folded {
        let item = |item: &BatchItem| json!({ "key": item.key, "text": item.text() });
        let body: Vec<Value> = items.iter().map(item).collect();
        BatchRequest::post("/batch").json(&body).into()
    }

    fn split(&self, answer: &BatchAnswer, items: &[BatchItem]) -> Vec<ItemVerdict> {
        let statuses: Vec<u16> = answer.json().unwrap_or_default();
        let texts = items.iter().map(|item| format!("said of {}", item.text()));
        let verdicts = statuses.into_iter().zip(texts);
        verdicts
            .map(|(status, text)| ItemVerdict::of(status, text))
            .collect()
    }
}

/// Queues an order; its text is its key.
async fn order(vault: &SyncVault, lane: &str, key: &str) -> Ticket {
    let request = vault.post("/orders").body(key.to_owned());
    let request = request.idempotency_key(key).lane(lane);
    request.enqueue().await.expect("enqueue")
}

/// Queues several while nothing is sent.
async fn orders(vault: &SyncVault, lane: &str, keys: &[&str]) -> Vec<Ticket> {
    vault.pause().await.expect("pause");
    let mut tickets = Vec::new();
    for key in keys {
        tickets.push(order(vault, lane, key).await);
    }
    vault.resume().await.expect("resume");
    tickets
}

async fn drained(vault: &SyncVault) {
    let idle = tokio::time::timeout(3600 * SECOND, vault.wait_idle());
    idle.await.expect("in an hour").expect("idle");
}

/// Waits until an attempt of an action has failed, as its events tell, which begin before it.
async fn failed(events: &mut Events) {
    let failed = async {
        while let Some(event) = events.next().await {
            if matches!(event.kind, EventKind::Failed { .. }) {
                return;
            }
        }
        panic!("the vault ended");
    };
    let failed = tokio::time::timeout(3600 * SECOND, failed);
    failed.await.expect("in an hour");
}

async fn end(ticket: &Ticket) -> End {
    let end = tokio::time::timeout(3600 * SECOND, ticket.wait());
    end.await.expect("in an hour").expect("an end")
}
