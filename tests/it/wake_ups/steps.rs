//! What can happen to a vault: the steps that a run is made of, and how each is made.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use syncvault::action::{Lane, Origin, Record, StoredRequest};
use syncvault::clock::Clock;
use syncvault::decide::FailureKind;
use syncvault::testing::{Fault, Reply};
use syncvault::{ActionId, ConnectivityMode, Delivery, ErrorKind, Paging};

use super::{ORIGINS, Watch};

/// What a run begins with.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) seed: u64,
    pub(super) max_in_flight: usize,
    /// Every rule that spares origins is off.
    pub(super) is_off: bool,
    /// How long a call of the store takes.
    pub(super) pace: Duration,
}

impl Arbitrary for Terms {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        let pace = prop_oneof![3 => Just(0), 1 => 2_u64..40];
        let all = (any::<u64>(), 1_usize..4, any::<bool>(), pace);
        all.prop_map(|(seed, max_in_flight, is_off, pace)| Self {
            seed,
            max_in_flight,
            is_off,
            pace: Duration::from_millis(pace),
        })
        .boxed()
    }
}

/// How an origin answers.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    Well,
    /// After so many milliseconds.
    Slow(u64),
    /// With a status, and a `Retry-After` in seconds or none.
    Status(u16, Option<u32>),
    Unreachable,
    Lost,
    TimesOut,
    Portal,
}

impl How {
    pub(super) fn reply(self) -> Reply {
        match self {
            Self::Well => Reply::default(),
            Self::Slow(millis) => Reply::default().answers_after(Duration::from_millis(millis)),
            Self::Status(status, None) => Reply::status(status),
            Self::Status(status, Some(seconds)) => {
                Reply::status(status).header("retry-after", seconds.to_string())
            }
            Self::Unreachable => Reply::unreachable(),
            Self::Lost => Reply::lost(),
            Self::TimesOut => Reply::fails(FailureKind::Timeout),
            Self::Portal => Reply::status(511),
        }
    }
}

fn how() -> impl Strategy<Value = How> {
    let status = prop::sample::select(vec![401, 404, 409, 429, 500, 502, 503]);
    prop_oneof![
        3 => Just(How::Well),
        2 => (1_u64..30_000).prop_map(How::Slow),
        4 => (status, prop::option::of(0_u32..500)).prop_map(|(s, after)| How::Status(s, after)),
        1 => Just(How::Unreachable),
        1 => Just(How::Lost),
        1 => Just(How::TimesOut),
        1 => Just(How::Portal),
    ]
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The app queues something.
    Enqueue(Target),
    /// The app sends something itself. It is not waited for.
    Send(Target, Delivery),
    /// Somebody else queues something.
    Outside(Target),
    /// An origin answers otherwise from now on.
    Answers(usize, How),
    Pause,
    Resume,
    Mode(ConnectivityMode),
    /// Another user, or the same.
    Login(&'static str),
    Hint,
    /// A pass by hand, which is not waited for.
    Drain,
    CancelOne,
    RequeueAll,
    Wait(u64),
    /// Until the time that the vault itself tells.
    WaitNext,
    SetForward(u64),
    SetBack(u64),
    /// The next call of the store fails once.
    Fault,
}

/// Where a request goes, and what it wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    lane: u8,
    origin: usize,
    /// In milliseconds; zero = none.
    not_before: u64,
    expires_in: u64,
    /// The newest of its kind is enough.
    is_newest: bool,
}

impl Target {
    pub(super) fn new(lane: u8, origin: usize) -> Self {
        Self {
            lane,
            origin,
            not_before: 0,
            expires_in: 0,
            is_newest: false,
        }
    }

    pub(super) fn not_before(mut self, millis: u64) -> Self {
        self.not_before = millis;
        self
    }
}

fn target() -> impl Strategy<Value = Target> {
    let some = prop_oneof![6 => Just(0), 1 => 1_u64..20_000];
    let is_newest = prop::bool::weighted(0.2);
    let all = (0_u8..4, 0_usize..2, some.clone(), some, is_newest);
    all.prop_map(|(lane, origin, not_before, expires_in, is_newest)| Target {
        lane,
        origin,
        not_before,
        expires_in,
        is_newest,
    })
}

