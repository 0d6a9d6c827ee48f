//! Actions put back into a sealed store: each is sealed as if it had always lain there.

use super::step::principal_of;
use super::{Kind, Sealed, pieces};
use crate::error::Result;
use crate::store::crypt::keyring::Keyring;
use crate::store::{Restore, RestoreEnd, Restored};

impl Sealed {
    pub(super) async fn restore_sealed(&self, restore: Restore) -> Result<()> {
        let records = restore.actions.iter().map(|one| &one.record);
        let owners = records.map(|record| record.principal.as_deref());
        let gates = restore.end.iter().flat_map(|end| &end.gates);
        let ring = self.ring_for(owners.chain(gates.map(principal_of))).await?;
        let actions = restore.actions.into_iter();
        let actions = actions.map(|one| seal_restored(&ring, one));
        let end = restore.end.map(|end| seal_end(&ring, end));
        let restore = Restore {
            actions: actions.collect::<Result<_>>()?,
            end: end.transpose()?,
            ..restore
        };
        self.store.restore(restore).await
    }
}

fn seal_restored(ring: &Keyring, one: Restored) -> Result<Restored> {
    let record = ring.seal_record(&one.record)?;
    let (owner, id) = (record.principal.as_deref(), record.id);
    let body = one.body.map(|body| pieces::seal(ring, owner, id, body));
    let answer = one.answer.as_ref();
    let answer = answer.map(|answer| ring.seal_value(owner, Kind::Answer, id, answer));
    Ok(Restored {
        body: body.transpose()?,
        answer: answer.transpose()?,
        record,
        ..one
    })
}

fn seal_end(ring: &Keyring, end: RestoreEnd) -> Result<RestoreEnd> {
    let gates = end.gates.into_iter().map(|gate| ring.seal_gate(gate));
    Ok(RestoreEnd {
        gates: gates.collect::<Result<_>>()?,
        ..end
    })
}
