//! The app of a run: callers that send in all the ways there are, repeat themselves, and drop futures.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use super::dice::Dice;
use super::history::{Call, Told};
use super::plan::ORIGINS;
use super::server::OWN;
use super::trouble::Trouble;
use super::world::World;
use crate::clock::Clock;
use crate::dispatch::{Delivery, Outcome};
use crate::error::Result;
use crate::request::RequestBuilder;
use crate::testing::simulation::world::WorldClock;
use crate::vault::SyncVault;

/// One part of the app: it calls for one lane, one request after another.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) world: Arc<World>,
    pub(super) vault: SyncVault,
    pub(super) lane: &'static str,
    pub(super) dice: Dice,
}

/// How long the app waits for a call.
enum Patience {
    Endless,
    Polls(u64),
    Time(Duration),
}

impl Caller {
    pub(super) async fn run(mut self, requests: u64) {
        for _ in 0..requests {
            if self.dice.percent(60) {
                tokio::time::sleep(self.dice.millis(0, 2_500)).await;
            }
            let nth = match self.dice.percent(20) {
                true => self.known_request(),
                false => None,
            };
            let nth = nth.unwrap_or_else(|| self.new_request());
            self.call(nth).await;
        }
    }

    /// A request of this lane that has a key: it may be called for again.
    fn known_request(&mut self) -> Option<usize> {
        let state = self.world.state();
        let is_known = |(_, call): &(usize, &Call)| {
            call.lane == self.lane && call.key.is_some() && call.principal == state.active
        };
        let known = state.history.calls.iter().enumerate().filter(is_known);
        let known: Vec<usize> = known.map(|(nth, _)| nth).collect();
        drop(state);
        (!known.is_empty()).then(|| self.dice.pick(&known))
    }

    fn new_request(&mut self) -> usize {
        let mut state = self.world.state();
        let state = &mut *state;
        let (dice, nth) = (&mut self.dice, state.history.calls.len());
        let has_poison = state.strikes(Trouble::Poison, 8);
        let method = match dice.percent(10) {
            true => Method::GET,
            false => dice.pick(&[Method::POST, Method::PUT, Method::PATCH, Method::DELETE]),
        };
        let size = dice.pick(&[0, 1, 40, 300, 9_000]);
        let delivery = dice.pick(&[
            None,
            None,
            Some(Delivery::Queue),
            Some(Delivery::Queue),
            Some(Delivery::OnFailure),
            Some(Delivery::Never),
        ]);
        let delivery = match method.is_safe() && delivery.is_none() {
            true => Some(Delivery::OnFailure),
            false => delivery,
        };
        let call = Call {
            lane: self.lane,
            principal: state.active,
            origin: usize::from(dice.percent(25)),
            key: dice.percent(60).then(|| format!("key-{nth}")),
            body: Bytes::from(nth.to_string().repeat(size)),
            delivery,
            expires_in: dice.percent(10).then(|| dice.millis(500, 60_000)),
            not_before: dice.percent(6).then(|| dice.millis(500, 30_000)),
            coalesce: dice.percent(10).then_some("newest"),
            poison: has_poison.then(|| dice.pick(&[400, 403, 404, 410, 422, 422, 500, 502])),
            method,
            called: Vec::new(),
            told: Vec::new(),
            ids: Vec::new(),
            is_cancelled: false,
            is_replaced: false,
            may_be_cancelled: false,
            may_be_requeued: false,
            may_be_discarded: false,
            is_forgotten: false,
            statuses: Default::default(),
            countable: 0,
            ends: Default::default(),
        };
        state.history.add(call)
    }

    async fn call(&mut self, nth: usize) {
        let Some((request, delivery)) = request_of(&self.world, &self.vault, nth) else {
            return;
        };
        self.world.state().history.called(nth);
        self.world.note(format_args!(
            "the app calls for {nth} in {:?}: {delivery:?}",
            self.lane
        ));
        let told = match self.patience() {
            Patience::Endless => Some(tell(request, delivery).await),
            Patience::Polls(polls) => within_polls(polls, tell(request, delivery)).await,
            Patience::Time(time) => {
                let told = tokio::time::timeout(time, tell(request, delivery)).await;
                told.ok()
            }
        };
        let told = told.unwrap_or_else(|| {
            self.world.state().injected.count(Trouble::DroppedFuture);
            Told::Dropped
        });
        self.world.state().history.told(nth, told);
        let told = match told {
            Told::Queued(_) => "queued".to_owned(),
            told => format!("{told:?}"),
        };
        self.world
            .note(format_args!("the app is told of {nth}: {told}"));
    }

    fn patience(&mut self) -> Patience {
        let is_patient = {
            let state = self.world.state();
            state.is_healed || !state.plan.has(Trouble::DroppedFuture)
        };
        match self.dice.below(12) {
            _ if is_patient => Patience::Endless,
            0 => Patience::Polls(self.dice.below(8)),
            1 => Patience::Time(self.dice.millis(0, 400)),
            _ => Patience::Endless,
        }
    }
}

/// The request of a call, as the app builds it.
pub(super) fn request_of(
    world: &Arc<World>,
    vault: &SyncVault,
    nth: usize,
) -> Option<(RequestBuilder, Option<Delivery>)> {
    let call = world.state().history.calls.get(nth)?.clone();
    let url = format!("{}/{nth}", ORIGINS[call.origin]);
    let mut request = vault.request(call.method.clone(), url).body(call.body);
    if call.lane != "default" {
        request = request.lane(call.lane);
    }
    if let Some(principal) = call.principal {
        request = request.principal(principal);
    }
    if let Some(key) = call.key {
        request = request.idempotency_key(key);
    }
    if let Some(limit) = call.expires_in {
        request = request.expires_in(limit);
    }
    if let Some(wait) = call.not_before {
        let clock = WorldClock(world.clone());
        request = request.not_before(clock.now().after(wait).into());
    }
    if let Some(coalesce) = call.coalesce {
        request = request.coalesce(coalesce);
    }
    Some((request, call.delivery))
}

async fn tell(request: RequestBuilder, delivery: Option<Delivery>) -> Told {
    let sent: Result<Outcome> = match delivery {
        Some(delivery) => request.delivery(delivery).send().await,
        None => request.send().await,
    };
    match sent {
        Ok(Outcome::Queued(ticket)) => Told::Queued(ticket.id()),
        Ok(Outcome::Sent(response)) => {
            let told = Told::Sent {
                status: response.status().as_u16(),
                is_own: response.headers().contains_key(OWN),
            };
            // Read to its end or broken off: it makes no difference to what was sent.
            response.bytes().await.ok();
            told
        }
        Err(error) => Told::Refused(error.kind()),
    }
}

/// Drops a future after so many polls.
async fn within_polls<T>(mut polls: u64, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if polls == 0 => Poll::Ready(None),
        Poll::Pending => {
            polls -= 1;
            Poll::Pending
        }
    })
    .await
}
