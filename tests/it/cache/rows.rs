//! Rows that are damaged: what cannot be read is dropped, and nothing wrong is given. And what a sealed vault shows of them.

use std::sync::Arc;

use bytes::Bytes;
use syncvault::store::crypt::{Key, Sealed};
use syncvault::store::kv::{Engine, KvStore};
use syncvault::store::{
    CacheChange, CacheEntry, CacheKey, CacheTarget, Cached, MemoryEngine, Store,
};
use syncvault::{ErrorKind, clock::Timestamp};

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
/// Heads, bodies, places in the order of use, marks, counts.
const PARTS: [&[u8]; 5] = [b"r", b"y", b"w", b"e", b"mcache"];
const KEEPS: usize = 4;

fn key(no: usize) -> CacheKey {
    let principal = (no % 2 == 1).then(|| "p-secret".to_owned());
    let resource = format!("https://secret.example/{}", no / 2);
    let target = CacheTarget::new(principal, resource, "q=secret".to_owned());
    CacheKey::new(target, "v-secret".to_owned())
}

fn entry(no: usize) -> CacheEntry {
    let head = Bytes::from(format!("secret head {no}"));
    let body = Bytes::from(format!("secret body {no} ").repeat(100));
    CacheEntry::new(key(no), head, Some(body), NOW)
}

async fn open(engine: &MemoryEngine) -> KvStore<MemoryEngine> {
    let store = KvStore::inline(engine.clone());
    store.open(NOW).await.expect("it opens");
    store
}

async fn keep(store: &dyn Store, no: usize) {
    let keep = CacheChange::Keep(Box::new(entry(no)));
    assert_eq!(store.cache(keep).await.expect("kept"), Cached::Done);
}

fn rows(engine: &MemoryEngine) -> Vec<(Bytes, Bytes)> {
    let all = engine.scan(&[], &[0xff], usize::MAX).expect("scan");
    let is_cache = |(key, _): &(Bytes, Bytes)| PARTS.iter().any(|part| key.starts_with(part));
    all.into_iter().filter(is_cache).collect()
}

/// Some with a mark.
async fn filled() -> MemoryEngine {
    let engine = MemoryEngine::default();
    let store = open(&engine).await;
    for no in 0..KEEPS {
        keep(&store, no).await;
    }
    let resources = vec![key(0).target.resource];
    let mark = CacheChange::Stale {
        resources,
        now: NOW,
    };
    store.cache(mark).await.expect("marked");
    store.close().await.expect("close");
    engine
}

/// What is there is right, and the cache can be filled and emptied.
async fn check(engine: &MemoryEngine, what: &str) -> usize {
    let store = open(engine).await;
    let mut whole = 0;
    for no in 0..KEEPS {
        let (key, want) = (key(no), entry(no));
        let heads = store.cached(key.target.clone()).await.expect(what);
        assert!(heads.len() <= 1, "{what}");
        for head in &heads {
            assert_eq!(
                (&head.head, &head.variant),
                (&want.head, &key.variant),
                "{what}"
            );
        }
        let body = store.cached_body(key).await.expect(what);
        assert!(body.is_none() || body == want.body, "{what}");
        whole += usize::from(body.is_some() && !heads.is_empty());
    }
    for no in 0..KEEPS {
        keep(&store, no).await;
        let body = store.cached_body(key(no)).await.expect(what);
        assert_eq!(body, entry(no).body, "{what}");
    }
    let mut large = entry(0);
    large.body = Some(vec![7; 3_000].into());
    large.bytes_max = 4_000;
    let keep = CacheChange::Keep(Box::new(large));
    while store.cache(keep.clone()).await.expect(what) == Cached::More {}
    let totals = store.cache_totals().await.expect(what);
    assert!(totals.bytes <= 4_000, "{what}: {totals:?}");
    let trim = CacheChange::Trim {
        bytes_max: 0,
        limit: 5,
    };
    while store.cache(trim.clone()).await.expect(what) == Cached::More {}
    let left = rows(engine);
    let is_count = |(key, _): &(Bytes, Bytes)| key.starts_with(b"mcache");
    assert!(left.iter().all(is_count), "{what}: {left:?}");
    store.close().await.expect("close");
    whole
}

