//! What happens to a vault while it lives: bad weather, and an app that pauses, cancels, requeues and switches users.

use std::time::Duration;

use super::app::request_of;
use super::checker::queued_at;
use super::disk::Fate;
use super::history::{Call, Known, Told};
use super::life::Living;
use super::network::{Link, Portal};
use super::plan::{ORIGINS, PRINCIPALS};
use super::server::Reply;
use super::trouble::Trouble;
use crate::action::ActionId;
use crate::dispatch::{Delivery, Replaced};
use crate::listing::Paging;
use crate::parts::ConnectivityMode;
use crate::vault::Cancellation;

/// The wall clock is never off by more: what is kept for a day must not be forgotten in a run.
const JUMP_SECONDS_MAX: i64 = 5 * 60 * 60;

impl Living {
    /// Something happens.
    pub(super) async fn trouble(&mut self) {
        match self.dice.below(20) {
            0..=2 => self.change_links(),
            3..=4 => self.change_storms(),
            5..=6 => self.arm_disk(),
            7 => self.change_pace(),
            8 => self.set_clock(),
            9 => self.expire_tokens(),
            10 => self.pause_or_resume().await,
            11 => self.change_connectivity(),
            12..=13 => self.drain_by_hand().await,
            14 => self.cancel_or_replace().await,
            15 => self.requeue_or_discard().await,
            16 => self.switch_principal(),
            17 => self.clear_or_forget().await,
            18 => self.vault.notify_network_changed(),
            _ => self.check_ledger().await,
        }
    }

    fn has(&self, trouble: Trouble) -> bool {
        self.world.state().plan.has(trouble)
    }

    fn change_links(&mut self) {
        let mut links = vec![Link::Up, Link::Up];
        if self.has(Trouble::Partition) {
            links.extend([Link::Refused, Link::NoName, Link::BlackHole]);
        }
        if self.has(Trouble::Portal) {
            let page = match self.world.state().plan.has_guard {
                true => Portal::Page,
                // Without a guard the page is taken for an answer: see `expect_header`.
                false => Portal::LoginNeeded,
            };
            let portals = [page, Portal::Redirect, Portal::LoginNeeded];
            links.extend(portals.map(Link::Portal));
        }
        let (nth, link) = (self.dice.place(ORIGINS.len()), self.dice.pick(&links));
        let mut state = self.world.state();
        if !matches!(link, Link::Up | Link::Portal(_)) {
            state.injected.count(Trouble::Partition);
        }
        state.network.links[nth] = link;
        drop(state);
        self.world.note(format_args!("origin {nth}: {link:?}"));
        if self.dice.percent(30) {
            self.world.network_changed.notify_one();
        }
    }

    fn change_storms(&mut self) {
        if !self.has(Trouble::Storm) {
            return;
        }
        let status = self.dice.pick(&[429, 429, 500, 502, 503, 503, 504]);
        let retry_after = self.dice.pick(&[None, Some(10), Some(30), Some(55)]);
        let storm = self.dice.percent(60).then_some(Reply {
            retry_after,
            ..Reply::status(status)
        });
        let nth = self.dice.place(ORIGINS.len());
        let mut state = self.world.state();
        if storm.is_some() {
            state.injected.count(Trouble::Storm);
        }
        state.server.storms[nth] = storm;
        drop(state);
        self.world.note(format_args!("server {nth}: {storm:?}"));
    }

    fn arm_disk(&mut self) {
        let fates = [
            (Trouble::CrashBefore, Fate::CrashBefore),
            (Trouble::CrashAfter, Fate::CrashAfter),
            (Trouble::DiskFull, Fate::Full),
            (Trouble::DiskError, Fate::Error),
        ];
        let fates: Vec<Fate> = fates
            .into_iter()
            .filter(|(trouble, _)| self.has(*trouble))
            .map(|(_, fate)| fate)
            .collect();
        if fates.is_empty() {
            return;
        }
        let (fate, left) = (self.dice.pick(&fates), self.dice.below(12));
        let is_commit = self.dice.percent(40);
        self.world.note(format_args!(
            "disk: {fate:?} in {left}, at a commit: {is_commit}"
        ));
        let disk = &mut self.world.state().disk;
        match is_commit {
            true => disk.commit_fate = Some((left, fate)),
            false => disk.step_fate = Some((left, fate)),
        }
    }

