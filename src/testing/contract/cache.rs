//! Cached answers: found by who asked and for what, bounded, stale when something was written, gone with their principal.

use bytes::Bytes;

use super::StoreFactory;
use super::rig::{Rig, rig};
use crate::clock::Timestamp;
use crate::error::ErrorKind;
use crate::store::{
    Amend, Amended, Append, CacheChange, CacheEntry, CacheKey, CacheTarget, CacheTotals, Cached,
    CachedHead,
};

fn target(principal: Option<&str>, resource: &str, query: &str) -> CacheTarget {
    CacheTarget::new(
        principal.map(str::to_owned),
        resource.to_owned(),
        query.to_owned(),
    )
}

fn plain(resource: &str) -> CacheKey {
    CacheKey::new(target(None, resource, ""), String::new())
}

impl<F: StoreFactory> Rig<'_, F> {
    fn entry(&self, key: &CacheKey, body: impl Into<Bytes>) -> CacheEntry {
        let head = Bytes::from(format!("head of {}", key.variant));
        CacheEntry::new(key.clone(), head, Some(body.into()), self.now)
    }

    async fn change(&self, change: CacheChange) -> Cached {
        self.store.cache(change).await.expect("cache")
    }

    async fn keep(&self, entry: CacheEntry) -> Cached {
        self.change(CacheChange::Keep(Box::new(entry))).await
    }

    async fn cache(&self, key: &CacheKey, body: impl Into<Bytes>) {
        assert_eq!(self.keep(self.entry(key, body)).await, Cached::Done);
    }

    async fn heads(&self, target: &CacheTarget) -> Vec<CachedHead> {
        self.store.cached(target.clone()).await.expect("cached")
    }

    async fn body(&self, key: &CacheKey) -> Option<Bytes> {
        let heads = self.heads(&key.target).await;
        let is_there = heads.iter().any(|head| head.variant == key.variant);
        let body = self.store.cached_body(key.clone()).await.expect("body");
        assert_eq!(is_there, body.is_some(), "a head has a body");
        body
    }

    /// Since when an answer is stale.
    async fn stale_since(&self, key: &CacheKey) -> Option<Timestamp> {
        let heads = self.heads(&key.target).await;
        let head = heads.iter().find(|head| head.variant == key.variant);
        head.expect("it is cached").stale_since
    }

    async fn cache_totals(&self) -> CacheTotals {
        self.store.cache_totals().await.expect("totals")
    }

    fn written(&self, resource: &str) -> Append {
        let mut append = self.draft("a").into_append();
        append.stale = vec![resource.to_owned()];
        append
    }
}

/// Byte for byte, long or short, also over a crash; what differs in anything is another one.
pub async fn a_cached_answer_is_kept_under_its_name(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let names = [
        target(None, "https://a/x", ""),
        target(None, "https://a/x", "q=1"),
        target(Some("ann"), "https://a/x", "q=1"),
        target(Some("bob"), "https://a/x", "q=1"),
        target(Some(""), "https://a/x", "q=1"),
        target(None, "https://a/xq=1", ""),
    ];
    let variants = ["", "de", "en"].map(str::to_owned);
    let keys: Vec<_> = names
        .iter()
        .flat_map(|name| variants.clone().map(|v| CacheKey::new(name.clone(), v)))
        .collect();
    let body = |no: usize| Bytes::from(format!("{no}").repeat(1 + no * 3_000));
    for (no, key) in keys.iter().enumerate() {
        assert_eq!(rig.body(key).await, None);
        rig.cache(key, body(no)).await;
    }
    for _ in 0..2 {
        for (no, key) in keys.iter().enumerate() {
            assert_eq!(rig.body(key).await, Some(body(no)), "{no}");
        }
        for name in &names {
            let mut found: Vec<_> = rig
                .heads(name)
                .await
                .into_iter()
                .map(|head| (head.variant, head.head, head.stale_since))
                .collect();
            found.sort();
            let wanted = variants.clone().map(|variant| {
                let head = Bytes::from(format!("head of {variant}"));
                (variant, head, None)
            });
            assert_eq!(found, wanted);
        }
        rig = rig.crash().await;
    }
    rig = rig.restart().await;
    assert_eq!(rig.body(&keys[17]).await, Some(body(17)));
    assert_eq!(rig.cache_totals().await.entries, 18);
    assert_eq!(rig.totals().await.ledger.enqueued, 0);
}

