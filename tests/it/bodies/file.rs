//! `body_file`: a snapshot, streamed with its length.

use std::time::Duration;

use syncvault::{ConnectivityMode, Delivery, ErrorKind, Outcome};

use super::{App, close, noise, soon};
use crate::chaos_server::Behaviour;

/// Past what is read whole before it is sent.
const LARGE: usize = 1024 * 1024 + 300_011;

#[tokio::test]
async fn each_attempt_sends_the_snapshot_with_its_length() {
    let app = App::start().await;
    for status in [500, 408] {
        app.server.next_on("/films", Behaviour::status(status));
    }
    for size in [0, 100, 20_000, LARGE] {
        let path = app.file("film", &noise(size));
        let vault = app.quiet_vault().await;
        let ticket = vault.post("/films").body_file(&path).enqueue().await;
        let ticket = ticket.expect("enqueue");
        // The app's file is the app's: changed, then gone.
        std::fs::write(&path, "something else").expect("write");
        vault.set_connectivity(ConnectivityMode::Auto);
        soon(ticket.wait()).await.expect("end");
        std::fs::remove_file(&path).expect("remove");
        close(vault).await;
        let received = app.server.received();
        let last = received.last().expect("received");
        assert_eq!(last.body, noise(size));
        assert_eq!(last.header("transfer-encoding"), None);
        let length = last.header("content-length").unwrap_or("0");
        assert_eq!(length, size.to_string());
    }
    assert_eq!(app.server.received().len(), 6);
    assert_eq!(app.server.violations(), [""; 0]);
    assert_eq!(app.kept(), [""; 0].map(std::path::PathBuf::from));
}

#[tokio::test]
async fn all_attempts_of_a_large_file_are_alike() {
    let app = App::start().await;
    for behaviour in [
        Behaviour::status(500),
        Behaviour::drop_answer(),
        Behaviour::cut_request(100_000),
    ] {
        app.server.next(behaviour);
    }
    let path = app.file("film", &noise(LARGE));
    let vault = app.vault().await;
    let outcome = vault.post("/films").body_file(&path).send().await;
    let ticket = outcome.expect("send").ticket().expect("queued");
    std::fs::remove_file(&path).expect("remove");
    soon(ticket.wait()).await.expect("end");
    let mut received = app.server.received();
    received.retain(|request| request.method == "POST");
    assert!(received.len() >= 3, "{}", received.len());
    assert!(received.iter().all(|request| request.body == noise(LARGE)));
    assert_eq!(app.server.violations(), [""; 0]);
}

#[tokio::test]
async fn a_snapshot_survives_a_restart() {
    let app = App::start().await;
    let path = app.file("film", &noise(LARGE));
    let vault = app.quiet_vault().await;
    let queued = vault.put("/films/1").body_file(&path).enqueue().await;
    queued.expect("enqueue");
    std::fs::remove_file(&path).expect("remove");
    close(vault).await;
    assert_eq!(app.kept().len(), 1);
    let vault = app.vault().await;
    soon(vault.wait_idle()).await.expect("idle");
    assert_eq!(app.server.received()[0].body, noise(LARGE));
    close(vault).await;
    assert_eq!(app.kept().len(), 0);
}

/// Whatever the delivery, a snapshot is sent, and goes when nothing needs it.
#[tokio::test]
async fn every_delivery_sends_a_file_and_leaves_nothing() {
    let app = App::start().await;
    let path = app.file("film", &noise(LARGE));
    let vault = app.vault().await;
    for delivery in [Delivery::WriteAhead, Delivery::OnFailure, Delivery::Never] {
        let request = vault.post("/films").body_file(&path).delivery(delivery);
        let outcome = soon(request.send()).await.expect("send");
        let Outcome::Sent(response) = outcome else {
            panic!("{delivery:?} was queued")
        };
        assert_eq!(response.status(), 200);
    }
    app.server.answers(404);
    let refused = soon(vault.post("/films").body_file(&path).send()).await;
    assert!(refused.expect("send").is_sent());
    soon(vault.wait_idle()).await.expect("idle");
    let received = app.server.received();
    assert_eq!(received.len(), 4);
    assert!(received.iter().all(|request| request.body == noise(LARGE)));
    close(vault).await;
    assert_eq!(app.kept().len(), 0);
}