    fn change_pace(&mut self) {
        if self.has(Trouble::SlowDisk) {
            let pace = self.dice.pick(&[0, 5, 60, 300]);
            self.world
                .note(format_args!("disk: a step takes up to {pace} ms"));
            self.world.state().disk.pace_ms = pace;
        }
    }

    fn set_clock(&mut self) {
        let seconds = self.dice.pick(&[1, 30, 600, JUMP_SECONDS_MAX]);
        let sign = self.dice.pick(&[1, -1]);
        let by_ms = match self.world.clock_off_ms() {
            0 => sign * seconds * 1000,
            // Somebody sets it right.
            off => -off,
        };
        let trouble = match by_ms > 0 {
            true => Trouble::ClockForward,
            false => Trouble::ClockBack,
        };
        if self.has(trouble) {
            self.world.state().injected.count(trouble);
            self.world.note(format_args!("{trouble} by {by_ms} ms"));
            self.world.set_clock(by_ms);
        }
    }

    fn expire_tokens(&mut self) {
        let mut state = self.world.state();
        if state.plan.has_credentials && state.plan.has(Trouble::TokenExpired) {
            state.injected.count(Trouble::TokenExpired);
            state.server.expire_tokens();
            drop(state);
            self.world.note(format_args!("tokens expire"));
        }
    }

    async fn pause_or_resume(&mut self) {
        let is_paused = self.vault.is_paused();
        let done = match is_paused {
            true => self.vault.resume().await,
            false => self.vault.pause().await,
        };
        let is_done = done.is_ok();
        self.world
            .note(format_args!("paused: {}, {is_done}", !is_paused));
    }

    fn change_connectivity(&mut self) {
        use ConnectivityMode::{Auto, Offline, Online};
        let mode = self.dice.pick(&[Auto, Auto, Offline, Online]);
        self.world.note(format_args!("connectivity: {mode:?}"));
        self.vault.set_connectivity(mode);
    }

    async fn drain_by_hand(&mut self) {
        let patience = self.dice.millis(0, 5_000);
        let passes = async { tokio::join!(self.vault.process_queue(), self.vault.process_queue()) };
        let ended = tokio::time::timeout(patience, passes).await;
        if let Ok((Ok(one), _)) = &ended {
            let (delivered, stopped) = (one.delivered, one.stopped);
            self.world
                .note(format_args!("a pass delivered {delivered}: {stopped:?}"));
        }
    }

    fn some_action(&mut self, known: Known) -> Option<(usize, ActionId)> {
        let state = self.world.state();
        let history = &state.history;
        let mut ids = Vec::new();
        for (nth, call) in history.calls.iter().enumerate() {
            let is_it = |id: &&ActionId| history.known.get(id) == Some(&known);
            ids.extend(call.ids.iter().filter(is_it).map(|id| (nth, *id)));
        }
        drop(state);
        (!ids.is_empty()).then(|| self.dice.pick(&ids))
    }

    async fn cancel_or_replace(&mut self) {
        let Some((nth, id)) = self.some_action(Known::Pending) else {
            return;
        };
        self.mark(nth, |call| call.may_be_cancelled = true);
        match nth % 2 {
            0 => self.cancel(nth, id).await,
            _ => self.replace(nth, id).await,
        }
    }

    /// Another request in the place of one that was never sent.
    async fn replace(&mut self, old: usize, id: ActionId) {
        let new = {
            let mut state = self.world.state();
            let active = state.active;
            let call = state.history.calls.get(old).map(successor);
            // A request of somebody else replaces nothing.
            let Some(call) = call.filter(|call| call.principal == active) else {
                return;
            };
            state.history.add(call)
        };
        let Some((request, _)) = request_of(&self.world, &self.vault, new) else {
            return;
        };
        let told = match self.vault.replace(id, request).await {
            Ok(Replaced::Replaced(ticket)) => {
                self.mark(old, |call| call.is_replaced = true);
                Told::Queued(ticket.id())
            }
            Ok(_) => Told::NotKept,
            Err(error) => Told::Refused(error.kind()),
        };
        self.world.state().history.told_over(new, old, told);
        let is_kept = matches!(told, Told::Queued(_));
        self.world
            .note(format_args!("replace {old} by {new}: {is_kept}"));
    }

