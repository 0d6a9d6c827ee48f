//! A random walk over all verbs, beside a model that is a plain list. After each step counts, ledger,
//! lanes and what can be leased must agree; now and then everything is compared, and the store restarted.

mod amends;
mod model;
mod over;
mod verbs;

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::model::{Kept, Model};
use super::StoreFactory;
use super::rig::{Rig, bytes_of, ids, rig};
use crate::action::{ActionId, Record, WireState};
use crate::decide::Gate;
use crate::store::Part;

/// Half of the walk, from one seed.
pub async fn a_random_walk_agrees_with_a_plain_list(factory: &impl StoreFactory) {
    walk(factory, 1, 1_000).await;
}

/// The other half, from another seed.
pub async fn another_random_walk_agrees_with_a_plain_list(factory: &impl StoreFactory) {
    walk(factory, 2, 1_000).await;
}

/// Many short walks: what goes wrong early goes wrong with few actions around it.
pub async fn short_random_walks_agree_with_a_plain_list(factory: &impl StoreFactory) {
    for seed in 100..110 {
        walk(factory, seed, 50).await;
    }
}

/// A walk. All times that matter are odd, all steps happen at even times: nothing is decided by a tie.
async fn walk(factory: &impl StoreFactory, seed: u64, steps: usize) {
    let step = AtomicUsize::new(0);
    let all = async {
        let rig = rig(factory).await;
        let model = Model::of_run(rig.opened.epoch);
        let rng = StdRng::seed_from_u64(seed);
        let mut walk = Walk { rig, model, rng };
        for number in 0..steps {
            step.store(number, Ordering::Relaxed);
            walk = walk.one().await;
            walk.compare().await;
            if number % 25 == 0 {
                walk.compare_all().await;
            }
        }
        walk.compare_all().await;
    };
    if std::panic::AssertUnwindSafe(all)
        .catch_unwind()
        .await
        .is_err()
    {
        let step = step.load(Ordering::Relaxed);
        panic!("the walk of seed {seed} broke at step {step}; what broke is told above");
    }
}

struct Walk<'f, F: StoreFactory> {
    rig: Rig<'f, F>,
    model: Model,
    rng: StdRng,
}

