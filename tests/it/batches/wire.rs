//! Answers to batches over real HTTP: pages that are not the server's, bodies that break off or have no end.

use syncvault::decide::PortalGuard;
use syncvault::{Connection, SyncVault};

use super::{BatchLimits, Orders, orders};
use crate::chaos_server::{Behaviour, Break, ChaosServer, Received};
use crate::story::{assert_balanced, builder, soon};

async fn vault(server: &ChaosServer, limits: BatchLimits) -> SyncVault {
    let builder = builder(server).portal_guard_for(server.url(), PortalGuard::all());
    let builder = builder.batcher("orders", Orders { limits });
    builder.build().await.expect("vault")
}

fn taken() -> Behaviour {
    let answer = Behaviour::status(200).body("[201, 201]");
    answer.replace_header("content-type", "application/json")
}

fn batches(server: &ChaosServer) -> Vec<Received> {
    let mut batches = server.received();
    batches.retain(|request| request.path == "/batch");
    batches
}

/// All of one key and one body.
fn are_one(batches: &[Received]) {
    assert_eq!(batches.len(), 2);
    assert_eq!(batches[0].key(), batches[1].key());
    assert_eq!(batches[0].body, batches[1].body);
}

/// A 200 that is not the server's is no delivery, and no verdict on anything.
#[tokio::test]
async fn a_login_page_in_place_of_an_answer_delivers_nothing() {
    let server = ChaosServer::start().await;
    let page = Behaviour::status(200).without_effect();
    let page = page.replace_header("content-type", "text/html");
    server.next_on("/batch", page.body("<html>Welcome to the hotel</html>"));
    server.on("/batch", taken());
    let vault = vault(&server, BatchLimits::default()).await;
    let mut connection = vault.watch_connection();
    let tickets = orders(&vault, "orders", &["a", "b"]).await;
    while soon(connection.next()).await != Some(Connection::Portal) {}
    soon(vault.wait_idle()).await.expect("idle");
    are_one(&batches(&server));
    for ticket in &tickets {
        let action = vault.action(ticket.id()).await.expect("action");
        assert_eq!(action.expect("known").attempts_counted, 0);
    }
    assert_eq!(vault.ledger().await.expect("ledger").delivered, 2);
    assert_balanced(&vault).await;
}

/// The server took it all, and what it said of each is lost: it must say it again.
#[tokio::test]
async fn an_answer_that_breaks_off_is_none() {
    for how in [Break::Close, Break::Reset] {
        let server = ChaosServer::start().await;
        server.next_on("/batch", Behaviour::cut_response(100, how).with_effect());
        server.on("/batch", taken());
        let vault = vault(&server, BatchLimits::default()).await;
        orders(&vault, "orders", &["a", "b"]).await;
        soon(vault.wait_idle()).await.expect("idle");
        are_one(&batches(&server));
        assert_eq!(vault.ledger().await.expect("ledger").delivered, 2);
        assert_balanced(&vault).await;
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_given_up() {
    let server = ChaosServer::start().await;
    server.next_on("/batch", Behaviour::endless_body());
    let vault = vault(&server, BatchLimits::default()).await;
    orders(&vault, "orders", &["a", "b"]).await;
    soon(vault.wait_idle()).await.expect("idle");
    assert_eq!(batches(&server).len(), 1);
    let received = server.received();
    let alone = received.iter().filter(|one| one.path == "/orders");
    assert_eq!(alone.count(), 2, "each goes alone");
    assert_balanced(&vault).await;
}
