//! Ready heads, grouped by gate and priority: the first of each group is known without a scan.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Engine;
use super::front::Front;
use super::keys::{self, Ready as Head};
use super::txn::Txn;
use crate::action::Lane;
use crate::error::Result;

/// One group for each pair of gate number and rank of priority that has a ready head. One that is found empty goes:
/// a group that is not here has none.
#[derive(Debug, Default)]
pub(super) struct Ready {
    groups: BTreeMap<(u32, u8), Front>,
}

impl Ready {
    /// Finds the groups, one seek for each.
    pub(super) fn load<E: Engine>(txn: &Txn<E>) -> Result<Self> {
        let mut groups = BTreeMap::new();
        let (mut from, end) = (vec![keys::READY], keys::behind(&[keys::READY]));
        while let Some((key, _)) = txn.scan(&from, &end, 1)?.pop() {
            let head = Head::of(&key)?;
            let prefix = keys::ready_group(head.gate_no, head.rank);
            from = keys::behind(&prefix);
            groups.insert((head.gate_no, head.rank), Front::new(&prefix));
        }
        Ok(Self { groups })
    }

    pub(super) fn put<E: Engine>(&mut self, txn: &mut Txn<E>, head: &Head, lane: &Lane) {
        let group = (head.gate_no, head.rank);
        let front = self
            .groups
            .entry(group)
            .or_insert_with(|| Front::empty(&keys::ready_group(head.gate_no, head.rank)));
        let name = Bytes::copy_from_slice(lane.as_str().as_bytes());
        front.put(txn, head.key(), name);
    }

    pub(super) fn delete<E: Engine>(&mut self, txn: &mut Txn<E>, head: &Head) {
        match self.groups.get_mut(&(head.gate_no, head.rank)) {
            Some(front) => front.delete(txn, head.key()),
            None => txn.delete(head.key()),
        }
    }

    /// The groups: gate number and rank.
    pub(super) fn groups(&self) -> Vec<(u32, u8)> {
        self.groups.keys().copied().collect()
    }

    /// The head of a group that waits longest.
    pub(super) fn first<E: Engine>(
        &mut self,
        txn: &Txn<E>,
        group: (u32, u8),
    ) -> Result<Option<(Head, Bytes)>> {
        let Some(front) = self.groups.get_mut(&group) else {
            return Ok(None);
        };
        let Some((key, name)) = front.peek(txn)? else {
            self.groups.remove(&group);
            return Ok(None);
        };
        Ok(Some((Head::of(&key)?, name)))
    }
}
