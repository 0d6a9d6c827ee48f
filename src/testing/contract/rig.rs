//! What the rules stand on: one store on one place, a clock that only the rule moves, and short verbs
//! that check after every call that the ledger is balanced and that all parts of the answer agree.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::StoreFactory;
use super::draft::Draft;
use crate::action::{ActionId, Body, DeadReason, Lane, Piece, Record, State, WireState};
use crate::clock::Timestamp;
use crate::decide::{Counted, DeadLane, Gate, Settlement};
use crate::store::{
    Advance, Advanced, Amend, Amended, Append, Appended, Lease, Leased, Opened, Retention, Settle,
    Store,
};

/// One store under test.
pub(super) struct Rig<'f, F: StoreFactory> {
    factory: &'f F,
    place: F::Place,
    pub(super) store: Arc<dyn Store>,
    /// What the newest `open` told.
    pub(super) opened: Opened,
    /// The only clock.
    pub(super) now: Timestamp,
}

/// An empty store, opened.
pub(super) async fn rig<F: StoreFactory>(factory: &F) -> Rig<'_, F> {
    let place = factory.place();
    let now = Timestamp::from_millis(1_700_000_000_000);
    let store = factory.open(&place).await.expect("a fresh place opens");
    let opened = store.open(now).await.expect("open of a fresh place");
    Rig {
        factory,
        place,
        store,
        opened,
        now,
    }
}

/// A lane by its name.
pub(super) fn lane(name: &str) -> Lane {
    Lane::new(name).expect("rules use valid lane names")
}

/// The bytes of a body, wherever they lie; a file must be as its length and checksum say.
pub(super) fn bytes_of(body: &Body) -> Bytes {
    let mut whole = Vec::new();
    for piece in body.clone().into_pieces() {
        match piece {
            Piece::Bytes(bytes) => whole.extend_from_slice(&bytes),
            Piece::File(file) => {
                let bytes = std::fs::read(&file.path).expect("the file of a body can be read");
                assert_eq!(
                    (bytes.len() as u64, crc32c::crc32c(&bytes)),
                    (file.bytes, file.crc32c)
                );
                whole.extend_from_slice(&bytes);
            }
        }
    }
    whole.into()
}

/// The ids of records, in order.
pub(super) fn ids<'r>(records: impl IntoIterator<Item = &'r Record>) -> Vec<ActionId> {
    records.into_iter().map(|record| record.id).collect()
}

/// The ids of leases, in order.
pub(super) fn leased_ids(leased: &[Leased]) -> Vec<ActionId> {
    ids(leased.iter().map(|lease| &lease.record))
}

/// The leases that leave together, side by side: one alone, or the members of a batch.
pub(super) fn requests(leased: &[Leased]) -> Vec<&[Leased]> {
    leased
        .chunk_by(|before, next| next.goes_with(before))
        .collect()
}

/// A rejection, as a reason to die.
pub(super) fn rejected() -> DeadReason {
    DeadReason::Rejected { status: 404 }
}

/// A settlement that sends an action back to the queue.
pub(super) fn retry_at(due: Timestamp) -> Settlement {
    Settlement::Retry {
        due,
        counts: Counted::Yes,
        backoff_ms: 0,
    }
}

/// The settle of a leased record, with the wire state that goes with the result.
pub(super) fn settle_of(record: &Record, result: Settlement) -> Settle {
    let wire = match result {
        Settlement::Retry { .. } => WireState::MaybeSent,
        _ => WireState::Answered,
    };
    Settle::of(record, result, wire).expect("rules settle what is in flight")
}

