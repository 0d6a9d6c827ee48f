//! Encryption at rest. The store below is in memory where bytes are changed by hand, and on disk where they are searched.

#[cfg(feature = "sled")]
mod canary;
#[cfg(feature = "sled")]
mod files;
#[cfg(feature = "test-util")]
mod forgetting;
mod keys;
mod tampering;
#[cfg(feature = "sqlite")]
mod together;

use std::sync::Arc;

use bytes::Bytes;
use syncvault::action::{Lane, Origin, Record};
use syncvault::clock::Timestamp;
use syncvault::store::crypt::{KeyProvider, Sealed};
use syncvault::store::kv::{Engine, KvStore};
use syncvault::store::{Advance, Advanced, Append, Lease, MemoryEngine, Opened, Retention, Store};
use syncvault::{ActionId, Result};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// Sealed stores over one engine, whose bytes a test can read and change.
#[derive(Clone, Default)]
struct Place {
    engine: MemoryEngine,
}

impl Place {
    async fn open(&self, keys: impl KeyProvider) -> Result<(Sealed, Opened)> {
        let store = KvStore::inline(self.engine.clone());
        let sealed = Sealed::new(Arc::new(store), keys);
        let opened = sealed.open(NOW).await?;
        Ok((sealed, opened))
    }

    fn get(&self, prefix: u8, id: ActionId) -> Option<Bytes> {
        let key = [&[prefix], &id.as_bytes()[..]].concat();
        self.engine.get(&key).expect("get")
    }

    fn put(&self, prefix: u8, id: ActionId, value: impl Into<Bytes>) {
        self.put_at([&[prefix], &id.as_bytes()[..]].concat(), value);
    }

    fn put_at(&self, key: Vec<u8>, value: impl Into<Bytes>) {
        let batch = [(key, Some(value.into()))].into();
        self.engine.clone().apply(batch).expect("apply");
    }

    /// Every entry.
    fn all(&self) -> Vec<(Bytes, Bytes)> {
        self.engine.scan(&[], &[0xff], usize::MAX).expect("scan")
    }
}

fn append(principal: &str, lane: &str, body: &str) -> Append {
    let id = ActionId::new();
    let lane = Lane::new(lane).expect("a lane");
    let origin = Origin::from_stored("https://a.example:443");
    let content = Bytes::from(format!("content of {id}"));
    let mut record = Record::new(id, lane, origin, content, NOW);
    record.principal = Some(principal.to_owned());
    record.fingerprint = id.to_string();
    Append::new(record, Bytes::from(body.to_owned()), NOW)
}

/// Adds one. Its id.
async fn add(store: &Sealed, principal: &str, lane: &str) -> ActionId {
    let append = append(principal, lane, &format!("body in {lane}"));
    let id = append.record.id;
    store.append(vec![append]).await.expect("append");
    id
}

/// Leases all that is ready.
async fn lease(store: &Sealed) -> Advanced {
    let mut step = Advance::new(NOW, Retention::default());
    let mut all = Lease::default();
    all.slots = 100;
    step.lease = Some(all);
    store.advance(step).await.expect("advance")
}