#[tokio::test]
async fn damaged_rows_are_dropped_and_nothing_wrong_is_given() {
    assert_eq!(check(&filled().await, "nothing").await, KEEPS);
    let rows = rows(&filled().await);
    assert!(rows.len() > 3 * KEEPS);
    for (no, (row, value)) in rows.iter().enumerate() {
        let is_frame = matches!(row[0], b'r' | b'y');
        let flips = value.len() * usize::from(is_frame);
        let mut damages: Vec<(String, Option<Bytes>)> = (0..flips)
            .step_by(7)
            .map(|at| {
                let mut bytes = value.to_vec();
                bytes[at] ^= 1 << (at % 8);
                (format!("row {no}, byte {at}"), Some(bytes.into()))
            })
            .collect();
        damages.push((format!("row {no} gone"), None));
        damages.push((
            format!("row {no} cut"),
            Some(value.slice(..value.len() / 2)),
        ));
        damages.push((format!("row {no} empty"), Some(Bytes::new())));
        for (other, value) in rows.iter().filter(|(other, _)| other[0] == row[0]) {
            if other != row && is_frame {
                damages.push((format!("row {no} is another's"), Some(value.clone())));
            }
        }
        for (what, damaged) in damages {
            let mut engine = filled().await;
            engine
                .apply([(row.to_vec(), damaged)].into())
                .expect("apply");
            let whole = check(&engine, &what).await;
            assert!(whole + 1 >= KEEPS, "{what}: only {whole} are left");
        }
    }
}

/// Symptom: with the counts damaged, a write made nothing stale. Cause: the mark of a write takes its number from them.
#[tokio::test]
async fn what_is_written_is_stale_also_when_nothing_can_be_counted() {
    for damaged in [None, Some(Bytes::from_static(b"{"))] {
        let mut engine = filled().await;
        let damage = [(b"mcache".to_vec(), damaged)].into();
        engine.apply(damage).expect("apply");
        is_stale_after_a_write(&engine).await;
    }
}

async fn is_stale_after_a_write(engine: &MemoryEngine) {
    let store = open(engine).await;
    let target = key(2).target;
    let stale_since = || async {
        let heads = store.cached(target.clone()).await.expect("cached");
        heads.first().expect("there").stale_since
    };
    assert_eq!(stale_since().await, None);
    let resources = vec![target.resource.clone()];
    let mark = CacheChange::Stale {
        resources,
        now: NOW,
    };
    store.cache(mark).await.expect("marked");
    assert_eq!(stale_since().await, Some(NOW));
    keep(&store, 2).await;
    assert_eq!(
        stale_since().await,
        None,
        "what is read after that is fresh"
    );
}

#[tokio::test]
async fn a_sealed_store_sees_no_name_of_what_is_cached() {
    let engine = MemoryEngine::default();
    let key_of_app = Key::generate();
    let open = || async {
        let store = KvStore::inline(engine.clone());
        let sealed = Sealed::new(Arc::new(store), key_of_app.clone());
        sealed.open(NOW).await.expect("open");
        sealed
    };
    let sealed = open().await;
    for no in 0..KEEPS {
        let mut entry = entry(no);
        entry.used = vec![(key(0), NOW)];
        let keep = CacheChange::Keep(Box::new(entry));
        assert_eq!(sealed.cache(keep).await.expect("kept"), Cached::Done);
    }
    let resources = vec![key(0).target.resource];
    let mark = CacheChange::Stale {
        resources,
        now: NOW,
    };
    sealed.cache(mark).await.expect("marked");
    sealed.close().await.expect("close");
    assert!(rows(&engine).len() > 3 * KEEPS);
    for (key, value) in rows(&engine) {
        for bytes in [&key, &value] {
            let text = String::from_utf8_lossy(bytes);
            assert!(!text.contains("secret"), "{text}");
        }
    }
    let sealed = open().await;
    for no in 0..KEEPS {
        let heads = sealed.cached(key(no).target).await.expect("cached");
        assert_eq!(heads[0].head, entry(no).head);
        assert_eq!(heads[0].variant, key(no).variant);
        assert_eq!(heads[0].stale_since.is_some(), no < 2);
        let body = sealed.cached_body(key(no)).await.expect("body");
        assert_eq!(body, entry(no).body);
    }
    // One that lies in another's place does not open.
    let mut bodies = rows(&engine).into_iter().filter(|(key, _)| key[0] == b'y');
    let (one, other) = (bodies.next().expect("one"), bodies.next().expect("two"));
    let swapped = [(one.0.to_vec(), Some(other.1))].into();
    engine.clone().apply(swapped).expect("apply");
    let mut right = 0;
    for no in 0..KEEPS {
        let body = sealed.cached_body(key(no)).await.expect("body");
        assert!(body.is_none() || body == entry(no).body);
        right += usize::from(body.is_some());
    }
    assert_eq!(right, KEEPS - 1);
}

/// What is cached in clear stays in the files of the engine for a time, also when it is dropped.
#[tokio::test(start_paused = true)]
async fn a_plain_vault_with_cached_answers_does_not_become_sealed() {
    let rig = Rig::new();
    rig.answers(&[], "menu");
    let vault = rig.open().await;
    assert_eq!(get(&vault, "/menu").await, sent("menu"));
    assert_eq!(vault.cache_stats().await.expect("stats").entries, 1);
    for is_cleared in [false, true] {
        if is_cleared {
            rig.open().await.clear_cache().await.expect("cleared");
        }
        let builder = rig.builder().encryption(Key::new([7; 32]));
        let error = builder.build().await.expect_err("in clear");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}
