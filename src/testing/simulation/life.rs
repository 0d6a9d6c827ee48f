//! One life of the vault: it is opened on what the life before left, the app works, troubles come, and it ends. The last
//! one ends by healing everything: then it must drain.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::app::Caller;
use super::dice::Dice;
use super::history::Known;
use super::network::Link;
use super::plan::{LANES, ORIGINS, PRINCIPALS};
use super::report::Promise;
use super::trouble::Trouble;
use super::world::{World, WorldClock};
use super::{Disk, Tune};
use crate::action::ActionId;
use crate::decide::{Backoff, DeadLane, Observation, Observed, RetryPolicy, Verdict};
use crate::event::EventKind;
use crate::listing::Paging;
use crate::parts::ConnectivityMode;
use crate::testing::simulation::disk::WorldStore;
use crate::testing::simulation::network::{WorldConnectivity, WorldTransport};
use crate::testing::simulation::server::OWN;
use crate::transport::{CredentialRequest, bearer};
use crate::vault::{SyncVault, WhyPending};

/// How long a healed vault may take to drain, when nobody set the clock.
const DRAIN_MAX: Duration = Duration::from_secs(300);
/// The same, when the wall clock was set: times that the app chose may lie so far ahead.
const DRAIN_MAX_JUMPED: Duration = Duration::from_secs(26 * 60 * 60);
/// Between two looks for something that could go and does not.
const LOOK: Duration = Duration::from_secs(2);
/// The same, when there is nothing to be seen for long.
const LOOK_MAX: Duration = Duration::from_secs(600);
/// After a failed step of the store the vault waits up to this long.
const FAILURE_MAX: Duration = Duration::from_secs(40);

/// What a life is begun with.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) world: Arc<World>,
    pub(super) dice: Dice,
    pub(super) is_last: bool,
}

/// A life that is under way.
pub(super) struct Living {
    pub(super) world: Arc<World>,
    pub(super) dice: Dice,
    pub(super) vault: SyncVault,
    /// The callers, and who watches.
    callers: JoinSet<()>,
    watchers: JoinSet<()>,
}

impl Life {
    /// Lives. True when the run is over.
    pub(super) async fn live(mut self, disk: &Disk, tune: Option<&Tune>) -> bool {
        let vault = self.open(disk, tune).await;
        let (world, is_last) = (self.world.clone(), self.is_last);
        world.note(format_args!("the vault is open"));
        let mut living = Living {
            world,
            vault,
            callers: JoinSet::new(),
            watchers: JoinSet::new(),
            dice: self.dice,
        };
        living.check_kept().await;
        living.watch();
        living.start_callers();
        for _ in 0..4 + living.dice.below(8) {
            tokio::time::sleep(living.dice.millis(0, 3_000)).await;
            living.trouble().await;
        }
        if is_last {
            living.clear_sky();
        }
        // A store that failed for good has to be opened again, before or after everything is healed.
        let is_over = is_last && living.vault.pending_count().await.is_ok();
        match is_over {
            true => living.heal().await,
            false => living.end().await,
        }
        is_over
    }

