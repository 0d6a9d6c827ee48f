//! Writes that lie over something stored: a scan sees both as one.

use std::ops::Bound;

use bytes::Bytes;

use super::{Batch, keys};
use crate::error::Result;

/// Keys and values, in the order of the keys.
pub(in crate::store) type Entries = Vec<(Bytes, Bytes)>;

/// The first `limit` entries from `from` up to, not including, `to`, of `writes` over what `below` scans.
///
/// # Errors
///
/// Those of `below`.
pub(in crate::store) fn scan_over(
    writes: &Batch,
    below: impl Fn(&[u8], &[u8], usize) -> Result<Entries>,
    (from, to): (&[u8], &[u8]),
    limit: usize,
) -> Result<Entries> {
    let mut out = Vec::new();
    let mut from = from.to_vec();
    while from.as_slice() < to && out.len() < limit {
        let want = limit - out.len();
        let stored = below(&from, to, want)?;
        let end = match stored.last() {
            Some((last, _)) if stored.len() == want => keys::after(last),
            _ => to.to_vec(),
        };
        merge(writes, (&from, &end), stored, &mut out);
        from = end;
    }
    out.truncate(limit);
    Ok(out)
}

fn merge(writes: &Batch, (from, to): (&[u8], &[u8]), stored: Entries, out: &mut Entries) {
    let mut stored = stored.into_iter().peekable();
    let range = (Bound::Included(from), Bound::Excluded(to));
    for (key, value) in writes.range::<[u8], _>(range) {
        while let Some(entry) = stored.next_if(|(stored, _)| stored < key) {
            out.push(entry);
        }
        // What is stored under this key is covered by the write.
        drop(stored.next_if(|(stored, _)| stored == key));
        if let Some(value) = value {
            out.push((Bytes::copy_from_slice(key), value.clone()));
        }
    }
    out.extend(stored);
}
