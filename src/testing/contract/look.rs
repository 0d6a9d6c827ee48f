//! What a rule looks at: records, totals, lanes and pages, each checked against what is always true.

use super::StoreFactory;
use super::rig::{Rig, lane};
use crate::action::{ActionId, Ledger, Record};
use crate::store::{Cursor, Find, LaneTotals, Page, Part, Query, Totals};

impl<F: StoreFactory> Rig<'_, F> {
    /// One action by its id.
    pub(super) async fn find(&self, id: ActionId) -> Option<Record> {
        self.store.get(Find::Id(id)).await.expect("get by id")
    }

    /// One action by its id, which must be there.
    pub(super) async fn record(&self, id: ActionId) -> Record {
        self.find(id).await.expect("the action is known")
    }

    /// One action by its key.
    pub(super) async fn find_key(&self, key: &str) -> Option<Record> {
        self.store
            .get(Find::Key(key.into()))
            .await
            .expect("get by key")
    }

    /// Counts and ledger, which must agree.
    pub(super) async fn totals(&self) -> Totals {
        let totals = self.store.totals().await.expect("totals");
        let Totals { counts, ledger, .. } = totals;
        assert!(ledger.is_balanced(), "the ledger is balanced: {ledger:?}");
        assert_eq!(
            counts.pending, ledger.pending,
            "counts and ledger know the same pending"
        );
        assert!(counts.in_flight <= counts.pending);
        assert_eq!(counts.oldest.is_some(), counts.pending > 0);
        totals
    }

    /// The ledger.
    pub(super) async fn ledger(&self) -> Ledger {
        self.totals().await.ledger
    }

    /// What a lane holds.
    pub(super) async fn lane(&self, name: &str) -> LaneTotals {
        self.store.lane(lane(name)).await.expect("lane")
    }

    /// A page.
    pub(super) async fn page(&self, part: Part, after: Option<Cursor>, limit: usize) -> Page {
        let page = self
            .store
            .page(Query { part, after, limit })
            .await
            .expect("page");
        assert!(page.records.len() <= limit, "a page keeps to its limit");
        page
    }

    /// Everything of a part, in pages of `limit`.
    pub(super) async fn all(&self, part: Part, limit: usize) -> Vec<Record> {
        let mut records = Vec::new();
        let mut after = None;
        loop {
            let page = self.page(part.clone(), after.clone(), limit).await;
            assert!(
                page.next.is_none() || page.next != after,
                "a cursor moves on"
            );
            records.extend(page.records);
            after = page.next;
            if after.is_none() {
                return records;
            }
        }
    }
}