    async fn open(&mut self, disk: &Disk, tune: Option<&Tune>) -> SyncVault {
        loop {
            let store = Arc::new(WorldStore::new(disk(&self.world), self.world.clone()));
            let mut builder = self.builder().shared_store(store);
            if let Some(tune) = tune {
                builder = tune(builder);
            }
            match builder.build().await {
                Ok(vault) => return vault,
                Err(error) => {
                    self.world
                        .note(format_args!("the vault does not open: {:?}", error.kind()));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    fn builder(&mut self) -> crate::builder::SyncVaultBuilder {
        let world = &self.world;
        let plan = world.state().plan.clone();
        let (backoff, origin_backoff) = (
            Backoff::exponential(Duration::from_millis(200), Duration::from_secs(5)),
            Backoff::exponential(Duration::from_millis(500), Duration::from_secs(20)),
        );
        let policy = RetryPolicy {
            backoff,
            origin_backoff,
            retry_after_max: Duration::from_secs(60),
            max_retries: plan.max_retries,
            dead_lane: plan.dead_lane,
            ..RetryPolicy::default()
        };
        let letters = world.clone();
        let mut builder = SyncVault::builder(ORIGINS[0])
            .allow_origin(ORIGINS[1])
            .transport(WorldTransport(world.clone()))
            .connectivity(WorldConnectivity(world.clone()))
            .clock(WorldClock(world.clone()))
            .retry_policy(policy)
            .max_in_flight(plan.max_in_flight)
            // Its server remembers keys for ever, and its clock jumps by days.
            .idempotency_window(None)
            .seed(self.dice.next())
            .on_dead_letter(move |letter| {
                let mut state = letters.state();
                if !state.is_crashed {
                    state.history.known.insert(letter.action.id, Known::Dead);
                }
                std::future::ready(())
            });
        if plan.has_guard {
            builder = builder.classifier(guard);
        }
        if plan.has_credentials {
            let (world, dice) = (world.clone(), self.dice.split());
            let dice = Arc::new(std::sync::Mutex::new(dice));
            builder =
                builder.credentials(move |request| token(world.clone(), dice.clone(), request));
        }
        let active = self.world.state().active;
        match active {
            Some(principal) => builder.principal(principal),
            None => builder,
        }
    }
}

/// What the app knows of its own server: every answer has its mark.
fn guard(seen: &Observation<'_>) -> Option<Verdict> {
    match seen.observed {
        Observed::Answer { headers, .. } if !headers.contains_key(OWN) => {
            Some(Verdict::Unreachable)
        }
        _ => None,
    }
}

async fn token(
    world: Arc<World>,
    dice: Arc<std::sync::Mutex<Dice>>,
    request: CredentialRequest,
) -> crate::transport::Credentials {
    let owner = request.principal.unwrap_or_else(|| "nobody".to_owned());
    let pause = {
        let mut dice = dice
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        dice.millis(0, 150)
    };
    world.state().begin_token(&owner, request.refresh);
    tokio::time::sleep(pause).await;
    bearer(world.state().end_token(&owner, request.refresh))
}

impl Living {
    fn start_callers(&mut self) {
        let each = {
            let plan = &self.world.state().plan;
            plan.requests / (plan.lives + 1) / LANES.len() as u64
        };
        for lane in LANES {
            let caller = Caller {
                world: self.world.clone(),
                vault: self.vault.clone(),
                lane,
                dice: self.dice.split(),
            };
            self.callers.spawn(caller.run(each.max(1)));
        }
    }

    fn watch(&mut self) {
        let (world, mut events) = (self.world.clone(), self.vault.events());
        self.watchers.spawn(async move {
            while let Some(event) = events.next().await {
                if world.state().is_crashed {
                    return;
                }
                let mut state = world.state();
                let call = state.history.saw(&event);
                if let Some(call) = call {
                    state.network.keep_waits_of(call);
                }
                drop(state);
                let told = match &event.kind {
                    // Ids are of this run alone.
                    EventKind::Superseded { .. } => "superseded".to_owned(),
                    kind => serde_json::to_string(kind).unwrap_or_default(),
                };
                world.note(format_args!("event of {call:?}: {told}"));
            }
        });
        let watch = watch_wakes(self.world.clone(), self.vault.clone());
        self.watchers.spawn(watch);
    }

    /// What was told before the last crash must be on disk.
    async fn check_kept(&self) {
        let known = self.world.state().history.known.clone();
        for (id, known) in known {
            let nth = self.world.state().history.call_of(&id.to_string());
            let call = nth.and_then(|nth| self.world.state().history.calls.get(nth).cloned());
            let (is_free, is_requeued) = match &call {
                // Of a direct send that nobody was told of, a refusal leaves nothing.
                Some(call) => (
                    call.may_be_discarded || call.is_forgotten || !call.ids.contains(&id),
                    call.may_be_requeued,
                ),
                None => (true, true),
            };
            let Ok(action) = self.vault.action(id).await else {
                continue;
            };
            let state = action.as_ref().map(|action| action.state.name());
            let is_kept = match (known, state) {
                (_, None) => is_free || known == Known::Gone,
                (Known::Pending | Known::Gone, Some(_)) => true,
                (Known::Delivered, Some(state)) => state == "delivered",
                (Known::Dead, Some(state)) => state == "dead" || is_requeued,
                (Known::Cancelled, Some(state)) => state == "cancelled",
                (Known::Expired, Some(state)) => state == "expired",
                (Known::Superseded, Some(state)) => state == "superseded",
            };
            if !is_kept {
                let text = format!("{nth:?} was told to be {known:?}, and is {state:?}");
                self.world.breach(Promise::Lost, text);
            }
        }
        self.check_ledger().await;
    }

    pub(super) async fn check_ledger(&self) {
        let Ok(ledger) = self.vault.ledger().await else {
            return;
        };
        if !ledger.is_balanced() {
            self.world.breach(Promise::LedgerOff, format!("{ledger:?}"));
        }
    }

    /// The life ends, and not the run.
    async fn end(mut self) {
        let (is_crash, is_drop, is_hasty) = {
            let plan = &self.world.state().plan;
            let has = |trouble| plan.has(trouble);
            (
                has(Trouble::Crash),
                has(Trouble::HandleDropped),
                has(Trouble::Shutdown),
            )
        };
        match self.dice.below(3) {
            0 if is_crash => self.world.crash(Trouble::Crash),
            1 if is_drop => {
                self.world.state().injected.count(Trouble::HandleDropped);
                self.callers.shutdown().await;
                self.watchers.shutdown().await;
                let mut events = self.vault.events();
                drop(self.vault);
                while events.next().await.is_some() {}
            }
            _ => {
                let patience = match is_hasty {
                    true => self.dice.millis(0, 2_000),
                    false => Duration::from_secs(60),
                };
                self.world.state().injected.count(Trouble::Shutdown);
                let ended = self.vault.shutdown(patience).await;
                let is_well = ended.is_ok();
                self.world
                    .note(format_args!("the vault is shut down: {is_well}"));
            }
        }
    }

    async fn heal(mut self) {
        if self.vault.is_paused() && self.vault.resume().await.is_err() {
            self.world
                .breach(Promise::Stuck, "resume fails on a good disk".to_owned());
        }
        self.vault.set_connectivity(ConnectivityMode::Auto);
        let is_over = async { while self.callers.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_MAX_JUMPED, is_over)
            .await
            .is_err()
        {
            self.world
                .breach(Promise::Stuck, "a call does not return".to_owned());
        }
        self.drain_all().await;
        self.watchers.shutdown().await;
        self.note_ends().await;
        if let Err(error) = self.vault.shutdown(Duration::from_secs(5)).await {
            self.world
                .breach(Promise::Stuck, format!("the shutdown fails: {error}"));
        }
    }

    /// Everything works again. The system says so, or does not.
    fn clear_sky(&mut self) {
        self.world.note(format_args!("everything is healed"));
        let mut state = self.world.state();
        state.is_healed = true;
        state.network.links = [Link::Up; ORIGINS.len()];
        state.server.storms = [None; ORIGINS.len()];
        state.disk.step_fate = None;
        state.disk.commit_fate = None;
        state.disk.pace_ms = 0;
        drop(state);
        if self.dice.percent(50) {
            self.world.network_changed.notify_one();
        }
    }

    async fn drain_all(&mut self) {
        let (has_principals, is_blocking) = {
            let plan = &self.world.state().plan;
            (plan.has_principals, plan.dead_lane == DeadLane::Block)
        };
        if is_blocking || self.dice.percent(30) {
            self.requeue_all().await;
        }
        let last = match has_principals {
            true => PRINCIPALS.len(),
            false => 1,
        };
        for principal in PRINCIPALS.iter().take(last).rev() {
            self.switch(*principal);
            self.drain(*principal, is_blocking).await;
        }
    }

    /// Waits until nothing is pending that may go. It asks for nothing that wakes the vault.
    async fn drain(&mut self, principal: Option<&str>, is_blocking: bool) {
        let begun = self.world.elapsed();
        let max = match self.world.state().has_ever_jumped {
            true => DRAIN_MAX_JUMPED,
            false => DRAIN_MAX,
        };
        loop {
            let Ok(page) = self.vault.pending_actions(Paging::first(1000)).await else {
                self.world
                    .breach(Promise::Stuck, "the store cannot be read".to_owned());
                return;
            };
            let mine = |action: &&crate::action::Action| {
                action.principal.is_none() || action.principal.as_deref() == principal
            };
            let left: Vec<ActionId> = page.items.iter().filter(mine).map(|a| a.id).collect();
            let Some(first) = left.first() else { return };
            let passed = self.world.elapsed() - begun;
            if passed > max {
                let why = self.vault.why_pending(*first).await;
                let why = why.map_or_else(|e| e.to_string(), |why| format!("{why:?}"));
                let text = format!("{} are pending, the first: {why}", left.len());
                self.world.breach(Promise::Stuck, text);
                return;
            }
            let pause = if passed > DRAIN_MAX { 600 } else { 2 };
            tokio::time::sleep(Duration::from_secs(pause)).await;
            // What died while it was healed blocks its lane until somebody acts.
            if is_blocking {
                self.requeue_all().await;
            }
        }
    }

    /// What became of everything that the app was told of.
    async fn note_ends(&self) {
        let ids: Vec<(usize, ActionId)> = {
            let calls = self.world.state().history.calls.clone();
            let ids = |(nth, call): (usize, &super::history::Call)| {
                call.ids
                    .iter()
                    .map(move |id| (nth, *id))
                    .collect::<Vec<_>>()
            };
            calls.iter().enumerate().flat_map(ids).collect()
        };
        for (nth, id) in ids {
            let action = self.vault.action(id).await.ok().flatten();
            let end = action.map(|action| action.state);
            if let Some(call) = self.world.state().history.calls.get_mut(nth) {
                call.ends.insert(id, end);
            }
        }
        self.check_ledger().await;
        if let (Ok(ledger), Ok(dead)) = (
            self.vault.ledger().await,
            self.vault.dead_letters().count().await,
        ) {
            let now = self.world.elapsed() + Duration::from_secs(24 * 60 * 60);
            let mut state = self.world.state();
            state.deliver_late(now);
            let breaches = state.history.check(&ledger, dead);
            drop(state);
            for breach in breaches {
                self.world.breach(breach.promise, breach.text);
            }
        }
    }
}

/// Looks for what could go and does not: a wake-up that was lost.
async fn watch_wakes(world: Arc<World>, vault: SyncVault) {
    let mut before: Option<(ActionId, usize)> = None;
    let (mut pause, mut seen) = (LOOK, 0);
    loop {
        tokio::time::sleep(pause).await;
        let attempts = world.state().history.attempts.len();
        pause = match attempts == seen {
            true => (pause * 2).min(LOOK_MAX),
            false => LOOK,
        };
        seen = attempts;
        let (now, is_behind) = (world.elapsed(), world.is_clock_behind());
        let is_fair = {
            let state = world.state();
            let has_jumped = state.has_jumped || is_behind;
            let is_calm = state.disk.pace_ms == 0 && !has_jumped && !state.is_crashed;
            let is_well = state.disk.failed_at.is_none_or(|at| at + FAILURE_MAX < now);
            // What is on the wire holds a slot, also when its principal is forgotten meanwhile.
            is_calm && is_well && !state.history.is_on_wire(state.life)
        };
        if !is_fair || vault.status().counts().pending == 0 {
            before = None;
            continue;
        }
        let ready = first_ready(&vault).await.map(|id| (id, attempts));
        if ready.is_some() && ready == before {
            let nth = ready.and_then(|(id, _)| world.state().history.call_of(&id.to_string()));
            world.breach(
                Promise::Stuck,
                format!("{nth:?} could go, and nobody wakes"),
            );
            return;
        }
        if ready.is_some() {
            pause = LOOK;
        }
        before = ready;
    }
}

async fn first_ready(vault: &SyncVault) -> Option<ActionId> {
    let page = vault.pending_actions(Paging::first(4)).await.ok()?;
    for action in page.items {
        if matches!(vault.why_pending(action.id).await, Ok(WhyPending::Ready)) {
            return Some(action.id);
        }
    }
    None
}
