//! Which key opens what: wrong, missing, changed, and none at all.

use std::sync::Arc;

use bytes::Bytes;
use syncvault::store::crypt::{Key, KeyFile, Keys};
use syncvault::store::{Amend, Amended, Find, MemoryStore, Part, Query, Store};
use syncvault::{ErrorKind, SyncVault};

use super::{Place, add, append, lease};
use crate::chaos_server::ChaosServer;
use crate::story::{bare_builder, enqueue, soon};

#[tokio::test]
async fn a_wrong_key_opens_nothing_and_changes_nothing() {
    let (place, key) = (Place::default(), Key::generate());
    let (store, _) = place.open(key.clone()).await.expect("open");
    let id = add(&store, "ann", "a").await;
    let before = place.all();
    let error = place.open(Key::generate()).await.expect_err("another key");
    assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
    let failing = || async { Err::<Keys, _>("the key chain is locked") };
    let error = place.open(failing).await.expect_err("no key");
    assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
    let error = place
        .open(KeyFile::new("/nowhere"))
        .await
        .expect_err("no file");
    assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
    assert!(place.all() == before, "something was written");
    let (store, _) = place.open(key).await.expect("open");
    assert!(store.get(Find::Id(id)).await.expect("get").is_some());
}

#[tokio::test]
async fn a_damaged_keyring_is_an_error_and_changes_nothing() {
    let (place, key) = (Place::default(), Key::generate());
    let (store, _) = place.open(key.clone()).await.expect("open");
    add(&store, "ann", "a").await;
    let keyring = store_keyring(&place);
    let mut damaged = keyring.to_vec();
    *damaged.last_mut().expect("bytes") ^= 1;
    place.put_at(b"mkeyring".to_vec(), damaged);
    let before = place.all();
    let error = place.open(key.clone()).await.expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(place.all() == before, "something was written");
    place.put_at(b"mkeyring".to_vec(), keyring);
    let (store, _) = place.open(key).await.expect("open");
    assert_eq!(lease(&store).await.leased.len(), 1);
}

fn store_keyring(place: &Place) -> Bytes {
    let mut all = place.all().into_iter();
    all.find(|(key, _)| &key[..] == b"mkeyring")
        .expect("a keyring")
        .1
}

#[tokio::test]
async fn a_sealed_vault_needs_its_key_and_a_plain_one_takes_none() {
    let server = ChaosServer::start().await;
    server.down().await;
    for is_sealed in [true, false] {
        let store = Arc::new(MemoryStore::new());
        let open = |store: Arc<MemoryStore>, with_key: bool| {
            let builder = bare_builder(&server).shared_store(store);
            match with_key {
                true => builder.encryption(Key::new([7; 32])),
                false => builder,
            }
        };
        let vault = open(store.clone(), is_sealed).build().await.expect("vault");
        let ticket = enqueue(&vault, "a", "1").await;
        close(&vault).await;
        let store = Arc::new(store.restarted());
        let error = open(store.clone(), !is_sealed)
            .build()
            .await
            .expect_err("the other way");
        let want = match is_sealed {
            true => ErrorKind::WrongKey,
            false => ErrorKind::Unsupported,
        };
        assert_eq!(error.kind(), want, "{error}");
        let store = Arc::new(store.restarted());
        let vault = open(store, is_sealed).build().await.expect("vault");
        let action = vault
            .action(ticket.id())
            .await
            .expect("read")
            .expect("there");
        assert_eq!((action.key.as_str(), action.lane.as_str()), ("1", "a"));
        close(&vault).await;
    }
}

async fn close(vault: &SyncVault) {
    soon(vault.shutdown(std::time::Duration::ZERO))
        .await
        .expect("shutdown");
}

async fn reencrypt(store: &syncvault::store::crypt::Sealed) -> usize {
    let mut count = 0;
    for _ in 0..1_000 {
        match store
            .amend(Amend::Reencrypt { limit: 2 })
            .await
            .expect("a step")
        {
            Amended::More(records) => count += records.len(),
            Amended::Done(_) => return count,
            other => panic!("{other:?}"),
        }
    }
    panic!("it never ends");
}

