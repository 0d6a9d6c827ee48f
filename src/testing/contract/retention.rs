//! Retention: what is forgotten of settled actions, oldest first, a bounded number in each step.

use std::time::Duration;

use bytes::Bytes;

use super::StoreFactory;
use super::rig::{Rig, ids, rig, settle_of};
use crate::action::ActionId;
use crate::decide::Settlement;
use crate::store::{Part, Retention};

/// Delivers `count` actions with answers of `answer_bytes`, ten milliseconds apart.
async fn settled<F: StoreFactory>(
    rig: &mut Rig<'_, F>,
    count: usize,
    answer_bytes: usize,
) -> Vec<ActionId> {
    let mut settled = Vec::new();
    for _ in 0..count {
        rig.queue(rig.draft("a")).await;
        let leased = rig.lease_only().await;
        let mut settle = settle_of(&leased, Settlement::Delivered { status: 200 });
        settle.answer = Some(Bytes::from(vec![b'x'; answer_bytes]));
        rig.settle_with(settle).await.expect("accepted");
        settled.push(leased.id);
        rig.wait(10);
    }
    settled
}

/// Steps until nothing more is forgotten.
async fn forget<F: StoreFactory>(rig: &Rig<'_, F>, retention: Retention) {
    for _ in 0..10_000 {
        let before = rig.totals().await;
        let mut step = rig.step();
        step.retention = retention;
        let after = rig.advance(step).await.totals;
        assert_eq!(after.ledger, before.ledger, "forgetting is not a way out");
        if after == before {
            return;
        }
    }
    panic!("retention does not come to an end");
}

/// What is older than the age goes, what is younger stays.
pub async fn retention_forgets_by_age(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let settled = settled(&mut rig, 6, 5).await;
    let age = Duration::from_millis(35);
    forget(
        &rig,
        Retention {
            age,
            ..Retention::default()
        },
    )
    .await;
    assert_eq!(ids(&rig.all(Part::Settled, 10).await), settled[3..]);
    let counts = rig.totals().await.counts;
    assert_eq!((counts.retained, counts.retained_bytes), (3, 15));
    assert!(
        rig.store
            .answer(settled[0])
            .await
            .expect("answer")
            .is_none()
    );
    assert!(rig.find(settled[0]).await.is_none());
}

/// The newest so many stay.
pub async fn retention_forgets_by_count(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let settled = settled(&mut rig, 6, 5).await;
    forget(
        &rig,
        Retention {
            count: 2,
            ..Retention::default()
        },
    )
    .await;
    assert_eq!(ids(&rig.all(Part::Settled, 10).await), settled[4..]);
    forget(
        &rig,
        Retention {
            count: 0,
            ..Retention::default()
        },
    )
    .await;
    assert_eq!(rig.totals().await.counts.retained, 0);
}

/// The newest stay that fit into the bytes.
pub async fn retention_forgets_by_bytes(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let settled = settled(&mut rig, 6, 1_000).await;
    forget(
        &rig,
        Retention {
            bytes: 2_500,
            ..Retention::default()
        },
    )
    .await;
    assert_eq!(ids(&rig.all(Part::Settled, 10).await), settled[4..]);
    assert_eq!(rig.totals().await.counts.retained_bytes, 2_000);
}

/// Within its limits nothing is forgotten.
pub async fn retention_keeps_what_is_within_its_limits(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let settled = settled(&mut rig, 6, 1_000).await;
    let retention = Retention {
        age: Duration::from_millis(70),
        count: 6,
        bytes: 6_000,
    };
    forget(&rig, retention).await;
    assert_eq!(ids(&rig.all(Part::Settled, 10).await), settled);
}

/// Cancelled and expired actions are settled too: they are forgotten like delivered ones.
pub async fn retention_forgets_every_kind_of_end(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let cancelled = rig.queue(rig.draft("a")).await.id;
    rig.cancel(cancelled).await;
    let superseded = rig.queue(rig.draft("a").coalesce("c")).await.id;
    let draft = rig
        .draft("a")
        .coalesce("c")
        .due(rig.at(50))
        .expires(rig.at(5));
    let expired = rig.queue(draft).await.id;
    rig.wait(10);
    rig.leases_nothing().await;
    let delivered = rig.delivered(rig.draft("a")).await.id;
    assert_eq!(rig.totals().await.counts.retained, 4);
    rig.wait(10);
    let retention = Retention {
        age: Duration::from_millis(1),
        ..Retention::default()
    };
    forget(&rig, retention).await;
    for id in [cancelled, superseded, expired, delivered] {
        assert!(rig.find(id).await.is_none());
    }
    assert_eq!(rig.totals().await.counts.retained, 0);
}

/// Many at once: however large a step's share is, the rest goes with the next ones, oldest first.
pub async fn retention_comes_to_an_end(factory: &impl StoreFactory) {
    let mut rig = rig(factory).await;
    let drafts = (0..1_500).map(|number| rig.draft(&format!("lane {number}")));
    rig.append_all(drafts).await;
    let leased = rig.lease(2_000).await;
    assert_eq!(leased.len(), 1_500);
    let mut step = rig.step();
    let delivered = Settlement::Delivered { status: 200 };
    let settles = leased
        .iter()
        .map(|lease| settle_of(&lease.record, delivered.clone()));
    step.settle = settles.collect();
    rig.advance(step).await;
    rig.wait(10);
    let newest = settled(&mut rig, 3, 0).await;
    forget(
        &rig,
        Retention {
            count: 3,
            ..Retention::default()
        },
    )
    .await;
    assert_eq!(ids(&rig.all(Part::Settled, 10).await), newest);
}
