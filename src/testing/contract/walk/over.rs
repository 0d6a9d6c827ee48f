//! Whose place an append takes: drawn for the walk, and done by the model.

use rand::RngExt;

use super::super::StoreFactory;
use super::super::draft::Draft;
use super::Walk;
use super::model::{Claim, Kept, Model, Want};
use crate::action::{ActionId, Record, State, WireState};
use crate::store::{Append, LanePlace, Over, Then};

impl Kept {
    fn is_unsent(&self) -> bool {
        self.is_queued() && self.record.wire == WireState::NeverSent
    }
}

impl Model {
    pub(super) fn claim(&self, append: &Append) -> Claim {
        let (id, revision, then) = match append.over {
            Over::Nothing => return Claim::Free,
            Over::Latest => {
                let take = |id| Claim::Takes(id, Then::Supersede(LanePlace::End));
                return self.waiting(&append.record).map_or(Claim::Free, take);
            }
            Over::Vacant => {
                let refuse = |id| Claim::Refused(Some(id));
                return self.waiting(&append.record).map_or(Claim::Free, refuse);
            }
            Over::Exactly { id, revision, then } => (id, revision, then),
        };
        let Some(old) = self.get(id) else {
            return Claim::Refused(None);
        };
        let is_same = revision.is_none_or(|revision| revision == old.record.revision);
        let is_mine = old.record.lane == append.record.lane && old.is_unsent();
        let is_last = self.lane(&old.record.lane).last().map(|last| last.place) == Some(old.place);
        match is_same && is_mine && (place_of(then) != LanePlace::OldIfLast || is_last) {
            true => Claim::Takes(id, then),
            false => Claim::Refused(Some(id)),
        }
    }

    /// What waits under the coalescing key of a record, beside itself.
    fn waiting(&self, of: &Record) -> Option<ActionId> {
        of.coalesce.as_ref()?;
        let is_other = |kept: &&Kept| {
            let record = &kept.record;
            let same = record.coalesce == of.coalesce && record.lane == of.lane;
            same && kept.is_unsent() && !record.is_passed && record.id != of.id
        };
        self.kept.iter().find(is_other).map(|kept| kept.record.id)
    }

    /// Of two with one coalescing key, only the later one waits under it.
    pub(super) fn wait(&mut self, id: ActionId) {
        let is_waiting = |kept: &&Kept| kept.is_unsent() && !kept.record.is_passed;
        let Some(kept) = self.get(id).filter(is_waiting) else {
            return;
        };
        let (place, other) = (kept.place, self.waiting(&kept.record));
        if let Some(other) = other {
            let is_later = self.get(other).is_some_and(|other| other.place > place);
            let passed = if is_later { id } else { other };
            self.get_mut(passed).record.is_passed = true;
        }
    }

    /// The old one is superseded. Where the new one goes, if not to the end.
    pub(super) fn supersede(&mut self, id: ActionId, then: Then, append: &Append) -> Option<u64> {
        self.ledger.superseded += 1;
        self.ledger.pending -= 1;
        let at = append.now;
        let old = self.get_mut(id);
        old.record.state = State::Superseded { at };
        old.record.superseded_by = Some(append.record.id);
        old.record.is_merged = matches!(then, Then::Merge(_));
        (place_of(then) != LanePlace::End).then_some(old.place)
    }

    pub(super) fn cancel_both(&mut self, waiting: ActionId, append: &Append) -> Want {
        self.cancel(waiting, append.now);
        self.add(append, None);
        self.wait(append.record.id);
        self.cancel(append.record.id, append.now);
        Want::Cancelled { waiting }
    }
}

fn place_of(then: Then) -> LanePlace {
    match then {
        Then::Supersede(place) | Then::Merge(place) => place,
        Then::CancelBoth => LanePlace::End,
    }
}

impl<F: StoreFactory> Walk<'_, F> {
    /// Lets some appends take the place of others, or try to.
    pub(super) async fn over(&mut self, draft: Draft) -> Draft {
        let record = draft.as_record();
        if record.key.is_some() || !self.chance(30) {
            return draft;
        }
        let lane = record.lane.clone();
        match self.rng.random_range(0..10) {
            0..2 => return draft.over(Over::Nothing),
            2..4 => return draft.over(Over::Vacant),
            _ => {}
        }
        // A key whose action ended without delivery has rules of its own.
        let all = self.of(|kept| kept.record.key.is_none());
        let is_own = |record: &&Record| record.lane == lane && record.state.is_pending();
        let own: Vec<_> = all.iter().filter(is_own).cloned().collect();
        let from = if self.chance(90) { own } else { all };
        let Some(old) = self.choose(&from) else {
            return draft;
        };
        let now = self.rig.record(old.id).await.revision;
        self.model.get_mut(old.id).record.revision = now;
        let revisions = [None, Some(now), Some(now), Some(now + 1)];
        let places = [LanePlace::OldIfLast, LanePlace::Old, LanePlace::End];
        let place = places[self.rng.random_range(0..3)];
        let thens = [Then::Supersede(place), Then::Merge(place), Then::CancelBoth];
        draft.over(Over::Exactly {
            id: old.id,
            revision: revisions[self.rng.random_range(0..4)],
            then: thens[self.rng.random_range(0..3)],
        })
    }
}
