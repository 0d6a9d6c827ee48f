//! The end of a run.

use bytes::Bytes;

use super::StoreFactory;
use super::rig::rig;
use crate::action::ActionId;
use crate::error::{ErrorKind, Result};
use crate::store::{Amend, CacheChange, Find, Part, Query};

fn is_closed<T>(verb: &str, result: Result<T>) {
    let error = result
        .err()
        .unwrap_or_else(|| panic!("{verb} works on a closed store"));
    assert_eq!(error.kind(), ErrorKind::Closed, "{verb}: {error}");
}

/// Every verb says so.
pub async fn a_closed_store_does_nothing(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let record = rig.queue(rig.draft("a")).await;
    rig.store.close().await.expect("close");
    let (id, now, store) = (record.id, rig.now, &rig.store);
    is_closed(
        "append",
        store.append(vec![rig.draft("a").into_append()]).await,
    );
    is_closed("advance", store.advance(rig.leasing(1)).await);
    is_closed("amend", store.amend(Amend::Cancel { id, now }).await);
    let answer = Bytes::new();
    is_closed("amend", store.amend(Amend::KeepAnswer { id, answer }).await);
    is_closed("get", store.get(Find::Id(id)).await);
    is_closed("body", store.body(id).await);
    is_closed("answer", store.answer(id).await);
    is_closed("page", store.page(Query::first(Part::Pending, 1)).await);
    is_closed("note", store.note("n").await);
    is_closed("set_note", store.set_note("n", None).await);
    let trim = CacheChange::Trim {
        bytes_max: 0,
        limit: 1,
    };
    is_closed("cache", store.cache(trim).await);
    is_closed("cache_totals", store.cache_totals().await);
    is_closed("totals", store.totals().await);
    is_closed("lane", store.lane(record.lane.clone()).await);
    is_closed("get", store.get(Find::Id(ActionId::new())).await);
    is_closed("open", store.open(now).await);
}

/// Closing twice is fine, and the place can be opened again.
pub async fn a_store_can_be_closed_twice(factory: &impl StoreFactory) {
    let rig = rig(factory).await;
    let record = rig.queue(rig.draft("a")).await;
    rig.store.close().await.expect("close");
    rig.store.close().await.expect("close again");
    let rig = rig.restart().await;
    assert_eq!(rig.record(record.id).await, record);
}
