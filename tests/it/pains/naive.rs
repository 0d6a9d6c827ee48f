//! A client as they are written in an afternoon, with the habits of the peers: one queue, written to disk as one JSON text, a
//! loop that sends its head, and a fixed wait. Each [`Habit`] is what a peer does; none of them is a straw man.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{AUTHORIZATION, RETRY_AFTER};
use serde::{Deserialize, Serialize};
use syncvault::clock::Clock;
use syncvault::store::kv::Engine;
use syncvault::testing::TestClock;
use syncvault::transport::Transport;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::disk::Plugged;
use super::world::{BASE, Order, Town, World};

/// What a peer does. Without any, a client keeps the order, the key and everything it was given, and retries for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// What the server refuses stays at the head: redux-offline #383, Brick #393, TanStack #6825.
    RetriesRefusals,
    /// After a round that failed, the next write wakes it: powersync-native #15.
    WaitsForTheNextWrite,
    /// Takes the head out of the queue to send it: Workbox #3237.
    ShiftsBeforeSending,
    /// Marks the head as being sent, and never takes what is marked: sentry-dotnet #3384, procrastinate #1518.
    LeavesMarked,
    /// A key for each attempt, which is none: Expensify #98314, watermelondb #1664.
    NewKeyPerAttempt,
    /// Keeps the token of the moment with the request: Iterable-swift PR 1085, Brick #390.
    FreezesToken,
    /// Empties the queue when somebody else logs in: Eventra PR 9042.
    ClearsOnSwitch,
    /// What cannot be read is deleted, and all with it: OTel contrib #35899 ("recreate").
    StartsAnewWhenBroken,
    /// What a shutdown cut off counts as failed for good: OTel #15677.
    ShutdownIsFailure,
    /// Full means that the oldest goes: segment-android #701, langfuse PR 15374.
    DropsOldest,
    /// Gives up after five minutes: the default of OTel's exporters.
    GivesUp,
    /// What is done is marked, and stays on the disk: otel-contrib #26256.
    NeverReclaims,
    /// Sends only while the system says "online": react-native #18368, Sentry's JS SDK #6403.
    TrustsSystem,
    /// Reads a `Retry-After` into 32 bits of milliseconds: omnidesk PR 146.
    ReadsCarelessly,
    /// Keeps the path of a file, not the file: Brick #380.
    KeepsPath,
    /// Gives the body away at the first attempt: fetch-retry #99.
    StreamsOnce,
    /// Edits by the place in the list: Expensify PR 101207.
    EditsByPlace,
    /// Deletes what another version wrote: Workbox 4.1.1.
    WipesOtherVersions,
}

/// How long it waits after a failure: PowerSync's.
const WAIT: Duration = Duration::from_secs(5);
/// How many requests a queue with [`Habit::DropsOldest`] holds.
const CAP: usize = 30;
/// How long one with [`Habit::GivesUp`] tries.
const PATIENCE: Duration = Duration::from_secs(300);
/// The version of its file.
const VERSION: u32 = 1;
const KEY: &[u8] = b"queue";

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    version: u32,
    queue: Vec<Entry>,
    dead: Vec<Entry>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            version: VERSION,
            queue: Vec::new(),
            dead: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    body: String,
    file: Option<PathBuf>,
    token: Option<String>,
    born_ms: u64,
    is_sending: bool,
    is_done: bool,
}

/// What becomes of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered,
    Dead,
    Again,
}

/// The client. Clones are the same one.
#[derive(Clone)]
pub(super) struct Naive(Arc<Inner>);