/// The newest one counts; the body stays when only the head is new, and what weighs is what is there.
pub async fn a_newer_answer_takes_the_place_of_its_predecessor(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let key = plain("https://a/x");
    rig.cache(&key, vec![1; 50_000]).await;
    rig.cache(&key, vec![2; 20_000]).await;
    let mut renewed = CacheEntry::new(key.clone(), Bytes::from_static(b"new"), None, rig.now);
    assert_eq!(rig.keep(renewed.clone()).await, Cached::Done);
    let rig = rig.crash().await;
    assert_eq!(rig.body(&key).await, Some(vec![2; 20_000].into()));
    assert_eq!(rig.heads(&key.target).await[0].head, "new");
    let totals = rig.cache_totals().await;
    assert_eq!((totals.entries, totals.kept), (1, 3));
    assert!((20_000..24_000).contains(&totals.bytes), "{totals:?}");
    renewed.key = plain("https://a/unknown");
    assert_eq!(rig.keep(renewed).await, Cached::Nothing);
    assert_eq!(
        rig.change(CacheChange::Drop(key.clone())).await,
        Cached::Done
    );
    assert_eq!(rig.body(&key).await, None);
    assert_eq!(rig.cache_totals().await.bytes, 0);
}

/// The bytes stay within their limit; that one was used is known when the next one is kept, and after a restart.
pub async fn the_least_recently_used_answers_go_first(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let keys: Vec<_> = (0..5).map(|no| plain(&format!("https://a/{no}"))).collect();
    for key in &keys[..4] {
        rig.wait(10);
        rig.cache(key, vec![7; 10_000]).await;
    }
    rig.wait(10);
    let mut entry = rig.entry(&keys[4], vec![8; 10_000]);
    entry.used = vec![(keys[0].clone(), rig.now)];
    entry.bytes_max = 4 * 12_000;
    rig.wait(10);
    rig = rig.restart().await;
    assert_eq!(rig.keep(entry).await, Cached::Done);
    let rig = rig.crash().await;
    let mut there = Vec::new();
    for key in &keys {
        there.push(rig.body(key).await.is_some());
    }
    assert_eq!(there, [true, false, true, true, true]);
    let totals = rig.cache_totals().await;
    assert!(
        totals.bytes <= 4 * 12_000 && totals.entries == 4,
        "{totals:?}"
    );
    let mut large = rig.entry(&keys[1], vec![9; 50_000]);
    large.bytes_max = 4 * 12_000;
    assert_eq!(rig.keep(large).await, Cached::Nothing);
    assert_eq!(rig.cache_totals().await.entries, 4);
}

/// However many go for one, each call lets a bounded number go.
pub async fn room_is_made_in_bounded_steps(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    for no in 0..200 {
        rig.wait(1);
        rig.cache(&plain(&format!("https://a/{no}")), "small").await;
    }
    let key = plain("https://a/large");
    let mut large = rig.entry(&key, vec![7; 100_000]);
    large.bytes_max = 101_000;
    let mut calls = 0;
    let mut before = rig.cache_totals().await.entries;
    while rig.keep(large.clone()).await == Cached::More {
        let entries = rig.cache_totals().await.entries;
        assert!(entries < before && before - entries <= 64, "{entries}");
        before = entries;
        calls += 1;
        assert!(calls < 100, "it comes to an end");
    }
    assert!(calls > 1);
    assert_eq!(rig.body(&key).await, Some(vec![7; 100_000].into()));
    assert_eq!(rig.cache_totals().await.entries, 1);
}

/// Of all that was asked of it, by whoever, with whatever query; not what is kept after that, and nothing else.
pub async fn what_was_written_to_is_stale(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let x = [
        CacheKey::new(target(None, "https://a/x", ""), String::new()),
        CacheKey::new(target(None, "https://a/x", "page=2"), "de".to_owned()),
        CacheKey::new(target(Some("ann"), "https://a/x", ""), String::new()),
    ];
    let other = plain("https://a/x/7");
    for key in x.iter().chain([&other]) {
        rig.cache(key, "body").await;
        assert_eq!(rig.stale_since(key).await, None);
    }
    rig.wait(10);
    let appended = rig.store.append(vec![rig.written("https://a/x")]).await;
    appended.expect("append");
    let rig = rig.crash().await;
    for key in &x {
        let stale = rig.stale_since(key).await.expect("stale");
        assert!(stale <= rig.now && stale.after(std::time::Duration::from_millis(5)) > rig.now);
    }
    assert_eq!(rig.stale_since(&other).await, None);
    rig.cache(&x[0], "newer").await;
    assert_eq!(rig.stale_since(&x[0]).await, None);
    assert!(rig.stale_since(&x[1]).await.is_some());
    let mut overtaken = rig.entry(&x[1], "overtaken");
    overtaken.stale_since = Some(rig.now);
    assert_eq!(rig.keep(overtaken).await, Cached::Done);
    assert_eq!(rig.stale_since(&x[1]).await, Some(rig.now));
}