#[tokio::test]
async fn a_known_key_keeps_one_snapshot() {
    let app = App::start().await;
    let vault = app.quiet_vault().await;
    let path = app.file("film", &noise(LARGE));
    let request = || vault.post("/films").idempotency_key("film-1");
    let one = request().body_file(&path).enqueue().await.expect("enqueue");
    let two = request().body_file(&path).enqueue().await.expect("enqueue");
    assert_eq!(one.id(), two.id());
    assert_eq!(app.kept_by(&vault).await.len(), 1);
    let other = app.file("other", &noise(LARGE + 1));
    let error = request().body_file(&other).enqueue().await;
    let error = error.expect_err("another file");
    assert_eq!(error.kind(), ErrorKind::IdempotencyConflict);
    assert_eq!(app.kept_by(&vault).await.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_and_leaves_nothing() {
    let app = App::start().await;
    let builder = app.builder().file_bytes_max(100_000);
    let vault = builder.build().await.expect("vault");
    let path = app.file("film", &noise(100_001));
    for refused in [path.clone(), app.dir.path().into(), "/no/such/film".into()] {
        let queued = vault.post("/films").body_file(&refused).enqueue().await;
        let error = queued.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    app.file("film", &noise(100_000));
    let queued = vault.post("/films").body_file(&path).enqueue().await;
    soon(queued.expect("enqueue").wait()).await.expect("end");
    close(vault).await;
    assert_eq!(app.kept().len(), 0);

    let builder = app.builder().bytes_max(50_000);
    let vault = builder.build().await.expect("vault");
    let queued = vault.post("/films").body_file(&path).enqueue().await;
    assert_eq!(queued.expect_err("too large").kind(), ErrorKind::Invalid);
    let path = app.file("film", &noise(30_000));
    vault.set_connectivity(ConnectivityMode::Offline);
    for n in 0..2 {
        let queued = vault.post("/films").body_file(&path).enqueue().await;
        assert_eq!(queued.is_ok(), n == 0, "{queued:?}");
    }
    assert_eq!(app.kept_by(&vault).await.len(), 1);
}

#[tokio::test]
async fn a_redirect_is_followed_with_the_whole_file() {
    let app = App::start().await;
    app.server.next_on("/old", Behaviour::redirect(307, "/new"));
    let vault = app.vault().await;
    let path = app.file("film", &noise(LARGE));
    let sent = vault.post("/old").body_file(&path).send().await;
    assert_eq!(sent.expect("send").response().expect("sent").status(), 200);
    let received = app.server.received();
    assert_eq!(received.len(), 2);
    assert_eq!(received[1].path, "/new");
    assert_eq!(received[1].body, noise(LARGE));
    assert_eq!(received[0].key(), received[1].key());
}

/// Credentials that were refused are replaced inside one attempt: the file is sent twice.
#[tokio::test]
async fn a_file_is_sent_again_with_fresh_credentials() {
    let app = App::start().await;
    app.server.next_on("/films", Behaviour::status(401));
    let builder = app.builder().credentials(|request| async move {
        assert!(request.body.is_none(), "a streamed body is not in memory");
        syncvault::bearer("token")
    });
    let vault = builder.build().await.expect("vault");
    let path = app.file("film", &noise(LARGE));
    let sent = vault.post("/films").body_file(&path).send().await;
    assert_eq!(sent.expect("send").response().expect("sent").status(), 200);
    let received = app.server.received();
    assert_eq!(received.len(), 2);
    assert!(received.iter().all(|request| request.body == noise(LARGE)));
}

/// A store without files takes what fits into memory, and says so of the rest.
#[tokio::test]
async fn a_store_in_memory_takes_files_up_to_its_limit() {
    let app = App::start().await;
    let builder = crate::story::builder(&app.server);
    let vault = builder.build().await.expect("vault");
    let path = app.file("film", &noise(LARGE));
    let sent = vault.post("/films").body_file(&path).send().await;
    assert!(sent.expect("send").is_sent());
    assert_eq!(app.server.received()[0].body, noise(LARGE));
    let file = std::fs::File::create(&path).expect("create");
    file.set_len(16 * 1024 * 1024 + 1).expect("a sparse file");
    let error = vault.post("/films").body_file(&path).enqueue().await;
    assert_eq!(error.expect_err("too large").kind(), ErrorKind::Invalid);
    vault
        .shutdown(Duration::from_secs(5))
        .await
        .expect("closed");
}

/// Goal: a copy that may be of no moment at all is refused. Method: the store takes an hour on paused time, half of it
/// after the copy; the file changes in between.
#[cfg(feature = "test-util")]
#[tokio::test(start_paused = true)]
async fn a_file_that_changes_while_it_is_copied_is_refused() {
    use std::sync::Arc;
    use syncvault::store::MemoryStore;
    use syncvault::testing::FaultyStore;

    let app = App::start().await;
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    let faults = store.faults();
    let builder = crate::story::bare_builder(&app.server).store(store);
    let vault = builder.build().await.expect("vault");
    vault.set_connectivity(ConnectivityMode::Offline);
    let path = app.file("film", &noise(20_000));
    faults.slow_down(Duration::from_secs(3600));
    let change = async {
        tokio::time::sleep(Duration::from_secs(2700)).await;
        let file = std::fs::File::options().write(true).open(&path);
        let later = std::time::SystemTime::now() + Duration::from_secs(60);
        file.expect("open").set_modified(later).expect("touch");
    };
    let queued = vault.post("/films").body_file(&path).enqueue();
    let (queued, ()) = tokio::join!(queued, change);
    let error = queued.expect_err("changed");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("changed while"), "{error}");
    let queued = vault.post("/films").body_file(&path).enqueue().await;
    queued.expect("it rests");
}