fn delivery() -> impl Strategy<Value = Delivery> {
    use Delivery::{Never, OnFailure, WriteAhead};
    prop::sample::select(vec![WriteAhead, OnFailure, Never])
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    use ConnectivityMode::{Auto, Offline, Online};
    let mode = prop::sample::select(vec![Auto, Offline, Online]);
    let step = prop_oneof![
        8 => target().prop_map(Step::Enqueue),
        4 => (target(), delivery()).prop_map(|(target, delivery)| Step::Send(target, delivery)),
        2 => target().prop_map(Step::Outside),
        5 => (0_usize..2, how()).prop_map(|(origin, how)| Step::Answers(origin, how)),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => mode.prop_map(Step::Mode),
        1 => prop::sample::select(vec!["ann", "bob"]).prop_map(Step::Login),
        1 => Just(Step::Hint),
        1 => Just(Step::Drain),
        1 => Just(Step::CancelOne),
        1 => Just(Step::RequeueAll),
        4 => (0_u64..20_000).prop_map(Step::Wait),
        6 => Just(Step::WaitNext),
        1 => (0_u64..4_000_000).prop_map(Step::SetForward),
        1 => (0_u64..4_000_000).prop_map(Step::SetBack),
        1 => Just(Step::Fault),
    ];
    vec(step, 1..50)
}

impl Step {
    pub(super) async fn make(&self, watch: &mut Watch) {
        let vault = &watch.vault;
        match self {
            // A store that fails refuses: that is another story.
            Self::Enqueue(target) => drop(request(watch, *target).enqueue().await),
            Self::Send(target, delivery) => {
                let sending = request(watch, *target).delivery(*delivery).send();
                tokio::spawn(async move { drop(sending.await) });
            }
            Self::Outside(target) => outside(watch, *target).await,
            Self::Answers(origin, how) => watch.how.lock().expect("no panic")[*origin] = *how,
            Self::Pause => drop(vault.pause().await),
            Self::Resume => drop(vault.resume().await),
            Self::Mode(mode) => vault.set_connectivity(*mode),
            Self::Login(user) => vault.principal(*user).expect("a name"),
            Self::Hint => vault.notify_network_changed(),
            Self::Drain => {
                let vault = vault.clone();
                tokio::spawn(async move { drop(vault.process_queue().await) });
            }
            Self::CancelOne => cancel_one(watch).await,
            Self::RequeueAll => drop(vault.dead_letters().requeue_all().await),
            Self::Wait(millis) => tokio::time::sleep(Duration::from_millis(*millis)).await,
            Self::WaitNext => {
                if let Some(next) = watch.next().await {
                    tokio::time::sleep(next).await;
                }
            }
            Self::SetForward(millis) => watch.clock.set_forward(Duration::from_millis(*millis)),
            Self::SetBack(millis) => watch.clock.set_back(Duration::from_millis(*millis)),
            Self::Fault => {
                watch.faults.fail_at(1, Fault::Once(ErrorKind::StorageFull));
                // So that it hits now.
                vault.notify_network_changed();
            }
        }
        watch.added += 1;
    }
}

fn url(watch: &Watch, target: Target) -> String {
    format!("{}/{}", ORIGINS[target.origin], watch.added)
}

fn request(watch: &Watch, target: Target) -> syncvault::RequestBuilder {
    let request = watch.vault.post(url(watch, target));
    let mut request = match target.lane {
        0 => request,
        lane => request.lane(lane.to_string()),
    };
    if target.not_before > 0 {
        let time = watch
            .clock
            .now()
            .after(Duration::from_millis(target.not_before));
        request = request.not_before(time.into());
    }
    if target.is_newest {
        request = request.coalesce("newest");
    }
    match target.expires_in {
        0 => request,
        millis => request.expires_in(Duration::from_millis(millis)),
    }
}

async fn outside(watch: &Watch, target: Target) {
    let url: reqwest::Url = url(watch, target).parse().expect("a URL");
    let origin = Origin::of(&url).expect("an origin");
    let content = StoredRequest::new(http::Method::POST, url).encode();
    let lane = match target.lane {
        0 => Lane::default_lane(),
        lane => Lane::new(lane.to_string()).expect("a lane"),
    };
    let (id, now) = (ActionId::new(), watch.clock.now());
    let record = Record::new(id, lane, origin, content.expect("encoded").into(), now);
    watch.outside.add(record, now).await;
}

async fn cancel_one(watch: &Watch) {
    let page = watch.vault.pending_actions(Paging::first(1)).await;
    if let Some(action) = page.expect("a page").items.first() {
        // It may have ended meanwhile.
        drop(watch.vault.cancel(action.id).await);
    }
}