/// Goal: after a rotation and `reencrypt`, the old key and an old copy of the keyring open nothing that is here. Method: put
/// the old keyring back.
#[tokio::test]
async fn what_an_old_key_could_open_is_gone_after_reencrypting() {
    let (place, old, new) = (Place::default(), Key::generate(), Key::generate());
    let (store, _) = place.open(old.clone()).await.expect("open");
    let mut ids = Vec::new();
    for lane in ["a", "b", "c"] {
        ids.push(add(&store, "ann", lane).await);
        ids.push(add(&store, "ben", lane).await);
    }
    let before = store
        .page(Query::first(Part::Pending, 100))
        .await
        .expect("page")
        .records;
    let old_ring = store_keyring(&place);
    // Both are given once; from then on the new one alone opens it.
    let both = Keys::new(new.clone()).with_old(old.clone());
    drop(place.open(both).await.expect("open"));
    let error = place.open(old.clone()).await.expect_err("rotated");
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    let (store, _) = place.open(new.clone()).await.expect("open");
    let later = add(&store, "ann", "later").await;
    // Cut off in the middle, it goes on where it was.
    store
        .amend(Amend::Reencrypt { limit: 2 })
        .await
        .expect("a step");
    store
        .amend(Amend::Reencrypt { limit: 2 })
        .await
        .expect("a step");
    let (store, _) = place.open(new.clone()).await.expect("open");
    assert!(reencrypt(&store).await >= 2);
    let after = store
        .page(Query::first(Part::Pending, 100))
        .await
        .expect("page")
        .records;
    let plain = |records: &[syncvault::action::Record]| {
        let records = records.iter().filter(|record| record.id != later).cloned();
        records
            .map(|record| (record.id, record.content, record.lane, record.principal))
            .collect::<Vec<_>>()
    };
    assert_eq!(plain(&after), plain(&before));
    for id in &ids {
        assert!(store.body(*id).await.expect("body").is_some());
    }
    let new_ring = store_keyring(&place);
    place.put_at(b"mkeyring".to_vec(), old_ring);
    let (store, _) = place.open(old).await.expect("the old keyring opens");
    for id in ids {
        assert!(store.get(Find::Id(id)).await.is_err());
        assert!(store.body(id).await.is_err());
    }
    place.put_at(b"mkeyring".to_vec(), new_ring);
    let (store, _) = place.open(new).await.expect("open");
    assert_eq!(lease(&store).await.leased.len(), 4, "one for each lane");
}

/// What is in flight is waited for, not torn from under its attempt.
#[tokio::test]
async fn reencrypting_waits_for_what_is_in_flight() {
    let (place, key) = (Place::default(), Key::generate());
    let (store, _) = place.open(key.clone()).await.expect("open");
    add(&store, "ann", "a").await;
    let leased = lease(&store).await.leased.remove(0);
    for _ in 0..20 {
        let amended = store
            .amend(Amend::Reencrypt { limit: 10 })
            .await
            .expect("a step");
        assert!(matches!(amended, Amended::More(_)), "{amended:?}");
    }
    let retry = syncvault::decide::Settlement::Retry {
        due: super::NOW,
        counts: syncvault::decide::Counted::No,
        backoff_ms: 0,
    };
    let wire = syncvault::WireState::MaybeSent;
    let mut settle = syncvault::store::Settle::of(&leased.record, retry, wire).expect("a lease");
    settle.error = Some("the words of the failure".to_owned());
    let mut step = syncvault::store::Advance::new(super::NOW, Default::default());
    step.settle.push(settle);
    store.advance(step).await.expect("advance");
    assert_eq!(reencrypt(&store).await, 1);
    let (store, _) = place.open(key).await.expect("open");
    let again = lease(&store).await.leased.remove(0);
    assert_eq!(again.record.content, leased.record.content);
    assert_eq!(again.body, leased.body);
    assert_eq!(
        again.record.last_error.as_deref(),
        Some("the words of the failure")
    );
}

/// Nothing of a record that a store sees is a name.
#[tokio::test]
async fn the_store_sees_no_name() {
    let (place, key) = (Place::default(), Key::generate());
    let (store, _) = place.open(key).await.expect("open");
    let mut append = append("p-secret", "l-secret", "b-secret");
    append.record.key = Some("k-secret".to_owned());
    append.record.coalesce = Some("c-secret".to_owned());
    append.record.fingerprint = "f-secret".to_owned();
    append.record.origin = syncvault::action::Origin::from_stored("https://o-secret.example:443");
    append.record.last_error = Some("e-secret".to_owned());
    let gate = syncvault::decide::Gate::new(
        syncvault::decide::GateKey::Origin(append.record.origin.clone()),
        syncvault::decide::GateReason::Unreachable,
        super::NOW,
        super::NOW,
    );
    let given = append.record.clone();
    store.append(vec![append]).await.expect("append");
    let mut step = syncvault::store::Advance::new(super::NOW, Default::default());
    step.gates.push(gate.clone());
    store.advance(step).await.expect("advance");
    for (key, value) in place.all() {
        for bytes in [&key, &value] {
            let text = String::from_utf8_lossy(bytes);
            assert!(!text.contains("secret"), "{text}");
        }
    }
    let found = store
        .get(Find::Key("k-secret".to_owned()))
        .await
        .expect("get");
    let found = found.expect("by its key");
    assert_eq!((found.lane, found.origin), (given.lane, given.origin));
    assert_eq!(found.last_error, given.last_error);
    assert_eq!(found.coalesce, given.coalesce);
    let (_, opened) = (store.close().await, store);
    drop(opened);
}
