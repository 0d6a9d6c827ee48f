//! One life of a vault in a run: how it is opened, the parts of the app that call it, how it ends.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use syncvault::reqwest::Method;
use syncvault::store::MemoryStore;
use syncvault::transport::{CredentialRequest, Refresh};
use syncvault::{
    Backoff, Delivery, ErrorKind, Event, Outcome, RequestBuilder, RetryPolicy, SyncVault, bearer,
};
use tokio::task::JoinSet;

use super::history::{Call, History, Told};
use super::weather::Weather;
use crate::chaos_server::noise;
use crate::dice::Dice;

/// The lanes of the app: the default one with two callers, two that are named, two that a rule derives from the path.
pub(super) const CALLERS: [&str; 6] = ["default", "default", "a", "b", "derived-c", "derived-d"];

/// Where the actions of a run rest between its lives.
#[derive(Debug)]
pub(super) enum Rest {
    Memory(MemoryStore),
    Directory(PathBuf),
}

/// One part of the app: calls the vault for one lane, one request after another.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) vault: SyncVault,
    pub(super) history: Arc<History>,
    pub(super) lane: &'static str,
    pub(super) name: String,
    pub(super) dice: Dice,
}

/// Opens the vault, on what the last life left.
pub(super) async fn open(rest: &Rest, url: &str, weather: &Weather, seed: u64) -> SyncVault {
    for _ in 0..500 {
        let mut policy = RetryPolicy::default();
        policy.origin = crate::story::short_origin();
        let short = Backoff::exponential(Duration::from_millis(1), Duration::from_millis(10));
        (policy.backoff, policy.origin_backoff) = (short, short);
        policy.retry_after_max = Duration::from_millis(100);
        policy.max_retries = 100_000;
        let builder = SyncVault::builder(url)
            .retry_policy(policy)
            .connect_timeout(Duration::from_millis(250))
            .read_timeout(Duration::from_millis(250))
            .event_buffer(100_000)
            .max_in_flight(4)
            .seed(seed)
            .lane_by(|request| {
                let first = request.url.path().split('/').nth(1)?;
                first.starts_with("derived").then(|| first.to_owned())
            });
        let builder = match weather.token() {
            0 => builder,
            _ => builder.credentials(provider(weather)),
        };
        let builder = match rest {
            Rest::Memory(store) => builder.store(store.restarted()),
            Rest::Directory(path) => builder.storage_path(path),
        };
        match builder.build().await {
            Ok(vault) => return vault,
            // The life before is still letting go.
            Err(error) if error.kind() == ErrorKind::Locked => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("the vault does not open: {error}"),
        }
    }
    panic!("the vault stays locked")
}

fn provider(
    weather: &Weather,
) -> impl Fn(CredentialRequest) -> std::future::Ready<syncvault::Credentials> + Send + Sync + 'static
{
    let (weather, known) = (weather.clone(), AtomicU64::new(weather.token()));
    move |request| {
        if request.refresh == Refresh::Yes {
            known.store(weather.token(), Ordering::SeqCst);
        }
        std::future::ready(bearer(known.load(Ordering::SeqCst).to_string()))
    }
}

/// All events of a life, as they come.
pub(super) async fn collect(vault: &SyncVault, into: Arc<Mutex<Vec<Event>>>) {
    let mut events = vault.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            into.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(event);
        }
    });
}

/// Starts the callers of a life.
pub(super) fn call_all(
    vault: &SyncVault,
    history: &Arc<History>,
    life: usize,
    dice: &mut Dice,
) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for (nth, lane) in CALLERS.into_iter().enumerate() {
        let caller = Caller {
            vault: vault.clone(),
            history: history.clone(),
            lane,
            name: format!("{life}-{nth}"),
            dice: dice.split(),
        };
        callers.spawn(caller.run(5));
    }
    callers
}

impl Caller {
    async fn run(mut self, requests: usize) {
        for nth in 0..requests {
            self.one(nth).await;
            if self.dice.percent(60) {
                let pause = self.dice.below(8);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }

    async fn one(&mut self, nth: usize) {
        let path = format!("/{}/{}-{nth}", self.lane, self.name);
        let dice = &mut self.dice;
        let size = dice.pick(&[0, 1, 300, 5_000, 8 * 1024, 8 * 1024 + 1, 64 * 1024]);
        let mut call = Call {
            path: path.clone(),
            lane: self.lane.to_owned(),
            method: dice.pick(&["POST", "PUT", "PATCH", "DELETE"]).to_owned(),
            body: body(&path, size),
            may_expire: dice.percent(5),
            may_be_superseded: dice.percent(8),
            is_kept_first: false,
            called: 0,
            told: None,
            is_cancelled: false,
            was_dropped: false,
            end: None,
        };
        let has_key = dice.percent(70);
        let delivery = dice.pick(&[
            None,
            None,
            Some(Delivery::Queue),
            Some(Delivery::Queue),
            Some(Delivery::OnFailure),
            Some(Delivery::Never),
        ]);
        call.is_kept_first = !matches!(delivery, Some(Delivery::OnFailure | Delivery::Never));
        self.history.call(call.clone());
        loop {
            let is_patient = self.dice.percent(85);
            let patience = match is_patient {
                true => Duration::from_secs(60),
                false => Duration::from_micros(self.dice.below(8000)),
            };
            let request = self.request(&call, has_key);
            match tokio::time::timeout(patience, tell(request, delivery)).await {
                Ok(told) => return self.history.told(&path, told),
                Err(_) => self.history.dropped(&path),
            }
            if !has_key || self.dice.percent(40) {
                return;
            }
        }
    }

    fn request(&self, call: &Call, has_key: bool) -> RequestBuilder {
        let method = call.method.parse::<Method>().expect("method");
        let mut request = self
            .vault
            .request(method, &call.path)
            .body(call.body.clone());
        if has_key {
            request = request.idempotency_key(format!("key of {}", call.path));
        }
        if self.lane != "default" && !self.lane.starts_with("derived") {
            request = request.lane(self.lane);
        }
        if call.may_expire {
            request = request.expires_in(Duration::from_millis(30));
        }
        if call.may_be_superseded {
            request = request.coalesce("newest");
        }
        request
    }
}

/// Bytes that no other request has.
fn body(path: &str, size: usize) -> Bytes {
    let mut body = Vec::from(noise(size));
    for (byte, salt) in body.iter_mut().zip(path.bytes()) {
        *byte ^= salt;
    }
    body.into()
}

async fn tell(request: RequestBuilder, delivery: Option<Delivery>) -> Told {
    let request = match delivery {
        Some(delivery) => request.delivery(delivery),
        None => request,
    };
    match request.send().await {
        Ok(Outcome::Queued(ticket)) => Told::Queued(ticket.id()),
        Ok(Outcome::Sent(response)) => Told::Sent(response.status().as_u16()),
        Err(error) => match error.kind() {
            ErrorKind::Unreachable | ErrorKind::WrongState | ErrorKind::Closed => Told::Refused,
            _ => panic!("the vault refuses: {error}"),
        },
    }
}
