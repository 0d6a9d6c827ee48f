//! `replace` and `cancel`: only what was never sent gives way, and everything else is said as it is.

use std::time::Duration;

use syncvault::{
    Cancellation, End, ErrorKind, EventKind, Replaced, SyncVault, SyncVaultBuilder, Ticket,
};

use super::coalescing::{drained, held, paused, seen};
use super::{assert_balanced, builder, enqueue, soon, vault};
use crate::chaos_server::{Behaviour, ChaosServer};

fn replaced(replaced: Replaced) -> Ticket {
    match replaced {
        Replaced::Replaced(ticket) => ticket,
        other => panic!("expected Replaced, got {other:?}"),
    }
}

async fn bodies(server: &ChaosServer) -> Vec<String> {
    seen(server).into_iter().map(|(_, _, body)| body).collect()
}

#[tokio::test]
async fn a_replacement_keeps_the_place_and_has_a_key_of_its_own() {
    let server = ChaosServer::start().await;
    let vault = paused(builder(&server)).await;
    enqueue(&vault, "a", "1").await;
    let old = enqueue(&vault, "a", "2").await;
    enqueue(&vault, "a", "3").await;
    let new = vault.post("/orders").body("two");
    let new = replaced(vault.replace(old.id(), new).await.expect("replace"));
    assert_eq!(new.lane().as_str(), "a");
    assert_eq!(old.end().await.expect("end"), Some(End::Superseded));
    let mut events = old.events().await.expect("events");
    let by = Some(new.id());
    let event = soon(events.next()).await.expect("known");
    assert_eq!(event.kind, EventKind::Superseded { by });
    drained(&vault).await;
    assert_eq!(bodies(&server).await, ["1", "two", "3"]);
    let keys = server.effect_keys();
    assert_eq!(keys, ["1", &new.id().to_string(), "3"]);
    let ledger = vault.ledger().await.expect("ledger");
    assert_eq!((ledger.enqueued, ledger.superseded), (4, 1));
}

