//! The two verbs of the hot path, sealed: adding actions, and the worker's step.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::keyring::Keyring;
use super::{Kind, Sealed, check_above, lock, pieces};
use crate::action::{ActionId, Body, Record};
use crate::decide::{Gate, GateKey};
use crate::error::Result;
use crate::store::{
    Advance, Advanced, Append, Appended, Batches, Fill, Find, Lease, Leased, Settle, Whose,
};

/// The names and the content of `clear`, on what the store made of the action.
pub(super) fn restored(stored: Record, clear: &Record, last_error: Option<String>) -> Record {
    Record {
        lane: clear.lane.clone(),
        origin: clear.origin.clone(),
        principal: clear.principal.clone(),
        key: clear.key.clone(),
        coalesce: clear.coalesce.clone(),
        fingerprint: clear.fingerprint.clone(),
        content: clear.content.clone(),
        head_bytes: None,
        last_error,
        ..stored
    }
}

pub(super) fn principal_of(gate: &Gate) -> Option<&str> {
    match &gate.key {
        GateKey::Principal(principal) => principal.as_deref(),
        GateKey::Origin(_) => None,
    }
}

impl Sealed {
    pub(super) async fn append_sealed(&self, batch: Vec<Append>) -> Result<Vec<Appended>> {
        let (appended, ring) = loop {
            let owners = batch
                .iter()
                .map(|append| append.record.principal.as_deref());
            let ring = self.ring_for(owners).await?;
            let mut sealed = Vec::with_capacity(batch.len());
            for append in &batch {
                sealed.push(self.seal_append(&ring, append.clone()).await?);
            }
            let appended = self.store.append(sealed).await;
            if !self.is_late(&appended, &ring).await? {
                break (appended?, ring);
            }
        };
        let mut told = Vec::with_capacity(appended.len());
        for (appended, append) in appended.into_iter().zip(&batch) {
            told.push(self.opened_append(&ring, appended, &append.record).await?);
        }
        Ok(told)
    }

    async fn seal_append(&self, ring: &Keyring, append: Append) -> Result<Append> {
        let other = match id_in_key(&append) {
            Some(id) => self.store.get(Find::Id(id)).await?,
            None => None,
        };
        sealed_append(ring, append, other.as_ref())
    }

    async fn opened_append(
        &self,
        ring: &Keyring,
        appended: Appended,
        clear: &Record,
    ) -> Result<Appended> {
        let restore = |record| restored(record, clear, clear.last_error.clone());
        Ok(match appended {
            Appended::Queued { record, superseded } => Appended::Queued {
                record: restore(record),
                superseded: self.maybe_opened(ring, superseded).await?,
            },
            Appended::Leased { record, superseded } => {
                let record = restore(record);
                lock(&self.flights).insert(record.id, record.clone());
                let superseded = self.maybe_opened(ring, superseded).await?;
                Appended::Leased { record, superseded }
            }
            Appended::Cancelled { record, waiting } => Appended::Cancelled {
                record: restore(record),
                waiting: self.maybe_opened(ring, waiting).await?,
            },
            Appended::NotOver { found } => Appended::NotOver {
                found: self.maybe_opened(ring, found).await?,
            },
            Appended::Known { record } => {
                let id = record.id;
                match self.opened(ring, record).await? {
                    Some(record) => Appended::Known { record },
                    None => Appended::Conflict { id },
                }
            }
            other => other,
        })
    }

    async fn maybe_opened(&self, ring: &Keyring, record: Option<Record>) -> Result<Option<Record>> {
        match record {
            Some(record) => self.opened(ring, record).await,
            None => Ok(None),
        }
    }

    /// What comes back was read in one commit that knew the keyring: it opens what is not damaged.
    pub(super) async fn advance_sealed(&self, step: Advance) -> Result<Advanced> {
        let (mut done, ring) = loop {
            let later = step.lease.iter().flat_map(|lease| &lease.gates_after);
            let gates = step.gates.iter().chain(later);
            let ring = self.ring_for(gates.map(principal_of)).await?;
            let sealed = self.seal_step(&ring, step.clone()).await?;
            let done = self.store.advance(sealed).await;
            if !self.is_late(&done, &ring).await? {
                break (done?, ring);
            }
        };
        for (settled, settle) in done.settled.iter_mut().zip(step.settle) {
            if let Some(record) = settled.take() {
                *settled = self.landed(&ring, record, settle.error).await;
            }
        }
        self.note_revived(&ring, &done.revived);
        for records in [
            &mut done.expired,
            &mut done.buried,
            &mut done.revived,
            &mut done.unfilled,
        ] {
            for record in std::mem::take(records) {
                records.extend(self.known(&ring, record).await);
            }
        }
        let mut is_any_lost = false;
        for leased in std::mem::take(&mut done.leased) {
            match self.taken_off(&ring, leased).await {
                Some(leased) => done.leased.push(leased),
                None => is_any_lost = true,
            }
        }
        if is_any_lost {
            // Their lanes have other heads now.
            done.next_due = Some(step.now.after(Duration::from_millis(1)));
            done.totals = self.store.totals().await.unwrap_or(done.totals);
        }
        Ok(done)
    }

    async fn seal_step(&self, ring: &Arc<Keyring>, step: Advance) -> Result<Advance> {
        if step.keyring.is_some() {
            check_above(ring, step.keyring)?;
        }
        let mut settle = Vec::with_capacity(step.settle.len());
        for one in step.settle {
            settle.push(self.seal_settle(ring, one).await?);
        }
        let fills = step.fills.into_iter();
        let fills = fills.filter_map(|fill| seal_fill(ring, fill).transpose());
        let gates = step.gates.into_iter().map(|gate| ring.seal_gate(gate));
        let lease = step.lease.map(|lease| seal_lease(ring, lease));
        Ok(Advance {
            settle,
            fills: fills.collect::<Result<_>>()?,
            gates: gates.collect::<Result<_>>()?,
            lease: lease.transpose()?,
            keyring: Some(ring.revision),
            stale: ring.resources(&step.stale),
            ..step
        })
    }