    async fn cancel(&mut self, nth: usize, id: ActionId) {
        let told = self.vault.cancel(id).await;
        if let Ok(Cancellation::Cancelled) = told {
            self.mark(nth, |call| call.is_cancelled = true);
        }
        let told = told.map_err(|e| e.kind());
        self.world.note(format_args!("cancel {nth}: {told:?}"));
    }

    fn mark(&self, nth: usize, mark: impl FnOnce(&mut super::history::Call)) {
        if let Some(call) = self.world.state().history.calls.get_mut(nth) {
            mark(call);
        }
    }

    async fn requeue_or_discard(&mut self) {
        let Some((nth, id)) = self.some_action(Known::Dead) else {
            return;
        };
        let letters = self.vault.dead_letters();
        let is_done = match self.dice.percent(80) {
            true => {
                self.mark(nth, |call| call.may_be_requeued = true);
                letters.requeue(id).await.is_ok()
            }
            false => {
                self.mark(nth, |call| call.may_be_discarded = true);
                letters.discard(id).await.is_ok()
            }
        };
        self.world
            .note(format_args!("requeue or discard {nth}: {is_done}"));
    }

    pub(super) async fn requeue_all(&mut self) {
        let letters = self.vault.dead_letters();
        let Ok(page) = letters.list(Paging::first(1000)).await else {
            return;
        };
        for letter in page.items {
            let nth = self.world.state().history.call_of(&letter.action.key);
            if let Some(nth) = nth {
                self.mark(nth, |call| call.may_be_requeued = true);
            }
            let is_done = letters.requeue(letter.action.id).await.is_ok();
            self.world.note(format_args!("requeue {nth:?}: {is_done}"));
        }
    }

    fn switch_principal(&mut self) {
        if self.world.state().plan.has_principals {
            let principal = self.dice.pick(&PRINCIPALS);
            self.switch(principal);
        }
    }

    pub(super) fn switch(&mut self, principal: Option<&'static str>) {
        match principal {
            // The names are good.
            Some(principal) => self.vault.principal(principal).unwrap_or_default(),
            None => self.vault.no_principal(),
        }
        self.world.state().active = principal;
        self.world.note(format_args!("active: {principal:?}"));
    }

    async fn clear_or_forget(&mut self) {
        let principal = self.world.state().active;
        match principal {
            Some(principal) if self.dice.percent(40) => {
                self.forget_calls_of(principal);
                self.world.state().active = None;
                let is_done = self.vault.forget(principal).await.is_ok();
                self.forget_calls_of(principal);
                self.world
                    .note(format_args!("forget {principal}: {is_done}"));
            }
            _ if self.dice.percent(30) => {
                self.cancel_all_calls();
                let cleared = self.vault.clear_queue().await;
                self.cancel_all_calls();
                let count = cleared.map_or(0, |cleared| cleared.cancelled);
                self.world.note(format_args!("clear: {count}"));
            }
            _ => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }

    fn cancel_all_calls(&self) {
        for call in &mut self.world.state().history.calls {
            call.may_be_cancelled = true;
        }
    }

    fn forget_calls_of(&self, principal: &'static str) {
        for call in &mut self.world.state().history.calls {
            call.is_forgotten |= call.principal == Some(principal);
        }
    }
}

/// A request in the place of another one, and as old as that.
fn successor(old: &Call) -> Call {
    Call {
        key: None,
        method: http::Method::PUT,
        body: "in its place".into(),
        delivery: Some(Delivery::Queue),
        expires_in: None,
        not_before: None,
        coalesce: None,
        poison: None,
        called: old.called.first().copied().into_iter().collect(),
        told: Vec::new(),
        ids: Vec::new(),
        is_cancelled: false,
        is_replaced: false,
        may_be_cancelled: false,
        // Where that stood may not be certain; then no order is checked against it.
        may_be_requeued: queued_at(old).is_none(),
        may_be_discarded: false,
        is_forgotten: false,
        statuses: Default::default(),
        countable: 0,
        ends: Default::default(),
        ..old.clone()
    }
}