/// Ended, running, answered but not done, tried without a network: each is said as it is.
#[tokio::test]
async fn only_what_was_never_sent_is_replaced_or_cancelled() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    let new = || vault.post("/orders").body("new");
    let refused = async |ticket: &Ticket| {
        let before = vault.ledger().await.expect("ledger");
        let answer = vault.replace(ticket.id(), new()).await.expect("replace");
        assert_eq!(vault.ledger().await.expect("ledger"), before);
        (answer, vault.cancel(ticket.id()).await.expect("cancel"))
    };
    let done = enqueue(&vault, "a", "done").await;
    soon(done.wait()).await.expect("end");
    let answer = refused(&done).await;
    assert!(matches!(answer, (Replaced::TooLate, Cancellation::TooLate)));
    server.next(
        Behaviour::status(503)
            .header("retry-after", "3000")
            .after(Duration::from_millis(300)),
    );
    let busy = enqueue(&vault, "a", "busy").await;
    server.wait_received(2).await;
    let sent = (Replaced::MayHaveBeenSent, Cancellation::MayHaveBeenSent);
    let is_sent = |answer: &(Replaced, Cancellation)| {
        matches!(answer.0, Replaced::MayHaveBeenSent) && answer.1 == sent.1
    };
    assert!(is_sent(&refused(&busy).await), "it is on the wire");
    let is_answered = async {
        loop {
            let action = vault.action(busy.id()).await.expect("action");
            let action = action.expect("known");
            if action.last_status == Some(503) {
                return action.wire_state;
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(soon(is_answered).await, syncvault::WireState::Answered);
    assert!(is_sent(&refused(&busy).await), "the server has seen it");
    let nobody = syncvault::ActionId::new();
    let error = vault.replace(nobody, new()).await.expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_balanced(&vault).await;
}

#[tokio::test]
async fn what_found_no_server_is_replaced() {
    let server = ChaosServer::start().await;
    let vault = vault(&server).await;
    server.down().await;
    let sent = vault.post("/orders").body("old").send().await;
    let old = sent.expect("send").ticket().expect("queued");
    held(&vault, &old).await;
    let new = vault.put("/orders/1").body("new");
    let new = replaced(vault.replace(old.id(), new).await.expect("replace"));
    server.up().await;
    drained(&vault).await;
    assert!(matches!(new.end().await, Ok(Some(End::Delivered(_)))));
    assert_eq!(bodies(&server).await, ["new"]);
}

#[tokio::test]
async fn a_replacement_that_cannot_be_leaves_the_old_one() {
    let server = ChaosServer::start().await;
    let vault = paused(builder(&server)).await;
    let old = enqueue(&vault, "a", "old").await;
    let post = || vault.post("/orders").body("new");
    let other_vault = builder(&server).build().await.expect("vault");
    enqueue(&vault, "b", "taken").await;
    let cases = [
        (post().lane("b"), ErrorKind::Invalid),
        (other_vault.post("/orders"), ErrorKind::Invalid),
        (post().principal("ann"), ErrorKind::NotFound),
        (
            post().idempotency_key("old"),
            ErrorKind::IdempotencyConflict,
        ),
        (
            post().idempotency_key("taken"),
            ErrorKind::IdempotencyConflict,
        ),
        // The same request as another action: that one is known, and the old one would stay.
        (
            post().body("taken").idempotency_key("taken"),
            ErrorKind::IdempotencyConflict,
        ),
    ];
    for (request, kind) in cases {
        let error = vault.replace(old.id(), request).await.expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(old.end().await.expect("end"), None);
    }
    assert_eq!(vault.pending_count().await.expect("count"), 2);
    assert_balanced(&vault).await;
}

/// An app that does not know whether its call went through calls again, with the key of the new request.
#[tokio::test]
async fn the_same_replacement_again_gives_the_same_ticket() {
    let server = ChaosServer::start().await;
    let vault = paused(builder(&server)).await;
    let old = enqueue(&vault, "a", "old").await;
    let new = || vault.post("/orders").body("new").idempotency_key("new");
    let first = replaced(vault.replace(old.id(), new()).await.expect("replace"));
    let again = replaced(vault.replace(old.id(), new()).await.expect("replace"));
    assert_eq!(first.id(), again.id());
    let other = vault.post("/orders").body("third");
    let late = vault.replace(old.id(), other).await.expect("replace");
    assert!(matches!(late, Replaced::TooLate));
    assert_eq!(vault.pending_count().await.expect("count"), 1);
}

#[tokio::test]
async fn an_action_of_a_principal_is_replaced_by_its_own() {
    let server = ChaosServer::start().await;
    let vault = paused(builder(&server).principal("ann")).await;
    let old = enqueue(&vault, "a", "old").await;
    vault.principal("ben").expect("switch");
    let request = vault.post("/orders").body("ben's");
    let error = vault.replace(old.id(), request).await.expect_err("ann's");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    vault.principal("ann").expect("switch");
    let request = vault.post("/orders").body("new").lane("a");
    replaced(vault.replace(old.id(), request).await.expect("replace"));
    drained(&vault).await;
    assert_eq!(bodies(&server).await, ["new"]);
}

/// A file in place of bytes, and bytes in place of a file; the old file goes.
async fn a_file_is_replaced(builder: SyncVaultBuilder, server: &ChaosServer) -> SyncVault {
    let vault = paused(builder).await;
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("film");
    std::fs::write(&path, vec![b'7'; 300_000]).expect("write");
    let old = enqueue(&vault, "a", "old").await;
    let put = || vault.put("/film");
    let film = vault.replace(old.id(), put().body_file(&path)).await;
    let film = replaced(film.expect("replace"));
    std::fs::write(&path, vec![b'8'; 200_000]).expect("write");
    let film = vault.replace(film.id(), put().body_file(&path)).await;
    replaced(film.expect("replace"));
    let late = vault.replace(old.id(), put().body_file(&path)).await;
    assert!(matches!(late.expect("replace"), Replaced::TooLate));
    drained(&vault).await;
    let received = server.received();
    assert_eq!(received.len(), 1);
    assert_eq!(&received[0].body[..], vec![b'8'; 200_000]);
    vault
}

#[tokio::test]
async fn a_file_is_replaced_in_memory() {
    let server = ChaosServer::start().await;
    a_file_is_replaced(builder(&server), &server).await;
}

#[cfg(feature = "sled")]
#[tokio::test]
async fn a_file_is_replaced_on_disk() {
    let server = ChaosServer::start().await;
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("vault");
    let on_disk = crate::story::bare_builder(&server).storage_path(&path);
    let vault = a_file_is_replaced(on_disk, &server).await;
    soon(vault.shutdown(Duration::from_secs(5)))
        .await
        .expect("shutdown");
    let left = std::fs::read_dir(path.join("bodies")).expect("bodies");
    assert_eq!(left.count(), 0, "no file is left behind");
}

#[cfg(all(feature = "sled", feature = "encrypt"))]
#[tokio::test]
async fn a_file_is_replaced_in_a_sealed_vault() {
    use syncvault::store::crypt::{Key, Keys};

    let server = ChaosServer::start().await;
    let dir = tempfile::tempdir().expect("dir");
    let key = || async { std::io::Result::Ok(Keys::new(Key::new([7; 32]))) };
    let sealed = crate::story::bare_builder(&server)
        .storage_path(dir.path().join("vault"))
        .encryption(key);
    a_file_is_replaced(sealed, &server).await;
}
