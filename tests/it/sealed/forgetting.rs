//! Forgetting a principal, cut off anywhere: nothing of it is sent, nothing is left, and its key is gone first.

use std::sync::Arc;
use std::time::Duration;

use syncvault::connectivity::AlwaysReachable;
use syncvault::store::crypt::Key;
use syncvault::store::{Amend, Amended, Find, MemoryStore, Store};
use syncvault::testing::{FakeServer, Fault, Faults, FaultyStore};
use syncvault::{Result, SyncVault};

use super::{Place, add, lease};

/// What was written before the key went does not open after it, wherever it is found.
#[tokio::test]
async fn what_is_found_later_of_a_forgotten_principal_does_not_open() {
    let (place, key) = (Place::default(), Key::generate());
    let (store, _) = place.open(key.clone()).await.expect("open");
    let (ann, ben) = (add(&store, "ann", "a").await, add(&store, "ben", "b").await);
    let birth = place.get(b'b', ann).expect("a record");
    let change = || Amend::Forget {
        principal: "ann".to_owned(),
        limit: 100,
    };
    let Amended::Done(gone) = store.amend(change()).await.expect("forget") else {
        panic!("not done");
    };
    assert_eq!(
        gone[0].principal.as_deref(),
        Some("ann"),
        "told in clear once more"
    );
    let again = add(&store, "ann", "a").await;
    place.put(b'b', ann, birth);
    let (store, _) = place.open(key).await.expect("open");
    assert!(store.get(Find::Id(ann)).await.is_err());
    let leased: Vec<_> = lease(&store)
        .await
        .leased
        .iter()
        .map(|l| l.record.id)
        .collect();
    assert_eq!(leased, [ben, again]);
}

struct App {
    server: FakeServer,
    faults: Faults,
    memory: MemoryStore,
    is_sealed: bool,
}

impl App {
    /// As after a start: everybody's actions are sent, if anything is left of them.
    async fn open(&self) -> Result<SyncVault> {
        let store = FaultyStore::with_faults(Arc::new(self.memory.restarted()), &self.faults);
        let builder = SyncVault::builder("http://fake.test")
            .store(store)
            .transport(self.server.transport())
            .connectivity(AlwaysReachable::new())
            .all_principals();
        match self.is_sealed {
            true => builder.encryption(Key::new([7; 32])).build().await,
            false => builder.build().await,
        }
    }
}

/// Goal: a forgetting that a crash cuts off anywhere is ended by the next open, and nothing is sent meanwhile. Method: the
/// store is poisoned at its Nth call from there on, N = 1, 2, ...; then the app starts again.
#[tokio::test(start_paused = true)]
async fn a_forgetting_that_was_cut_off_ends_at_the_next_open() {
    for (is_sealed, fault) in [
        (false, Fault::PoisonedBefore),
        (false, Fault::PoisonedAfter),
        (true, Fault::PoisonedBefore),
        (true, Fault::PoisonedAfter),
    ] {
        for nth in 1.. {
            let app = App {
                server: FakeServer::new(),
                faults: Faults::default(),
                memory: MemoryStore::new(),
                is_sealed,
            };
            if !forgets(&app, nth, fault).await {
                assert!(nth > 2, "the fault never hit");
                break;
            }
        }
    }
}

/// True when the fault hit.
async fn forgets(app: &App, nth: u64, fault: Fault) -> bool {
    let vault = app.open().await.expect("vault");
    vault.pause().await.expect("pause");
    for number in 0..5 {
        let request = vault.post(format!("/ann/{number}")).principal("ann");
        request
            .lane(format!("{number}"))
            .enqueue()
            .await
            .expect("enqueue");
    }
    let kept = vault
        .post("/ben")
        .principal("ben")
        .enqueue()
        .await
        .expect("enqueue");
    app.faults.fail_at(nth, fault);
    let forgotten = vault.forget("ann").await;
    let has_hit = app.faults.fired().is_some();
    drop(vault);
    tokio::time::sleep(Duration::from_secs(60)).await;
    app.faults.heal();
    let vault = app.open().await.expect("opens again");
    let pending = vault.pending_count().await.expect("count");
    let left = vault
        .pending_actions(syncvault::Paging::default())
        .await
        .expect("list");
    if forgotten.is_ok() || pending == 1 {
        assert_eq!(left.items.len(), 1, "{nth} {fault:?}");
        assert_eq!(left.items[0].id, kept.id());
    } else {
        // Nothing of it was written yet: the second call does it.
        assert_eq!((pending, left.items.len()), (6, 6), "{nth} {fault:?}");
        assert_eq!(vault.forget("ann").await.expect("forget"), 5);
    }
    vault.resume().await.expect("resume");
    vault.wait_idle().await.expect("idle");
    let seen: Vec<_> = app
        .server
        .attempts()
        .iter()
        .map(|seen| seen.path().to_owned())
        .collect();
    assert_eq!(seen, ["/ben"], "{nth} {fault:?}");
    let ledger = vault.ledger().await.expect("ledger");
    assert_eq!((ledger.evicted, ledger.delivered), (5, 1));
    assert!(ledger.is_balanced());
    has_hit
}