struct Inner {
    habits: &'static [Habit],
    transport: syncvault::testing::FakeTransport,
    clock: TestClock,
    town: Town,
    disk: Mutex<Plugged>,
    kept: Mutex<Kept>,
    /// What is on the wire.
    sending: Mutex<Option<String>>,
    attempts: AtomicU64,
    wake: Notify,
    task: Mutex<Option<AbortHandle>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Naive {
    /// Reads its file, and starts.
    pub(super) fn open(
        world: &World,
        disk: &super::disk::Disk,
        habits: &'static [Habit],
    ) -> Result<Self, String> {
        let disk = disk.plug();
        let kept = disk.get(KEY).map_err(|error| error.to_string())?;
        let inner = Inner {
            habits,
            transport: world.server.transport(),
            clock: world.clock.clone(),
            town: world.town.clone(),
            disk: Mutex::new(disk),
            kept: Mutex::default(),
            sending: Mutex::default(),
            attempts: AtomicU64::new(0),
            wake: Notify::new(),
            task: Mutex::default(),
        };
        let naive = Self(Arc::new(inner));
        *lock(&naive.0.kept) = naive.read(kept)?;
        let task = tokio::spawn(naive.clone().run());
        *lock(&naive.0.task) = Some(task.abort_handle());
        Ok(naive)
    }

    fn read(&self, kept: Option<bytes::Bytes>) -> Result<Kept, String> {
        let Some(kept) = kept else {
            return Ok(Kept::default());
        };
        let kept: Kept = match serde_json::from_slice(&kept) {
            Ok(kept) => kept,
            Err(_) if self.has(Habit::StartsAnewWhenBroken) => Kept::default(),
            Err(error) => return Err(error.to_string()),
        };
        match kept.version {
            VERSION => Ok(kept),
            _ if self.has(Habit::WipesOtherVersions) => Ok(Kept::default()),
            version => Err(format!("version {version}")),
        }
    }

    fn has(&self, habit: Habit) -> bool {
        self.0.habits.contains(&habit)
    }

    /// Changes what is kept, and writes all of it.
    fn write<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> Result<T, String> {
        let mut kept = lock(&self.0.kept);
        let changed = change(&mut kept);
        let text = serde_json::to_vec(&*kept).map_err(|error| error.to_string())?;
        let batch = [(KEY.to_vec(), Some(text.into()))].into();
        let written = lock(&self.0.disk).apply(batch);
        written.map_err(|error| error.to_string())?;
        Ok(changed)
    }

    /// Takes a request.
    pub(super) fn post(&self, order: &Order) -> Result<(), String> {
        let token = self.has(Habit::FreezesToken) || order.has_secret;
        let body = match &order.file {
            Some(path) if !self.has(Habit::KeepsPath) => {
                let file = std::fs::read(path).map_err(|error| error.to_string())?;
                String::from_utf8_lossy(&file).into_owned()
            }
            _ => order.body.clone(),
        };
        let entry = Entry {
            name: order.name.clone(),
            body,
            file: order.file.clone(),
            token: token.then(|| self.0.town.token()),
            born_ms: self.0.clock.now().as_millis(),
            is_sending: false,
            is_done: false,
        };
        let drops = self.has(Habit::DropsOldest);
        self.write(|kept| {
            if drops && kept.queue.len() >= CAP {
                kept.queue.remove(0);
            }
            kept.queue.push(entry);
        })?;
        self.wake();
        Ok(())
    }

    /// Something happened that it knows of: the network changed, the app said go.
    pub(super) fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Somebody else logged in.
    pub(super) fn switched(&self) {
        if self.has(Habit::ClearsOnSwitch) {
            // A full disk is another story.
            self.write(|kept| kept.queue.clear()).ok();
        }
        self.wake();
    }

    /// Takes a request back. It says that it did.
    pub(super) fn cancel(&self, name: &str) -> bool {
        let removed = self.write(|kept| {
            let before = kept.queue.len();
            kept.queue.retain(|entry| entry.name != name);
            kept.queue.len() < before
        });
        removed == Ok(true)
    }

    /// Puts another body in place of the request that the app added as number `place`.
    pub(super) fn edit(&self, place: usize, body: &str) -> bool {
        let edited = self.write(|kept| match kept.queue.get_mut(place) {
            Some(entry) => {
                entry.body = body.to_owned();
                true
            }
            None => false,
        });
        edited == Ok(true)
    }

    /// What waits, by name.
    pub(super) fn pending(&self) -> Vec<String> {
        let kept = lock(&self.0.kept);
        let left = kept.queue.iter().filter(|entry| !entry.is_done);
        left.map(|entry| entry.name.clone()).collect()
    }

    /// What was given up and is still there, by name.
    pub(super) fn dead(&self) -> Vec<String> {
        let kept = lock(&self.0.kept);
        kept.dead.iter().map(|entry| entry.name.clone()).collect()
    }

    /// Ends it, in order or not.
    pub(super) fn stop(&self) {
        if let Some(task) = lock(&self.0.task).take() {
            task.abort();
        }
    }

    /// Ends it in order.
    pub(super) fn shutdown(&self) {
        self.stop();
        let sending = lock(&self.0.sending).take();
        if self.has(Habit::ShutdownIsFailure)
            && let Some(name) = sending
        {
            self.cancel(&name);
        }
    }

    async fn run(self) {
        loop {
            let wait = self.round().await;
            let is_passive =
                self.has(Habit::WaitsForTheNextWrite) || lock(&self.0.kept).queue.is_empty();
            let timer = async {
                match is_passive {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(wait).await,
                }
            };
            tokio::select! {
                () = self.0.wake.notified() => {}
                () = timer => {}
            }
        }
    }

    /// Sends one after the other until something fails. Returns how long to wait.
    async fn round(&self) -> Duration {
        while let Some(entry) = self.head() {
            let (fate, wait) = self.attempt(&entry).await;
            if self.settle(entry, fate).is_err() || fate == Fate::Again {
                return wait;
            }
        }
        WAIT
    }

    fn head(&self) -> Option<Entry> {
        if self.has(Habit::TrustsSystem) && !self.0.town.is_online() {
            return None;
        }
        let skips = self.has(Habit::LeavesMarked);
        let is_free = |entry: &&Entry| !(entry.is_done || skips && entry.is_sending);
        let head = lock(&self.0.kept).queue.iter().find(is_free).cloned()?;
        let name = head.name.clone();
        *lock(&self.0.sending) = Some(name.clone());
        let (shifts, streams) = (
            self.has(Habit::ShiftsBeforeSending),
            self.has(Habit::StreamsOnce),
        );
        let marked = self.write(|kept| {
            kept.queue.retain(|entry| !shifts || entry.name != name);
            if let Some(entry) = kept.queue.iter_mut().find(|entry| entry.name == name) {
                entry.is_sending = true;
                if streams {
                    entry.body.clear();
                }
            }
        });
        marked.ok().map(|()| head)
    }

    fn request(&self, entry: &Entry) -> Result<reqwest::Request, String> {
        let url = format!("{BASE}/{}", entry.name).parse();
        let url = url.map_err(|_| "a URL".to_owned())?;
        let mut request = reqwest::Request::new(reqwest::Method::POST, url);
        let number = self.0.attempts.fetch_add(1, Ordering::Relaxed);
        let key = match self.has(Habit::NewKeyPerAttempt) {
            true => format!("attempt-{}-{number}", self.0.clock.now().as_millis()),
            false => entry.name.clone(),
        };
        let token = entry.token.clone();
        let token = token.unwrap_or_else(|| self.0.town.fresh_token());
        let fields = [
            ("idempotency-key", key),
            (AUTHORIZATION.as_str(), format!("Bearer {token}")),
            ("accept", "application/json".to_owned()),
        ];
        for (name, value) in fields {
            let value = value.parse().map_err(|_| "a header".to_owned())?;
            request.headers_mut().insert(name, value);
        }
        let body = match &entry.file {
            Some(path) if self.has(Habit::KeepsPath) => {
                std::fs::read(path).map_err(|error| error.to_string())?
            }
            _ => entry.body.clone().into_bytes(),
        };
        *request.body_mut() = Some(body.into());
        Ok(request)
    }

    async fn attempt(&self, entry: &Entry) -> (Fate, Duration) {
        let Ok(request) = self.request(entry) else {
            return (Fate::Again, WAIT);
        };
        let Ok(response) = self.0.transport.send(request).await else {
            return (Fate::Again, WAIT);
        };
        let retry_after = response.headers().get(RETRY_AFTER);
        let told = retry_after.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let wait = match told {
            Some(seconds) if self.has(Habit::ReadsCarelessly) => {
                // What JavaScript's timers do with more milliseconds than 31 bits hold.
                match i32::try_from(seconds * 1000) {
                    Ok(millis) => Duration::from_millis(u64::from(millis.unsigned_abs())),
                    Err(_) => Duration::from_millis(1),
                }
            }
            _ => WAIT,
        };
        let fate = match response.status().as_u16() {
            200..300 => Fate::Delivered,
            429 => Fate::Again,
            400..500 if !self.has(Habit::RetriesRefusals) => Fate::Dead,
            _ => Fate::Again,
        };
        (fate, wait)
    }

    fn settle(&self, entry: Entry, fate: Fate) -> Result<(), String> {
        let keeps = self.has(Habit::NeverReclaims);
        let age = self.0.clock.now().as_millis() - entry.born_ms;
        let is_given_up = self.has(Habit::GivesUp) && u128::from(age) > PATIENCE.as_millis();
        *lock(&self.0.sending) = None;
        self.write(|kept| {
            let place = kept.queue.iter().position(|one| one.name == entry.name);
            match (fate, place) {
                (Fate::Again, Some(place)) if is_given_up => drop(kept.queue.remove(place)),
                (Fate::Again, Some(place)) => kept.queue[place].is_sending = false,
                (Fate::Again, None) if self.has(Habit::ShiftsBeforeSending) => {
                    kept.queue.insert(0, entry);
                }
                (Fate::Delivered, Some(place)) if keeps => kept.queue[place].is_done = true,
                (_, Some(place)) => {
                    let entry = kept.queue.remove(place);
                    if fate == Fate::Dead {
                        kept.dead.push(entry);
                    }
                }
                (_, None) => {}
            }
        })
    }
}