impl<F: StoreFactory> Rig<'_, F> {
    /// The time in `millis` from now.
    pub(super) fn at(&self, millis: u64) -> Timestamp {
        self.now.after(Duration::from_millis(millis))
    }

    /// The time `millis` ago.
    pub(super) fn ago(&self, millis: u64) -> Timestamp {
        Timestamp::from_millis(self.now.as_millis() - millis)
    }

    /// Lets time pass.
    pub(super) fn wait(&mut self, millis: u64) {
        self.now = self.at(millis);
    }

    /// A new action, made now.
    pub(super) fn draft(&self, lane: &str) -> Draft {
        Draft::new(lane, self.now)
    }

    /// Closes the store and starts a new run on its place, a millisecond later.
    pub(super) async fn restart(self) -> Self {
        self.store.close().await.expect("close");
        self.reopen().await
    }

    /// Ends the run without closing the store, as far as the factory can, and starts a new one.
    pub(super) async fn crash(self) -> Self {
        self.factory.crash(Arc::clone(&self.store)).await;
        self.reopen().await
    }

    async fn reopen(self) -> Self {
        let before = self.opened.epoch;
        let (factory, place, now) = (self.factory, self.place, self.now);
        drop(self.store);
        let now = now.after(Duration::from_millis(1));
        let store = factory.open(&place).await.expect("a used place opens");
        let opened = store.open(now).await.expect("open of a used place");
        assert!(opened.epoch > before, "the epoch of a new run is higher");
        let rig = Self {
            factory,
            place,
            store,
            opened,
            now,
        };
        assert!(rig.opened.is_balanced, "nothing was lost without a name");
        assert_eq!(rig.opened.totals, rig.totals().await);
        rig
    }

    /// Appends, and checks that each got its result.
    pub(super) async fn append_all(
        &self,
        drafts: impl IntoIterator<Item = Draft>,
    ) -> Vec<Appended> {
        let batch: Vec<Append> = drafts.into_iter().map(Draft::into_append).collect();
        let count = batch.len();
        let appended = self.store.append(batch).await.expect("append");
        assert_eq!(appended.len(), count, "one result for each append");
        self.totals().await;
        appended
    }

    /// Appends one.
    pub(super) async fn append(&self, draft: Draft) -> Appended {
        self.append_all([draft])
            .await
            .pop()
            .expect("one result for one append")
    }

    /// Appends one that must be queued.
    pub(super) async fn queue(&self, draft: Draft) -> Record {
        match self.append(draft).await {
            Appended::Queued { record, .. } => {
                assert!(record.due().is_some(), "a queued action is queued");
                record
            }
            other => panic!("expected Queued, got {other:?}"),
        }
    }

    /// Appends one that must be leased at once.
    pub(super) async fn lease_direct(&self, draft: Draft) -> Record {
        match self.append(draft).await {
            Appended::Leased { record, .. } => record,
            other => panic!("expected Leased, got {other:?}"),
        }
    }

    /// Queues `count` plain actions in a lane.
    pub(super) async fn queue_many(&self, lane: &str, count: usize) -> Vec<Record> {
        let drafts = (0..count).map(|_| self.draft(lane));
        let appended = self.append_all(drafts).await;
        let records = appended.into_iter().map(|one| match one {
            Appended::Queued { record, .. } => record,
            other => panic!("expected Queued, got {other:?}"),
        });
        records.collect()
    }

    /// A step at this time that does nothing yet.
    pub(super) fn step(&self) -> Advance {
        Advance::new(self.now, Retention::default())
    }

    /// A step that leases.
    pub(super) fn leasing(&self, slots: usize) -> Advance {
        let mut step = self.step();
        step.lease = Some(Lease {
            slots,
            ..Lease::default()
        });
        step
    }

    /// Advances, and checks what is true of every step.
    pub(super) async fn advance(&self, step: Advance) -> Advanced {
        let settles = step.settle.len();
        let slots = step.lease.as_ref().map_or(0, |lease| lease.slots);
        let advanced = self.store.advance(step).await.expect("advance");
        assert_eq!(
            advanced.settled.len(),
            settles,
            "one result for each settle"
        );
        let starts = requests(&advanced.leased);
        assert!(starts.len() <= slots, "no more requests than slots");
        assert_eq!(
            advanced.totals,
            self.totals().await,
            "advance tells the totals after it"
        );
        for lease in &advanced.leased {
            assert_eq!(lease.record.state, self.lease_of(&lease.record));
        }
        advanced
    }

    fn lease_of(&self, record: &Record) -> State {
        State::InFlight {
            attempt: record.attempts,
            epoch: self.opened.epoch,
        }
    }

    /// Leases up to `slots`.
    pub(super) async fn lease(&self, slots: usize) -> Vec<Leased> {
        self.advance(self.leasing(slots)).await.leased
    }

    /// Leases exactly one, with room for more.
    pub(super) async fn lease_only(&self) -> Record {
        let mut leased = self.lease(100).await;
        assert_eq!(leased.len(), 1, "exactly one action is ready: {leased:?}");
        leased.pop().expect("one lease").record
    }

    /// Nothing can be leased.
    pub(super) async fn leases_nothing(&self) {
        let leased = self.lease(100).await;
        assert!(leased.is_empty(), "nothing is ready, but got {leased:?}");
    }

    /// What `next_due` is now, without leasing.
    pub(super) async fn next_due(&self) -> Option<Timestamp> {
        self.advance(self.step()).await.next_wake()
    }

    /// Settles one attempt, which must be accepted.
    pub(super) async fn settle(&self, record: &Record, result: Settlement) -> Record {
        self.settle_with(settle_of(record, result))
            .await
            .expect("the settle of a valid lease is accepted")
    }

    /// Settles, whatever comes of it.
    pub(super) async fn settle_with(&self, settle: Settle) -> Option<Record> {
        let mut step = self.step();
        step.settle.push(settle);
        self.advance(step)
            .await
            .settled
            .pop()
            .expect("one result for one settle")
    }

    /// The server took it.
    pub(super) async fn deliver(&self, record: &Record) -> Record {
        self.settle(record, Settlement::Delivered { status: 200 })
            .await
    }

    /// It is a dead letter now.
    pub(super) async fn die(&self, record: &Record, lane: DeadLane) -> Record {
        let reason = rejected();
        self.settle(record, Settlement::Dead { reason, lane }).await
    }

    /// Back to the queue until `due`.
    pub(super) async fn retry(&self, record: &Record, due: Timestamp) -> Record {
        self.settle(record, retry_at(due)).await
    }

    /// Queues one, leases it and makes it a dead letter.
    pub(super) async fn dead_letter(&self, draft: Draft, lane: DeadLane) -> Record {
        let id = self.queue(draft).await.id;
        let record = self.lease_only().await;
        assert_eq!(record.id, id);
        self.die(&record, lane).await
    }

    /// Queues one, leases it and delivers it.
    pub(super) async fn delivered(&self, draft: Draft) -> Record {
        let id = self.queue(draft).await.id;
        let record = self.lease_only().await;
        assert_eq!(record.id, id);
        self.deliver(&record).await
    }

    /// Writes a gate.
    pub(super) async fn set_gate(&self, gate: Gate) {
        let mut step = self.step();
        step.gates.push(gate);
        self.advance(step).await;
    }

    /// Amends.
    pub(super) async fn amend(&self, change: Amend) -> Amended {
        let amended = self.store.amend(change).await.expect("amend");
        self.totals().await;
        amended
    }

    /// Amends, and it must be done.
    pub(super) async fn done(&self, change: Amend) -> Vec<Record> {
        match self.amend(change).await {
            Amended::Done(records) => records,
            other => panic!("expected Done, got {other:?}"),
        }
    }

    /// Takes an action back.
    pub(super) async fn cancel(&self, id: ActionId) -> Amended {
        let now = self.now;
        self.amend(Amend::Cancel { id, now }).await
    }

    /// Sends a dead letter back.
    pub(super) async fn requeue(&self, id: ActionId) -> Amended {
        let now = self.now;
        self.amend(Amend::Requeue { id, now }).await
    }
}