impl<'f, F: StoreFactory> Walk<'f, F> {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn choose<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() {
            return None;
        }
        let index = self.rng.random_range(0..from.len());
        from.get(index).cloned()
    }

    /// An odd number of milliseconds from now, at most `max`.
    fn later(&mut self, max: u64) -> crate::clock::Timestamp {
        let half = self.rng.random_range(0..max / 2);
        self.rig.at(half * 2 + 1)
    }

    async fn one(mut self) -> Self {
        let pause = self.rng.random_range(0..200);
        self.rig.wait(pause * 2);
        match self.rng.random_range(0..100) {
            0..35 => self.append().await,
            35..75 => self.advance().await,
            75..92 => self.amend().await,
            92..96 => self.look().await,
            96 => self.retain().await,
            _ => return self.restart().await,
        }
        self
    }

    /// One action of any state, by id and by key, with its body and answer.
    async fn look(&mut self) {
        let Some(kept) = self.choose(&self.model.kept.clone()) else {
            return;
        };
        self.same_record(kept.record.id, &self.rig.record(kept.record.id).await);
        if kept.record.state.is_pending() || kept.record.state.is_dead() {
            let body = self.rig.store.body(kept.record.id).await.expect("body");
            assert_eq!(bytes_of(&body.expect("a body")), kept.body);
        }
        let answer = self.rig.store.answer(kept.record.id).await.expect("answer");
        assert_eq!(answer, kept.answer);
        let Some(key) = &kept.record.key else { return };
        let live = |one: &&Kept| {
            let alive = one.record.state.is_pending() || one.record.state.is_dead();
            alive && one.record.key.as_ref() == Some(key)
        };
        if let Some(holder) = self.model.kept.iter().find(live) {
            let found = self.rig.find_key(key).await.expect("a key that is held");
            assert_eq!(found.id, holder.record.id);
        }
    }

    /// Lets the store forget, as much as it wants in each step, and checks that it were the oldest.
    async fn retain(&mut self) {
        let count = self.rng.random_range(0..40);
        let mut told = Vec::new();
        for _ in 0..1_000 {
            let mut step = self.rig.step();
            step.retention.count = count;
            let advanced = self.rig.advance(step).await;
            told.extend(ids(&advanced.expired));
            if advanced.totals.counts.retained <= count {
                break;
            }
        }
        self.expired_are(told);
        let left = ids(&self.rig.all(Part::Settled, 100).await);
        let settled: Vec<_> = self
            .model
            .kept
            .iter()
            .filter(|kept| kept.is_settled())
            .collect();
        let want = settled.len().min(usize::try_from(count).expect("small"));
        assert_eq!(left.len(), want, "retention keeps as many as it may");
        let (stay, gone): (Vec<&Kept>, Vec<&Kept>) = settled
            .into_iter()
            .partition(|kept| left.contains(&kept.record.id));
        let newest_gone = gone.iter().map(|kept| kept.ended()).max();
        let oldest_left = stay.iter().map(|kept| kept.ended()).min();
        if let (Some(gone), Some(left)) = (newest_gone, oldest_left) {
            assert!(gone <= left, "the oldest goes first");
        }
        for id in ids(gone
            .into_iter()
            .map(|kept| &kept.record)
            .collect::<Vec<_>>())
        {
            self.model.forget(id);
        }
    }

    async fn restart(mut self) -> Self {
        let rig = if self.chance(50) {
            self.rig.restart().await
        } else {
            self.rig.crash().await
        };
        self.rig = rig;
        // A restart takes a millisecond: back to even times.
        self.rig.wait(1);
        self.model.epoch = self.rig.opened.epoch;
        assert_eq!(self.rig.opened.is_paused, self.model.is_paused);
        let flying = self
            .model
            .kept
            .iter_mut()
            .filter(|kept| kept.is_in_flight());
        let mut want = Vec::new();
        for kept in flying {
            let record = self.rig.record(kept.record.id).await;
            let due = record.due().expect("a reclaimed action is queued");
            assert!(due <= self.rig.now, "a reclaimed action is ready at once");
            kept.record.state = record.state;
            kept.record.wire = WireState::MaybeSent;
            kept.record.attempts_counted = record.attempts_counted;
            want.push(kept.record.id);
        }
        let mut reclaimed = self.rig.opened.reclaimed.clone();
        reclaimed.sort_unstable();
        want.sort_unstable();
        assert_eq!(reclaimed, want);
        let by_key = |a: &Gate, b: &Gate| a.key.cmp(&b.key);
        self.model.gates.sort_by(by_key);
        self.rig.opened.gates.sort_by(by_key);
        assert_eq!(self.rig.opened.gates, self.model.gates);
        self
    }

    /// The record as the model knows it, in all that the contract fixes.
    fn same_record(&self, id: ActionId, got: &Record) {
        let mut want = self
            .model
            .get(id)
            .expect("the model knows it")
            .record
            .clone();
        want.revision = got.revision;
        want.first_attempt = got.first_attempt;
        want.last_attempt = got.last_attempt;
        want.previous_attempt = got.previous_attempt;
        want.backoff_ms = got.backoff_ms;
        want.last_status = got.last_status;
        want.last_error.clone_from(&got.last_error);
        want.answer_bytes = got.answer_bytes;
        if !got.state.is_pending() {
            want.attempts_counted = got.attempts_counted;
        }
        assert_eq!(*got, want);
    }

    /// Counts, ledger and lanes.
    async fn compare(&self) {
        let (mut got, want) = (self.rig.totals().await, self.model.totals());
        if let Some(oldest) = got.counts.oldest {
            let made =
                |kept: &Kept| kept.record.state.is_pending() && kept.record.created == oldest;
            assert!(
                self.model.kept.iter().any(made),
                "nothing was made at {oldest:?}"
            );
        }
        // Which one it is has rules of its own.
        got.counts.oldest = want.counts.oldest;
        assert_eq!(got, want);
        for lane in self.model.lanes() {
            let pending = self.model.lane(&lane);
            let blockers = self.model.blockers(&lane);
            let got = self.rig.lane(lane.as_str()).await;
            assert_eq!(got.pending, pending.len() as u64);
            let in_flight = pending.iter().filter(|kept| kept.is_in_flight());
            assert_eq!(got.in_flight, in_flight.count() as u64);
            match got.blocked_by {
                None => {
                    assert!(blockers.is_empty(), "{lane} is blocked by {blockers:?}");
                    assert_eq!(got.head, pending.first().map(|kept| kept.record.id));
                }
                Some(id) => assert!(blockers.contains(&id), "{id} does not block {lane}"),
            }
        }
    }

    /// Every record of every part.
    async fn compare_all(&mut self) {
        let limit = self.rng.random_range(1..20);
        let pending = self.rig.all(Part::Pending, limit).await;
        let mut seen = 0;
        for lane in self.model.lanes() {
            let want: Vec<_> = self
                .model
                .lane(&lane)
                .iter()
                .map(|kept| kept.record.id)
                .collect();
            let got = ids(pending.iter().filter(|record| record.lane == lane));
            assert_eq!(got, want, "the order of {lane}");
            assert_eq!(ids(&self.rig.all(Part::Lane(lane), limit).await), want);
            seen += want.len();
        }
        assert_eq!(pending.len(), seen);
        let dead = self.rig.all(Part::Dead, limit).await;
        let settled = self.rig.all(Part::Settled, limit).await;
        for record in pending.iter().chain(&dead).chain(&settled) {
            self.same_record(record.id, record);
        }
        for records in [&dead, &settled] {
            let ended = |record: &Record| self.model.get(record.id).map(Kept::ended);
            assert!(records.is_sorted_by_key(ended), "oldest first");
        }
        let count = |of: fn(&Kept) -> bool| self.model.kept.iter().filter(|k| of(k)).count();
        assert_eq!(dead.len(), count(|kept| kept.record.state.is_dead()));
        assert_eq!(settled.len(), count(Kept::is_settled));
    }
}