    /// A dead letter that came back with its parent is under its old key still: another pass must meet it before that goes.
    fn note_revived(&self, ring: &Keyring, revived: &[Record]) {
        if revived.iter().any(|record| ring.is_old(&record.content)) {
            self.must_pass_again();
        }
    }

    /// What comes back for a principal that was forgotten meanwhile is not kept.
    async fn seal_settle(&self, ring: &Keyring, mut settle: Settle) -> Result<Settle> {
        let (answer, error) = (settle.answer.take(), settle.error.take());
        if answer.is_none() && error.is_none() {
            return Ok(settle);
        }
        let flight = lock(&self.flights).get(&settle.id).map(|record| {
            let principal = record.principal.as_deref();
            principal.map(|name| ring.principal(name))
        });
        let owner = match flight {
            Some(owner) => Some(owner),
            None => self.owner(settle.id).await?,
        };
        let Some(owner) = owner.filter(|owner| ring.sealer(owner.as_deref()).is_some()) else {
            return Ok(settle);
        };
        let (owner, id) = (owner.as_deref(), settle.id);
        let seal = |answer: Bytes| ring.seal_value(owner, Kind::Answer, id, &answer);
        settle.answer = answer.map(seal).transpose()?;
        let seal = |text: String| ring.seal_failure(owner, id, &text);
        settle.error = error.map(seal).transpose()?;
        Ok(settle)
    }

    /// The record after a settle.
    async fn landed(
        &self,
        ring: &Keyring,
        record: Record,
        error: Option<String>,
    ) -> Option<Record> {
        let flight = lock(&self.flights).remove(&record.id);
        match flight {
            Some(clear) => Some(restored(record, &clear, error)),
            None => self.known(ring, record).await,
        }
    }

    /// A new lease, opened; nothing when it does not open, and went to quarantine.
    async fn taken_off(&self, ring: &Keyring, leased: Leased) -> Option<Leased> {
        let id = leased.record.id;
        let record = self.known(ring, leased.record).await?;
        let at_hand = match &leased.body {
            Body::File(_) => self.store.body(id).await.ok().flatten(),
            body => self.at_hand(body.clone()).await.ok(),
        };
        let body = match at_hand {
            Some(body @ (Body::Bytes(_) | Body::Pieces(_))) => pieces::open(ring, id, body),
            // Who loads it finds out what is wrong with the file.
            _ => Ok(leased.body),
        };
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                self.quarantine(id, &error).await;
                return None;
            }
        };
        lock(&self.flights).insert(id, record.clone());
        Some(Leased::new(record, leased.wire_before, body))
    }
}

/// Nothing for a principal that was forgotten meanwhile.
fn seal_fill(ring: &Keyring, fill: Fill) -> Result<Option<Fill>> {
    let owner = fill.record.principal.as_deref();
    let owner = owner.map(|name| ring.principal(name));
    let owner = owner.as_deref();
    if ring.sealer(owner).is_none() {
        return Ok(None);
    }
    let record = ring.seal_record(&fill.record)?;
    let seal = |body| pieces::seal(ring, owner, record.id, body);
    let body = fill.body.map(seal).transpose()?;
    Ok(Some(Fill {
        record,
        body,
        dead: fill.dead,
    }))
}

/// The id that the key of an append may be.
pub(super) fn id_in_key(append: &Append) -> Option<ActionId> {
    append.record.key.as_ref()?.parse().ok()
}

/// An append as the store gets it. `other`: the action whose id its key is.
pub(super) fn sealed_append(
    ring: &Keyring,
    mut append: Append,
    other: Option<&Record>,
) -> Result<Append> {
    check_above(ring, append.keyring)?;
    append.record.body_bytes = append.body.len();
    let mut record = ring.seal_record(&append.record)?;
    if other.is_some_and(|other| other.key.is_none()) {
        // The store must see that.
        record.key.clone_from(&append.record.key);
    }
    let owner = record.principal.as_deref();
    append.body = pieces::seal(ring, owner, record.id, append.body)?;
    append.record = record;
    append.stale = ring.resources(&append.stale);
    append.keyring = Some(ring.revision);
    Ok(append)
}

fn seal_lease(ring: &Arc<Keyring>, lease: Lease) -> Result<Lease> {
    let gates = lease.gates_after.into_iter();
    let slots = lease.origin_slots.iter();
    Ok(Lease {
        slots: lease.slots,
        origin_slots: slots
            .map(|(origin, slots)| (ring.origin(origin), *slots))
            .collect(),
        forced: lease
            .forced
            .iter()
            .map(|origin| ring.origin(origin))
            .collect(),
        gates_after: gates
            .map(|gate| ring.seal_gate(gate))
            .collect::<Result<_>>()?,
        whose: match lease.whose {
            Whose::Everybody => Whose::Everybody,
            Whose::Only(active) => Whose::Only(active.map(|name| ring.principal(&name))),
        },
        batches: lease.batches.map(|batches| seal_batches(ring, batches)),
    })
}

/// The rule is asked about the record in clear. One that does not open goes alone, and then to quarantine.
fn seal_batches(ring: &Arc<Keyring>, batches: Batches) -> Batches {
    let ring = Arc::clone(ring);
    Batches::new(move |stored| {
        let clear = ring.open_record(stored).ok()?;
        batches.limits(&clear)
    })
}
