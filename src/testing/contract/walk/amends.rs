//! The steps that people take: each change is done by the store and by the model, and compared.

use bytes::Bytes;
use rand::RngExt;

use super::super::StoreFactory;
use super::Walk;
use super::model::Kept;
use crate::action::{ActionId, State, WireState};
use crate::store::{Amend, Amended, Lease};

impl<F: StoreFactory> Walk<'_, F> {
    pub(super) async fn amend(&mut self) {
        let all = self.of(|_| true);
        let id = self
            .choose(&all)
            .map_or_else(ActionId::new, |record| record.id);
        match self.rng.random_range(0..20) {
            0..6 => {
                let queued = self.of(Kept::is_queued);
                let id = self.choose(&queued).map_or(id, |record| record.id);
                self.cancel(id).await;
            }
            6..12 => {
                let dead = self.of(|kept| kept.record.state.is_dead());
                let id = self.choose(&dead).map_or(id, |record| record.id);
                self.requeue(id).await;
            }
            12..15 => {
                let dead = self.of(|kept| kept.record.state.is_dead());
                let id = self.choose(&dead).map_or(id, |record| record.id);
                self.discard(id).await;
            }
            15 => self.clear().await,
            16..18 => self.keep_answer().await,
            18 => self.hasten().await,
            _ => {
                let paused = self.chance(50);
                self.rig.done(Amend::Pause { paused }).await;
                self.model.is_paused = paused;
            }
        }
    }

    /// Whether an action that was answered and will be retried can be cancelled is the store's choice.
    async fn cancel(&mut self, id: ActionId) {
        let queued = |kept: &Kept| kept.is_queued() && kept.record.wire != WireState::MaybeSent;
        let never_left = |kept: &Kept| kept.is_queued() && kept.record.wire == WireState::NeverSent;
        let must = self.model.get(id).is_some_and(never_left);
        match (self.rig.cancel(id).await, self.model.get(id).map(queued)) {
            (Amended::Done(_), Some(true)) => self.model.cancel(id, self.rig.now),
            (Amended::NotNow(record), Some(_)) if !must => self.same_record(id, &record),
            (Amended::Unknown, None) => {}
            (got, want) => panic!(
                "cancel of {:?} gave {got:?}, can be: {want:?}",
                self.model.get(id)
            ),
        }
    }

    async fn requeue(&mut self, id: ActionId) {
        let dead = self.model.get(id).map(|kept| kept.record.state.is_dead());
        match (self.rig.requeue(id).await, dead) {
            (Amended::Done(records), Some(true)) => {
                let due = records[0].due().expect("a requeued action is queued");
                assert!(due <= self.rig.now, "a requeued action is ready at once");
                let (seq, kept) = (records[0].seq, self.model.get_mut(id));
                // Where a letter goes that blocked its lane has a rule of its own.
                let place = (kept.blocks && kept.record.seq == seq).then_some(kept.place);
                self.model.requeue(id, due, place);
                let kept = self.model.get_mut(id);
                kept.record.seq = seq;
                kept.record.wire = records[0].wire;
                self.model.wait(id);
                self.same_record(id, &records[0]);
            }
            (Amended::NotNow(record), Some(false)) => self.same_record(id, &record),
            (Amended::Unknown, None) => {}
            (got, want) => panic!("requeue gave {got:?}, is dead: {want:?}"),
        }
    }

    async fn discard(&mut self, id: ActionId) {
        let dead = self.model.get(id).map(|kept| kept.record.state.is_dead());
        match (self.rig.amend(Amend::Discard { id }).await, dead) {
            (Amended::Done(_), Some(true)) => self.model.forget(id),
            (Amended::NotNow(record), Some(false)) => self.same_record(id, &record),
            (Amended::Unknown, None) => {}
            (got, want) => panic!("discard gave {got:?}, is dead: {want:?}"),
        }
    }

    /// Which queued actions go is the store's choice, and whether it spares those that may have been sent.
    async fn clear(&mut self) {
        let (limit, now) = (self.rng.random_range(1..5), self.rig.now);
        let cleared = self.rig.done(Amend::Clear { limit, now }).await;
        assert!(cleared.len() <= limit);
        for record in &cleared {
            assert!(self.model.get(record.id).is_some_and(Kept::is_queued));
            self.model.cancel(record.id, now);
            self.same_record(record.id, record);
        }
        let left = self.of(|kept| kept.is_queued() && kept.record.wire != WireState::MaybeSent);
        assert!(cleared.len() == limit || left.is_empty(), "left: {left:?}");
    }

    async fn keep_answer(&mut self) {
        let of = self.of(|kept| kept.record.state.is_pending() || kept.is_delivered());
        let Some(record) = self.choose(&of) else {
            return;
        };
        let id = record.id;
        let answer = Bytes::from(vec![8; self.rng.random_range(1..600)]);
        let change = Amend::KeepAnswer {
            id,
            answer: answer.clone(),
        };
        match (self.rig.amend(change).await, record.state.is_pending()) {
            (Amended::Done(_), false) => self.model.get_mut(id).answer = Some(answer),
            (Amended::NotNow(_), true) => {}
            (got, _) => panic!("keeping an answer of {} gave {got:?}", record.state.name()),
        }
    }

    /// Heads must be hastened; whether others of their lanes are too is the store's choice.
    async fn hasten(&mut self) {
        let until = self.later(500);
        let heads = self.model.heads(&Lease::default());
        let heads: Vec<_> = heads.into_iter().map(|(kept, _)| kept.record.id).collect();
        self.rig.amend(Amend::Hasten { until }).await;
        for gate in &mut self.model.gates {
            gate.hasten(until);
        }
        for record in self.of(Kept::is_queued) {
            let due = record.due().expect("queued");
            let got = self
                .rig
                .record(record.id)
                .await
                .due()
                .expect("still queued");
            let cut = if record.attempts == 0 {
                due
            } else {
                due.min(until)
            };
            let must = heads.contains(&record.id);
            assert!(
                got == cut || (!must && got == due),
                "{due:?} became {got:?}"
            );
            self.model.get_mut(record.id).record.state = State::Queued { due: got };
        }
    }
}