/// A step of the worker and a call of its own do the same; an append that adds nothing does nothing.
pub async fn every_way_of_writing_makes_stale(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let keys = ["https://a/x", "https://a/y", "https://a/z"].map(plain);
    for key in &keys {
        rig.cache(key, "body").await;
    }
    rig.queue(rig.draft("a").key("k").fingerprint("one")).await;
    let mut known = rig.draft("a").key("k").fingerprint("one").into_append();
    known.stale = vec!["https://a/x".to_owned()];
    rig.store.append(vec![known]).await.expect("append");
    assert_eq!(rig.stale_since(&keys[0]).await, None);
    let mut step = rig.step();
    step.stale = vec!["https://a/y".to_owned(), "https://a/nothing".to_owned()];
    rig.advance(step).await;
    let (resources, now) = (vec!["https://a/z".to_owned()], rig.now);
    rig.change(CacheChange::Stale { resources, now }).await;
    let rig = rig.crash().await;
    let mut stale = Vec::new();
    for key in &keys {
        stale.push(rig.stale_since(key).await.is_some());
    }
    assert_eq!(stale, [false, true, true]);
}

/// One that is forgotten leaves no answer; those of others stay.
pub async fn a_forgotten_principal_leaves_no_answers(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let keys = [Some("ann"), Some("bob"), None].map(|principal| {
        (0..20)
            .map(|no| {
                let target = target(principal, &format!("https://a/{no}"), "");
                CacheKey::new(target, String::new())
            })
            .collect::<Vec<_>>()
    });
    for key in keys.iter().flatten() {
        rig.cache(key, vec![7; 9_000]).await;
    }
    loop {
        let principal = "ann".to_owned();
        let forget = Amend::Forget {
            principal,
            limit: 10,
        };
        if matches!(rig.amend(forget).await, Amended::Done(_)) {
            break;
        }
    }
    let rig = rig.crash().await;
    for (no, key) in keys.iter().flatten().enumerate() {
        assert_eq!(rig.body(key).await.is_some(), no >= 20, "{no}");
    }
    assert_eq!(rig.cache_totals().await.entries, 40);
}

/// Everything, in bounded steps.
pub async fn a_trimmed_cache_is_empty(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    for no in 0..100 {
        rig.cache(&plain(&format!("https://a/{no}")), vec![7; no * 200])
            .await;
    }
    let trim = |bytes_max| CacheChange::Trim {
        bytes_max,
        limit: 10,
    };
    let before = rig.cache_totals().await;
    assert_eq!(rig.change(trim(u64::MAX)).await, Cached::Done);
    assert_eq!(rig.cache_totals().await, before);
    assert_eq!(rig.change(trim(1)).await, Cached::More);
    assert_eq!(rig.cache_totals().await.entries, 90);
    while rig.change(trim(0)).await == Cached::More {}
    let rig = rig.crash().await;
    let totals = rig.cache_totals().await;
    assert_eq!((totals.entries, totals.bytes), (0, 0));
    assert_eq!(totals.kept, before.kept);
    assert_eq!(rig.body(&plain("https://a/99")).await, None);
}

/// A head that is too long is refused, and a target has no end of variants.
pub async fn what_one_target_holds_is_bounded(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let name = target(None, "https://a/x", "");
    let keys: Vec<_> = (0..40)
        .map(|no| CacheKey::new(name.clone(), format!("v{no}")))
        .collect();
    for key in &keys {
        rig.wait(1);
        rig.cache(key, "body").await;
    }
    let heads = rig.heads(&name).await;
    assert_eq!(heads.len(), CacheEntry::VARIANTS_MAX);
    assert!(rig.body(&keys[39]).await.is_some());
    assert!(rig.body(&keys[0]).await.is_none());
    let mut entry = rig.entry(&keys[39], "body");
    entry.head = vec![7; CacheEntry::HEAD_BYTES_MAX].into();
    assert_eq!(rig.keep(entry.clone()).await, Cached::Done);
    entry.head = vec![7; 2 * CacheEntry::HEAD_BYTES_MAX].into();
    let refused = rig.store.cache(CacheChange::Keep(Box::new(entry))).await;
    assert_eq!(refused.expect_err("refused").kind(), ErrorKind::Invalid);
    let rig = rig.crash().await;
    assert_eq!(rig.heads(&name).await.len(), CacheEntry::VARIANTS_MAX);
}
